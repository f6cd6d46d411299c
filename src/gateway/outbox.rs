//! The messages that the gateway has accepted and the broker has not.
//!
//! The outbox, not the MQTT client, is the source of truth: a message leaves it when the broker has
//! acknowledged it, or by name in [`Counters`], and in no other way. A client library may forget what
//! it likes when a connection ends.
//!
//! Messages go out in the order of acceptance, whatever their topic; but events and samples that have
//! waited for a connection take turns with values, so that these are not late. A newer value of a waiting
//! [`Class::State`] topic takes the place of the one that waits, not a new place at the end: so a
//! topic that changes all the time is still sent once a round, and the order of the others stands.
//! A retained message whose own place matters (one that must not overtake what was accepted before
//! it) is a [`Class::Event`].
//!
//! What was sent and not acknowledged when a connection ends is sent again: the same packets when
//! the broker kept the session (MQTT 5 §4.4 demands it), else first in the queue. An unacknowledged
//! value gives way to a newer one of its topic, sent or waiting, also where §4.4 would have it sent
//! again: a retained value must not go back, and at QoS 1 a broker keeps nothing that could miss it.
//!
//! A broker may end the connection rather than refuse a message (3.1.1 has no other way), for ever.
//! So when connections end without one acknowledgement, messages are sent one by one, and one that
//! ends the connection alone, time and again, is refused by name.
//!
//! Somebody may wait for a message to be safe: a [`Hold`]. It is let go when the message is
//! acknowledged, when nothing can be done for it any more, or when [`Outbox::spool`] has given it
//! to whoever writes it down. What is written down stays here all the same: the disk is a copy.

mod holding;
mod report;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rand::Rng;

pub use holding::{Hold, Waiting};
pub use report::{Counters, Depth, Refusal, Refused, Rejected};

use super::publish::{Class, Publish, Qos};
use crate::keyed::{self, KeyedMap};

/// The largest packet that MQTT can express (MQTT 5 §2.1.4), in bytes.
const PACKET_MAX: usize = 268_435_460;

/// How many connections in a row may end without one acknowledgement before messages are sent one
/// by one, and then again before the one that was sent alone is given up.
const ATTEMPTS: u32 = 3;

/// How many refusals wait to be announced; further ones are counted only.
const REFUSALS_KEPT: usize = 64;

/// What the outbox may hold.
///
/// Waiting state is not limited here: it is bounded by the number of topics, which the caps on
/// devices bound, and is never dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Unacknowledged messages at a time; the broker's Receive Maximum may lower it. At least 1.
    pub window: u16,
    /// Waiting events and samples, in memory and in the spool alike.
    pub queued: usize,
    /// Bytes of waiting events and samples, topics and payloads together.
    pub queued_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            window: 100,
            queued: 1_000_000,
            queued_bytes: 64 << 20,
        }
    }
}

/// What the broker permits on this connection, from its CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The broker still holds the session, so unacknowledged packets are sent again as they were.
    pub resumed: bool,
    /// Unacknowledged QoS 1 messages it takes at a time (MQTT 5 §3.2.2.3.3).
    pub receive_maximum: u16,
    /// In bytes; `None` is the most that MQTT can express (MQTT 5 §3.2.2.3.6).
    pub maximum_packet_size: Option<u32>,
    /// Whether it takes retained messages (MQTT 5 §3.2.2.3.5).
    pub retain_available: bool,
    /// The highest QoS it takes (MQTT 5 §3.2.2.3.4).
    pub maximum_qos: Qos,
}

impl Default for Session {
    /// A broker that announces nothing, as every 3.1.1 broker.
    fn default() -> Self {
        Self {
            resumed: false,
            receive_maximum: u16::MAX,
            maximum_packet_size: None,
            retain_available: true,
            maximum_qos: Qos::AtLeastOnce,
        }
    }
}

/// Names one accepted message until it is delivered, refused or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(i64);

impl Ticket {
    /// The number under which a message is in the spool: a later message has a higher one.
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The ticket of a number.
    pub(super) const fn of(number: i64) -> Self {
        Self(number)
    }
}

