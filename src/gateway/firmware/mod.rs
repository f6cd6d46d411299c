//! Updates of firmware and software: whose turn it is, what is asked of the devices, and what is
//! told about it.
//!
//! A [`Job`](job::Job) decides what comes next for one device; here it meets the server, the
//! images, and the others. What is *absent* here: files, and HTTP.

pub mod image;
mod job;
mod object;
mod say;
mod serve;
mod verbs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use self::image::{Digest, Image};
use self::job::{Fault, Job, Method, Seen, Stage, Step};
use self::object::Target;
use crate::coap::Position;
use crate::gateway::device::{Reason, State as Reach};
use crate::gateway::{Gateway, Output, Purpose};
use crate::kept::{self, Change, Document, DocumentKey, Urgency};
use crate::lwm2m::{Arguments, Path, Record, Value};
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
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
    /// How many have their turn.
    turns: usize,
    due: BTreeSet<(Instant, Arc<str>)>,
    next_number: u64,
    rng: StdRng,
}

/// One job, and how the gateway stands to it.
struct Entry {
    job: Job,
    /// What was asked and is not answered.
    running: Option<OperationId>,
    has_turn: bool,
    due: Option<Instant>,
    /// How often in a row the device did not answer.
    away: u32,
    /// Whether it is asked although it is taken to be away.
    probes: bool,
    published: Instant,
    /// Whether the image is served to the device.
    serving: bool,
}

/// The content of an image.
enum Content {
    /// The shell was asked for it.
    Wanted,
    /// Shared by all devices that are sent it.
    Here(Bytes),
}

