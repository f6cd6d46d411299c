//! `do/<command>`: what a command of the mapping, or an executable resource, comes to for one
//! request (MQTT contract §5).

use std::collections::{BTreeMap, VecDeque};

use serde_json::Value as Json;

use crate::diagnostic::suggestion;
use crate::gateway::Gateway;
use crate::gateway::command::{Await, Awaited, Body, By, Step};
use crate::gateway::json::{from_json, to_json};
use crate::gateway::reply::{CommandError, ErrorKind};
use crate::gateway::understand::{Ask, Turn};
use crate::lwm2m::codec::Change;
use crate::lwm2m::{Arguments, Path, Target, Value};
use crate::mapping::{self, Content, DeviceFacts, Field, Part, Placeholder, Profile, QueueKind};
use crate::server::{DeviceId, Operation};
use crate::time::UnixTime;

/// What the placeholders of one run stand for.
pub(super) struct Filling<'a> {
    pub(super) now: UnixTime,
    pub(super) parameters: BTreeMap<&'a str, Value>,
    pub(super) base: &'a str,
    pub(super) device: &'a str,
    pub(super) endpoint: &'a str,
    pub(super) profile: &'a Profile,
}

impl Gateway {
    /// `do/<command>`: a command of the mapping, or an executable resource by its name.
    pub(super) fn understand_do(
        &self,
        now: UnixTime,
        id: DeviceId,
        name: &str,
        body: &Body,
    ) -> Result<Ask, CommandError> {
        let unknown = || {
            CommandError::new(
                ErrorKind::UnknownCommand,
                format!("there is no command {name}"),
            )
        };
        let (Some(facts), Some(device)) = (DeviceFacts::of(&self.server, id), self.device(id))
        else {
            return Err(CommandError::passing(
                ErrorKind::Offline,
                "the device is not registered",
            ));
        };
        let Some(command) = device.profile.command(name) else {
            let (instance, resource) = name.split_once('/').ok_or_else(unknown)?;
            let path = device
                .profile
                .path_of(&facts, instance, resource, &self.models)
                .ok_or_else(unknown)?;
            return Ok(Ask::one(
                None,
                Operation::Execute(path, body.execute_arguments()?),
            ));
        };
        let filling = Filling {
            now,
            parameters: parameters(name, command, body)?,
            base: &self.settings.base_topic,
            device: &device.name,
            endpoint: facts.endpoint,
            profile: &device.profile,
        };
        let mut steps = command
            .steps
            .iter()
            .map(|step| self.step(id, step, &filling, body))
            .collect::<Result<VecDeque<_>, _>>()?;
        if command.atomic && steps.len() > 1 {
            steps = VecDeque::from([Step::Ask(together(steps))]);
        }
        let (op, target) = match &steps.make_contiguous()[..] {
            [Step::Ask(operation)] => (operation.name(), Some(operation.target())),
            _ => ("do", None),
        };
        Ok(Ask {
            op,
            command: Some(name.to_owned()),
            signal: None,
            target,
            steps,
            turn: Turn::new(QueueKind::Fifo, command.waits),
        })
    }

    /// One step of a command, for this run of it.
    pub(super) fn step(
        &self,
        id: DeviceId,
        step: &mapping::Step,
        filling: &Filling<'_>,
        body: &Body,
    ) -> Result<Step, CommandError> {
        Ok(match step {
            mapping::Step::Write { path, content } => {
                let record = self.record(id, *path, &filling.json(content))?;
                Step::Ask(Operation::Write {
                    path: *path,
                    records: vec![record],
                    replace: true,
                })
            }
            mapping::Step::Execute { path, arguments } => {
                let arguments = match arguments {
                    None => body.execute_arguments()?,
                    Some(content) => filling.arguments(path, content)?,
                };
                Step::Ask(Operation::Execute(*path, arguments))
            }
            mapping::Step::Read(path) => Step::Ask(Operation::Read(Target::Node(*path))),
            mapping::Step::Wait {
                path,
                until,
                timeout,
            } => Step::Await(Await {
                path: *path,
                wanted: Awaited::Holds(until.clone()),
                by: By::Either,
                timeout: *timeout,
            }),
        })
    }
}

