//! All that is kept for one peer, and where it is found.

use crate::coap::dedup::{EXCHANGE_LIFETIME, Identity};
use crate::coap::endpoint::{ExchangeId, ObservationId};
use crate::coap::exchange::{Exchange, Phase, Transmission};
use crate::coap::observe::{Observation, Observer};
use crate::coap::types::{Peer, Token};
use crate::keyed::{HashKey, KeyedMap};
use crate::time::Instant;

/// The links to all peers.
///
/// A link has a slot, and an [`ExchangeId`] is the slot and a serial number in it, so an id leads
/// to its link without a map. A slot that is used again goes on counting, so ids stay unique.
pub(super) struct Links {
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    by_peer: KeyedMap<Peer, u32>,
}

struct Slot {
    serial: u32,
    link: Option<Box<Link>>,
}

/// One peer.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) next_message_id: u16,
    /// Until then the peer may remember Message IDs of ours, so the numbering may not begin anew.
    pub(super) remembered_until: Instant,
    /// In the order asked for: those under way, then those behind NSTART.
    pub(super) exchanges: Vec<Exchange>,
    /// Ours at the peer, sorted by token.
    pub(super) observations: Vec<Observation>,
    /// The peer's here, sorted by token.
    pub(super) observers: Vec<Observer>,
    /// Confirmable messages of ours that are no requests.
    pub(super) outgoing: Vec<Outgoing>,
    /// Confirmable notifications that we have not acknowledged.
    pub(super) receipts: Vec<OpenReceipt>,
    /// The peer does not listen: nothing is repeated to it.
    pub(super) quiet: bool,
}

/// A confirmable notification or separate response of ours.
pub(super) struct Outgoing {
    pub(super) transmission: Transmission,
    /// The observer, if it is a notification.
    pub(super) observer: Option<Token>,
}

/// A confirmable notification that waits for the layer above to take custody.
pub(super) struct OpenReceipt {
    pub(super) message_id: u16,
    /// The notification's observation and number, if it has one.
    pub(super) number: Option<(ObservationId, u32)>,
    /// From then on the peer may use the Message ID for another message.
    pub(super) expiry: Instant,
    /// What it was, if it ended its observation: a repetition will find none.
    pub(super) last: Option<Identity>,
}

impl Links {
    pub(super) fn new(key: HashKey) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_peer: KeyedMap::with_hasher(key),
        }
    }

    /// The slot of a peer, if something is kept for it.
    pub(super) fn slot(&self, peer: Peer) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// The link in a slot.
    pub(super) fn link(&mut self, slot: u32) -> Option<&mut Link> {
        self.slots.get_mut(slot as usize)?.link.as_deref_mut()
    }

    /// The exchange at a place in the link in a slot.
    pub(super) fn exchange(&mut self, slot: u32, at: usize) -> Option<&mut Exchange> {
        self.link(slot)?.exchanges.get_mut(at)
    }

    /// The slot of a peer, with a new link whose Message IDs begin at `message_id` if there is none.
    pub(super) fn open(&mut self, peer: Peer, message_id: u16) -> u32 {
        if let Some(slot) = self.slot(peer) {
            return slot;
        }
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                serial: 0,
                link: None,
            });
            (self.slots.len() - 1) as u32
        });
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.link = Some(Box::new(Link::new(peer, message_id)));
        }
        self.by_peer.insert(peer, slot);
        slot
    }

    /// A new id in a slot.
    pub(super) fn issue(&mut self, slot: u32) -> ExchangeId {
        let serial = self.slots.get_mut(slot as usize).map_or(0, |place| {
            place.serial = place.serial.wrapping_add(1);
            place.serial
        });
        ExchangeId(u64::from(slot) << 32 | u64::from(serial))
    }

    /// Closes the link in a slot if nothing is kept in it.
    pub(super) fn close_if_idle(&mut self, now: Instant, slot: u32) {
        let Some(place) = self.slots.get_mut(slot as usize) else {
            return;
        };
        if let Some(link) = place.link.take_if(|link| link.is_idle(now)) {
            self.by_peer.remove(&link.peer);
            self.vacant.push(slot);
        }
    }

    /// Gives the link of one peer to another, which keeps none of its own; its slot.
    pub(super) fn rename(&mut self, from: Peer, to: Peer) -> Option<u32> {
        let slot = self.by_peer.remove(&from)?;
        if let Some(old) = self.by_peer.insert(to, slot)
            && let Some(place) = self.slots.get_mut(old as usize)
        {
            place.link = None;
            self.vacant.push(old);
        }
        self.link(slot)?.peer = to;
        Some(slot)
    }

    /// The number of links.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_peer.len()
    }
}

