//! Brings each device to what the plan wants of it: what it is asked once, and what is observed.

use crate::gateway::device::{About, Problem, Reason, State};
use crate::gateway::json::Source;
use crate::gateway::uplink::Arrival;
use crate::gateway::{Event, Gateway, Purpose};
use crate::kept::Urgency;
use crate::lwm2m::{Id, NotificationAttributes, Path, Target, Value};
use crate::mapping::{Desired, DeviceFacts};
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

/// The device object, whose content goes into the birth message.
pub(super) const DEVICE_OBJECT: Path = Path::instance(3, 0);

impl Gateway {
    /// Observes what an Update brought.
    pub(super) fn reconcile(&mut self, id: DeviceId) {
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
        let fresh = wanted.into_iter().filter(|desired| {
            let waits = device
                .setup
                .iter()
                .any(|operation| operation.target() == desired.path.into());
            let absent = device.absent.contains(&desired.path);
            !waits
                && !absent
                && !registration
                    .observed()
                    .any(|target| target.node() == Some(&desired.path))
        });
        let operations: Vec<_> = fresh.flat_map(observe).collect();
        device.setup.extend(operations);
    }

    /// Begins the next step of bringing a device to what the plan wants of it.
    pub(super) fn continue_setup(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        if device.setup_running.is_some() || device.availability.state != State::Online {
            return;
        }
        let Some(operation) = device.setup.pop_front() else {
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
            (asked, Err(OperationError::Timeout)) => device.setup.push_front(asked),
            (Operation::Read(Target::Node(DEVICE_OBJECT)), Ok(answer)) => {
                self.take_about(now, id, &answer)
            }
            (Operation::Observe(target, _), Ok(answer)) => {
                let arrival = Arrival {
                    now,
                    device: id,
                    source: Source::Notify,
                    overtaken: false,
                };
                self.take_values(arrival, answer.records, answer.problems);
                if !answer.observing {
                    self.report_observe_failed(
                        now,
                        id,
                        &target,
                        "the device answers, but does not let it be observed".to_owned(),
                    );
                    self.birth_later(now, id);
                }
            }
            (asked @ (Operation::Observe(..) | Operation::WriteAttributes(..)), Err(error)) => {
                self.report_observe_failed(now, id, &asked.target(), error.to_string());
                self.birth_later(now, id);
            }
            _ => {}
        }
        self.continue_setup(now, id);
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
        let nodes = |operation: &Operation| operation.target().node().copied();
        let setup = device.setup.iter().filter_map(nodes);
        device.absent = setup.filter(missing).collect();
        device
            .setup
            .retain(|operation| nodes(operation).is_none_or(|path| !missing(&path)));
        if device.about != about {
            device.about = about;
            self.birth_later(now, id);
        }
        self.keep_descriptor(id, Urgency::Soon);
    }

    pub(super) fn report_observe_failed(
        &mut self,
        now: Now,
        id: DeviceId,
        target: &Target,
        detail: String,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let problem = Problem {
            kind: "observe",
            path: Some(target.to_string()),
            detail: detail.clone(),
        };
        // One a path, however often it fails.
        device
            .problems
            .retain(|known| known.kind != problem.kind || known.path != problem.path);
        device.problems.push(problem);
        let event = Event::ObserveFailed {
            device: device.name.to_string(),
            path: target.to_string(),
            detail,
        };
        self.report(now, event);
    }
}

/// What it takes to observe a node as a mapping wants it.
pub(super) fn observe(desired: Desired) -> impl Iterator<Item = Operation> {
    let attributes = (!desired.attributes.is_empty())
        .then(|| Operation::WriteAttributes(desired.path, desired.attributes.into()));
    attributes.into_iter().chain([Operation::Observe(
        desired.path.into(),
        NotificationAttributes::default(),
    )])
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
