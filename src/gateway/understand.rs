//! What a request wants: from topic and payload to operations on a device.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Map, Value as Json};

use crate::gateway::Gateway;
use crate::gateway::command::{Await, Awaited, Body, By, COMPOSITE_MAX, Step};
use crate::gateway::json::{from_json, published_to_json, to_json};
use crate::gateway::queue::DEFAULT_TTL;
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::topics::Verb;
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::codec::{Change, ResourceTypes};
use crate::lwm2m::path::MAX_ID;
use crate::lwm2m::{Arguments, AttributeChange, Id, Level, Path, Record, Target};
use crate::mapping::{Confirm, Destination, DeviceFacts, QueueKind, Signal, Waits};
use crate::server::{DeviceId, Operation};
use crate::time::UnixTime;

/// A request that was understood.
pub struct Ask {
    pub(super) op: &'static str,
    /// Its name in the mapping.
    pub(super) command: Option<String>,
    pub(super) signal: Option<String>,
    pub(super) target: Option<Target>,
    pub(super) steps: VecDeque<Step>,
    pub(super) turn: Turn,
}

/// How a request waits, and how long, if it does not say so itself: as the mapping says; else a
/// write gives way to a newer one of the same resource, and everything else keeps its turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub(super) queue: QueueKind,
    pub(super) ttl: Duration,
}

impl Turn {
    pub(super) fn new(usual: QueueKind, waits: Waits) -> Self {
        Self {
            queue: waits.queue.unwrap_or(usual),
            ttl: waits.ttl.unwrap_or(DEFAULT_TTL),
        }
    }

    /// Of several writes in one: as the one that waits least.
    fn and(self, other: Self) -> Self {
        let queue = match (self.queue, other.queue) {
            (QueueKind::None, _) | (_, QueueKind::None) => QueueKind::None,
            (QueueKind::Fifo, _) | (_, QueueKind::Fifo) => QueueKind::Fifo,
            _ => QueueKind::Latest,
        };
        Self {
            queue,
            ttl: self.ttl.min(other.ttl),
        }
    }
}

/// A write of one signal, with what shows that the device took it.
struct SignalWrite {
    steps: Vec<Step>,
    target: Target,
    turn: Turn,
}

impl Ask {
    pub(super) fn one(signal: Option<String>, operation: Operation) -> Self {
        Self {
            op: operation.name(),
            command: None,
            signal,
            target: Some(operation.target()),
            steps: VecDeque::from([Step::Ask(operation)]),
            turn: Turn::new(QueueKind::Fifo, Waits::default()),
        }
    }
}

impl Gateway {
    /// Finds out what a request wants.
    pub(super) fn understand(
        &self,
        now: UnixTime,
        id: DeviceId,
        verb: Verb<'_>,
        body: &Body,
    ) -> Result<Ask, CommandError> {
        match verb {
            Verb::Set(Some((instance, name))) => {
                let value = body
                    .value()
                    .ok_or_else(|| CommandError::new(ErrorKind::Parse, "no value to write"))?;
                let write = self.write_signal(id, instance, name, value)?;
                Ok(write.alone(format!("{instance}/{name}")))
            }
            Verb::Set(None) => self.understand_set(id, body),
            Verb::Get(instance, name) => {
                let signal = self.signal(id, instance, name)?;
                Ok(Ask::one(
                    Some(format!("{instance}/{name}")),
                    Operation::Read(signal.path.into()),
                ))
            }
            Verb::Do(command) => self.understand_do(now, id, command, body),
            Verb::Lwm2m(operation) => self.understand_raw(id, operation, body),
            Verb::Cancel | Verb::Unknown => Err(CommandError::new(
                ErrorKind::UnknownCommand,
                "a device has set, get, do, lwm2m and cancel",
            )),
        }
    }

