//! TLV (LwM2M Core 1.1 §7.4.3).
//!
//! ```text
//! kk i ll nnn | identifier, 8 or 16 bit | length, 0 to 24 bit | value
//! ```
//!
//! `kk` kind, `i` width of the identifier, `ll` width of the length, `nnn` the length when `ll`
//! is 0. All numbers are big endian.

use super::error::EncodeError;
use super::{ContentFormat, Context, DecodeError, Problem, Sink, sorted, typed, widened};
use crate::lwm2m::path::{Id, Level, Path};
use crate::lwm2m::value::{DataType, ObjectLink, Record, Value};

/// What an entry is; the upper two bits of its first byte.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ObjectInstance = 0b00,
    ResourceInstance = 0b01,
    MultipleResource = 0b10,
    Resource = 0b11,
}

struct Entry<'a> {
    kind: Kind,
    id: Id,
    /// Where the entry begins in the payload.
    start: usize,
    value: Entries<'a>,
}

/// Entries side by side: a payload, or the value of an entry with others in it.
#[derive(Clone, Copy)]
struct Entries<'a> {
    bytes: &'a [u8],
    /// Where `bytes` begins in the payload.
    start: usize,
}

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let base = sink.context.base;
    let mut entries = Entries {
        bytes: payload,
        start: 0,
    };
    while let Some(entry) = entries.next()? {
        // What is not in the payload is in the path of the request. Wrappers that repeat the
        // path are accepted, and values beneath another path are refused one by one.
        let (depth, above) = match entry.kind {
            Kind::ObjectInstance => (1, Level::Object),
            Kind::MultipleResource | Kind::Resource => (2, Level::Instance),
            Kind::ResourceInstance => (3, Level::Resource),
        };
        if base.level() < above {
            let reason = format!("{} cannot be directly in {base}", entry.kind.name());
            return Err(DecodeError::malformed(entry.start, reason));
        }
        node(&base.truncate(depth), &entry, sink)?;
    }
    Ok(())
}

/// One entry below `parent`, and all in it.
fn node(parent: &Path, entry: &Entry<'_>, sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let path = parent
        .child(entry.id)
        .ok_or_else(|| DecodeError::malformed(entry.start, "65535 is no identifier"))?;
    let inner: &[Kind] = match entry.kind {
        Kind::ObjectInstance => &[Kind::Resource, Kind::MultipleResource],
        Kind::MultipleResource => &[Kind::ResourceInstance],
        Kind::Resource | Kind::ResourceInstance => {
            let bytes = entry.value.bytes;
            let data_type = sink.context.data_type(&path);
            let value = value(bytes, data_type).ok_or_else(|| {
                let found = format!("a value of {} bytes", bytes.len());
                Problem::not_a(path, data_type.unwrap_or(DataType::Opaque), found)
            });
            return sink.result(path, value, None);
        }
    };
    let mut entries = entry.value;
    while let Some(child) = entries.next()? {
        if !inner.contains(&child.kind) {
            let reason = format!("{} cannot be in {}", child.kind.name(), entry.kind.name());
            return Err(DecodeError::malformed(child.start, reason));
        }
        node(&path, &child, sink)?;
    }
    Ok(())
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::ObjectInstance => "an object instance",
            Self::ResourceInstance => "a resource instance",
            Self::MultipleResource => "a multiple resource",
            Self::Resource => "a resource",
        }
    }
}

impl<'a> Entries<'a> {
    /// The next entry, `None` at the end.
    fn next(&mut self) -> Result<Option<Entry<'a>>, DecodeError> {
        let start = self.start;
        let Some(&[first]) = self.take(1) else {
            return Ok(None);
        };
        let kind = match first >> 6 {
            0b00 => Kind::ObjectInstance,
            0b01 => Kind::ResourceInstance,
            0b10 => Kind::MultipleResource,
            _ => Kind::Resource,
        };
        let entry = |entries: &mut Self| {
            let id = entries.number(1 + usize::from(first >> 5 & 1))?;
            let len = match usize::from(first >> 3 & 0b11) {
                0 => usize::from(first & 0b111),
                width => entries.number(width)? as usize,
            };
            let value = Self {
                start: entries.start,
                bytes: entries.take(len)?,
            };
            let id = Id::try_from(id).ok()?;
            Some(Entry {
                kind,
                id,
                start,
                value,
            })
        };
        match entry(self) {
            Some(entry) => Ok(Some(entry)),
            None => Err(DecodeError::Truncated { offset: start }),
        }
    }

    fn number(&mut self, width: usize) -> Option<u32> {
        let bytes = self.take(width)?;
        Some(
            bytes
                .iter()
                .fold(0, |number, &byte| number << 8 | u32::from(byte)),
        )
    }

    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        self.start += len;
        Some(taken)
    }
}

/// The value of a type; of an unknown type, or none, the bytes.
fn value(bytes: &[u8], data_type: Option<DataType>) -> Option<Value> {
    let text = || std::str::from_utf8(bytes).ok().map(str::to_owned);
    Some(match data_type {
        None | Some(DataType::Opaque) => Value::Opaque(bytes.to_vec()),
        Some(DataType::String) => Value::String(text()?),
        Some(DataType::CoreLink) => Value::CoreLink(text()?),
        Some(DataType::Integer) => Value::Integer(signed(bytes)?),
        Some(DataType::Time) => Value::Time(signed(bytes)?),
        Some(DataType::UnsignedInteger) => Value::UnsignedInteger(unsigned(bytes)?),
        Some(DataType::Float) => Value::Float(match *bytes {
            [a, b, c, d] => widened(f32::from_be_bytes([a, b, c, d])),
            _ => f64::from_be_bytes(bytes.try_into().ok()?),
        }),
        Some(DataType::Boolean) => match bytes {
            [0] => Value::Boolean(false),
            [1] => Value::Boolean(true),
            _ => return None,
        },
        Some(DataType::ObjectLink) => {
            let &[a, b, c, d] = bytes else { return None };
            Value::ObjectLink(ObjectLink {
                object: Id::from_be_bytes([a, b]),
                instance: Id::from_be_bytes([c, d]),
            })
        }
    })
}

