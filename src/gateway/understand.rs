//! What a request wants: from topic and payload to operations on a device.

use std::collections::VecDeque;

use serde_json::{Map, Value as Json};

use crate::gateway::Gateway;
use crate::gateway::command::{Body, COMPOSITE_MAX};
use crate::gateway::json::{from_json, published_to_json, to_json};
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::topics::Verb;
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::codec::{Change, ResourceTypes};
use crate::lwm2m::path::MAX_ID;
use crate::lwm2m::{Arguments, AttributeChange, Id, Level, Path, Record, Target};
use crate::mapping::{Destination, DeviceFacts, Signal};
use crate::server::{DeviceId, Operation};

/// A request that was understood.
pub struct Ask {
    pub(super) op: &'static str,
    pub(super) signal: Option<String>,
    pub(super) target: Option<Target>,
    pub(super) steps: VecDeque<Operation>,
}

impl Ask {
    fn one(signal: Option<String>, operation: Operation) -> Self {
        Self {
            op: operation.name(),
            signal,
            target: Some(operation.target()),
            steps: VecDeque::from([operation]),
        }
    }
}

impl Gateway {
    /// Finds out what a request wants.
    pub(super) fn understand(
        &self,
        id: DeviceId,
        verb: Verb<'_>,
        body: &Body,
    ) -> Result<Ask, CommandError> {
        match verb {
            Verb::Set(Some((instance, name))) => {
                let value = body
                    .value()
                    .ok_or_else(|| CommandError::new(ErrorKind::Parse, "no value to write"))?;
                let label = format!("{instance}/{name}");
                Ok(Ask::one(
                    Some(label),
                    self.write_signal(id, instance, name, value)?,
                ))
            }
            Verb::Set(None) => self.understand_set(id, body),
            Verb::Get(instance, name) => {
                let signal = self.signal(id, instance, name)?;
                Ok(Ask::one(
                    Some(format!("{instance}/{name}")),
                    Operation::Read(signal.path.into()),
                ))
            }
            Verb::Do(command) => self.understand_do(id, command, body),
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

    pub(super) fn write_signal(
        &self,
        id: DeviceId,
        instance: &str,
        name: &str,
        json: &Json,
    ) -> Result<Operation, CommandError> {
        let signal = self.signal(id, instance, name)?;
        if !signal.access.write {
            return Err(CommandError::new(
                ErrorKind::Access,
                format!("{instance}/{name} ({}) is not writable", signal.path),
            ));
        }
        let wrong = |detail: String| {
            CommandError::new(ErrorKind::Type, format!("{instance}/{name}: {detail}"))
        };
        let value = match &signal.transform {
            None => from_json(json, signal.data_type).map_err(wrong)?,
            Some(transform) => {
                let mapped = from_json(json, None).map_err(wrong)?;
                let raw = transform.invert(mapped).map_err(|error| {
                    let kind = if error.is_range() {
                        ErrorKind::Range
                    } else {
                        ErrorKind::Type
                    };
                    CommandError::new(kind, format!("{instance}/{name}: {error}"))
                })?;
                from_json(&to_json(&raw), signal.data_type).map_err(wrong)?
            }
        };
        Ok(Operation::Write {
            path: signal.path,
            records: vec![Record {
                path: signal.path,
                value,
                time: None,
            }],
            replace: true,
        })
    }

    /// `set` with several signals at once, written in order.
    pub(super) fn understand_set(&self, id: DeviceId, body: &Body) -> Result<Ask, CommandError> {
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
            self.write_signal(id, instance, name, value)
        };
        let steps: VecDeque<_> = signals.iter().map(write).collect::<Result<_, _>>()?;
        match (steps.len(), signals.keys().next()) {
            (0, _) => Err(CommandError::new(ErrorKind::Parse, "nothing to write")),
            (1, Some(label)) => Ok(Ask {
                op: "write",
                signal: Some(label.clone()),
                target: steps.front().map(Operation::target),
                steps,
            }),
            _ => Ok(Ask {
                op: "write",
                signal: None,
                target: None,
                steps,
            }),
        }
    }

    /// `do/<command>`: a command of the mapping, or an executable resource by its name.
    pub(super) fn understand_do(
        &self,
        id: DeviceId,
        command: &str,
        body: &Body,
    ) -> Result<Ask, CommandError> {
        let unknown = || {
            CommandError::new(
                ErrorKind::UnknownCommand,
                format!("there is no command {command}"),
            )
        };
        let (Some(facts), Some(device)) = (DeviceFacts::of(&self.server, id), self.device(id))
        else {
            return Err(CommandError::passing(
                ErrorKind::Offline,
                "the device is not registered",
            ));
        };
        let by_mapping = device.profile.command(command);
        let by_name = || {
            let (instance, name) = command.split_once('/')?;
            device.profile.path_of(&facts, instance, name, &self.models)
        };
        let path = by_mapping.or_else(by_name).ok_or_else(unknown)?;
        Ok(Ask::one(
            None,
            Operation::Execute(path, body.execute_arguments()?),
        ))
    }

    /// `lwm2m/<op>`: one operation on any path.
    pub(super) fn understand_raw(
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

    pub(super) fn understand_write(
        &self,
        id: DeviceId,
        body: &Body,
    ) -> Result<Operation, CommandError> {
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
    fn record(&self, id: DeviceId, path: Path, json: &Json) -> Result<Record, CommandError> {
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