/// The slot that an id names.
pub(super) const fn slot_of(id: ExchangeId) -> u32 {
    (id.0 >> 32) as u32
}

impl Link {
    fn new(peer: Peer, next_message_id: u16) -> Self {
        Self {
            peer,
            next_message_id,
            remembered_until: Instant::ZERO,
            exchanges: Vec::new(),
            observations: Vec::new(),
            observers: Vec::new(),
            outgoing: Vec::new(),
            receipts: Vec::new(),
            quiet: false,
        }
    }

    /// A Message ID for a message that goes out now. It is used again after 65536 others, so a
    /// peer that is sent more than 265 messages a second may see one within EXCHANGE_LIFETIME; one
    /// that still waits for its ACK is left out.
    pub(super) fn next_message_id(&mut self, now: Instant) -> u16 {
        self.remembered_until = now + EXCHANGE_LIFETIME;
        loop {
            let id = self.next_message_id;
            self.next_message_id = id.wrapping_add(1);
            if self.exchange_sent(id).is_none() && self.outgoing_sent(id).is_none() {
                return id;
            }
        }
    }

    /// Whether a token of ours is in use.
    pub(super) fn uses_token(&self, token: Token) -> bool {
        self.exchanges
            .iter()
            .any(|exchange| exchange.token == token)
            || self.observation(token).is_ok()
    }

    /// Where the exchange with this id is.
    pub(super) fn exchange(&self, id: ExchangeId) -> Option<usize> {
        self.exchanges.iter().position(|exchange| exchange.id == id)
    }

    /// Where the exchange with this token is, if its message went out.
    pub(super) fn exchange_asked(&self, token: Token) -> Option<usize> {
        self.exchanges.iter().position(|exchange| {
            exchange.token == token && !matches!(exchange.phase, Phase::Queued)
        })
    }

    /// Where the exchange is that waits for the ACK of this Message ID.
    pub(super) fn exchange_sent(&self, message_id: u16) -> Option<usize> {
        self.exchanges.iter().position(|exchange| {
            matches!(&exchange.phase, Phase::Sent(sent) if sent.message_id == message_id)
        })
    }

    /// Where the message is that waits for the ACK of this Message ID, and is no request.
    pub(super) fn outgoing_sent(&self, message_id: u16) -> Option<usize> {
        self.outgoing
            .iter()
            .position(|outgoing| outgoing.transmission.message_id == message_id)
    }

    /// Where the observation with this token is, or would have to be.
    pub(super) fn observation(&self, token: Token) -> Result<usize, usize> {
        self.observations
            .binary_search_by(|observation| observation.token.cmp(&token))
    }

    /// Where the observer with this token is, or would have to be.
    pub(super) fn observer(&self, token: Token) -> Result<usize, usize> {
        self.observers
            .binary_search_by(|observer| observer.token.cmp(&token))
    }

    /// Whether this confirmable notification waits to be acknowledged.
    pub(super) fn is_receipt_open(&self, now: Instant, message_id: u16) -> bool {
        self.receipts
            .iter()
            .any(|open| open.message_id == message_id && open.expiry > now)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.remembered_until <= now
            && self.exchanges.is_empty()
            && self.observations.is_empty()
            && self.observers.is_empty()
            && self.outgoing.is_empty()
            && self.receipts.iter().all(|open| open.expiry <= now)
    }
}

/// Inserts into a list that mostly holds very few, without spare room for more.
pub(super) fn insert_tight<T>(list: &mut Vec<T>, at: usize, item: T) {
    if list.len() < 4 {
        list.reserve_exact(1);
    }
    list.insert(at, item);
}

/// Removes from a list, and frees its memory with the last one.
pub(super) fn remove_tight<T>(list: &mut Vec<T>, at: usize) -> T {
    let item = list.remove(at);
    if list.is_empty() {
        *list = Vec::new();
    }
    item
}
