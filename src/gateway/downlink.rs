//! From MQTT to the devices: requests become commands, and every command gets one last word.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::gateway::command::{Asker, Body, Command, CommandId};
use crate::gateway::json::{Source, to_json};
use crate::gateway::publish::{Message, Properties, Publish};
use crate::gateway::reply::{CommandError, ErrorKind, Reply, Status};
use crate::gateway::topics::Verb;
use crate::gateway::understand::{Ask, holds_keys};
use crate::gateway::uplink::Arrival;
use crate::gateway::{Event, Gateway, Purpose};
use crate::lwm2m::Target;
use crate::server::{Answer, DeviceId, Operation, OperationError, OperationId};
use crate::time::Now;

impl Gateway {
    pub(super) fn on_message(&mut self, now: Now, message: Message) {
        self.show_message(&message);
        if message.topic == *self.topics.bridge("sentinel") {
            return self.on_sentinel(now, &message.payload);
        }
        if let Some(verb) = self.topics.parse_admin(&message.topic) {
            let verb = verb.to_owned();
            return self.on_admin_message(now, &verb, &message);
        }
        let Some(request) = self.topics.parse_request(&message.topic) else {
            return;
        };
        let (device_name, verb) = (request.device.to_owned(), request.verb);
        let (body, mistake) = if message.payload.len() > self.limits.request {
            let detail = format!("the request is larger than {} bytes", self.limits.request);
            (
                Body::default(),
                Some(CommandError::new(ErrorKind::Parse, detail)),
            )
        } else {
            Body::parse(&message.payload)
        };
        let (asker, bad_reply) = self.asker(&device_name, &body, &message);
        let refusal = [
            message.retain.then(retained),
            mistake,
            bad_reply,
            self.stopping.then(stopping),
        ]
        .into_iter()
        .flatten()
        .next();
        let outcome = match refusal {
            Some(error) => Err(error),
            None => self.begin(
                now,
                asker.clone(),
                &device_name,
                verb,
                &body,
                message.expiry,
            ),
        };
        if let Err(error) = outcome {
            let reply = Reply {
                device: &device_name,
                op: verb.name(),
                error: Some(error),
                ..Reply::default()
            };
            self.answer(now, &asker, Status::Failed, reply);
        }
    }

    /// Who asks, and whether the answer may go where they want it.
    fn asker(
        &mut self,
        device: &str,
        body: &Body,
        message: &Message,
    ) -> (Asker, Option<CommandError>) {
        let usual = self.topics.device(device, "reply");
        let (asker, objection) =
            self.asker_of(body.id.clone(), body.reply_to.as_deref(), message, usual);
        let error = objection.map(|objection| CommandError::new(ErrorKind::Parse, objection));
        (asker, error)
    }

    /// Who asks by a message, and why the answer goes to the usual topic instead of the one that
    /// was wanted, if it does.
    pub(super) fn asker_of(
        &mut self,
        id: Option<String>,
        reply_to: Option<&str>,
        message: &Message,
        usual: Arc<str>,
    ) -> (Asker, Option<String>) {
        self.command_count += 1;
        let id = id.unwrap_or_else(|| format!("{}-{}", self.boot_tag(), self.command_count));
        let wanted = message.response_topic.as_deref().or(reply_to);
        let objection = wanted.and_then(|topic| {
            let taken = self.holders.contains_key(topic) || self.plan.publishes_on(topic);
            let taken = taken.then_some("values of devices are published there");
            self.topics.reply_objection(topic).or(taken)
        });
        let topic = match (wanted, objection) {
            (Some(topic), None) => topic.into(),
            _ => usual,
        };
        let asker = Asker {
            id,
            topic,
            correlation: message.correlation.clone(),
            line: None,
        };
        let objection =
            objection.map(|reason| format!("no answer can go where it was wanted: {reason}"));
        (asker, objection)
    }

    /// Who asks on the command line. When nobody listens there any more, the answer goes where it
    /// does that was asked for without a topic.
    pub(super) fn asker_on_line(&mut self, line: u64, device: &str, body: &Body) -> Asker {
        let usual = self.topics.device(device, "reply");
        let (asker, _) = self.asker_of(body.id.clone(), None, &Message::default(), usual);
        Asker {
            line: Some(line),
            ..asker
        }
    }

