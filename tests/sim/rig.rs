//! A gateway, scripted devices and a scripted broker in virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lwm2mqtt::client::simulated::{Profile, Simulated};
use lwm2mqtt::client::{self, Account, Client, Config, Formats, Retry};
use lwm2mqtt::coap::{self, Code, Endpoint, IncomingId, Observe, Peer, Request, Response, Token};
use lwm2mqtt::gateway::firmware::image::Digest;
use lwm2mqtt::gateway::outbox::{Session, Ticket};
use lwm2mqtt::gateway::publish::{Publish, Qos};
use lwm2mqtt::gateway::{
    AdminAccess, Event, Gateway, Input, MappingCause, MappingsRead, Message, Output, Replies,
    Retained, Settings, Setup,
};
use lwm2mqtt::kept::{self, Changes, Urgency};
use lwm2mqtt::lwm2m::model::Models;
use lwm2mqtt::lwm2m::{Path, Value, Version};
use lwm2mqtt::mapping::{Compiled, Plan, Source};
use lwm2mqtt::route::Route;
use lwm2mqtt::server::bootstrap::Profiles;
use lwm2mqtt::server::credentials::{Change, Policy};
use lwm2mqtt::server::{self, Join, Listener, Purpose};
use lwm2mqtt::time::{Instant, Now, UnixTime};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value as Json;

use crate::contract;
use crate::road::Road;
use crate::tap::Tap;
use crate::updater::Updater;

/// When a run begins: 2026-11-22T15:19:20Z, a second after the clock's origin.
const START: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// The objects of [`Rig::add_sensor`].
pub const SENSOR: &str = "</>;ct=110,</1/0>,</3/0>,</3303/0>,</3311/0>";

/// Mute Send of the only account.
pub const MUTE_SEND: &str = "/1/0/23";

/// The listener where the bootstrap server is in clear; the other one is 0.
pub const BOOTSTRAP: u16 = 1;

/// How long the store collects what is not urgent.
const FLUSH: Duration = Duration::from_secs(10);

/// One hop of the network.
const DELAY: Duration = Duration::from_millis(10);

/// A gateway with all that surrounds it.
pub struct Rig {
    pub gateway: Gateway,
    pub now: Now,
    pub devices: Vec<Device>,
    pub broker: Broker,
    pub events: Vec<Event>,
    /// What was answered to requests of the machine itself.
    pub replies: BTreeMap<u64, Vec<Json>>,
    /// What was to be stored of credentials.
    pub stored: Vec<Change>,
    /// All that is stored.
    pub kept: Changes,
    /// What is to be stored in a while, and when.
    pending: Changes,
    flush_due: Option<Instant>,
    /// Whether no agent runs.
    away: bool,
    /// Whether nothing urgent can be stored.
    pub disk_full: bool,
    /// Datagrams that the gateway sent.
    pub sent: u32,
    /// The images that the store holds.
    pub images: BTreeMap<Digest, Bytes>,
    /// What the network does to what is sent.
    pub weather: Option<Weather>,
    /// What is served by HTTP, by token.
    pub served: BTreeMap<String, Digest>,
    /// Steps of handshakes that were to be run elsewhere.
    pub works: u32,
    /// How often the mapping files were to be read.
    pub readings: u32,
    /// What was found that the broker retains, and the gateway was not told.
    pub audited: Option<Retained>,
    /// After so many more things that the gateway wants done it is killed.
    pub doomed: Option<u32>,
    /// Who listens to what is said between devices and gateway.
    pub tap: Option<Tap>,
    timeout: Option<Instant>,
    wire: VecDeque<(Instant, Datagram)>,
    /// What the broker has acknowledged, and the gateway has not heard yet.
    acknowledged: VecDeque<Ticket>,
}

/// A network that is not kind. Each number is the share of datagrams, 0 to 1.
pub struct Weather {
    pub rng: StdRng,
    /// Never arrive.
    pub loss: f64,
    /// Arrive twice.
    pub doubled: f64,
    /// Arrive up to two seconds late, behind others.
    pub late: f64,
}

#[derive(Clone)]
enum Datagram {
    ToGateway(Route, Vec<u8>),
    ToDevice(Route, Vec<u8>),
}

