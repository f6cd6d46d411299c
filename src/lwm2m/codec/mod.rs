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
mod format;
mod json;
mod lwm2m_cbor;
mod oma_json;
mod opaque;
mod senml;
mod senml_cbor;
mod senml_json;
mod text;
mod tlv;

use std::borrow::Cow;

pub use crate::lwm2m::model::{ResourceType, ResourceTypes};
pub use error::{DecodeError, Decoded, Detail, EncodeError, Problem};
pub use format::ContentFormat;

use crate::lwm2m::path::{Level, Path};
use crate::lwm2m::value::{DataType, Record, Value};
use crate::time::UnixTime;

/// The most records that one payload may have.
pub const MAX_RECORDS: usize = 16_384;

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

/// One step of a Write-Composite.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// A resource or a resource instance.
    pub path: Path,
    /// What to write there; `None` deletes the resource instance (LwM2M Core 1.2 §6.3.9).
    pub value: Option<Value>,
}

/// Whether [`decode`] knows the format.
pub fn can_decode(format: ContentFormat) -> bool {
    matches!(
        format.current(),
        ContentFormat::TEXT
            | ContentFormat::OPAQUE
            | ContentFormat::CBOR
            | ContentFormat::SENML_JSON
            | ContentFormat::SENML_CBOR
            | ContentFormat::TLV
            | ContentFormat::OMA_JSON
            | ContentFormat::LWM2M_CBOR
    )
}

/// Appends the records of a payload to `records`, in the order of the payload. A path may be
/// there several times, with different times.
///
/// The numbers 1541 to 1543 that devices used before LwM2M 1.0 are accepted. An empty payload
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
    let mut sink = Sink::new(context, Found::Records(records));
    let result = match format.current() {
        ContentFormat::TEXT => text::decode(payload, &mut sink),
        ContentFormat::OPAQUE => opaque::decode(payload, &mut sink),
        ContentFormat::CBOR => cbor::decode(payload, &mut sink),
        ContentFormat::SENML_JSON => senml_json::decode(payload, &mut sink),
        ContentFormat::SENML_CBOR => senml_cbor::decode(payload, &mut sink),
        ContentFormat::TLV => tlv::decode(payload, &mut sink),
        ContentFormat::OMA_JSON => oma_json::decode(payload, &mut sink),
        ContentFormat::LWM2M_CBOR => lwm2m_cbor::decode(payload, &mut sink),
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
/// Values take the type of their resource first, as [`Value::coerce`] does it. TLV and LwM2M CBOR
/// carry no times; they are left out.
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
    let rows = || records.iter().map(Row::from).collect::<Vec<_>>();
    match format {
        ContentFormat::TEXT => text::encode(records, context),
        ContentFormat::OPAQUE => opaque::encode(records, context),
        ContentFormat::CBOR => cbor::encode(records, context),
        ContentFormat::SENML_JSON => senml_json::encode(&rows(), context),
        ContentFormat::SENML_CBOR => senml_cbor::encode(&rows(), context),
        ContentFormat::TLV => tlv::encode(records, context),
        ContentFormat::LWM2M_CBOR => lwm2m_cbor::encode(records, context),
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// A payload that creates an instance whose ID the device picks: the resources of the instance
/// `context.base`, without that ID. Read with [`decode`] and the picked ID in `context.base`.
///
/// # Errors
///
/// As with [`encode`]; and in SenML, where each name has an Object Instance ID.
pub fn encode_new(
    format: ContentFormat,
    records: &[Record],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    match format {
        ContentFormat::TLV => encode(format, records, context),
        ContentFormat::LWM2M_CBOR => lwm2m_cbor::encode_new(records, context),
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// The paths of a payload without values, as a Read-Composite or an Observe-Composite has it, in
/// SenML or SenML-ETCH (LwM2M Core 1.1 §6.3.8, RFC 8790 §3.1). `context.base` and its types play
/// no part.
///
/// # Errors
///
/// When the payload cannot be read, has values, or a name that is no path.
pub fn decode_paths(
    format: ContentFormat,
    payload: &[u8],
    context: &Context<'_>,
) -> Result<Vec<Path>, DecodeError> {
    match format {
        ContentFormat::SENML_JSON | ContentFormat::SENML_ETCH_JSON => {
            senml_json::decode_paths(payload, context.alternate)
        }
        ContentFormat::SENML_CBOR | ContentFormat::SENML_ETCH_CBOR => {
            senml_cbor::decode_paths(payload, context.alternate)
        }
        _ => Err(DecodeError::Unsupported(format)),
    }
}

/// A payload with these paths and no values; see [`decode_paths`].
///
/// # Errors
///
/// When the format is neither SenML nor SenML-ETCH.
pub fn encode_paths(
    format: ContentFormat,
    paths: &[Path],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    match format {
        ContentFormat::SENML_JSON | ContentFormat::SENML_ETCH_JSON => {
            senml_json::encode_paths(paths, context.alternate)
        }
        ContentFormat::SENML_CBOR | ContentFormat::SENML_ETCH_CBOR => {
            Ok(senml_cbor::encode_paths(paths, context.alternate))
        }
        _ => Err(EncodeError::Unsupported(format)),
    }
}

/// Appends the steps of a Write-Composite to `changes`, in the order of the payload, which is the
/// order to apply them in. SenML-ETCH (RFC 8790 §3.2) can delete; the other formats are those of
/// [`decode`] that carry several objects.
///
/// # Errors
///
/// As with [`decode`].
pub fn decode_changes(
    format: ContentFormat,
    payload: &[u8],
    context: &Context<'_>,
    changes: &mut Vec<Change>,
) -> Result<Decoded, DecodeError> {
    let before = changes.len();
    let deletes = matches!(
        format,
        ContentFormat::SENML_ETCH_JSON | ContentFormat::SENML_ETCH_CBOR
    );
    let mut sink = Sink::new(context, Found::Changes { changes, deletes });
    let result = match format {
        ContentFormat::SENML_JSON | ContentFormat::SENML_ETCH_JSON => {
            senml_json::decode(payload, &mut sink)
        }
        ContentFormat::SENML_CBOR | ContentFormat::SENML_ETCH_CBOR => {
            senml_cbor::decode(payload, &mut sink)
        }
        ContentFormat::LWM2M_CBOR => lwm2m_cbor::decode(payload, &mut sink),
        _ => Err(DecodeError::Unsupported(format)),
    };
    let problems = sink.problems;
    if let Err(error) = result {
        changes.truncate(before);
        return Err(error);
    }
    Ok(Decoded { problems })
}

/// A payload with the steps of a Write-Composite.
///
/// # Errors
///
/// As with [`encode`]; and when there is something to delete and the format is not SenML-ETCH, or
/// what is to be deleted is no resource instance.
pub fn encode_changes(
    format: ContentFormat,
    changes: &[Change],
    context: &Context<'_>,
) -> Result<Vec<u8>, EncodeError> {
    let rows: Vec<_> = changes
        .iter()
        .map(|change| Row {
            path: change.path,
            value: change.value.as_ref(),
            time: None,
        })
        .collect();
    let misplaced =
        |change: &&Change| change.value.is_none() && change.path.level() != Level::ResourceInstance;
    if let Some(change) = changes.iter().find(misplaced) {
        return Err(Problem::undeletable(change.path).into());
    }
    match format {
        ContentFormat::SENML_ETCH_JSON => senml_json::encode(&rows, context),
        ContentFormat::SENML_ETCH_CBOR => senml_cbor::encode(&rows, context),
        _ => {
            let record = |change: &Change| match &change.value {
                Some(value) => Ok(Record {
                    path: change.path,
                    value: value.clone(),
                    time: None,
                }),
                None => Err(EncodeError::Deletes(format)),
            };
            let records: Result<Vec<_>, _> = changes.iter().map(record).collect();
            encode(format, &records?, context)
        }
    }
}

/// What SenML writes of a record, or of a change.
#[derive(Clone, Copy)]
struct Row<'a> {
    path: Path,
    value: Option<&'a Value>,
    time: Option<UnixTime>,
}

impl<'a> From<&'a Record> for Row<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            path: record.path,
            value: Some(&record.value),
            time: record.time,
        }
    }
}

