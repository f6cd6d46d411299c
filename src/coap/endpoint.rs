//! The message layer as the layers above see it.
//!
//! What we ask is in `asking` and `observing`, what we are asked in `answering` and `notifying`;
//! here are the border and the way from a datagram to either.

use std::collections::VecDeque;
use std::hash::BuildHasher;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::block::BlockSize;
use crate::coap::dedup::{Deduplication, Fate, Identity};
use crate::coap::exchange::{Phase, Purpose, Transmission};
use crate::coap::link::{Links, slot_of};
use crate::coap::message::{Kind, Malformed, Message, Parsed};
use crate::coap::transfer::{self, Budget, Transfers};
use crate::coap::types::{Code, Peer, Request, Response, Token};
use crate::keyed::HashKey;
use crate::time::Instant;
use crate::timers::Timers;

/// Transmission parameters (RFC 7252 §4.8).
#[derive(Clone, Debug)]
pub struct Parameters {
    /// ACK_TIMEOUT: the shortest first wait for an ACK. 2 s unless told otherwise.
    pub ack_timeout: Duration,
    /// ACK_RANDOM_FACTOR: the first wait is up to so many times longer, at least 1. 1.5.
    pub ack_random_factor: f32,
    /// MAX_RETRANSMIT: repetitions of a confirmable message, each after twice the wait. 4.
    pub max_retransmit: u8,
    /// NSTART: requests under way to one peer at a time, from their first message to the end of
    /// their response; at least 1. 1.
    ///
    /// This is stricter than RFC 7252 §4.7, where an empty ACK lets the next one go: a device in
    /// queue mode is to be asked one thing at a time (LwM2M Transport §6.5).
    pub nstart: usize,
    /// How long a request may wait for its separate response after the empty ACK. 93 s, which is
    /// MAX_TRANSMIT_WAIT.
    pub response_timeout: Duration,
    /// How long an incoming confirmable request may wait for our answer before an empty ACK is
    /// sent, and the response becomes a separate one. 1 s, half the least ACK_TIMEOUT.
    pub separate_after: Duration,
    /// Largest block that we send, 16 to 1024 bytes; what is no power of two is rounded down.
    /// 1024.
    pub block_size: u16,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            ack_timeout: Duration::from_secs(2),
            ack_random_factor: 1.5,
            max_retransmit: 4,
            nstart: 1,
            response_timeout: Duration::from_secs(93),
            separate_after: Duration::from_secs(1),
            block_size: 1024,
        }
    }
}

/// Caps on what peers can make grow.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Requests waiting behind NSTART, a peer. 64.
    pub queue_per_peer: usize,
    /// Messages remembered for deduplication, in all, each for up to 247 s. The cached replies may
    /// weigh 128 bytes a message on average. 500 000.
    pub deduplication: usize,
    /// Observations, in all, in both directions together. 1 000 000.
    pub observations: usize,
    /// Bytes of one request or response put together from blocks. 1 MiB.
    pub body: usize,
    /// Block-wise transfers under way, in all: bodies put together and responses kept for their
    /// further blocks. 4096.
    pub transfers: usize,
    /// Bytes of all these transfers together. 64 MiB.
    pub transfer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_per_peer: 64,
            deduplication: 500_000,
            observations: 1_000_000,
            body: 1 << 20,
            transfers: 4096,
            transfer_bytes: 64 << 20,
        }
    }
}

/// One of our requests under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// How far the body of a request has come (RFC 7959 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Bytes that the peer has.
    pub offset: usize,
    /// The size of the next block in bytes, a power of two from 16 to 1024.
    pub block_size: u16,
}

impl Position {
    /// The beginning, in the largest blocks.
    pub const START: Self = Self {
        offset: 0,
        block_size: 1024,
    };
}

/// A peer's request that waits for our response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IncomingId(pub u64);

/// An observation of ours at a peer. It is the id of the exchange that began it.
pub type ObservationId = ExchangeId;

/// What a confirmable notification waits for: see [`Endpoint::acknowledge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Who sent it.
    pub peer: Peer,
    /// Its Message ID.
    pub message_id: u16,
}

