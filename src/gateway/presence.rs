//! Who is there: registrations that come and go, and the availability topic (MQTT contract §6).

use std::collections::{BTreeMap, VecDeque};

use serde::Serialize;

use super::reconcile::Wanted;
use super::registering;
use crate::coap::Peer;
use crate::gateway::device::{Availability, Device, Reason, State};
use crate::gateway::problems::Problem;
use crate::gateway::publish::Publish;
use crate::gateway::reply::Why;
use crate::gateway::watch::Watch;
use crate::gateway::{Event, Gateway};
use crate::kept::Urgency;
use crate::mapping::DeviceFacts;
use crate::server::{self, DeviceId, Operation};
use crate::time::Now;

impl Gateway {
    pub(super) fn on_registered(&mut self, now: Now, id: DeviceId, new: bool) {
        let (Some(endpoint), Some(registration)) = (
            self.server.endpoint_name(id).cloned(),
            self.server.registration(id),
        ) else {
            return;
        };
        let Some(facts) = DeviceFacts::of(&self.server, id) else {
            return;
        };
        let profile = self.plan.profile(&facts);
        // What was observed and attached before is void.
        let Wanted {
            mut watches,
            problems,
        } = Wanted::of(&facts, registration.composes(), &profile, &self.models, &[]);
        let setup: VecDeque<_> = registering::reads(&facts, &profile)
            .into_iter()
            .chain(Self::unmute(registration))
            .chain(self.shorten_lifetime(registration))
            .collect();
        let observe: Vec<_> = watches.iter_mut().flat_map(Watch::begin).collect();
        let named = self.server.book().name_of(&endpoint);
        let wanted = named.map_or_else(|| profile.device_name(&facts), |name| name.to_string());
        let (lwm2m, address) = (
            registration.version.to_string(),
            self.address(registration.peer),
        );
        let lifetime = registration
            .terms
            .lifetime()
            .map(|lifetime| lifetime.as_secs());
        if new {
            let name = self.claim_name(&wanted, &endpoint, id);
            self.report(
                now,
                Event::DeviceNew {
                    device: name.to_string(),
                    endpoint: endpoint.to_string(),
                },
            );
            self.devices
                .push(Device::new(name, profile.clone(), now.unix));
        } else if let Some(old) = self
            .device(id)
            .filter(|device| device.removed)
            .map(|device| device.name.clone())
        {
            // It comes back as what the operator calls it now.
            self.by_name.remove(&old);
            let name = self.claim_name(&wanted, &endpoint, id);
            if let Some(device) = self.device_mut(id) {
                device.name = name;
            }
        }
        if !self.take_profile(now, id)
            && let Some(device) = self.device_mut(id)
        {
            // What was said of a signal holds as long as the signal stands.
            device.problems.retain(Problem::is_of_a_topic);
        }
        self.settle_name(now, id);
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        device.removed = false;
        self.server
            .set_awake_window(id, device.profile.reachable_for());
        device.problems.extend(problems);
        device.setup = setup;
        device.greeting = false;
        device.watches = watches;
        device.setup_running = None;
        self.greet(now, id);
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        device.setup.extend(observe);
        let device = device.name.to_string();
        self.report(
            now,
            Event::DeviceRegistered {
                device,
                endpoint: endpoint.to_string(),
                lwm2m,
                lifetime,
                address,
            },
        );
        self.set_availability(now, id, State::Online, Reason::Registered);
        self.publish_birth(id);
        self.keep_descriptor(id, Urgency::Now);
        self.keep_contact(id);
        self.give_up_doubtful(now, id);
        self.continue_setup(now, id);
        self.continue_commands(now, id);
        self.on_update_contact(now, id, true);
    }

    /// Where a peer is, for a person.
    pub(super) fn address(&self, peer: Peer) -> String {
        match self.server.route(peer) {
            Some(route) => route.to_string(),
            None => peer.to_string(),
        }
    }

