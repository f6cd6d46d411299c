//! A server, clients, and the network between them, in virtual time.

mod basics;
mod bounds;
mod hostile;
#[cfg(feature = "dtls")]
mod mbedtls;
mod moving;
mod replacing;
mod saving;
pub(crate) mod spoofed;
mod working;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::dtls::limits::Limits;
use crate::dtls::mux::{Mux, Output, SessionId, Work};
use crate::dtls::plain::{CCM_8, COSTLY, Plain};
use crate::dtls::record::records;
use crate::dtls::{
    Accept, Connect, Credential, DtlsSession, Engine, Event, Fatal, Keys, PeerIdentity, Suites,
};
use crate::route::Route;
use crate::secret::Secret;
use crate::time::{Instant, Now, UnixTime};

/// When a run begins.
const START: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// The listener that the server serves.
pub(crate) const LISTENER: u16 = 1;

/// Both ends' engines.
pub(crate) struct Engines {
    pub(crate) server: Box<dyn Engine>,
    pub(crate) client: Box<dyn Engine>,
}

/// Makes engines for a run: one for the server, and one a client, with seeds that differ.
pub(crate) type MakeEngines<'a> = &'a dyn Fn(u64) -> Engines;

/// Engines without cryptography.
pub(crate) fn plain(seed: u64) -> Engines {
    Engines {
        server: Box::new(seeded(seed)),
        client: Box::new(seeded(!seed)),
    }
}

/// The same, with clients that do without connection IDs.
pub(crate) fn without_cid(seed: u64) -> Engines {
    Engines {
        client: Box::new(seeded(!seed).without_cid()),
        ..plain(seed)
    }
}

/// Engines whose handshakes pass for costly.
fn costly(seed: u64) -> Engines {
    let suites = [CCM_8, COSTLY];
    Engines {
        server: Box::new(seeded(seed).with_suites(&suites)),
        client: Box::new(seeded(!seed).with_suites(&suites)),
    }
}

/// Engines whose sessions insist on what the mux promises: no application data before they are
/// established; from then on one record at a time, and no unprotected one.
pub(crate) fn strict(seed: u64) -> Engines {
    insist(plain(seed))
}

/// The same, with clients that do without connection IDs.
fn strict_without_cid(seed: u64) -> Engines {
    insist(without_cid(seed))
}

fn insist(engines: Engines) -> Engines {
    Engines {
        server: Box::new(Strict(engines.server)),
        client: Box::new(Strict(engines.client)),
    }
}

struct Strict(Box<dyn Engine>);

struct StrictSession {
    inner: Box<dyn DtlsSession>,
    established: bool,
}

impl Strict {
    fn session(inner: Box<dyn DtlsSession>) -> Box<dyn DtlsSession> {
        Box::new(StrictSession {
            inner,
            established: false,
        })
    }
}

impl Engine for Strict {
    fn accept(&self, now: Now, accept: Accept<'_>) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.0.accept(now, accept).map(Self::session)
    }

    fn connect(&self, now: Now, connect: &Connect) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.0.connect(now, connect).map(Self::session)
    }

    fn restore(&self, now: Now, saved: &[u8]) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.0.restore(now, saved).map(Self::session)
    }

    fn is_costly(&self, offered: Suites<'_>) -> bool {
        self.0.is_costly(offered)
    }
}

impl DtlsSession for StrictSession {
    fn datagram(&mut self, now: Now, datagram: &[u8]) -> Result<(), Fatal> {
        let all: Vec<_> = records(datagram).collect();
        if !self.established {
            let first = all.first().expect("a record");
            assert_ne!((first.content, first.epoch()), (23, 1));
        } else {
            assert_eq!(all.len(), 1);
            assert_eq!(all[0].whole, datagram);
            assert_ne!(all[0].epoch(), 0);
        }
        self.inner.datagram(now, datagram)
    }

    fn timeout(&mut self, now: Now) -> Result<(), Fatal> {
        self.inner.timeout(now)
    }

    fn poll(&mut self) -> Event<'_> {
        let event = self.inner.poll();
        self.established |= matches!(event, Event::Established(_));
        event
    }

    fn send(&mut self, application_data: &[u8]) -> Result<(), Fatal> {
        self.inner.send(application_data)
    }

    fn close(&mut self) {
        self.inner.close();
    }

    fn peer_cid(&self) -> &[u8] {
        self.inner.peer_cid()
    }

    fn suite(&self) -> &'static str {
        self.inner.suite()
    }

    fn save(self: Box<Self>) -> Option<Secret> {
        self.inner.save()
    }
}

