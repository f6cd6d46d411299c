//! The client against a scripted server, both on the real message layer, in virtual time.

use std::time::Duration;

use super::*;
use crate::client::Retry;
use crate::client::simulated::{Profile, Simulated};
use crate::client::tree::Resource;
use crate::coap::{Cancel, ExchangeId, Failure, Observe};
use crate::lwm2m::ContentFormat;
use crate::route::Route;
use crate::time::UnixTime;

const SENSOR: Path = Path::resource(3303, 0, 5700);
const LIGHT: Path = Path::resource(3311, 0, 5850);

fn peer(port: u16) -> Peer {
    Peer::Route(Route {
        listener: 0,
        address: ([127, 0, 0, 1], port).into(),
    })
}

/// A client and a server with nothing between them.
struct Rig {
    now: Now,
    client: Client<Simulated>,
    server: Endpoint,
    /// What the server answers to Register; then it accepts.
    refusals: Vec<Code>,
    /// Whether the server knows the registration.
    knows_us: bool,
    /// Whether datagrams arrive.
    connected: bool,
    /// Register, Update and De-register requests, as `POST rd?ep=…`.
    heard: Vec<String>,
    responses: Vec<(ExchangeId, Result<Response, Failure>)>,
    notifications: Vec<(Response, bool)>,
    events: Vec<Event>,
}

impl Rig {
    fn new(change: impl FnOnce(&mut Account)) -> Self {
        let now = Now {
            instant: Instant::from_micros(1_000_000),
            unix: UnixTime::from_millis(1_795_360_765_120),
        };
        let mut account = Account {
            instance: 0,
            peer: peer(5683),
            version: Version::V1_1,
            queue_mode: None,
            hold_off: Duration::ZERO,
        };
        change(&mut account);
        let profile = Profile {
            index: 0,
            lifetime: 300,
            // sensors rest, so that what moves is what a test moves
            interval: Duration::from_secs(1_000_000),
        };
        let (behaviour, tree) = Simulated::device(now, &profile, [3; 32]);
        let config = Config {
            endpoint: "dev1".into(),
            accounts: vec![account],
            formats: Formats::default(),
            retry: Retry::default(),
            limits: Limits {
                observations: 3,
                attachments: 2,
            },
            coap: coap::Parameters::default(),
            coap_limits: coap::Limits::default(),
        };
        Self {
            now,
            client: Client::new(now, config, tree, behaviour, [1; 32]),
            server: Endpoint::new(
                coap::Parameters::default(),
                coap::Limits::default(),
                [2; 32],
            ),
            refusals: Vec::new(),
            knows_us: false,
            connected: true,
            heard: Vec::new(),
            responses: Vec::new(),
            notifications: Vec::new(),
            events: Vec::new(),
        }
    }

    /// One that is registered, with the events until then taken.
    fn registered() -> Self {
        let mut rig = Self::new(|_| {});
        rig.handle(Input::Timeout);
        assert_eq!(rig.client.registrations(), 1);
        rig.events.clear();
        rig.heard.clear();
        rig
    }

    fn handle(&mut self, input: Input<'_>) {
        self.client.handle(self.now, input);
        self.settle();
    }

    /// Carries datagrams until both are silent.
    fn settle(&mut self) {
        loop {
            match self.client.poll() {
                Output::Datagram { peer: to, bytes } => {
                    assert_eq!(to, peer(5683));
                    if self.connected {
                        self.server.receive(self.now.instant, peer(40_000), &bytes);
                    }
                }
                Output::Event(event) => self.events.push(event),
                Output::Timeout(_) => match self.server.poll() {
                    Some(coap::Output::Datagram { bytes, .. }) => {
                        if self.connected {
                            let input = Input::Datagram {
                                peer: peer(5683),
                                bytes: &bytes,
                            };
                            self.client.handle(self.now, input);
                        }
                    }
                    Some(coap::Output::Event(event)) => self.serve(event),
                    None => return,
                },
            }
        }
    }