/// A device: a CoAP endpoint and a script.
pub struct Device {
    pub route: Route,
    pub endpoint: Endpoint,
    /// What it answers to a request for `/o/i/r`, by method and path.
    pub answers: BTreeMap<(Code, String), Response>,
    /// Every request that it got.
    pub requests: Vec<Request>,
    /// Who observes what.
    pub observers: Vec<(String, Token)>,
    /// Whether it answers an Observe as if it were a Read.
    pub unobservable: bool,
    /// Whether it is switched off: it neither answers nor sends.
    pub dead: bool,
    /// The only Content-Format that it takes, if it is one.
    pub only: Option<u16>,
    /// The answers to its own requests.
    pub responses: Vec<Response>,
    /// Its object 5, if it has one that does something.
    pub updater: Option<Updater>,
    /// What it sends by, if not in clear.
    pub road: Option<Road>,
    /// The LwM2M client of this program, which takes the place of the script.
    pub client: Option<Client<Simulated>>,
    /// When that wants to be asked.
    due: Option<Instant>,
    /// When anything of it is due, as far as it is known.
    wakes: Option<Instant>,
}

/// What a broker has.
#[derive(Default)]
pub struct Broker {
    pub connected: bool,
    pub retained: BTreeMap<String, Vec<u8>>,
    /// Everything that was published, in order.
    pub log: Vec<(String, Vec<u8>)>,
    /// Whether it acknowledges.
    pub silent: bool,
}

impl Broker {
    /// The retained JSON of a topic.
    pub fn json(&self, topic: &str) -> Json {
        let payload = self.retained.get(topic).unwrap_or_else(|| {
            panic!(
                "nothing retained at {topic}; there is {:?}",
                self.retained.keys()
            )
        });
        serde_json::from_slice(payload).unwrap()
    }

    /// All JSON messages on a topic, oldest first.
    pub fn messages(&self, topic: &str) -> Vec<Json> {
        self.log
            .iter()
            .filter(|(to, _)| to == topic)
            .map(|(_, payload)| serde_json::from_slice(payload).unwrap())
            .collect()
    }
}

impl Rig {
    /// A gateway that everybody may join, with the broker there.
    pub fn new() -> Self {
        Self::with_plan(Plan::unmapped("lwm2mqtt"))
    }

    /// A gateway that may be joined as `policy` says.
    pub fn with_policy(policy: Policy) -> Self {
        Self::with(Plan::unmapped("lwm2mqtt"), |settings| {
            settings.server.policy = policy;
        })
    }

    /// A gateway that everybody may join, with mappings.
    pub fn with_plan(plan: Plan) -> Self {
        Self::with_setup(plan, |_| {})
    }

    /// The same with a bootstrap server at [`BOOTSTRAP`].
    pub fn with_bootstrap(plan: Plan, profiles: Arc<Profiles>) -> Self {
        Self::with_setup(plan, |setup| {
            setup.settings.server.bootstrap_profiles = profiles;
        })
    }

    /// The same with what is said about where replies may go.
    pub fn with_replies(plan: Plan, replies: Replies) -> Self {
        Self::with_setup(plan, |setup| setup.settings.replies = replies)
    }

    /// The same, changed by `decide`.
    pub fn with(plan: Plan, decide: impl FnOnce(&mut Settings)) -> Self {
        Self::with_setup(plan, |setup| decide(&mut setup.settings))
    }

    /// A gateway that everybody may join, with one mapping file for every device.
    pub fn with_mapping(text: &str) -> Self {
        Self::with_plan(Self::plan(text))
    }

    /// One mapping file for every device.
    pub fn plan(text: &str) -> Plan {
        let compiled = Self::compile(text);
        let plan = compiled.plan;
        plan.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
    }

    /// The mapping files are read again, which are one for every device.
    pub fn read_mapping(&mut self, cause: MappingCause, text: &str) {
        let Compiled { plan, diagnostics } = Self::compile(text);
        self.input(Input::Mappings(MappingsRead {
            cause,
            files: 1,
            plan,
            diagnostics,
        }));
    }

