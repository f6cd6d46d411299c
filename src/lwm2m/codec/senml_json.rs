//! SenML JSON (RFC 8428 §5; LwM2M Core 1.1 §7.4.4).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde::{Deserialize, de};

use super::error::EncodeError;
use super::json::{Number, Scalar, Text};
use super::senml::{Field, Fields, Layout, Pack};
use super::{Context, DecodeError, Row, Sink};
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

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
fn records(
    payload: &[u8],
    mut record: impl FnMut(Fields<'_>) -> Result<(), DecodeError>,
) -> Result<(), DecodeError> {
    if payload.is_empty() {
        return Ok(());
    }
    let mut refused = None;
    let seed = PackSeed {
        record: &mut record,
        refused: &mut refused,
    };
    let mut json = serde_json::Deserializer::from_slice(payload);
    let result = seed.deserialize(&mut json).and_then(|()| json.end());
    match (refused, result) {
        (Some(error), _) => Err(error),
        (None, result) => result.map_err(|error| DecodeError::Json(format!("not SenML: {error}"))),
    }
}

/// Reads records one by one, so that a long payload is never in memory as a tree.
struct PackSeed<'a, F> {
    record: &'a mut F,
    /// Why reading was broken off, when JSON was not the reason.
    refused: &'a mut Option<DecodeError>,
}

impl<'de, F: FnMut(Fields<'_>) -> Result<(), DecodeError>> DeserializeSeed<'de>
    for PackSeed<'_, F>
{
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_seq(self)
    }
}

impl<'de, F: FnMut(Fields<'_>) -> Result<(), DecodeError>> Visitor<'de> for PackSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of records")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        while let Some(InRow(fields)) = records.next_element()? {
            if let Err(error) = (self.record)(fields) {
                *self.refused = Some(error);
                return Err(de::Error::custom("refused"));
            }
        }
        Ok(())
    }
}

/// One record.
struct InRow<'a>(Fields<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for InRow<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct RowVisitor;

        impl<'de> Visitor<'de> for RowVisitor {
            type Value = InRow<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a record")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InRow<'de>, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(label)) = map.next_key()? {
                    field(&label, &mut map, &mut fields)?;
                }
                Ok(InRow(fields))
            }
        }

        json.deserialize_map(RowVisitor)
    }
}

fn field<'de, A: MapAccess<'de>>(
    label: &str,
    map: &mut A,
    fields: &mut Fields<'de>,
) -> Result<(), A::Error> {
    match label {
        "bn" => fields.base_name = Some(map.next_value::<Text<'_>>()?.0),
        "bt" => fields.base_time = Some(map.next_value()?),
        "bv" => fields.base_value = map.next_value::<Option<Number>>()?.map(|number| number.0),
        "bver" => fields.version = Some(map.next_value()?),
        "n" => match map.next_value()? {
            Scalar::Text(name) => fields.name = Some(name),
            _ => fields.break_off(label, "is no text"),
        },
        "t" => match map.next_value()? {
            Scalar::Number(time) => fields.time = time.as_f64(),
            _ => fields.break_off(label, "is no number"),
        },
        // The value itself tells its type; not all devices take the right label.
        "v" | "vs" | "vb" => fields.set_value(label, map.next_value::<Scalar<'_>>()?.into()),
        "vd" => fields.set_value(label, map.next_value::<Scalar<'_>>()?.or(Field::of_base64)),
        "vlo" => fields.set_value(label, map.next_value::<Scalar<'_>>()?.or(Field::of_link)),
        _ => {
            fields.ignore(label);
            map.next_value::<IgnoredAny>()?;
        }
    }
    Ok(())
}

pub(super) fn encode(records: &[Row<'_>], context: &Context<'_>) -> Result<Vec<u8>, EncodeError> {
    let layout = Layout::of(records, context);
    let mut base_name = layout.base_name.as_deref();
    let mut name = String::new();
    let mut payload = Vec::with_capacity(48 * records.len());
    for record in records {
        let value = layout.value(record)?;
        let named = layout.name(&record.path, &mut name);
        let row = OutRow {
            base_name: base_name.take(),
            name: named.then_some(name.as_str()),
            value: Some(value.as_deref()),
            time: record.time.map(|time| layout.time(time)),
        };
        row.write(&mut payload)?;
    }
    Ok(closed(payload))
}

pub(super) fn encode_paths(
    paths: &[Path],
    alternate: Option<&str>,
) -> Result<Vec<u8>, EncodeError> {
    let mut payload = Vec::new();
    for path in paths {
        let name = format!("{}{path}", alternate.unwrap_or_default());
        let row = OutRow {
            name: Some(&name),
            ..OutRow::default()
        };
        row.write(&mut payload)?;
    }
    Ok(closed(payload))
}

/// The end of an array that [`OutRow::write`] has begun, or not.
fn closed(mut payload: Vec<u8>) -> Vec<u8> {
    if payload.is_empty() {
        payload.push(b'[');
    }
    payload.push(b']');
    payload
}

/// One record to be written.
#[derive(Default)]
struct OutRow<'a> {
    base_name: Option<&'a str>,
    name: Option<&'a str>,
    /// `Some(None)` is null.
    value: Option<Option<&'a Value>>,
    time: Option<Value>,
}

impl OutRow<'_> {
    fn write(&self, payload: &mut Vec<u8>) -> Result<(), EncodeError> {
        payload.push(if payload.is_empty() { b'[' } else { b',' });
        serde_json::to_writer(payload, self).map_err(|error| EncodeError::Json(error.to_string()))
    }
}

impl Serialize for OutRow<'_> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut map = json.serialize_map(None)?;
        if let Some(base_name) = self.base_name {
            map.serialize_entry("bn", base_name)?;
        }
        if let Some(name) = self.name {
            map.serialize_entry("n", name)?;
        }
        if let Some(value) = self.value {
            match value {
                None => map.serialize_entry("v", &())?,
                Some(Value::Integer(number) | Value::Time(number)) => {
                    map.serialize_entry("v", number)?;
                }
                Some(Value::UnsignedInteger(number)) => map.serialize_entry("v", number)?,
                Some(Value::Float(number)) => map.serialize_entry("v", number)?,
                Some(Value::String(text) | Value::CoreLink(text)) => {
                    map.serialize_entry("vs", text)?;
                }
                Some(Value::Boolean(value)) => map.serialize_entry("vb", value)?,
                Some(Value::Opaque(bytes)) => {
                    map.serialize_entry("vd", &URL_SAFE_NO_PAD.encode(bytes))?;
                }
                Some(Value::ObjectLink(link)) => map.serialize_entry("vlo", &link.to_string())?,
            }
        }
        match &self.time {
            Some(Value::Integer(seconds)) => map.serialize_entry("t", seconds)?,
            Some(Value::Float(seconds)) => map.serialize_entry("t", seconds)?,
            _ => {}
        }
        map.end()
    }
}
