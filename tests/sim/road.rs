//! The secure road of a device: a session in the client's role, without cryptography.

use std::collections::VecDeque;

use lwm2mqtt::dtls::plain::Plain;
use lwm2mqtt::dtls::{Connect, Credential, Fatal, Limits, Mux, Output, SessionId};
use lwm2mqtt::route::Route;
use lwm2mqtt::secret::Secret;
use lwm2mqtt::time::{Instant, Now};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The coaps listener of the rig.
pub const COAPS: u16 = 2;

/// Where the rig's bootstrap server is reached by coaps.
pub const BOOTSTRAP_COAPS: u16 = 3;

/// What a device sends and receives by.
pub struct Road {
    mux: Mux,
    connect: Connect,
    session: Option<SessionId>,
    established: bool,
    waiting: VecDeque<Vec<u8>>,
    received: VecDeque<Vec<u8>>,
    wire: VecDeque<Vec<u8>>,
    /// Handshakes that came to their end.
    pub handshakes: u32,
    /// Why others did not.
    pub failures: Vec<Fatal>,
    /// Sessions that the gateway ended.
    pub closed: u32,
    /// The last datagram that went out, for those who repeat it.
    pub last: Vec<u8>,
}

impl Road {
    /// The road of a device that has this key. The same seed gives the same session.
    pub fn new(seed: u8, identity: &str, key: &[u8]) -> Self {
        Self::with_engine(seed, identity, key, Plain::new([seed; 32]))
    }

    /// The same with another engine.
    pub fn with_engine(seed: u8, identity: &str, key: &[u8], engine: Plain) -> Self {
        let credential = Credential::Psk {
            identity: identity.into(),
            key: Secret::new(key),
        };
        let mut rng = StdRng::from_seed([!seed; 32]);
        Self {
            mux: Mux::new(Box::new(engine), Limits::default(), &mut rng),
            connect: Connect {
                credential,
                cid: Vec::new(),
            },
            session: None,
            established: false,
            waiting: VecDeque::new(),
            received: VecDeque::new(),
            wire: VecDeque::new(),
            handshakes: 0,
            failures: Vec::new(),
            closed: 0,
            last: Vec::new(),
        }
    }

    /// Sends a message, after a handshake if there is no session.
    pub fn send(&mut self, now: Now, message: Vec<u8>) {
        match self.session {
            Some(session) if self.established => self.mux.send(session, &message),
            Some(_) => self.waiting.push_back(message),
            None => {
                self.session = Some(
                    self.mux
                        .connect(now, gateway(), self.connect.clone())
                        .unwrap(),
                );
                self.waiting.push_back(message);
            }
        }
        self.pump(now);
    }

    /// Takes a datagram of the gateway.
    pub fn receive(&mut self, now: Now, datagram: &[u8]) {
        self.mux.receive(now, gateway(), datagram);
        self.pump(now);
    }

    pub fn timeout(&mut self, now: Now) {
        self.mux.timeout(now);
        self.pump(now);
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.mux.next_timeout()
    }

    /// The next message of the gateway.
    pub fn message(&mut self) -> Option<Vec<u8>> {
        self.received.pop_front()
    }

    /// The next datagram for the wire.
    pub fn datagram(&mut self) -> Option<Vec<u8>> {
        let datagram = self.wire.pop_front()?;
        self.last.clone_from(&datagram);
        Some(datagram)
    }

    fn pump(&mut self, now: Now) {
        while let Some(output) = self.mux.poll() {
            match output {
                Output::Datagram { bytes, .. } => self.wire.push_back(bytes),
                Output::App { bytes, .. } => self.received.push_back(bytes),
                Output::Established { session, .. } => {
                    self.handshakes += 1;
                    self.established = true;
                    for message in self.waiting.drain(..) {
                        self.mux.send(session, &message);
                    }
                }
                Output::Failed { reason, .. } => {
                    self.failures.push(reason);
                    self.session = None;
                    self.waiting.clear();
                }
                Output::Closed { .. } => {
                    self.closed += 1;
                    self.established = false;
                    self.session = None;
                }
                Output::Moved { .. } => {}
                Output::Work(mut work) => {
                    work.run();
                    self.mux.worked(now, work);
                }
            }
        }
    }
}

/// As a device sees it, behind whatever network.
fn gateway() -> Route {
    Route {
        listener: 0,
        address: ([10, 0, 0, 254], 5684).into(),
    }
}
