//! One session without cryptography: its records, and what the mux calls.

use std::collections::VecDeque;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::dtls::record::{Cid, Reader, Record, content, records};
use crate::dtls::{Accept, DtlsSession, Event, Fatal, Keys, PeerIdentity, suite_name};
use crate::secret::Secret;
use crate::time::{Instant, Now};

/// Length of the checksum that stands for a MAC.
const TAG: usize = 8;

/// The key of a checksum.
pub(super) type Key = [u8; 16];

/// One end of a session.
pub(super) struct PlainSession {
    pub(super) stage: Stage,
    /// What only a handshake needs; gone once established.
    pub(super) handshake: Option<Box<Handshake>>,
    pub(super) is_server: bool,
    pub(super) suite: u16,
    /// What the peer's records carry; empty unless agreed.
    pub(super) own_cid: Vec<u8>,
    /// What the peer wants on ours.
    pub(super) peer_cid: Vec<u8>,
    pub(super) keys: Option<Keyed>,
    /// Numbers of the next records of epochs 0 and 1.
    next: [u64; 2],
    /// The newest number that came in epoch 1 plus one, and which of the 64 up to it came.
    window: (u64, u64),
    /// Whether application data has come.
    heard: bool,
    pub(super) out: VecDeque<Out>,
    lent: Vec<u8>,
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Server: nothing came yet.
    AwaitClientHello,
    /// Server: its hello is sent.
    AwaitFinished,
    /// Client: its hello is sent.
    AwaitServerHello,
    /// Client: all is sent.
    AwaitServerFinished,
    Established,
}

/// The state of a handshake.
pub(super) struct Handshake {
    pub(super) suites: Vec<u16>,
    /// Server: whom to ask for keys. Client: none.
    pub(super) lookup: Option<Arc<dyn Keys>>,
    /// Client: whether it offers connection IDs.
    pub(super) offers_cid: bool,
    pub(super) identity: Vec<u8>,
    /// The key of this identity, as far as there is one.
    pub(super) psk: Option<Secret>,
    pub(super) cookie: Vec<u8>,
    pub(super) random: [u8; 32],
    pub(super) peer_random: [u8; 32],
    pub(super) next_message: u16,
    pub(super) flight: Vec<Message>,
    pub(super) retransmit: Option<Instant>,
    pub(super) wait: Duration,
    pub(super) tries: u32,
}

/// Part of a flight.
pub(super) struct Message {
    pub(super) epoch: u16,
    pub(super) content: u8,
    pub(super) bytes: Vec<u8>,
}

/// The keys of both directions.
#[derive(Clone, Copy)]
pub(super) struct Keyed {
    pub(super) send: Key,
    pub(super) receive: Key,
}

pub(super) enum Out {
    Send(Vec<u8>),
    App(Vec<u8>),
    Established(PeerIdentity),
    Closed,
}

impl PlainSession {
    pub(super) fn accept(_now: Now, accept: Accept<'_>, suites: &[u16], random: [u8; 32]) -> Self {
        let mut session = Self::new(true, suites, accept.cid, random);
        if let Some(handshake) = &mut session.handshake {
            handshake.cookie = accept.cookie.to_vec();
            handshake.lookup = Some(accept.keys);
        }
        session
    }

    /// `cid` is what the server is to send; `None` offers no connection IDs in either direction.
    pub(super) fn connect(
        now: Now,
        (identity, key): (&[u8], &Secret),
        cid: Option<&[u8]>,
        suites: &[u16],
        random: [u8; 32],
    ) -> Self {
        let mut session = Self::new(false, suites, cid.unwrap_or_default(), random);
        if let Some(handshake) = &mut session.handshake {
            handshake.offers_cid = cid.is_some();
            handshake.identity = identity.to_vec();
            handshake.psk = Some(key.clone());
        }
        session.say_hello(now);
        session
    }

    fn new(is_server: bool, suites: &[u16], cid: &[u8], random: [u8; 32]) -> Self {
        Self {
            stage: if is_server {
                Stage::AwaitClientHello
            } else {
                Stage::AwaitServerHello
            },
            handshake: Some(Box::new(Handshake {
                suites: suites.to_vec(),
                lookup: None,
                offers_cid: true,
                identity: Vec::new(),
                psk: None,
                cookie: Vec::new(),
                random,
                peer_random: [0; 32],
                next_message: 0,
                flight: Vec::new(),
                retransmit: None,
                wait: Duration::from_secs(1),
                tries: 0,
            })),
            is_server,
            suite: 0,
            own_cid: cid.to_vec(),
            peer_cid: Vec::new(),
            keys: None,
            next: [0; 2],
            window: (0, 0),
            heard: false,
            out: VecDeque::new(),
            lent: Vec::new(),
        }
    }

    /// A record of ours.
    pub(super) fn seal(&mut self, epoch: u16, content: u8, bytes: &[u8]) -> Vec<u8> {
        let Some(next) = self.next.get_mut(usize::from(epoch)) else {
            return Vec::new();
        };
        let number = u64::from(epoch) << 48 | *next;
        *next += 1;
        let keys = self.keys.filter(|_| epoch > 0);
        let with_cid = keys.is_some() && !self.peer_cid.is_empty();
        let mut record = vec![if with_cid { content::CID } else { content }, 0xfe, 0xfd];
        record.extend(number.to_be_bytes());
        let mut fragment = bytes.to_vec();
        if with_cid {
            record.extend(&self.peer_cid);
            fragment.push(content);
        }
        if let Some(keys) = keys {
            let tag = checksum(&keys.send, &record, &fragment);
            fragment.extend(tag);
        }
        record.extend((fragment.len() as u16).to_be_bytes());
        record.extend(fragment);
        record
    }