    fn compile(text: &str) -> Compiled {
        let source = Source {
            file: "test.toml".into(),
            text: format!(
                "schema = 1\n[profile]\nid = \"test\"\n[match]\nendpoint = \"*\"\n{text}"
            ),
        };
        Plan::compile(&[source], &Models::builtin(), "lwm2mqtt")
    }

    /// A gateway that everybody may join, with all that `adjust` changes.
    pub fn with_setup(plan: Plan, adjust: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Self::setup(plan);
        adjust(&mut setup);
        let mut rig = Self {
            gateway: Gateway::new(START, setup),
            now: START,
            devices: Vec::new(),
            broker: Broker::default(),
            events: Vec::new(),
            replies: BTreeMap::new(),
            stored: Vec::new(),
            kept: Changes::default(),
            pending: Changes::default(),
            flush_due: None,
            away: false,
            disk_full: false,
            sent: 0,
            images: BTreeMap::new(),
            weather: None,
            served: BTreeMap::new(),
            works: 0,
            readings: 0,
            audited: None,
            doomed: None,
            tap: None,
            timeout: None,
            wire: VecDeque::new(),
            acknowledged: VecDeque::new(),
        };
        rig.gateway.restored(START);
        rig.connect();
        rig
    }

    /// A gateway that everybody may join.
    pub fn setup(plan: Plan) -> Setup {
        let policy = Policy {
            join: Join::Open,
            ..Policy::default()
        };
        let settings = Settings {
            id: "gw".into(),
            server: server::Settings {
                policy,
                listeners: listeners(),
                ..server::Settings::default()
            },
            admin: AdminAccess::All,
            has_store: true,
            has_mappings: true,
            ..Settings::default()
        };
        Setup::new(settings, plan, [7; 32])
    }

    /// The agent stops, which leaves nothing unsaid.
    pub fn stop(&mut self) {
        self.input(Input::Stop);
        self.pending.take().for_each(|change| self.kept.add(change));
        self.be_away();
    }

    fn be_away(&mut self) {
        self.broker.connected = false;
        self.away = true;
        self.timeout = None;
    }

    /// The agent ends without a word, and what was not urgent may be lost.
    pub fn crash(&mut self) {
        self.pending = Changes::default();
        self.doomed = None;
        self.be_away();
    }

    /// Whether no agent runs.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Another agent begins with what is kept.
    pub fn start(&mut self, mut setup: Setup) {
        setup.seed = [8; 32];
        setup.seed[1] = self.now.instant.as_micros() as u8;
        self.flush_due = None;
        self.away = false;
        self.gateway = Gateway::new(self.now, setup);
        let refused = self.gateway.restore(self.now, self.kept.kept());
        assert!(refused.is_empty(), "{refused:?}");
        self.gateway.restored(self.now);
        self.connect();
    }

    /// The broker comes (back). It hands out its copy of the sentinel, as a subscription does.
    pub fn connect(&mut self) {
        self.broker.connected = true;
        self.input(Input::Connected(Session::default()));
        self.input(Input::Subscribed);
        for topic in self.gateway.subscriptions().retained {
            if let Some(payload) = self.broker.retained.get(&topic).cloned() {
                self.input(Input::Message(Message {
                    topic,
                    payload,
                    retain: true,
                    ..Message::default()
                }));
            }
        }
    }

    /// The broker goes.
    pub fn disconnect(&mut self) {
        self.broker.connected = false;
        self.input(Input::Disconnected("the link is down".into()));
    }

    /// Adds a device that answers nothing yet, and returns its number.
    pub fn add_device(&mut self) -> usize {
        let index = self.devices.len();
        let address: SocketAddr = format!("10.0.0.{}:5683", index + 1).parse().unwrap();
        self.devices.push(Device {
            route: Route {
                listener: 0,
                address,
            },
            endpoint: Endpoint::new(
                coap::Parameters::default(),
                coap::Limits::default(),
                [index as u8; 32],
            ),
            answers: BTreeMap::new(),
            requests: Vec::new(),
            observers: Vec::new(),
            unobservable: false,
            dead: false,
            only: None,
            responses: Vec::new(),
            updater: None,
            road: None,
            client: None,
            due: None,
            wakes: None,
        });
        index
    }

