//! Values that commands wait for: one that has to follow a write, or one that a step waits for
//! (MQTT contract §5).
//!
//! While a command waits for a value, others of its device go on; only what asks for the same as it
//! does waits behind it. A value comes by notification or Send, or is read, again and again.

use std::time::Duration;

use serde_json::Value as Json;

use crate::gateway::command::{Await, Awaited, Awaiting, By, Command, CommandId, Step};
use crate::gateway::json::{Source, published_to_json, to_json};
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::uplink::Arrival;
use crate::gateway::watch::Watching;
use crate::gateway::{Gateway, Purpose};
use crate::lwm2m::{Path, Record, Value};
use crate::server::{Answer, DeviceId, Operation, OperationError};
use crate::time::{Instant, Now};

/// How often a value is read that has to follow a write.
const CONFIRM_POLL: Duration = Duration::from_secs(2);

/// How often a value is read that a step waits for; and when it is observed, in case a notification
/// is lost.
const WAIT_POLL: Duration = Duration::from_secs(5);
const OBSERVED_POLL: Duration = Duration::from_secs(60);

/// How far apart two numbers may be, as a share of the greater, and count as one: many a device
/// keeps 32 bits of a float.
const SAME_WITHIN: f64 = 1e-6;

/// The value that a command waits for has come.
pub(super) struct Met {
    command: CommandId,
    source: Source,
    value: Value,
}

impl Gateway {
    /// A command begins to wait for a value. `until` is the end of a wait that began in an earlier
    /// process, whose notifications were missed.
    pub(super) fn begin_await(&mut self, now: Now, id: CommandId, what: Await, until: Option<Now>) {
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        let (device, path) = (command.device, what.path);
        let early = command.early.take();
        command.at = Some(path);
        let resumed = until.is_some();
        let until = until.unwrap_or(now + what.timeout);
        let mut awaiting = Awaiting {
            what,
            until,
            due: until.instant,
            poll: None,
            polled: None,
            seen: None,
        };
        if awaiting.what.by == By::Notifications
            && (resumed || self.stands_as(device, &awaiting.what))
        {
            // What was missed does not come again, and what has not changed is not notified.
            awaiting.what.by = By::Either;
        }
        let polls = awaiting.what.by != By::Notifications;
        if let Some(command) = self.commands.get_mut(&id) {
            command.awaiting = Some(awaiting);
        }
        self.awaits.insert((until.instant, id));
        if let Some((source, value)) = early {
            let command = id;
            self.on_met(
                now,
                Met {
                    command,
                    source,
                    value,
                },
            );
        } else if polls {
            self.schedule_poll(id, now.instant);
            self.poll_awaited(now, device);
        }
    }

    /// Whether the value that is waited for stands on the signal's topic already.
    fn stands_as(&self, device: DeviceId, what: &Await) -> bool {
        let stands = || {
            let signals = self.device(device)?;
            let tracked = signals.signals.get(signals.find(&what.path).ok()?)?;
            let last = tracked.last.as_ref()?;
            let Awaited::Becomes(wanted) = &what.wanted else {
                return None;
            };
            let wanted = self.mapped(device, &record(what.path, wanted));
            let stands = published_to_json(last.value.as_ref()?);
            Some(!tracked.stale && is_shown_alike(&stands, &wanted))
        };
        stands() == Some(true)
    }

    /// Looks among new values for those that commands of their device wait for, each of which is
    /// told of them when they have been published.
    pub(super) fn awaited_in(&mut self, arrival: Arrival, records: &[Record]) -> Vec<Met> {
        let Some(device) = self.device(arrival.device) else {
            return Vec::new();
        };
        if device.commands.is_empty() || arrival.overtaken {
            return Vec::new();
        }
        let mut met = Vec::new();
        for id in Vec::from(device.commands.clone()) {
            let Some(command) = self.commands.get(&id) else {
                continue;
            };
            let Some(what) = command.listens_for() else {
                continue;
            };
            let counts = match what.by {
                By::Reads => arrival.source == Source::Read,
                By::Notifications => arrival.source != Source::Read,
                By::Either => true,
            };
            // Of several samples the newest one, which stands last.
            let newest = records.iter().rev().find(|record| record.path == what.path);
            let Some(newest) = newest.filter(|_| counts) else {
                continue;
            };
            let is_met = self.is_met(arrival.device, what, &newest.value);
            let value = newest.value.clone();
            let Some(command) = self.commands.get_mut(&id) else {
                continue;
            };
            match (&mut command.awaiting, is_met) {
                (Some(_), true) => met.push(Met {
                    command: id,
                    source: arrival.source,
                    value,
                }),
                (Some(awaiting), false) => awaiting.seen = Some(value),
                // The device says it before it has answered the write.
                (None, true) => command.early = Some((arrival.source, value)),
                (None, false) => command.early = None,
            }
        }
        met
    }

