//! From the devices to MQTT: what the server tells, and the values in it.

use std::sync::Arc;
use std::time::Duration;

use crate::coap::Peer;
use crate::gateway::device::{Reason, State, Tracked};
use crate::gateway::json::{Sample, Source};
use crate::gateway::problems;
use crate::gateway::publish::Publish;
use crate::gateway::topics::Owner;
use crate::gateway::understand::holds_keys;
use crate::gateway::{Event, Gateway, units};
use crate::lwm2m::codec::Problem;
use crate::lwm2m::{Path, Record, Target, Value};
use crate::mapping::{Applied, Destination, DeviceFacts, Flaw, Signal, StaleAfter};
use crate::server::{self, DeviceId, Mark};
use crate::time::{Now, UnixTime};

/// A notification of an instance repeats everything in it, however little changed. What changed is
/// published; the rest again only when its time is older than this.
const REPEAT_UNCHANGED: Duration = Duration::from_secs(60);

/// A payload that came in: from whom, for which node, when and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    pub(super) now: Now,
    pub(super) device: DeviceId,
    pub(super) source: Source,
    /// Whether a newer one came before it. Only what the device itself gave a time is of use then,
    /// and for the history alone.
    pub(super) overtaken: bool,
    /// What tells it from others, if the device may say it again.
    pub(super) mark: Option<Mark>,
}

impl Arrival {
    /// A value with its stamps: the device's own time where it can be right, else ours.
    fn sample(&self, applied: Applied, time: Option<UnixTime>) -> Sample {
        let device_time = time.filter(|time| is_plausible(*time, self.now.unix));
        Sample {
            suspect: applied.flaw.is_some() || applied.value.is_none(),
            value: applied.value,
            time: device_time.unwrap_or(self.now.unix),
            device_time: device_time.is_some(),
            raw_time: time.filter(|_| device_time.is_none()),
            source: self.source,
            sequence: 0,
        }
    }
}

impl Gateway {
    pub(super) fn on_server(&mut self, now: Now, event: server::Event) {
        self.look_on(&event);
        match event {
            server::Event::Registered { device, new } => self.on_registered(now, device, new),
            server::Event::Updated { device, changed } => self.on_updated(now, device, changed),
            server::Event::Amended(device) => self.on_amended(now, device),
            server::Event::Woke(device) => self.on_contact(now, device, Reason::Notify),
            server::Event::Slept(device) => {
                self.on_silent(now, device, State::Asleep, Reason::WindowClosed);
                self.on_update_slept(now, device);
            }
            server::Event::Overdue(device) => {
                self.on_silent(now, device, State::Late, Reason::Overdue);
            }
            server::Event::Deregistered(device) => self.on_gone(now, device, Reason::Deregistered),
            server::Event::Expired { device, at } => {
                self.on_gone(Now { unix: at, ..now }, device, Reason::LifetimeExpired)
            }
            server::Event::Revoked { device, removed } => self.on_revoked(now, device, removed),
            server::Event::Joined(endpoint) => self.report(
                now,
                Event::DeviceJoined {
                    endpoint: endpoint.to_string(),
                },
            ),
            server::Event::WindowClosed => self.report(now, Event::JoinWindowClosed),
            server::Event::Refused {
                peer,
                endpoint,
                refusal,
            } => {
                self.counters.refused += 1;
                let identity = self.server.identity(peer).map(ToString::to_string);
                let source = self.server.route(peer).map(|route| route.address.ip());
                self.report_about(
                    now,
                    source,
                    Event::RegistrationRefused {
                        endpoint,
                        address: self.address(peer),
                        identity,
                        code: refusal.code.to_string(),
                        detail: refusal.detail,
                    },
                );
            }
            server::Event::HandshakeFailed { route, reason } => self.report(
                now,
                Event::HandshakeFailed {
                    address: route.to_string(),
                    detail: reason.to_string(),
                },
            ),
            server::Event::Moved { device, from } => self.on_moved(now, device, from),
            server::Event::UploadProgress {
                operation,
                device,
                position,
            } => self.on_upload_progress(now, operation, device, position),
            server::Event::UploadEnded {
                operation,
                device,
                result,
            } => self.on_upload_ended(now, operation, device, result),
            server::Event::Fetched { device, bytes } => {
                self.on_fetched(now, device, bytes as u64);
            }
            server::Event::Bootstrap {
                peer,
                endpoint,
                news,
            } => self.on_bootstrap(now, peer, endpoint.as_deref(), news),
            server::Event::Started(operation) => self.on_started(now, operation),
            server::Event::Completed {
                operation,
                device,
                asked,
                result,
            } => self.on_completed(now, operation, device, asked, result),
            server::Event::Notified {
                device,
                target,
                records,
                problems,
                overtaken,
                mark,
                receipt,
            } => {
                self.on_observation_heard(now, device, &target);
                self.on_contact(now, device, Reason::Notify);
                self.on_update_values(now, device, &records);
                let arrival = Arrival {
                    now,
                    device,
                    source: Source::Notify,
                    overtaken,
                    mark,
                };
                self.custody.begin(receipt.is_some());
                self.take_all_values(arrival, &target, records, problems);
                self.take_custody(now, receipt);
            }
            server::Event::Sent {
                device,
                records,
                mark,
                receipt,
            } => {
                self.on_contact(now, device, Reason::Send);
                let arrival = Arrival {
                    now,
                    device,
                    source: Source::Send,
                    overtaken: false,
                    mark,
                };
                self.custody.begin(true);
                self.take_values(arrival, records, Vec::new());
                self.take_custody(now, Some(receipt));
            }
            server::Event::SendRefused {
                peer,
                device,
                refusal,
            } => self.on_send_refused(now, peer, device, refusal),
            server::Event::Undecodable {
                device,
                target,
                error,
            } => {
                self.on_observation_heard(now, device, &target);
                self.on_contact(now, device, Reason::Notify);
                self.counters.undecodable += 1;
                self.report_undecodable(now, device, &target, error.to_string());
            }
            server::Event::ObservationEnded {
                device,
                target,
                code,
            } => {
                self.on_observation_ended(now, device, &target, code);
            }
        }
    }