/// 1, 2, 4 or 8 bytes with a sign.
fn signed(bytes: &[u8]) -> Option<i64> {
    Some(match *bytes {
        [a] => i8::from_be_bytes([a]).into(),
        [a, b] => i16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        _ => i64::from_be_bytes(bytes.try_into().ok()?),
    })
}

/// 1, 2, 4 or 8 bytes without one.
fn unsigned(bytes: &[u8]) -> Option<u64> {
    Some(match *bytes {
        [a] => a.into(),
        [a, b] => u16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => u32::from_be_bytes([a, b, c, d]).into(),
        _ => u64::from_be_bytes(bytes.try_into().ok()?),
    })
}

pub(super) fn encode(records: &[Record], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    if context.base == Path::ROOT && !records.is_empty() {
        return Err(EncodeError::Objects(ContentFormat::TLV));
    }
    let sorted = sorted(records, ContentFormat::TLV)?;
    let mut payload = Vec::new();
    match context.base.level() {
        Level::Root | Level::Object => {
            for instance in sorted.chunk_by(|a, b| same(a, b, 2)) {
                let mut inner = Vec::new();
                resources(instance, context, &mut inner)?;
                wrap(
                    Kind::ObjectInstance,
                    instance[0].path.truncate(2),
                    &inner,
                    &mut payload,
                )?;
            }
        }
        Level::Instance | Level::Resource => resources(&sorted, context, &mut payload)?,
        Level::ResourceInstance => leaves(&sorted, context, &mut payload)?,
    }
    Ok(payload)
}

/// The resources of one instance, those with resource instances wrapped.
fn resources(
    records: &[&Record],
    context: &Context<'_>,
    payload: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    for resource in records.chunk_by(|a, b| same(a, b, 3)) {
        if resource[0].path.level() == Level::ResourceInstance {
            let mut inner = Vec::new();
            leaves(resource, context, &mut inner)?;
            wrap(
                Kind::MultipleResource,
                resource[0].path.truncate(3),
                &inner,
                payload,
            )?;
        } else {
            leaves(resource, context, payload)?;
        }
    }
    Ok(())
}

/// Values, of one kind each.
fn leaves(
    records: &[&Record],
    context: &Context<'_>,
    payload: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    for record in records {
        let value = typed(record.path, &record.value, context)?;
        let kind = match record.path.level() {
            Level::ResourceInstance => Kind::ResourceInstance,
            _ => Kind::Resource,
        };
        let path = record.path;
        match &*value {
            Value::String(text) | Value::CoreLink(text) => {
                wrap(kind, path, text.as_bytes(), payload)
            }
            Value::Opaque(bytes) => wrap(kind, path, bytes, payload),
            Value::Boolean(value) => wrap(kind, path, &[u8::from(*value)], payload),
            Value::Integer(number) | Value::Time(number) => {
                let bytes = number.to_be_bytes();
                let len = if i8::try_from(*number).is_ok() {
                    1
                } else if i16::try_from(*number).is_ok() {
                    2
                } else if i32::try_from(*number).is_ok() {
                    4
                } else {
                    8
                };
                wrap(kind, path, &bytes[8 - len..], payload)
            }
            Value::UnsignedInteger(number) => {
                let bytes = number.to_be_bytes();
                let len = match number {
                    0..=0xFF => 1,
                    0x100..=0xFFFF => 2,
                    0x1_0000..=0xFFFF_FFFF => 4,
                    _ => 8,
                };
                wrap(kind, path, &bytes[8 - len..], payload)
            }
            Value::Float(number) if f64::from(*number as f32) == *number => {
                wrap(kind, path, &(*number as f32).to_be_bytes(), payload)
            }
            Value::Float(number) => wrap(kind, path, &number.to_be_bytes(), payload),
            Value::ObjectLink(link) => {
                let [a, b] = link.object.to_be_bytes();
                let [c, d] = link.instance.to_be_bytes();
                wrap(kind, path, &[a, b, c, d], payload)
            }
        }?;
    }
    Ok(())
}

/// Writes an entry: the last identifier of `path`, and the value.
fn wrap(kind: Kind, path: Path, value: &[u8], payload: &mut Vec<u8>) -> Result<(), EncodeError> {
    let id = path.ids().last().copied().unwrap_or_default().to_be_bytes();
    let id = if id[0] == 0 { &id[1..] } else { &id[..] };
    let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let len_width = match len {
        0..=7 => 0,
        0x8..=0xFF => 1,
        0x100..=0xFFFF => 2,
        0x1_0000..=0xFF_FFFF => 3,
        _ => {
            let format = ContentFormat::TLV;
            return Err(EncodeError::TooLong { path, format });
        }
    };
    let short = if len_width == 0 { len as u8 } else { 0 };
    let id_width = (id.len() as u8 - 1) << 5;
    payload.push((kind as u8) << 6 | id_width | (len_width as u8) << 3 | short);
    payload.extend_from_slice(id);
    payload.extend_from_slice(&len.to_be_bytes()[4 - len_width..]);
    payload.extend_from_slice(value);
    Ok(())
}

fn same(a: &Record, b: &Record, depth: usize) -> bool {
    a.path.truncate(depth) == b.path.truncate(depth)
}