    fn is_met(&self, device: DeviceId, what: &Await, value: &Value) -> bool {
        match &what.wanted {
            Awaited::Holds(condition) => condition.of(value) == Some(Value::Boolean(true)),
            Awaited::Becomes(wanted) => {
                let mapped = |value| self.mapped(device, &record(what.path, value));
                is_same(value, wanted) || is_shown_alike(&mapped(value), &mapped(wanted))
            }
        }
    }

    /// Goes on with a command whose value has come.
    pub(super) fn on_met(&mut self, now: Now, met: Met) {
        let id = met.command;
        let Some(awaiting) = self.end_await(id) else {
            return;
        };
        let Some(command) = self.commands.get(&id) else {
            return;
        };
        let (device, path) = (command.device, awaiting.what.path);
        let value = self.mapped(device, &record(path, &met.value));
        let Some(command) = self.commands.get_mut(&id) else {
            return;
        };
        if let Awaited::Becomes(_) = awaiting.what.wanted {
            command.outcome.confirmed = Some(match met.source {
                Source::Read => "read",
                Source::Notify | Source::Send => "notify",
            });
            command.outcome.add_value(path, value, command.of == 2);
        }
        command.over += 1;
        self.go_on(now, id);
        self.continue_commands(now, device);
    }

    /// A command waits no longer: what it waited for.
    pub(super) fn end_await(&mut self, id: CommandId) -> Option<Awaiting> {
        let command = self.commands.get_mut(&id)?;
        let awaiting = command.awaiting.take()?;
        self.awaits.remove(&(awaiting.due, id));
        if let Some(operation) = awaiting.polled {
            self.purposes.remove(&operation);
            self.server.withdraw(command.device, operation);
        }
        Some(awaiting)
    }

    /// The value that a command waits for is read at `at`, if nothing comes before.
    fn schedule_poll(&mut self, id: CommandId, at: Instant) {
        if let Some(command) = self.commands.get_mut(&id)
            && let Some(awaiting) = &mut command.awaiting
        {
            awaiting.poll = Some(at);
            self.awaits.remove(&(awaiting.due, id));
            awaiting.due = at.min(awaiting.until.instant);
            self.awaits.insert((awaiting.due, id));
        }
    }

    /// Reads what commands of a device wait for, where it is time and the device is there.
    pub(super) fn poll_awaited(&mut self, now: Now, device: DeviceId) {
        if self.away(now, device).is_some() {
            return;
        }
        let commands = self.device(device).map(|device| device.commands.clone());
        for id in commands.into_iter().flatten() {
            let awaiting = self
                .commands
                .get_mut(&id)
                .and_then(|command| command.awaiting.as_mut());
            if let Some(awaiting) = awaiting
                && awaiting.polled.is_none()
                && awaiting.poll.take_if(|at| *at <= now.instant).is_some()
            {
                let read = Operation::Read(awaiting.what.path.into());
                let operation = self.server.operate(now, device, read);
                awaiting.polled = Some(operation);
                self.purposes.insert(operation, Purpose::Poll(id));
            }
        }
    }

    /// A value that a command waits for was read, or was not.
    pub(super) fn finish_poll(
        &mut self,
        now: Now,
        id: CommandId,
        device: DeviceId,
        asked: &Operation,
        result: Result<Answer, OperationError>,
    ) {
        let Some(awaiting) = self
            .commands
            .get_mut(&id)
            .and_then(|command| command.awaiting.as_mut())
        else {
            return;
        };
        awaiting.polled = None;
        let path = awaiting.what.path;
        match result {
            Ok(answer) => {
                // If it is the one, this ends the wait.
                self.take_answer(now, device, Source::Read, &asked.target(), answer);
            }
            // It is not there to be read, and will not be.
            Err(OperationError::Response { code, .. }) if code.class() == 4 => {
                let detail = format!("{path} cannot be read: {code:?}");
                return self.fail(now, id, CommandError::new(ErrorKind::Confirm, detail));
            }
            Err(_) => {}
        }
        let Some(awaiting) = self
            .commands
            .get(&id)
            .and_then(|command| command.awaiting.as_ref())
        else {
            return;
        };
        let every = match awaiting.what.wanted {
            Awaited::Becomes(_) => CONFIRM_POLL,
            Awaited::Holds(_) if self.is_notified(device, &path) => OBSERVED_POLL,
            Awaited::Holds(_) => WAIT_POLL,
        };
        self.schedule_poll(id, now.instant + every);
        self.tend_awaits(now);
    }

    /// Whether a node is observed, so that its values come by themselves.
    fn is_notified(&self, device: DeviceId, path: &Path) -> bool {
        let watches = self.device(device).into_iter().flat_map(|it| &it.watches);
        watches
            .filter(|watch| watch.state == Watching::Observed)
            .any(|watch| watch.target.contains(path))
    }

