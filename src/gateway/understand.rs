//! What a request wants: from topic and payload to operations on a device.

use std::collections::VecDeque;

use serde_json::Value as Json;

use crate::gateway::Gateway;
use crate::gateway::command::Body;
use crate::gateway::json::{from_json, to_json};
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::topics::Verb;
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::codec::ResourceTypes;
use crate::lwm2m::{Level, Path, Record};
use crate::mapping::{Destination, DeviceFacts, Signal};
use crate::server::{DeviceId, Operation};

/// A request that was understood.
pub(super) struct Ask {
    pub(super) op: &'static str,
    pub(super) signal: Option<String>,
    pub(super) path: Option<Path>,
    pub(super) steps: VecDeque<Operation>,
}

impl Ask {
    fn one(signal: Option<String>, operation: Operation) -> Self {
        Self {
            op: operation.name(),
            signal,
            path: Some(*operation.path()),
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
                    Operation::Read(signal.path),
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

    pub(super) fn facts(&self, id: DeviceId) -> Option<DeviceFacts<'_>> {
        let registration = self.server.registration(id)?;
        Some(DeviceFacts {
            endpoint: self.server.endpoint_name(id)?,
            lwm2m: registration.version,
            objects: &registration.objects.objects,
        })
    }

    /// The signal `instance/name` of a device.
    pub(super) fn signal(
        &self,
        id: DeviceId,
        instance: &str,
        name: &str,
    ) -> Result<Signal, CommandError> {
        let device = self.device(id);
        let (Some(facts), Some(device)) = (self.facts(id), device) else {
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
                path: steps.front().map(|step| *step.path()),
                steps,
            }),
            _ => Ok(Ask {
                op: "write",
                signal: None,
                path: None,
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
        let (Some(facts), Some(device)) = (self.facts(id), self.device(id)) else {
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
            "read" => Operation::Read(body.path()?),
            "discover" => Operation::Discover(body.path()?),
            "observe" => Operation::Observe(body.path()?),
            "cancel-observe" => Operation::CancelObserve(body.path()?),
            "execute" => {
                let path = if body.bare.is_some() {
                    body.path()?
                } else {
                    Body {
                        bare: None,
                        ..body.clone()
                    }
                    .path()?
                };
                let arguments = if body.bare.is_some() {
                    String::new()
                } else {
                    body.execute_arguments()?
                };
                Operation::Execute(path, arguments)
            }
            "write" => self.understand_write(id, body)?,
            "write-attributes" => Operation::WriteAttributes(body.path()?, parse_attributes(body)?),
            "read-composite" | "write-composite" | "create" | "delete" => {
                return Err(CommandError::new(
                    ErrorKind::UnknownCommand,
                    format!("{operation} is not built in this version"),
                ));
            }
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
        let registration = self.server.registration(id);
        let data_type = |path: &Path| {
            let (object, resource) = (path.object_id()?, path.resource_id()?);
            registration?
                .types(&self.models)
                .resource_type(object, resource)?
                .data_type
        };
        let record = |path: Path, json: &Json| {
            let value = from_json(json, data_type(&path)).map_err(|detail| {
                CommandError::new(ErrorKind::Type, format!("{path}: {detail}"))
            })?;
            Ok(Record {
                path,
                value,
                time: None,
            })
        };
        let records = match (body.arguments.get("value"), body.arguments.get("values")) {
            (Some(value), None) => vec![record(path, value)?],
            (None, Some(Json::Object(values))) => {
                let below = |(key, value): (&String, &Json)| {
                    let child = format!("{path}/{key}").parse().map_err(|error| {
                        CommandError::new(ErrorKind::Parse, format!("{path}/{key}: {error}"))
                    })?;
                    record(child, value)
                };
                values.iter().map(below).collect::<Result<_, _>>()?
            }
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

    /// A value as the mapping shows it.
    pub(super) fn mapped(&self, id: DeviceId, record: &Record) -> crate::lwm2m::Value {
        let destination = self.device(id).zip(self.facts(id)).map(|(device, facts)| {
            device
                .profile
                .signal(&device.name, &facts, &record.path, &self.models)
        });
        match destination {
            Some(Destination::Signal(Signal {
                transform: Some(transform),
                ..
            })) => transform.apply(record.value.clone()),
            _ => record.value.clone(),
        }
    }
}

/// `{"path":…,"pmin":10,"st":0.5}`, or the same below `attributes`. `null` unsets.
fn parse_attributes(body: &Body) -> Result<NotificationAttributes, CommandError> {
    let attributes = body
        .arguments
        .get("attributes")
        .and_then(Json::as_object)
        .unwrap_or(&body.arguments);
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
    NotificationAttributes::from_queries(queries.iter().map(String::as_str))
        .map_err(|error| CommandError::new(ErrorKind::Parse, error.to_string()))
}

/// Whether a path lies in an object that holds keys, Security (0) or OSCORE (21). A device refuses
/// them to every server but the one of bootstrap (LwM2M Core 1.1 §E.1), and keys are never on MQTT.
pub(super) fn holds_keys(path: &Path) -> bool {
    matches!(path.object_id(), Some(0 | 21))
}

/// Whether an operation goes with the depth of its path (LwM2M Core 1.1 §6.3, §6.4).
fn check_level(operation: &Operation) -> Result<(), CommandError> {
    let level = operation.path().level();
    let (allowed, wanted) = match operation {
        Operation::Execute(..) => (
            level == Level::Resource,
            "a resource, /object/instance/resource",
        ),
        Operation::Write { .. } => (level >= Level::Instance, "an instance or what is below it"),
        _ => (level >= Level::Object, "an object or what is below it"),
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
