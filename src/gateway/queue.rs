//! The commands that wait for a device: in order, bounded, until their time is over; and what of
//! them is to be seen on MQTT meanwhile (MQTT contract §5, §6).
//!
//! One command of a device is under way at a time, and its operations take turns with what the
//! gateway wants of the device itself. One that got no answer because the device sleeps keeps its
//! place and is sent again at the next contact.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::gateway::Gateway;
use crate::gateway::command::{Body, Command, CommandId, Step};
use crate::gateway::device::State;
use crate::gateway::publish::{Publish, Qos};
use crate::gateway::reply::{CommandError, ErrorKind, Reply, Status, Why};
use crate::gateway::topics::Verb;
use crate::mapping::QueueKind;
use crate::server::{DeviceId, Operation, OperationError};
use crate::time::Now;

/// How long a command waits that says nothing about it.
pub(super) const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);

/// The most commands that the `queue` topic names; it counts all.
const LISTED_MOST: usize = 32;

impl Gateway {
    /// Why nothing can be sent to a device now; `None` when it can.
    pub(super) fn away(&self, now: Now, device: DeviceId) -> Option<Why> {
        match self.server.registration(device) {
            None => Some(Why::Offline),
            Some(registration) if !registration.listens(now) => Some(Why::Asleep),
            Some(_) => None,
        }
    }

    /// Begins the next command of a device that is there, unless one is under way.
    pub(super) fn continue_commands(&mut self, now: Now, id: DeviceId) {
        if self
            .device(id)
            .is_some_and(|device| device.availability.state != State::Offline)
        {
            self.try_commands(now, id);
        }
    }

    /// The same for a device that did not answer the last time: somebody wants to know.
    pub(super) fn try_commands(&mut self, now: Now, id: DeviceId) {
        self.poll_awaited(now, id);
        while let Some(next) = self.next_command(id) {
            if self.away(now, id).is_some() {
                return;
            }
            let expires = self.commands.get(&next).map(|command| command.expires);
            if expires.is_some_and(|expires| expires.instant <= now.instant) {
                self.end(now, next, Status::Expired, Reply::default());
                continue;
            }
            match self.understand_again(now, id, next) {
                Ok(()) => self.next_step(now, next),
                Err(error) => self.fail(now, next, error),
            }
        }
    }

    /// The command whose turn it is; none while something of another one is under way. One that
    /// waits for a value lets others pass, but for those that ask for the same.
    fn next_command(&self, id: DeviceId) -> Option<CommandId> {
        let mut next = None;
        let mut held = Vec::new();
        for number in &self.device(id)?.commands {
            let command = self.commands.get(number)?;
            if command.running.is_some() {
                return None;
            }
            if command.awaiting.is_some() {
                held.push(command.what.as_str());
            } else if next.is_none() && !held.contains(&command.what.as_str()) {
                next = Some(*number);
            }
        }
        next
    }

    /// What a command wants, as the device is now: it may have come before the device did.
    pub(super) fn understand_again(
        &mut self,
        now: Now,
        id: DeviceId,
        command_id: CommandId,
    ) -> Result<(), CommandError> {
        let Some(command) = self.commands.get(&command_id) else {
            return Ok(());
        };
        if !command.steps.is_empty() {
            return Ok(());
        }
        let (body, mistake) = Body::parse(&command.payload);
        if let Some(mistake) = mistake {
            return Err(mistake);
        }
        let ask = self.understand(now.unix, id, Verb::parse(&command.what), &body)?;
        let Some(command) = self.commands.get_mut(&command_id) else {
            return Ok(());
        };
        let of = ask.steps.len();
        if command.over > 0 && command.of != of {
            return Err(CommandError::passing(
                ErrorKind::Internal,
                format!(
                    "it has other steps by now than when it was begun: {} of {} were over",
                    command.over, command.of
                ),
            ));
        }
        command.of = of;
        command.steps = ask.steps.into_iter().skip(command.over).collect();
        command.target = ask.target;
        command.fresh = true;
        Ok(())
    }

    /// A device can be reached no longer: those who asked are told that their commands wait.
    pub(super) fn hold_commands(&mut self, now: Now, id: DeviceId, why: Why) {
        let Some(device) = self.device(id).filter(|device| !device.commands.is_empty()) else {
            return;
        };
        for command in Vec::from(device.commands.clone()) {
            self.hold(now, command, why);
        }
    }

