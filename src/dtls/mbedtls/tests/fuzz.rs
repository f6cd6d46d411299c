//! Changed datagrams into handshakes in both roles, and into sessions that are open.
//!
//! The wire between two of our ends changes what goes over it: bits, bytes, lengths (with or
//! without mending those around them), order, number, and pieces of other datagrams. Whatever
//! comes of it, no end may panic or touch memory that is not its own (`just fuzz-dtls` runs this
//! very file under AddressSanitizer), be led to a wrong identity, or lose a session that is open.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::papers::{Authority, Papers, Wish};
use super::program::dtls::mbedtls::{Engine, Settings};
use super::program::dtls::{Connect, PeerIdentity};
use super::rig::{Pair, Ring, dev1, ring, today};

const PSK: [u16; 5] = [0xc0a8, 0xc0a4, 0x00a8, 0x00ae, 0xc037];
const ECDSA: [u16; 3] = [0xc0ae, 0xc02b, 0xc023];

/// Datagrams that are kept to take pieces from.
const CORPUS: usize = 256;

/// How many of each came about.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub handshakes: u64,
    pub established: u64,
    pub refused: u64,
    pub open: u64,
    pub changed: u64,
}

pub struct Fuzz {
    rng: StdRng,
    engine: Engine,
    device: Papers,
    authority: Authority,
    corpus: Vec<Vec<u8>>,
    pub counts: Counts,
}

/// How a round's wire treats what goes over it.
struct Wire {
    /// Of 100 datagrams, this many are changed.
    changes: u32,
    /// Of 100 datagrams, this many are lost.
    loses: u32,
    up: bool,
    down: bool,
}