    /// A simulated device that registers by itself.
    pub fn add_client(&mut self, endpoint: &str, version: Version) -> usize {
        self.add_client_of(endpoint, version, None)
    }

    /// The same with how long it listens, if it sleeps in between.
    pub fn add_client_of(
        &mut self,
        endpoint: &str,
        version: Version,
        queue_mode: Option<Duration>,
    ) -> usize {
        let device = self.add_device();
        self.replace_client(device, endpoint, version, queue_mode);
        device
    }

    /// A simulated device that remembers nothing takes the place of what was there.
    pub fn replace_client(
        &mut self,
        device: usize,
        endpoint: &str,
        version: Version,
        queue_mode: Option<Duration>,
    ) {
        let config = Config {
            endpoint: endpoint.into(),
            accounts: vec![Account {
                instance: 0,
                peer: gateway_peer(),
                version,
                queue_mode,
                hold_off: Duration::ZERO,
            }],
            formats: Formats::default(),
            retry: Retry::default(),
            limits: client::Limits::default(),
            coap: coap::Parameters::default(),
            coap_limits: coap::Limits::default(),
        };
        // Its sensors rest, so that what moves is what a test moves.
        let profile = Profile {
            index: device as u32,
            lifetime: 300,
            interval: Duration::from_secs(1_000_000),
        };
        let mut seed = [device as u8; 32];
        seed[..8].copy_from_slice(&self.now.instant.as_micros().to_le_bytes());
        let (behaviour, tree) = Simulated::device(self.now, &profile, seed);
        let client = Client::new(self.now, config, tree, behaviour, seed);
        if let Some(tap) = &mut self.tap {
            tap.forget(device);
        }
        self.devices[device].client = Some(client);
        self.nudge(device);
    }

    /// Changes a value of a simulated device.
    pub fn set(&mut self, device: usize, path: &Path, value: Value) {
        if let Some(client) = &mut self.devices[device].client {
            client.tree_mut().set(path, value);
        }
        self.nudge(device);
    }

    /// The network gives a device another address.
    pub fn rebind(&mut self, device: usize) {
        let address = &mut self.devices[device].route.address;
        address.set_port(address.port() + 1);
    }

    /// Lets a simulated device look at what was changed in its tree.
    pub fn nudge(&mut self, device: usize) {
        let now = self.now;
        if let Some(client) = &mut self.devices[device].client {
            client.handle(now, client::Input::Timeout);
        }
        self.flush(device);
    }

    /// Lets a simulated device send the values of these nodes.
    pub fn send(&mut self, device: usize, paths: &[Path]) {
        let now = self.now;
        if let Some(client) = &mut self.devices[device].client {
            client.handle(now, client::Input::Send(paths));
        }
        self.flush(device);
    }

    /// A device of LwM2M 1.1 with a temperature sensor and a light, registered as `dev1`.
    pub fn add_registered(&mut self) -> usize {
        let device = self.add_sensor();
        self.register(device, "dev1", "lt=300", SENSOR);
        self.run(Duration::from_secs(3));
        device
    }

    /// A device with a temperature sensor and a light, which has not registered.
    pub fn add_sensor(&mut self) -> usize {
        let device = self.add_device();
        for (path, payload) in [
            (
                "/3303/0",
                r#"[{"bn":"/3303/0/","n":"5700","v":21.5},{"n":"5701","vs":"Cel"}]"#,
            ),
            (
                "/3311/0",
                r#"[{"bn":"/3311/0/","n":"5850","vb":false},{"n":"5851","v":40}]"#,
            ),
            (
                "/3/0",
                r#"[{"bn":"/3/0/","n":"0","vs":"ACME"},{"n":"1","vs":"T1"},{"n":"2","vs":"00A7"}]"#,
            ),
        ] {
            self.devices[device].answer(Code::GET, path, content(110, payload));
        }
        device
    }

    /// Sends a Register.
    pub fn register(&mut self, device: usize, endpoint: &str, query: &str, objects: &str) {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = [format!("ep={endpoint}"), "lwm2m=1.1".into(), query.into()]
            .into_iter()
            .filter(|argument| !argument.is_empty())
            .collect();
        request.content_format = Some(40);
        request.payload = objects.into();
        self.request(device, request);
    }

