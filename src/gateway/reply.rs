//! What is answered to a request (MQTT contract §5).

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value as Json;

use crate::coap::Code;
use crate::lwm2m::model::{Models, Operations};
use crate::lwm2m::{Path, Target};
use crate::server::{Operation, OperationError, Registration};

/// A message about a command. Keys stand in the order of the contract's examples.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Reply<'a> {
    /// The request's id, or one of ours.
    pub id: &'a str,
    /// The device's name.
    pub device: &'a str,
    /// What was asked: `write`, `read`, `execute` …
    pub op: &'a str,
    /// The name of a command of the mapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<&'a str>,
    /// `<inst>/<name>`, if the request named one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<&'a str>,
    /// The node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The nodes of a composite operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paths: Option<Vec<String>>,
    /// Where the command stands.
    pub status: Status,
    /// Whether this is the last word. It is, exactly once.
    #[serde(rename = "final")]
    pub is_final: bool,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<Why>,
    /// When the device is probably heard of next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_wake: Option<String>,
    /// Until when it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Its place among those that wait for this device, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub position: Option<usize>,
    /// The id of the command that took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<&'a str>,
    /// The device's response code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// `single`: a composite operation was done one node at a time, because the device has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback: Option<&'static str>,
    /// Which step of a command failed, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<usize>,
    /// The nodes that something was done at before it came to an end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Vec<String>>,
    /// The instance that a Create made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// `read` or `notify`: how it was seen that the device took what was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed: Option<&'static str>,
    /// The value read, or confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Json>,
    /// The values read, by path, when there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<BTreeMap<String, Json>>,
    /// What a Discover found: attributes by path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<BTreeMap<String, BTreeMap<String, Json>>>,
    /// From the request's arrival to this message, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ms: Option<u64>,
    /// How often it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempts: Option<u32>,
    /// What went wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<CommandError>,
    /// When this was said.
    pub time: String,
}

/// Where a command stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It will be sent.
    #[default]
    Accepted,
    /// It waits for the device, and is stored.
    Queued,
    /// It left for the device.
    Sent,
    /// The device did it.
    Done,
    /// It was not done.
    Failed,
    /// Its time ran out before it was sent.
    Expired,
    /// Somebody withdrew it before it was sent.
    Cancelled,
    /// A newer command writes what it was to write.
    Superseded,
}

/// Why a command waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The device sleeps.
    Asleep,
    /// The device is not registered, or does not answer.
    Offline,
}

impl Status {
    /// Whether nothing can follow.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Accepted | Self::Queued | Self::Sent)
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CommandError {
    /// One of a closed list.
    pub kind: ErrorKind,
    /// The response code, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'static str>,
    /// What, for a person.
    pub detail: String,
    /// Whether repeating the request can help.
    pub retry: bool,
}

/// The kinds of failure that this version knows, out of the contract's closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The request cannot be understood.
    Parse,
    /// No device has this name.
    UnknownDevice,
    /// The device has no such signal.
    UnknownSignal,
    /// There is no such command or operation.
    UnknownCommand,
    /// The resource does not allow it.
    Access,
    /// The value is of the wrong type.
    Type,
    /// The value is out of range.
    Range,
    /// The device sleeps, and the command is not to wait.
    Asleep,
    /// The device cannot be reached, and the command is not to wait.
    Offline,
    /// Too much waits already.
    QueueFull,
    /// The device did not answer.
    Timeout,
    /// The device reset the message.
    Reset,
    /// The device answered with an error.
    Coap,
    /// The device took what was written, and its value did not follow; or the value that a step waits
    /// for did not come.
    Confirm,
    /// The request was retained: nobody knows when it was made.
    Retained,
    /// Another command of this id is under way.
    Duplicate,
    /// The gateway is stopping.
    ShuttingDown,
    /// None of these.
    Internal,
}

impl CommandError {
    /// A request that cannot be understood.
    pub fn parse(detail: impl Into<String>) -> Self {
        Self::new(ErrorKind::Parse, detail)
    }