    fn on_send_refused(
        &mut self,
        now: Now,
        peer: Peer,
        device: Option<DeviceId>,
        refusal: server::Refusal,
    ) {
        self.counters.sends_refused += 1;
        let device = device.and_then(|id| self.device(id));
        let event = Event::SendRefused {
            device: device.map(|device| device.name.to_string()),
            address: self.address(peer),
            code: refusal.code.to_string(),
            detail: refusal.detail,
        };
        let source = self.server.route(peer).map(|route| route.address.ip());
        self.report_about(now, source, event);
    }

    /// Publishes the values of one payload.
    ///
    /// Of several values those that changed; all of them when none did, because the device spoke
    /// all the same. Of several samples of one path the newest is the value, and all are history.
    pub(super) fn take_values(
        &mut self,
        arrival: Arrival,
        mut records: Vec<Record>,
        problems: Vec<Problem>,
    ) {
        in_order(&mut records);
        let met = self.awaited_in(arrival, &records);
        self.publish_values(arrival, records, problems);
        for met in met {
            self.on_met(arrival.now, met);
        }
    }

    fn publish_values(&mut self, arrival: Arrival, records: Vec<Record>, problems: Vec<Problem>) {
        let alone =
            records.first().map(|record| record.path) == records.last().map(|record| record.path);
        let before = self.counters.values;
        let mut repeated = Vec::new();
        let mut records = records.into_iter().peekable();
        while let Some(Record { path, value, time }) = records.next() {
            let samples = std::iter::once((Some(value), time)).chain(std::iter::from_fn(|| {
                let next = records.next_if(|next| next.path == path)?;
                Some((Some(next.value), next.time))
            }));
            let Some((index, sample)) = self.take_samples(arrival, path, samples) else {
                continue;
            };
            if !alone && self.repeats(arrival.device, index, &sample) {
                self.hold_standing(arrival.device, index);
                repeated.push((path, sample));
            } else {
                self.publish_sample(arrival, index, sample);
            }
        }
        for problem in problems {
            self.counters.undecodable += 1;
            let unreadable = std::iter::once((None, None));
            if let Some((index, sample)) = self.take_samples(arrival, problem.path, unreadable) {
                self.publish_sample(arrival, index, sample);
            }
            self.report_undecodable(
                arrival.now,
                arrival.device,
                &problem.path.into(),
                problem.detail.to_string(),
            );
        }
        if self.counters.values > before {
            self.counters.unchanged += repeated.len() as u64;
            return;
        }
        for (path, sample) in repeated {
            if let Some(Ok(index)) = self.device(arrival.device).map(|device| device.find(&path)) {
                self.publish_sample(arrival, index, sample);
            }
        }
    }