    fn serve(&mut self, event: coap::Event) {
        match event {
            coap::Event::Request {
                incoming, request, ..
            } => {
                self.heard.push(format!(
                    "{} {}?{}",
                    request.method.name(),
                    request.path.join("/"),
                    request.query.join("&")
                ));
                let response = self.registry(&request);
                self.server.respond(self.now.instant, incoming, response);
            }
            coap::Event::Response { exchange, result } => self.responses.push((exchange, result)),
            coap::Event::Notification {
                response, receipt, ..
            } => {
                if let Some(receipt) = receipt {
                    self.server.acknowledge(receipt);
                }
                self.notifications.push((response, receipt.is_some()));
            }
            coap::Event::ObserverGone { .. } | coap::Event::Progress { .. } => {}
        }
    }

    fn registry(&mut self, request: &Request) -> Response {
        if request.path == ["rd"] {
            if let Some(code) = (!self.refusals.is_empty()).then(|| self.refusals.remove(0)) {
                return Response::new(code);
            }
            self.knows_us = true;
            let mut created = Response::new(Code::CREATED);
            created.location = vec!["rd".into(), "a1".into()];
            return created;
        }
        match (self.knows_us, request.method) {
            (false, _) => Response::new(Code::NOT_FOUND),
            (true, Code::DELETE) => Response::new(Code::DELETED),
            (true, _) => Response::new(Code::CHANGED),
        }
    }

    /// Lets time pass, stopping wherever the client or the server has something to do.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let Output::Timeout(client) = self.client.poll() else {
                unreachable!("settled")
            };
            let next = [client, self.server.next_timeout()]
                .into_iter()
                .flatten()
                .min();
            let step = match next {
                Some(at) if at <= end.instant => at.since(self.now.instant),
                _ => break,
            };
            self.now = self.now + step;
            self.server.timeout(self.now.instant);
            self.handle(Input::Timeout);
        }
        self.now = end;
    }

    /// A request of the server; `request` may change it.
    fn ask(&mut self, method: Code, path: &Path, change: impl FnOnce(&mut Request)) -> ExchangeId {
        let mut request = Request::new(method, path.ids().iter().map(Id::to_string));
        change(&mut request);
        let exchange = self
            .server
            .request(self.now.instant, peer(40_000), request)
            .unwrap();
        self.settle();
        exchange
    }

    /// The code of the answer to a request.
    fn code(&mut self, method: Code, path: &Path, change: impl FnOnce(&mut Request)) -> Code {
        let exchange = self.ask(method, path, change);
        self.answer(exchange).code
    }

    fn answer(&mut self, exchange: ExchangeId) -> Response {
        let at = self.responses.iter().position(|(id, _)| *id == exchange);
        self.responses.remove(at.expect("answered")).1.unwrap()
    }

    fn observe(&mut self, path: &Path) -> ExchangeId {
        let exchange = self.ask(Code::GET, path, |request| {
            request.observe = Some(Observe::Register);
        });
        let response = self.answer(exchange);
        assert_eq!(response.code, Code::CONTENT);
        assert!(response.observe.is_some());
        exchange
    }

    /// A value from outside the client.
    fn set(&mut self, path: &Path, value: Value) {
        assert!(self.client.tree_mut().set(path, value));
        self.handle(Input::Timeout);
    }
}

#[test]
fn the_client_registers_and_says_so() {
    let mut rig = Rig::new(|_| {});
    rig.handle(Input::Timeout);
    assert_eq!(rig.heard, ["POST rd?ep=dev1&lt=300&lwm2m=1.1&b=U"]);
    let registered = Event::Registered {
        account: 0,
        version: Version::V1_1,
        location: "rd/a1".into(),
    };
    assert_eq!(rig.events, [registered]);
}