    /// An error that repeating does not mend.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            text: None,
            detail: detail.into(),
            retry: false,
        }
    }

    /// An error that may be over by the next attempt.
    pub fn passing(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            retry: true,
            ..Self::new(kind, detail)
        }
    }

    /// What the failure of an operation means for the one who asked.
    pub fn from_operation(
        error: &OperationError,
        asked: &Operation,
        registration: Option<&Registration>,
        models: &Models,
    ) -> Self {
        let at = |target| Self::at(error.cause(), asked, &target, registration, models);
        match error {
            OperationError::Partial { failed, .. } => Self {
                detail: error.to_string(),
                ..at(Target::Node(*failed))
            },
            _ => at(asked.target()),
        }
    }

    /// What went wrong at one of the nodes, or at all of them.
    fn at(
        error: &OperationError,
        asked: &Operation,
        target: &Target,
        registration: Option<&Registration>,
        models: &Models,
    ) -> Self {
        let detail = error.to_string();
        match error {
            OperationError::Response { code, diagnostic } => Self {
                kind: ErrorKind::Coap,
                code: Some(code.to_string()),
                text: Some(code.name()),
                detail: explain(*code, diagnostic, asked, target, registration, models),
                retry: code.class() == 5 || *code == Code::REQUEST_ENTITY_INCOMPLETE,
            },
            OperationError::Timeout | OperationError::NoResponse => {
                Self::passing(ErrorKind::Timeout, detail)
            }
            OperationError::Reset => Self::passing(ErrorKind::Reset, detail),
            OperationError::Undecodable(_) | OperationError::Unencodable(_) => {
                Self::new(ErrorKind::Type, detail)
            }
            OperationError::Unregistered => Self::passing(ErrorKind::Offline, detail),
            OperationError::QueueFull => Self::passing(ErrorKind::QueueFull, detail),
            OperationError::NotObserved(_) => Self::new(ErrorKind::UnknownSignal, detail),
            OperationError::NotOffered(_) => Self::new(ErrorKind::UnknownCommand, detail),
            OperationError::Abandoned | OperationError::Partial { .. } => {
                Self::passing(ErrorKind::Internal, detail)
            }
        }
    }
}

/// Says more about a refusal than its code does, where the object definition knows.
fn explain(
    code: Code,
    diagnostic: &str,
    asked: &Operation,
    target: &Target,
    registration: Option<&Registration>,
    models: &Models,
) -> String {
    if !diagnostic.is_empty() {
        return format!("{target}: {diagnostic}");
    }
    match code {
        Code::METHOD_NOT_ALLOWED => target
            .paths()
            .iter()
            .find_map(|path| not_allowed(path, asked, registration, models))
            .unwrap_or_else(|| format!("{target} does not allow {}", asked.name())),
        Code::NOT_FOUND => format!("the device has no {target}"),
        _ => target.to_string(),
    }
}

fn not_allowed(
    path: &Path,
    asked: &Operation,
    registration: Option<&Registration>,
    models: &Models,
) -> Option<String> {
    let (object, resource) = (path.object_id()?, path.resource_id()?);
    let version = registration.and_then(|registration| registration.version_of(object));
    let model = models.object(object, version)?;
    let operations = model.resource(resource)?.operations;
    let (verb, allowed) = match asked {
        Operation::Write { .. } | Operation::WriteComposite(_) => ("writable", operations.write),
        Operation::Execute(..) => ("executable", operations.execute),
        Operation::Read(_) | Operation::Observe(..) => ("readable", operations.read),
        _ => return None,
    };
    // Of several nodes, not one that is as it should be.
    if allowed && asked.target().is_composite() {
        return None;
    }
    let operations = match operations {
        Operations { execute: true, .. } => "E",
        Operations {
            read: true,
            write: true,
            ..
        } => "RW",
        Operations { write: true, .. } => "W",
        _ => "R",
    };
    Some(format!(
        "{path} is not {verb} (object {object} {}: {operations})",
        model.version
    ))
}
