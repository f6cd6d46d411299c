//! Custody: a confirmable notification or a Send is acknowledged when its values are safe: with the
//! broker, or on the disk (MQTT contract §6).
//!
//! While the broker answers within a moment nothing is written. What it has not acknowledged by then
//! is, in groups: events, replies and samples into the spool, one by one; of values that what stands
//! on their topic, with the mark that it is to be published at the next start. A value so marked is
//! written again before a newer one is sent, so that after the end of the process no older value is
//! published over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use minicbor::{Decode, Encode};
use serde_json::{Value as Json, json};

use crate::gateway::outbox::{Hold, Rejected, Ticket};
use crate::gateway::publish::{Class, Properties, Publish, Qos};
use crate::gateway::{Event, Gateway, Output};
use crate::kept::{Change, Spooled, Urgency};
use crate::lwm2m::Path;
use crate::mapping::Destination;
use crate::server::{DeviceId, Receipt};
use crate::time::{Instant, Now};

/// How often is looked after what the broker has not acknowledged. What waits since the last look is
/// written down, so between one and two of these after it was accepted: with the time of the disk,
/// well before a device repeats itself (RFC 7252 §4.2: after 2 s).
const LOOK_INTERVAL: Duration = Duration::from_millis(125);

/// The same while there is no broker to wait for.
const AWAY_INTERVAL: Duration = Duration::from_millis(50);

/// After the disk failed, until it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is said that samples were dropped.
const SAID_INTERVAL: Duration = Duration::from_secs(10);

/// Who waits to be acknowledged, and what is being written down.
#[derive(Debug, Default)]
pub(super) struct Custody {
    held: BTreeMap<Hold, Held>,
    holds: u64,
    /// For whom the values are that are being taken in.
    taking: Option<Taking>,
    /// When the outbox is looked after.
    pub(super) due: Option<Instant>,
    /// The newest message at the last look.
    seen: i64,
    /// The newest message for which nobody waits and that is to be safe all the same, and up to
    /// which all has been written down.
    answered: i64,
    looked: i64,
    batch: Option<Batch>,
    batches: u64,
    /// Values that the store holds an older version of, to be published at the next start.
    outdated: BTreeSet<(DeviceId, Path)>,
    /// Of the samples dropped, how many were said, and when the next may be.
    dropped_said: u64,
    say_at: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    receipt: Receipt,
    /// How many messages are not safe.
    open: usize,
}

#[derive(Debug)]
struct Taking {
    hold: Hold,
    open: usize,
    /// Whether something found no room.
    lost: bool,
}

/// What was said to be written down, and not answered.
#[derive(Debug)]
struct Batch {
    number: u64,
    messages: Vec<(Ticket, Vec<Hold>)>,
}

/// A message in the spool.
#[derive(Encode, Decode)]
struct Body {
    #[n(0)]
    topic: String,
    #[n(1)]
    #[cbor(with = "minicbor::bytes")]
    payload: Vec<u8>,
    #[n(2)]
    retain: bool,
    #[n(3)]
    content_type: Option<String>,
    #[n(4)]
    expiry: Option<u32>,
    #[n(5)]
    #[cbor(with = "minicbor::bytes")]
    correlation: Option<Vec<u8>>,
    #[n(6)]
    user: Vec<(String, String)>,
}

impl Body {
    fn of(publish: &Publish) -> Self {
        let properties = publish.properties.as_deref().cloned().unwrap_or_default();
        Self {
            topic: publish.topic.to_string(),
            payload: publish.payload.clone(),
            retain: publish.retain,
            content_type: properties.content_type.map(str::to_owned),
            expiry: properties.expiry,
            correlation: properties.correlation,
            user: properties.user,
        }
    }

    fn into_publish(self, class: Class) -> Publish {
        let content_type = self
            .content_type
            .as_deref()
            .and_then(Properties::known_type);
        let properties = Properties {
            content_type,
            expiry: self.expiry,
            correlation: self.correlation,
            user: self.user,
        };
        let has_any = properties != Properties::default();
        Publish {
            topic: Arc::from(self.topic),
            payload: self.payload,
            qos: Qos::AtLeastOnce,
            retain: self.retain,
            class,
            properties: has_any.then(|| Arc::new(properties)),
            origin: None,
        }
    }
}

impl Custody {
    /// Values are being taken in, which are to be safe if the device will not say them again.
    pub(super) fn begin(&mut self, only_once: bool) {
        if only_once {
            self.holds += 1;
            self.taking = Some(Taking {
                hold: Hold(self.holds),
                open: 0,
                lost: false,
            });
        }
    }

    /// Who waits for what is being published now.
    pub(super) fn current(&self) -> Option<Hold> {
        self.taking.as_ref().map(|taking| taking.hold)
    }
}

impl Gateway {
    /// A message for which somebody waits.
    pub(super) fn push_held(&mut self, publish: Publish, hold: Hold) {
        let can_wait = publish.qos == Qos::AtLeastOnce;
        let pushed = self.outbox.push_held(publish, hold);
        if let Some(taking) = &mut self.custody.taking {
            taking.open += usize::from(can_wait && pushed.is_ok());
            taking.lost |= pushed == Err(Rejected::Full);
        }
    }

