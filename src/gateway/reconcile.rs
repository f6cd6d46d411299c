//! Brings each device to what the plan wants of it: what it is asked once, and what is observed.

use crate::coap::Code;
use crate::gateway::device::{About, Problem, Reason, State};
use crate::gateway::json::Source;
use crate::gateway::uplink::Arrival;
use crate::gateway::watch::{self, Watching};
use crate::gateway::{Event, Gateway, Purpose};
use crate::kept::Urgency;
use crate::lwm2m::{Id, Path, Target, Value};
use crate::mapping::{Desired, DeviceFacts};
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

/// The device object, whose content goes into the birth message.
pub(super) const DEVICE_OBJECT: Path = Path::instance(3, 0);

impl Gateway {
    /// Brings what is observed of a device to what its profile wants of it now: after an Update with
    /// other objects, and when the profile is another one. Only what differs is asked for.
    pub(super) fn reconcile(&mut self, now: Now, id: DeviceId) {
        let (Some(endpoint), Some(registration)) =
            (self.server.endpoint_name(id), self.server.registration(id))
        else {
            return;
        };
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let facts = DeviceFacts {
            endpoint,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        };
        let wanted = device.profile.observations(&facts, &self.models);
        let problems: Vec<_> = wanted.iter().filter_map(dropped_attributes).collect();
        let wanted = watch::of(wanted);
        let is_wanted = |target: &Target| {
            wanted
                .binary_search_by(|watch| watch.target.cmp(target))
                .is_ok()
        };
        let unwanted: Vec<_> = device
            .watches
            .extract_if(.., |watch| !is_wanted(&watch.target))
            .map(|watch| watch.target)
            .collect();
        let mut gone = Vec::new();
        for target in unwanted {
            device.setup.retain(|step| !is_observing(step, &target));
            if !registration.observed().any(|observed| *observed == target) {
                continue;
            }
            if target.paths().iter().any(|path| registration.has(path)) {
                device.setup.push_back(Operation::CancelObserve(target));
            } else {
                gone.push(target);
            }
        }
        for mut watch in wanted {
            let target = watch.target.clone();
            let steps = match device.find_watch(&target) {
                Ok(at) => match device.watches.get_mut(at) {
                    Some(known) if known.state != Watching::Absent => known.want(watch),
                    _ => continue,
                },
                Err(at) => {
                    let steps = watch.begin();
                    device.watches.insert(at, watch);
                    steps
                }
            };
            if !steps.is_empty() {
                device.setup.retain(|step| !is_observing(step, &target));
                device.setup.extend(steps);
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

    /// Goes on with what an earlier process observed of a device. The attributes are those that the
    /// plan wants, if it is the same plan; else they are written anew.
    pub(super) fn take_up(&mut self, now: Now, id: DeviceId, absent: &[Path], is_same: bool) {
        let (Some(endpoint), Some(registration)) =
            (self.server.endpoint_name(id), self.server.registration(id))
        else {
            return;
        };
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let facts = DeviceFacts {
            endpoint,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        };
        for mut watch in watch::of(device.profile.observations(&facts, &self.models)) {
            if watch
                .target
                .node()
                .is_some_and(|node| absent.contains(node))
            {
                watch.state = Watching::Absent;
            } else if registration.observed().any(|seen| *seen == watch.target) {
                device.setup.extend(watch.take_up(now.instant, is_same));
            } else {
                continue;
            }
            device.watches.push(watch);
        }
        self.reconcile(now, id);
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
            self.tend_device(now, id);
        }
        let Some(operation) = self
            .device_mut(id)
            .and_then(|device| device.setup.pop_front())
        else {
            return;
        };
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
            Some(Purpose::Setup) => self.finish_setup(now, operation, id, asked, result),
            // That it answered is all that was to be known.
            Some(Purpose::Confirm) => {}
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
                    .filter(|watch| watch.state == Watching::Polled)
                    .map(|watch| watch.was_read(now.instant, result.is_ok()));
                if let Ok(answer) = result {
                    if target.node() == Some(&DEVICE_OBJECT) {
                        self.take_about(now, id, &answer);
                    }
                    if polled.is_some() {
                        self.take_answer(now, id, Source::Read, answer);
                    }
                }
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
                self.take_answer(now, id, Source::Notify, answer);
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

    fn take_answer(&mut self, now: Now, id: DeviceId, source: Source, answer: Answer) {
        let arrival = Arrival {
            now,
            device: id,
            source,
            overtaken: false,
        };
        self.take_values(arrival, answer.records, answer.problems);
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
        for watch in &mut device.watches {
            if watch.state == Watching::Wanted && watch.target.node().is_some_and(missing) {
                watch.state = Watching::Absent;
                watch.busy = false;
            }
        }
        device
            .setup
            .retain(|step| !step.target().node().is_some_and(missing));
        if device.about != about {
            device.about = about;
            self.birth_later(now, id);
        }
        self.keep_descriptor(id, Urgency::Soon);
    }

    /// Says that a node is not reported as it should be, unless that was said.
    pub(super) fn report_problem(
        &mut self,
        now: Now,
        id: DeviceId,
        kind: &'static str,
        target: &Target,
        detail: String,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let problem = Problem {
            kind,
            path: Some(target.to_string()),
            detail: detail.clone(),
        };
        if device.problems.contains(&problem) {
            return;
        }
        // One a path, however often it fails.
        device.problems.retain(|known| !known.is_same(&problem));
        device.problems.push(problem);
        let event = Event::ObserveFailed {
            device: device.name.to_string(),
            path: target.to_string(),
            detail,
        };
        self.report(now, event);
        self.birth_later(now, id);
    }

    /// What was said of a node is true no longer.
    pub(super) fn problem_over(
        &mut self,
        now: Now,
        id: DeviceId,
        kind: &'static str,
        target: &Target,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        if device.problems.is_empty() {
            return;
        }
        let path = target.to_string();
        let before = device.problems.len();
        device
            .problems
            .retain(|known| known.kind != kind || known.path.as_ref() != Some(&path));
        if device.problems.len() < before {
            self.birth_later(now, id);
        }
    }
}

/// Whether a step is one to observe this.
fn is_observing(step: &Operation, wanted: &Target) -> bool {
    match step {
        Operation::WriteAttributes(node, _) => wanted.paths().contains(node),
        Operation::Observe(target, _) => target == wanted,
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
