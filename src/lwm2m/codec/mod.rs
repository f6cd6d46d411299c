//! Payload formats, one file each (LwM2M Core 1.1 §7.4).
//!
//! [`decode`] makes records of a payload, [`encode`] a payload of records, in both directions: an
//! answer to a Read and the payload of a Write look the same. What a payload leaves open, the
//! [`Context`] knows: the path of the request, the types of resources, the time.
//!
//! A payload as a whole may be unreadable ([`DecodeError`]); or it is readable and a value in it
//! is not what the resource should have ([`Problem`]), and then the others still count.

mod cbor;
mod error;
mod opaque;
mod senml;
mod senml_cbor;
mod senml_json;
mod text;
mod tlv;

use std::borrow::Cow;
use std::fmt;

pub use crate::lwm2m::model::{ResourceType, ResourceTypes};
pub use error::{DecodeError, Decoded, Detail, EncodeError, Problem};

use crate::lwm2m::path::{Level, Path};
use crate::lwm2m::value::{DataType, Record, Value};
use crate::time::UnixTime;

/// The most records that one payload may have.
pub const MAX_RECORDS: usize = 16_384;

/// A Content-Format identifier (RFC 7252 §12.3; the OMA's in LwM2M Core 1.1 §7.4).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentFormat(pub u16);

impl ContentFormat {
    /// `text/plain`, for one resource.
    pub const TEXT: Self = Self(0);
    /// `application/link-format`, see [`crate::lwm2m::link`].
    pub const LINK_FORMAT: Self = Self(40);
    /// `application/octet-stream`, for one Opaque resource.
    pub const OPAQUE: Self = Self(42);
    /// `application/cbor`, for one resource.
    pub const CBOR: Self = Self(60);
    /// `application/senml+json`
    pub const SENML_JSON: Self = Self(110);
    /// `application/senml+cbor`
    pub const SENML_CBOR: Self = Self(112);
    /// `application/vnd.oma.lwm2m+tlv`
    pub const TLV: Self = Self(11542);
    /// `application/vnd.oma.lwm2m+json`, of LwM2M 1.0.
    pub const OMA_JSON: Self = Self(11543);
    /// `application/vnd.oma.lwm2m+cbor`, since LwM2M 1.2.
    pub const LWM2M_CBOR: Self = Self(11544);

    /// The number in use for one of the numbers used before there were registered ones.
    const fn current(self) -> Self {
        match self.0 {
            1541 => Self::TEXT,
            1542 => Self::TLV,
            1543 => Self::OMA_JSON,
            _ => self,
        }
    }
}

impl fmt::Display for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TEXT => f.write_str("text"),
            Self::LINK_FORMAT => f.write_str("link-format"),
            Self::OPAQUE => f.write_str("opaque"),
            Self::CBOR => f.write_str("CBOR"),
            Self::SENML_JSON => f.write_str("SenML JSON"),
            Self::SENML_CBOR => f.write_str("SenML CBOR"),
            Self::TLV => f.write_str("TLV"),
            Self::OMA_JSON => f.write_str("OMA JSON"),
            Self::LWM2M_CBOR => f.write_str("LwM2M CBOR"),
            Self(number) => write!(f, "content format {number}"),
        }
    }
}

impl fmt::Debug for ContentFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a payload leaves open.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// The path of the request; the root for Send and composite operations.
    pub base: Path,
    /// The alternate path that the device registered, `/lwm2m`: it stands before each name.
    pub alternate: Option<&'a str>,
    /// What relative times count from.
    pub now: UnixTime,
    /// The types of resources on this device.
    pub types: &'a dyn ResourceTypes,
}

impl Context<'_> {
    fn resource_type(&self, path: &Path) -> Option<ResourceType> {
        self.types
            .resource_type(path.object_id()?, path.resource_id()?)
    }

    fn data_type(&self, path: &Path) -> Option<DataType> {
        self.resource_type(path)?.data_type
    }
}

