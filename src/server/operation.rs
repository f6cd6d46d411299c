//! Operations on a device: what goes out as a request, and what its response says
//! (LwM2M Core 1.1 §6.3, §6.4; Transport 1.1 §6.4).

use crate::coap::{Code, Failure, Observe, Request, Response};
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::codec::{self, Context, EncodeError, ResourceTypes};
use crate::lwm2m::link::{self, Link};
use crate::lwm2m::{ContentFormat, Level, Path, Record};

/// Something that the server asks of a device.
#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    /// Read an object, instance, resource or resource instance.
    Read(Path),
    /// Write below a path. `replace` is PUT, and drops what is not written; otherwise POST, the
    /// partial update of an instance.
    Write {
        /// The target of the request; the records lie at or below it.
        path: Path,
        /// What to write.
        records: Vec<Record>,
        /// Replace instead of update.
        replace: bool,
    },
    /// Attach notification attributes.
    WriteAttributes(Path, NotificationAttributes),
    /// Execute a resource, with arguments in the syntax of LwM2M Core 1.1 §6.3.5 or none.
    Execute(Path, String),
    /// List what is below a path, with its attributes.
    Discover(Path),
    /// Begin to observe.
    Observe(Path),
    /// End an observation.
    CancelObserve(Path),
}

impl Operation {
    /// What the operation is about.
    pub const fn path(&self) -> &Path {
        match self {
            Self::Read(path)
            | Self::Write { path, .. }
            | Self::WriteAttributes(path, _)
            | Self::Execute(path, _)
            | Self::Discover(path)
            | Self::Observe(path)
            | Self::CancelObserve(path) => path,
        }
    }

    /// The operation's name on MQTT.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Read(_) => "read",
            Self::Write { .. } => "write",
            Self::WriteAttributes(..) => "write-attributes",
            Self::Execute(..) => "execute",
            Self::Discover(_) => "discover",
            Self::Observe(_) => "observe",
            Self::CancelObserve(_) => "cancel-observe",
        }
    }

    /// Whether the outcome depends on a Content-Format, so that another is worth a try.
    pub const fn has_format(&self) -> bool {
        matches!(self, Self::Read(_) | Self::Write { .. } | Self::Observe(_))
    }

    /// Whether it is about one value, as formats without structure carry it: that of a resource
    /// instance, or of a resource that is not known to have several.
    pub fn is_single(&self, types: &dyn ResourceTypes) -> bool {
        let path = self.path();
        let is_one = match *path.ids() {
            [object, _, resource] => types
                .resource_type(object, resource)
                .is_none_or(|resource| !resource.multiple),
            _ => path.level() == Level::ResourceInstance,
        };
        is_one
            && match self {
                Self::Write { records, .. } => {
                    matches!(&records[..], [record] if record.path == *path)
                }
                _ => true,
            }
    }

    /// The request for this operation, in `format` where it needs one.
    pub fn to_request(
        &self,
        format: Option<ContentFormat>,
        context: &Context<'_>,
    ) -> Result<Request, EncodeError> {
        let segments = segments(context.alternate, self.path());
        let number = format.map(|format| format.0);
        let request = |method| Request::new(method, segments);
        Ok(match self {
            Self::Read(_) => Request {
                accept: number,
                ..request(Code::GET)
            },
            Self::Observe(_) => Request {
                accept: number,
                observe: Some(Observe::Register),
                ..request(Code::GET)
            },
            Self::CancelObserve(_) => Request {
                observe: Some(Observe::Deregister),
                ..request(Code::GET)
            },
            Self::Discover(_) => Request {
                accept: Some(ContentFormat::LINK_FORMAT.0),
                ..request(Code::GET)
            },
            Self::Write {
                records, replace, ..
            } => Request {
                content_format: number,
                payload: codec::encode(format.unwrap_or(ContentFormat::TEXT), records, context)?,
                ..request(if *replace { Code::PUT } else { Code::POST })
            },
            Self::WriteAttributes(_, attributes) => Request {
                query: attributes.to_queries(),
                ..request(Code::PUT)
            },
            Self::Execute(_, arguments) => Request {
                content_format: (!arguments.is_empty()).then_some(ContentFormat::TEXT.0),
                payload: arguments.clone().into_bytes(),
                ..request(Code::POST)
            },
        })
    }
}

/// Uri-Path of a node, below the alternate path if the device has one.
pub(super) fn segments(alternate: Option<&str>, path: &Path) -> Vec<String> {
    let root = alternate
        .unwrap_or_default()
        .split('/')
        .filter(|segment| !segment.is_empty());
    root.map(str::to_owned)
        .chain(path.ids().iter().map(ToString::to_string))
        .collect()
}