/// A message to send now, as the broker permits it.
#[derive(Clone, Copy, Debug)]
pub struct Outgoing<'a> {
    /// To be given back with the broker's answer. Means nothing at QoS 0.
    pub ticket: Ticket,
    /// What to send.
    pub publish: &'a Publish,
    /// Its QoS, lowered to what the broker takes.
    pub qos: Qos,
    /// Its retain flag, lowered to what the broker takes.
    pub retain: bool,
}

/// A message and its place: tickets grow in the order of sending.
#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    publish: Publish,
    /// Whether it is in the spool.
    spooled: bool,
    /// Who waits for it to be safe.
    holds: Vec<Hold>,
}

impl Entry {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.publish.topic.len() + self.publish.payload.len()
    }
}

/// Waiting values, one a topic, found by topic in constant time.
struct States {
    queue: VecDeque<Entry>,
    /// Position of each topic; the front of the queue has position `front`.
    positions: KeyedMap<Arc<str>, i64>,
    front: i64,
}

impl States {
    fn waiting(&mut self, topic: &str) -> Option<&mut Entry> {
        let position = *self.positions.get(topic)?;
        let index = usize::try_from(position - self.front).ok()?;
        self.queue.get_mut(index)
    }

    fn push_back(&mut self, entry: Entry) {
        let position = self.front + self.queue.len() as i64;
        self.positions.insert(entry.publish.topic.clone(), position);
        self.queue.push_back(entry);
    }

    fn push_front(&mut self, entry: Entry) {
        self.front -= 1;
        self.positions
            .insert(entry.publish.topic.clone(), self.front);
        self.queue.push_front(entry);
    }

    fn pop_front(&mut self) -> Option<Entry> {
        let entry = self.queue.pop_front()?;
        self.front += 1;
        self.positions.remove(&entry.publish.topic);
        Some(entry)
    }
}

/// See the [module](self).
pub struct Outbox {
    limits: Limits,
    /// `None` while the broker is away.
    session: Option<Session>,
    states: States,
    events: VecDeque<Entry>,
    samples: VecDeque<Entry>,
    /// Bytes of `events` and `samples`.
    bytes: usize,
    /// Sent on this connection, then, of a session that was resumed, still to be sent again.
    in_flight: VecDeque<Entry>,
    /// How many of `in_flight` were sent on this connection.
    sent: usize,
    /// The QoS 0 message lent out by the last [`Outbox::poll`].
    handed: Option<Entry>,
    /// Whether the broker acknowledged anything on this connection.
    progress: bool,
    /// Connections in a row that ended without progress.
    fruitless: u32,
    /// Messages still to be sent one by one, to find the one that ends connections.
    suspects: usize,
    first_ticket: i64,
    last_ticket: i64,
    /// What was accepted up to here is played back: it has waited for a connection.
    backlog: i64,
    /// Whether what was sent last was of the backlog.
    played_back: bool,
    /// Those who need not wait any more.
    released: VecDeque<Hold>,
    /// How many messages are in the spool.
    spooled: usize,
    /// Whether messages of the spool have left, events first, then samples.
    departed: [bool; 2],
    refusals: VecDeque<Refusal>,
    counters: Counters,
}

