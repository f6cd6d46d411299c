//! Messages of peers that may be repeated, and what each was answered with (RFC 7252 §4.5).

use std::collections::VecDeque;
use std::time::Duration;

use crate::coap::block::Block;
use crate::coap::endpoint::IncomingId;
use crate::coap::transfer::Subject;
use crate::coap::types::{Observe, Peer, Token};
use crate::keyed::{HashKey, KeyedMap};
use crate::time::Instant;

/// EXCHANGE_LIFETIME: how long the Message ID of a confirmable message stands for it.
pub(super) const EXCHANGE_LIFETIME: Duration = Duration::from_secs(247);
/// NON_LIFETIME: the same of a non-confirmable message.
const NON_LIFETIME: Duration = Duration::from_secs(145);

/// Replies may weigh this much a remembered message on average; above it the oldest go.
const AVERAGE_REPLY: usize = 128;
/// Expired entries are removed in strides, not each at its own instant.
const STRIDE: Duration = Duration::from_secs(1);

/// The messages remembered, oldest first.
pub(super) struct Deduplication {
    by_id: KeyedMap<(Peer, u16), u64>,
    entries: VecDeque<Entry>,
    /// The serial number of the first of `entries`.
    first: u64,
    limit: usize,
    reply_bytes: usize,
    /// How many went before their time.
    pub(super) evicted: u64,
}

/// What a message and its repetition have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) peer: Peer,
    pub(super) message_id: u16,
    /// A digest of what the message says. A device that restarts may number its messages from the
    /// same start again; another message under an old number is no repetition.
    pub(super) fingerprint: u32,
}

struct Entry {
    identity: Identity,
    expiry: Instant,
    fate: Fate,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Fate {
    /// A request that waits for its response.
    Waiting(Box<Waiting>),
    /// A repetition is ignored.
    Silence,
    /// A repetition is answered with an empty ACK.
    Acknowledged,
    /// A repetition is answered with this datagram.
    Answered(Box<[u8]>),
}

/// What is needed to answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) peer: Peer,
    pub(super) message_id: u16,
    pub(super) confirmable: bool,
    /// The empty ACK went out, so the response will be a separate one.
    pub(super) acknowledged: bool,
    pub(super) token: Token,
    pub(super) subject: Subject,
    pub(super) observe: Option<Observe>,
    pub(super) block1: Option<Block>,
    pub(super) block2: Option<Block>,
}

impl Waiting {
    /// What its transfers are known by.
    pub(super) fn key(&self) -> (Peer, Subject) {
        (self.peer, self.subject)
    }
}

/// How long a message may be repeated.
pub(super) const fn lifetime(confirmable: bool) -> Duration {
    if confirmable {
        EXCHANGE_LIFETIME
    } else {
        NON_LIFETIME
    }
}

impl Deduplication {
    /// Remembers nothing yet, and later up to `limit` messages, at least one.
    pub(super) fn new(limit: usize, key: HashKey) -> Self {
        Self {
            by_id: KeyedMap::with_hasher(key),
            entries: VecDeque::new(),
            first: 0,
            limit: limit.max(1),
            reply_bytes: 0,
            evicted: 0,
        }
    }

    /// What became of a message, if it was here before and may still be repeated.
    pub(super) fn find(&mut self, now: Instant, message: Identity) -> Option<&Fate> {
        let serial = *self.by_id.get(&(message.peer, message.message_id))?;
        let entry = self.entry(serial)?;
        (entry.identity == message && entry.expiry > now).then_some(&entry.fate)
    }

    /// Remembers a message for `lifetime`, in place of an earlier one with its id.
    pub(super) fn insert(
        &mut self,
        now: Instant,
        message: Identity,
        lifetime: Duration,
        fate: Fate,
    ) -> IncomingId {
        self.reply_bytes += fate.weight();
        let serial = self.first + self.entries.len() as u64;
        self.entries.push_back(Entry {
            identity: message,
            expiry: now + lifetime,
            fate,
        });
        self.by_id
            .insert((message.peer, message.message_id), serial);
        self.shrink_to_limit();
        IncomingId(serial)
    }

    /// The request that waits under this id.
    pub(super) fn waiting(&mut self, id: IncomingId) -> Option<&mut Waiting> {
        match &mut self.entry(id.0)?.fate {
            Fate::Waiting(waiting) => Some(waiting),
            _ => None,
        }
    }

    /// Settles the fate of the request that waited under this id.
    pub(super) fn settle(&mut self, id: IncomingId, fate: Fate) {
        let weight = fate.weight();
        if let Some(entry) = self.entry(id.0) {
            let before = std::mem::replace(&mut entry.fate, fate).weight();
            self.reply_bytes = self.reply_bytes + weight - before;
            self.shrink_to_limit();
        }
    }

