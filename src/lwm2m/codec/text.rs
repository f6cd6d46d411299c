//! Plain text (LwM2M Core 1.1 §7.4.1, appendix C): the value of one resource.

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use base64::engine::{DecodePaddingMode, general_purpose};

use super::error::{EncodeError, shortened};
use super::{ContentFormat, Context, DecodeError, Problem, Sink, single};
use crate::lwm2m::value::{DataType, Record, Value};

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let path = sink.single(ContentFormat::TEXT)?;
    let text = std::str::from_utf8(payload)
        .map_err(|error| DecodeError::malformed(error.valid_up_to(), "this is not UTF-8"))?;
    let data_type = sink.context.data_type(&path).unwrap_or(DataType::String);
    let value = parse(text, data_type).ok_or_else(|| {
        let found = format!("the text {:?}", shortened(text));
        Problem::not_a(path, data_type, found)
    });
    sink.result(path, value, None)
}

fn parse(text: &str, data_type: DataType) -> Option<Value> {
    let trimmed = text.trim_ascii();
    Some(match data_type {
        DataType::String => Value::String(text.to_owned()),
        DataType::CoreLink => Value::CoreLink(text.to_owned()),
        DataType::Integer | DataType::UnsignedInteger | DataType::Float | DataType::Time => {
            return number(trimmed)?.coerce(data_type).ok();
        }
        DataType::Boolean => match trimmed {
            "0" => Value::Boolean(false),
            "1" => Value::Boolean(true),
            _ => return None,
        },
        DataType::Opaque => Value::Opaque(from_base64(trimmed)?),
        DataType::ObjectLink => Value::ObjectLink(trimmed.parse().ok()?),
    })
}

/// Whole numbers exactly, all others as the nearest floating point number.
fn number(text: &str) -> Option<Value> {
    // Rust also reads "inf", "nan" and "infinity".
    if text
        .bytes()
        .any(|byte| byte.is_ascii_alphabetic() && !byte.eq_ignore_ascii_case(&b'e'))
    {
        return None;
    }
    if let Ok(number) = text.parse() {
        return Some(Value::Integer(number));
    }
    if let Ok(number) = text.parse() {
        return Some(Value::UnsignedInteger(number));
    }
    text.parse().ok().map(Value::Float)
}

pub(super) fn encode(records: &[Record], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    let value = single(ContentFormat::TEXT, records, context)?;
    let text = match value.into_owned() {
        Value::String(text) | Value::CoreLink(text) => text,
        Value::Integer(number) | Value::Time(number) => number.to_string(),
        Value::UnsignedInteger(number) => number.to_string(),
        // `Display` never writes an exponent.
        Value::Float(number) => number.to_string(),
        Value::Boolean(value) => u8::from(value).to_string(),
        Value::Opaque(bytes) => STANDARD.encode(bytes),
        Value::ObjectLink(link) => link.to_string(),
    };
    Ok(text.into_bytes())
}

/// Base64 with either alphabet, with padding or without: devices do not agree.
pub(super) fn from_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig = general_purpose::PAD
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
    let engine = if text.contains(['+', '/']) {
        STANDARD
    } else {
        URL_SAFE
    };
    engine.decode(text).ok()
}