    /// The signal `instance/name` of a device.
    pub(super) fn signal(
        &self,
        id: DeviceId,
        instance: &str,
        name: &str,
    ) -> Result<Signal, CommandError> {
        let device = self.device(id);
        let (Some(facts), Some(device)) = (DeviceFacts::of(&self.server, id), device) else {
            return Err(CommandError::passing(
                ErrorKind::Offline,
                "the device is not registered",
            ));
        };
        let path = device.profile.path_of(&facts, instance, name, &self.models);
        let destination = path.map(|path| {
            device
                .profile
                .signal(&device.name, &facts, &path, &self.models)
        });
        match destination {
            Some(Destination::Signal(signal)) => Ok(signal),
            _ => Err(CommandError::new(
                ErrorKind::UnknownSignal,
                format!("{} has no signal {instance}/{name}", device.name),
            )),
        }
    }

    fn write_signal(
        &self,
        id: DeviceId,
        instance: &str,
        name: &str,
        json: &Json,
    ) -> Result<SignalWrite, CommandError> {
        let signal = self.signal(id, instance, name)?;
        let path = signal.path;
        if !signal.access.write {
            return Err(CommandError::new(
                ErrorKind::Access,
                format!("{instance}/{name} ({path}) is not writable"),
            ));
        }
        let wrong = |detail: String| {
            CommandError::new(ErrorKind::Type, format!("{instance}/{name}: {detail}"))
        };
        let out_of_range = |error: &dyn std::fmt::Display| {
            CommandError::new(ErrorKind::Range, format!("{error} of {instance}/{name}"))
        };
        let rules = signal.write.as_deref();
        let expr = rules.and_then(|rules| rules.expr.as_ref());
        // What is carried back gets the type of the resource after that.
        let is_direct = signal.transform.is_none() && expr.is_none();
        let wanted = from_json(json, signal.data_type.filter(|_| is_direct)).map_err(wrong)?;
        signal
            .check(&wanted)
            .map_err(|error| out_of_range(&error))?;
        let value = match (expr, &signal.transform) {
            (Some(expr), _) => {
                let carried = expr.of(&wanted);
                carried.ok_or_else(|| wrong(format!("{json} cannot be carried back")))?
            }
            (None, Some(transform)) => transform.invert(wanted).map_err(|error| {
                if error.is_range() {
                    out_of_range(&error)
                } else {
                    wrong(error.to_string())
                }
            })?,
            (None, None) => wanted,
        };
        let value = match is_direct {
            true => value,
            false => from_json(&to_json(&value), signal.data_type).map_err(wrong)?,
        };
        let write = Operation::Write {
            path,
            records: vec![Record {
                path,
                value: value.clone(),
                time: None,
            }],
            replace: true,
        };
        let mut steps = vec![Step::Ask(write)];
        let by = match rules.map(|rules| rules.confirm).unwrap_or_default() {
            Confirm::None => None,
            Confirm::Read => Some(By::Reads),
            Confirm::Notify => Some(By::Notifications),
        };
        if let Some(by) = by {
            let timeout = rules.and_then(|rules| rules.timeout);
            steps.push(Step::Await(Await {
                path,
                wanted: Awaited::Becomes(value),
                by,
                timeout: timeout.unwrap_or(Confirm::PATIENCE),
            }));
        }
        let waits = rules.map(|rules| rules.waits).unwrap_or_default();
        Ok(SignalWrite {
            steps,
            target: path.into(),
            turn: Turn::new(QueueKind::Latest, waits),
        })
    }

    /// `set` with several signals at once, written in order.
    fn understand_set(&self, id: DeviceId, body: &Body) -> Result<Ask, CommandError> {
        let Some(Json::Object(signals)) = body.arguments.get("set") else {
            return Err(CommandError::new(
                ErrorKind::Parse,
                "no signals, such as {\"set\":{\"light-control-0/on-off\":true}}",
            ));
        };
        let write = |(label, value): (&String, &Json)| {
            let (instance, name) = label.split_once('/').ok_or_else(|| {
                CommandError::new(ErrorKind::Parse, format!("{label} is not instance/name"))
            })?;
            let write = self.write_signal(id, instance, name, value)?;
            Ok(write.alone(label.clone()))
        };
        signals
            .iter()
            .map(write)
            .reduce(|all, next| {
                let (mut all, next) = (all?, next?);
                all.steps.extend(next.steps);
                Ok(Ask {
                    signal: None,
                    target: None,
                    turn: all.turn.and(next.turn),
                    ..all
                })
            })
            .unwrap_or_else(|| Err(CommandError::new(ErrorKind::Parse, "nothing to write")))
    }

