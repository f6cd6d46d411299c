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
        let waits = entry.away > 0 || !entry.has_turn && entry.job.stage.needs_turn();
        if registered || waits {
            entry.away = 0;
            self.firmware.set_due(&endpoint, None);
            self.advance_update(now, &endpoint);
        }
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
        let Some(id) = self.server.device_of(endpoint) else {
            return;
        };
        let Some(registration) = self.server.registration(id) else {
            return;
        };
        let online = self
            .devices
            .get(id.0 as usize)
            .is_some_and(|device| device.availability.state == Reach::Online);
        let may_probe = entry.probes && !registration.queue_mode();
        if !online && !may_probe {
            return;
        }
        if !registration.has(&entry.job.target.path()) {
            let object = entry.job.target.path().object_id().unwrap_or_default();
            entry
                .job
                .fail(&format!("the device has not registered object {object}"));
            return self.settle_update(now, endpoint, None);
        }
        if entry.job.stage.needs_turn() && !entry.has_turn {
            let fresh = entry.job.stage == Stage::Begun;
            let waiting = (fresh, entry.job.number, endpoint.clone());
            self.firmware.ready.insert(waiting);
            return self.give_turns(now);
        }
        self.take_step(now, id, endpoint);
    }

    /// Lets the next ones begin, or go on.
    pub(super) fn give_turns(&mut self, now: Now) {
        while self.firmware.turns < self.settings.firmware.parallel.max(1)
            && let Some((_, _, endpoint)) = self.firmware.ready.pop_first()
        {
            let id = self.server.device_of(&endpoint);
            let id = id.filter(|id| self.server.registration(*id).is_some());
            let Some(entry) = self.firmware.jobs.get_mut(&endpoint) else {
                continue;
            };
            // One that left comes again by itself.
            let Some(id) = id.filter(|_| entry.job.stage.needs_turn() && !entry.has_turn) else {
                continue;
            };
            entry.has_turn = true;
            self.firmware.turns += 1;
            self.publish_update(now, &endpoint);
            self.take_step(now, id, &endpoint);
        }
    }

    /// Stores, tells and goes on after something has changed; `away` when it is that the device
    /// does not answer.
    pub(super) fn settle_update(&mut self, now: Now, endpoint: &Arc<str>, away: Option<()>) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.running = None;
        let stage = entry.job.stage;
        if away.is_some() {
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
        if away.is_none() {
            self.advance_update(now, endpoint);
        }
    }
}