impl Outbox {
    /// An empty outbox, the broker away. Topics carry names that devices choose, so the table of
    /// topics is keyed from `rng`.
    pub fn new(limits: Limits, rng: &mut impl Rng) -> Self {
        Self {
            limits,
            session: None,
            states: States {
                queue: VecDeque::new(),
                positions: keyed::map(rng),
                front: 0,
            },
            events: VecDeque::new(),
            samples: VecDeque::new(),
            bytes: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            handed: None,
            progress: false,
            fruitless: 0,
            suspects: 0,
            first_ticket: 0,
            last_ticket: 0,
            backlog: 0,
            played_back: false,
            released: VecDeque::new(),
            spooled: 0,
            departed: [false; 2],
            refusals: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Accepts a message for delivery, behind what waits.
    ///
    /// A value that replaces a waiting one gets that one's ticket and place. When the outbox is
    /// full, the oldest waiting samples give way.
    ///
    /// # Errors
    ///
    /// What is rejected was not accepted, is counted, and is the caller's again.
    pub fn push(&mut self, publish: Publish) -> Result<Ticket, Rejected> {
        self.accept(publish, false, None)
    }

    /// As [`Outbox::push`], but ahead of what waits: for `bridge/state` after a long absence.
    ///
    /// # Errors
    ///
    /// As [`Outbox::push`].
    pub fn push_first(&mut self, publish: Publish) -> Result<Ticket, Rejected> {
        self.accept(publish, true, None)
    }

    fn accept(
        &mut self,
        publish: Publish,
        first: bool,
        hold: Option<Hold>,
    ) -> Result<Ticket, Rejected> {
        if !publish.is_expressible() {
            self.counters.rejected_malformed += 1;
            return Err(Rejected::Malformed);
        }
        if publish.class == Class::State {
            if let Some(waiting) = self.states.waiting(&publish.topic) {
                let origin = publish.origin.or(waiting.publish.origin);
                waiting.publish = Publish { origin, ..publish };
                waiting.holds.extend(hold);
                let ticket = waiting.ticket;
                self.counters.accepted += 1;
                self.counters.coalesced += 1;
                return Ok(ticket);
            }
        } else if publish.qos == Qos::AtMostOnce && self.session.is_none() {
            self.counters.rejected_away += 1;
            return Err(Rejected::Away);
        }
        let ticket = if first {
            self.first_ticket -= 1;
            Ticket(self.first_ticket)
        } else {
            self.last_ticket += 1;
            Ticket(self.last_ticket)
        };
        let entry = Entry {
            ticket,
            publish,
            spooled: false,
            holds: hold.into_iter().collect(),
        };
        if entry.publish.class != Class::State {
            self.make_room(entry.weight())?;
        }
        self.counters.accepted += 1;
        if first {
            self.put_first(entry);
        } else {
            self.put_last(entry);
        }
        Ok(ticket)
    }

    /// Drops the oldest samples until `weight` more bytes fit.
    fn make_room(&mut self, weight: usize) -> Result<(), Rejected> {
        if weight > self.limits.queued_bytes {
            self.counters.rejected_full += 1;
            return Err(Rejected::Full);
        }
        while self.events.len() + self.samples.len() >= self.limits.queued
            || self.bytes.saturating_add(weight) > self.limits.queued_bytes
        {
            let Some(mut oldest) = self.samples.pop_front() else {
                self.counters.rejected_full += 1;
                return Err(Rejected::Full);
            };
            self.bytes -= oldest.weight();
            self.counters.dropped_samples += 1;
            self.leave(&mut oldest);
        }
        Ok(())
    }

    fn put_last(&mut self, entry: Entry) {
        match entry.publish.class {
            Class::State => self.states.push_back(entry),
            Class::Event => {
                self.bytes += entry.weight();
                self.events.push_back(entry);
            }
            Class::Sample => {
                self.bytes += entry.weight();
                self.samples.push_back(entry);
            }
        }
    }

    fn put_first(&mut self, entry: Entry) {
        match entry.publish.class {
            Class::State => self.states.push_front(entry),
            Class::Event => {
                self.bytes += entry.weight();
                self.events.push_front(entry);
            }
            Class::Sample => {
                self.bytes += entry.weight();
                self.samples.push_front(entry);
            }
        }
    }

    /// The broker is there. Unacknowledged messages are due again before all others.
    pub fn connected(&mut self, session: Session) {
        self.disconnected();
        self.session = Some(session);
        self.progress = false;
        self.backlog = self.last_ticket;
        self.forget_overtaken();
        self.counters.due_again += self.in_flight.len() as u64;
        if session.resumed && session.maximum_qos == Qos::AtLeastOnce {
            return;
        }
        for entry in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.put_first(entry);
        }
    }

    /// Drops the unacknowledged values that a newer message of their topic follows. The broker may
    /// have that one already, and sent again the older would take its place for a while.
    fn forget_overtaken(&mut self) {
        let mut retained = BTreeSet::new();
        let mut due: VecDeque<Entry> = VecDeque::with_capacity(self.in_flight.len());
        for entry in std::mem::take(&mut self.in_flight).into_iter().rev() {
            let publish = &entry.publish;
            if publish.class == Class::State {
                let newer = match self.states.waiting(&publish.topic) {
                    Some(waiting) => Some(waiting),
                    None if retained.contains(&publish.topic) => due
                        .iter_mut()
                        .find(|newer| newer.publish.retain && newer.publish.topic == publish.topic),
                    None => None,
                };
                if let Some(newer) = newer {
                    // Whoever waits for the older one waits for the newer one now.
                    newer.holds.extend(entry.holds);
                    self.counters.coalesced += 1;
                    continue;
                }
            }
            if publish.retain {
                retained.insert(publish.topic.clone());
            }
            due.push_front(entry);
        }
        self.in_flight = due;
    }

    /// The broker is away until the next [`Outbox::connected`].
    pub fn disconnected(&mut self) {
        if self.session.take().is_some() && self.sent > 0 {
            self.suspect();
        }
        self.sent = 0;
    }

    /// A connection ended with messages unacknowledged: one of them may be the reason.
    fn suspect(&mut self) {
        self.fruitless = if self.progress { 0 } else { self.fruitless + 1 };
        if self.fruitless < ATTEMPTS {
            return;
        }
        self.fruitless = 0;
        if self.suspects == 0 {
            self.suspects = self.in_flight.len();
        } else if let Some(mut entry) = self.in_flight.pop_front() {
            self.suspects -= 1;
            self.refuse(&mut entry, Refused::Unanswered);
        }
    }

    fn window(&self, session: &Session) -> usize {
        if self.suspects > 0 {
            return 1;
        }
        usize::from(self.limits.window.min(session.receive_maximum).max(1))
    }

    /// The next message to send, if the broker is there and its window has room.
    ///
    /// At QoS 0 the message is gone with the next call. At QoS 1 it stays until
    /// [`Outbox::delivered`] or [`Outbox::refused`].
    pub fn poll(&mut self) -> Option<Outgoing<'_>> {
        let session = self.session?;
        self.handed = None;
        let window = self.window(&session);
        loop {
            let again = self.in_flight.get(self.sent);
            let (entry, class) = match again {
                Some(entry) => (entry, None),
                None => {
                    let class = self.next_class()?;
                    (self.front(class)?, Some(class))
                }
            };
            let qos = entry.publish.qos.min(session.maximum_qos);
            if qos == Qos::AtLeastOnce && self.sent >= window {
                return None;
            }
            let size = entry.publish.packet_len();
            let limit = session
                .maximum_packet_size
                .map_or(PACKET_MAX, |limit| limit as usize);
            let fits = size <= limit;
            match class {
                None if fits => self.sent += 1,
                None => {
                    let mut entry = self.in_flight.remove(self.sent)?;
                    self.refuse(&mut entry, Refused::TooLarge { size, limit });
                    continue;
                }
                Some(class) => {
                    let mut entry = self.take_first(class)?;
                    if !fits {
                        self.refuse(&mut entry, Refused::TooLarge { size, limit });
                        continue;
                    }
                    if qos == Qos::AtLeastOnce {
                        self.in_flight.push_back(entry);
                        self.sent += 1;
                    } else {
                        // Safe once it is handed over: so the mapping, or the broker, wants it.
                        self.leave(&mut entry);
                        self.handed = Some(entry);
                    }
                }
            }
            break;
        }
        let entry = match &self.handed {
            Some(entry) => entry,
            None => self.in_flight.get(self.sent - 1)?,
        };
        let publish = &entry.publish;
        let qos = publish.qos.min(session.maximum_qos);
        let retain = publish.retain && session.retain_available;
        self.counters.sent += 1;
        self.counters.downgraded += u64::from(qos != publish.qos);
        self.counters.unretained += u64::from(retain != publish.retain);
        Some(Outgoing {
            ticket: entry.ticket,
            publish,
            qos,
            retain,
        })
    }