    /// `lwm2m/<op>`: one operation on any path.
    fn understand_raw(
        &self,
        id: DeviceId,
        operation: &str,
        body: &Body,
    ) -> Result<Ask, CommandError> {
        let operation = match operation {
            "read" => Operation::Read(body.path()?.into()),
            "read-composite" => Operation::Read(body.paths()?),
            "discover" => Operation::Discover(body.path()?, parse_depth(body)?),
            "observe" => Operation::Observe(body.path()?.into(), parse_own_attributes(body)?),
            "observe-composite" => Operation::Observe(body.paths()?, parse_own_attributes(body)?),
            "cancel-observe" => Operation::CancelObserve(body.path()?.into()),
            "cancel-observe-composite" => Operation::CancelObserve(body.paths()?),
            "execute" => {
                let arguments = match body.bare {
                    Some(_) => Arguments::default(),
                    None => body.execute_arguments()?,
                };
                Operation::Execute(body.path()?, arguments)
            }
            "write" => self.understand_write(id, body)?,
            "write-composite" => {
                Operation::WriteComposite(self.values_below(id, Path::ROOT, body)?)
            }
            "write-attributes" => Operation::WriteAttributes(
                body.path()?,
                parse_attributes(
                    body.arguments
                        .get("attributes")
                        .and_then(Json::as_object)
                        .unwrap_or(&body.arguments),
                )?,
            ),
            "create" => self.understand_create(id, body)?,
            "delete" => Operation::Delete(body.path()?),
            _ => {
                return Err(CommandError::new(
                    ErrorKind::UnknownCommand,
                    format!("LwM2M has no operation {operation}"),
                ));
            }
        };
        check_level(&operation)?;
        Ok(Ask::one(None, operation))
    }

    fn understand_write(&self, id: DeviceId, body: &Body) -> Result<Operation, CommandError> {
        let path = body.path()?;
        let records = match (body.arguments.get("value"), body.arguments.get("values")) {
            (Some(value), None) => vec![self.record(id, path, value)?],
            (None, Some(_)) => self.records_below(id, path, body)?,
            _ => {
                return Err(CommandError::new(
                    ErrorKind::Parse,
                    "either \"value\", or \"values\" with one value a number below the path",
                ));
            }
        };
        let replace = match body.arguments.get("mode").map(Json::as_str) {
            None => path.level() >= Level::Resource,
            Some(Some("replace")) => true,
            Some(Some("update")) => false,
            Some(_) => {
                return Err(CommandError::new(
                    ErrorKind::Parse,
                    "mode is \"replace\" or \"update\"",
                ));
            }
        };
        Ok(Operation::Write {
            path,
            records,
            replace,
        })
    }

    /// `{"path":"/16","instance":2,"values":{"0":…}}`, or the instance in the path.
    fn understand_create(&self, id: DeviceId, body: &Body) -> Result<Operation, CommandError> {
        let wrong = |detail: &str| CommandError::new(ErrorKind::Parse, detail);
        let (object, in_path) = match *body.path()?.ids() {
            [object] => (object, None),
            [object, instance] => (object, Some(instance)),
            _ => return Err(wrong("create needs an object, or an instance of one")),
        };
        let named = match body.arguments.get("instance") {
            None | Some(Json::Null) => None,
            Some(json) => {
                let number = json.as_u64().and_then(|number| Id::try_from(number).ok());
                let instance = number.filter(|number| *number < MAX_ID);
                Some(instance.ok_or_else(|| wrong("instance is a number from 0 to 65534"))?)
            }
        };
        let instance = match (in_path, named) {
            (Some(in_path), Some(named)) if in_path != named => {
                return Err(wrong("the path and \"instance\" name different instances"));
            }
            (in_path, named) => in_path.or(named),
        };
        let records = match body.arguments.get("values") {
            None => Vec::new(),
            Some(_) => {
                self.records_below(id, Path::instance(object, instance.unwrap_or(0)), body)?
            }
        };
        if instance.is_some() && records.is_empty() {
            return Err(wrong(
                "an instance is named in the names of its resources: at least one is needed in \
                 \"values\"",
            ));
        }
        Ok(Operation::Create {
            object,
            instance,
            records,
        })
    }

