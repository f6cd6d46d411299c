//! What a mapping wants asked of and told to a device once, when it registers.

use std::collections::BTreeMap;

use crate::coap::Code;
use crate::gateway::Gateway;
use crate::gateway::command::{Body, Step};
use crate::gateway::device::About;
use crate::gateway::json::Source;
use crate::gateway::reconcile::DEVICE_OBJECT;
use crate::gateway::script::Filling;
use crate::gateway::uplink::Arrival;
use crate::kept::Urgency;
use crate::lwm2m::{Path, Target};
use crate::mapping::{self, DeviceFacts, Profile};
use crate::server::{Answer, DeviceId, Operation, OperationError};
use crate::time::Now;

/// What is read once of a device that registers, the device object first, whose content is in the
/// birth message too.
pub(super) fn reads(facts: &DeviceFacts<'_>, profile: &Profile) -> Vec<Operation> {
    let device_object = facts
        .object(3)
        .filter(|object| object.instances.is_empty() || object.instances.contains(&0))
        .map(|_| DEVICE_OBJECT);
    let others = profile.reads(facts).into_iter();
    let others = others
        .filter(|path| !device_object.is_some_and(|device_object| device_object.contains(path)));
    device_object
        .into_iter()
        .chain(others)
        .map(|path| Operation::Read(path.into()))
        .collect()
}

impl Gateway {
    /// The writes of `[on_register]`. One that cannot be made is a problem, and the rest is made.
    pub(super) fn greet(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.device(id) else {
            return;
        };
        let profile = device.profile.clone();
        for step in profile.writes() {
            match self.greeting(now, id, step) {
                Ok(operation) => {
                    if let Some(device) = self.device_mut(id) {
                        device.setup.push_back(operation);
                        device.greeting = true;
                    }
                }
                Err(detail) => {
                    self.report_problem(now, id, "on_register", &step.path().into(), detail);
                }
            }
        }
    }

    fn greeting(&self, now: Now, id: DeviceId, step: &mapping::Step) -> Result<Operation, String> {
        let (Some(facts), Some(device)) = (DeviceFacts::of(&self.server, id), self.device(id))
        else {
            return Err("the device is not registered".to_owned());
        };
        let filling = Filling {
            now: now.unix,
            parameters: BTreeMap::new(),
            base: &self.settings.base_topic,
            device: &device.name,
            endpoint: facts.endpoint,
            profile: &device.profile,
        };
        match self.step(id, step, &filling, &Body::default()) {
            Ok(Step::Ask(operation)) => Ok(operation),
            Ok(Step::Await(_)) => Err("it is no write".to_owned()),
            Err(error) => Err(error.detail),
        }
    }

    /// A step as it is to be sent now: what a write of `[on_register]` says of the time is of then.
    pub(super) fn of_now(&self, now: Now, id: DeviceId, step: Operation) -> Operation {
        let Operation::Write { path, .. } = &step else {
            return step;
        };
        let write = self
            .device(id)
            .and_then(|device| device.profile.write_to(path));
        match write.map(|write| self.greeting(now, id, write)) {
            Some(Ok(operation)) => operation,
            _ => step,
        }
    }

    /// Reads what the profile of a registered device wants read once, and the one `before` did not.
    pub(super) fn read_newly(&mut self, id: DeviceId, before: &Profile) {
        let (Some(facts), Some(device)) = (
            DeviceFacts::of(&self.server, id),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let known = before.reads(&facts);
        let is_new = |path: &Path| !known.iter().any(|known| known.contains(path));
        let new = device.profile.reads(&facts).into_iter().filter(is_new);
        for path in new {
            // The device object is read as a whole, and once.
            let node = match DEVICE_OBJECT.contains(&path) {
                true => DEVICE_OBJECT,
                false => path,
            };
            let read = Operation::Read(node.into());
            if !device.setup.contains(&read) {
                device.setup.push_back(read);
            }
        }
    }

    /// What the device was not asked before the end of the process before, it is asked now.
    pub(super) fn resume_registration(&mut self, now: Now, id: DeviceId, greeting: bool) {
        let (Some(facts), Some(device)) = (
            DeviceFacts::of(&self.server, id).filter(|_| self.server.registration(id).is_some()),
            self.devices.get_mut(id.0 as usize),
        ) else {
            return;
        };
        let is_known = |node: &Path| {
            let of_device = *node == DEVICE_OBJECT && device.about != About::default();
            of_device
                || device
                    .signals
                    .iter()
                    .any(|tracked| node.contains(&tracked.path))
        };
        let unread = reads(&facts, &device.profile).into_iter();
        let unread = unread.filter(|read| !read.target().node().is_some_and(is_known));
        device.setup.extend(unread.collect::<Vec<_>>());
        if greeting {
            self.greet(now, id);
        }
    }

    /// A write of `[on_register]` was answered.
    pub(super) fn on_greeted(
        &mut self,
        now: Now,
        id: DeviceId,
        path: Path,
        result: Result<Answer, OperationError>,
    ) {
        let target = Target::Node(path);
        match result {
            Ok(_) => self.problem_over(now, id, "on_register", &target),
            Err(error) => self.report_problem(now, id, "on_register", &target, error.to_string()),
        }
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let is_greeting = |step: &Operation| match step {
            Operation::Write { path, .. } => device.profile.write_to(path).is_some(),
            _ => false,
        };
        if !device.setup.iter().any(is_greeting) {
            device.greeting = false;
            self.keep_descriptor(id, Urgency::Soon);
        }
    }

    /// What was read because a device registered. That it does not have what a signal would like to
    /// show is no mistake of anybody's.
    pub(super) fn on_read_once(
        &mut self,
        now: Now,
        id: DeviceId,
        target: &Target,
        result: Result<Answer, OperationError>,
    ) {
        let Some(device) = self.device(id) else {
            return;
        };
        let profile = device.profile.clone();
        match result {
            Ok(mut answer) => {
                self.problem_over(now, id, "read", target);
                answer
                    .records
                    .retain(|record| profile.is_read(&record.path));
                answer
                    .problems
                    .retain(|problem| profile.is_read(&problem.path));
                let arrival = Arrival {
                    now,
                    device: id,
                    source: Source::Read,
                    overtaken: false,
                    mark: None,
                };
                self.custody.begin(true);
                self.take_values(arrival, answer.records, answer.problems);
                self.take_custody(now, None);
            }
            Err(error) => {
                let is_expected = target.node().is_some_and(|path| profile.says_read(path));
                let has_none = matches!(
                    &error,
                    OperationError::Response {
                        code: Code::NOT_FOUND,
                        ..
                    }
                );
                if is_expected || !has_none {
                    self.report_problem(now, id, "read", target, error.to_string());
                }
            }
        }
    }
}
