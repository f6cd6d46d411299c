//! CBOR (RFC 8949; LwM2M Core 1.1 §7.4.6): the value of one resource. And single values in CBOR,
//! for the formats made of them.

use std::borrow::Cow;

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};

use super::error::EncodeError;
use super::{ContentFormat, Context, DecodeError, Sink, single, widened};
use crate::lwm2m::value::{Record, Value};

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let path = sink.single(ContentFormat::CBOR)?;
    let mut decoder = Decoder::new(payload);
    let value = value(&mut decoder)?;
    end(&decoder)?;
    match value {
        Some(value) => sink.value(path, value, None),
        None => sink.null(path, None),
    }
}

pub(super) fn encode(records: &[Record], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    let value = single(ContentFormat::CBOR, records, context)?;
    let mut encoder = Encoder::new(Vec::new());
    write(&mut encoder, &value);
    Ok(encoder.into_writer())
}

/// Refuses what stands behind the last item.
pub(super) fn end(decoder: &Decoder<'_>) -> Result<(), DecodeError> {
    if decoder.position() < decoder.input().len() {
        let reason = "there is something behind the end of the payload";
        return Err(DecodeError::malformed(decoder.position(), reason));
    }
    Ok(())
}

/// One value, `None` for null. Times may have the tags 0 and 1, numbers the tag 4.
pub(super) fn value(decoder: &mut Decoder<'_>) -> Result<Option<Value>, DecodeError> {
    let start = decoder.position();
    let failed = |error| failed(start, &error);
    let kind = decoder.datatype().map_err(failed)?;
    let value = match kind {
        Type::Tag => {
            let tag = decoder.tag().map_err(failed)?;
            return tagged(tag, start, decoder);
        }
        Type::Null => return decoder.null().map(|()| None).map_err(failed),
        Type::Undefined => return decoder.undefined().map(|()| None).map_err(failed),
        Type::Bool => decoder.bool().map(Value::Boolean),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => decoder.u64().map(Value::of_u64),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => decoder.i64().map(Value::Integer),
        Type::Int => decoder
            .int()
            .map(|int| Value::Float(i128::from(int) as f64)),
        Type::F16 => decoder.f16().map(|number| Value::Float(number.into())),
        Type::F32 => decoder.f32().map(|number| Value::Float(widened(number))),
        Type::F64 => decoder.f64().map(Value::Float),
        Type::String | Type::StringIndef => return text(decoder).map(|t| Some(Value::String(t))),
        Type::Bytes | Type::BytesIndef => bytes(decoder).map(Value::Opaque),
        other => {
            let reason = format!("a value is expected, not {other}");
            return Err(DecodeError::malformed(start, reason));
        }
    };
    value.map(Some).map_err(failed)
}

/// Calls `item` for each item of an array or a map, of known length or not.
pub(super) fn each<'a>(
    decoder: &mut Decoder<'a>,
    mut left: Option<u64>,
    mut item: impl FnMut(&mut Decoder<'a>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    loop {
        match &mut left {
            Some(0) => return Ok(()),
            Some(left) => *left -= 1,
            None => {
                let start = decoder.position();
                let kind = decoder.datatype().map_err(|error| failed(start, &error))?;
                if kind == Type::Break {
                    decoder.set_position(start + 1);
                    return Ok(());
                }
            }
        }
        item(decoder)?;
    }
}

pub(super) fn skip(decoder: &mut Decoder<'_>) -> Result<(), DecodeError> {
    let start = decoder.position();
    decoder.skip().map_err(|error| failed(start, &error))
}

/// One value, or `None` for an item that is none and can be passed over.
pub(super) fn value_or_skip(
    decoder: &mut Decoder<'_>,
) -> Result<Option<Option<Value>>, DecodeError> {
    let start = decoder.position();
    match value(decoder) {
        Ok(value) => Ok(Some(value)),
        Err(error @ DecodeError::Truncated { .. }) => Err(error),
        Err(_) => {
            decoder.set_position(start);
            skip(decoder).map(|()| None)
        }
    }
}

