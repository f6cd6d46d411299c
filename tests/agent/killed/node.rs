//! A device that remembers what it was promised.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lwm2mqtt::coap::{
    Code, Endpoint, Event, ExchangeId, IncomingId, Limits, Observe, Output, Parameters, Peer,
    Request, Response, Token,
};
use lwm2mqtt::route::Route;
use lwm2mqtt::time::Instant;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::sleep_until;

const OBJECTS: &str = "</>;ct=110,</1/0>,</3/0>,</3303/0>,</3311/0>";

/// How many of these objects the gateway observes when no mapping says so.
const OBSERVED: usize = 2;

/// Which agent lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    Of(u32),
    /// One was killed, and the next one has not begun.
    Between,
}

/// What all devices have in common.
#[derive(Clone)]
pub(super) struct World {
    pub(super) lives: watch::Receiver<Life>,
    /// How often a device has taken note of a change of lives.
    pub(super) settled: Arc<AtomicU32>,
    /// How many devices have shown what they had to.
    pub(super) shown: Arc<AtomicU32>,
}

/// What is asked of all devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Register, Update, notify, leave and come back, as each likes.
    Busy,
    /// Show that what was promised holds.
    Last,
    /// Report.
    Over,
}

/// What a device has seen.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) name: String,
    /// Promises that were not held.
    pub(super) wrong: Vec<String>,
    /// Whether, in the end, its location and its observations were good.
    pub(super) shown: bool,
    pub(super) registered: u32,
    pub(super) updated: u32,
    pub(super) notified: u32,
    pub(super) observed: u32,
}

/// An observation that the gateway has of the device.
struct Held {
    token: Token,
    /// In whose life it was answered.
    answered: Option<u32>,
    /// The same life asked for something else afterwards, so it had the answer.
    proven: bool,
    /// A notification was sent in the last phase.
    shown: bool,
}

#[derive(Clone, Copy)]
enum Asked {
    Register,
    Update,
    Leave,
}

pub(super) struct Node {
    sleepy: bool,
    socket: UdpSocket,
    server: SocketAddr,
    endpoint: Endpoint,
    origin: tokio::time::Instant,
    rng: StdRng,
    world: World,
    location: Option<Vec<String>>,
    asked: Option<(ExchangeId, Asked)>,
    held: BTreeMap<String, Held>,
    value: u32,
    /// An Update was answered in the last phase.
    updated_last: bool,
    report: Report,
}

impl Node {
    pub(super) async fn new(
        index: u32,
        sleepy: bool,
        server: SocketAddr,
        world: World,
        seed: [u8; 32],
    ) -> Self {
        // It repeats itself soon and long enough to outlast every restart.
        let parameters = Parameters {
            ack_timeout: Duration::from_millis(300),
            max_retransmit: 6,
            ..Parameters::default()
        };
        let mut rng = StdRng::from_seed(seed);
        Self {
            sleepy,
            socket: UdpSocket::bind("127.0.0.1:0").await.unwrap(),
            server,
            endpoint: Endpoint::new(parameters, Limits::default(), rng.random()),
            origin: tokio::time::Instant::now(),
            rng,
            world,
            location: None,
            asked: None,
            held: BTreeMap::new(),
            value: 0,
            updated_last: false,
            report: Report {
                name: format!("k{index}"),
                ..Report::default()
            },
        }
    }

    fn now(&self) -> Instant {
        Instant::from_micros(self.origin.elapsed().as_micros() as u64)
    }

    fn peer(&self) -> Peer {
        Peer::Route(Route {
            listener: 0,
            address: self.server,
        })
    }