    /// Forgets the request that waited under this id: a repetition is a request of its own.
    pub(super) fn forget(&mut self, id: IncomingId) {
        if let Some(entry) = self.entry(id.0) {
            let key = (entry.identity.peer, entry.identity.message_id);
            if self.by_id.get(&key) == Some(&id.0) {
                self.by_id.remove(&key);
            }
            self.settle(id, Fate::Silence);
        }
    }

    /// Forgets what is too old to be repeated.
    pub(super) fn expire(&mut self, now: Instant) {
        while self
            .entries
            .front()
            .is_some_and(|entry| entry.expiry <= now)
        {
            self.pop();
        }
        // The memory of a burst is given back.
        if self.entries.capacity() > 4 * self.entries.len() + 1024 {
            self.entries.shrink_to(2 * self.entries.len());
            self.by_id.shrink_to(2 * self.by_id.len());
        }
    }

    /// When [`expire`](Self::expire) has something to do again.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.entries.front().map(|entry| entry.expiry + STRIDE)
    }

    /// The number of messages remembered.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&mut self, serial: u64) -> Option<&mut Entry> {
        let at = usize::try_from(serial.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    fn shrink_to_limit(&mut self) {
        // The newest stays, whatever it weighs.
        while self.entries.len() > self.limit
            || self.entries.len() > 1 && self.reply_bytes > self.limit.max(64) * AVERAGE_REPLY
        {
            self.pop();
            self.evicted += 1;
        }
    }

    fn pop(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.reply_bytes -= entry.fate.weight();
            let key = (entry.identity.peer, entry.identity.message_id);
            if self.by_id.get(&key) == Some(&self.first) {
                self.by_id.remove(&key);
            }
            self.first += 1;
        }
    }
}

impl Fate {
    fn weight(&self) -> usize {
        match self {
            Self::Answered(datagram) => datagram.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;
    use crate::route::Route;

    fn deduplication(limit: usize) -> Deduplication {
        Deduplication::new(limit, HashKey::generate(&mut StdRng::from_seed([1; 32])))
    }

    fn peer(port: u16) -> Peer {
        Peer::Route(Route {
            listener: 0,
            address: ([127, 0, 0, 1], port).into(),
        })
    }

    fn message(port: u16, message_id: u16) -> Identity {
        Identity {
            peer: peer(port),
            message_id,
            fingerprint: 0,
        }
    }

    fn after(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    #[test]
    fn a_message_is_remembered_by_peer_and_id_until_its_lifetime_ends() {
        let mut seen = deduplication(10);
        seen.insert(
            after(0),
            message(1, 7),
            EXCHANGE_LIFETIME,
            Fate::Acknowledged,
        );
        assert!(seen.find(after(246), message(1, 7)).is_some());
        assert!(seen.find(after(246), message(2, 7)).is_none());
        assert!(seen.find(after(246), message(1, 8)).is_none());
        assert!(seen.find(after(247), message(1, 7)).is_none());
    }

    #[test]
    fn an_id_used_again_after_its_lifetime_is_a_new_message() {
        let mut seen = deduplication(10);
        seen.insert(after(0), message(1, 1), EXCHANGE_LIFETIME, Fate::Silence);
        seen.insert(after(1), message(1, 7), NON_LIFETIME, Fate::Silence);
        assert!(seen.find(after(147), message(1, 7)).is_none());
        seen.insert(after(147), message(1, 7), NON_LIFETIME, Fate::Acknowledged);
        seen.expire(after(250));
        assert!(matches!(
            seen.find(after(250), message(1, 7)),
            Some(Fate::Acknowledged)
        ));
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn another_message_under_the_same_id_is_no_repetition() {
        let mut seen = deduplication(10);
        let before = message(1, 7);
        let after_restart = Identity {
            fingerprint: 1,
            ..before
        };
        seen.insert(after(0), before, EXCHANGE_LIFETIME, Fate::Silence);
        assert!(seen.find(after(1), after_restart).is_none());
        seen.insert(after(1), after_restart, EXCHANGE_LIFETIME, Fate::Silence);
        assert!(seen.find(after(2), after_restart).is_some());
        seen.expire(after(247));
        assert!(seen.find(after(247), after_restart).is_some());
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_or_too_heavy_ones() {
        let mut seen = deduplication(64);
        for id in 0..200 {
            seen.insert(after(0), message(1, id), EXCHANGE_LIFETIME, Fate::Silence);
        }
        assert_eq!((seen.len(), seen.evicted), (64, 136));
        assert!(seen.find(after(0), message(1, 135)).is_none());
        assert!(seen.find(after(0), message(1, 136)).is_some());
        assert_eq!(seen.by_id.len(), 64);

        for id in 0..20 {
            let heavy = Fate::Answered(vec![0; 1024].into());
            seen.insert(after(0), message(2, id), EXCHANGE_LIFETIME, heavy);
        }
        assert_eq!(seen.len(), 64 * AVERAGE_REPLY / 1024);
        seen.expire(after(300));
        assert_eq!((seen.len(), seen.reply_bytes, seen.by_id.len()), (0, 0, 0));
    }
}