    /// As [`Gateway::values_below`], with nothing to delete.
    fn records_below(
        &self,
        id: DeviceId,
        base: Path,
        body: &Body,
    ) -> Result<Vec<Record>, CommandError> {
        let record = |Change { path, value }| {
            let value = value.ok_or_else(|| {
                CommandError::new(ErrorKind::Type, format!("{path}: null is no value"))
            })?;
            Ok(Record {
                path,
                value,
                time: None,
            })
        };
        let changes = self.values_below(id, base, body)?;
        changes.into_iter().map(record).collect()
    }

    /// `values`: a value for each path below `base`, as `"5700"` or `"7/1"`; below the root as
    /// whole paths, `"/3303/0/5700"`. `null` deletes.
    fn values_below(
        &self,
        id: DeviceId,
        base: Path,
        body: &Body,
    ) -> Result<Vec<Change>, CommandError> {
        let Some(Json::Object(values)) = body.arguments.get("values") else {
            return Err(CommandError::new(
                ErrorKind::Parse,
                "no values, such as {\"values\":{\"/1/0/1\":60}}",
            ));
        };
        let prefix = match base.level() {
            Level::Root => String::new(),
            _ => format!("{base}/"),
        };
        let record = |(key, value): (&String, &Json)| {
            let name = format!("{prefix}{key}");
            let path = name
                .parse()
                .map_err(|error| CommandError::new(ErrorKind::Parse, format!("{name}: {error}")))?;
            let value = match value {
                Json::Null => None,
                value => Some(self.record(id, path, value)?.value),
            };
            Ok(Change { path, value })
        };
        values.iter().map(record).collect()
    }

    /// A value in the type that its resource has at this device.
    pub(super) fn record(
        &self,
        id: DeviceId,
        path: Path,
        json: &Json,
    ) -> Result<Record, CommandError> {
        let data_type = || {
            let (object, resource) = (path.object_id()?, path.resource_id()?);
            let registration = self.server.registration(id)?;
            let types = registration.types(&self.models);
            types.resource_type(object, resource)?.data_type
        };
        let value = from_json(json, data_type())
            .map_err(|detail| CommandError::new(ErrorKind::Type, format!("{path}: {detail}")))?;
        Ok(Record {
            path,
            value,
            time: None,
        })
    }

    /// A value as the mapping shows it, for a reply; null where it has nothing to show.
    pub(super) fn mapped(&self, id: DeviceId, record: &Record) -> Json {
        let destination =
            self.device(id)
                .zip(DeviceFacts::of(&self.server, id))
                .map(|(device, facts)| {
                    device
                        .profile
                        .signal(&device.name, &facts, &record.path, &self.models)
                });
        match destination {
            Some(Destination::Signal(signal)) => {
                let applied = signal.apply(record.value.clone());
                applied.value.as_ref().map_or(Json::Null, published_to_json)
            }
            _ => to_json(&record.value),
        }
    }
}

impl SignalWrite {
    /// A request for nothing else.
    fn alone(self, label: String) -> Ask {
        Ask {
            op: "write",
            command: None,
            signal: Some(label),
            target: Some(self.target),
            steps: self.steps.into(),
            turn: self.turn,
        }
    }
}