    pub(super) fn on_moved(&mut self, now: Now, id: DeviceId, from: crate::route::Route) {
        let (Some(device), Some(registration)) = (self.device(id), self.server.registration(id))
        else {
            return;
        };
        let event = Event::DeviceMoved {
            device: device.name.to_string(),
            from: from.to_string(),
            address: self.address(registration.peer),
        };
        self.report(now, event);
    }

    pub(super) fn on_updated(&mut self, now: Now, id: DeviceId, changed: bool) {
        self.set_availability(now, id, State::Online, Reason::Update);
        if changed {
            let Some(device) = self.device(id) else {
                return;
            };
            let event = Event::DeviceUpdated {
                device: device.name.to_string(),
            };
            self.report(now, event);
            self.hold_to_lifetime(id);
            self.reconcile(now, id);
            self.birth_later(now, id);
        }
        self.on_wake(now, id);
        self.continue_commands(now, id);
        self.on_update_contact(now, id, false);
    }

    /// An operation of ours changed what the device has registered.
    pub(super) fn on_amended(&mut self, now: Now, id: DeviceId) {
        self.publish_availability(now, id);
        self.reconcile(now, id);
        self.birth_later(now, id);
        self.continue_setup(now, id);
    }

    pub(super) fn on_gone(&mut self, now: Now, id: DeviceId, reason: Reason) {
        self.dismiss(id);
        let Some(device) = self.device_mut(id).filter(|device| !device.removed) else {
            return;
        };
        let name = device.name.to_string();
        // An expired device was last seen when it was: only the state is of now.
        let last_seen = device.availability.last_seen;
        let seen = if reason == Reason::Deregistered {
            now.unix
        } else {
            last_seen
        };
        device.availability = Availability {
            state: State::Offline,
            reason,
            since: now.unix,
            last_seen: seen,
        };
        self.publish_availability(now, id);
        self.keep_contact(id);
        self.leave_values(id);
        self.hold_commands(now, id, Why::Offline);
        self.report(
            now,
            match reason {
                Reason::Deregistered => Event::DeviceDeregistered { device: name },
                Reason::Blocked => Event::DeviceBlocked { device: name },
                _ => Event::DeviceExpired { device: name },
            },
        );
    }

    /// A device may be here no longer. Of one that was removed, what is retained is deleted, the
    /// availability first (MQTT contract §6).
    pub(super) fn on_revoked(&mut self, now: Now, id: DeviceId, removed: bool) {
        if !removed {
            return self.on_gone(now, id, Reason::Blocked);
        }
        self.dismiss(id);
        self.cancel_commands(now, id);
        let Some(device) = self.device_mut(id) else {
            return;
        };
        device.removed = true;
        device.birth = None;
        let due = device.birth_due.take();
        device.availability.state = State::Offline;
        device.availability.reason = Reason::Blocked;
        let signals = std::mem::take(&mut device.signals);
        let name = device.name.clone();
        if let Some(due) = due {
            self.births.remove(&(due, id));
        }
        self.publish(Publish::deletion(self.topics.device(&name, "availability")));
        self.publish(Publish::deletion(self.topics.birth(&name)));
        self.forget_update(now, id);
        self.clear_signals(id, signals);
        self.forget_kept(id);
        self.report(
            now,
            Event::DeviceRemoved {
                device: name.to_string(),
            },
        );
    }

    /// A packet came from the device that is no registration.
    pub(super) fn on_contact(&mut self, now: Now, id: DeviceId, reason: Reason) {
        let interval = self.settings.last_seen_interval;
        let registered = self.server.registration(id).is_some();
        let Some(device) = self.device_mut(id) else {
            return;
        };
        device.availability.last_seen = now.unix;
        let (published, is_online) = (
            device.seen_published,
            device.availability.state == State::Online,
        );
        self.keep_contact_soon(now, id);
        if registered && !is_online {
            self.set_availability(now, id, State::Online, reason);
            self.on_wake(now, id);
            self.continue_commands(now, id);
        } else if now.instant.since(published) >= interval {
            self.publish_availability(now, id);
        }
        self.on_update_contact(now, id, false);
    }