    /// Sends a request of a device to the gateway.
    pub fn request(&mut self, device: usize, request: Request) {
        let now = self.now.instant;
        let endpoint = &mut self.devices[device].endpoint;
        endpoint.request(now, gateway_peer(), request).unwrap();
        self.flush(device);
    }

    /// The location that a device got last.
    pub fn location(&self, device: usize) -> Vec<String> {
        self.devices[device]
            .responses
            .iter()
            .rev()
            .find(|response| !response.location.is_empty())
            .unwrap()
            .location
            .clone()
    }

    /// Notifies the observers of a node.
    pub fn notify(&mut self, device: usize, path: &str, response: Response, confirmable: bool) {
        let now = self.now.instant;
        let Device {
            observers,
            endpoint,
            ..
        } = &mut self.devices[device];
        for (observed, token) in observers.clone() {
            if observed == path {
                endpoint.notify(now, gateway_peer(), token, response.clone(), confirmable);
            }
        }
        self.flush(device);
    }

    /// Turns round the order of all datagrams that are under way.
    pub fn turn_wire(&mut self) {
        self.wire.make_contiguous().reverse();
        if let Some(last) = self.wire.iter().map(|(at, _)| *at).max() {
            self.wire.iter_mut().for_each(|(at, _)| *at = last);
        }
    }

    /// Publishes a request, as an MQTT client does.
    pub fn ask(&mut self, topic: &str, payload: &str) {
        self.input(Input::Message(Message {
            topic: topic.into(),
            payload: payload.into(),
            ..Message::default()
        }));
    }

    /// Asks as the command line does; the whole answer.
    pub fn administer(&mut self, request: &Json) -> Json {
        let id = self.begin_admin(request);
        self.replies[&id].last().unwrap().clone()
    }

    /// Asks as the command line does; the number under which the lines of the answer come.
    pub fn begin_admin(&mut self, request: &Json) -> u64 {
        let id = self.replies.len() as u64;
        self.replies.insert(id, Vec::new());
        let request = request.to_string();
        self.input(Input::Admin {
            id,
            request: request.as_bytes(),
        });
        id
    }

