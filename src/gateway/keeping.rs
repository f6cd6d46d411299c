//! What of the gateway outlives the process, and how the next one goes on (MQTT contract §6,
//! "Gateway starts").
//!
//! What changes all the time (when a device was heard of, its values) is not said at each change,
//! but collected: so a busy device costs the disk no more than a quiet one.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gateway::device::{Availability, Device, Reason, State, Tracked};
use crate::gateway::problems::Problem;
use crate::gateway::publish::Publish;
use crate::gateway::{Gateway, Output, Purpose, units};
use crate::kept::{self, Change, Kept, Urgency};
use crate::lwm2m::{Id, Path};
use crate::mapping::{Destination, DeviceFacts};
use crate::server::{self, DeviceId, Operation};
use crate::time::{Instant, Now, UnixTime};

/// How long it may be unknown to the store that a device was heard of. After the end of the process
/// without a stop, so much of its lifetime is missing; see `server::keeping` for why that is no harm.
const CONTACTS_INTERVAL: Duration = Duration::from_secs(30);

/// How long a value may be unknown to the store. It stands at the broker; the store's is for a
/// broker that lost it.
const VALUES_INTERVAL: Duration = Duration::from_secs(600);

/// Devices that are written down at a time, and how long until the next of them.
const KEEP_BATCH: usize = 1_000;
const KEEP_PACE: Duration = Duration::from_millis(100);

/// When the first restored devices are looked at, how many at a time, and how long until the next:
/// 200 a second, so that those who speak are served meanwhile.
const CONFIRM_AFTER: Duration = Duration::from_secs(5);
const CONFIRM_BATCH: usize = 20;
const CONFIRM_PACE: Duration = Duration::from_millis(100);

/// How far sample numbers of a new process are from those of the one before, whose last ones were
/// not written down.
const SEQUENCE_APART: u64 = 10_000;

/// What is not written down yet.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// What is to be said with the outputs of this input.
    now: BTreeMap<DeviceId, Unkept>,
    contacts: Batch,
    values: Batch,
    confirm: Option<Confirm>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Unkept {
    descriptor: Option<Urgency>,
    contact: bool,
}

/// Devices of which something is not written down, and when it is.
#[derive(Debug, Default)]
struct Batch {
    devices: Vec<DeviceId>,
    due: Option<Instant>,
}

impl Batch {
    fn add(&mut self, id: DeviceId, due: Instant) {
        self.devices.push(id);
        self.due.get_or_insert(due);
    }

    /// The next of them, if it is time.
    fn take(&mut self, now: Instant, most: usize) -> Vec<DeviceId> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        let rest = self.devices.split_off(most.min(self.devices.len()));
        let mut taken = std::mem::replace(&mut self.devices, rest);
        self.due = (!self.devices.is_empty()).then(|| now + KEEP_PACE);
        taken.sort_unstable();
        taken
    }
}

/// How far the restored devices have been looked at.
#[derive(Debug)]
struct Confirm {
    since: UnixTime,
    next: u32,
    end: u32,
    due: Instant,
}

impl Gateway {
    /// Takes what the store held at start, in one or in several parts, before any input. What of
    /// it cannot stand is given back with the reason, for a person.
    pub fn restore(&mut self, now: Now, kept: Kept) -> Vec<String> {
        let refused = self
            .server
            .with_book(now, |book| book.restore(now, kept.credentials));
        let left_out = |name: &str, why: &dyn std::fmt::Display| {
            format!(
                "device \"{}\" of the store is left out: {why}",
                name.escape_debug()
            )
        };
        let mut refusals: Vec<_> = refused
            .iter()
            .map(|(name, why)| left_out(name, why))
            .collect();
        if let Some(gateway) = kept.gateway {
            self.broker.restore(gateway);
        }
        refusals.extend(self.restore_spool(kept.spool));
        for device in kept.devices {
            let endpoint = device.endpoint.clone();
            if let Err(why) = self.restore_device(now, device) {
                refusals.push(left_out(&endpoint, &why));
            }
        }
        for document in kept.documents {
            let (kind, id) = (document.key.kind, document.key.id.clone());
            if let Err(why) = self.restore_document(now, document) {
                let id = id.escape_debug();
                refusals.push(format!("{kind:?} \"{id}\" of the store is left out: {why}"));
            }
        }
        self.pump(now);
        refusals
    }