    pub(super) fn begin(
        &mut self,
        now: Now,
        asker: Asker,
        device_name: &str,
        verb: Verb<'_>,
        body: &Body,
        expiry: Option<u32>,
    ) -> Result<(), CommandError> {
        let device = *self.by_name.get(device_name).ok_or_else(|| {
            CommandError::new(
                ErrorKind::UnknownDevice,
                format!("no device is called {device_name}"),
            )
        })?;
        if verb == Verb::Cancel {
            return self.cancel(now, device, body);
        }
        let Ask {
            op,
            signal,
            target,
            steps,
        } = self.understand(device, verb, body)?;
        let holds_keys = |step: &Operation| step.target().paths().iter().any(holds_keys);
        if let Some(step) = steps.iter().find(|step| holds_keys(step)) {
            return Err(CommandError::new(
                ErrorKind::Access,
                format!("{} holds keys, which are never on MQTT", step.target()),
            ));
        }
        if self.server.registration(device).is_none() {
            return Err(CommandError::passing(
                ErrorKind::Offline,
                "the device is not registered",
            ));
        }
        if self.commands.len() >= self.limits.commands {
            return Err(CommandError::passing(
                ErrorKind::QueueFull,
                "too many commands are under way",
            ));
        }
        let ttl = expiry
            .map(|seconds| std::time::Duration::from_secs(u64::from(seconds)))
            .or(body.ttl);
        let id = CommandId(self.command_count);
        let command = Command {
            asker,
            device,
            op,
            signal,
            target,
            steps,
            running: None,
            sent: false,
            received: now,
            expires: ttl.map(|ttl| now + ttl),
        };
        if let Some(expires) = command.expires {
            self.command_deadlines.insert((expires.instant, id));
        }
        self.commands.insert(id, command);
        self.next_step(now, id);
        self.pump(now);
        // What has not left at once waits behind something else.
        if self.commands.get(&id).is_some_and(|command| !command.sent) {
            self.tell(now, id, Status::Accepted, Reply::default());
        }
        Ok(())
    }

    /// Withdraws a command that has not left yet. Its own last word says `cancelled`.
    fn cancel(&mut self, now: Now, device: DeviceId, body: &Body) -> Result<(), CommandError> {
        let id = body
            .id
            .as_deref()
            .ok_or_else(|| CommandError::new(ErrorKind::Parse, "no id of the command to cancel"))?;
        let found = self
            .commands
            .iter()
            .find(|(_, command)| command.device == device && command.asker.id == id);
        let Some((command_id, command)) = found.map(|(command_id, command)| (*command_id, command))
        else {
            return Err(CommandError::new(
                ErrorKind::UnknownCommand,
                format!("no command {id} is under way"),
            ));
        };
        if command.sent {
            return Err(CommandError::new(
                ErrorKind::UnknownCommand,
                format!("command {id} has left for the device already"),
            ));
        }
        self.end(now, command_id, Status::Cancelled, Reply::default());
        Ok(())
    }

    /// Begins the next step of a command.
    fn next_step(&mut self, now: Now, id: CommandId) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let Some(operation) = command.steps.pop_front() else {
            return;
        };
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
        if !std::mem::replace(&mut command.sent, true) {
            self.tell(now, id, Status::Sent, Reply::default());
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
            Ok(_) if !command.steps.is_empty() => self.next_step(now, id),
            Ok(answer) => self.succeed(now, id, device, asked, answer),
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
                reply.value = Some(to_json(&self.mapped(device, record)));
            } else {
                reply.values = Some(
                    records
                        .iter()
                        .map(|record| {
                            (
                                record.path.to_string(),
                                to_json(&self.mapped(device, record)),
                            )
                        })
                        .collect(),
                );
            }
            let arrival = Arrival {
                now,
                device,
                source: Source::Read,
                overtaken: false,
            };
            self.take_values(arrival, records, problems);
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

    /// Ends commands whose time ran out before they left. What has left is answered by the device,
    /// or by its silence.
    pub(super) fn expire_commands(&mut self, now: Now) {
        while let Some((due, id)) = self
            .command_deadlines
            .first()
            .copied()
            .filter(|(due, _)| *due <= now.instant)
        {
            self.command_deadlines.remove(&(due, id));
            if self.commands.get(&id).is_some_and(|command| !command.sent) {
                self.end(now, id, Status::Expired, Reply::default());
            }
        }
    }

    /// Says the last word about a command, and forgets it.
    fn end(&mut self, now: Now, id: CommandId, status: Status, reply: Reply<'_>) {
        self.tell(now, id, status, reply);
        let Some(command) = self.commands.remove(&id) else {
            return;
        };
        self.counters.commands += 1;
        if let Some(expires) = command.expires {
            self.command_deadlines.remove(&(expires.instant, id));
        }
        if let Some(operation) = command.running {
            self.purposes.remove(&operation);
            self.server.withdraw(command.device, operation);
        }
    }

    /// Says where a command stands.
    fn tell(&mut self, now: Now, id: CommandId, status: Status, reply: Reply<'_>) {
        let Some(command) = self.commands.get(&id) else {
            return;
        };
        let name = self
            .device(command.device)
            .map(|device| device.name.clone())
            .unwrap_or_default();
        let asker = command.asker.clone();
        let (op, signal) = (command.op, command.signal.clone());
        let target = command.target.clone();
        let node = target.as_ref().and_then(Target::node);
        let composite = target.as_ref().filter(|target| target.is_composite());
        let ms = status
            .is_final()
            .then(|| now.instant.since(command.received.instant).as_millis() as u64);
        let reply = Reply {
            device: &name,
            op,
            signal: signal.as_deref(),
            path: node.map(ToString::to_string),
            paths: composite.map(|target| target.paths().iter().map(ToString::to_string).collect()),
            ms,
            ..reply
        };
        self.answer(now, &asker, status, reply);
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

fn retained() -> CommandError {
    CommandError::new(
        ErrorKind::Retained,
        "retained requests are refused: nobody knows when they were made; publish without the retain flag",
    )
}

fn stopping() -> CommandError {
    CommandError::passing(ErrorKind::ShuttingDown, "the gateway is stopping")
}
