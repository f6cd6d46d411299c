//! Brings each device to what the plan wants of it: what it is asked once, and what is observed.

use std::collections::VecDeque;

use crate::coap::Code;
use crate::gateway::device::{About, Reason, State};
use crate::gateway::json::Source;
use crate::gateway::problems::Problem;
use crate::gateway::uplink::Arrival;
use crate::gateway::watch::{self, Watch, Watching};
use crate::gateway::{Gateway, Purpose};
use crate::kept::Urgency;
use crate::lwm2m::model::Models;
use crate::lwm2m::{Id, Path, Target, Value};
use crate::mapping::{Desired, DeviceFacts, Profile};
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

/// The device object, whose content goes into the birth message.
pub(super) const DEVICE_OBJECT: Path = Path::instance(3, 0);

impl Gateway {
    /// Brings what is observed of a device to what its profile wants of it now: after an Update with
    /// other objects, and when the profile is another one. Only what differs is asked for.
    pub(super) fn reconcile(&mut self, now: Now, id: DeviceId) {
        let Some(Wanted { watches, problems }) = self.wanted(id) else {
            return;
        };
        let (Some(registration), Some(device)) = (
            self.server.registration(id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let is_wanted = |target: &Target| {
            watches
                .binary_search_by(|watch| watch.target.cmp(target))
                .is_ok()
        };
        let unwanted: Vec<_> = device
            .watches
            .extract_if(.., |watch| !is_wanted(&watch.target))
            .collect();
        for watch in &unwanted {
            device.setup.retain(|step| !is_about(step, &watch.target));
        }
        for mut watch in watches {
            let target = watch.target.clone();
            let steps = match device.find_watch(&target) {
                Ok(at) => match device.watches.get_mut(at) {
                    Some(known) if known.state != Watching::Absent => known.want(watch),
                    _ => continue,
                },
                Err(at) => {
                    let steps = watch.begin_after(&unwanted);
                    device.watches.insert(at, watch);
                    steps
                }
            };
            if !steps.is_empty() {
                device.setup.retain(|step| !is_about(step, &target));
                device.setup.extend(steps);
            }
        }
        // What takes the place of an observation stands before that one ends.
        let mut gone = Vec::new();
        for target in unwanted.into_iter().map(|watch| watch.target) {
            if !registration.observed().any(|observed| *observed == target) {
                continue;
            }
            if target.paths().iter().any(|path| registration.has(path)) {
                device.setup.push_back(Operation::CancelObserve(target));
            } else {
                gone.push(target);
            }
        }
        for problem in problems {
            device.problems.retain(|known| !known.is_same(&problem));
            device.problems.push(problem);
        }
        // The device ended these together with the nodes.
        for target in gone {
            self.server.forget(now, id, &target);
        }
    }

    fn wanted(&self, id: DeviceId) -> Option<Wanted> {
        let absent: Vec<_> = self.device(id)?.absent().collect();
        self.wanted_without(id, &absent)
    }

    fn wanted_without(&self, id: DeviceId, absent: &[Path]) -> Option<Wanted> {
        let composes = self.server.registration(id)?.composes();
        let facts = DeviceFacts::of(&self.server, id)?;
        let profile = &self.device(id)?.profile;
        let models = &self.models;
        Some(Wanted::of(&facts, composes, profile, models, absent))
    }

    /// Goes on with what an earlier process observed of a device. The attributes are those that the
    /// plan wants, if it is the same plan; else they are written anew.
    pub(super) fn take_up(&mut self, now: Now, id: DeviceId, absent: &[Path], is_same: bool) {
        let Some(wanted) = self.wanted_without(id, absent) else {
            return;
        };
        let Some(registration) = self.server.registration(id) else {
            return;
        };
        let observed = |target: &Target| registration.observed().any(|seen| seen == target);
        // Several nodes that are all wanted were observed together by us.
        let nodes = || wanted.watches.iter().flat_map(|watch| watch.target.paths());
        let together: Vec<Target> = registration
            .observed()
            .filter(|seen| seen.is_composite())
            .filter(|seen| {
                seen.paths()
                    .iter()
                    .all(|path| nodes().any(|node| node == path))
            })
            .cloned()
            .collect();
        // What was left out of them of the device object, the device does not have.
        let left_out = nodes().filter(|node| {
            DEVICE_OBJECT.contains(node) && !together.iter().any(|seen| seen.contains(node))
        });
        let left_out = left_out.filter(|_| !together.is_empty()).copied();
        let absent: Vec<Path> = absent.iter().copied().chain(left_out).collect();
        let Some(wanted) = self.wanted_without(id, &absent) else {
            return;
        };
        let mut watches = Vec::new();
        let mut setup = Vec::new();
        for mut watch in wanted.watches {
            if observed(&watch.target) {
                setup.extend(watch.take_up(now.instant, is_same));
            } else if !matches!(watch.state, Watching::OnWake | Watching::Absent) {
                continue;
            }
            watches.push(watch);
        }
        for target in together {
            if !watches.iter().any(|watch| watch.target == target) {
                watches.push(Watch::standing(target, now.instant));
            }
        }
        watches.sort_by(|one, other| one.target.cmp(&other.target));
        if let Some(device) = self.device_mut(id) {
            device.watches = watches;
            device.setup.extend(setup);
        }
        self.reconcile(now, id);
    }

    /// A device is heard of: what waited for that is asked now.
    pub(super) fn on_wake(&mut self, now: Now, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(id.0 as usize) {
            let reads = device.watches.iter_mut().flat_map(Watch::on_wake);
            device.setup.extend(reads);
        }
        self.tend_device(now, id);
        self.continue_setup(now, id);
    }

    /// Begins the next step of bringing a device to what the plan wants of it.
    pub(super) fn continue_setup(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        if device.setup_running.is_some() || device.availability.state != State::Online {
            return;
        }
        if device.setup.is_empty() {
            // The steps of a whole setup are large, and most devices are never set up again.
            device.setup = VecDeque::new();
            self.tend_device(now, id);
        }
        let Some(operation) = self
            .device_mut(id)
            .and_then(|device| device.setup.pop_front())
        else {
            return;
        };
        let operation = self.of_now(now, id, operation);
        let operation = self.server.operate(now, id, operation);
        self.purposes.insert(operation, Purpose::Setup);
        if let Some(device) = self.device_mut(id) {
            device.setup_running = Some(operation);
        }
    }

    pub(super) fn on_completed(
        &mut self,
        now: Now,
        operation: OperationId,
        id: DeviceId,
        asked: Operation,
        result: Result<Answer, OperationError>,
    ) {
        let cause = result.as_ref().map_err(OperationError::cause);
        let answered = !matches!(
            cause,
            Err(OperationError::Timeout
                | OperationError::Unregistered
                | OperationError::QueueFull
                | OperationError::Unencodable(_)
                | OperationError::NotObserved(_)
                | OperationError::NotOffered(_)
                | OperationError::Abandoned)
        );
        let silent = cause == Err(&OperationError::Timeout);
        if answered {
            self.on_contact(now, id, Reason::Notify);
        } else if silent {
            self.on_unanswered(now, id, &asked);
        }
        match self.purposes.remove(&operation) {
            Some(Purpose::Command(command)) => {
                self.finish_operation(now, command, id, &asked, result)
            }
            Some(Purpose::Poll(command)) => self.finish_poll(now, command, id, &asked, result),
            Some(Purpose::Setup) => self.finish_setup(now, operation, id, asked, result),
            // That it answered is all that was to be known.
            Some(Purpose::Confirm) => {}
            Some(Purpose::Update) => self.finish_update_step(now, operation, id, result),
            Some(Purpose::Bootstrap) => self.on_bootstrap_asked(now, id, result),
            None => {}
        }
    }

    pub(super) fn finish_setup(
        &mut self,
        now: Now,
        operation: OperationId,
        id: DeviceId,
        asked: Operation,
        result: Result<Answer, OperationError>,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        // A step of a registration that is over.
        if device.setup_running != Some(operation) {
            return;
        }
        device.setup_running = None;
        // The registration is over; what comes next begins with the next one.
        if result == Err(OperationError::Unregistered) {
            return;
        }
        match (asked, result) {
            // It is asked again when the device is heard of next.
            (asked, Err(OperationError::Timeout)) => {
                device.setup.push_front(asked);
                self.tend_device(now, id);
            }
            (Operation::WriteAttributes(node, _), result) => {
                let answered = matches!(&result, Ok(_) | Err(OperationError::Response { .. }));
                let mut watches = device.watches.iter_mut();
                if let Some(watch) = watches.find(|watch| watch.has_attributes(&node))
                    && answered
                {
                    watch.wrote(result.is_ok());
                }
                let target = Target::Node(node);
                match result {
                    Ok(_) => self.problem_over(now, id, "attributes", &target),
                    Err(error) => {
                        self.report_problem(now, id, "attributes", &target, error.to_string());
                    }
                }
            }
            (Operation::Observe(target, _), result) => self.on_observe(now, id, &target, result),
            (Operation::Read(target), result) => {
                let polled = device
                    .watch_mut(&target)
                    .filter(|watch| watch.busy && watch.is_read())
                    .map(|watch| watch.was_read(now.instant, result.is_ok()));
                if let Ok(answer) = &result
                    && target.node() == Some(&DEVICE_OBJECT)
                {
                    self.take_about(now, id, answer);
                }
                match result {
                    result if polled.is_none() => self.on_read_once(now, id, &target, result),
                    Ok(answer) => {
                        self.problem_over(now, id, "read", &target);
                        self.take_answer(now, id, Source::Read, &target, answer);
                    }
                    Err(error) => {
                        self.report_problem(now, id, "read", &target, error.to_string());
                    }
                }
            }
            (Operation::Write { path, .. }, result) if device.profile.write_to(&path).is_some() => {
                self.on_greeted(now, id, path, result);
            }
            (Operation::Write { path, .. }, Err(error)) => {
                self.on_account_refused(now, id, path, &error);
            }
            _ => {}
        }
        self.continue_setup(now, id);
    }

    /// A device answered an Observe of ours.
    fn on_observe(
        &mut self,
        now: Now,
        id: DeviceId,
        target: &Target,
        result: Result<Answer, OperationError>,
    ) {
        // A first representation that nobody can read is the beginning of an observation all the
        // same.
        let stands = self
            .server
            .registration(id)
            .is_some_and(|registration| registration.observed().any(|observed| observed == target));
        let problem = match result {
            Ok(answer) => {
                let observing = answer.observing;
                let apart = answer.single && target.is_composite();
                self.take_answer(now, id, Source::Notify, target, answer);
                if apart {
                    return self.split_watch(now, id, target);
                }
                if let Some(watch) = self
                    .device_mut(id)
                    .and_then(|device| device.watch_mut(target))
                {
                    watch.answered(now.instant, observing);
                }
                (!observing).then(|| {
                    "the device answers, but does not let it be observed; it is read now and then"
                        .to_owned()
                })
            }
            Err(error) => {
                if let Some(watch) = self
                    .device_mut(id)
                    .and_then(|device| device.watch_mut(target))
                {
                    if stands {
                        watch.answered(now.instant, true);
                    } else if watch.state == Watching::Polled {
                        watch.was_read(now.instant, false);
                    } else {
                        watch.refused(now.instant);
                    }
                }
                Some(error.to_string())
            }
        };
        match problem {
            Some(detail) => self.report_problem(now, id, "observe", target, detail),
            None => self.problem_over(now, id, "observe", target),
        }
        // It is not wanted any more since it was asked for.
        if stands
            && let Some(device) = self.device_mut(id)
            && device.find_watch(target).is_err()
        {
            device
                .setup
                .push_back(Operation::CancelObserve(target.clone()));
        }
    }

    /// A device has no composite operations: what was to be one observation is one for each node.
    fn split_watch(&mut self, now: Now, id: DeviceId, target: &Target) {
        let (Some(registration), Some(device)) = (
            self.server.registration(id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let Ok(at) = device.find_watch(target) else {
            return;
        };
        let observed = |path: &Path| {
            registration
                .observed()
                .any(|seen| seen.node() == Some(path))
        };
        for watch in device.watches.remove(at).split(now.instant, observed) {
            if let Err(at) = device.find_watch(&watch.target) {
                device.watches.insert(at, watch);
            }
        }
        let problem = not_composite();
        device.problems.retain(|known| !known.is_same(&problem));
        device.problems.push(problem);
        self.birth_later(now, id);
    }

    /// The device ended an observation: it is tried again later. What it says is gone is stale.
    pub(super) fn on_observation_ended(
        &mut self,
        now: Now,
        id: DeviceId,
        target: &Target,
        code: Code,
    ) {
        let detail = format!("the device ended the observation with {code:?}");
        self.report_problem(now, id, "observe", target, detail);
        if let Some(watch) = self
            .device_mut(id)
            .and_then(|device| device.watch_mut(target))
        {
            watch.refused(now.instant);
        }
        if code == Code::NOT_FOUND {
            self.mark_stale(id, target);
        }
        self.tend_device(now, id);
        self.continue_setup(now, id);
    }

    /// Takes the values of an answer to a Read or Observe of `nodes`.
    pub(super) fn take_answer(
        &mut self,
        now: Now,
        id: DeviceId,
        source: Source,
        nodes: &Target,
        answer: Answer,
    ) {
        let arrival = Arrival {
            now,
            device: id,
            source,
            overtaken: false,
            mark: None,
        };
        self.custody.begin(true);
        match answer.single {
            // One that was refused meanwhile is passed over.
            true => self.take_values(arrival, answer.records, answer.problems),
            false => self.take_all_values(arrival, nodes, answer.records, answer.problems),
        }
        self.take_custody(now, None);
    }

    /// Takes what a device says of itself. What it turns out not to have is not observed.
    pub(super) fn take_about(&mut self, now: Now, id: DeviceId, answer: &Answer) {
        let text = |resource: Id| {
            answer
                .records
                .iter()
                .find(|record| record.path == Path::resource(3, 0, resource))
                .and_then(|record| match &record.value {
                    Value::String(text) => Some(text.clone()),
                    _ => None,
                })
        };
        let about = About {
            manufacturer: text(0),
            model: text(1),
            serial: text(2),
            firmware: text(3),
        };
        let has = |path: &Path| {
            answer
                .records
                .iter()
                .any(|record| path.contains(&record.path))
        };
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let missing = |path: &Path| DEVICE_OBJECT.contains(path) && !has(path);
        // Of one observation of several nodes it is left out, which makes that another observation.
        let mut left_out = Vec::new();
        for watch in &mut device.watches {
            match &watch.target {
                Target::Node(node) if watch.is_to_come() && missing(node) => {
                    watch.state = Watching::Absent;
                    watch.busy = false;
                }
                Target::Composite(nodes) => left_out.extend(nodes.iter().copied().filter(missing)),
                Target::Node(_) => {}
            }
        }
        // What is to be written may have no value yet.
        device.setup.retain(|step| {
            matches!(step, Operation::Write { .. }) || !step.target().node().is_some_and(missing)
        });
        for node in &left_out {
            let watch = Watch::absent(*node);
            if let Err(at) = device.find_watch(&watch.target) {
                device.watches.insert(at, watch);
            }
        }
        if device.about != about {
            device.about = about;
            self.birth_later(now, id);
        }
        if !left_out.is_empty() {
            self.reconcile(now, id);
        }
        self.keep_descriptor(id, Urgency::Soon);
    }
}

/// What is to be watched of a device, and what of it cannot be as the plan says.
pub(super) struct Wanted {
    /// In the order of their targets.
    pub(super) watches: Vec<Watch>,
    /// For the birth message.
    pub(super) problems: Vec<Problem>,
}

impl Wanted {
    /// By the profile of a device and by what it can do: whether it may have composite operations,
    /// and which nodes it turned out not to have.
    pub(super) fn of(
        facts: &DeviceFacts<'_>,
        composes: bool,
        profile: &Profile,
        models: &Models,
        absent: &[Path],
    ) -> Self {
        let desired = profile.observations(facts, models);
        let mut problems: Vec<_> = desired.iter().filter_map(dropped_attributes).collect();
        let strategy = profile.strategy();
        if strategy.is_composite() && !composes {
            problems.push(not_composite());
        }
        let (absent, desired): (Vec<_>, Vec<_>) = desired
            .into_iter()
            .partition(|desired| absent.contains(&desired.path));
        let mut watches = watch::of(desired, strategy, composes);
        watches.extend(absent.iter().map(|desired| Watch::absent(desired.path)));
        watches.sort_by(|one, other| one.target.cmp(&other.target));
        Self { watches, problems }
    }
}

fn not_composite() -> Problem {
    Problem {
        kind: "composite",
        path: None,
        detail: "the device has no composite operations: each node is observed for itself"
            .to_owned(),
    }
}

/// Whether a step is one to observe or read this.
fn is_about(step: &Operation, wanted: &Target) -> bool {
    match step {
        Operation::WriteAttributes(node, _) => wanted.paths().contains(node),
        Operation::Observe(target, _) => target == wanted,
        Operation::Read(target) => target == wanted && wanted.node() != Some(&DEVICE_OBJECT),
        _ => false,
    }
}

/// What the device is too old to be told about an observation.
pub(super) fn dropped_attributes(desired: &Desired) -> Option<Problem> {
    (!desired.dropped.is_empty()).then(|| Problem {
        kind: "attribute_dropped",
        path: Some(desired.path.to_string()),
        detail: format!(
            "{} needs a newer LwM2M version than the device speaks",
            desired.dropped.join(", ")
        ),
    })
}