fn seeded(seed: u64) -> Plain {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_be_bytes());
    Plain::new(bytes)
}

/// Everybody's key is their identity, doubled; those whose name begins with `?` are not known.
struct Doubled;

impl Keys for Doubled {
    fn psk(&self, identity: &[u8]) -> Option<Secret> {
        (!identity.starts_with(b"?")).then(|| Secret::new([identity, identity].concat()))
    }

    fn pins(&self, _: &[u8; 32]) -> bool {
        false
    }
}

/// What a session began with: the client's identity and its right key.
pub(crate) fn credential(identity: &str) -> Credential {
    Credential::Psk {
        identity: identity.into(),
        key: Secret::new(identity.repeat(2)),
    }
}

/// A server with its clients.
pub(crate) struct Rig {
    pub(crate) now: Now,
    pub(crate) server: Mux,
    pub(crate) clients: Vec<Client>,
    /// What the server told, without datagrams.
    pub(crate) told: Vec<Output>,
    /// Works that the server gave out; run at once unless `keep_work`.
    pub(crate) works: VecDeque<Work>,
    pub(crate) keep_work: bool,
    /// Every datagram that reached the server, with where it came from.
    pub(crate) to_server: Vec<(Route, Vec<u8>)>,
    /// Every datagram that the server sent.
    pub(crate) from_server: Vec<(Route, Vec<u8>)>,
}

/// A client behind an address of its own, which may change.
pub(crate) struct Client {
    pub(crate) mux: Mux,
    pub(crate) address: SocketAddr,
    pub(crate) session: SessionId,
    pub(crate) established: bool,
    pub(crate) received: Vec<Vec<u8>>,
    pub(crate) failed: Vec<Fatal>,
    pub(crate) closed: bool,
    /// Whether what it sends gets lost.
    pub(crate) cut_off: bool,
}

fn server_address() -> SocketAddr {
    ([198, 51, 100, 1], 5684).into()
}

/// The address of a client, by number.
pub(crate) fn address(number: u16) -> SocketAddr {
    ([192, 0, 2, 1], 40_000 + number).into()
}

/// The same, as the server sees it.
pub(crate) fn route(number: u16) -> Route {
    Route {
        listener: LISTENER,
        address: address(number),
    }
}

impl Rig {
    pub(crate) fn new(make: MakeEngines<'_>) -> Self {
        Self::with_limits(make, Limits::default())
    }

    pub(crate) fn with_limits(make: MakeEngines<'_>, limits: Limits) -> Self {
        let mut server = Mux::new(make(0).server, limits, &mut StdRng::from_seed([1; 32]));
        server.serve(LISTENER, Arc::new(Doubled));
        Self {
            now: START,
            server,
            clients: Vec::new(),
            told: Vec::new(),
            works: VecDeque::new(),
            keep_work: false,
            to_server: Vec::new(),
            from_server: Vec::new(),
        }
    }

    /// A client at the address of this number begins a handshake. Returns which client it is.
    pub(crate) fn join(
        &mut self,
        make: MakeEngines<'_>,
        number: u16,
        credential: Credential,
    ) -> usize {
        self.join_with_cid(make, number, credential, &[])
    }

    /// The same, with a connection ID of its own when `cid` is not empty.
    pub(crate) fn join_with_cid(
        &mut self,
        make: MakeEngines<'_>,
        number: u16,
        credential: Credential,
        cid: &[u8],
    ) -> usize {
        let seed = self.clients.len() as u64 + 1;
        let mut rng = StdRng::seed_from_u64(seed);
        let mut mux = Mux::new(make(seed).client, Limits::default(), &mut rng);
        let server = Route {
            listener: 0,
            address: server_address(),
        };
        let connect = Connect {
            credential,
            cid: cid.to_vec(),
        };
        let session = mux.connect(self.now, server, connect).unwrap();
        self.clients.push(Client {
            mux,
            address: address(number),
            session,
            established: false,
            received: Vec::new(),
            failed: Vec::new(),
            closed: false,
            cut_off: false,
        });
        self.settle();
        self.clients.len() - 1
    }

    /// A client that is established.
    pub(crate) fn established(&mut self, make: MakeEngines<'_>, number: u16) -> (usize, SessionId) {
        let client = self.join(make, number, credential(&format!("device-{number}")));
        (client, self.last_established())
    }

    /// The session that the server told of last.
    pub(crate) fn last_established(&self) -> SessionId {
        self.told
            .iter()
            .rev()
            .find_map(|told| match told {
                Output::Established { session, .. } => Some(*session),
                _ => None,
            })
            .expect("a session")
    }