    pub(super) async fn run(mut self, mut phases: watch::Receiver<Phase>) -> Report {
        let mut buffer = [0; 2_048];
        let mut act = self.origin + self.pause(Phase::Busy);
        loop {
            let phase = *phases.borrow_and_update();
            self.drain(phase).await;
            if !self.report.shown && self.has_shown() {
                self.report.shown = true;
                self.world.shown.fetch_add(1, Ordering::SeqCst);
            }
            if phase == Phase::Over {
                return self.report;
            }
            let due = self
                .endpoint
                .next_timeout()
                .map_or(act, |at| act.min(self.origin + at.since(Instant::ZERO)));
            tokio::select! {
                received = self.socket.recv_from(&mut buffer) => {
                    // Nobody may be there just now.
                    if let Ok((length, _)) = received {
                        let now = self.now();
                        let peer = self.peer();
                        self.endpoint.receive(now, peer, &buffer[..length]);
                    }
                }
                () = sleep_until(due) => {
                    let now = self.now();
                    self.endpoint.timeout(now);
                    if act <= tokio::time::Instant::now() {
                        self.act(phase);
                        act = tokio::time::Instant::now() + self.pause(phase);
                    }
                }
                _ = self.world.lives.changed() => {
                    // What the dead one sent is of its life, and of none after it.
                    while let Ok((length, _)) = self.socket.try_recv_from(&mut buffer) {
                        let (now, peer) = (self.now(), self.peer());
                        self.endpoint.receive(now, peer, &buffer[..length]);
                        self.drain(phase).await;
                    }
                    self.world.settled.fetch_add(1, Ordering::SeqCst);
                }
                _ = phases.changed() => act = tokio::time::Instant::now() + self.pause(Phase::Last),
            }
        }
    }

    /// Whether, in the last phase, its location was good, and so were the observations that the
    /// gateway wants.
    fn has_shown(&self) -> bool {
        self.updated_last && self.held.len() == OBSERVED && self.held.values().all(|it| it.shown)
    }

    /// Which agent lives now.
    fn life(&self) -> Option<u32> {
        match *self.world.lives.borrow() {
            Life::Of(number) => Some(number),
            Life::Between => None,
        }
    }

    fn pause(&mut self, phase: Phase) -> Duration {
        let millis = match (phase, self.sleepy) {
            (Phase::Busy, true) => 1_000..4_000,
            (Phase::Busy, false) => 100..1_500,
            _ => 200..1_200,
        };
        Duration::from_millis(self.rng.random_range(millis))
    }

    async fn drain(&mut self, phase: Phase) {
        while let Some(output) = self.endpoint.poll() {
            match output {
                Output::Datagram { bytes, .. } => {
                    let _ = self.socket.send_to(&bytes, self.server).await;
                }
                Output::Event(Event::Request {
                    incoming,
                    token,
                    request,
                    ..
                }) => self.on_request(incoming, token, &request),
                Output::Event(Event::Response { exchange, result }) => {
                    if let Some((_, asked)) = self.asked.take_if(|(asked, _)| *asked == exchange) {
                        self.on_response(phase, asked, result.ok());
                    }
                }
                Output::Event(Event::ObserverGone { token, .. }) => self.on_reset(token),
                Output::Event(_) => {}
            }
        }
    }

    fn act(&mut self, phase: Phase) {
        if self.asked.is_some() {
            return;
        }
        let Some(location) = self.location.clone() else {
            return self.register();
        };
        let choice = self.rng.random_range(0..100);
        if phase == Phase::Last {
            return match self.held.keys().next().cloned() {
                Some(_) if choice < 50 => self.notify(phase),
                _ => self.ask(Asked::Update, Request::new(Code::POST, location)),
            };
        }
        match choice {
            0..3 => self.ask(Asked::Leave, Request::new(Code::DELETE, location)),
            3..6 => self.register(),
            6..50 => self.ask(Asked::Update, Request::new(Code::POST, location)),
            _ => self.notify(phase),
        }
    }

    fn register(&mut self) {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = vec![
            format!("ep={}", self.report.name),
            "lwm2m=1.1".into(),
            "lt=86400".into(),
        ];
        request.query.extend(self.sleepy.then(|| "Q".into()));
        request.content_format = Some(40);
        request.payload = OBJECTS.into();
        self.location = None;
        self.held.clear();
        self.ask(Asked::Register, request);
    }

    fn ask(&mut self, asked: Asked, request: Request) {
        let (now, peer) = (self.now(), self.peer());
        if let Ok(exchange) = self.endpoint.request(now, peer, request) {
            self.asked = Some((exchange, asked));
        }
    }

