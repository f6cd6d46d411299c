//! What can be wrong with a payload.

use std::borrow::Cow;

use super::{ContentFormat, MAX_RECORDS};
use crate::lwm2m::path::{Path, PathError};
use crate::lwm2m::value::{DataType, Value};

/// What became of a payload that could be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "values may have been left out"]
pub struct Decoded {
    /// Values left out, and why; in the order of the payload.
    pub problems: Vec<Problem>,
}

impl Decoded {
    /// For those who want all values or none, as a Write or a Send does.
    ///
    /// # Errors
    ///
    /// The first problem, if there is one.
    pub fn complete(self) -> Result<(), DecodeError> {
        match self.problems.into_iter().next() {
            None => Ok(()),
            Some(problem) => Err(problem.into()),
        }
    }
}

/// A value that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {detail}")]
pub struct Problem {
    /// Where the value is.
    pub path: Path,
    /// What is wrong with it.
    pub detail: Detail,
}

/// What is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Detail {
    /// It is not of the resource's type, or not in the range of that type.
    #[error("{found} is no {expected}")]
    Type {
        /// The type of the resource.
        expected: DataType,
        /// The value, shortened.
        found: String,
    },
    /// A number is NaN or infinite.
    #[error("the number is not finite")]
    NotFinite,
    /// The record has no value.
    #[error("there is no value")]
    NoValue,
    /// A value stands at an object or an instance.
    #[error("only resources have values")]
    NoResource,
    /// A null that would delete is not at a resource instance.
    #[error("only resource instances can be deleted")]
    Undeletable,
    /// The name of the record is not a path; the problem stands at the path of the request.
    #[error("the name {name:?} is no path: {reason}")]
    Name {
        /// The name with its base name, shortened.
        name: String,
        /// Why not.
        reason: PathError,
    },
    /// A record breaks the rules of its format, in a way that leaves the others readable.
    #[error("the field {label:?} {reason}")]
    Field {
        /// The label, shortened.
        label: String,
        /// Which rule.
        reason: &'static str,
    },
    /// What lies behind a gateway has its prefix before the path (LwM2M Gateway 1.1 §10).
    #[error("it lies behind {prefix:?}, a device of its own")]
    Behind {
        /// The prefix, shortened.
        prefix: String,
    },
    /// The path is not beneath the one that was asked for.
    #[error("it is not beneath {base}")]
    Outside {
        /// The path that was asked for.
        base: Path,
    },
}

/// Why a payload cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// There is no decoder for it.
    #[error("{0} is not supported")]
    Unsupported(ContentFormat),
    /// It ends too early.
    #[error("the payload is cut off at byte {offset}")]
    Truncated {
        /// Where something begins that is not all there.
        offset: usize,
    },
    /// It breaks the rules of its format.
    #[error("byte {offset}: {reason}")]
    Malformed {
        /// Where, from 0.
        offset: usize,
        /// Which rule.
        reason: Cow<'static, str>,
    },
    /// It is not JSON, or not SenML in JSON.
    #[error("{0}")]
    Json(String),
    /// A name is not a path.
    #[error("the name {name:?} is no path: {reason}")]
    Name {
        /// The name with its base name, shortened.
        name: String,
        /// Why not.
        reason: PathError,
    },
    /// A payload of one value came for something that is not a resource.
    #[error("{format} is for one resource, and {base} is none")]
    Single {
        /// The format.
        format: ContentFormat,
        /// What was asked for.
        base: Path,
    },
    /// A path is there twice, in a format that holds each once.
    #[error("{0} is there twice")]
    Twice(Path),
    /// It has more than [`MAX_RECORDS`] records.
    #[error("the payload has more than {MAX_RECORDS} records")]
    TooMany,
    /// One value is not what it should be, and all are wanted.
    #[error(transparent)]
    Value(#[from] Problem),
}

/// Why records do not fit a format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There is no encoder for it.
    #[error("{0} cannot be written")]
    Unsupported(ContentFormat),
    /// The format has room for one value, of the path of the request.
    #[error("{0} carries the value of one resource")]
    Single(ContentFormat),
    /// The format has only opaque values.
    #[error("{path}: opaque carries bytes only, not {found}")]
    Opaque {
        /// The resource.
        path: Path,
        /// The value, shortened.
        found: String,
    },
    /// The format holds each path once.
    #[error("{path} is there twice, which {format} cannot carry")]
    Twice {
        /// The path.
        path: Path,
        /// The format.
        format: ContentFormat,
    },
    /// The format has no null, which would delete.
    #[error("{0} cannot delete")]
    Deletes(ContentFormat),
    /// The format needs the Object ID from the request.
    #[error("{0} cannot carry several objects")]
    Objects(ContentFormat),
    /// A text or a number of bytes is longer than the format allows.
    #[error("{path}: the value is longer than {format} allows")]
    TooLong {
        /// The path.
        path: Path,
        /// The format.
        format: ContentFormat,
    },
    /// A text cannot be written in JSON.
    #[error("cannot be written in JSON: {0}")]
    Json(String),
    /// A value is not what it should be.
    #[error(transparent)]
    Value(#[from] Problem),
}

impl Problem {
    pub(super) fn not_a(path: Path, expected: DataType, found: String) -> Self {
        let detail = Detail::Type { expected, found };
        Self { path, detail }
    }

    pub(super) const fn not_finite(path: Path) -> Self {
        let detail = Detail::NotFinite;
        Self { path, detail }
    }

    pub(super) const fn no_value(path: Path) -> Self {
        let detail = Detail::NoValue;
        Self { path, detail }
    }

    pub(super) const fn no_resource(path: Path) -> Self {
        let detail = Detail::NoResource;
        Self { path, detail }
    }

    pub(super) const fn undeletable(path: Path) -> Self {
        let detail = Detail::Undeletable;
        Self { path, detail }
    }

    pub(crate) const fn outside(path: Path, base: Path) -> Self {
        let detail = Detail::Outside { base };
        Self { path, detail }
    }
}

impl Detail {
    pub(super) fn name(name: &str, reason: PathError) -> Self {
        let name = shortened(name).into_owned();
        Self::Name { name, reason }
    }

    pub(super) fn field(label: &str, reason: &'static str) -> Self {
        let label = shortened(label).into_owned();
        Self::Field { label, reason }
    }
}

impl DecodeError {
    pub(super) fn malformed(offset: usize, reason: impl Into<Cow<'static, str>>) -> Self {
        let reason = reason.into();
        Self::Malformed { offset, reason }
    }

    pub(super) fn name(name: &str, reason: PathError) -> Self {
        let name = shortened(name).into_owned();
        Self::Name { name, reason }
    }
}

/// A value in a few words for an error message.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) | Value::CoreLink(text) => format!("the text {:?}", shortened(text)),
        Value::Integer(number) | Value::Time(number) => format!("the number {number}"),
        Value::UnsignedInteger(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number:?}"),
        Value::Boolean(value) => format!("the boolean {value}"),
        Value::Opaque(bytes) => format!("a value of {} bytes", bytes.len()),
        Value::ObjectLink(link) => format!("the link {link}"),
    }
}

/// The beginning of a text, so that an error stays short whatever a device sends.
pub(super) fn shortened(text: &str) -> Cow<'_, str> {
    const MAX: usize = 48;
    match text.char_indices().nth(MAX) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}
