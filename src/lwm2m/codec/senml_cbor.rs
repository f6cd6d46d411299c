//! SenML CBOR (RFC 8428 §6; LwM2M Core 1.1 §7.4.5).

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

use super::cbor::{self, each, failed};
use super::error::EncodeError;
use super::senml::{Field, Fields, Layout, Pack};
use super::{Context, DecodeError, Row, Sink};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

// Labels (RFC 8428 §6, table 4). LwM2M adds "vlo" as a text.
const BASE_VERSION: i64 = -1;
const BASE_NAME: i64 = -2;
const BASE_TIME: i64 = -3;
const BASE_VALUE: i64 = -5;
const NAME: i64 = 0;
const VALUE: i64 = 2;
const STRING: i64 = 3;
const BOOLEAN: i64 = 4;
const TIME: i64 = 6;
const DATA: i64 = 8;

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let mut pack = Pack::default();
    records(payload, |fields| pack.record(fields, sink))
}

pub(super) fn decode_paths(
    payload: &[u8],
    alternate: Option<&str>,
) -> Result<Vec<Path>, DecodeError> {
    let mut pack = Pack::default();
    let mut paths = Vec::new();
    records(payload, |fields| pack.path(fields, alternate, &mut paths))?;
    paths.extend(pack.last_path());
    Ok(paths)
}

/// Calls `record` with each record of a pack. A payload without a byte has none.
fn records<'a>(
    payload: &'a [u8],
    mut record: impl FnMut(Fields<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if payload.is_empty() {
        return Ok(());
    }
    let decoder = &mut Decoder::new(payload);
    let left = decoder.array().map_err(|error| failed(0, &error))?;
    each(decoder, left, |decoder| record(fields(decoder)?))?;
    cbor::end(decoder)
}

fn fields<'a>(decoder: &mut Decoder<'a>) -> Result<Fields<'a>, DecodeError> {
    let mut fields = Fields::default();
    let start = decoder.position();
    let left = decoder.map().map_err(|error| failed(start, &error))?;
    each(decoder, left, |decoder| field(decoder, &mut fields))?;
    Ok(fields)
}

fn field<'a>(decoder: &mut Decoder<'a>, fields: &mut Fields<'a>) -> Result<(), DecodeError> {
    let start = decoder.position();
    let kind = decoder.datatype().map_err(|error| failed(start, &error))?;
    if matches!(kind, Type::String | Type::StringIndef) {
        let label = cbor::name(decoder)?;
        if label == "vlo" {
            let value = match value(decoder)? {
                Field::Value(Value::String(text)) => Field::of_link(&text),
                other => other,
            };
            fields.set_value(&label, value);
            return Ok(());
        }
        fields.ignore(&label);
        return cbor::skip(decoder);
    }
    match decoder.i64().map_err(|error| failed(start, &error))? {
        BASE_VERSION => fields.version = Some(number(decoder)?),
        BASE_NAME => fields.base_name = Some(cbor::name(decoder)?),
        BASE_TIME => fields.base_time = Some(number(decoder)?),
        BASE_VALUE => fields.base_value = cbor::value(decoder)?,
        NAME => match decoder.datatype() {
            Ok(Type::String | Type::StringIndef) => fields.name = Some(cbor::name(decoder)?),
            _ => {
                fields.break_off("n", "is no text");
                cbor::skip(decoder)?;
            }
        },
        TIME => match cbor::value_or_skip(decoder)?.flatten() {
            Some(time) if time.as_f64().is_some_and(f64::is_finite) => fields.time = time.as_f64(),
            _ => fields.break_off("t", "is no number"),
        },
        // The value itself tells its type; not all devices take the right label.
        VALUE | STRING | BOOLEAN | DATA => fields.set_value("v", value(decoder)?),
        _ => cbor::skip(decoder)?,
    }
    Ok(())
}

fn value(decoder: &mut Decoder<'_>) -> Result<Field, DecodeError> {
    Ok(match cbor::value_or_skip(decoder)? {
        Some(Some(value)) => Field::Value(value),
        Some(None) => Field::Null,
        None => Field::Other,
    })
}

fn number(decoder: &mut Decoder<'_>) -> Result<f64, DecodeError> {
    let start = decoder.position();
    cbor::value(decoder)?
        .and_then(|value| value.as_f64())
        .filter(|number| number.is_finite())
        .ok_or_else(|| DecodeError::malformed(start, "a number is expected"))
}

pub(super) fn encode(records: &[Row<'_>], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    let layout = Layout::of(records, context);
    let mut base_name = layout.base_name.as_deref();
    let mut name = String::new();
    let mut encoder = Encoder::new(Vec::with_capacity(32 * records.len()));
    array(&mut encoder, records.len());
    for record in records {
        let value = layout.value(record)?;
        let named = layout.name(&record.path, &mut name);
        let base_name = base_name.take();
        let fields = 1
            + u64::from(base_name.is_some())
            + u64::from(named)
            + u64::from(record.time.is_some());
        // Writing to a Vec does not fail.
        let _ = encoder.map(fields);
        if let Some(base_name) = base_name {
            let _ = encoder.i64(BASE_NAME).and_then(|e| e.str(base_name));
        }
        if named {
            let _ = encoder.i64(NAME).and_then(|e| e.str(&name));
        }
        let _ = match value.as_deref() {
            None
            | Some(
                Value::Integer(_) | Value::UnsignedInteger(_) | Value::Float(_) | Value::Time(_),
            ) => encoder.i64(VALUE),
            Some(Value::String(_) | Value::CoreLink(_)) => encoder.i64(STRING),
            Some(Value::Boolean(_)) => encoder.i64(BOOLEAN),
            Some(Value::Opaque(_)) => encoder.i64(DATA),
            Some(Value::ObjectLink(_)) => encoder.str("vlo"),
        };
        match &value {
            Some(value) => cbor::write(&mut encoder, value),
            None => {
                let _ = encoder.null();
            }
        }
        if let Some(time) = record.time {
            let _ = encoder.i64(TIME);
            cbor::write(&mut encoder, &layout.time(time));
        }
    }
    Ok(encoder.into_writer())
}

pub(super) fn encode_paths(paths: &[Path], alternate: Option<&str>) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new());
    array(&mut encoder, paths.len());
    for path in paths {
        let name = format!("{}{path}", alternate.unwrap_or_default());
        let _ = encoder
            .map(1)
            .and_then(|e| e.i64(NAME))
            .and_then(|e| e.str(&name));
    }
    encoder.into_writer()
}

fn array(encoder: &mut Encoder<Vec<u8>>, len: usize) {
    let _ = encoder.array(len as u64);
}