#[test]
fn a_server_of_an_older_version_is_met_step_by_step() {
    let mut rig = Rig::new(|account| account.version = Version::V1_2);
    rig.refusals = vec![Code::PRECONDITION_FAILED; 2];
    rig.handle(Input::Timeout);
    let versions: Vec<&str> = rig
        .heard
        .iter()
        .filter_map(|heard| heard.split('&').find(|part| part.starts_with("lwm2m")))
        .collect();
    assert_eq!(versions, ["lwm2m=1.2", "lwm2m=1.1", "lwm2m=1.0"]);
    // and is then given what it can read
    let exchange = rig.ask(Code::GET, &Path::instance(3303, 0), |_| {});
    assert_eq!(
        rig.answer(exchange).content_format,
        Some(ContentFormat::TLV.0)
    );
}

#[test]
fn registrations_are_refreshed_and_the_next_update_comes_as_late_again() {
    let mut rig = Rig::registered();
    rig.pass(Duration::from_secs(206));
    assert!(rig.heard.is_empty());
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.heard, ["POST rd/a1?"]);
    rig.pass(Duration::from_secs(207));
    assert_eq!(rig.heard.len(), 2);
}

// conformance: 105
#[test]
fn a_server_that_forgot_us_gets_a_new_registration_without_the_old_observations() {
    let mut rig = Rig::registered();
    rig.observe(&SENSOR);
    rig.knows_us = false;
    rig.pass(Duration::from_secs(207));
    assert_eq!(rig.heard.len(), 2);
    assert!(rig.heard[1].starts_with("POST rd?ep=dev1"));
    assert_eq!(
        (rig.client.registrations(), rig.client.observations()),
        (1, 0)
    );
}

#[test]
fn a_silent_server_is_tried_again_after_a_while() {
    let mut rig = Rig::new(|_| {});
    rig.connected = false;
    rig.handle(Input::Timeout);
    rig.pass(Duration::from_secs(94));
    let [
        Event::RegistrationFailed {
            reason, retry_in, ..
        },
    ] = &rig.events[..]
    else {
        panic!("{:?}", rig.events)
    };
    assert_eq!(reason.to_string(), "no answer");
    assert!((60.0..90.0).contains(&retry_in.as_secs_f64()));
    rig.connected = true;
    rig.pass(Duration::from_secs(91));
    assert_eq!(rig.client.registrations(), 1);
}

#[test]
fn an_observed_value_is_notified_when_it_moves() {
    let mut rig = Rig::registered();
    rig.observe(&SENSOR);
    rig.set(&SENSOR, Value::Float(33.25));
    let [(notification, confirmable)] = &rig.notifications[..] else {
        panic!("{:?}", rig.notifications)
    };
    assert!(!confirmable);
    assert_eq!(notification.content_format, Some(112));
    // one SenML record: n, then v as a single precision number
    let record = [
        &b"\x81\xa2\x00\x6c/3303/0/5700\x02\xfa"[..],
        &33.25f32.to_be_bytes(),
    ];
    assert_eq!(notification.payload, record.concat());
    assert_eq!(rig.client.counters().notifications, 1);
}

#[test]
fn an_instance_is_notified_for_each_value_in_it_and_for_no_other() {
    let mut rig = Rig::registered();
    rig.observe(&Path::instance(3303, 0));
    rig.observe(&Path::object(3304));
    rig.set(&SENSOR, Value::Float(33.25));
    assert_eq!(rig.notifications.len(), 1);
    rig.set(&Path::resource(3304, 0, 5700), Value::Float(80.0));
    assert_eq!(rig.notifications.len(), 2);
    rig.set(&Path::resource(3, 0, 9), Value::Integer(1));
    assert_eq!(rig.notifications.len(), 2);
}

#[test]
fn written_attributes_rule_the_observation() {
    let mut rig = Rig::registered();
    let code = rig.code(Code::PUT, &SENSOR, |request| {
        request.query = vec!["pmin=10".into(), "pmax=60".into()];
    });
    assert_eq!(code, Code::CHANGED);
    rig.observe(&SENSOR);
    rig.set(&SENSOR, Value::Float(33.25));
    rig.pass(Duration::from_secs(9));
    assert_eq!(rig.notifications.len(), 0, "pmin holds it back");
    rig.pass(Duration::from_secs(1));
    assert_eq!(rig.notifications.len(), 1);
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.notifications.len(), 2, "pmax without a change");

    let contradiction = rig.code(Code::PUT, &SENSOR, |request| {
        request.query = vec!["pmax=5".into()];
    });
    assert_eq!(contradiction, Code::BAD_REQUEST);
}