/// `{"path":…,"pmin":10,"st":0.5}`, or the same below `attributes`. `null` unsets.
fn parse_attributes(attributes: &Map<String, Json>) -> Result<AttributeChange, CommandError> {
    let query = |(name, value): (&String, &Json)| match value {
        Json::Null => name.clone(),
        Json::String(text) => format!("{name}={text}"),
        Json::Bool(flag) => format!("{name}={}", u8::from(*flag)),
        other => format!("{name}={other}"),
    };
    let queries: Vec<String> = attributes
        .iter()
        .filter(|(name, _)| *name != "path")
        .map(query)
        .collect();
    AttributeChange::from_queries(&queries)
        .map_err(|error| CommandError::new(ErrorKind::Parse, error.to_string()))
}

/// `attributes` of an observation of its own.
fn parse_own_attributes(body: &Body) -> Result<NotificationAttributes, CommandError> {
    match body.arguments.get("attributes") {
        None | Some(Json::Null) => Ok(NotificationAttributes::default()),
        Some(Json::Object(attributes)) => Ok(parse_attributes(attributes)?.set),
        Some(_) => Err(CommandError::new(
            ErrorKind::Parse,
            "attributes are an object such as {\"pmin\":5}",
        )),
    }
}

/// `depth` of a Discover (LwM2M Core 1.2 §6.3.2).
fn parse_depth(body: &Body) -> Result<Option<u8>, CommandError> {
    match body.arguments.get("depth") {
        None | Some(Json::Null) => Ok(None),
        Some(json) => {
            let depth = json.as_u64().and_then(|depth| u8::try_from(depth).ok());
            let depth = depth.filter(|depth| *depth <= 3);
            let error = CommandError::new(ErrorKind::Parse, "depth is a number from 0 to 3");
            depth.ok_or(error).map(Some)
        }
    }
}

/// Whether a path lies in an object that holds keys, Security (0) or OSCORE (21). A device refuses
/// them to every server but the one of bootstrap (LwM2M Core 1.1 §E.1), and keys are never on MQTT.
pub(super) fn holds_keys(path: &Path) -> bool {
    matches!(path.object_id(), Some(0 | 21))
}

/// Whether an operation goes with the depth of its path (LwM2M Core 1.1 §6.3, §6.4).
fn check_level(operation: &Operation) -> Result<(), CommandError> {
    let target = operation.target();
    let count = target.paths().len();
    let all = |allowed: fn(Level) -> bool| target.paths().iter().all(|path| allowed(path.level()));
    let (allowed, wanted) = match operation {
        Operation::Execute(..) => (
            all(|level| level == Level::Resource),
            "a resource, /object/instance/resource",
        ),
        Operation::Write { replace: false, .. } => (
            all(|level| matches!(level, Level::Instance | Level::Resource)),
            "an instance, or a resource with several values",
        ),
        Operation::Write { .. } => (
            all(|level| level >= Level::Instance),
            "an instance or what is below it",
        ),
        Operation::WriteComposite(changes)
            if changes.iter().any(|change| {
                change.value.is_none() && change.path.level() != Level::ResourceInstance
            }) =>
        {
            (false, "a resource instance for null, which deletes")
        }
        Operation::WriteComposite(_) => (
            (1..=COMPOSITE_MAX).contains(&count) && all(|level| level >= Level::Resource),
            "values of 1 to 256 resources or what is below them",
        ),
        Operation::Delete(_) => (
            all(|level| matches!(level, Level::Instance | Level::ResourceInstance)),
            "an instance, or an instance of a resource",
        ),
        Operation::Discover(..) => (
            all(|level| matches!(level, Level::Object | Level::Instance | Level::Resource)),
            "an object, an instance or a resource",
        ),
        _ if target.is_composite() => (true, ""),
        _ => (
            all(|level| level >= Level::Object),
            "an object or what is below it",
        ),
    };
    if allowed {
        Ok(())
    } else {
        Err(CommandError::new(
            ErrorKind::Parse,
            format!("{} needs {wanted}", operation.name()),
        ))
    }
}
