//! What the devices answer, and what they were seen to have.

use std::sync::Arc;

use super::Entry;
use super::job::{Fault, Method, Seen, Stage, Step};
use super::object::Target;
use crate::coap::Position;
use crate::gateway::Gateway;
use crate::gateway::device::Reason;
use crate::lwm2m::{Path, Value};
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

impl Gateway {
    /// What was asked for an update was answered, or not.
    pub(in crate::gateway) fn finish_update_step(
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
        let away = result.as_ref().err() == Some(&Fault::Away);
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

    pub(in crate::gateway) fn on_upload_ended(
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

    pub(in crate::gateway) fn on_upload_progress(
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
    pub(in crate::gateway) fn on_fetched(&mut self, now: Now, id: DeviceId, bytes: u64) {
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
                // Of one that was not known before, nobody can say.
                other_version: version.is_some() && job.version.is_some() && job.version != version,
            });
        }
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