#[test]
fn default_periods_of_the_server_object_count_where_nothing_is_attached() {
    let mut rig = Rig::registered();
    rig.observe(&SENSOR);
    let write = |rig: &mut Rig, resource: Id, text: &str| {
        rig.code(Code::PUT, &Path::resource(1, 0, resource), |request| {
            request.content_format = Some(0);
            request.payload = text.into();
        })
    };
    assert_eq!(write(&mut rig, 3, "30"), Code::CHANGED);
    rig.pass(Duration::from_secs(30));
    assert_eq!(rig.notifications.len(), 1);
    assert_eq!(write(&mut rig, 2, "-1"), Code::BAD_REQUEST);
}

#[test]
fn cancelling_ends_the_notifications_in_both_ways() {
    for how in [Cancel::Request, Cancel::Forget] {
        let mut rig = Rig::registered();
        let observation = rig.observe(&SENSOR);
        rig.server.cancel(rig.now.instant, observation, how);
        rig.settle();
        rig.set(&SENSOR, Value::Float(33.25));
        rig.set(&SENSOR, Value::Float(34.25));
        assert_eq!(rig.client.observations(), 0, "{how:?}");
        assert_eq!(rig.notifications.len(), 0);
    }
}

#[test]
fn a_written_light_is_told_to_who_observes_it() {
    let mut rig = Rig::registered();
    rig.observe(&LIGHT);
    let code = rig.code(Code::PUT, &LIGHT, |request| {
        request.content_format = Some(0);
        request.payload = b"1".to_vec();
    });
    assert_eq!(code, Code::CHANGED);
    assert_eq!(rig.notifications.len(), 1);
    let written = Event::Written {
        account: 0,
        path: LIGHT,
        value: Some(Value::Boolean(true)),
    };
    assert!(rig.events.contains(&written), "{:?}", rig.events);
}

// conformance: 107, 227
#[test]
fn a_written_lifetime_is_told_with_an_update() {
    let mut rig = Rig::registered();
    let code = rig.code(Code::PUT, &Path::resource(1, 0, LIFETIME), |request| {
        request.content_format = Some(0);
        request.payload = b"600".to_vec();
    });
    assert_eq!(code, Code::CHANGED);
    assert_eq!(rig.heard, ["POST rd/a1?lt=600"]);
}

// conformance: 104
#[test]
fn the_update_trigger_triggers_an_update() {
    let mut rig = Rig::registered();
    let trigger = Path::resource(1, 0, REGISTRATION_UPDATE_TRIGGER);
    assert_eq!(rig.code(Code::POST, &trigger, |_| {}), Code::CHANGED);
    assert_eq!(rig.heard, ["POST rd/a1?"]);
}

// conformance: 241
#[test]
fn a_reboot_is_answered_and_followed_by_a_new_registration() {
    let mut rig = Rig::registered();
    rig.observe(&SENSOR);
    let reboot = Path::resource(3, 0, 4);
    assert_eq!(rig.code(Code::POST, &reboot, |_| {}), Code::CHANGED);
    assert_eq!(
        (rig.client.registrations(), rig.client.observations()),
        (0, 0)
    );
    let back_in = Duration::from_secs(2);
    assert!(rig.events.contains(&Event::Restarting { back_in }));
    rig.pass(back_in);
    assert_eq!(rig.client.registrations(), 1);
    assert_eq!(rig.heard, ["POST rd?ep=dev1&lt=300&lwm2m=1.1&b=U"]);
}