    /// Gives an input to the gateway and does what it wants done.
    pub fn input(&mut self, input: Input<'_>) {
        if self.away {
            return;
        }
        self.gateway.handle(self.now, input);
        self.drain();
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        // A test may have done something to any of them.
        (0..self.devices.len()).for_each(|device| self.flush(device));
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.advance(at);
            if self.timeout.is_some_and(|timeout| timeout <= at) {
                self.input(Input::Timeout);
            }
            while self.wire.front().is_some_and(|(due, _)| *due <= at) {
                let Some((_, datagram)) = self.wire.pop_front() else {
                    break;
                };
                if !self.arrives(&datagram) {
                    continue;
                }
                match datagram {
                    Datagram::ToGateway(route, bytes) => self.input(Input::Datagram {
                        route,
                        bytes: &bytes,
                    }),
                    Datagram::ToDevice(route, bytes) => self.deliver(route, &bytes),
                }
            }
            for device in 0..self.devices.len() {
                if self.devices[device].wakes.is_some_and(|wakes| wakes <= at) {
                    self.devices[device].timeout(self.now);
                    self.flush(device);
                }
            }
        }
        self.advance(end);
    }

    /// Whether a datagram arrives now.
    fn arrives(&mut self, datagram: &Datagram) -> bool {
        let Some(weather) = &mut self.weather else {
            return true;
        };
        let rng = &mut weather.rng;
        if rng.random_bool(weather.loss) {
            return false;
        }
        let late = rng.random_bool(weather.late);
        if late || rng.random_bool(weather.doubled) {
            let at = self.now.instant + Duration::from_millis(rng.random_range(1..2_000));
            let place = self.wire.partition_point(|(due, _)| *due <= at);
            self.wire.insert(place, (at, datagram.clone()));
        }
        !late
    }

    fn next(&self) -> Option<Instant> {
        let devices = self.devices.iter().filter_map(|device| device.wakes);
        let wire = self.wire.front().map(|(at, _)| *at);
        devices
            .chain(self.timeout)
            .chain(wire)
            .min()
            .map(|at| at.max(self.now.instant))
    }

    fn advance(&mut self, to: Instant) {
        self.now = self.now + to.since(self.now.instant);
    }

    fn drain(&mut self) {
        self.drain_once();
        while let Some(ticket) = self.acknowledged.pop_front() {
            if self.away {
                self.acknowledged.clear();
                return;
            }
            self.gateway.handle(self.now, Input::Delivered(ticket));
            self.drain_once();
        }
    }

    /// Does what the gateway wants done, but for telling it what the broker has acknowledged.
    fn drain_once(&mut self) {
        let arrival = self.now.instant + DELAY;
        if self.flush_due.is_some_and(|due| due <= self.now.instant) {
            self.flush_due = None;
            self.pending.take().for_each(|change| self.kept.add(change));
        }
        let mut failed = false;
        loop {
            let output = self.gateway.poll();
            if !matches!(output, Output::Timeout(_)) && dies(&mut self.doomed) {
                self.crash();
                return;
            }
            match output {
                Output::Datagram { route, bytes } => {
                    self.sent += 1;
                    let place = self.wire.partition_point(|(due, _)| *due <= arrival);
                    self.wire
                        .insert(place, (arrival, Datagram::ToDevice(route, bytes)));
                }
                Output::Admin { id, reply, .. } => {
                    let line = serde_json::from_str(&reply).unwrap();
                    self.replies.entry(id).or_default().push(line);
                }
                Output::Store(change) => {
                    if self.disk_full && change.urgency() == Urgency::Now {
                        let why = "the disk is full".to_owned();
                        self.gateway
                            .handle(self.now, Input::Unstored { change, why });
                        failed = true;
                        continue;
                    }
                    if let kept::Change::Credential(change) = &change {
                        self.stored.push(change.clone());
                    }
                    if change.urgency() == Urgency::Now {
                        self.pending.supersede(&change);
                        self.kept.add(change);
                    } else {
                        self.pending.add(change);
                        self.flush_due.get_or_insert(self.now.instant + FLUSH);
                    }
                }
                Output::Commit(_) if failed => {}
                Output::Commit(batch) => {
                    self.gateway.handle(self.now, Input::Committed(batch));
                }
                Output::Event(event) => self.events.push(event),
                Output::LoadImage(digest) => {
                    let content = self.images.get(&digest).cloned();
                    let content = content.ok_or_else(|| "it is not there".to_owned());
                    self.gateway
                        .handle(self.now, Input::Image { digest, content });
                }
                Output::Serve { token, digest, .. } => {
                    self.served.insert(token.to_string(), digest);
                }
                Output::ReadMappings => self.readings += 1,
                Output::ReadRetained { filter, whose } => {
                    let prefix = filter.strip_suffix('#').unwrap();
                    let topics = self.broker.retained.keys();
                    let topics = topics.filter(|topic| topic.starts_with(prefix));
                    self.audited = Some(Retained {
                        topics: topics.cloned().collect(),
                        whose: self.broker.retained.get(&*whose).cloned(),
                        complete: true,
                    });
                }
                Output::Unserve(token) => {
                    self.served.remove(&*token);
                }
                Output::Work(mut work) => {
                    work.run();
                    self.works += 1;
                    self.gateway.handle(self.now, Input::Worked(work));
                }
                Output::Timeout(at) => {
                    self.timeout = at;
                    break;
                }
            }
        }
        // It may be killed when the broker has some of them, and before it hears that.
        while let Some(outgoing) = self.gateway.next_publish() {
            if dies(&mut self.doomed) {
                self.crash();
                return;
            }
            assert!(self.broker.connected, "published without a broker");
            assert_acceptable(outgoing.publish);
            let topic = outgoing.publish.topic.to_string();
            let payload = outgoing.publish.payload.clone();
            self.broker.log.push((topic.clone(), payload.clone()));
            if outgoing.retain {
                if payload.is_empty() {
                    self.broker.retained.remove(&topic);
                } else {
                    self.broker.retained.insert(topic, payload);
                }
            }
            if outgoing.qos == Qos::AtLeastOnce && !self.broker.silent {
                self.acknowledged.push_back(outgoing.ticket);
            }
        }
    }

    fn deliver(&mut self, route: Route, bytes: &[u8]) {
        let now = self.now.instant;
        let mut devices = self.devices.iter();
        let Some(index) = devices.position(|device| device.route == route && !device.dead) else {
            return;
        };
        if let Some(tap) = &mut self.tap {
            tap.arrives(index, bytes);
        }
        let device = &mut self.devices[index];
        match (&mut device.road, &mut device.client) {
            (Some(road), _) => road.receive(self.now, bytes),
            (None, Some(client)) => client.handle(
                self.now,
                client::Input::Datagram {
                    peer: gateway_peer(),
                    bytes,
                },
            ),
            (None, None) => {
                device.endpoint.receive(now, gateway_peer(), bytes);
            }
        }
        self.flush(index);
    }

    /// Lets a device answer what it got, and puts what it sends on the wire.
    fn flush(&mut self, index: usize) {
        let arrival = self.now.instant + DELAY;
        let device = &mut self.devices[index];
        if device.dead {
            device.wakes = None;
            return;
        }
        let messages = device.messages(self.now);
        let datagrams = match &mut device.road {
            None => messages,
            Some(road) => {
                for message in messages {
                    road.send(self.now, message);
                }
                std::iter::from_fn(|| road.datagram()).collect()
            }
        };
        device.wakes = device.next_timeout();
        for bytes in datagrams {
            if let Some(tap) = &mut self.tap {
                tap.leaves(index, &bytes);
            }
            let datagram = Datagram::ToGateway(device.route, bytes);
            let place = self.wire.partition_point(|(due, _)| *due <= arrival);
            self.wire.insert(place, (arrival, datagram));
        }
    }
}