/// Writes as one operation.
fn together(steps: VecDeque<Step>) -> Operation {
    let changes = steps.into_iter().flat_map(|step| match step {
        Step::Ask(Operation::Write { records, .. }) => records,
        _ => Vec::new(),
    });
    Operation::WriteComposite(
        changes
            .map(|record| Change {
                path: record.path,
                value: Some(record.value),
            })
            .collect(),
    )
}

/// The parameters that a request gives, each checked, and those that it leaves out.
fn parameters<'a>(
    name: &str,
    command: &'a mapping::Command,
    body: &Body,
) -> Result<BTreeMap<&'a str, Value>, CommandError> {
    let known = &command.parameters;
    let takes_arguments = command.steps.iter().any(|step| {
        matches!(
            step,
            mapping::Step::Execute {
                arguments: None,
                ..
            }
        )
    });
    let unknown = |key: &str| {
        let names: Vec<&str> = known.iter().map(|(name, _)| name.as_str()).collect();
        let hint = match names.is_empty() {
            true => "it has none".to_owned(),
            false => suggestion(key, &names),
        };
        CommandError::parse(format!("{name} has no parameter `{key}`: {hint}"))
    };
    for key in body.arguments.keys() {
        let is_known = known.iter().any(|(name, _)| name == key);
        let is_argument = takes_arguments && key == "args";
        if !(is_known || is_argument) {
            return Err(unknown(key));
        }
    }
    let takes_bare = known.len() == 1 || takes_arguments && known.is_empty();
    if let Some(bare) = body.bare.as_ref().filter(|_| !takes_bare) {
        return Err(CommandError::parse(format!(
            "{name} needs a JSON object with its parameters, not {bare}"
        )));
    }
    let mut values = BTreeMap::new();
    for (key, parameter) in known {
        let given = body.arguments.get(key).or(body.bare.as_ref());
        let value = match (given, &parameter.default) {
            (Some(json), _) => from_json(json, Some(parameter.data_type))
                .map_err(|detail| CommandError::new(ErrorKind::Type, format!("{key}: {detail}")))?,
            (None, Some(default)) => default.clone(),
            (None, None) => {
                return Err(CommandError::parse(format!("{name} needs `{key}`")));
            }
        };
        parameter.check(&value).map_err(|error| {
            CommandError::new(ErrorKind::Range, format!("{error} of {key} of {name}"))
        })?;
        values.insert(key.as_str(), value);
    }
    Ok(values)
}

impl Filling<'_> {
    /// What is written, as somebody might have asked for it.
    fn json(&self, content: &Content) -> Json {
        match content {
            Content::Value(value) => to_json(value),
            Content::Filled(placeholder) => self.placeholder(placeholder),
            Content::Text(_) => Json::String(self.text(content)),
        }
    }

    fn placeholder(&self, placeholder: &Placeholder) -> Json {
        match placeholder {
            Placeholder::Parameter(name) => self
                .parameters
                .get(name.as_str())
                .map_or(Json::Null, to_json),
            Placeholder::Now => Json::from(self.now.as_millis().div_euclid(1_000)),
            Placeholder::Device(Field::Base) => self.base.into(),
            Placeholder::Device(Field::Device) => self.device.into(),
            Placeholder::Device(field) => self.profile.device_field(*field, self.endpoint).into(),
        }
    }

    /// The same as text.
    fn text(&self, content: &Content) -> String {
        let text = |json| match json {
            Json::String(text) => text,
            other => other.to_string(),
        };
        match content {
            Content::Text(parts) => parts
                .iter()
                .map(|part| match part {
                    Part::Literal(literal) => literal.clone(),
                    Part::Filled(placeholder) => text(self.placeholder(placeholder)),
                })
                .collect(),
            other => text(self.json(other)),
        }
    }

    fn arguments(&self, path: &Path, content: &Content) -> Result<Arguments, CommandError> {
        let text = self.text(content);
        Arguments::parse(&text).ok_or_else(|| {
            CommandError::new(
                ErrorKind::Type,
                format!(
                    "{path} cannot be given {text}: arguments hold no space, quotation mark or backslash"
                ),
            )
        })
    }
}
