//! Commands under way: their operations one after the other, and one last word about each.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::gateway::command::{Asker, Command, CommandId, Outcome, Step};
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
    /// Begins the next step of a command whose turn it is.
    pub(super) fn next_step(&mut self, now: Now, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        match command.steps.pop_front() {
            Some(Step::Ask(operation)) => {
                command.at = operation.target().node().copied();
                command.doubtable = !operation.is_repeatable();
                let operation = self.server.operate(now, command.device, operation);
                command.running = Some(operation);
                self.purposes.insert(operation, Purpose::Command(id));
            }
            Some(Step::Await(what)) => {
                let until = command.wait_ends.take();
                self.begin_await(now, id, what, until);
            }
            None => self.conclude(now, id),
        }
    }

    /// Goes on with a command of which a step is over: it waits for a value, or for its next turn,
    /// or it is done.
    pub(super) fn go_on(&mut self, now: Now, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        match command.steps.front() {
            None => return self.conclude(now, id),
            Some(Step::Await(_)) => self.next_step(now, id),
            Some(Step::Ask(_)) => {}
        }
        // What is over is not done again by another process.
        self.keep_command(id);
    }

    /// Says that a command is done.
    fn conclude(&mut self, now: Now, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let Outcome {
            code,
            fallback,
            location,
            confirmed,
            value,
            values,
            links,
        } = std::mem::take(&mut command.outcome);
        let reply = Reply {
            code,
            fallback,
            location,
            confirmed,
            value,
            values,
            links,
            ..Reply::default()
        };
        self.end(now, id, Status::Done, reply);
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
            Ok(answer) => {
                command.left = false;
                // What must not be done twice is over.
                command.doubtful = false;
                if !matches!(asked, Operation::Read(_)) {
                    let nodes = asked.target();
                    let nodes = nodes.paths().iter().map(ToString::to_string);
                    command.done.extend(nodes);
                }
                self.absorb(now, id, device, asked, answer);
                if let Some(command) = self.commands.get_mut(&id) {
                    command.over += 1;
                }
                self.go_on(now, id);
            }
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

    /// Takes what an operation of a command brought, for its last word.
    fn absorb(
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
        let values: Vec<_> = match asked {
            Operation::Read(_) | Operation::Observe(..) => records
                .iter()
                .map(|record| (record.path, self.mapped(device, record)))
                .collect(),
            _ => Vec::new(),
        };
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let is_alone = command.of == 1;
        let outcome = &mut command.outcome;
        outcome.code = code.map(|code| code.to_string());
        outcome.fallback = outcome.fallback.or(single.then_some("single"));
        outcome.location = created.map(|path| path.to_string());
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
            outcome.links = Some(links.iter().map(attributes).collect());
        }
        let (Operation::Read(target) | Operation::Observe(target, _)) = asked else {
            return;
        };
        let is_only = is_alone && values.len() == 1;
        if !is_only {
            // Nothing is an answer too.
            outcome.values.get_or_insert_default();
        }
        for (path, value) in values {
            outcome.add_value(path, value, is_only && target.node() == Some(&path));
        }
        let values = Answer {
            records,
            problems,
            single,
            ..Answer::default()
        };
        self.take_answer(now, device, Source::Read, target, values);
    }

    /// Says the last word about a command, and forgets it.
    pub(super) fn end(&mut self, now: Now, id: CommandId, status: Status, reply: Reply<'_>) {
        self.end_await(id);
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
    let is_short = is_final && status != Status::Done;
    // Of several things, where it came to an end, and what was done before.
    let stopped = command.at.filter(|_| is_short && target.is_none());
    let node = stopped.or(target.and_then(Target::node).copied());
    let done = is_short.then(|| {
        let done = command.done.iter().cloned();
        done.chain(reply.done.into_iter().flatten()).collect()
    });
    let is_script = command.name.is_some() && command.of > 1;
    Reply {
        id: &command.asker.id,
        device,
        op: &command.op,
        command: command.name.as_deref(),
        signal: command.signal.as_deref(),
        path: node.as_ref().map(ToString::to_string),
        paths: composite.map(|target| target.paths().iter().map(ToString::to_string).collect()),
        status,
        is_final,
        step: Some(command.over + 1).filter(|_| is_script && status == Status::Failed),
        done: done.filter(|done: &Vec<_>| !done.is_empty()),
        ms: is_final.then(|| u64::try_from(ms).unwrap_or(0)),
        attempts: Some(command.attempts).filter(|attempts| is_final && *attempts > 0),
        time: now.unix.to_string(),
        ..reply
    }
}