/// At the end of each test, whatever stands at the broker is in the ledger.
impl Drop for Rig {
    fn drop(&mut self) {
        let is_settled =
            self.broker.connected && !self.broker.silent && !self.away && self.gateway.is_drained();
        if std::thread::panicking() || !is_settled {
            return;
        }
        let ledger = self.gateway.ledger();
        let topics = self.broker.retained.keys();
        let unknown: Vec<_> = topics
            .filter(|topic| !ledger.contains(topic.as_str()))
            .collect();
        assert!(
            unknown.is_empty(),
            "retained, and not in the ledger: {unknown:?}"
        );
    }
}

impl Device {
    /// What the device answers from now on.
    pub fn answer(&mut self, method: Code, path: &str, response: Response) {
        self.answers.insert((method, path.to_owned()), response);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let road = self.road.as_ref().and_then(Road::next_timeout);
        [self.endpoint.next_timeout(), road, self.due]
            .into_iter()
            .flatten()
            .min()
    }

    /// Does what is due.
    fn timeout(&mut self, now: Now) {
        if self.due.is_some_and(|due| due <= now.instant)
            && let Some(client) = &mut self.client
        {
            self.due = None;
            client.handle(now, client::Input::Timeout);
        }
        self.endpoint.timeout(now.instant);
        if let Some(road) = &mut self.road {
            road.timeout(now);
        }
    }

    /// Takes what came by the road, and gives what is to be sent.
    fn messages(&mut self, now: Now) -> Vec<Vec<u8>> {
        while let Some(bytes) = self.road.as_mut().and_then(Road::message) {
            self.endpoint.receive(now.instant, gateway_peer(), &bytes);
        }
        let mut messages = Vec::new();
        while let Some(client) = &mut self.client {
            match client.poll() {
                client::Output::Datagram { bytes, .. } => messages.push(bytes),
                client::Output::Event(_) => {}
                client::Output::Timeout(due) => {
                    self.due = due;
                    break;
                }
            }
        }
        while let Some(output) = self.endpoint.poll() {
            match output {
                coap::Output::Datagram { bytes, .. } => messages.push(bytes),
                coap::Output::Event(coap::Event::Request {
                    incoming,
                    token,
                    request,
                    ..
                }) => self.on_request(now.instant, incoming, token, request),
                coap::Output::Event(coap::Event::Response { result, .. }) => {
                    self.responses.extend(result.ok())
                }
                coap::Output::Event(_) => {}
            }
        }
        messages
    }