    /// Whose turn it is. In the order of acceptance; but what has waited for a connection takes
    /// turns with values, and history with events, so that those are not late for its sake.
    fn next_class(&mut self) -> Option<Class> {
        let fronts = [Class::State, Class::Event, Class::Sample]
            .map(|class| Some((self.front(class)?.ticket, class)));
        let (ticket, class) = fronts.into_iter().flatten().min_by_key(|front| front.0)?;
        let is_backlog = |ticket: Ticket, class| ticket.0 <= self.backlog && class != Class::State;
        let mut chosen = (ticket, class);
        if self.played_back && is_backlog(ticket, class) {
            let mut others = fronts.into_iter().flatten();
            let other = others.find(|(_, other)| *other != class && *other != Class::Sample);
            chosen = other.unwrap_or(chosen);
        }
        self.played_back = is_backlog(chosen.0, chosen.1) && chosen.1 == class;
        Some(chosen.1)
    }

    fn front(&self, class: Class) -> Option<&Entry> {
        match class {
            Class::State => self.states.queue.front(),
            Class::Event => self.events.front(),
            Class::Sample => self.samples.front(),
        }
    }

    fn take_first(&mut self, class: Class) -> Option<Entry> {
        let entry = match class {
            Class::State => return self.states.pop_front(),
            Class::Event => self.events.pop_front()?,
            Class::Sample => self.samples.pop_front()?,
        };
        self.bytes -= entry.weight();
        Some(entry)
    }

