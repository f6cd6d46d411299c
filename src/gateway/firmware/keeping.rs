//! What of the updates outlives the process.

use std::sync::Arc;

use super::image::Digest;
use super::job::Job;
use super::{AFTER_RESTART, Entry};
use crate::gateway::{Gateway, Output};
use crate::kept::{self, Change, Document, DocumentKey, Urgency};
use crate::server::DeviceId;
use crate::time::Now;

impl Gateway {
    /// Takes back a job that was under way when the process before us ended.
    pub(in crate::gateway) fn restore_update(
        &mut self,
        now: Now,
        endpoint: &Arc<str>,
        body: &[u8],
    ) -> Result<(), serde_json::Error> {
        let mut job: Job = serde_json::from_slice(body)?;
        job.look_again();
        let goes_on = !job.stage.is_final();
        let firmware = &mut self.firmware;
        firmware.next_number = firmware.next_number.max(job.number + 1);
        firmware.jobs.insert(endpoint.clone(), Entry::new(job));
        if goes_on {
            firmware.set_due(endpoint, Some(now.instant + AFTER_RESTART));
        }
        Ok(())
    }

    /// Stores a job as it is.
    pub(super) fn keep_update(&mut self, now: Now, endpoint: &Arc<str>, urgency: Urgency) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.job.enter(now.unix.as_millis());
        let Ok(body) = serde_json::to_vec(&entry.job) else {
            return;
        };
        let hash = Digest::of(&body).etag();
        if entry.kept.replace(hash) == Some(hash) {
            return;
        }
        let key = update_key(endpoint);
        let change = Change::Put(Document { key, body }, urgency);
        self.outputs.push_back(Output::Store(change));
    }

    /// Stores how far every update has come: the next process can go on just there, and a device
    /// takes no other block than the next.
    pub(in crate::gateway) fn keep_updates(&mut self, now: Now) {
        for endpoint in self.firmware.turns.clone() {
            self.keep_update(now, &endpoint, Urgency::Now);
        }
    }

    /// A device was removed: nothing is kept of its update.
    pub(in crate::gateway) fn forget_update(&mut self, now: Now, id: DeviceId) {
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        if !self.firmware.jobs.contains_key(&endpoint) {
            return;
        }
        self.stop_serving(&endpoint);
        self.firmware.set_due(&endpoint, None);
        self.firmware.end_turn(&endpoint);
        self.firmware.jobs.remove(&endpoint);
        let change = Change::Drop(update_key(&endpoint), Urgency::Now);
        self.outputs.push_back(Output::Store(change));
        self.delete_update_topic(id);
        self.give_turns(now);
    }
}

fn update_key(endpoint: &Arc<str>) -> DocumentKey {
    DocumentKey {
        kind: kept::Kind::Update,
        endpoint: endpoint.clone(),
        id: "update".into(),
    }
}
