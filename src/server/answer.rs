//! What comes back from a device: the answer to an operation, or why there is none.

use std::fmt;

use super::operation::Operation;
use crate::coap::{Code, Failure, Response};
use crate::lwm2m::codec::{self, Context};
use crate::lwm2m::link::{self, Link};
use crate::lwm2m::{ContentFormat, Id, Path, Record, Target};

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
    /// What a Create made.
    pub created: Option<Path>,
    /// Whether it is a composite operation that was done one node at a time, because the device has
    /// no composite operations. An observation is one for each node then.
    pub single: bool,
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
    NotObserved(Target),
    /// The device cannot do this, by what it registered.
    #[error("{0}")]
    NotOffered(String),
    /// The operation was given up before it was answered.
    #[error("given up")]
    Abandoned,
    /// A composite operation was done one node at a time, because the device has no composite
    /// operations, and came no further.
    #[error(
        "{error}, at {failed}; the device has no composite operations, and {} was done before",
        Listed(done)
    )]
    Partial {
        /// The nodes that it was done at, in order.
        done: Vec<Path>,
        /// Where it failed; what comes after it was not tried.
        failed: Path,
        /// How.
        error: Box<Self>,
    },
}

struct Listed<'a>(&'a [Path]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("nothing"),
            paths => Target::composite(paths.iter().copied()).fmt(f),
        }
    }
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
    /// What went wrong at the device, however much was done before.
    pub fn cause(&self) -> &Self {
        match self {
            Self::Partial { error, .. } => error.cause(),
            _ => self,
        }
    }

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
        Operation::Read(target)
        | Operation::Observe(target, _)
        | Operation::CancelObserve(target) => {
            let asked = matches!(operation, Operation::Observe(..));
            answer.observing = asked && response.observe.is_some();
            answer.problems = decode_values(response, target, context, &mut answer.records)?;
        }
        Operation::Discover(path, depth) => {
            answer.links = link::parse(&response.payload)
                .map_err(|error| OperationError::Undecodable(format!("the links: {error}")))?;
            put_links_at_root(&mut answer.links, context.alternate);
            if let Some(depth) = depth {
                drop_deeper(&mut answer.links, path.ids().len() + usize::from(*depth));
            }
        }
        Operation::Create {
            object, instance, ..
        } => {
            answer.created = created(response, *object, *instance, context.alternate);
        }
        Operation::Write { .. }
        | Operation::WriteComposite(_)
        | Operation::WriteAttributes(..)
        | Operation::Execute(..)
        | Operation::Delete(_) => {}
    }
    Ok(answer)
}

/// Takes the alternate path off the targets of links.
fn put_links_at_root(links: &mut [Link], alternate: Option<&str>) {
    for link in links {
        if let Some(rest) = alternate.and_then(|prefix| link.target.strip_prefix(prefix))
            && (rest.is_empty() || rest.starts_with('/'))
        {
            let root = if rest.is_empty() { "/" } else { rest };
            link.target = root.to_owned();
        }
    }
}

/// Leaves out the links of nodes that lie deeper than this.
fn drop_deeper(links: &mut Vec<Link>, deepest: usize) {
    links.retain(|link| {
        let path = link.target.parse::<Path>();
        path.is_ok_and(|path| path.ids().len() <= deepest)
    });
}

/// The instance that a Create made: what the device says, or else what it was told.
fn created(
    response: &Response,
    object: Id,
    instance: Option<Id>,
    alternate: Option<&str>,
) -> Option<Path> {
    let mut location = vec![Link::new(format!("/{}", response.location.join("/")))];
    put_links_at_root(&mut location, alternate);
    let told = location.first().and_then(|link| link.target.parse().ok());
    let is_ours = |path: &Path| path.object_id() == Some(object) && path.ids().len() == 2;
    told.filter(is_ours)
        .or_else(|| Path::object(object).child(instance?))
}

/// Decodes the values of a response or notification. A payload without Content-Format is text, as
/// LwM2M 1.0 clients send a single resource. Of several nodes, what lies beneath none of them is a
/// problem, as it is of one.
pub fn decode_values(
    response: &Response,
    target: &Target,
    context: &Context<'_>,
    records: &mut Vec<Record>,
) -> Result<Vec<codec::Problem>, OperationError> {
    if response.content_format.is_none() && response.payload.is_empty() {
        return Ok(Vec::new());
    }
    let format = response
        .content_format
        .map_or(ContentFormat::TEXT, ContentFormat);
    let decoded = codec::decode(format, &response.payload, context, records)
        .map_err(|error| OperationError::Undecodable(format!("{format}: {error}")))?;
    let mut problems = decoded.problems;
    records.retain(|record| {
        let is_inside = target.contains(&record.path);
        if !is_inside {
            problems.push(codec::Problem::outside(record.path, target.base()));
        }
        is_inside
    });
    Ok(problems)
}