    /// Looks after the commands whose time to read, or to give up, has come.
    pub(super) fn tend_awaits(&mut self, now: Now) {
        while let Some((due, id)) = self
            .awaits
            .first()
            .copied()
            .filter(|(due, _)| *due <= now.instant)
        {
            self.awaits.remove(&(due, id));
            let Some(command) = self.commands.get(&id) else {
                continue;
            };
            let (device, expires) = (command.device, command.expires);
            let sleeps = self.sleeps(device);
            let Some(command) = self.commands.get_mut(&id) else {
                continue;
            };
            let Some(awaiting) = &mut command.awaiting else {
                continue;
            };
            if awaiting.until.instant > now.instant {
                // A device that is away is asked when it comes.
                awaiting.due = awaiting.until.instant;
                self.awaits.insert((awaiting.due, id));
                self.poll_awaited(now, device);
                continue;
            }
            // What is being read may be the one.
            if awaiting.polled.is_some() {
                continue;
            }
            // A device that fell asleep over it can be asked later what it holds.
            let reads = awaiting.what.by != By::Notifications && awaiting.seen.is_none();
            let confirms = matches!(awaiting.what.wanted, Awaited::Becomes(_));
            if reads && confirms && expires.instant > now.instant && sleeps {
                awaiting.until = expires;
                awaiting.due = expires.instant;
                self.awaits.insert((awaiting.due, id));
                awaiting.poll.get_or_insert(now.instant);
                continue;
            }
            let error = self.not_met(id, device);
            self.fail(now, id, error);
            self.continue_commands(now, device);
        }
    }

    /// Why a command gives up.
    fn not_met(&self, id: CommandId, device: DeviceId) -> CommandError {
        let detail = || {
            let command = self.commands.get(&id)?;
            let Awaiting { what, seen, .. } = command.awaiting.as_ref()?;
            let show = |value| self.mapped(device, &record(what.path, value));
            let label = match &command.signal {
                Some(signal) => format!("{signal} ({})", what.path),
                None => what.path.to_string(),
            };
            let time = humantime::format_duration(what.timeout);
            Some(match (&what.wanted, seen) {
                (Awaited::Becomes(wanted), Some(seen)) => format!(
                    "{} was written, and {label} is {}",
                    show(wanted),
                    show(seen)
                ),
                (Awaited::Becomes(wanted), None) if what.by == By::Notifications => format!(
                    "{} was written, and no notification of {label} came within {time}",
                    show(wanted)
                ),
                (Awaited::Becomes(wanted), None) => format!(
                    "{} was written, and {label} could not be read within {time}",
                    show(wanted)
                ),
                (Awaited::Holds(_), Some(seen)) => format!(
                    "{label} is {} after {time}, which is not what was waited for",
                    to_json(seen)
                ),
                (Awaited::Holds(_), None) => {
                    format!("no value of {label} came within {time}")
                }
            })
        };
        CommandError::passing(ErrorKind::Confirm, detail().unwrap_or_default())
    }

    fn sleeps(&self, device: DeviceId) -> bool {
        self.server
            .registration(device)
            .is_some_and(|registration| registration.queue_mode())
    }
}

impl Command {
    /// The value that it waits for; or will wait for, when what is under way is answered.
    fn listens_for(&self) -> Option<&Await> {
        match (&self.awaiting, self.steps.front()) {
            (Some(awaiting), _) => Some(&awaiting.what),
            (None, Some(Step::Await(what))) if self.left && what.by == By::Notifications => {
                Some(what)
            }
            _ => None,
        }
    }
}

fn record(path: Path, value: &Value) -> Record {
    Record {
        path,
        value: value.clone(),
        time: None,
    }
}

/// Whether two values are one: numbers of whatever type as far as 32 bits tell them apart.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => is_near(one, other),
        _ => one == other,
    }
}

/// The same of what is published of them. Where nothing is, there is nothing to see.
fn is_shown_alike(one: &Json, other: &Json) -> bool {
    match (one.as_f64(), other.as_f64()) {
        (Some(one), Some(other)) => is_near(one, other),
        _ => !one.is_null() && one == other,
    }
}

fn is_near(one: f64, other: f64) -> bool {
    (one - other).abs() <= SAME_WITHIN * one.abs().max(other.abs()).max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_one_as_far_as_32_bits_tell_them_apart() {
        let float = Value::Float;
        assert!(is_same(&float(-20.1), &float(f64::from(-20.1_f32))));
        assert!(is_same(&float(7.0), &Value::Integer(7)));
        assert!(is_same(&float(0.0), &Value::Integer(0)));
        assert!(!is_same(&float(0.0), &float(1e-9)));
        assert!(!is_same(&float(20.5), &float(20.501)));
        assert!(!is_same(&float(1.0), &Value::Boolean(true)));
        let text = |text: &str| Value::String(text.into());
        assert!(is_same(&text("a"), &text("a")) && !is_same(&text("a"), &text("b")));
    }
}
