//! Commands under way: their operations one after the other, and one last word about each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::gateway::command::{Asker, Command, CommandId};
use crate::gateway::json::Source;
use crate::gateway::publish::{Properties, Publish};
use crate::gateway::queue::doubt;
use crate::gateway::reply::{CommandError, Reply, Status};
use crate::gateway::understand::holds_keys;
use crate::gateway::{Event, Gateway, Purpose};
use crate::lwm2m::Target;
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

impl Gateway {
    /// Begins the next step of a command.
    pub(super) fn next_step(&mut self, now: Now, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let Some(operation) = command.steps.pop_front() else {
            return;
        };
        command.doubtable = !operation.is_repeatable();
        let operation = self.server.operate(now, command.device, operation);
        command.running = Some(operation);
        self.purposes.insert(operation, Purpose::Command(id));
    }

    pub(super) fn on_started(&mut self, now: Now, operation: OperationId) {
        let Some(Purpose::Command(id)) = self.purposes.get(&operation).copied() else {
            return;
        };
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        command.left = true;
        let is_first = command.attempts == 0;
        if std::mem::take(&mut command.fresh) {
            command.attempts += 1;
        }
        let device = command.device;
        let was_queued = std::mem::take(&mut command.queued);
        if command.doubtable && !std::mem::replace(&mut command.doubtful, true) {
            self.keep_command(id);
        }
        if is_first {
            self.tell(now, id, Status::Sent, Reply::default());
        }
        if was_queued {
            self.publish_queue(device);
        }
    }

