//! Whose turn it is, and when to go on.

use std::sync::Arc;

use super::job::{Stage, Step};
use super::{PROBE, backoff};
use crate::gateway::Gateway;
use crate::gateway::device::State as Reach;
use crate::kept::Urgency;
use crate::lwm2m::{Path, Record};
use crate::server::DeviceId;
use crate::time::Now;

impl Gateway {
    /// Does what is due.
    pub(in crate::gateway) fn tend_updates(&mut self, now: Now) {
        while let Some((at, endpoint)) = self
            .firmware
            .due
            .first()
            .cloned()
            .filter(|(at, _)| *at <= now.instant)
        {
            self.firmware.due.remove(&(at, endpoint.clone()));
            if let Some(entry) = self.firmware.jobs.get_mut(&endpoint) {
                entry.due = None;
                entry.probes = entry.away > 0 || entry.job.seen.is_none();
                if entry.job.step == Step::Poll {
                    entry.job.step = Step::Read;
                }
            }
            self.advance_update(now, &endpoint);
        }
    }

    /// A device registered, or gave a sign of life.
    pub(in crate::gateway) fn on_update_contact(
        &mut self,
        now: Now,
        id: DeviceId,
        registered: bool,
    ) {
        if self.firmware.jobs.is_empty() {
            return;
        }
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        let Some(entry) = self.firmware.jobs.get_mut(&endpoint) else {
            return;
        };
        if entry.job.stage.is_final() {
            return;
        }
        if registered {
            entry.running = None;
            entry.job.registered();
        }
        let rests = entry.running.is_none() && entry.due.is_none();
        if registered || rests || entry.away > 0 {
            entry.away = 0;
            self.firmware.set_due(&endpoint, None);
            self.advance_update(now, &endpoint);
        }
    }

    /// A device sleeps: what it was to be asked it is asked when it wakes, and its turn goes to the
    /// next. What is under way ends by itself.
    pub(in crate::gateway) fn on_update_slept(&mut self, now: Now, id: DeviceId) {
        if self.firmware.jobs.is_empty() {
            return;
        }
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        let entry = self.firmware.jobs.get_mut(&endpoint);
        let Some(entry) = entry.filter(|entry| !entry.job.stage.is_final()) else {
            return;
        };
        if let Some(operation) = entry.running {
            if !self.server.withdraw(id, operation) {
                return;
            }
            self.purposes.remove(&operation);
            entry.running = None;
            entry.job.look_again();
        }
        self.leave_turn(now, &endpoint);
    }

    /// Values came of a device: its state among them may be news.
    pub(in crate::gateway) fn on_update_values(
        &mut self,
        now: Now,
        id: DeviceId,
        records: &[Record],
    ) {
        let touches = |path: &Path| matches!(path.object_id(), Some(5 | 9));
        if self.firmware.jobs.is_empty() || !records.iter().any(|record| touches(&record.path)) {
            return;
        }
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        let Some(entry) = self.firmware.jobs.get_mut(&endpoint) else {
            return;
        };
        let target = entry.job.target;
        let told = |path: &Path| *path == target.state() || *path == target.result();
        if entry.job.step == Step::Poll && records.iter().any(|record| told(&record.path)) {
            entry.job.step = Step::Read;
            self.firmware.set_due(&endpoint, None);
            self.advance_update(now, &endpoint);
        }
    }

    /// Goes on with a job as far as it can be gone on with now.
    pub(super) fn advance_update(&mut self, now: Now, endpoint: &Arc<str>) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        if entry.job.stage.is_final() || entry.running.is_some() || entry.due.is_some() {
            return;
        }
        let target = entry.job.target.path();
        // After a restart the device still has the place that it was told, and comes there when it
        // likes.
        let unserved = entry.job.is_fetched() && !entry.serving;
        let Some(id) = self.server.device_of(endpoint) else {
            return;
        };
        let Some(registration) = self.server.registration(id) else {
            return self.leave_turn(now, endpoint);
        };
        let has_target = registration.has(&target);
        if unserved && self.place_of(id, endpoint).is_none() {
            return self.settle_unserved(now, endpoint);
        }
        if !self.is_in_reach(id, endpoint) {
            return self.leave_turn(now, endpoint);
        }
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        if !has_target {
            let object = target.object_id().unwrap_or_default();
            entry
                .job
                .fail(&format!("the device has not registered object {object}"));
            return self.settle_update(now, endpoint, false);
        }
        if entry.job.stage.needs_turn() && !self.firmware.turns.contains(endpoint) {
            let fresh = entry.job.stage == Stage::Begun;
            let waiting = (fresh, entry.job.number, endpoint.clone());
            self.firmware.ready.insert(waiting);
            return self.give_turns(now);
        }
        self.take_step(now, id, endpoint);
    }

    /// Whether a device can be asked now: it is there; or it is to be seen whether it is.
    fn is_in_reach(&self, id: DeviceId, endpoint: &str) -> bool {
        let (Some(registration), Some(entry)) = (
            self.server.registration(id),
            self.firmware.jobs.get(endpoint),
        ) else {
            return false;
        };
        let online = self
            .device(id)
            .is_some_and(|device| device.availability.state == Reach::Online);
        online || entry.probes && !registration.queue_mode()
    }

    /// Gives the turn of a device that is out of reach, if it has it, to the next one.
    fn leave_turn(&mut self, now: Now, endpoint: &Arc<str>) {
        let had_it = self.firmware.end_turn(endpoint);
        self.publish_update(now, endpoint);
        if had_it {
            self.give_turns(now);
        }
    }

    /// Lets the next ones begin, or go on.
    pub(super) fn give_turns(&mut self, now: Now) {
        while self.firmware.turns.len() < self.settings.firmware.parallel.max(1)
            && let Some((_, _, endpoint)) = self.firmware.ready.pop_first()
        {
            // One that left, or sleeps by now, comes again by itself.
            let id = self.server.device_of(&endpoint);
            let Some(id) = id.filter(|id| self.is_in_reach(*id, &endpoint)) else {
                continue;
            };
            self.firmware.turns.insert(endpoint.clone());
            self.publish_update(now, &endpoint);
            self.take_step(now, id, &endpoint);
        }
    }

    /// Stores, tells and goes on after something has changed; `away` when it is that the device
    /// does not answer.
    pub(super) fn settle_update(&mut self, now: Now, endpoint: &Arc<str>, away: bool) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.running = None;
        let stage = entry.job.stage;
        if away {
            let wait = backoff(PROBE, entry.away);
            entry.away += 1;
            self.firmware.end_turn(endpoint);
            self.firmware.set_due(endpoint, Some(now.instant + wait));
        } else {
            entry.away = 0;
            if !stage.needs_turn() {
                self.firmware.end_turn(endpoint);
            }
        }
        if stage.is_final() {
            self.firmware.set_due(endpoint, None);
            self.stop_serving(endpoint);
            self.tell_end_of_update(now, endpoint);
        }
        self.keep_update(now, endpoint, Urgency::Now);
        self.publish_update(now, endpoint);
        self.give_turns(now);
        if !away {
            self.advance_update(now, endpoint);
        }
    }
}
