//! A server at a secure listener and one in clear, with devices that have sessions, in virtual time.

mod authority;
mod sessions;
mod wake;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::coap::{self, Code, Endpoint, Peer, Request, Response};
use crate::dtls::plain::Plain;
use crate::dtls::{
    self, Accept, Connect, Credential, DtlsSession, Engine, Fatal, Keys, Mux, PeerIdentity,
    SessionId, Suites,
};
use crate::lwm2m::model::Models;
use crate::route::Route;
use crate::secret::Secret;
use crate::server::credentials::{Authority, Content, File, Files, Origin, Policy};
use crate::server::{
    Event, Join, Limits, Listener, Output, Purpose, Server, Settings, bootstrap::Profiles,
};
use crate::time::{Instant, Now, UnixTime};

/// 2026-11-22T15:19:20Z
const START: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// The secure listener and the one in clear.
const SECURE: u16 = 0;
const CLEAR: u16 = 1;

/// An engine without cryptography, where a PSK identity of the form `cert:LEAF:NAME` is a
/// certificate, vouched for by [`authority`].
struct Claiming(Plain);

struct ClaimingSession(Box<dyn DtlsSession>);

/// The right key of everybody is their identity, doubled.
struct Doubled;

impl Keys for Doubled {
    fn psk(&self, identity: &[u8]) -> Option<Secret> {
        Some(Secret::new([identity, identity].concat()))
    }

    fn pins(&self, _: &[u8; 32]) -> bool {
        false
    }
}

impl Engine for Claiming {
    fn accept(&self, now: Now, accept: Accept<'_>) -> Result<Box<dyn DtlsSession>, Fatal> {
        let keys = Arc::new(Doubled);
        let inner = self.0.accept(now, Accept { keys, ..accept })?;
        Ok(Box::new(ClaimingSession(inner)))
    }

    fn connect(&self, now: Now, connect: &Connect) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.0.connect(now, connect)
    }

    fn restore(&self, now: Now, saved: &[u8]) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.0.restore(now, saved)
    }

    fn is_costly(&self, _: Suites<'_>) -> bool {
        false
    }
}

impl DtlsSession for ClaimingSession {
    fn datagram(&mut self, now: Now, datagram: &[u8]) -> Result<(), Fatal> {
        self.0.datagram(now, datagram)
    }

    fn timeout(&mut self, now: Now) -> Result<(), Fatal> {
        self.0.timeout(now)
    }

    fn poll(&mut self) -> dtls::Event<'_> {
        match self.0.poll() {
            dtls::Event::Established(PeerIdentity::Psk(identity)) => {
                dtls::Event::Established(claimed(identity))
            }
            event => event,
        }
    }

    fn send(&mut self, application_data: &[u8]) -> Result<(), Fatal> {
        self.0.send(application_data)
    }

    fn close(&mut self) {
        self.0.close();
    }

    fn peer_cid(&self) -> &[u8] {
        self.0.peer_cid()
    }

    fn suite(&self) -> &'static str {
        self.0.suite()
    }

    fn save(self: Box<Self>) -> Option<Secret> {
        self.0.save()
    }
}

fn claimed(identity: Vec<u8>) -> PeerIdentity {
    let text = String::from_utf8(identity).unwrap();
    match text.split(':').collect::<Vec<_>>()[..] {
        ["cert", leaf, name] => PeerIdentity::X509 {
            leaf: leaf.into(),
            chain: Vec::new(),
            names: name.split(',').map(str::to_owned).collect(),
            authority: Some(authority().sha256),
        },
        _ => PeerIdentity::Psk(text.into_bytes()),
    }
}

fn authority() -> Authority {
    Authority::new(*b"an authority", Origin::File("ca.toml".into()))
}

/// A file with that authority.
fn authority_file() -> File {
    File {
        name: "ca.toml".into(),
        content: Some(Content {
            authorities: vec![authority()],
            ..Content::default()
        }),
    }
}

fn files(found: Vec<File>) -> Files {
    Files {
        found,
        partial: false,
    }
}

struct Device {
    address: SocketAddr,
    /// With its session; `None` in clear.
    mux: Option<(Mux, SessionId)>,
    endpoint: Endpoint,
    responses: Vec<Response>,
    requests: Vec<Request>,
}

struct Rig {
    now: Now,
    server: Server,
    devices: Vec<Device>,
    events: Vec<Event>,
}

impl Rig {
    fn new(join: Join) -> Self {
        Self::with_limits(join, Limits::default())
    }

    fn with_limits(join: Join, limits: Limits) -> Self {
        let listener = |secure| Listener {
            secure,
            purpose: Purpose::Management,
            ..Listener::default()
        };
        let settings = Settings {
            policy: Policy {
                join,
                ..Policy::default()
            },
            lifetime_grace: Duration::from_secs(30),
            awake_window: Duration::from_secs(93),
            listeners: vec![listener(true), listener(false)],
            bootstrap_profiles: Arc::new(Profiles::default()),
        };
        let server = Server::new(
            settings,
            limits,
            coap::Parameters::default(),
            Arc::new(Models::builtin()),
            Some(Box::new(Claiming(Plain::new([1; 32])))),
            [7; 32],
        );
        Self {
            now: START,
            server,
            devices: Vec::new(),
            events: Vec::new(),
        }
    }

    /// A device in clear.
    fn in_clear(&mut self) -> usize {
        self.add(None)
    }

    /// A device that has a session as this identity.
    fn secured(&mut self, identity: &str) -> usize {
        let device = self.add(None);
        self.shake_hands(device, identity);
        device
    }

