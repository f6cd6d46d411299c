//! What is told about updates: the topic `fw`, the answers to the command line, events.

use std::sync::Arc;

use serde::Serialize;

use super::image::Digest;
use super::job::{Job, Method, Stage};
use super::{Entry, PROGRESS_INTERVAL, object};
use crate::gateway::device::State as Reach;
use crate::gateway::publish::Publish;
use crate::gateway::{Event, Gateway};
use crate::kept::Urgency;
use crate::server::DeviceId;
use crate::time::{Now, UnixTime};

/// The retained message on `{base}/d/<dev>/fw`.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    state: &'static str,
    /// What keeps it from going on.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<&'static str>,
    object: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<Method>,
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    size: u64,
    bytes: u64,
    percent: u64,
    attempt: u32,
    /// What the device says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    device_state: Option<object::State>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    since: String,
}

impl Job {
    /// Enters the time at which it came to its stage.
    pub(super) fn enter(&mut self, now: i64) {
        if self.told != Some(self.stage) {
            self.told = Some(self.stage);
            self.since = now;
        }
    }

    fn state(&self) -> &'static str {
        match self.stage {
            Stage::Begun => "queued",
            Stage::Sending => "downloading",
            Stage::Sent if self.seen == Some(object::State::Downloading) => "downloading",
            Stage::Sent if self.method == Some(Method::Pull) && self.offset < self.image.size => {
                "downloading"
            }
            Stage::Sent => "downloaded",
            Stage::Installing => "updating",
            Stage::Done => "done",
            Stage::Failed => "failed",
            Stage::Cancelled => "cancelled",
        }
    }
}

impl Gateway {
    fn report_of<'a>(&self, endpoint: &str, entry: &'a Entry) -> Report<'a> {
        let job = &entry.job;
        let id = self.server.device_of(endpoint);
        let registration = id.and_then(|id| self.server.registration(id));
        let device = id.and_then(|id| self.device(id));
        let online = device.is_some_and(|device| device.availability.state == Reach::Online);
        let waiting = if job.stage.is_final() {
            None
        } else if registration.is_none() {
            Some("offline")
        } else if !online || entry.away > 0 {
            let sleeps = registration.is_some_and(|registration| registration.queue_mode());
            Some(if sleeps { "asleep" } else { "no_answer" })
        } else if job.stage.needs_turn() && !self.firmware.turns.contains(endpoint) {
            Some("turn")
        } else if job.deferred {
            Some("deferred")
        } else {
            None
        };
        let size = job.image.size;
        Report {
            state: job.state(),
            waiting,
            object: job.target.path().to_string(),
            method: job.method,
            file: &job.image.name,
            // Of what is fetched elsewhere, nothing is known.
            sha256: (size > 0).then(|| job.image.sha256.to_string()),
            size,
            bytes: job.offset.min(size),
            percent: (job.offset.min(size) * 100).checked_div(size).unwrap_or(0),
            attempt: job.attempts + 1,
            device_state: job.seen,
            result: job.result,
            reason: job.reason.as_deref(),
            since: UnixTime::from_millis(job.since).to_string(),
        }
    }

    /// What the command line is told about one update.
    pub(super) fn update_json(&self, endpoint: &str) -> Option<serde_json::Value> {
        let entry = self.firmware.jobs.get(endpoint)?;
        let mut told = serde_json::to_value(self.report_of(endpoint, entry)).ok()?;
        let name = self
            .server
            .device_of(endpoint)
            .and_then(|id| self.device(id))
            .map_or(endpoint, |device| &device.name);
        told["device"] = name.into();
        told["endpoint"] = endpoint.into();
        Some(told)
    }

    /// The message about the update of a device, if it has or had one.
    pub(in crate::gateway) fn update_message(&self, id: DeviceId) -> Option<Publish> {
        let endpoint = self.server.endpoint_name(id)?;
        let entry = self.firmware.jobs.get(endpoint)?;
        let device = self.device(id).filter(|device| !device.removed)?;
        let payload = serde_json::to_vec(&self.report_of(endpoint, entry)).ok()?;
        Some(Publish::state(
            self.topics.device(&device.name, "fw"),
            payload,
        ))
    }

    pub(super) fn publish_update(&mut self, now: Now, endpoint: &Arc<str>) {
        let Some(id) = self.server.device_of(endpoint) else {
            return;
        };
        let Some(message) = self.update_message(id) else {
            return;
        };
        let hash = Digest::of(&message.payload).etag();
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.published = now.instant;
        if entry.told.replace(hash) != Some(hash) {
            self.publish(message);
        }
    }

    /// Tells and stores progress, but not at each block of many in a second. Where a block takes
    /// longer, so that it would be a pity to begin again, each is stored before the next one leaves.
    pub(super) fn publish_progress(&mut self, now: Now, endpoint: &Arc<str>) {
        let told = self.firmware.jobs.get(endpoint);
        if told.is_some_and(|entry| now.instant.since(entry.published) >= PROGRESS_INTERVAL) {
            self.keep_update(now, endpoint, Urgency::Now);
            self.publish_update(now, endpoint);
        }
    }

    pub(super) fn delete_update_topic(&mut self, id: DeviceId) {
        if let Some(device) = self.device(id) {
            let topic = self.topics.device(&device.name, "fw");
            self.publish(Publish::deletion(topic));
        }
    }

    /// Says how an update ended.
    pub(super) fn tell_end_of_update(&mut self, now: Now, endpoint: &Arc<str>) {
        let Some(entry) = self.firmware.jobs.get(endpoint) else {
            return;
        };
        let (stage, file) = (entry.job.stage, entry.job.image.name.clone());
        let detail = entry.job.reason.clone().unwrap_or_default();
        let device = self
            .server
            .device_of(endpoint)
            .and_then(|id| self.device(id))
            .map_or(endpoint.to_string(), |device| device.name.to_string());
        self.report(
            now,
            match stage {
                Stage::Done => Event::UpdateDone { device, file },
                _ => Event::UpdateFailed {
                    device,
                    file,
                    detail,
                },
            },
        );
    }
}