    /// A command waits for its device. One that must not wait fails.
    pub(super) fn hold(&mut self, now: Now, id: CommandId, why: Why) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        if command.left || command.awaiting.is_some() {
            return;
        }
        if command.queue == QueueKind::None {
            return self.fail(now, id, away_error(why));
        }
        let device = command.device;
        if command.attempts > 0 || std::mem::replace(&mut command.queued, true) {
            return;
        }
        self.keep_command(id);
        let position = self
            .device(device)
            .and_then(|device| device.commands.iter().position(|waiting| *waiting == id))
            .map(|index| index + 1);
        let next_wake = self
            .server
            .registration(device)
            .and_then(|registration| registration.next_contact(now))
            .map(|next| next.unix.to_string());
        let expires = self
            .commands
            .get(&id)
            .map(|command| command.expires.unix.to_string());
        let reply = Reply {
            why: Some(why),
            next_wake,
            expires,
            position,
            ..Reply::default()
        };
        self.tell(now, id, Status::Queued, reply);
        self.publish_queue(device);
    }

    /// An operation of a command got no answer. Whether the command waits for the next contact, so
    /// that this was not its end.
    pub(super) fn is_kept_waiting(
        &mut self,
        now: Now,
        id: CommandId,
        asked: &Operation,
        error: &OperationError,
    ) -> bool {
        let Some(command) = self.commands.get_mut(&id) else {
            return false;
        };
        let left = std::mem::take(&mut command.left);
        let sleeps = self
            .server
            .registration(command.device)
            .is_some_and(|registration| registration.queue_mode());
        let kept = match error {
            OperationError::Timeout => sleeps,
            // Of what may not be done twice, nobody knows whether it was done.
            OperationError::Unregistered => !left || asked.is_repeatable(),
            _ => false,
        };
        if !kept || command.queue == QueueKind::None {
            command.left = left;
            return false;
        }
        command.steps.push_front(Step::Ask(asked.clone()));
        command.fresh = true;
        if command.expires.instant <= now.instant {
            self.end(now, id, Status::Expired, Reply::default());
        }
        true
    }

    /// A device registered anew. What was sent to it, got no answer and must not be done twice may
    /// be the reason: a reboot above all.
    pub(super) fn give_up_doubtful(&mut self, now: Now, id: DeviceId) {
        let is_doubtful = |id: &&CommandId| {
            self.commands
                .get(id)
                .is_some_and(|command| command.doubtful && command.running.is_none())
        };
        let commands = self.device(id).into_iter().flat_map(|it| &it.commands);
        if let Some(doubtful) = commands.into_iter().find(is_doubtful).copied() {
            self.fail(now, doubtful, doubt());
        }
    }

    /// The commands that a new one makes pointless: they wait to write what it writes.
    pub(super) fn superseded_by(&self, new: &Command) -> Vec<CommandId> {
        let Some(device) = self.device(new.device) else {
            return Vec::new();
        };
        if new.queue != QueueKind::Latest || new.writes.is_empty() {
            return Vec::new();
        }
        let is_older = |id: &&CommandId| {
            self.commands.get(id).is_some_and(|old| {
                old.queue == QueueKind::Latest
                    && !old.left
                    && !old.writes.is_empty()
                    && old.writes.iter().all(|path| new.writes.contains(path))
            })
        };
        device.commands.iter().filter(is_older).copied().collect()
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
            if let Some(device) = self
                .commands
                .get(&id)
                .filter(|command| !command.left && command.awaiting.is_none())
                .map(|command| command.device)
            {
                self.end(now, id, Status::Expired, Reply::default());
                self.continue_commands(now, device);
            }
        }
    }

    /// A device was removed by the operator: so is all that waits for it.
    pub(super) fn cancel_commands(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.device(id) else {
            return;
        };
        for command in Vec::from(device.commands.clone()) {
            self.end(now, command, Status::Cancelled, Reply::default());
        }
    }

    /// Shows what a command wants the signals to become, until it is over.
    pub(super) fn publish_targets(&mut self, id: CommandId) {
        let Some(command) = self.commands.get(&id) else {
            return;
        };
        let device = command.device;
        let labels: Vec<String> = command
            .wanted
            .iter()
            .map(|(label, _)| label.clone())
            .collect();
        let publishes: Vec<_> = command
            .wanted
            .iter()
            .filter_map(|(label, value)| self.target(device, command, label, value))
            .collect();
        if let Some(device) = self.device_mut(device) {
            for label in labels {
                device.targets.insert(label, id);
            }
        }
        for publish in publishes {
            self.publish(publish);
        }
    }

    fn target(
        &self,
        device: DeviceId,
        command: &Command,
        label: &str,
        value: &Json,
    ) -> Option<Publish> {
        let device = self.device(device).filter(|device| !device.removed)?;
        let payload = json!({
            "value": value,
            "id": command.asker.id,
            "since": command.received.unix.to_string(),
            "expires": command.expires.unix.to_string(),
        });
        let topic = self.topics.device(&device.name, &format!("target/{label}"));
        Some(Publish::state(topic, payload.to_string().into_bytes()))
    }

    /// Takes back what was shown of a command that is over.
    pub(super) fn clear_targets(&mut self, id: CommandId, command: &Command) {
        let Some(device) = self.devices.get_mut(command.device.0 as usize) else {
            return;
        };
        let name = device.name.clone();
        let mut over = Vec::new();
        for (label, _) in &command.wanted {
            if device.targets.get(label) == Some(&id) {
                device.targets.remove(label);
                over.push(label);
            }
        }
        for label in over {
            let topic = self.topics.device(&name, &format!("target/{label}"));
            self.publish(Publish::deletion(topic));
        }
    }

    /// Publishes which commands wait for a device, or that none does any more.
    pub(super) fn publish_queue(&mut self, id: DeviceId) {
        let publish = self.queue_of(id);
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let shown = std::mem::replace(&mut device.queue_shown, publish.is_some());
        match publish {
            Some(publish) => self.publish(publish),
            None if shown => {
                let topic = self
                    .device(id)
                    .map(|device| self.topics.device(&device.name, "queue"));
                if let Some(topic) = topic {
                    self.publish(Publish::deletion(topic));
                }
            }
            None => {}
        }
    }

    /// How many commands wait for a device.
    pub(super) fn queued(&self, id: DeviceId) -> usize {
        self.waiting(id).count()
    }

    fn waiting(&self, id: DeviceId) -> impl Iterator<Item = &Command> {
        let waiting = self
            .device(id)
            .into_iter()
            .flat_map(|device| &device.commands);
        waiting
            .filter_map(|command| self.commands.get(command))
            .filter(|command| command.queued)
    }

    /// The message about the commands that wait for a device; none when none does.
    pub(super) fn queue_of(&self, id: DeviceId) -> Option<Publish> {
        let device = self.device(id).filter(|device| !device.removed)?;
        let listed: Vec<_> = self
            .waiting(id)
            .take(LISTED_MOST)
            .map(|command| {
                json!({
                    "id": command.asker.id,
                    "op": command.op,
                    "since": command.received.unix.to_string(),
                    "expires": command.expires.unix.to_string(),
                })
            })
            .collect();
        if listed.is_empty() {
            return None;
        }
        let payload = json!({ "queued": self.queued(id), "commands": listed });
        Some(Publish {
            qos: Qos::AtMostOnce,
            ..Publish::state(
                self.topics.device(&device.name, "queue"),
                payload.to_string().into_bytes(),
            )
        })
    }

    /// What stands on MQTT of the commands of a device, for a broker that lost it.
    pub(super) fn pending_of(&self, id: DeviceId) -> Vec<Publish> {
        let Some(device) = self.device(id) else {
            return Vec::new();
        };
        let targets = device.targets.iter().filter_map(|(label, command)| {
            let command = self.commands.get(command)?;
            let (_, value) = command.wanted.iter().find(|(wanted, _)| wanted == label)?;
            self.target(id, command, label, value)
        });
        targets.chain(self.queue_of(id)).collect()
    }
}

/// Why a command that must not wait is not done.
pub(super) fn away_error(why: Why) -> CommandError {
    match why {
        Why::Asleep => CommandError::passing(
            ErrorKind::Asleep,
            "the device sleeps, and this command is not to wait",
        ),
        Why::Offline => CommandError::passing(
            ErrorKind::Offline,
            "the device cannot be reached, and this command is not to wait",
        ),
    }
}

/// What is said of something that was sent once, and must not be sent again.
pub(super) fn doubt() -> CommandError {
    CommandError::passing(
        ErrorKind::Timeout,
        "it was sent and there was no answer: whether the device did it is not known",
    )
}

/// What a request wants signals to become, as it says it: `<inst>/<name>` and the value.
pub(super) fn wanted(verb: Verb<'_>, body: &Body) -> Vec<(String, Json)> {
    match verb {
        Verb::Set(Some((instance, name))) => body
            .value()
            .map(|value| (format!("{instance}/{name}"), value.clone()))
            .into_iter()
            .collect(),
        Verb::Set(None) => body
            .arguments
            .get("set")
            .and_then(Json::as_object)
            .into_iter()
            .flatten()
            .map(|(label, value)| (label.clone(), value.clone()))
            .collect(),
        _ => Vec::new(),
    }
}
