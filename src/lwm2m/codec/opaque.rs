//! Opaque (LwM2M Core 1.1 §7.4.2): the bytes of one resource.

use super::error::{EncodeError, shown};
use super::{ContentFormat, Context, DecodeError, Problem, Sink, single};
use crate::lwm2m::value::{DataType, Record, Value};

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    let path = sink.single(ContentFormat::OPAQUE)?;
    let value = match sink.context.data_type(&path) {
        None | Some(DataType::Opaque) => Ok(Value::Opaque(payload.to_vec())),
        // Some devices send long texts, as of a log, this way.
        Some(DataType::String) => match std::str::from_utf8(payload) {
            Ok(text) => Ok(Value::String(text.to_owned())),
            Err(_) => Err(DataType::String),
        },
        Some(data_type) => Err(data_type),
    };
    let value = value.map_err(|expected| {
        Problem::not_a(
            path,
            expected,
            format!("a value of {} bytes", payload.len()),
        )
    });
    sink.result(path, value, None)
}

pub(super) fn encode(records: &[Record], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    match single(ContentFormat::OPAQUE, records, context)?.into_owned() {
        Value::Opaque(bytes) => Ok(bytes),
        value => Err(EncodeError::Opaque {
            path: context.base,
            found: shown(&value),
        }),
    }
}