    fn on_request(&mut self, now: Instant, incoming: IncomingId, token: Token, request: Request) {
        let path = format!("/{}", request.path.join("/"));
        let updated = self.updater.as_mut().and_then(|it| it.on_request(&request));
        let scripted = || self.answers.get(&(request.method, path.clone())).cloned();
        let mut response = updated
            .or_else(scripted)
            .unwrap_or(Response::new(Code::NOT_FOUND));
        let is_other = |format: Option<u16>| format.is_some() && format != self.only;
        if self.only.is_some() && is_other(request.content_format) {
            response = Response::new(Code::UNSUPPORTED_CONTENT_FORMAT);
        } else if self.only.is_some() && is_other(request.accept) {
            response = Response::new(Code::NOT_ACCEPTABLE);
        }
        if request.observe == Some(Observe::Register)
            && response.code.is_success()
            && !self.unobservable
        {
            response.observe = Some(0);
            self.observers.push((path, token));
        }
        if request.observe == Some(Observe::Deregister) {
            self.observers.retain(|(_, observer)| *observer != token);
        }
        self.endpoint.respond(now, incoming, response);
        self.requests.push(request);
    }

    /// The requests of a method, as paths; without the one that lets each device of 1.1 send.
    pub fn paths(&self, method: Code) -> Vec<String> {
        self.requests
            .iter()
            .filter(|request| request.method == method)
            .map(|request| format!("/{}", request.path.join("/")))
            .filter(|path| path != MUTE_SEND)
            .collect()
    }
}

/// Whether the agent is killed instead of doing what it wants to do now.
fn dies(doomed: &mut Option<u32>) -> bool {
    let Some(left) = doomed else {
        return false;
    };
    let is_over = *left == 0;
    *left = left.saturating_sub(1);
    is_over
}

/// Where the gateway is reached; the constants are the places here.
fn listeners() -> Vec<Listener> {
    [
        ("coap://10.0.0.254:5683", false, Purpose::Management),
        ("coap://10.0.0.254:5783", false, Purpose::Bootstrap),
        ("coaps://10.0.0.254:5684", true, Purpose::Management),
        ("coaps://10.0.0.254:5784", true, Purpose::Bootstrap),
    ]
    .map(|(uri, secure, purpose)| Listener {
        uri: uri.into(),
        secure,
        purpose,
    })
    .into()
}

/// Whatever is published, no broker ends the connection for its sake: mosquitto does for a control
/// character or a noncharacter in a topic or a property (MQTT 5 §1.5.4, §4.7.3).
fn assert_acceptable(publish: &Publish) {
    let topic = &*publish.topic;
    assert!(!topic.is_empty() && !topic.starts_with('$'), "{topic:?}");
    assert!(!topic.contains(['+', '#']), "{topic:?}");
    let properties = publish.properties.iter();
    let texts = properties.flat_map(|properties| &properties.user);
    let texts = texts.flat_map(|(name, value)| [name.as_str(), value.as_str()]);
    for text in texts.chain([topic]) {
        let refused = |c: char| {
            c.is_control()
                || ('\u{FDD0}'..='\u{FDEF}').contains(&c)
                || matches!(u32::from(c) % 0x1_0000, 0xFFFE | 0xFFFF)
        };
        assert!(!text.contains(refused) && text.len() < 0x1_0000, "{text:?}");
    }
    if let Some(below_base) = topic.strip_prefix("lwm2mqtt/") {
        let properties = publish.properties.as_deref();
        let content_type = properties.and_then(|properties| properties.content_type);
        contract::assert_known(below_base, content_type, publish.retain, &publish.payload);
    }
}

/// How the devices see the gateway.
fn gateway_peer() -> Peer {
    Peer::Route(Route {
        listener: 0,
        address: ([10, 0, 0, 254], 5683).into(),
    })
}

/// A 2.05 with a payload.
pub fn content(format: u16, payload: &str) -> Response {
    Response {
        content_format: Some(format),
        payload: payload.into(),
        ..Response::new(Code::CONTENT)
    }
}