/// Why a request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// No ACK after the last retransmission: the peer is away (RFC 7252 §4.2).
    #[error("no answer")]
    Timeout,
    /// The peer acknowledged the request and then sent no response in
    /// [`Parameters::response_timeout`]: it is there, but did not answer.
    #[error("acknowledged, but no response in time")]
    NoResponse,
    /// The peer answered with Reset.
    #[error("reset by the peer")]
    Reset,
    /// A block-wise transfer could not be finished: inconsistent blocks, or larger than our limit.
    #[error("block-wise transfer failed")]
    Blockwise,
    /// [`Endpoint::abandon`] or [`Endpoint::forget_peer`].
    #[error("given up")]
    Abandoned,
}

/// The queue of a peer is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for this peer")]
pub struct Overload;

/// How to end an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancel {
    /// GET (or FETCH) with Observe = 1 and the same token (RFC 7641 §3.6).
    Request,
    /// Forget it; a further notification is answered with Reset.
    Forget,
}

/// What comes out of [`Endpoint::poll`].
#[derive(Debug)]
pub enum Output {
    /// Send this datagram.
    Datagram {
        /// To whom.
        peer: Peer,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
}

/// What the layer above has to know.
#[derive(Debug)]
pub enum Event {
    /// A peer asks; answer with [`Endpoint::respond`].
    Request {
        /// Who asks.
        peer: Peer,
        /// What to answer to.
        incoming: IncomingId,
        /// The request's token. With Observe it names the observer: see [`Endpoint::notify`].
        token: Token,
        /// The request, whole.
        request: Request,
    },
    /// The answer to [`Endpoint::request`], exactly one each. If the request asked to observe and
    /// `response.observe` is `Some`, the observation stands and goes by the same id.
    Response {
        /// Which request.
        exchange: ExchangeId,
        /// The response, whole, of whatever code; or why there is none.
        result: Result<Response, Failure>,
    },
    /// The peer has so much of the body of an [`Endpoint::upload`]. It may be less than before:
    /// the peer has lost what it had.
    Progress {
        /// Which request.
        exchange: ExchangeId,
        /// Where the next block begins.
        position: Position,
    },
    /// A notification, whole. One without Observe option or with an error code is the last: `ended`
    /// is true and the id is void.
    Notification {
        /// Which observation.
        observation: ObservationId,
        /// The notification. When the last one came in blocks that could not be fetched, it is
        /// 4.08 without payload.
        response: Response,
        /// Whether the observation is over.
        ended: bool,
        /// Whether a newer one came before it (RFC 7641 §3.4): what it says may not take the place
        /// of anything. One that came in blocks is dropped then.
        overtaken: bool,
        /// Present on a confirmable one: hand it to [`Endpoint::acknowledge`] in the end.
        receipt: Option<Receipt>,
    },
    /// Our notification was answered with Reset or not at all: the observer is gone (RFC 7641 §4.5).
    ObserverGone {
        /// The observer's address.
        peer: Peer,
        /// The token of its request.
        token: Token,
    },
}

/// What was dropped or repeated, by name. Each counts up from the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Datagrams that are no message, or a message of a form that may not be.
    pub malformed: u64,
    /// Datagrams of another version than 1, ignored (RFC 7252 §3).
    pub wrong_version: u64,
    /// Messages with an option that may not be ignored and is not understood (RFC 7252 §5.4.1).
    pub bad_options: u64,
    /// Pings answered (RFC 7252 §4.3).
    pub pings: u64,
    /// Requests and responses received again (RFC 7252 §4.5).
    pub duplicates: u64,
    /// Messages that deduplication forgot before their time, for want of room.
    pub deduplication_evicted: u64,
    /// ACKs and Resets that belong to nothing.
    pub unmatched: u64,
    /// Responses and notifications under a token that nobody waits for, answered with Reset.
    pub unknown_tokens: u64,
    /// Notifications that were overtaken by a newer one, or say the newest again (RFC 7641 §3.4).
    pub stale_notifications: u64,
    /// Confirmable notifications left unanswered, to be repeated: they repeat one that waits for
    /// its receipt, or too many wait already.
    pub withheld_notifications: u64,
    /// Notifications whose further blocks could not be fetched.
    pub lost_notifications: u64,
    /// Observations that did not come to stand because there are too many.
    pub refused_observations: u64,
    /// Confirmable messages sent again (RFC 7252 §4.2).
    pub retransmissions: u64,
    /// Confirmable messages never acknowledged.
    pub unacknowledged: u64,
    /// Requests refused because the peer's queue was full.
    pub overloads: u64,
    /// Request bodies refused for want of room, or larger than allowed.
    pub refused_transfers: u64,
    /// Request bodies whose blocks stopped coming.
    pub expired_transfers: u64,
}