/// A text in one piece, which is borrowed, or in several.
pub(super) fn name<'a>(decoder: &mut Decoder<'a>) -> Result<Cow<'a, str>, DecodeError> {
    let start = decoder.position();
    match decoder.datatype() {
        Ok(Type::StringIndef) => text(decoder).map(Cow::Owned),
        _ => decoder
            .str()
            .map(Cow::Borrowed)
            .map_err(|error| failed(start, &error)),
    }
}

fn text(decoder: &mut Decoder<'_>) -> Result<String, DecodeError> {
    let start = decoder.position();
    let mut text = String::new();
    let pieces = decoder.str_iter().map_err(|error| failed(start, &error))?;
    for piece in pieces {
        text.push_str(piece.map_err(|error| failed(start, &error))?);
    }
    Ok(text)
}

fn bytes(decoder: &mut Decoder<'_>) -> Result<Vec<u8>, minicbor::decode::Error> {
    let mut bytes = Vec::new();
    for piece in decoder.bytes_iter()? {
        bytes.extend_from_slice(piece?);
    }
    Ok(bytes)
}

/// What stands behind a tag; a tag behind a tag is refused.
fn tagged(tag: Tag, start: usize, decoder: &mut Decoder<'_>) -> Result<Option<Value>, DecodeError> {
    match tag.as_u64() {
        // RFC 3339 text, and seconds since the epoch: the resource's type makes a time of either.
        0 | 1 if decoder.datatype().is_ok_and(|kind| kind != Type::Tag) => value(decoder),
        4 => decimal(decoder).map(Some),
        _ => Err(DecodeError::malformed(
            start,
            format!("the tag {} has no meaning here", tag.as_u64()),
        )),
    }
}

/// A decimal fraction, `[exponent, mantissa]` (RFC 8949 §3.4.4), exact where it is a whole number
/// of 64 bits.
fn decimal(decoder: &mut Decoder<'_>) -> Result<Value, DecodeError> {
    let start = decoder.position();
    let failed = |error| failed(start, &error);
    let left = decoder.array().map_err(failed)?;
    let exponent = decoder.i16().map_err(failed)?;
    let mantissa = i128::from(decoder.int().map_err(failed)?);
    let is_whole = match left {
        Some(len) => len == 2,
        None => {
            let end = decoder.datatype().map_err(failed)?;
            decoder.set_position(decoder.position() + 1);
            end == Type::Break
        }
    };
    let malformed = |reason| DecodeError::malformed(start, reason);
    if !is_whole {
        return Err(malformed(
            "a decimal fraction is an exponent and a mantissa",
        ));
    }
    let exact = u32::try_from(exponent)
        .ok()
        .and_then(|exponent| mantissa.checked_mul(10_i128.checked_pow(exponent)?))
        .and_then(Value::whole);
    if let Some(value) = exact {
        return Ok(value);
    }
    let number = format!("{mantissa}e{exponent}").parse();
    number
        .map(Value::Float)
        .map_err(|_| malformed("the decimal fraction is no number"))
}

/// What went wrong with the item that begins at `start`.
pub(super) fn failed(start: usize, error: &minicbor::decode::Error) -> DecodeError {
    if error.is_end_of_input() {
        return DecodeError::Truncated { offset: start };
    }
    DecodeError::malformed(
        error.position().unwrap_or(start),
        format!("not as CBOR should be: {error}"),
    )
}

/// Writes a value in its shortest form, floating point numbers with 32 or 64 bits.
pub(super) fn write(encoder: &mut Encoder<Vec<u8>>, value: &Value) {
    // Writing to a Vec does not fail.
    let _ = match value {
        Value::String(text) | Value::CoreLink(text) => encoder.str(text),
        Value::Integer(number) | Value::Time(number) => encoder.i64(*number),
        Value::UnsignedInteger(number) => encoder.u64(*number),
        Value::Float(number) if f64::from(*number as f32) == *number => encoder.f32(*number as f32),
        Value::Float(number) => encoder.f64(*number),
        Value::Boolean(value) => encoder.bool(*value),
        Value::Opaque(bytes) => encoder.bytes(bytes),
        Value::ObjectLink(link) => encoder.str(&link.to_string()),
    };
}