// conformance: P14, 1250
#[test]
fn an_instance_that_goes_ends_its_observation_with_4_04_and_is_told_with_an_update() {
    let mut rig = Rig::registered();
    rig.observe(&SENSOR);
    assert!(rig.client.tree_mut().remove(3303, 0));
    rig.handle(Input::Timeout);
    let [(notification, _)] = &rig.notifications[..] else {
        panic!("{:?}", rig.notifications)
    };
    assert_eq!(notification.code, Code::NOT_FOUND);
    assert_eq!(rig.client.observations(), 0);
    assert_eq!(rig.heard, ["POST rd/a1?"]);
}

#[test]
fn new_instances_are_told_with_an_update() {
    let mut rig = Rig::registered();
    let resources = [(5700, Resource::readable(Value::Float(1.0)))];
    rig.client.tree_mut().insert(3303, None, 7, resources);
    rig.handle(Input::Timeout);
    assert_eq!(rig.heard, ["POST rd/a1?"]);
}

#[test]
fn stopping_deregisters_and_then_says_so() {
    let mut rig = Rig::registered();
    rig.handle(Input::Stop);
    assert_eq!(rig.heard, ["DELETE rd/a1?"]);
    assert_eq!(
        rig.events,
        [Event::Deregistered { account: 0 }, Event::Stopped]
    );
    rig.pass(Duration::from_secs(100_000));
    assert_eq!(rig.heard.len(), 1, "and rests");
}

#[test]
fn a_client_that_never_registered_stops_at_once() {
    let mut rig = Rig::new(|account| account.hold_off = Duration::from_secs(60));
    rig.handle(Input::Timeout);
    rig.handle(Input::Stop);
    assert_eq!(
        (rig.heard.len(), &rig.events[..]),
        (0, &[Event::Stopped][..])
    );
}

#[test]
fn what_the_interface_does_not_allow_gets_the_code_that_says_so() {
    let mut rig = Rig::registered();
    let text = |request: &mut Request| request.content_format = Some(0);
    for (method, path, code) in [
        (Code::GET, "/0", Code::UNAUTHORIZED),
        (Code::GET, "/21/0/0", Code::UNAUTHORIZED),
        (Code::GET, "/6", Code::NOT_FOUND),
        (Code::GET, "/3/0/4", Code::METHOD_NOT_ALLOWED),
        (Code::PUT, "/3/0/9", Code::METHOD_NOT_ALLOWED),
        (Code::POST, "/3/0/9", Code::METHOD_NOT_ALLOWED),
        (Code::POST, "/3/0/99", Code::NOT_FOUND),
        (Code::POST, "/3303", Code::UNSUPPORTED_CONTENT_FORMAT),
        (Code::DELETE, "/3/0", Code::METHOD_NOT_ALLOWED),
        (Code::DELETE, "/0/0", Code::UNAUTHORIZED),
        (Code::FETCH, "/", Code::UNSUPPORTED_CONTENT_FORMAT),
        (Code::IPATCH, "/", Code::UNSUPPORTED_CONTENT_FORMAT),
        (Code::FETCH, "/3", Code::METHOD_NOT_ALLOWED),
    ] {
        let path = path.parse().unwrap();
        assert_eq!(rig.code(method, &path, text), code, "{method:?} {path}");
    }
    let unknown = rig.code(Code::GET, &SENSOR, |request| request.accept = Some(4711));
    assert_eq!(unknown, Code::NOT_ACCEPTABLE);
    assert_eq!(
        rig.client.counters().refused,
        rig.client.counters().requests
    );
}

#[test]
fn a_server_cannot_make_us_keep_more_than_the_limits() {
    let mut rig = Rig::registered();
    for resource in [0, 1, 2] {
        rig.observe(&Path::resource(3, 0, resource));
    }
    let one_more = rig.code(Code::GET, &SENSOR, |request| {
        request.observe = Some(Observe::Register);
    });
    assert_eq!(one_more, Code::SERVICE_UNAVAILABLE);
    assert_eq!(rig.client.observations(), 3);

    for (resource, expected) in [
        (0, Code::CHANGED),
        (1, Code::CHANGED),
        (2, Code::SERVICE_UNAVAILABLE),
        (1, Code::CHANGED),
    ] {
        let code = rig.code(Code::PUT, &Path::resource(3, 0, resource), |request| {
            request.query = vec!["pmin=1".into()];
        });
        assert_eq!(code, expected, "/3/0/{resource}");
    }
}

