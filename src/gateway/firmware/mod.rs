//! Updates of firmware and software: whose turn it is, what is asked of the devices, and what is
//! told about it.
//!
//! A [`Job`](job::Job) decides what comes next for one device; here it meets the server, the
//! images, and the others. What is *absent* here: files, and HTTP.

mod answers;
mod asking;
pub mod image;
mod job;
mod keeping;
mod object;
mod say;
mod serve;
mod turns;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use self::image::{Digest, Image};
use self::job::Job;
use crate::gateway::{Gateway, Output};
use crate::server::OperationId;
use crate::time::{Instant, Now};

pub use serve::Places;

/// What the operator decides about updates.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Devices that are sent a package at a time. 4.
    pub parallel: usize,
    /// Where devices can fetch what we serve.
    pub places: Places,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            parallel: 4,
            places: Places::default(),
        }
    }
}

/// Jobs that are remembered, in all; of those that have ended, one a device.
const JOBS: usize = 100_000;
/// The shortest and the longest wait before a device is looked at again.
const POLL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// The same for a device that did not answer, unless it sleeps: it comes by itself.
const PROBE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// How long after a restart a device is looked at that was in the middle of an update.
const AFTER_RESTART: Duration = Duration::from_secs(2);
/// The shortest time between two messages about progress alone.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// All updates.
pub(super) struct Firmware {
    /// By endpoint name, because a job outlives the registration and the process.
    jobs: BTreeMap<Arc<str>, Entry>,
    images: BTreeMap<Digest, Image>,
    contents: BTreeMap<Digest, Content>,
    /// Jobs that could go on if it were their turn: those in the middle before new ones.
    ready: BTreeSet<(bool, u64, Arc<str>)>,
    /// Those whose turn it is.
    turns: BTreeSet<Arc<str>>,
    due: BTreeSet<(Instant, Arc<str>)>,
    next_number: u64,
    rng: StdRng,
}

/// One job, and how the gateway stands to it.
struct Entry {
    job: Job,
    /// What was asked and is not answered.
    running: Option<OperationId>,
    due: Option<Instant>,
    /// How often in a row the device did not answer.
    away: u32,
    /// Whether it is asked although it is taken to be away.
    probes: bool,
    /// When it was told last.
    published: Instant,
    /// What was told last, and what is stored: hashes, so that neither is done twice.
    told: Option<u64>,
    kept: Option<u64>,
    /// Whether the image is served to the device.
    serving: bool,
}

/// The content of an image.
enum Content {
    /// The shell was asked for it; who waits for it.
    Wanted(BTreeSet<Arc<str>>),
    /// Shared by all devices that are sent it.
    Here(Bytes),
}

impl Entry {
    fn new(job: Job) -> Self {
        Self {
            job,
            running: None,
            due: None,
            away: 0,
            probes: false,
            published: Instant::ZERO,
            told: None,
            kept: None,
            serving: false,
        }
    }
}

impl Firmware {
    pub(super) fn new(rng: &mut impl Rng) -> Self {
        Self {
            jobs: BTreeMap::new(),
            images: BTreeMap::new(),
            contents: BTreeMap::new(),
            ready: BTreeSet::new(),
            turns: BTreeSet::new(),
            due: BTreeSet::new(),
            next_number: 1,
            rng: StdRng::from_seed(rng.random()),
        }
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    fn set_due(&mut self, endpoint: &Arc<str>, due: Option<Instant>) {
        let Some(entry) = self.jobs.get_mut(endpoint) else {
            return;
        };
        if let Some(before) = std::mem::replace(&mut entry.due, due) {
            self.due.remove(&(before, endpoint.clone()));
        }
        if let Some(at) = due {
            self.due.insert((at, endpoint.clone()));
        }
    }

    /// Takes a job out of those that wait for their turn or have it. Whether it had it.
    fn end_turn(&mut self, endpoint: &Arc<str>) -> bool {
        let Some(entry) = self.jobs.get(endpoint) else {
            return false;
        };
        let number = entry.job.number;
        self.ready.remove(&(false, number, endpoint.clone()));
        self.ready.remove(&(true, number, endpoint.clone()));
        let had_it = self.turns.remove(endpoint);
        if had_it {
            self.drop_unused();
        }
        had_it
    }

    /// Contents that nobody is being sent, or waits for, are not held.
    fn drop_unused(&mut self) {
        let (jobs, turns) = (&self.jobs, &self.turns);
        let sent: BTreeSet<_> = turns
            .iter()
            .filter_map(|endpoint| Some(jobs.get(endpoint)?.job.image.sha256))
            .collect();
        self.contents.retain(|digest, content| {
            matches!(content, Content::Wanted(_)) || sent.contains(digest)
        });
    }
}

/// Twice as long each time, between the least and the most.
fn backoff((least, most): (Duration, Duration), times: u32) -> Duration {
    (least * 2u32.saturating_pow(times.min(16))).min(most)
}

impl Gateway {
    /// The images that the store holds now.
    pub fn set_images(&mut self, images: Vec<Image>) {
        self.firmware.images = images
            .into_iter()
            .map(|image| (image.sha256, image))
            .collect();
    }

    /// The digests of the images that updates under way need.
    pub fn needed_images(&self) -> BTreeSet<Digest> {
        self.firmware
            .jobs
            .values()
            .filter(|entry| !entry.job.stage.is_final())
            .map(|entry| entry.job.image.sha256)
            .collect()
    }

    /// An answer to [`Output::LoadImage`].
    pub(super) fn on_image(&mut self, now: Now, digest: Digest, content: Result<Bytes, String>) {
        let Some(Content::Wanted(waiting)) = self.firmware.contents.remove(&digest) else {
            return;
        };
        let failure = match content {
            Ok(content) => {
                let content = Content::Here(content);
                self.firmware.contents.insert(digest, content);
                None
            }
            Err(why) => Some(why),
        };
        for endpoint in waiting {
            // It may have been given up, and begun with another image, meanwhile.
            let entry = self.firmware.jobs.get_mut(&endpoint);
            let Some(entry) = entry
                .filter(|entry| !entry.job.stage.is_final() && entry.job.image.sha256 == digest)
            else {
                continue;
            };
            if let Some(why) = &failure {
                entry.job.fail(why);
                self.settle_update(now, &endpoint, false);
            } else {
                self.advance_update(now, &endpoint);
            }
        }
        self.firmware.drop_unused();
    }

    /// The content of the image of a job. The shell is asked for it if it is not here, and the job
    /// goes on when it is.
    fn content(&mut self, endpoint: &Arc<str>, digest: Digest) -> Option<Bytes> {
        match self.firmware.contents.get_mut(&digest) {
            Some(Content::Here(content)) => return Some(content.clone()),
            Some(Content::Wanted(waiting)) => {
                waiting.insert(endpoint.clone());
            }
            None => {
                let waiting = Content::Wanted(BTreeSet::from([endpoint.clone()]));
                self.firmware.contents.insert(digest, waiting);
                self.outputs.push_back(Output::LoadImage(digest));
            }
        }
        None
    }
}