    /// A value came that stands on its topic already: it is safe when that is.
    pub(super) fn hold_standing(&mut self, id: DeviceId, index: usize) {
        let Some(taking) = &mut self.custody.taking else {
            return;
        };
        let tracked = self
            .devices
            .get(id.0 as usize)
            .and_then(|device| device.signals.get(index));
        if let Some(Destination::Signal(signal)) = tracked.map(|tracked| &tracked.destination)
            && self.outbox.hold(&signal.topic, taking.hold)
        {
            taking.open += 1;
        }
    }

    /// The values of a payload are in the outbox; whoever sent them is acknowledged when they are
    /// safe, which may be at once. What came in an answer needs no acknowledgement, and the device
    /// does not say it again: it is made safe as well.
    pub(super) fn take_custody(&mut self, now: Now, receipt: Option<Receipt>) {
        let Some(taken) = self.custody.taking.take() else {
            return;
        };
        let Some(receipt) = receipt else {
            if taken.open > 0 {
                self.custody.answered = self.outbox.newest().number();
            }
            return;
        };
        if taken.lost || self.custody.held.len() >= self.limits.receipts {
            self.counters.withheld += 1;
        } else if taken.open == 0 {
            self.server.acknowledge(now, receipt);
        } else {
            let held = Held {
                receipt,
                open: taken.open,
            };
            self.custody.held.insert(taken.hold, held);
        }
    }

    /// Acknowledges what has become safe, and sees to it that the rest will.
    pub(super) fn settle(&mut self, now: Now) {
        let mut acknowledged = false;
        while let Some(hold) = self.outbox.released() {
            acknowledged |= self.let_go(now, hold);
        }
        if acknowledged {
            self.pump(now);
        }
        if self.stopping {
            self.unspool();
            return self.rest();
        }
        let is_open = !self.custody.held.is_empty()
            || self.custody.answered > self.custody.looked
            || self.outbox.is_to_be_looked_after();
        if is_open && self.custody.due.is_none() {
            self.custody.due = Some(now.instant + self.look_interval());
        }
    }

    fn look_interval(&self) -> Duration {
        if self.broker.may_publish() {
            LOOK_INTERVAL
        } else {
            AWAY_INTERVAL
        }
    }

    /// One of the messages that somebody waits for is safe. Whether it was the last.
    fn let_go(&mut self, now: Now, hold: Hold) -> bool {
        let Some(held) = self.custody.held.get_mut(&hold) else {
            return false;
        };
        held.open = held.open.saturating_sub(1);
        if held.open > 0 {
            return false;
        }
        if let Some(held) = self.custody.held.remove(&hold) {
            self.server.acknowledge(now, held.receipt);
        }
        true
    }

    /// What is due by the clock.
    pub(super) fn tend_custody(&mut self, now: Now) {
        if self.custody.due.is_none_or(|due| due > now.instant) {
            return;
        }
        self.custody.due = None;
        let newest = self.outbox.newest();
        let until = match self.broker.may_publish() {
            true => Ticket::of(self.custody.seen),
            false => newest,
        };
        self.custody.seen = newest.number();
        if self.custody.batch.is_none() {
            self.custody.looked = until.number();
        }
        self.spool(now, until, false);
        self.unspool();
        self.say_dropped(now);
    }

    /// The process stops: all that the broker has not acknowledged is written down.
    pub(super) fn spool_all(&mut self, now: Now) {
        self.spool(now, self.outbox.newest(), true);
    }

    /// Writes down what waits for the broker, up to a message.
    fn spool(&mut self, now: Now, until: Ticket, all: bool) {
        // The one before is answered before anything else is done.
        if self.custody.batch.is_some() {
            return;
        }
        let mut messages = Vec::new();
        let mut spooled = Vec::new();
        let mut values = BTreeSet::new();
        self.outbox.spool(until, all, &mut |waiting| {
            messages.push((waiting.ticket, waiting.holds));
            match waiting.publish.class {
                Class::State => values.extend(waiting.publish.origin),
                class => spooled.push(Spooled {
                    number: waiting.ticket.number(),
                    class,
                    body: minicbor::to_vec(Body::of(waiting.publish)).unwrap_or_default(),
                }),
            }
        });
        if messages.is_empty() {
            return;
        }
        self.custody.batches += 1;
        let number = self.custody.batches;
        self.custody.batch = Some(Batch { number, messages });
        if !self.settings.has_store {
            // There is nothing safer than the outbox.
            return self.on_committed(now, number);
        }
        let spooled = spooled.into_iter().map(Change::Spooled);
        self.outputs.extend(spooled.map(Output::Store));
        for (id, path) in values {
            if let Some(index) = self.device(id).and_then(|device| device.find(&path).ok()) {
                self.keep_due(id, index);
            }
        }
        self.outputs.push_back(Output::Commit(number));
    }