/// What a deadline is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Timer {
    /// Retransmission, or the end of the wait for a separate response.
    Exchange(ExchangeId),
    /// Retransmission of what is no request: slot of the link, Message ID.
    Outgoing(u32, u16),
    /// The empty ACK of a request.
    Acknowledge(IncomingId),
    /// The link in this slot may be idle by now.
    Link(u32),
    /// Messages have become too old to be repeated.
    Deduplication,
    /// Transfers may have been idle for too long.
    Transfers,
}

/// One CoAP endpoint and all its peers, in both roles.
///
/// No call does input or output: after each, drain [`poll`](Self::poll), then call
/// [`timeout`](Self::timeout) at [`next_timeout`](Self::next_timeout). Time may stand still between
/// calls but not go back. With the same seed and the same calls the same comes out.
pub struct Endpoint {
    pub(super) parameters: Parameters,
    pub(super) limits: Limits,
    pub(super) block_size: BlockSize,
    pub(super) counters: Counters,
    pub(super) rng: StdRng,
    /// The time of the last call that told it.
    pub(super) now: Instant,
    pub(super) output: VecDeque<Output>,
    pub(super) timers: Timers<Timer>,
    pub(super) links: Links,
    pub(super) seen: Deduplication,
    pub(super) transfers: Transfers,
    pub(super) budget: Budget,
    pub(super) subject_key: HashKey,
    /// Observations in both directions.
    pub(super) observations: usize,
    /// The Observe number of the last notification that we sent.
    pub(super) observe_number: u32,
}