    /// Takes the samples of one path, the oldest first: all of them into the history, if the
    /// mapping wants one. What comes back is the newest, which is to stand on the signal's topic,
    /// and the place of the signal at its device; nothing when a newer one stands there, or when
    /// the mapping does not want it. `None` for a value is one of the wrong type.
    fn take_samples(
        &mut self,
        arrival: Arrival,
        path: Path,
        values: impl Iterator<Item = (Option<Value>, Option<UnixTime>)>,
    ) -> Option<(usize, Sample)> {
        if holds_keys(&path) {
            self.counters.secrets += values.count() as u64;
            return None;
        }
        let Some(index) = self.track(arrival.now, arrival.device, path) else {
            values.for_each(drop);
            return None;
        };
        let device = self.devices.get_mut(arrival.device.0 as usize)?;
        let tracked = device.signals.get(index)?;
        let signal = match &tracked.destination {
            Destination::Signal(signal) | Destination::Raw(signal) => signal,
            Destination::Count => {
                self.counters.unmapped += values.count() as u64;
                return None;
            }
            Destination::Drop => {
                self.counters.dropped += values.count() as u64;
                return None;
            }
        };
        let mut older = Vec::new();
        let mut newest: Option<Sample> = None;
        let mut unreadable = None;
        for (value, time) in values {
            let applied = value.map_or(Applied::NONE, |value| signal.apply(value));
            match applied.flaw {
                None => {}
                Some(Flaw::Clipped) => self.counters.clipped += 1,
                Some(Flaw::Uncalculated) => self.counters.uncalculated += 1,
                Some(Flaw::Kind | Flaw::TooShort { .. } | Flaw::Encoding) => {
                    self.counters.undecodable += 1;
                    unreadable = applied.flaw;
                }
            }
            let mut sample = arrival.sample(applied, time);
            if arrival.overtaken && !sample.device_time {
                self.counters.older += 1;
                continue;
            }
            device.sequence += 1;
            sample.sequence = device.sequence;
            older.extend(newest.replace(sample));
        }
        // Only a device's own word makes a sample old: our clock may be set back, and what comes
        // in now is the newest all the same.
        let stands = tracked.last.as_ref().map(|last| last.time);
        let is_late = |sample: &Sample| {
            arrival.overtaken
                || sample.device_time && stands.is_some_and(|stands| sample.time < stands)
        };
        older.extend(newest.take_if(|sample| is_late(sample)));
        let mut publishes = Vec::new();
        let is_counted = signal.history.is_some() || !signal.kind.is_retained();
        let mark = is_counted.then(|| self.server.mark_of(arrival.device, arrival.mark));
        let mark = mark.flatten();
        if !signal.kind.is_retained() {
            // Each is for itself; nothing stands that an older one could replace.
            self.counters.values += older.len() as u64;
            let each = older
                .iter()
                .map(|sample| tracked.publish_marked(signal, sample, mark.as_deref()));
            publishes.extend(each);
        } else if signal.history.is_none() {
            self.counters.older += older.len() as u64;
        }
        if let Some(history) = &signal.history {
            let live = older.is_empty();
            older.extend(newest.clone());
            self.counters.samples += older.len() as u64;
            if !older.is_empty() {
                publishes.extend(tracked.history_of(
                    signal,
                    history,
                    &older,
                    live,
                    mark.as_deref(),
                ));
            }
        }
        for publish in publishes {
            self.publish(publish);
        }
        if let Some(flaw) = unreadable {
            self.report_undecodable(arrival.now, arrival.device, &path.into(), flaw.to_string());
        }
        let newest = newest?;
        let tracked = self
            .devices
            .get_mut(arrival.device.0 as usize)?
            .signals
            .get_mut(index)?;
        tracked.heard = arrival.now.instant;
        if tracked.fresh_for > 0 {
            let due = arrival.now.instant + Duration::from_secs(tracked.fresh_for.into());
            self.supervise_by(arrival.device, due);
        }
        Some((index, newest))
    }

    /// Whether a sample says what stands on its topic, and has stood there for a short time only.
    fn repeats(&self, id: DeviceId, index: usize, sample: &Sample) -> bool {
        let tracked = self.device(id).and_then(|device| device.signals.get(index));
        let Some(
            tracked @ Tracked {
                destination: Destination::Signal(signal),
                last: Some(last),
                ..
            },
        ) = tracked
        else {
            return false;
        };
        signal.retain
            && !tracked.stale
            && sample.value == last.value
            && sample.suspect == last.suspect
            && sample.time < last.time + REPEAT_UNCHANGED
    }

    fn publish_sample(&mut self, arrival: Arrival, index: usize, sample: Sample) {
        let id = arrival.device;
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let Some(tracked) = device.signals.get_mut(index) else {
            return;
        };
        let (Destination::Signal(signal) | Destination::Raw(signal)) = &tracked.destination else {
            return;
        };
        let path = tracked.path;
        let mark = match signal.kind.is_retained() {
            true => None,
            false => self.server.mark_of(id, arrival.mark),
        };
        let publish = Publish {
            origin: signal.retain.then_some((id, path)),
            ..tracked.publish_marked(signal, &sample, mark.as_deref())
        };
        tracked.last = Some(sample);
        tracked.stale = false;
        units::spread(device, &path);
        self.counters.values += 1;
        self.keep_value(arrival.now.instant, id, index);
        self.publish(publish);
    }