    /// The broker acknowledged the message with success. Returns it, or nothing when the ticket
    /// names none that was sent on this connection.
    pub fn delivered(&mut self, ticket: Ticket) -> Option<Publish> {
        let mut entry = self.acknowledged(ticket)?;
        self.counters.delivered += 1;
        self.leave(&mut entry);
        Some(entry.publish)
    }

    /// The broker refused the message for good (PUBACK of 0x80 or more). Returns it as
    /// [`Outbox::delivered`] does; [`Outbox::refusal`] tells of it too.
    pub fn refused(&mut self, ticket: Ticket, code: u8) -> Option<Publish> {
        let mut entry = self.acknowledged(ticket)?;
        self.refuse(&mut entry, Refused::ByBroker { code });
        Some(entry.publish)
    }

    /// Brokers acknowledge in the order of sending (MQTT 5 §4.6), so the search ends at once.
    fn acknowledged(&mut self, ticket: Ticket) -> Option<Entry> {
        let sent = self.in_flight.iter().take(self.sent);
        let index = sent.into_iter().position(|entry| entry.ticket == ticket)?;
        self.sent -= 1;
        self.progress = true;
        self.suspects = self.suspects.saturating_sub(1);
        self.in_flight.remove(index)
    }

    fn refuse(&mut self, entry: &mut Entry, reason: Refused) {
        self.leave(entry);
        match reason {
            Refused::TooLarge { .. } => self.counters.refused_too_large += 1,
            Refused::Unanswered => self.counters.refused_unanswered += 1,
            Refused::ByBroker { code } => {
                *self.counters.refused_by_broker.entry(code).or_default() += 1;
            }
        }
        if self.refusals.len() < REFUSALS_KEPT {
            self.refusals.push_back(Refusal {
                topic: entry.publish.topic.clone(),
                reason,
            });
        }
    }

    /// The next accepted message that will not be delivered.
    pub fn refusal(&mut self) -> Option<Refusal> {
        self.refusals.pop_front()
    }

    /// Whether a value of this topic waits to be sent.
    pub fn is_waiting(&mut self, topic: &Arc<str>) -> bool {
        self.states.waiting(topic).is_some()
    }

    /// What became of the messages since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What is held now.
    pub fn depth(&self) -> Depth {
        Depth {
            states: self.states.queue.len(),
            events: self.events.len(),
            samples: self.samples.len(),
            in_flight: self.in_flight.len(),
            bytes: self.bytes,
            spooled: self.spooled,
        }
    }
}

#[cfg(test)]
mod tests;