    /// A new value of what is observed, acknowledged or repeated.
    fn notify(&mut self, phase: Phase) {
        self.value += 1;
        let (now, peer, value) = (self.now(), self.peer(), self.value);
        for (path, held) in &mut self.held {
            held.shown |= phase == Phase::Last;
            let response = payload(path, value);
            self.endpoint.notify(now, peer, held.token, response, true);
            self.report.notified += 1;
        }
    }

    fn on_response(&mut self, phase: Phase, asked: Asked, response: Option<Response>) {
        let code = response.as_ref().map(|response| response.code);
        match (asked, code) {
            (Asked::Register, Some(Code::CREATED)) => {
                self.location = response.map(|response| response.location);
                // What was observed by the registration before is void.
                self.held.clear();
                self.report.registered += 1;
            }
            (Asked::Update, Some(Code::CHANGED)) => {
                self.report.updated += 1;
                self.updated_last |= phase == Phase::Last;
            }
            (Asked::Leave, Some(Code::DELETED)) => {
                self.location = None;
                self.held.clear();
            }
            // It was carried out, and the answer was lost with a process.
            (Asked::Leave, Some(Code::NOT_FOUND)) => {
                self.location = None;
                self.held.clear();
            }
            // Nobody answered for long; it is asked again.
            (_, None) => {}
            (Asked::Register, code) => self.wrong(format!("Register was answered {code:?}")),
            (Asked::Update, code) => {
                self.wrong(format!("Update of its location was answered {code:?}"));
                self.location = None;
            }
            (Asked::Leave, code) => self.wrong(format!("De-register was answered {code:?}")),
        }
    }

    fn on_request(&mut self, incoming: IncomingId, token: Token, request: &Request) {
        let life = self.life();
        for held in self.held.values_mut() {
            held.proven |= life.is_some() && held.answered == life;
        }
        let path = format!("/{}", request.path.join("/"));
        let mut response = match request.method {
            Code::GET => payload(&path, self.value),
            Code::PUT | Code::POST => Response::new(Code::CHANGED),
            _ => Response::new(Code::METHOD_NOT_ALLOWED),
        };
        match request.observe {
            Some(Observe::Register) if response.code.is_success() => {
                response.observe = Some(0);
                self.report.observed += 1;
                let held = Held {
                    token,
                    answered: life,
                    proven: false,
                    shown: false,
                };
                if let Some(before) = self.held.insert(path.clone(), held)
                    && before.proven
                    && before.token != token
                {
                    self.wrong(format!(
                        "{path} was observed as {:?} and is now observed as {token:?} too",
                        before.token
                    ));
                }
            }
            Some(Observe::Deregister) => {
                self.held.retain(|_, held| held.token != token);
            }
            _ => {}
        }
        let now = self.now();
        self.endpoint.respond(now, incoming, response);
    }

    /// A notification was reset, or not acknowledged for long.
    fn on_reset(&mut self, token: Token) {
        let lost = self.held.iter().find(|(_, held)| held.token == token);
        let Some((path, proven)) = lost.map(|(path, held)| (path.clone(), held.proven)) else {
            return;
        };
        self.held.remove(&path);
        if proven {
            self.wrong(format!("the observation of {path}, {token:?}, is lost"));
        }
    }

    fn wrong(&mut self, what: String) {
        let life = *self.world.lives.borrow();
        let (name, at) = (&self.report.name, self.origin.elapsed());
        self.report
            .wrong
            .push(format!("{name}, after {at:?}, in {life:?}: {what}"));
    }
}

fn payload(path: &str, value: u32) -> Response {
    let json = match path {
        "/3303/0" => format!(r#"[{{"bn":"/3303/0/","n":"5700","v":{value}}}]"#),
        "/3311/0" => format!(
            r#"[{{"bn":"/3311/0/","n":"5850","vb":{}}}]"#,
            value.is_multiple_of(2)
        ),
        "/3/0" => r#"[{"bn":"/3/0/","n":"0","vs":"ACME"}]"#.to_owned(),
        "/1/0/1" => r#"[{"n":"/1/0/1","v":86400}]"#.to_owned(),
        _ => return Response::new(Code::NOT_FOUND),
    };
    Response {
        content_format: Some(110),
        payload: json.into_bytes(),
        ..Response::new(Code::CONTENT)
    }
}