    /// A device is not heard of: it sleeps, or it should have come by now. One that does not answer
    /// stays what it is.
    pub(super) fn on_silent(&mut self, now: Now, id: DeviceId, state: State, reason: Reason) {
        let stays = |device: &Device| match device.availability.state {
            State::Online => false,
            State::Asleep => state == State::Asleep,
            State::Late | State::Offline => true,
        };
        if self.device(id).is_some_and(|device| !stays(device)) {
            self.set_availability(now, id, state, reason);
        }
        if state == State::Asleep {
            self.hold_commands(now, id, Why::Asleep);
        }
    }

    pub(super) fn set_availability(
        &mut self,
        now: Now,
        id: DeviceId,
        state: State,
        reason: Reason,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        if device.availability.state != state || reason == Reason::Registered {
            device.availability.since = now.unix;
        }
        device.availability.state = state;
        device.availability.reason = reason;
        if state == State::Online {
            device.availability.last_seen = now.unix;
        }
        self.keep_contact_soon(now, id);
        self.publish_availability(now, id);
    }

    pub(super) fn publish_availability(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        device.seen_published = now.instant;
        if let Some(publish) = self.availability_of(now, id) {
            self.publish(publish);
        }
    }

    /// The availability message of a device as it is now.
    pub(super) fn availability_of(&self, now: Now, id: DeviceId) -> Option<Publish> {
        #[derive(Serialize)]
        struct Payload<'a> {
            state: State,
            reason: Reason,
            since: String,
            last_seen: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            lifetime: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            expires: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            awake_until: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            next_contact: Option<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            binding: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            queue_mode: Option<bool>,
            #[serde(skip_serializing_if = "Option::is_none")]
            queued: Option<usize>,
        }
        let device = self.device(id).filter(|device| !device.removed)?;
        let Availability {
            state,
            reason,
            since,
            last_seen,
        } = device.availability;
        let registration = self.server.registration(id);
        let payload = Payload {
            state,
            reason,
            since: since.to_string(),
            last_seen: last_seen.to_string(),
            lifetime: registration
                .and_then(|registration| registration.terms.lifetime())
                .map(|lifetime| lifetime.as_secs()),
            expires: registration
                .and_then(server::Registration::expires)
                .map(|expires| (expires.unix + self.settings.server.lifetime_grace).to_string()),
            awake_until: registration
                .and_then(server::Registration::awake_until)
                .map(|end| end.unix.to_string()),
            next_contact: registration
                .filter(|_| state != State::Online)
                .and_then(|registration| registration.next_contact(now))
                .map(|next| next.unix.to_string()),
            binding: registration.map(server::Registration::binding),
            queue_mode: registration.map(server::Registration::queue_mode),
            queued: Some(self.queued(id)).filter(|queued| *queued > 0),
        };
        Some(Publish::state(
            self.topics.device(&device.name, "availability"),
            serde_json::to_vec(&payload).ok()?,
        ))
    }

    /// How many devices there are in each state, by its name.
    pub(super) fn by_state(&self) -> BTreeMap<&'static str, usize> {
        let mut count: BTreeMap<_, _> = State::ALL.iter().map(|state| (state.name(), 0)).collect();
        for device in self.devices.iter().filter(|device| !device.removed) {
            *count.entry(device.availability.state.name()).or_default() += 1;
        }
        count
    }

    /// A device that does not answer is not reachable, unless it is one that sleeps.
    pub(super) fn on_unanswered(&mut self, now: Now, id: DeviceId, asked: &Operation) {
        let awake = self
            .server
            .registration(id)
            .is_some_and(|registration| !registration.queue_mode());
        let Some(device) = self.device(id) else {
            return;
        };
        if !awake || device.availability.state != State::Online {
            return;
        }
        let event = Event::DeviceUnreachable {
            device: device.name.to_string(),
            detail: format!("no answer to {} {}", asked.name(), asked.target()),
        };
        self.set_availability(now, id, State::Offline, Reason::Unreachable);
        self.hold_commands(now, id, Why::Offline);
        self.report(now, event);
    }
}