#[test]
fn requests_before_the_registration_and_from_strangers_are_dropped() {
    let mut rig = Rig::new(|account| account.hold_off = Duration::from_secs(60));
    rig.handle(Input::Timeout);
    let request = [0x40, 0x01, 0x12, 0x34, 0xb1, b'3'];
    rig.handle(Input::Datagram {
        peer: peer(5683),
        bytes: &request,
    });
    rig.handle(Input::Datagram {
        peer: peer(6666),
        bytes: &request,
    });
    let counters = rig.client.counters();
    assert_eq!(
        (counters.premature, counters.strangers, counters.requests),
        (1, 1, 0)
    );
}

#[test]
fn a_sleeping_client_hears_nothing_until_it_speaks_itself() {
    let mut rig = Rig::new(|account| account.queue_mode = Some(Duration::from_secs(20)));
    rig.handle(Input::Timeout);
    rig.pass(Duration::from_secs(15));
    assert_eq!(rig.code(Code::GET, &SENSOR, |_| {}), Code::CONTENT);

    rig.pass(Duration::from_secs(21));
    let exchange = rig.ask(Code::GET, &SENSOR, |_| {});
    assert!(rig.responses.is_empty());
    assert!(rig.client.counters().asleep > 0);
    rig.server.abandon(exchange);
    rig.settle();
    rig.responses.clear();

    rig.pass(Duration::from_secs(171));
    assert!(
        rig.heard.contains(&"POST rd/a1?".to_owned()),
        "{:?}",
        rig.heard
    );
    assert_eq!(rig.code(Code::GET, &SENSOR, |_| {}), Code::CONTENT);
}

#[test]
fn no_datagram_brings_the_client_down_or_makes_it_deaf() {
    let mut rig = Rig::registered();
    let mut rng = StdRng::from_seed([9; 32]);
    // requests that a server may send, then bent at random
    let asked = [
        &b"\x40\x01\x00\x00\xb43303\x010\x045700"[..],
        b"\x41\x01\x00\x00\x07\x60\x543303\x010",
        b"\x40\x03\x00\x00\xb43311\x010\x045850\x10\xff1",
        b"\x40\x02\x00\x00\xb43311\x010\x12\x2d\x16\xff\xe1\x16\xda\x01",
        b"\x40\x03\x00\x00\xb43303\x010\x045700\x47pmin=10",
        b"\x40\x01\x00\x00\xb13\x61\x28",
        b"\x40\x02\x00\x00\xb13\x010\x014",
    ];
    for round in 0..20_000u32 {
        let mut datagram = asked[rng.random_range(0..asked.len())].to_vec();
        let id = (round as u16).to_be_bytes();
        datagram[2..4].copy_from_slice(&id);
        for _ in 0..rng.random_range(0..6) {
            let at = rng.random_range(0..datagram.len());
            match rng.random_range(0..3) {
                0 => datagram[at] = rng.random(),
                1 => datagram.truncate(at.max(1)),
                _ => datagram.insert(at, rng.random()),
            }
        }
        let input = Input::Datagram {
            peer: peer(5683),
            bytes: &datagram,
        };
        rig.handle(input);
        rig.pass(Duration::from_millis(20));
    }
    assert!(rig.client.counters().requests > 1000, "most were drops");
    assert!(rig.client.observations() <= 3);
    // whatever was executed or written, it still registers and answers
    rig.pass(Duration::from_secs(300));
    rig.pass(Duration::from_secs(300));
    let path = Path::resource(3, 0, 0);
    assert_eq!(rig.code(Code::GET, &path, |_| {}), Code::CONTENT);
}
