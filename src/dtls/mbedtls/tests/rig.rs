//! Two ends, and the wire between them in the test's hands.

use std::sync::Arc;
use std::time::Duration;

use super::program::dtls::mbedtls::{Engine, Settings};
use super::program::dtls::{
    Accept, Connect, Credential, DtlsSession, Engine as _, Event, Fatal, Keys, PeerIdentity,
};
use super::program::secret::Secret;
use super::program::time::{Instant, Now, UnixTime};

/// 2026-11-22T00:00:00Z.
pub const TODAY: i64 = 1_795_305_600_000;

pub fn today() -> Now {
    Now {
        instant: Instant::from_micros(1_000_000),
        unix: UnixTime::from_millis(TODAY),
    }
}

/// The keys of a test: these pairs, and these pins.
#[derive(Default)]
pub struct Ring {
    pub psk: Vec<(Vec<u8>, Vec<u8>)>,
    pub pins: Vec<[u8; 32]>,
}

impl Keys for Ring {
    fn psk(&self, identity: &[u8]) -> Option<Secret> {
        let found = self.psk.iter().find(|(known, _)| known == identity);
        found.map(|(_, key)| Secret::new(key.clone()))
    }

    fn pins(&self, sha256: &[u8; 32]) -> bool {
        self.pins.contains(sha256)
    }
}

/// `dev1` with the key of the LwM2M examples.
pub fn ring() -> Arc<Ring> {
    Arc::new(Ring {
        psk: vec![(b"dev1".to_vec(), b"0123456789abcdef".to_vec())],
        pins: Vec::new(),
    })
}

pub fn psk(identity: &str, key: &[u8]) -> Connect {
    Connect {
        credential: Credential::Psk {
            identity: identity.as_bytes().to_vec(),
            key: Secret::new(key),
        },
        cid: Vec::new(),
    }
}

pub fn dev1() -> Connect {
    psk("dev1", b"0123456789abcdef")
}

pub fn server() -> Engine {
    Engine::new(&Settings::default()).unwrap()
}

/// One end, and what came out of it.
pub struct End {
    pub session: Box<dyn DtlsSession>,
    pub sent: Vec<Vec<u8>>,
    pub heard: Vec<Vec<u8>>,
    pub identity: Option<PeerIdentity>,
    pub closed: bool,
    pub wait: Option<Instant>,
    pub failed: Option<Fatal>,
}

impl End {
    pub fn new(session: Box<dyn DtlsSession>) -> Self {
        let mut end = Self {
            session,
            sent: Vec::new(),
            heard: Vec::new(),
            identity: None,
            closed: false,
            wait: None,
            failed: None,
        };
        end.drain();
        end
    }

    pub fn drain(&mut self) {
        loop {
            match self.session.poll() {
                Event::Send(datagram) => self.sent.push(datagram.to_vec()),
                Event::App(data) => self.heard.push(data.to_vec()),
                Event::Established(identity) => {
                    assert!(self.identity.is_none(), "established twice");
                    self.identity = Some(identity);
                }
                Event::Closed => self.closed = true,
                Event::Wait(until) => {
                    self.wait = until;
                    break;
                }
            }
        }
    }

    pub fn feed(&mut self, now: Now, datagram: &[u8]) {
        if self.failed.is_none() {
            self.failed = self.session.datagram(now, datagram).err();
        }
        self.drain();
    }

    pub fn tick(&mut self, now: Now) {
        if self.failed.is_none() {
            self.failed = self.session.timeout(now).err();
        }
        self.drain();
    }

    pub fn say(&mut self, data: &[u8]) {
        self.session.send(data).unwrap();
        self.drain();
    }

    pub fn take(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.sent)
    }
}