/// Whether [`decode`] and [`encode`] know the format.
pub fn can_decode(format: ContentFormat) -> bool {
    matches!(
        format.current(),
        ContentFormat::TEXT
            | ContentFormat::OPAQUE
            | ContentFormat::CBOR
            | ContentFormat::SENML_JSON
            | ContentFormat::SENML_CBOR
            | ContentFormat::TLV
    )
}

/// Appends the records of a payload to `records`, in the order of the payload.
///
/// The numbers 1541 and 1542 that devices used before LwM2M 1.0 are accepted. An empty payload
/// in a format for several resources has no records.
///
/// # Errors
///
/// When the payload as a whole cannot be read; `records` is as it was then. What is wrong with
/// single values stands in [`Decoded::problems`].
pub fn decode(
    format: ContentFormat,
    payload: &[u8],
    context: &Context<'_>,
    records: &mut Vec<Record>,
) -> Result<Decoded, DecodeError> {
    let before = records.len();
    let mut sink = Sink {
        context,
        left: MAX_RECORDS,
        records,
        problems: Vec::new(),
    };
    let result = match format.current() {
        ContentFormat::TEXT => text::decode(payload, &mut sink),
        ContentFormat::OPAQUE => opaque::decode(payload, &mut sink),
        ContentFormat::CBOR => cbor::decode(payload, &mut sink),
        ContentFormat::SENML_JSON => senml_json::decode(payload, &mut sink),
        ContentFormat::SENML_CBOR => senml_cbor::decode(payload, &mut sink),
        ContentFormat::TLV => tlv::decode(payload, &mut sink),
        _ => Err(DecodeError::Unsupported(format)),
    };
    let problems = sink.problems;
    if let Err(error) = result {
        records.truncate(before);
        return Err(error);
    }
    Ok(Decoded { problems })
}