    fn add(&mut self, mux: Option<(Mux, SessionId)>) -> usize {
        let number = self.devices.len();
        let port = u16::try_from(40_000 + number).unwrap();
        self.devices.push(Device {
            address: ([192, 0, 2, 1], port).into(),
            mux,
            endpoint: Endpoint::new(
                coap::Parameters::default(),
                coap::Limits::default(),
                [number as u8; 32],
            ),
            responses: Vec::new(),
            requests: Vec::new(),
        });
        number
    }

    /// A device has a new session, from a port of its own.
    fn shake_hands(&mut self, device: usize, identity: &str) {
        let mut rng = StdRng::seed_from_u64(self.now.instant.as_micros() ^ device as u64);
        let engine = Plain::new(rand::RngExt::random(&mut rng)).without_cid();
        // A device keeps its session for good.
        let limits = dtls::Limits {
            idle: Duration::from_secs(400 * 86_400),
            ..dtls::Limits::default()
        };
        let mut mux = Mux::new(Box::new(engine), limits, &mut rng);
        let connect = Connect {
            credential: Credential::Psk {
                identity: identity.into(),
                key: Secret::new(identity.repeat(2)),
            },
            cid: Vec::new(),
        };
        let session = mux.connect(self.now, here(), connect).unwrap();
        self.devices[device].mux = Some((mux, session));
        self.settle();
        assert_eq!(self.devices[device].mux.as_ref().unwrap().0.len(), 1);
    }

    fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for device in &mut self.devices {
                while let Some(output) = device.endpoint.poll() {
                    quiet = false;
                    match output {
                        coap::Output::Datagram { bytes, .. } => match &mut device.mux {
                            Some((mux, session)) => mux.send(*session, &bytes),
                            None => {
                                let route = route(CLEAR, device.address);
                                self.server.receive(self.now, route, &bytes);
                            }
                        },
                        coap::Output::Event(coap::Event::Response { result, .. }) => {
                            device.responses.extend(result.ok());
                        }
                        coap::Output::Event(coap::Event::Request {
                            incoming, request, ..
                        }) => {
                            let answer = Response {
                                observe: request.observe.map(|_| 0),
                                ..Response::new(Code::CONTENT)
                            };
                            device.requests.push(request);
                            device.endpoint.respond(self.now.instant, incoming, answer);
                        }
                        coap::Output::Event(_) => {}
                    }
                }
                let Some((mux, _)) = &mut device.mux else {
                    continue;
                };
                while let Some(output) = mux.poll() {
                    quiet = false;
                    match output {
                        dtls::Output::Datagram { bytes, .. } => {
                            let route = route(SECURE, device.address);
                            self.server.receive(self.now, route, &bytes);
                        }
                        dtls::Output::App { bytes, .. } => {
                            let (now, peer) = (self.now.instant, here().into());
                            device.endpoint.receive(now, peer, &bytes);
                        }
                        _ => {}
                    }
                }
            }
            while let Some(output) = self.server.poll() {
                quiet = false;
                match output {
                    Output::Datagram { route, bytes } => self.deliver(route, &bytes),
                    Output::Event(event) => self.events.push(event),
                    Output::Store(_) | Output::Work(_) => {}
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn deliver(&mut self, route: Route, bytes: &[u8]) {
        let at = |device: &&mut Device| device.address == route.address;
        let Some(device) = self.devices.iter_mut().find(at) else {
            return;
        };
        match &mut device.mux {
            Some((mux, _)) => mux.receive(self.now, here(), bytes),
            None => {
                let peer = Peer::from(here());
                device.endpoint.receive(self.now.instant, peer, bytes);
            }
        }
    }

    /// Lets time pass.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        self.settle();
        loop {
            let due = self.devices.iter().flat_map(|device| {
                let mux = device.mux.as_ref().and_then(|(mux, _)| mux.next_timeout());
                [device.endpoint.next_timeout(), mux].into_iter().flatten()
            });
            let next = due.chain(self.server.next_timeout()).min();
            let Some(next) = next.filter(|at| *at <= end.instant) else {
                break;
            };
            self.now = self.now + next.since(self.now.instant);
            self.server.timeout(self.now);
            for device in &mut self.devices {
                device.endpoint.timeout(self.now.instant);
                if let Some((mux, _)) = &mut device.mux {
                    mux.timeout(self.now);
                }
            }
            self.settle();
        }
        self.now = end;
    }

    /// The answer to a request of a device, if there is one in time.
    fn ask(&mut self, device: usize, request: Request) -> Option<Response> {
        let before = self.devices[device].responses.len();
        let now = self.now.instant;
        let asked = self.devices[device]
            .endpoint
            .request(now, here().into(), request);
        asked.unwrap();
        self.settle();
        self.devices[device].responses.get(before).cloned()
    }

    fn register_for(&mut self, device: usize, endpoint: &str, lifetime: u32) -> Response {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = vec![format!("ep={endpoint}"), format!("lt={lifetime}")];
        request.payload = b"</1/0>,</3/0>".to_vec();
        request.content_format = Some(40);
        self.ask(device, request).unwrap()
    }

    fn register(&mut self, device: usize, endpoint: &str) -> Code {
        self.register_for(device, endpoint, 300).code
    }

    /// Where an endpoint is registered from; `None` when it is not.
    fn peer_of(&self, endpoint: &str) -> Option<Peer> {
        let device = self.server.device_of(endpoint)?;
        Some(self.server.registration(device)?.peer)
    }

    fn replace_files(&mut self, files: Files) {
        let now = self.now;
        self.server.with_book(now, |book| book.replace_files(files));
        self.settle();
    }
}

/// The server, as a device sees it.
fn here() -> Route {
    route(SECURE, ([198, 51, 100, 1], 5684).into())
}

fn route(listener: u16, address: SocketAddr) -> Route {
    Route { listener, address }
}