    /// All that was kept has been restored: goes on.
    pub fn restored(&mut self, now: Now) {
        if !self.devices.is_empty() {
            self.keeping.confirm = Some(Confirm {
                since: now.unix,
                next: 0,
                end: self.devices.len() as u32,
                due: now.instant + CONFIRM_AFTER,
            });
        }
        self.commands_restored(now);
        self.cleared_restored();
        self.keep_gateway(Urgency::Now);
        self.pump(now);
        self.say_kept();
    }

    fn restore_device(&mut self, now: Now, kept: kept::Device) -> Result<(), &'static str> {
        let Some(registration) = &kept.registration else {
            return Err("it has never registered");
        };
        let facts = DeviceFacts::of_kept(&kept.endpoint, registration);
        let profile = self.plan.profile(&facts);
        let id = self
            .server
            .restore(now, &kept)
            .ok_or("there are too many devices, or two of this name")?;
        let descriptor = kept.descriptor.unwrap_or_default();
        let wanted = match descriptor.name.as_str() {
            "" => profile.device_name(&facts),
            name => name.to_owned(),
        };
        self.server.set_awake_window(id, profile.reachable_for());
        let name = self.claim_name(&wanted, &kept.endpoint, id);
        let mut device = Device::new(name, profile.clone(), now.unix);
        device.about = descriptor.about;
        device.problems = descriptor
            .problems
            .into_iter()
            .filter_map(Problem::restored)
            .collect();
        device.birth = descriptor.birth;
        if let Some(contact) = &kept.contact {
            device.availability = contact.availability;
            device.sequence = contact.sequence + SEQUENCE_APART;
        }
        let has_gone = !registration.standing && device.availability.state != State::Offline;
        if has_gone {
            // The process was killed between the end of the registration and the word about it.
            let seen = device.availability.last_seen;
            let ended = registration
                .terms
                .lifetime()
                .map(|lifetime| seen + lifetime);
            let expired = ended.filter(|ended| *ended <= now.unix);
            device.availability.state = State::Offline;
            device.availability.reason =
                expired.map_or(Reason::Deregistered, |_| Reason::LifetimeExpired);
            device.availability.since = expired.unwrap_or(now.unix);
        }
        device.seen_published = now.back_to(device.availability.last_seen).instant;
        let name = device.name.clone();
        self.devices.push(device);
        if has_gone {
            self.keep_contact(id);
        }
        let place = |signal: kept::Signal| {
            let destination = profile.signal(&name, &facts, &signal.path, &self.models);
            let mut tracked = Tracked::new(signal.path, destination, &kept.endpoint);
            tracked.kept = true;
            if let Some(last) = &signal.last {
                tracked.heard = now.back_to(last.time).instant;
            }
            (signal, tracked)
        };
        let signals = kept.signals.into_iter().map(place).collect();
        self.restore_signals(id, signals);
        self.resume_registration(now, id, descriptor.greeting);
        if self.server.registration(id).is_some() {
            let is_same = descriptor.profile.as_deref() == Some(profile.hash());
            self.take_up(now, id, &descriptor.absent, is_same);
        }
        Ok(())
    }

    /// Signals stand as they did, each in the place that the mapping has for it now. The units that
    /// sensors state come first, so that what they are of is published with them.
    pub(super) fn restore_signals(
        &mut self,
        id: DeviceId,
        mut signals: Vec<(kept::Signal, Tracked)>,
    ) {
        signals.sort_by_key(|(kept, _)| !units::is_unit(&kept.path));
        for (kept, tracked) in signals {
            self.restore_signal(id, kept, tracked);
        }
    }

    /// A signal stands as it did; if its topic is another one now, the old one is cleared and the
    /// value moves.
    fn restore_signal(&mut self, id: DeviceId, kept: kept::Signal, mut tracked: Tracked) {
        tracked.last = kept.last;
        tracked.due = kept.due && kept.retained;
        let path = tracked.path;
        if let Some(unit) = self.device(id).and_then(|device| units::of(device, &path)) {
            tracked.state_unit(&unit);
        }
        let claimed = self.claim_topics(id, path, &tracked.destination).is_ok();
        let stands = match &tracked.destination {
            Destination::Signal(signal) if claimed => Some(signal.clone()),
            _ => None,
        };
        let same = stands
            .as_ref()
            .is_some_and(|signal| signal.topic == kept.topic && signal.retain == kept.retained);
        if !same && kept.retained {
            self.publish(Publish::deletion(kept.topic));
        }
        // Until the broker has it at its new place.
        tracked.due |= !same && tracked.last.is_some() && tracked.is_owed();
        let Some(signal) = stands else {
            if let Some(endpoint) = self.server.endpoint_name(id).cloned() {
                let change = Change::Cleared(endpoint, path);
                self.outputs.push_back(Output::Store(change));
            }
            return;
        };
        if (!same || tracked.due)
            && signal.retain
            && let Some(publish) = tracked.publish_again()
        {
            self.publish(Publish {
                origin: Some((id, path)),
                ..publish
            });
        }
        if let Some(device) = self.device_mut(id)
            && let Err(index) = device.find(&path)
        {
            device.signals.insert(index, tracked);
            if !same {
                self.keep_signal(id, index, Urgency::Now);
            }
        }
    }

    /// Looks at the next restored devices.
    fn confirm_restored(&mut self, now: Now) {
        let Some(mut confirm) = self
            .keeping
            .confirm
            .take_if(|confirm| confirm.due <= now.instant)
        else {
            return;
        };
        let end = confirm.end.min(confirm.next + CONFIRM_BATCH as u32);
        for id in (confirm.next..end).map(DeviceId) {
            self.confirm(now, confirm.since, id);
            self.continue_commands(now, id);
        }
        confirm.next = end;
        if end < confirm.end {
            confirm.due = now.instant + CONFIRM_PACE;
            self.keeping.confirm = Some(confirm);
        }
    }

    /// What the topic of a restored device says is not taken for granted: one that should have been
    /// heard of meanwhile is late, one that could be reached is asked something small.
    fn confirm(&mut self, now: Now, since: UnixTime, id: DeviceId) {
        let (Some(device), Some(registration)) = (self.device(id), self.server.registration(id))
        else {
            return;
        };
        let Availability {
            state, last_seen, ..
        } = device.availability;
        let is_missed = registration
            .expires()
            .is_some_and(|expires| expires.unix <= now.unix);
        let reachable =
            !registration.queue_mode() && self.server.route(registration.peer).is_some();
        let sleeps = !registration.listens(now);
        let ping = cheapest(registration);
        let has_setup = !device.setup.is_empty();
        // The mappings and the operator's names may be others than those of the process before.
        self.settle_name(now, id);
        self.publish_birth(id);
        if last_seen > since || state == State::Offline {
            return;
        }
        if is_missed {
            self.set_availability(now, id, State::Late, Reason::GatewayRestart);
        } else if sleeps {
            self.on_silent(now, id, State::Asleep, Reason::WindowClosed);
        } else if state != State::Online || !reachable {
        } else if has_setup {
            self.continue_setup(now, id);
        } else {
            let operation = self.server.operate(now, id, Operation::Read(ping.into()));
            self.purposes.insert(operation, Purpose::Confirm);
        }
    }

    /// Marks that a device was heard of, or that its availability changed.
    pub(super) fn keep_contact_soon(&mut self, now: Now, id: DeviceId) {
        if !self.settings.has_store {
            return;
        }
        if let Some(device) = self.devices.get_mut(id.0 as usize)
            && !std::mem::replace(&mut device.contact_unkept, true)
        {
            self.keeping
                .contacts
                .add(id, now.instant + CONTACTS_INTERVAL);
        }
    }

    /// The availability of a device is written down with the outputs of this input.
    pub(super) fn keep_contact(&mut self, id: DeviceId) {
        self.keeping.now.entry(id).or_default().contact = true;
    }

    /// The descriptor of a device is written down with the outputs of this input.
    pub(super) fn keep_descriptor(&mut self, id: DeviceId, urgency: Urgency) {
        let unkept = self.keeping.now.entry(id).or_default();
        unkept.descriptor = unkept.descriptor.max(Some(urgency));
    }

    /// A value has changed, and is about to be published. The first one is written down before, so
    /// that each retained topic is known; as one that the broker does not have.
    pub(super) fn keep_value(&mut self, now: Instant, id: DeviceId, index: usize) {
        if !self.settings.has_store {
            return;
        }
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let Some(tracked) = device.signals.get_mut(index) else {
            return;
        };
        if !tracked.kept {
            tracked.kept = true;
            tracked.due = tracked.is_owed();
            return self.keep_signal(id, index, Urgency::Now);
        }
        tracked.unkept = true;
        let is_due = tracked.due;
        if !std::mem::replace(&mut device.values_unkept, true) {
            self.keeping.values.add(id, now + VALUES_INTERVAL);
        }
        if is_due {
            self.write_again(id, index);
        }
    }

    pub(super) fn keep_signal(&mut self, id: DeviceId, index: usize, urgency: Urgency) {
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        let tracked = self
            .devices
            .get_mut(id.0 as usize)
            .and_then(|device| device.signals.get_mut(index));
        let Some(tracked) = tracked else {
            return;
        };
        tracked.unkept = false;
        // What is raw is not retained.
        let Destination::Signal(signal) = &tracked.destination else {
            return;
        };
        let kept = kept::Signal {
            path: tracked.path,
            topic: signal.topic.clone(),
            retained: signal.retain,
            last: tracked.last.clone(),
            due: tracked.due,
        };
        let change = Change::Stands(endpoint, Box::new(kept), urgency);
        self.outputs.push_back(Output::Store(change));
    }

    /// Signals of a device are no more: what is retained of them is deleted.
    pub(super) fn clear_signals(&mut self, id: DeviceId, signals: Vec<Tracked>) {
        self.release_topics(id, &signals);
        let endpoint = self.server.endpoint_name(id).cloned();
        for tracked in signals {
            let (Destination::Signal(signal) | Destination::Raw(signal)) = &tracked.destination
            else {
                continue;
            };
            if signal.retain && tracked.last.is_some() {
                self.publish(Publish::deletion(signal.topic.clone()));
            }
            if let Some(endpoint) = endpoint.clone().filter(|_| tracked.kept) {
                let change = Change::Cleared(endpoint, tracked.path);
                self.outputs.push_back(Output::Store(change));
            }
        }
    }

    /// Nothing of a device is kept any more.
    pub(super) fn forget_kept(&mut self, id: DeviceId) {
        self.keeping.now.remove(&id);
        if let Some(endpoint) = self.server.endpoint_name(id).cloned() {
            self.outputs
                .push_back(Output::Store(Change::Forgotten(endpoint)));
        }
    }

    pub(super) fn keep_gateway(&mut self, urgency: Urgency) {
        if self.settings.has_store {
            let change = Change::Gateway(self.broker.kept(), urgency);
            self.outputs.push_back(Output::Store(change));
        }
    }

    /// Says what this input made necessary to write down.
    pub(super) fn say_kept(&mut self) {
        for (id, unkept) in std::mem::take(&mut self.keeping.now) {
            if !self.settings.has_store {
                continue;
            }
            if let Some(urgency) = unkept.descriptor {
                self.say_descriptor(id, urgency);
            }
            if unkept.contact {
                self.say_contact(id, Urgency::Now);
            }
        }
    }

    fn say_descriptor(&mut self, id: DeviceId, urgency: Urgency) {
        let (Some(device), Some(endpoint)) = (
            self.device(id).filter(|device| !device.removed),
            self.server.endpoint_name(id),
        ) else {
            return;
        };
        let descriptor = kept::Descriptor {
            name: device.name.to_string(),
            about: device.about.clone(),
            problems: device.problems.iter().map(Problem::kept).collect(),
            absent: device.absent().collect(),
            birth: device.birth,
            profile: Some(device.profile.hash().to_owned()),
            greeting: device.greeting,
        };
        let change = Change::Described(endpoint.clone(), Box::new(descriptor), urgency);
        self.outputs.push_back(Output::Store(change));
    }

    fn say_contact(&mut self, id: DeviceId, urgency: Urgency) {
        let Some(device) = self
            .devices
            .get(id.0 as usize)
            .filter(|device| !device.removed)
        else {
            return;
        };
        let mut contact = kept::Contact {
            availability: device.availability,
            refreshed: None,
            sequence: device.sequence,
            learned: kept::Learned::default(),
            message_id: None,
            numbers: Vec::new(),
        };
        self.server.remember(id, &mut contact);
        let Some(endpoint) = self.server.endpoint_name(id) else {
            return;
        };
        let change = Change::Heard(endpoint.clone(), Box::new(contact), urgency);
        self.outputs.push_back(Output::Store(change));
    }

    /// What is due by the clock.
    pub(super) fn tend_kept(&mut self, now: Now) {
        self.confirm_restored(now);
        for id in self.keeping.contacts.take(now.instant, KEEP_BATCH) {
            self.say_collected_contact(id);
        }
        for id in self.keeping.values.take(now.instant, KEEP_BATCH) {
            self.say_values(id);
        }
    }

    /// Says all that is not written down: the process stops.
    pub(super) fn keep_all(&mut self) {
        let mut contacts = std::mem::take(&mut self.keeping.contacts).devices;
        contacts.sort_unstable();
        contacts
            .into_iter()
            .for_each(|id| self.say_collected_contact(id));
        let mut values = std::mem::take(&mut self.keeping.values).devices;
        values.sort_unstable();
        values.into_iter().for_each(|id| self.say_values(id));
    }

    fn say_collected_contact(&mut self, id: DeviceId) {
        if let Some(device) = self.device_mut(id) {
            device.contact_unkept = false;
        }
        self.say_contact(id, Urgency::Soon);
    }

    fn say_values(&mut self, id: DeviceId) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        device.values_unkept = false;
        let signals = device.signals.iter().enumerate();
        let unkept: Vec<_> = signals
            .filter(|(_, tracked)| tracked.unkept)
            .map(|(index, _)| index)
            .collect();
        for index in unkept {
            self.mark_open(id, index);
            self.keep_signal(id, index, Urgency::Soon);
        }
    }

    pub(super) fn keeping_timeout(&self) -> Option<Instant> {
        let Keeping {
            contacts,
            values,
            confirm,
            ..
        } = &self.keeping;
        let confirm = confirm.as_ref().map(|confirm| confirm.due);
        [contacts.due, values.due, confirm]
            .into_iter()
            .flatten()
            .min()
    }
}

/// A resource that every device has and that is small: its own lifetime, or, where it registered no
/// account of a server, its error codes.
fn cheapest(registration: &server::Registration) -> Path {
    const SERVER: Id = 1;
    const LIFETIME: Id = 1;
    const ERROR_CODE: Path = Path::resource(3, 0, 11);
    let objects = &registration.objects.objects;
    let account = objects
        .iter()
        .find(|object| object.id == SERVER)
        .and_then(|object| object.instances.first());
    account.map_or(ERROR_CODE, |account| {
        Path::resource(SERVER, *account, LIFETIME)
    })
}