    /// Lets datagrams go to and fro until nothing moves.
    pub(crate) fn settle(&mut self) {
        loop {
            let mut quiet = true;
            for number in 0..self.clients.len() {
                while let Some(output) = self.clients[number].mux.poll() {
                    quiet = false;
                    self.carry_to_server(number, output);
                }
            }
            while let Some(output) = self.server.poll() {
                quiet = false;
                self.carry_to_clients(output);
            }
            if !self.keep_work {
                while let Some(work) = self.works.pop_front() {
                    quiet = false;
                    self.work(work);
                }
            }
            if quiet {
                return;
            }
        }
    }

    fn carry_to_server(&mut self, number: usize, output: Output) {
        let client = &mut self.clients[number];
        match output {
            Output::Datagram { bytes, .. } => {
                if !client.cut_off {
                    let route = Route {
                        listener: LISTENER,
                        address: client.address,
                    };
                    self.to_server.push((route, bytes.clone()));
                    self.server.receive(self.now, route, &bytes);
                }
            }
            Output::App { bytes, .. } => client.received.push(bytes),
            Output::Established { session, .. } => {
                assert_eq!(session, client.session);
                client.established = true;
            }
            Output::Closed { .. } => client.closed = true,
            Output::Failed { reason, .. } => client.failed.push(reason),
            Output::Moved { .. } => panic!("a server does not move"),
            Output::Work(mut work) => {
                work.run();
                client.mux.worked(self.now, work);
            }
        }
    }

    fn carry_to_clients(&mut self, output: Output) {
        match output {
            Output::Datagram { route, bytes } => {
                let server = Route {
                    listener: 0,
                    address: server_address(),
                };
                for client in &mut self.clients {
                    let here = (LISTENER, client.address) == (route.listener, route.address);
                    if here && !client.cut_off {
                        client.mux.receive(self.now, server, &bytes);
                    }
                }
                self.from_server.push((route, bytes));
            }
            Output::Work(work) => self.works.push_back(work),
            told => self.told.push(told),
        }
    }

    /// Runs a work and gives it back.
    pub(crate) fn work(&mut self, mut work: Work) {
        work.run();
        self.server.worked(self.now, work);
    }

    /// A datagram that no client sent reaches the server.
    pub(crate) fn inject(&mut self, route: Route, datagram: &[u8]) {
        self.server.receive(self.now, route, datagram);
        self.settle();
    }

    /// Lets time pass, with everything that falls due.
    pub(crate) fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let clients = self.clients.iter().filter_map(|at| at.mux.next_timeout());
            let next = clients.chain(self.server.next_timeout()).min();
            let Some(next) = next.filter(|at| *at <= end.instant) else {
                break;
            };
            self.now = self.now + next.since(self.now.instant);
            self.server.timeout(self.now);
            for client in &mut self.clients {
                client.mux.timeout(self.now);
            }
            self.settle();
        }
        self.now = end;
    }

    /// A client says something.
    pub(crate) fn say(&mut self, client: usize, text: &str) {
        let client = &mut self.clients[client];
        client.mux.send(client.session, text.as_bytes());
        self.settle();
    }

    /// The server says something.
    pub(crate) fn answer(&mut self, session: SessionId, text: &str) {
        self.server.send(session, text.as_bytes());
        self.settle();
    }

    /// Takes what the server was told by this session's peer.
    pub(crate) fn heard(&mut self, of: SessionId) -> Vec<String> {
        let mut heard = Vec::new();
        self.told.retain(|told| match told {
            Output::App { session, bytes } if *session == of => {
                heard.push(String::from_utf8(bytes.clone()).unwrap());
                false
            }
            _ => true,
        });
        heard
    }

    /// Checks that a client and its session understand each other.
    pub(crate) fn assert_works(&mut self, client: usize, session: SessionId) {
        self.say(client, "anyone?");
        assert_eq!(self.heard(session), ["anyone?"]);
        self.answer(session, "yes");
        assert_eq!(self.clients[client].received.pop().unwrap(), b"yes");
    }

    /// Whether the server has said that this session is over.
    pub(crate) fn has_closed(&self, of: SessionId) -> bool {
        let closed = |told: &Output| matches!(told, Output::Closed { session } if *session == of);
        self.told.iter().any(closed)
    }

    /// The failures that the server told.
    pub(crate) fn failures(&self) -> Vec<Fatal> {
        self.told
            .iter()
            .filter_map(|told| match told {
                Output::Failed { reason, .. } => Some(reason.clone()),
                _ => None,
            })
            .collect()
    }
}

/// A PSK identity.
fn psk(identity: &str) -> PeerIdentity {
    PeerIdentity::Psk(identity.into())
}