    pub(super) fn finish_operation(
        &mut self,
        now: Now,
        id: CommandId,
        device: DeviceId,
        asked: &Operation,
        result: Result<Answer, OperationError>,
    ) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        command.running = None;
        match result {
            Ok(_) if !command.steps.is_empty() => {
                command.left = false;
                self.next_step(now, id);
            }
            Ok(answer) => self.succeed(now, id, device, asked, answer),
            Err(error) if self.is_kept_waiting(now, id, asked, error.cause()) => {}
            Err(OperationError::Unregistered) if self.has_left(id) => self.fail(now, id, doubt()),
            Err(error) => {
                let (fallback, done) = match &error {
                    OperationError::Partial { done, .. } => (
                        Some("single"),
                        Some(done.iter().map(ToString::to_string).collect()),
                    ),
                    _ => (None, None),
                };
                let error = CommandError::from_operation(
                    &error,
                    asked,
                    self.server.registration(device),
                    &self.models,
                );
                self.end(
                    now,
                    id,
                    Status::Failed,
                    Reply {
                        fallback,
                        done,
                        error: Some(error),
                        ..Reply::default()
                    },
                );
            }
        }
        self.continue_commands(now, device);
    }

    fn has_left(&self, id: CommandId) -> bool {
        self.commands.get(&id).is_some_and(|command| command.left)
    }

    /// Ends a command that was not done.
    pub(super) fn fail(&mut self, now: Now, id: CommandId, error: CommandError) {
        let reply = Reply {
            error: Some(error),
            ..Reply::default()
        };
        self.end(now, id, Status::Failed, reply);
    }

    fn succeed(
        &mut self,
        now: Now,
        id: CommandId,
        device: DeviceId,
        asked: &Operation,
        answer: Answer,
    ) {
        let Answer {
            code,
            mut records,
            problems,
            links,
            created,
            single,
            ..
        } = answer;
        // Whatever a device adds to what it was asked for.
        let came = records.len();
        records.retain(|record| !holds_keys(&record.path));
        self.counters.secrets += (came - records.len()) as u64;
        let mut reply = Reply {
            code: code.map(|code| code.to_string()),
            fallback: single.then_some("single"),
            location: created.map(|path| path.to_string()),
            ..Reply::default()
        };
        if let Operation::Read(target) | Operation::Observe(target, _) = asked {
            if let [record] = records.as_slice()
                && target.node() == Some(&record.path)
            {
                reply.value = Some(self.mapped(device, record));
            } else {
                reply.values = Some(
                    records
                        .iter()
                        .map(|record| (record.path.to_string(), self.mapped(device, record)))
                        .collect(),
                );
            }
            let values = Answer {
                records,
                problems,
                single,
                ..Answer::default()
            };
            self.take_answer(now, device, Source::Read, target, values);
        }
        if matches!(asked, Operation::Discover(..)) {
            let attributes = |link: &crate::lwm2m::link::Link| {
                let value = |(name, value): &(String, Option<String>)| {
                    (
                        name.clone(),
                        value.clone().map_or(Json::Bool(true), Json::String),
                    )
                };
                (
                    link.target.clone(),
                    link.attributes
                        .iter()
                        .map(value)
                        .collect::<BTreeMap<_, _>>(),
                )
            };
            reply.links = Some(links.iter().map(attributes).collect());
        }
        self.end(now, id, Status::Done, reply);
    }

    /// Says the last word about a command, and forgets it.
    pub(super) fn end(&mut self, now: Now, id: CommandId, status: Status, reply: Reply<'_>) {
        let Some(command) = self.commands.remove(&id) else {
            return;
        };
        let device = command.device;
        self.counters.commands += 1;
        self.command_bytes -= command.payload.len();
        self.command_deadlines
            .remove(&(command.expires.instant, id));
        if let Some(operation) = command.running {
            self.purposes.remove(&operation);
            self.server.withdraw(device, operation);
        }
        let mut name = Arc::default();
        if let Some(device) = self.device_mut(device) {
            device.commands.retain(|waiting| *waiting != id);
            name = device.name.clone();
        }
        let reply = reply_of(now, &command, &name, status, reply);
        // Stored before it is said.
        self.keep_answer(
            now,
            &command,
            serde_json::to_vec(&reply).unwrap_or_default(),
        );
        self.clear_targets(id, &command);
        if command.queued {
            self.publish_queue(device);
        }
        self.answer(now, &command.asker, status, reply);
    }

    /// Says where a command stands.
    pub(super) fn tell(&mut self, now: Now, id: CommandId, status: Status, reply: Reply<'_>) {
        // Taken out for as long as it is spoken of.
        let Some(command) = self.commands.remove(&id) else {
            return;
        };
        let device = self.device(command.device);
        let name = device.map(|device| device.name.clone()).unwrap_or_default();
        let reply = reply_of(now, &command, &name, status, reply);
        self.answer(now, &command.asker, status, reply);
        self.commands.insert(id, command);
    }

    pub(super) fn answer(&mut self, now: Now, asker: &Asker, status: Status, reply: Reply<'_>) {
        let reply = Reply {
            id: &asker.id,
            status,
            is_final: status.is_final(),
            time: now.unix.to_string(),
            ..reply
        };
        if self.reply_on_line(asker, &reply) {
            return;
        }
        let Ok(payload) = serde_json::to_vec(&reply) else {
            return;
        };
        self.send_reply(now, asker, payload);
    }

    /// Sends a reply where the asker wants it.
    pub(super) fn send_reply(&mut self, now: Now, asker: &Asker, payload: Vec<u8>) {
        let properties = Properties {
            content_type: Some("application/json"),
            correlation: asker.correlation.clone(),
            ..Properties::default()
        };
        let publish = Publish {
            properties: Some(Arc::new(properties)),
            ..Publish::event(asker.topic.clone(), payload)
        };
        if !publish.is_expressible() {
            self.report(
                now,
                Event::RequestMalformed {
                    topic: asker.topic.to_string(),
                    detail: "the answer cannot be sent to this topic".to_owned(),
                },
            );
            return;
        }
        self.publish(publish);
    }
}

/// The whole of what is said of a command.
fn reply_of<'a>(
    now: Now,
    command: &'a Command,
    device: &'a str,
    status: Status,
    reply: Reply<'a>,
) -> Reply<'a> {
    let target = command.target.as_ref();
    let composite = target.filter(|target| target.is_composite());
    let ms = now.unix.as_millis() - command.received.unix.as_millis();
    let is_final = status.is_final();
    Reply {
        id: &command.asker.id,
        device,
        op: &command.op,
        signal: command.signal.as_deref(),
        path: target.and_then(Target::node).map(ToString::to_string),
        paths: composite.map(|target| target.paths().iter().map(ToString::to_string).collect()),
        status,
        is_final,
        ms: is_final.then(|| u64::try_from(ms).unwrap_or(0)),
        attempts: Some(command.attempts).filter(|attempts| is_final && *attempts > 0),
        time: now.unix.to_string(),
        ..reply
    }
}
