//! From MQTT to the devices: requests become commands.

use std::sync::Arc;

use crate::gateway::Gateway;
use crate::gateway::command::{Asker, Body, Command, CommandId, Step};
use crate::gateway::publish::Message;
use crate::gateway::queue::{away_error, wanted};
use crate::gateway::reply::{CommandError, ErrorKind, Reply, Status};
use crate::gateway::topics::Verb;
use crate::gateway::understand::{Turn, holds_keys};
use crate::mapping::QueueKind;
use crate::server::DeviceId;
use crate::time::Now;

impl Gateway {
    pub(super) fn on_message(&mut self, now: Now, message: Message) {
        self.show_message(&message);
        if message.topic == *self.topics.bridge("sentinel") {
            return self.on_sentinel(now, &message.payload);
        }
        if message.topic == *self.topics.bridge("info") {
            return self.on_info(now, &message.payload);
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
                (&message.payload, &body),
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
        let given = id.is_some();
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
            given,
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

    /// Begins a command: `request` is its payload, as it came and taken apart.
    pub(super) fn begin(
        &mut self,
        now: Now,
        asker: Asker,
        device_name: &str,
        verb: Verb<'_>,
        (payload, body): (&[u8], &Body),
        expiry: Option<u32>,
    ) -> Result<(), CommandError> {
        let device = self
            .by_name
            .get(device_name)
            .copied()
            .filter(|id| self.device(*id).is_some_and(|device| !device.removed))
            .ok_or_else(|| {
                CommandError::new(
                    ErrorKind::UnknownDevice,
                    format!("no device is called {device_name}"),
                )
            })?;
        if verb == Verb::Cancel {
            return self.cancel(now, device, body);
        }
        let what = verb.to_text();
        if self.repeat(now, device, &asker, &what, payload)? {
            return Ok(());
        }
        let ask = self.understand(now.unix, device, verb, body)?;
        let targets = ask.steps.iter().map(|step| match step {
            Step::Ask(operation) => operation.target(),
            Step::Await(what) => what.path.into(),
        });
        let mut secret = targets.filter(|target| target.paths().iter().any(holds_keys));
        if let Some(target) = secret.next() {
            return Err(CommandError::new(
                ErrorKind::Access,
                format!("{target} holds keys, which are never on MQTT"),
            ));
        }
        let mut command = Command::new(asker, device, what, payload.to_vec(), now);
        command.describe(&ask);
        command.wanted = wanted(verb, body);
        let Turn { queue, ttl } = ask.turn;
        let ttl = expiry
            .map(|seconds| std::time::Duration::from_secs(u64::from(seconds)))
            .or(body.ttl)
            .unwrap_or(ttl);
        command.expires = now + ttl;
        let away = self.away(now, device);
        if let (QueueKind::None, Some(why)) = (queue, away) {
            return Err(away_error(why));
        }
        let superseded = self.superseded_by(&command);
        self.make_room(device, payload.len(), superseded.len())?;
        let id = CommandId(self.command_count);
        let by = command.asker.id.clone();
        self.command_bytes += payload.len();
        self.command_deadlines.insert((command.expires.instant, id));
        self.commands.insert(id, command);
        if let Some(device) = self.device_mut(device) {
            device.commands.push_back(id);
        }
        if away.is_none() {
            // What waits is stored when that is said.
            self.keep_command(id);
        }
        self.publish_targets(id);
        for older in superseded {
            let reply = Reply {
                by: Some(&by),
                ..Reply::default()
            };
            self.end(now, older, Status::Superseded, reply);
        }
        match away {
            Some(why) => self.hold(now, id, why),
            None => {
                self.try_commands(now, device);
                self.pump(now);
                // What has not left at once waits behind something else.
                let waits = self
                    .commands
                    .get(&id)
                    .is_some_and(|command| command.attempts == 0 && !command.queued);
                if waits {
                    self.tell(now, id, Status::Accepted, Reply::default());
                }
            }
        }
        Ok(())
    }

    /// Whether another command may wait, `leaving` of the same device making room.
    fn make_room(
        &self,
        device: DeviceId,
        bytes: usize,
        leaving: usize,
    ) -> Result<(), CommandError> {
        let waiting = self
            .device(device)
            .map_or(0, |device| device.commands.len());
        let full = |what: &str| {
            let detail = format!("too many commands {what} are under way");
            Err(CommandError::passing(ErrorKind::QueueFull, detail))
        };
        if waiting - leaving.min(waiting) >= self.limits.commands_per_device {
            full("of this device")
        } else if self.commands.len() - leaving.min(self.commands.len()) >= self.limits.commands
            || self.command_bytes + bytes > self.limits.command_bytes
        {
            full("in all")
        } else {
            Ok(())
        }
    }

    /// Withdraws a command that has not left yet. Its own last word says `cancelled`.
    fn cancel(&mut self, now: Now, device: DeviceId, body: &Body) -> Result<(), CommandError> {
        let id = body
            .id
            .as_deref()
            .ok_or_else(|| CommandError::new(ErrorKind::Parse, "no id of the command to cancel"))?;
        let commands = self.device(device).into_iter().flat_map(|it| &it.commands);
        let found = commands
            .filter_map(|number| Some((*number, self.commands.get(number)?)))
            .find(|(_, command)| command.asker.id == id);
        let Some((command_id, command)) = found else {
            return Err(CommandError::new(
                ErrorKind::UnknownCommand,
                format!("no command {id} is under way"),
            ));
        };
        if command.left {
            return Err(CommandError::new(
                ErrorKind::UnknownCommand,
                format!("command {id} has left for the device already"),
            ));
        }
        self.end(now, command_id, Status::Cancelled, Reply::default());
        self.continue_commands(now, device);
        Ok(())
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