    /// What is inside a protected record, if it is genuine and new.
    fn open(&mut self, record: &Record<'_>) -> Option<(u8, Vec<u8>)> {
        let keys = self.keys?;
        let cid = record.cid.as_ref().map_or(&[][..], Cid::as_slice);
        if cid != self.own_cid || record.epoch() != 1 {
            return None;
        }
        let (fragment, tag) = record
            .fragment
            .split_at_checked(record.fragment.len().checked_sub(TAG)?)?;
        let header = record
            .whole
            .get(..record.whole.len() - record.fragment.len() - 2)?;
        if checksum(&keys.receive, header, fragment) != tag || !self.is_new(record.number) {
            return None;
        }
        match (record.cid, fragment) {
            (None, _) => Some((record.content, fragment.to_vec())),
            (Some(_), [inner @ .., content]) => Some((*content, inner.to_vec())),
            (Some(_), []) => None,
        }
    }

    /// Whether this number has not come yet (RFC 6347 §4.1.2.6); it has, from now on.
    fn is_new(&mut self, number: u64) -> bool {
        let sequence = number & ((1 << 48) - 1);
        let (end, seen) = &mut self.window;
        if sequence >= *end {
            let ahead = sequence + 1 - *end;
            *seen = if ahead < 64 { *seen << ahead } else { 0 } | 1;
            *end = sequence + 1;
            return true;
        }
        let bit = 1_u64.checked_shl((*end - 1 - sequence).try_into().unwrap_or(64));
        match bit {
            Some(bit) if *seen & bit == 0 => {
                *seen |= bit;
                true
            }
            _ => false,
        }
    }

    fn receive(&mut self, now: Now, record: &Record<'_>) -> Result<(), Fatal> {
        if record.epoch() == 0 {
            return match self.stage {
                // Anybody can write these.
                Stage::Established => Ok(()),
                _ => self.shake_hands(now, record),
            };
        }
        let Some((content, bytes)) = self.open(record) else {
            return self.refuse(record);
        };
        match (self.stage, content) {
            (Stage::Established, content::APPLICATION_DATA) => {
                self.heard = true;
                self.out.push_back(Out::App(bytes));
                Ok(())
            }
            (_, content::ALERT) => match bytes.get(..2) {
                Some([_, 0]) => {
                    self.out.push_back(Out::Closed);
                    Ok(())
                }
                Some([2, alert]) => Err(Fatal::Alert(*alert)),
                _ => Ok(()),
            },
            (_, content::HANDSHAKE) => {
                self.finished(&bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Reads what [`save`](DtlsSession::save) wrote.
    pub(super) fn restore(saved: &[u8]) -> Option<Self> {
        let mut from = Reader(saved);
        let mut session = Self::new(from.uint(1)? == 1, &[], &[], [0; 32]);
        session.stage = Stage::Established;
        session.handshake = None;
        session.suite = from.uint(2)? as u16;
        session.own_cid = from.vector(1)?.to_vec();
        session.peer_cid = from.vector(1)?.to_vec();
        session.keys = Some(Keyed {
            send: from.array()?,
            receive: from.array()?,
        });
        session.next = [from.uint(8)?, from.uint(8)?];
        session.window = (from.uint(8)?, from.uint(8)?);
        from.0.is_empty().then_some(session)
    }
}

/// What stands for a MAC.
fn checksum(key: &Key, header: &[u8], fragment: &[u8]) -> [u8; TAG] {
    let mut hasher = SipHasher13::new_with_key(key);
    hasher.write(header);
    hasher.write(fragment);
    hasher.finish().to_be_bytes()
}

impl DtlsSession for PlainSession {
    fn datagram(&mut self, now: Now, datagram: &[u8]) -> Result<(), Fatal> {
        records(datagram).try_for_each(|record| self.receive(now, &record))
    }

    fn timeout(&mut self, now: Now) -> Result<(), Fatal> {
        self.retransmit(now)
    }

    fn poll(&mut self) -> Event<'_> {
        match self.out.pop_front() {
            Some(Out::Send(bytes)) => {
                self.lent = bytes;
                Event::Send(&self.lent)
            }
            Some(Out::App(bytes)) => {
                self.lent = bytes;
                Event::App(&self.lent)
            }
            Some(Out::Established(identity)) => Event::Established(identity),
            Some(Out::Closed) => Event::Closed,
            None => Event::Wait(self.handshake.as_ref().and_then(|at| at.retransmit)),
        }
    }

    fn send(&mut self, application_data: &[u8]) -> Result<(), Fatal> {
        let record = self.seal(1, content::APPLICATION_DATA, application_data);
        self.out.push_back(Out::Send(record));
        Ok(())
    }

    fn close(&mut self) {
        let record = self.seal(1, content::ALERT, &[1, 0]);
        self.out.push_back(Out::Send(record));
    }

    fn peer_cid(&self) -> &[u8] {
        &self.peer_cid
    }

    fn suite(&self) -> &'static str {
        suite_name(self.suite).unwrap_or_default()
    }

    fn save(self: Box<Self>) -> Option<Secret> {
        let keys = self.keys?;
        if self.stage != Stage::Established || !self.heard {
            return None;
        }
        let mut to = vec![u8::from(self.is_server)];
        to.extend(self.suite.to_be_bytes());
        for cid in [&self.own_cid, &self.peer_cid] {
            to.push(u8::try_from(cid.len()).ok()?);
            to.extend(cid);
        }
        to.extend(keys.send);
        to.extend(keys.receive);
        let (end, seen) = self.window;
        for number in [self.next[0], self.next[1], end, seen] {
            to.extend(number.to_be_bytes());
        }
        Some(Secret::new(to))
    }
}