/// A payload with these records.
///
/// Values take the type of their resource first, as [`Value::coerce`] does it. TLV carries no
/// times; they are left out.
///
/// # Errors
///
/// When the format cannot carry the records, or one of them is not beneath `context.base` or has
/// not the type of its resource.
pub fn encode(
    format: ContentFormat,
    records: &[Record],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    if let Some(record) = records.iter().find(|r| !context.base.contains(&r.path)) {
        return Err(Problem::outside(record.path, context.base).into());
    }
    match format {
        ContentFormat::TEXT => text::encode(records, context),
        ContentFormat::OPAQUE => opaque::encode(records, context),
        ContentFormat::CBOR => cbor::encode(records, context),
        ContentFormat::SENML_JSON => senml_json::encode(records, context),
        ContentFormat::SENML_CBOR => senml_cbor::encode(records, context),
        ContentFormat::TLV => tlv::encode(records, context),
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// The paths of a payload without values, as a Read-Composite or an Observe-Composite has it, in
/// SenML JSON or SenML CBOR (LwM2M Core 1.1 §6.4.6). `context.base` and its types play no part.
///
/// # Errors
///
/// When the payload cannot be read, or has values.
pub fn decode_paths(
    format: ContentFormat,
    payload: &[u8],
    context: &Context<'_>,
) -> Result<Vec<Path>, DecodeError> {
    match format {
        ContentFormat::SENML_JSON => senml_json::decode_paths(payload, context.alternate),
        ContentFormat::SENML_CBOR => senml_cbor::decode_paths(payload, context.alternate),
        _ => Err(DecodeError::Unsupported(format)),
    }
}

/// A payload with these paths and no values; see [`decode_paths`].
///
/// # Errors
///
/// When the format is neither SenML JSON nor SenML CBOR.
pub fn encode_paths(
    format: ContentFormat,
    paths: &[Path],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    match format {
        ContentFormat::SENML_JSON => senml_json::encode_paths(paths, context.alternate),
        ContentFormat::SENML_CBOR => Ok(senml_cbor::encode_paths(paths, context.alternate)),
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// Where decoders put what they find.
struct Sink<'a> {
    context: &'a Context<'a>,
    left: usize,
    records: &'a mut Vec<Record>,
    problems: Vec<Problem>,
}

impl Sink<'_> {
    /// One value, as the format tells its type, at a path that may be anywhere.
    fn value(
        &mut self,
        path: Path,
        value: Value,
        time: Option<UnixTime>,
    ) -> Result<(), DecodeError> {
        let value = match self.context.data_type(&path) {
            None => Ok(value),
            Some(data_type) => value
                .coerce(data_type)
                .map_err(|value| Problem::not_a(path, data_type, error::shown(&value))),
        };
        self.result(path, value, time)
    }

    /// A value of the right type, or what is wrong with it.
    fn result(
        &mut self,
        path: Path,
        value: Result<Value, Problem>,
        time: Option<UnixTime>,
    ) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(1).ok_or(DecodeError::TooMany)?;
        if !self.context.base.contains(&path) {
            self.problems
                .push(Problem::outside(path, self.context.base));
        } else if path.level() < Level::Resource {
            self.problems.push(Problem::no_resource(path));
        } else {
            match value {
                Ok(Value::Float(number)) if !number.is_finite() => {
                    self.problems.push(Problem::not_finite(path));
                }
                Ok(value) => self.records.push(Record { path, value, time }),
                Err(problem) => self.problems.push(problem),
            }
        }
        Ok(())
    }

    /// The path of a format that carries one value and no path.
    fn single(&self, format: ContentFormat) -> Result<Path, DecodeError> {
        let base = self.context.base;
        if base.level() < Level::Resource {
            return Err(DecodeError::Single { format, base });
        }
        Ok(base)
    }
}

/// The only record, for formats that carry one value.
fn single<'a>(
    format: ContentFormat,
    records: &'a [Record],
    context: &Context<'_>,
) -> Result<Cow<'a, Value>, EncodeError> {
    match records {
        [record] if record.path == context.base && record.path.level() >= Level::Resource => {
            typed(record, context)
        }
        _ => Err(EncodeError::Single(format)),
    }
}

/// The value of a record in the type of its resource.
fn typed<'a>(record: &'a Record, context: &Context<'_>) -> Result<Cow<'a, Value>, EncodeError> {
    let (path, value) = (record.path, &record.value);
    if path.level() < Level::Resource {
        return Err(Problem::no_resource(path).into());
    }
    let typed = match context.data_type(&path) {
        Some(data_type) if data_type != value.data_type() => {
            let coerced = value.clone().coerce(data_type);
            Cow::Owned(coerced.map_err(|_| Problem::not_a(path, data_type, error::shown(value)))?)
        }
        _ => Cow::Borrowed(value),
    };
    match *typed {
        Value::Float(number) if !number.is_finite() => Err(Problem::not_finite(path).into()),
        _ => Ok(typed),
    }
}

/// A 32 bit number as the shortest decimal that means it: 22.1 stays 22.1 and does not become
/// 22.100000381469727. Made 32 bit again it is the same.
fn widened(number: f32) -> f64 {
    use std::io::Write;
    let wide = f64::from(number);
    let is_short = wide.abs() < 16_777_216.0 && (wide * 64.0).fract() == 0.0;
    if is_short || !number.is_finite() {
        return wide;
    }
    // Sign, nine digits, a point and an exponent.
    let mut digits = [0; 24];
    let mut rest = &mut digits[..];
    if write!(rest, "{number:e}").is_err() {
        return wide;
    }
    let left = rest.len();
    let shown = &digits[..digits.len() - left];
    std::str::from_utf8(shown)
        .ok()
        .and_then(|shown| shown.parse().ok())
        .unwrap_or(wide)
}

#[cfg(test)]
mod tests;