    /// What stands on a topic is written down, to be published at the next start.
    fn keep_due(&mut self, id: DeviceId, index: usize) {
        let tracked = self
            .devices
            .get_mut(id.0 as usize)
            .and_then(|device| device.signals.get_mut(index));
        if let Some(tracked) = tracked {
            tracked.due = true;
            tracked.kept = true;
            let path = tracked.path;
            self.custody.outdated.remove(&(id, path));
            self.keep_signal(id, index, Urgency::Now);
        }
    }

    /// The store is about to get a value: it is due if the broker has not acknowledged it.
    pub(super) fn mark_open(&mut self, id: DeviceId, index: usize) {
        let tracked = self
            .devices
            .get_mut(id.0 as usize)
            .and_then(|device| device.signals.get_mut(index));
        if let Some(tracked) = tracked.filter(|tracked| tracked.is_owed())
            && let Destination::Signal(signal) = &tracked.destination
        {
            tracked.due |= self.outbox.is_open(&signal.topic);
        }
    }

    /// A newer value came of a topic whose older one is to be published at the next start: before it
    /// is sent it takes that one's place.
    pub(super) fn write_again(&mut self, id: DeviceId, index: usize) {
        if self.broker.may_publish() {
            return self.keep_due(id, index);
        }
        let tracked = self
            .device(id)
            .and_then(|device| device.signals.get(index))
            .map(|tracked| tracked.path);
        self.custody.outdated.extend(tracked.map(|path| (id, path)));
    }

    /// The same of all topics, before messages flow again.
    pub(super) fn write_all_again(&mut self) {
        for (id, path) in std::mem::take(&mut self.custody.outdated) {
            if let Some(index) = self.device(id).and_then(|device| device.find(&path).ok()) {
                self.keep_due(id, index);
            }
        }
    }

    /// A message is with the broker, or will never be. If it was the newest value of its topic,
    /// that need not be published at the next start.
    pub(super) fn value_left(&mut self, publish: &Publish) {
        let Some((id, path)) = publish.origin else {
            return;
        };
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let Ok(index) = device.find(&path) else {
            return;
        };
        if let Some(tracked) = device.signals.get_mut(index).filter(|tracked| tracked.due)
            && !self.outbox.is_open(&publish.topic)
        {
            tracked.due = false;
            self.custody.outdated.remove(&(id, path));
            self.keep_signal(id, index, Urgency::Now);
        }
    }

    /// What was to be written down is on the disk.
    pub(super) fn on_committed(&mut self, now: Now, number: u64) {
        let Some(batch) = self.custody.batch.take_if(|batch| batch.number <= number) else {
            return;
        };
        for (_, holds) in batch.messages {
            for hold in holds {
                self.let_go(now, hold);
            }
        }
        self.pump(now);
    }

    /// Something that was to be written down is not: nobody is acknowledged, and it is tried again.
    pub(super) fn on_unspooled(&mut self, now: Now, change: &Change, why: &str) {
        if !change.is_owed() {
            return;
        }
        let Some(batch) = self.custody.batch.take() else {
            return;
        };
        for (ticket, holds) in batch.messages {
            self.outbox.not_spooled(ticket, holds);
        }
        self.custody.due = Some(now.instant + RETRY_INTERVAL);
        self.report(
            now,
            Event::SpoolFailed {
                detail: why.to_owned(),
            },
        );
    }

    /// What has left the spool is deleted there.
    fn unspool(&mut self) {
        while let Some((class, below)) = self.outbox.unspooled() {
            if self.settings.has_store {
                let change = Change::Unspooled(class, below.number());
                self.outputs.push_back(Output::Store(change));
            }
        }
    }

    /// Says that samples were lost, which is the one loss there is.
    fn say_dropped(&mut self, now: Now) {
        let dropped = self.outbox.counters().dropped_samples;
        let samples = dropped - self.custody.dropped_said;
        if samples == 0 || self.custody.say_at.is_some_and(|at| at > now.instant) {
            return;
        }
        self.custody.dropped_said = dropped;
        self.custody.say_at = Some(now.instant + SAID_INTERVAL);
        self.report(now, Event::SpoolDropped { samples });
    }

    /// Takes what the spool held at start.
    pub(super) fn restore_spool(&mut self, spool: Vec<Spooled>) -> Vec<String> {
        let mut refusals = Vec::new();
        for Spooled {
            number,
            class,
            body,
        } in spool
        {
            match minicbor::decode::<Body>(&body) {
                Ok(body) => self.outbox.restore(number, body.into_publish(class)),
                Err(why) => {
                    refusals.push(format!(
                        "message {number} of the spool cannot be read, so it is lost: {why}"
                    ));
                    self.outbox.pass_over(number, class);
                }
            }
        }
        refusals
    }

    /// How much waits, as `bridge/health` and `status` have it.
    pub(super) fn spool_health(&self) -> Json {
        let depth = self.outbox.depth();
        json!({
            "messages": depth.spooled,
            "bytes": depth.bytes,
            "dropped": self.outbox.counters().dropped_samples,
            "unacknowledged": self.custody.held.len(),
        })
    }
}