    /// The place of a path among the signals of its device; it is entered at the first value.
    fn track(&mut self, now: Now, id: DeviceId, path: Path) -> Option<usize> {
        let device = self.devices.get(id.0 as usize)?;
        let index = match device.find(&path) {
            Ok(index) => return Some(index),
            Err(index) => index,
        };
        if device.signals.len() >= self.limits.signals_per_device {
            self.counters.signals_full += 1;
            return None;
        }
        self.server.registration(id)?;
        let facts = DeviceFacts::of(&self.server, id)?;
        let destination = device
            .profile
            .signal(&device.name, &facts, &path, &self.models);
        let mut tracked = Tracked::new(path, destination, facts.endpoint);
        if let Some(unit) = units::of(device, &path) {
            tracked.state_unit(&unit);
        }
        if let Destination::Signal(signal) = &tracked.destination
            && let StaleAfter::Time(seconds) = signal.stale_after
        {
            tracked.fresh_for = seconds;
        }
        let refused = self.claim_topics(id, path, &tracked.destination).err();
        if refused.is_some() {
            self.counters.topics_refused += 1;
            tracked.destination = Destination::Drop;
        }
        let device = self.device_mut(id)?;
        device.signals.insert(index, tracked);
        if let Some(detail) = refused {
            problems::Problem::of_topic(&mut device.problems, path, detail);
        }
        self.birth_later(now, id);
        Some(index)
    }

    /// Whether the values of a path may go where the mapping says, into which went what the device
    /// chose; why not, if not. The first one on a topic keeps it (MQTT contract §0).
    pub(super) fn claim_topics(
        &mut self,
        id: DeviceId,
        path: Path,
        destination: &Destination,
    ) -> Result<(), String> {
        let topics = destination.signal().into_iter().flat_map(Signal::topics);
        let claimed = topics
            .into_iter()
            .try_for_each(|topic| self.claim_topic(id, path, topic));
        if claimed.is_err() {
            self.release(id, path, destination);
        }
        claimed
    }

    /// The topics of signals are free for whoever comes next.
    pub(super) fn release_topics(&mut self, id: DeviceId, signals: &[Tracked]) {
        for tracked in signals {
            self.release(id, tracked.path, &tracked.destination);
        }
    }

    fn release(&mut self, id: DeviceId, path: Path, destination: &Destination) {
        for topic in destination.signal().into_iter().flat_map(Signal::topics) {
            if self.holders.get(topic) == Some(&(id, path)) {
                self.holders.remove(topic);
            }
        }
    }

    fn claim_topic(&mut self, id: DeviceId, path: Path, topic: &Arc<str>) -> Result<(), String> {
        let Some(device) = self.devices.get(id.0 as usize) else {
            return Ok(());
        };
        match self.topics.owner(topic, &device.name) {
            Owner::Device => Ok(()),
            Owner::Other => Err(format!(
                "{topic} is the gateway's own or another device's; its values are dropped: put \
                 {{device}} into the topic in the mapping"
            )),
            Owner::First => {
                let mine = (id, path);
                let holder = *self.holders.entry(Arc::clone(topic)).or_insert(mine);
                if holder == mine {
                    return Ok(());
                }
                let name = self.device(holder.0).map_or("", |holder| &*holder.name);
                Err(format!(
                    "{topic} holds {} of {name}; the values of this one are dropped: put {{device}} \
                     and {{inst}} into the topic in the mapping",
                    holder.1
                ))
            }
        }
    }

    fn report_undecodable(&mut self, now: Now, id: DeviceId, at: &Target, detail: String) {
        let Some(device) = self.device(id) else {
            return;
        };
        let event = Event::Undecodable {
            device: device.name.to_string(),
            path: at.to_string(),
            detail,
        };
        self.report(now, event);
    }
}

/// Puts the unit that a sensor states before what is measured in it, and what is of one path
/// together, the oldest first. A clock that is wrong still tells what came before what.
fn in_order(records: &mut [Record]) {
    if records.iter().any(|record| record.time.is_some()) {
        records.sort_by_key(|record| {
            let untimed = record.time.is_none();
            (
                !units::is_unit(&record.path),
                record.path,
                untimed,
                record.time,
            )
        });
    } else {
        units::first(records);
    }
}

/// Whether a device's own time stamp can be right: not before 2020, and not more than ten minutes
/// ahead of ours.
fn is_plausible(time: UnixTime, now: UnixTime) -> bool {
    const YEAR_2020: UnixTime = UnixTime::from_millis(1_577_836_800_000);
    const AHEAD: Duration = Duration::from_secs(600);
    time >= YEAR_2020 && time <= now + AHEAD
}