impl Entry {
    fn new(job: Job) -> Self {
        Self {
            job,
            running: None,
            has_turn: false,
            due: None,
            away: 0,
            probes: false,
            published: Instant::ZERO,
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
            turns: 0,
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

    /// Takes a job out of those that wait for their turn or have it.
    fn end_turn(&mut self, endpoint: &Arc<str>) {
        let Some(entry) = self.jobs.get_mut(endpoint) else {
            return;
        };
        if std::mem::take(&mut entry.has_turn) {
            self.turns -= 1;
        }
        let number = entry.job.number;
        self.ready.remove(&(false, number, endpoint.clone()));
        self.ready.remove(&(true, number, endpoint.clone()));
        self.drop_unused();
    }

    /// Contents that nobody is being sent are not held.
    fn drop_unused(&mut self) {
        let jobs = &self.jobs;
        self.contents.retain(|digest, _| {
            jobs.values()
                .any(|entry| entry.has_turn && entry.job.image.sha256 == *digest)
        });
    }
}

/// Twice as long each time, between the least and the most.
fn backoff((least, most): (Duration, Duration), times: u32) -> Duration {
    (least * 2u32.saturating_pow(times.min(16))).min(most)
}

impl Gateway {
    /// Takes back a job that was under way when the process before us ended.
    pub(super) fn restore_update(
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
        if !self.firmware.contents.contains_key(&digest) {
            return;
        }
        let waiting: Vec<_> = self
            .firmware
            .jobs
            .iter()
            .filter(|(_, entry)| entry.has_turn && entry.job.image.sha256 == digest)
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        let failure = match content {
            Ok(content) => {
                self.firmware
                    .contents
                    .insert(digest, Content::Here(content));
                None
            }
            Err(why) => {
                self.firmware.contents.remove(&digest);
                Some(why)
            }
        };
        for endpoint in waiting {
            if let (Some(why), Some(entry)) = (&failure, self.firmware.jobs.get_mut(&endpoint)) {
                entry.job.fail(why);
                self.settle_update(now, &endpoint, None);
            } else {
                self.advance_update(now, &endpoint);
            }
        }
    }

    /// Does what is due.
    pub(super) fn tend_updates(&mut self, now: Now) {
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
    pub(super) fn on_update_contact(&mut self, now: Now, id: DeviceId, registered: bool) {
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
    pub(super) fn on_update_values(&mut self, now: Now, id: DeviceId, records: &[Record]) {
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
    fn advance_update(&mut self, now: Now, endpoint: &Arc<str>) {
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
    fn give_turns(&mut self, now: Now) {
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

    /// Asks the next thing of a device.
    fn take_step(&mut self, now: Now, id: DeviceId, endpoint: &Arc<str>) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.probes = false;
        let (target, method) = (entry.job.target, entry.job.method);
        // After a restart the device still has the place that it was told.
        if entry.job.stage == Stage::Sent
            && method == Some(Method::Pull)
            && !entry.serving
            && self.place_of(id, endpoint).is_none()
        {
            return self.settle_unserved(now, endpoint);
        }
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        let operation = match entry.job.step {
            Step::Poll => {
                let at = now.instant + backoff(POLL, entry.job.polls);
                return self.firmware.set_due(endpoint, Some(at));
            }
            Step::Read => Operation::Read(target.path().into()),
            Step::Install => Operation::Execute(target.install(), Arguments::default()),
            Step::Activate => Operation::Execute(target.activate(), Arguments::default()),
            Step::Clear(way) => match (target, way == 0) {
                (Target::Software(_), first) => {
                    let installed = entry.job.seen == Some(object::State::Installed);
                    // 1: to make room for another version, not to be rid of it.
                    let for_update = (installed && first).then_some((1, None));
                    let arguments = Arguments(for_update.into_iter().collect());
                    Operation::Execute(target.uninstall(), arguments)
                }
                (Target::Firmware, first) if first == (method != Some(Method::Pull)) => {
                    // A package of one byte, which is zero.
                    let nul = Bytes::from_static(&[0]);
                    return self.upload(now, id, endpoint, nul, Position::START);
                }
                (Target::Firmware, _) => write_text(target.package_uri(), String::new()),
            },
            Step::Send if method == Some(Method::Pull) => {
                match self.place_of(id, endpoint) {
                    Some(uri) => write_text(target.package_uri(), uri),
                    // The content is being loaded, or nothing can be served.
                    None => return self.settle_unserved(now, endpoint),
                }
            }
            Step::Send => {
                let (digest, position) = (entry.job.image.sha256, entry.job.position());
                let Some(content) = self.content(digest) else {
                    return;
                };
                return self.upload(now, id, endpoint, content, position);
            }
        };
        let running = self.server.operate(now, id, operation);
        self.purposes.insert(running, Purpose::Update);
        if let Some(entry) = self.firmware.jobs.get_mut(endpoint) {
            entry.running = Some(running);
        }
        self.pump(now);
    }

    /// Nothing can be served yet, or never.
    fn settle_unserved(&mut self, now: Now, endpoint: &Arc<str>) {
        let entry = self.firmware.jobs.get(endpoint);
        if entry.is_some_and(|entry| entry.job.stage.is_final()) {
            self.settle_update(now, endpoint, None);
        }
    }

    fn upload(&mut self, now: Now, id: DeviceId, endpoint: &Arc<str>, body: Bytes, from: Position) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        let package = entry.job.target.package();
        let running = self.server.upload(now, id, package, body, from);
        entry.running = Some(running);
        self.pump(now);
    }

    /// The content of an image; the shell is asked for it if it is not here.
    fn content(&mut self, digest: Digest) -> Option<Bytes> {
        match self.firmware.contents.get(&digest) {
            Some(Content::Here(content)) => Some(content.clone()),
            Some(Content::Wanted) => None,
            None => {
                self.firmware.contents.insert(digest, Content::Wanted);
                self.outputs.push_back(Output::LoadImage(digest));
                None
            }
        }
    }

    /// What was asked for an update was answered, or not.
    pub(super) fn finish_update_step(
        &mut self,
        now: Now,
        operation: OperationId,
        id: DeviceId,
        result: Result<Answer, OperationError>,
    ) {
        let Some((endpoint, entry)) = self.entry_of(id, operation) else {
            return;
        };
        let step = entry.job.step;
        let result = result.map_err(fault);
        let away = (result.as_ref().err() == Some(&Fault::Away)).then_some(());
        match step {
            Step::Read | Step::Poll => match result {
                Ok(answer) => self.take_instance(id, &endpoint, &answer),
                Err(Fault::Away) => entry.job.look_again(),
                Err(Fault::Refused(code, text)) => {
                    let path = entry.job.target.path();
                    let reason = format!("{path} cannot be read: {code} {} {text}", code.name());
                    entry.job.fail(reason.trim_end());
                }
                Err(Fault::Strange(text)) => entry.job.fail(&text),
            },
            Step::Clear(way) => entry.job.cleared(way, result.map(drop)),
            Step::Send => entry.job.sent(result.map(drop)),
            Step::Install => entry.job.told_to_install(result.map(drop)),
            Step::Activate => entry.job.activated(result.map(drop)),
        }
        self.settle_update(now, &endpoint, away);
    }

    pub(super) fn on_upload_ended(
        &mut self,
        now: Now,
        operation: OperationId,
        id: DeviceId,
        result: Result<(), OperationError>,
    ) {
        let package = |entry: &Entry| entry.job.target.package();
        let asked = self
            .entry_of(id, operation)
            .map(|(_, entry)| package(entry));
        match (&result, asked) {
            (Err(OperationError::Timeout), Some(path)) => {
                let asked = Operation::Write {
                    path,
                    records: Vec::new(),
                    replace: true,
                };
                self.on_unanswered(now, id, &asked);
            }
            (Ok(()) | Err(OperationError::Response { .. }), Some(_)) => {
                self.on_contact(now, id, Reason::Notify);
            }
            _ => {}
        }
        let answer = result.map(|()| Answer::default());
        self.finish_update_step(now, operation, id, answer);
    }

    pub(super) fn on_upload_progress(
        &mut self,
        now: Now,
        operation: OperationId,
        id: DeviceId,
        position: Position,
    ) {
        self.on_contact(now, id, Reason::Notify);
        let Some((endpoint, entry)) = self.entry_of(id, operation) else {
            return;
        };
        if entry.job.step == Step::Send {
            entry.job.progressed(position);
            self.publish_progress(now, &endpoint);
        }
    }

    /// A device fetched a part of what we serve it.
    pub(super) fn on_fetched(&mut self, now: Now, id: DeviceId, bytes: u64) {
        let Some(endpoint) = self.server.endpoint_name(id).cloned() else {
            return;
        };
        if let Some(entry) = self.firmware.jobs.get_mut(&endpoint)
            && !entry.job.stage.is_final()
            && entry.job.method == Some(Method::Pull)
        {
            entry.job.offset = bytes.min(entry.job.image.size);
            self.publish_progress(now, &endpoint);
        }
    }

    fn entry_of(&mut self, id: DeviceId, operation: OperationId) -> Option<(Arc<str>, &mut Entry)> {
        let endpoint = self.server.endpoint_name(id)?.clone();
        let entry = self.firmware.jobs.get_mut(&endpoint)?;
        (entry.running == Some(operation)).then_some((endpoint, entry))
    }

    /// Takes in what a device says of itself.
    fn take_instance(&mut self, id: DeviceId, endpoint: &Arc<str>, answer: &Answer) {
        let version = self
            .devices
            .get(id.0 as usize)
            .and_then(|device| device.about.firmware.clone());
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        let job = &mut entry.job;
        let integer = |path: Path| {
            let found = answer.records.iter().find(|record| record.path == path);
            found.and_then(|record| match record.value {
                Value::Integer(value) => Some(value),
                Value::UnsignedInteger(value) => i64::try_from(value).ok(),
                _ => None,
            })
        };
        let target = job.target;
        let state = integer(target.state()).and_then(|value| target.read_state(value));
        let result = integer(target.result()).map(|value| target.read_result(value));
        let (Some(state), Some(verdict)) = (state, result) else {
            let (state, result) = (target.state(), target.result());
            return job.fail(&format!(
                "the device says nothing that makes sense at {state} and {result}"
            ));
        };
        if job.method.is_none() {
            // Which one it takes: 0 pull, 1 push, 2 both.
            let only_pulls =
                target == Target::Firmware && integer(Path::resource(5, 0, 9)) == Some(0);
            job.method = Some(if only_pulls {
                Method::Pull
            } else {
                Method::Push
            });
        }
        self.take_protocols(endpoint, answer);
        if let Some(entry) = self.firmware.jobs.get_mut(endpoint) {
            let job = &mut entry.job;
            if job.stage == Stage::Begun && job.version.is_none() {
                job.version.clone_from(&version);
            }
            job.take(Seen {
                state,
                verdict,
                other_version: version.is_some() && job.version != version,
            });
        }
    }

    /// Stores, tells and goes on after something has changed; `away` when it is that the device
    /// does not answer.
    fn settle_update(&mut self, now: Now, endpoint: &Arc<str>, away: Option<()>) {
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

    /// Stores a job as it is.
    fn keep_update(&mut self, now: Now, endpoint: &Arc<str>, urgency: Urgency) {
        let Some(entry) = self.firmware.jobs.get_mut(endpoint) else {
            return;
        };
        entry.job.enter(now.unix.as_millis());
        let Ok(body) = serde_json::to_vec(&entry.job) else {
            return;
        };
        let key = update_key(endpoint);
        let change = Change::Put(Document { key, body }, urgency);
        self.outputs.push_back(Output::Store(change));
    }

    /// Stores how far every update has come: the next process can go on just there, and a device
    /// takes no other block than the next.
    pub(super) fn keep_updates(&mut self, now: Now) {
        let under_way: Vec<_> = self
            .firmware
            .jobs
            .iter()
            .filter(|(_, entry)| entry.has_turn)
            .map(|(endpoint, _)| endpoint.clone())
            .collect();
        for endpoint in under_way {
            self.keep_update(now, &endpoint, Urgency::Now);
        }
    }

    /// A device was removed: nothing is kept of its update.
    pub(super) fn forget_update(&mut self, now: Now, id: DeviceId) {
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

fn write_text(path: Path, text: String) -> Operation {
    let record = Record {
        path,
        value: Value::String(text),
        time: None,
    };
    Operation::Write {
        path,
        records: vec![record],
        replace: true,
    }
}

fn fault(error: OperationError) -> Fault {
    match error {
        OperationError::Response { code, diagnostic } => Fault::Refused(code, diagnostic),
        OperationError::Timeout
        | OperationError::NoResponse
        | OperationError::Unregistered
        | OperationError::QueueFull
        | OperationError::Reset
        | OperationError::Abandoned => Fault::Away,
        other => Fault::Strange(other.to_string()),
    }
}