impl Fuzz {
    pub fn new(seed: u64) -> Self {
        let authority = Authority::new("an authority");
        let papers = authority.certify(&Wish {
            dns: &["gw.example"],
            ..Wish::named("gw")
        });
        let device = authority.certify(&Wish {
            dns: &["dev1.example"],
            uri: Some("urn:dev:ops:1-2"),
            ..Wish::named("dev1")
        });
        let engine = Engine::new(&Settings {
            certificate: Some(papers.own()),
            authorities: vec![authority.der.clone()],
            ..Settings::default()
        })
        .unwrap();
        Self {
            rng: StdRng::seed_from_u64(seed),
            engine,
            device,
            authority,
            corpus: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// One handshake, or one open session; `certificates` in one of so many.
    pub fn round(&mut self, certificates: u32) {
        let x509 = self.rng.random_ratio(1, certificates);
        let pair = self.pair(x509);
        if self.rng.random_ratio(1, 4) {
            self.open(pair);
        } else {
            self.handshake(pair, x509);
        }
    }

    fn pair(&mut self, x509: bool) -> Pair {
        let mut connect = self.connect(x509);
        if self.rng.random() {
            connect.cid = b"a client".to_vec();
        }
        let cid: &[u8] = if self.rng.random() { b"a server" } else { b"" };
        let suites: &[u16] = if x509 { &ECDSA } else { &PSK };
        let suite = suites[self.rng.random_range(0..suites.len())];
        let client = self.engine.connect_with(today(), &connect, &[suite]);
        let client = client.unwrap();
        let keys: Arc<Ring> = ring();
        Pair::begin(today(), &self.engine, client, keys, cid)
    }

    fn connect(&self, x509: bool) -> Connect {
        if x509 {
            self.device.client(self.authority.vouches("gw.example"))
        } else {
            dev1()
        }
    }

    /// A handshake over a wire that changes it.
    fn handshake(&mut self, mut pair: Pair, x509: bool) {
        self.counts.handshakes += 1;
        let wire = Wire {
            changes: [3, 20, 60][self.rng.random_range(0..3)],
            loses: [0, 0, 10][self.rng.random_range(0..3)],
            up: self.rng.random_ratio(2, 3),
            down: self.rng.random_ratio(2, 3),
        };
        for _ in 0..16 {
            let (up, down) = (pair.client.take(), pair.server.take());
            if up.is_empty() && down.is_empty() {
                pair.pass(Duration::from_secs(1));
            }
            for datagram in self.travel(&wire, wire.up, up) {
                pair.server.feed(pair.now, &datagram);
            }
            for datagram in self.travel(&wire, wire.down, down) {
                pair.client.feed(pair.now, &datagram);
            }
        }
        for end in [&mut pair.client, &mut pair.server] {
            let established = end.identity.is_some();
            self.counts.established += u64::from(established);
            self.counts.refused += u64::from(end.failed.is_some());
            if established && end.failed.is_none() && !end.closed {
                end.say(b"still there");
            }
        }
        match &pair.server.identity {
            Some(PeerIdentity::X509 { leaf, .. }) => assert!(x509 && *leaf == self.device.der),
            Some(PeerIdentity::Psk(identity)) => assert!(!x509 && identity == b"dev1"),
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }

    /// Changed records into an open session, at both ends.
    fn open(&mut self, mut pair: Pair) {
        self.counts.open += 1;
        pair.run();
        // Until data has come, the server keeps what it needs to repeat its last flight.
        if self.rng.random() {
            pair.assert_works();
        }
        let mut said = Vec::new();
        for count in 0..self.rng.random_range(1..40u8) {
            // Each is said once in this session, so that each can be heard but once.
            let length = self.rng.random_range(0..80);
            let mut data = vec![count; length.min(1)];
            data.extend((1..length).map(|_| self.rng.random::<u8>()));
            let (from, to) = if self.rng.random() {
                (&mut pair.client, &mut pair.server)
            } else {
                (&mut pair.server, &mut pair.client)
            };
            from.say(&data);
            let sent = from.take();
            assert_eq!(sent.len(), 1, "an answer to a forgery: {sent:02x?}");
            let sent = sent.concat();
            said.push(data.clone());
            for _ in 0..self.rng.random_range(0..6) {
                let changed = self.change(&sent);
                to.feed(pair.now, &changed);
                assert_eq!((&to.failed, to.closed), (&None, false), "{changed:02x?}");
            }
            if self.rng.random_ratio(3, 4) {
                to.feed(pair.now, &sent);
                // Empty data is no event.
                let heard = to.heard.iter().filter(|heard| **heard == data);
                assert_eq!(heard.count(), usize::from(!data.is_empty()));
            }
            // A change may have put a true datagram of this session in, and no other is believed.
            assert!(to.heard.drain(..).all(|heard| {
                let at = said.iter().position(|said| *said == heard);
                at.map(|at| said.remove(at)).is_some()
            }));
            self.keep(&sent);
        }
        pair.client.take();
        pair.server.take();
        pair.assert_works();
    }

    /// What arrives of these datagrams.
    fn travel(&mut self, wire: &Wire, changing: bool, sent: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut arrives = Vec::new();
        for datagram in sent {
            if self.rng.random_ratio(wire.loses, 100) {
                continue;
            }
            if changing && self.rng.random_ratio(wire.changes, 100) {
                self.counts.changed += 1;
                arrives.push(self.change(&datagram));
                // Sometimes the true one comes too, before or after.
                match self.rng.random_range(0..4) {
                    0 => arrives.push(datagram.clone()),
                    1 => arrives.insert(0, datagram.clone()),
                    _ => {}
                }
            } else {
                arrives.push(datagram.clone());
            }
            self.keep(&datagram);
        }
        if changing && self.rng.random_ratio(wire.changes, 300) && arrives.len() > 1 {
            let last = arrives.len() - 1;
            arrives.swap(0, last);
        }
        arrives
    }

    fn keep(&mut self, datagram: &[u8]) {
        if self.corpus.len() < CORPUS {
            self.corpus.push(datagram.to_vec());
        } else {
            let at = self.rng.random_range(0..CORPUS);
            self.corpus[at] = datagram.to_vec();
        }
    }

    /// The datagram with one to four changes.
    fn change(&mut self, datagram: &[u8]) -> Vec<u8> {
        let mut bytes = datagram.to_vec();
        for _ in 0..self.rng.random_range(1..=4) {
            self.change_once(&mut bytes);
        }
        bytes
    }

    fn change_once(&mut self, bytes: &mut Vec<u8>) {
        const INTERESTING: [u8; 9] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, 0x20, 0x0d];
        let end = bytes.len();
        if end == 0 {
            bytes.push(22);
            return;
        }
        let at = self.rng.random_range(0..end);
        let rng = &mut self.rng;
        match rng.random_range(0..11) {
            0 => bytes[at] ^= 1 << rng.random_range(0..8),
            1 => bytes[at] = rng.random(),
            2 => bytes[at] = INTERESTING[rng.random_range(0..INTERESTING.len())],
            3 => bytes[at] = bytes[at].wrapping_add(1),
            4 => bytes[at] = bytes[at].wrapping_sub(1),
            5 => bytes.truncate(at),
            6 => {
                // A piece is left out, and the lengths around it say so: the parsers behind the
                // framing are what this is about.
                let until = (at + rng.random_range(1..8)).min(end);
                bytes.drain(at..until);
                mend(bytes);
            }
            7 => {
                // A piece of another datagram is put in.
                let Some(other) = self.corpus.get(rng.random_range(0..CORPUS)) else {
                    return;
                };
                let from = rng.random_range(0..other.len());
                let until = (from + rng.random_range(1..40)).min(other.len());
                bytes.splice(at..at, other[from..until].iter().copied());
                if rng.random() {
                    mend(bytes);
                }
            }
            8 => {
                // A whole other datagram, in its place or behind.
                let Some(other) = self.corpus.get(rng.random_range(0..CORPUS)) else {
                    return;
                };
                if rng.random() {
                    bytes.extend(other);
                } else {
                    other.clone_into(bytes);
                }
            }
            9 => {
                // Two bytes that may well be a length.
                let value: u16 = [0, 1, 0xffff, 0x0800, 0x7fff, 12][rng.random_range(0..6)];
                if let Some(pair) = bytes.get_mut(at..at + 2) {
                    pair.copy_from_slice(&value.to_be_bytes());
                }
            }
            _ => {
                let piece: Vec<u8> = bytes[at..(at + 16).min(end)].to_vec();
                bytes.splice(at..at, piece);
                mend(bytes);
            }
        }
        bytes.truncate(4096);
    }
}

/// Makes the lengths of the first record, and of the handshake message in it, fit the datagram.
fn mend(bytes: &mut [u8]) {
    let Some(body) = bytes
        .len()
        .checked_sub(25)
        .and_then(|body| u16::try_from(body).ok())
    else {
        return;
    };
    bytes[11..13].copy_from_slice(&(body + 12).to_be_bytes());
    if bytes[0] == 22 && [bytes[3], bytes[4]] == [0, 0] {
        for at in [15, 23] {
            bytes[at..at + 2].copy_from_slice(&body.to_be_bytes());
        }
        bytes[14] = 0;
        bytes[22] = 0;
        bytes[19..22].fill(0);
    }
}
