//! The birth message of a device (MQTT contract §4): enough to build a user interface from.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::gateway::Gateway;
use crate::gateway::device::About;
use crate::gateway::json::to_json;
use crate::gateway::problems::Problem;
use crate::gateway::publish::Publish;
use crate::kept::Urgency;
use crate::lwm2m::{DataType, RegisteredObject, Version};
use crate::mapping::{Command, Destination};
use crate::server::DeviceId;
use crate::time::Now;

/// How long a birth waits for more news, so that a device that comes with twenty signals is born
/// twice and not twenty times.
const BIRTH_DELAY: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Birth<'a> {
    name: &'a str,
    endpoint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    registration: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lwm2m: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile_hash: Option<&'a str>,
    info: &'a About,
    objects: BTreeMap<u16, String>,
    signals: BTreeMap<String, SignalBirth<'a>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    commands: BTreeMap<&'a str, CommandBirth<'a>>,
    #[serde(skip_serializing_if = "<[Problem]>::is_empty")]
    problems: &'a [Problem],
}

#[derive(Serialize)]
struct SignalBirth<'a> {
    path: String,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    data_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    access: &'static str,
    kind: &'static str,
    topic: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<Json>,
}

#[derive(Serialize)]
struct CommandBirth<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    params: BTreeMap<&'a str, ParameterBirth>,
}

#[derive(Serialize)]
struct ParameterBirth {
    #[serde(rename = "type")]
    data_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    min: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max: Option<Json>,
    #[serde(rename = "enum", skip_serializing_if = "Vec::is_empty")]
    choices: Vec<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default: Option<Json>,
}

impl CommandBirth<'_> {
    fn of(command: &Command) -> CommandBirth<'_> {
        let parameters = command.parameters.iter().map(|(name, parameter)| {
            let birth = ParameterBirth {
                data_type: parameter.type_name(),
                min: parameter.min.map(number),
                max: parameter.max.map(number),
                choices: parameter.choices.iter().map(to_json).collect(),
                default: parameter.default.as_ref().map(to_json),
            };
            (name.as_str(), birth)
        });
        CommandBirth {
            params: parameters.collect(),
        }
    }
}

/// A number as its author wrote it: 10, and not 10.0.
fn number(number: f64) -> Json {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match number.fract() == 0.0 && number.abs() <= EXACT {
        true => Json::from(number as i64),
        false => Json::from(number),
    }
}

impl Gateway {
    /// The birth message of a device as it is now. Its signals are those that have shown a value.
    pub(super) fn birth_of(&self, id: DeviceId) -> Option<Publish> {
        let device = self.device(id).filter(|device| !device.removed)?;
        let registration = self.server.registration(id);
        let objects = registration.map_or_else(BTreeMap::new, |registration| {
            let version = |object: &RegisteredObject| {
                object
                    .version
                    .unwrap_or_else(|| Version::implied(object.id, registration.version))
                    .to_string()
            };
            let objects = registration.objects.objects.iter();
            objects.map(|object| (object.id, version(object))).collect()
        });
        let signals = device.signals.iter().filter_map(|tracked| {
            let Destination::Signal(signal) = &tracked.destination else {
                return None;
            };
            let (min, max) = signal.bounds();
            let rules = signal.write.as_ref().filter(|_| signal.access.write);
            let bound = |bound: Option<f64>| bound.filter(|_| signal.access.write).map(number);
            let birth = SignalBirth {
                min: bound(min),
                max: bound(max),
                step: rules.and_then(|rules| rules.step).map(number),
                path: signal.path.to_string(),
                data_type: signal
                    .transform
                    .as_ref()
                    .and_then(|transform| transform.shows())
                    .or(signal.data_type.map(type_name)),
                unit: signal.unit.as_deref(),
                access: match (signal.access.read, signal.access.write) {
                    (true, true) => "rw",
                    (false, true) => "w",
                    _ => "r",
                },
                kind: signal.kind.name(),
                topic: &signal.topic,
            };
            Some((format!("{}/{}", signal.instance, signal.name), birth))
        });
        let birth = Birth {
            name: &device.name,
            endpoint: self.server.endpoint_name(id)?,
            registration: registration.map(|registration| &*registration.location),
            lwm2m: registration.map(|registration| registration.version.to_string()),
            profile: device.profile.id(),
            profile_hash: device.profile.id().map(|_| device.profile.hash()),
            info: &device.about,
            objects,
            signals: signals.collect(),
            commands: device
                .profile
                .commands()
                .map(|(name, command)| (name, CommandBirth::of(command)))
                .collect(),
            problems: &device.problems,
        };
        Some(Publish::state(
            self.topics.birth(&device.name),
            serde_json::to_vec(&birth).ok()?,
        ))
    }

    pub(super) fn birth_later(&mut self, now: Now, id: DeviceId) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        if device.birth_due.is_none() {
            let due = now.instant + BIRTH_DELAY;
            device.birth_due = Some(due);
            self.births.insert((due, id));
        }
    }

    pub(super) fn publish_due_births(&mut self, now: Now) {
        while let Some((due, id)) = self
            .births
            .first()
            .copied()
            .filter(|(due, _)| *due <= now.instant)
        {
            self.births.remove(&(due, id));
            if let Some(device) = self.device_mut(id) {
                device.birth_due = None;
            }
            self.publish_birth(id);
        }
    }

    /// Publishes a birth message, unless the one that stands says the same. Of that one a hash is
    /// kept: births are the largest messages there are. A device could not make two that have the
    /// same one.
    pub(super) fn publish_birth(&mut self, id: DeviceId) {
        let Some(publish) = self.birth_of(id) else {
            return;
        };
        let hash = hash(&publish.payload);
        let Some(device) = self.device_mut(id) else {
            return;
        };
        if device.birth.replace(hash) != Some(hash) {
            self.publish(publish);
            self.keep_descriptor(id, Urgency::Soon);
        }
    }
}

/// The first bytes of a SHA-256: the same in each process.
fn hash(payload: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(payload).into();
    digest
        .iter()
        .take(8)
        .fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

const fn type_name(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String => "string",
        DataType::Integer => "integer",
        DataType::UnsignedInteger => "unsigned",
        DataType::Float => "float",
        DataType::Boolean => "boolean",
        DataType::Opaque => "opaque",
        DataType::Time => "time",
        DataType::ObjectLink => "objlnk",
        DataType::CoreLink => "corelnk",
    }
}