impl Endpoint {
    /// An endpoint without peers. All its randomness (tokens, Message IDs, jitter, hash keys) comes
    /// from `seed`, which must be unpredictable outside of tests.
    pub fn new(parameters: Parameters, limits: Limits, seed: [u8; 32]) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let mut key = || HashKey::generate(&mut rng);
        Self {
            timers: Timers::new(key()),
            links: Links::new(key()),
            seen: Deduplication::new(limits.deduplication, key()),
            transfers: Transfers::new(key()),
            budget: Budget::new(&limits),
            subject_key: key(),
            block_size: BlockSize::at_most(parameters.block_size.into()),
            counters: Counters::default(),
            now: Instant::ZERO,
            output: VecDeque::new(),
            observations: 0,
            observe_number: 0,
            parameters,
            limits,
            rng,
        }
    }

    /// Takes in a datagram. Whatever it holds, the outcome is output, or a count. Whether it was a
    /// message.
    pub fn receive(&mut self, now: Instant, peer: Peer, datagram: &[u8]) -> bool {
        self.now = now;
        match Message::parse(datagram) {
            Ok(parsed) => {
                self.dispatch(peer, parsed);
                return true;
            }
            Err(Malformed::Version) => self.counters.wrong_version += 1,
            Err(Malformed::Short) => self.counters.malformed += 1,
            Err(Malformed::Format { confirmable, id }) => {
                self.counters.malformed += 1;
                if confirmable {
                    self.send_empty(peer, Kind::Reset, id);
                }
            }
        }
        false
    }

    fn dispatch(&mut self, peer: Peer, parsed: Parsed) {
        let Parsed { message, fault } = parsed;
        match (message.code.class(), message.kind) {
            _ if message.code == Code::EMPTY => match message.kind {
                // A ping (RFC 7252 §4.3).
                Kind::Confirmable => {
                    self.counters.pings += 1;
                    self.send_empty(peer, Kind::Reset, message.id);
                }
                Kind::Acknowledgement => self.on_acknowledgement(peer, message.id),
                Kind::Reset => self.on_reset(peer, message.id),
                Kind::NonConfirmable => self.counters.malformed += 1,
            },
            // A Reset is Empty, and a request is no ACK (RFC 7252 §4.2, §4.3).
            (_, Kind::Reset) | (0, Kind::Acknowledgement) => self.counters.malformed += 1,
            (0, _) => self.on_request(peer, message, fault),
            _ => self.on_response(peer, message, fault),
        }
    }

    /// An empty ACK.
    fn on_acknowledgement(&mut self, peer: Peer, message_id: u16) {
        let Some(slot) = self.links.slot(peer) else {
            self.counters.unmatched += 1;
            return;
        };
        if !self.on_request_acknowledged(slot, message_id)
            && !self.on_outgoing_acknowledged(slot, message_id)
        {
            self.counters.unmatched += 1;
        }
    }

    fn on_reset(&mut self, peer: Peer, message_id: u16) {
        let Some(slot) = self.links.slot(peer) else {
            self.counters.unmatched += 1;
            return;
        };
        if !self.on_request_reset(slot, message_id) && !self.on_outgoing_reset(slot, message_id) {
            self.counters.unmatched += 1;
        }
    }

    /// Does what is due at `now`.
    pub fn timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some(timer) = self.timers.expire(now) {
            match timer {
                Timer::Exchange(id) => self.on_exchange_timeout(slot_of(id), id),
                Timer::Outgoing(slot, message_id) => self.on_outgoing_timeout(slot, message_id),
                Timer::Acknowledge(incoming) => self.on_answer_late(incoming),
                Timer::Link(slot) => self.links.close_if_idle(now, slot),
                Timer::Deduplication => {
                    self.seen.expire(now);
                    if let Some(next) = self.seen.next_expiry() {
                        self.timers.set(Timer::Deduplication, next);
                    }
                }
                Timer::Transfers => {
                    self.counters.expired_transfers += self.transfers.expire(now, &mut self.budget);
                    self.watch_transfers();
                }
            }
        }
    }

    /// The next datagram to send or event to tell, first in first out; `None` when all is done.
    pub fn poll(&mut self) -> Option<Output> {
        self.output.pop_front()
    }

    /// A peer does not listen: what is under way to it is not repeated. Its answers are taken all
    /// the same, and a request fails when it would have without this.
    pub fn hush(&mut self, peer: Peer) {
        self.set_quiet(peer, true);
    }

    /// A peer listens again: what would have been repeated meanwhile goes out now, under the
    /// Message ID that it had, so that the peer does nothing twice (RFC 7252 §4.5).
    pub fn resume(&mut self, now: Instant, peer: Peer) {
        self.now = now;
        self.set_quiet(peer, false);
        let exchanges = self.links.slot(peer).and_then(|slot| self.links.link(slot));
        let missed: Vec<Vec<u8>> = exchanges
            .into_iter()
            .flat_map(|link| &mut link.exchanges)
            .filter_map(|exchange| match &mut exchange.phase {
                Phase::Sent(sent) => {
                    std::mem::take(&mut sent.withheld).then(|| sent.datagram.clone())
                }
                _ => None,
            })
            .collect();
        for datagram in missed {
            self.counters.retransmissions += 1;
            self.send(peer, datagram);
        }
    }

    fn set_quiet(&mut self, peer: Peer, quiet: bool) {
        if let Some(slot) = self.links.slot(peer)
            && let Some(link) = self.links.link(slot)
        {
            link.quiet = quiet;
        }
    }

    /// When [`timeout`](Self::timeout) is to be called next.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Drops all that is kept for a peer: queue, exchanges (each ends with
    /// [`Failure::Abandoned`]), observations in both directions, transfers. What it has asked and
    /// not been answered may still be answered.
    pub fn forget_peer(&mut self, now: Instant, peer: Peer) {
        self.now = now;
        self.transfers.forget_peer(peer, &mut self.budget);
        let Some(slot) = self.links.slot(peer) else {
            return;
        };
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let exchanges = std::mem::take(&mut link.exchanges);
        let outgoing = std::mem::take(&mut link.outgoing);
        let ours = std::mem::take(&mut link.observations);
        let theirs = std::mem::take(&mut link.observers);
        link.receipts = Vec::new();
        self.observations -= ours.len() + theirs.len();
        for message in outgoing {
            let message_id = message.transmission.message_id;
            self.timers.cancel(&Timer::Outgoing(slot, message_id));
        }
        for mut exchange in exchanges {
            if matches!(exchange.purpose, Purpose::Rest { .. }) {
                self.discard(&mut exchange);
            } else {
                self.conclude(exchange, Err(Failure::Abandoned));
            }
        }
        self.links.close_if_idle(now, slot);
    }

    /// Carries over what is kept for one peer to another that is the same device by a new security
    /// association: requests and observations go on there. What belongs to the Message IDs of the
    /// old one (RFC 7252 §4.4) does not: custody of its notifications, and bodies half done.
    pub fn rebind(&mut self, now: Instant, from: Peer, to: Peer) {
        self.forget_peer(now, to);
        self.transfers.forget_peer(from, &mut self.budget);
        if let Some(slot) = self.links.rename(from, to)
            && let Some(link) = self.links.link(slot)
        {
            link.receipts = Vec::new();
        }
    }

    /// What was dropped or repeated so far.
    pub fn counters(&self) -> Counters {
        Counters {
            deduplication_evicted: self.seen.evicted,
            ..self.counters
        }
    }

    /// For how many peers anything is kept.
    #[cfg(test)]
    pub(crate) fn links(&self) -> usize {
        self.links.len()
    }

    pub(super) fn emit(&mut self, event: Event) {
        self.output.push_back(Output::Event(event));
    }

    pub(super) fn send(&mut self, peer: Peer, bytes: Vec<u8>) {
        self.output.push_back(Output::Datagram { peer, bytes });
    }

    pub(super) fn send_empty(&mut self, peer: Peer, kind: Kind, message_id: u16) {
        self.send(peer, Message::empty(kind, message_id));
    }

    /// The slot of a peer, with a link that is there for at least EXCHANGE_LIFETIME after the last
    /// Message ID was taken from it.
    pub(super) fn open_link(&mut self, peer: Peer) -> u32 {
        let first_message_id = self.rng.random();
        self.links.open(peer, first_message_id)
    }

    /// A Message ID of ours for this peer.
    pub(super) fn next_message_id(&mut self, slot: u32) -> u16 {
        let now = self.now;
        let Some(link) = self.links.link(slot) else {
            return 0;
        };
        let message_id = link.next_message_id(now);
        self.timers.set(Timer::Link(slot), link.remembered_until);
        message_id
    }

    /// A confirmable message as it is sent the first time (RFC 7252 §4.2).
    pub(super) fn first_transmission(
        &mut self,
        message_id: u16,
        datagram: Vec<u8>,
    ) -> Transmission {
        let most = self.parameters.ack_random_factor.max(1.0);
        let factor = self.rng.random_range(1.0..=most);
        Transmission {
            message_id,
            datagram,
            retransmissions: 0,
            withheld: false,
            timeout: self.parameters.ack_timeout.mul_f32(factor),
        }
    }

    /// What a repetition of this message would have in common with it.
    pub(super) fn identify(&self, peer: Peer, message: &Message) -> Identity {
        let Message {
            code,
            token,
            options,
            payload,
            ..
        } = message;
        let said = (code, token, &options.uri_path, &options.uri_query, payload);
        Identity {
            peer,
            message_id: message.id,
            fingerprint: self.subject_key.hash_one(said) as u32,
        }
    }

    /// Whether a peer sent this message before. If so it is answered as it was then.
    pub(super) fn is_repetition(&mut self, message: Identity) -> bool {
        let acknowledgement = || Message::empty(Kind::Acknowledgement, message.message_id);
        let reply = match self.seen.find(self.now, message) {
            None => return false,
            Some(Fate::Silence) => None,
            Some(Fate::Answered(datagram)) => Some(datagram.to_vec()),
            Some(Fate::Acknowledged) => Some(acknowledgement()),
            Some(Fate::Waiting(waiting)) => waiting.acknowledged.then(acknowledgement),
        };
        self.counters.duplicates += 1;
        if let Some(datagram) = reply {
            self.send(message.peer, datagram);
        }
        true
    }

    /// Remembers a message of a peer for deduplication.
    pub(super) fn remember(
        &mut self,
        message: Identity,
        lifetime: Duration,
        fate: Fate,
    ) -> IncomingId {
        let id = self.seen.insert(self.now, message, lifetime, fate);
        if !self.timers.is_set(&Timer::Deduplication)
            && let Some(next) = self.seen.next_expiry()
        {
            self.timers.set(Timer::Deduplication, next);
        }
        id
    }

    /// Sees to it that idle transfers are dropped. They are looked through in strides, so one may
    /// live a third longer than it has to.
    pub(super) fn watch_transfers(&mut self) {
        if !self.transfers.is_empty() && !self.timers.is_set(&Timer::Transfers) {
            self.timers
                .set(Timer::Transfers, self.now + transfer::IDLE / 3);
        }
    }
}