/// What a successful operation brought.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The response code, 2.xx; [`Code::EMPTY`] before there is one.
    pub code: Option<Code>,
    /// Values, of a Read or Observe.
    pub records: Vec<Record>,
    /// What of the payload could not be taken, each with its place.
    pub problems: Vec<codec::Problem>,
    /// Links, of a Discover.
    pub links: Vec<Link>,
    /// Whether an observation stands now.
    pub observing: bool,
}

/// Why an operation failed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum OperationError {
    /// The device answered with an error.
    #[error("{code:?}{}{diagnostic}", if diagnostic.is_empty() { "" } else { ": " })]
    Response {
        /// 4.xx or 5.xx.
        code: Code,
        /// The diagnostic payload, if there was one.
        diagnostic: String,
    },
    /// The device did not answer.
    #[error("the device does not answer")]
    Timeout,
    /// The device acknowledged the request, and then did not answer it.
    #[error("the device acknowledged the request, but does not answer it")]
    NoResponse,
    /// The device reset the request.
    #[error("the device refused the message (Reset)")]
    Reset,
    /// The answer could not be understood.
    #[error("{0}")]
    Undecodable(String),
    /// The value cannot be written in any format the device takes.
    #[error("{0}")]
    Unencodable(String),
    /// The device went away, or registered anew, before it was asked.
    #[error("the device is not registered")]
    Unregistered,
    /// Too many operations wait for this device.
    #[error("too many operations wait for this device")]
    QueueFull,
    /// There is no such observation.
    #[error("{0} is not observed")]
    NotObserved(Path),
    /// The device cannot do this, by what it registered.
    #[error("{0}")]
    NotOffered(String),
    /// The operation was given up before it was answered.
    #[error("given up")]
    Abandoned,
}

impl From<Failure> for OperationError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Timeout => Self::Timeout,
            Failure::NoResponse => Self::NoResponse,
            Failure::Reset => Self::Reset,
            Failure::Blockwise => {
                Self::Undecodable("the block-wise transfer of the answer failed".to_owned())
            }
            Failure::Abandoned => Self::Abandoned,
        }
    }
}

/// The longest diagnostic payload that is kept, in bytes.
const DIAGNOSTIC_MAX: usize = 256;

impl OperationError {
    /// The error that a response of class 4 or 5 means.
    pub fn from_response(response: &Response) -> Self {
        let bytes = response
            .payload
            .get(..DIAGNOSTIC_MAX)
            .unwrap_or(&response.payload);
        let diagnostic = String::from_utf8_lossy(bytes)
            .chars()
            .filter(|character| !character.is_control())
            .collect();
        Self::Response {
            code: response.code,
            diagnostic,
        }
    }
}

/// Reads the response to an operation. The payload is decoded by the Content-Format that it says
/// it has, whatever was asked for (pitfall: every client has a default of its own).
pub fn read_response(
    operation: &Operation,
    response: &Response,
    context: &Context<'_>,
) -> Result<Answer, OperationError> {
    if !response.code.is_success() {
        return Err(OperationError::from_response(response));
    }
    let mut answer = Answer {
        code: Some(response.code),
        ..Answer::default()
    };
    match operation {
        Operation::Read(_) | Operation::Observe(_) | Operation::CancelObserve(_) => {
            answer.observing =
                matches!(operation, Operation::Observe(_)) && response.observe.is_some();
            answer.problems = decode_values(response, context, &mut answer.records)?;
        }
        Operation::Discover(_) => {
            answer.links = link::parse(&response.payload)
                .map_err(|error| OperationError::Undecodable(format!("the links: {error}")))?;
        }
        Operation::Write { .. } | Operation::WriteAttributes(..) | Operation::Execute(..) => {}
    }
    Ok(answer)
}

/// Decodes the values of a response or notification. A payload without Content-Format is text, as
/// LwM2M 1.0 clients send a single resource.
pub fn decode_values(
    response: &Response,
    context: &Context<'_>,
    records: &mut Vec<Record>,
) -> Result<Vec<codec::Problem>, OperationError> {
    if response.content_format.is_none() && response.payload.is_empty() {
        return Ok(Vec::new());
    }
    let format = response
        .content_format
        .map_or(ContentFormat::TEXT, ContentFormat);
    codec::decode(format, &response.payload, context, records)
        .map(|decoded| decoded.problems)
        .map_err(|error| OperationError::Undecodable(format!("{format}: {error}")))
}
