//! Another plan while devices are here: what differs is asked of them and published, and nothing
//! else.

use std::sync::Arc;

use crate::gateway::device::Tracked;
use crate::gateway::{Gateway, units};
use crate::kept;
use crate::lwm2m::model::Models;
use crate::mapping::{Destination, DeviceFacts, Plan, Profile};
use crate::server::DeviceId;
use crate::time::Now;

impl Gateway {
    /// The object definitions that a plan is compiled with.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// The first levels of every topic.
    pub fn base_topic(&self) -> &str {
        &self.settings.base_topic
    }

    /// Goes by another plan from now on. A device that is not registered takes it up when it
    /// registers.
    pub fn set_plan(&mut self, now: Now, plan: Plan) {
        self.plan = plan;
        for id in (0..self.devices.len() as u32).map(DeviceId) {
            self.replan(now, id);
        }
        self.pump(now);
        self.say_kept();
    }

    /// Brings a registered device to its profile in the plan.
    fn replan(&mut self, now: Now, id: DeviceId) {
        let (Some(endpoint), Some(registration)) = (
            self.server.endpoint_name(id).cloned(),
            self.server.registration(id),
        ) else {
            return;
        };
        let facts = DeviceFacts {
            endpoint: &endpoint,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        };
        let profile = self.plan.profile(&facts);
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let before = std::mem::replace(&mut device.profile, profile.clone());
        if before.id() == profile.id() && before.hash() == profile.hash() {
            return;
        }
        // What was wrong may be right now; what is wrong still comes up again.
        device.problems.clear();
        self.rename_signals(id, &endpoint, &profile);
        self.reconcile(now, id);
        self.birth_later(now, id);
        self.keep_descriptor(id, kept::Urgency::Soon);
        self.continue_setup(now, id);
    }

    /// Gives each signal of a device the place that its profile has for it; its value goes along.
    fn rename_signals(&mut self, id: DeviceId, endpoint: &Arc<str>, profile: &Arc<Profile>) {
        let (Some(registration), Some(device)) = (
            self.server.registration(id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let facts = DeviceFacts {
            endpoint,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        };
        let mut moves = Vec::new();
        for old in std::mem::take(&mut device.signals) {
            let destination = profile.signal(&device.name, &facts, &old.path, &self.models);
            let mut new = Tracked::new(old.path, destination, endpoint);
            (new.kept, new.heard, new.stale) = (old.kept, old.heard, old.stale);
            moves.push((old, new));
        }
        for (old, _) in &moves {
            if let Destination::Signal(signal) | Destination::Raw(signal) = &old.destination {
                for topic in signal.topics() {
                    self.holders.remove(topic);
                }
            }
        }
        let mut stated = Vec::new();
        for (old, new) in moves {
            let (Destination::Signal(signal) | Destination::Raw(signal)) = old.destination else {
                continue;
            };
            stated.extend(units::is_unit(&old.path).then_some(old.path));
            let stood = kept::Signal {
                path: old.path,
                topic: signal.topic,
                retained: signal.retain,
                last: old.last,
            };
            self.restore_signal(id, endpoint, stood, new);
        }
        if let Some(device) = self.device_mut(id) {
            for path in stated {
                units::spread(device, &path);
            }
        }
    }
}