/// Where decoders put what they find.
struct Sink<'a> {
    context: &'a Context<'a>,
    left: usize,
    found: Found<'a>,
    problems: Vec<Problem>,
}

enum Found<'a> {
    Records(&'a mut Vec<Record>),
    Changes {
        changes: &'a mut Vec<Change>,
        /// Whether null deletes.
        deletes: bool,
    },
}

impl<'a> Sink<'a> {
    const fn new(context: &'a Context<'a>, found: Found<'a>) -> Self {
        Self {
            context,
            left: MAX_RECORDS,
            found,
            problems: Vec::new(),
        }
    }

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
        self.count()?;
        let value = match value {
            _ if !self.context.base.contains(&path) => {
                Err(Problem::outside(path, self.context.base))
            }
            _ if path.level() < Level::Resource => Err(Problem::no_resource(path)),
            Ok(Value::Float(number)) if !number.is_finite() => Err(Problem::not_finite(path)),
            value => value,
        };
        match (value, &mut self.found) {
            (Ok(value), Found::Records(records)) => records.push(Record { path, value, time }),
            (Ok(value), Found::Changes { changes, .. }) => changes.push(Change {
                path,
                value: Some(value),
            }),
            (Err(problem), _) => self.problems.push(problem),
        }
        Ok(())
    }

    /// A null, where a value could be.
    fn null(&mut self, path: Path, time: Option<UnixTime>) -> Result<(), DecodeError> {
        match &mut self.found {
            Found::Changes {
                changes,
                deletes: true,
            } if path.level() == Level::ResourceInstance && self.context.base.contains(&path) => {
                changes.push(Change { path, value: None });
                self.count()
            }
            Found::Changes { deletes: true, .. } => {
                self.result(path, Err(Problem::undeletable(path)), time)
            }
            _ => self.result(path, Err(Problem::no_value(path)), time),
        }
    }

    /// Something that is not even at a path.
    fn problem(&mut self, path: Path, detail: Detail) -> Result<(), DecodeError> {
        self.problems.push(Problem { path, detail });
        self.count()
    }

    fn count(&mut self) -> Result<(), DecodeError> {
        self.left = self.left.checked_sub(1).ok_or(DecodeError::TooMany)?;
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
            typed(record.path, &record.value, context)
        }
        _ => Err(EncodeError::Single(format)),
    }
}

/// The records by their paths, for formats that hold each path once.
fn sorted(records: &[Record], format: ContentFormat) -> Result<Vec<&Record>, EncodeError> {
    let mut sorted: Vec<&Record> = records.iter().collect();
    sorted.sort_by_key(|record| record.path);
    for pair in sorted.windows(2) {
        // Sorted so, a resource with and without resource instances stands side by side too.
        if pair[0].path.contains(&pair[1].path) {
            let path = pair[1].path;
            return Err(EncodeError::Twice { path, format });
        }
    }
    Ok(sorted)
}

/// The value at a path in the type of its resource.
fn typed<'a>(
    path: Path,
    value: &'a Value,
    context: &Context<'_>,
) -> Result<Cow<'a, Value>, EncodeError> {
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
