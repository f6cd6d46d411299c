//! Another plan while devices are here: what differs is asked of them and published, and nothing
//! else.

use crate::gateway::Gateway;
use crate::gateway::device::Tracked;
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
        if self.server.registration(id).is_none() {
            return;
        }
        let Some(facts) = DeviceFacts::of(&self.server, id) else {
            return;
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
        self.settle_name(now, id);
        self.rename_signals(id, &profile);
        self.reconcile(now, id);
        self.birth_later(now, id);
        self.keep_descriptor(id, kept::Urgency::Soon);
        self.continue_setup(now, id);
    }

    /// Gives each signal of a device the place that its profile has for it; its value goes along.
    pub(super) fn rename_signals(&mut self, id: DeviceId, profile: &Profile) {
        let (Some(facts), Some(device)) = (
            DeviceFacts::of(&self.server, id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let olds = std::mem::take(&mut device.signals);
        let mut moves = Vec::with_capacity(olds.len());
        for old in &olds {
            let (Destination::Signal(signal) | Destination::Raw(signal)) = &old.destination else {
                continue;
            };
            let destination = profile.signal(&device.name, &facts, &old.path, &self.models);
            let mut new = Tracked::new(old.path, destination, facts.endpoint);
            (new.kept, new.heard, new.stale) = (old.kept, old.heard, old.stale);
            let stood = kept::Signal {
                path: old.path,
                topic: signal.topic.clone(),
                retained: signal.retain,
                last: old.last.clone(),
                due: old.due,
            };
            moves.push((stood, new));
        }
        self.release_topics(id, &olds);
        self.restore_signals(id, moves);
    }
}