/// The front door's part: finds the place of the cookie in the client's first hello, and makes the
/// second one of it, with message and record number 1 (RFC 6347 §4.2.1), as a client would after
/// a HelloVerifyRequest.
pub fn with_cookie(client: &mut End, now: Now, cookie: &[u8]) -> Vec<u8> {
    let first = client.take().remove(0);
    assert_eq!((first[0], first[13]), (22, 1), "a ClientHello");
    let mut verify = vec![22, 254, 255, 0, 0, 0, 0, 0, 0, 0, 0];
    let body = 3 + cookie.len();
    verify.extend(u16::try_from(12 + body).unwrap().to_be_bytes());
    verify.extend([3, 0, 0, u8::try_from(body).unwrap(), 0, 0, 0, 0, 0, 0, 0]);
    verify.push(u8::try_from(body).unwrap());
    verify.extend([254, 255, u8::try_from(cookie.len()).unwrap()]);
    verify.extend(cookie);
    client.feed(now, &verify);
    client.take().remove(0)
}

/// 32 bytes at most: more were not allowed in DTLS 1.0 (RFC 4347 §4.2.1), and GnuTLS refuses them.
pub const COOKIE: &[u8] = b"a cookie that the door gave";

/// Both ends of a handshake, or of a session.
pub struct Pair {
    pub now: Now,
    pub client: End,
    pub server: End,
}

impl Pair {
    /// After the front door; the server has not seen the hello, which is the client's to send.
    pub fn begin(
        now: Now,
        engine: &Engine,
        client: Box<dyn DtlsSession>,
        keys: Arc<dyn Keys>,
        cid: &[u8],
    ) -> Self {
        let mut client = End::new(client);
        let hello = with_cookie(&mut client, now, COOKIE);
        client.sent.push(hello);
        let accept = Accept {
            cookie: COOKIE,
            cid,
            keys,
        };
        let server = End::new(engine.accept(now, accept).unwrap());
        Self {
            now,
            client,
            server,
        }
    }

    /// The same with what most tests want.
    pub fn psk(engine: &Engine, connect: &Connect) -> Self {
        let client = engine.connect(today(), connect).unwrap();
        Self::begin(today(), engine, client, ring(), b"")
    }

    /// Lets the two talk until neither has more to say.
    pub fn run(&mut self) {
        for _ in 0..20 {
            let (up, down) = (self.client.take(), self.server.take());
            if up.is_empty() && down.is_empty() {
                return;
            }
            for datagram in up {
                self.server.feed(self.now, &datagram);
            }
            for datagram in down {
                self.client.feed(self.now, &datagram);
            }
        }
        panic!("they go on for ever");
    }

    /// Makes time pass, and tells both.
    pub fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
        for end in [&mut self.client, &mut self.server] {
            if end.wait.is_some_and(|at| at <= self.now.instant) {
                end.tick(self.now);
            }
        }
    }

    /// Lets the two talk until both are established, while one datagram, by its number, is lost.
    /// Returns how many there were, and the seconds that it took.
    pub fn run_losing(&mut self, lost: usize) -> (usize, u32) {
        let (mut count, mut seconds) = (0, 0);
        while self.client.identity.is_none() || self.server.identity.is_none() {
            let (up, down) = (self.client.take(), self.server.take());
            if up.is_empty() && down.is_empty() {
                self.pass(Duration::from_secs(1));
                seconds += 1;
            }
            let mut arrives = || {
                count += 1;
                count - 1 != lost
            };
            for datagram in up.iter().filter(|_| arrives()) {
                self.server.feed(self.now, datagram);
            }
            for datagram in down.iter().filter(|_| arrives()) {
                self.client.feed(self.now, datagram);
            }
            assert!(seconds < 4, "datagram {lost} was not sent again");
        }
        self.run();
        (count, seconds)
    }

    /// Both are established, and data goes both ways.
    pub fn assert_works(&mut self) {
        assert_eq!((&self.client.failed, &self.server.failed), (&None, &None));
        self.client.say(b"up");
        self.run();
        self.server.say(b"down");
        self.run();
        assert_eq!(self.server.heard.pop().unwrap(), b"up");
        assert_eq!(self.client.heard.pop().unwrap(), b"down");
    }
}
