//! Values as JSON: the sample that stands retained, and what MQTT clients write.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Value as Json, json};

use crate::lwm2m::{DataType, ObjectLink, Value};
use crate::mapping::{Format, Published};
use crate::time::UnixTime;

/// Where a value came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(index_only)]
pub enum Source {
    /// An observation.
    #[n(0)]
    Notify,
    /// A Read.
    #[n(1)]
    Read,
    /// A Send.
    #[n(2)]
    Send,
}

impl Source {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Notify => "notify",
            Self::Read => "read",
            Self::Send => "send",
        }
    }
}

/// How far a value can be trusted (MQTT contract §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quality {
    /// As the device said.
    Good,
    /// Published again after the broker lost it.
    Cached,
    /// None came for longer than the mapping allows.
    Stale,
    /// The device sent something of the wrong type.
    Suspect,
}

impl Quality {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Cached => "cached",
            Self::Stale => "stale",
            Self::Suspect => "suspect",
        }
    }
}

/// A value with all that stands beside it.
#[derive(Clone, Debug, PartialEq, minicbor::Encode, minicbor::Decode)]
pub struct Sample {
    /// The value after the mapping's transform; `None` when it was of the wrong type.
    #[n(0)]
    pub value: Option<Published>,
    /// Whether it was of the wrong type, or had to be clipped to the mapping's bounds.
    #[n(1)]
    pub suspect: bool,
    /// When it was taken.
    #[n(2)]
    pub time: UnixTime,
    /// Whether the device said when.
    #[n(3)]
    pub device_time: bool,
    /// The time that the device said, if it cannot be right.
    #[n(4)]
    pub raw_time: Option<UnixTime>,
    /// Where it came from.
    #[n(5)]
    pub source: Source,
    /// The number of the sample among those of its device.
    #[n(6)]
    pub sequence: u64,
}

impl Sample {
    /// How far it can be trusted when it comes.
    pub const fn quality(&self) -> Quality {
        if self.suspect {
            Quality::Suspect
        } else {
            Quality::Good
        }
    }

    /// The payload in the format that a signal wants, with its unit, and with what tells the message
    /// that it came in from others.
    pub fn to_payload(
        &self,
        format: Format,
        unit: Option<&str>,
        quality: Quality,
        mark: Option<&str>,
    ) -> Vec<u8> {
        match format {
            Format::Json => self.to_json(unit, quality, mark),
            Format::Value => self.value.as_ref().map_or_else(Vec::new, to_text),
        }
    }

    /// Written by hand: this is the path of every notification.
    fn to_json(&self, unit: Option<&str>, quality: Quality, mark: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(192);
        out.extend_from_slice(b"{\"value\":");
        write_optional(&mut out, self.value.as_ref());
        if let Some(unit) = unit {
            out.extend_from_slice(b",\"unit\":");
            write_string(&mut out, unit);
        }
        let from = if self.device_time {
            "device"
        } else {
            "gateway"
        };
        // Writing to a vector does not fail.
        let _ = write!(out, ",\"time\":\"{}\",\"time_from\":\"{from}\"", self.time);
        if let Some(raw) = self.raw_time {
            let _ = write!(out, ",\"time_raw\":\"{raw}\"");
        }
        let (quality, source, sequence) = (quality.as_str(), self.source.as_str(), self.sequence);
        let _ = write!(
            out,
            ",\"quality\":\"{quality}\",\"src\":\"{source}\",\"seq\":{sequence}"
        );
        write_mark(&mut out, mark);
        out.push(b'}');
        out
    }

    /// The samples that a device had stored, as one message: `[time, value]` each, and behind them
    /// the device's own time where that cannot be right.
    pub fn stored_to_json(samples: &[Self], unit: Option<&str>, mark: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(96 + 40 * samples.len());
        out.push(b'{');
        if let Some(unit) = unit {
            out.extend_from_slice(b"\"unit\":");
            write_string(&mut out, unit);
            out.push(b',');
        }
        let source = samples.first().map_or("", |sample| sample.source.as_str());
        let _ = write!(out, "\"src\":\"{source}\"");
        write_mark(&mut out, mark);
        out.extend_from_slice(b",\"historical\":true,\"samples\":[");
        for (index, sample) in samples.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            let _ = write!(out, "{comma}[\"{}\",", sample.time);
            write_optional(&mut out, sample.value.as_ref());
            if let Some(raw) = sample.raw_time {
                let _ = write!(out, ",\"{raw}\"");
            }
            out.push(b']');
        }
        out.extend_from_slice(b"]}");
        out
    }
}

/// The mark has nothing in it that JSON would escape.
fn write_mark(out: &mut Vec<u8>, mark: Option<&str>) {
    if let Some(mark) = mark {
        let _ = write!(out, ",\"src_id\":\"{mark}\"");
    }
}

fn write_optional(out: &mut Vec<u8>, value: Option<&Published>) {
    match value {
        Some(value) => write_published(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn write_published(out: &mut Vec<u8>, value: &Published) {
    match value {
        Published::Value(value) => write_value(out, value),
        Published::Names(names) => {
            let _ = serde_json::to_writer(out, names);
        }
        Published::Fields(fields) => {
            out.push(b'{');
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_string(out, name);
                out.push(b':');
                write_published(out, value);
            }
            out.push(b'}');
        }
    }
}

fn write_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::String(text) | Value::CoreLink(text) => write_string(out, text),
        Value::Opaque(bytes) => write_string(out, &STANDARD.encode(bytes)),
        Value::ObjectLink(link) => {
            let _ = write!(out, "\"{link}\"");
        }
        Value::Integer(number) | Value::Time(number) => {
            let _ = write!(out, "{number}");
        }
        Value::UnsignedInteger(number) => {
            let _ = write!(out, "{number}");
        }
        Value::Boolean(flag) => {
            let _ = write!(out, "{flag}");
        }
        Value::Float(number) => {
            let _ = serde_json::to_writer(out, number);
        }
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    let _ = serde_json::to_writer(out, text);
}

/// The bare value, without quotes: names parted by commas, fields as JSON.
fn to_text(value: &Published) -> Vec<u8> {
    match value {
        Published::Value(Value::String(text) | Value::CoreLink(text)) => text.clone().into_bytes(),
        Published::Value(Value::Opaque(bytes)) => STANDARD.encode(bytes).into_bytes(),
        Published::Value(Value::ObjectLink(link)) => link.to_string().into_bytes(),
        Published::Names(names) => names.join(",").into_bytes(),
        other => {
            let mut out = Vec::new();
            write_published(&mut out, other);
            out
        }
    }
}

/// What is published, as a JSON document, for replies.
pub fn published_to_json(value: &Published) -> Json {
    match value {
        Published::Value(value) => to_json(value),
        Published::Names(names) => json!(names),
        Published::Fields(fields) => fields
            .iter()
            .map(|(name, value)| (name.to_string(), published_to_json(value)))
            .collect(),
    }
}

/// A value as a JSON document, for replies.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::String(text) | Value::CoreLink(text) => json!(text),
        Value::Integer(number) | Value::Time(number) => json!(number),
        Value::UnsignedInteger(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(flag) => json!(flag),
        Value::Opaque(bytes) => json!(STANDARD.encode(bytes)),
        Value::ObjectLink(link) => json!(link.to_string()),
    }
}

/// Reads a value that somebody wants to write, as the type that the resource has; without one, as
/// the JSON says. The error is for the one who asked.
pub fn from_json(json: &Json, data_type: Option<DataType>) -> Result<Value, String> {
    let Some(data_type) = data_type else {
        return untyped(json);
    };
    let value = match (data_type, json) {
        (DataType::String, Json::String(text)) => Some(Value::String(text.clone())),
        (DataType::CoreLink, Json::String(text)) => Some(Value::CoreLink(text.clone())),
        (DataType::Boolean, Json::Bool(flag)) => Some(Value::Boolean(*flag)),
        (DataType::Boolean, Json::Number(number)) => match number.as_u64() {
            Some(bit @ 0..=1) => Some(Value::Boolean(bit == 1)),
            _ => None,
        },
        (DataType::Float, Json::Number(number)) => number.as_f64().map(Value::Float),
        (DataType::Integer, Json::Number(number)) => integral(number).map(Value::Integer),
        (DataType::UnsignedInteger, Json::Number(number)) => number
            .as_u64()
            .or_else(|| u64::try_from(integral(number)?).ok())
            .map(Value::UnsignedInteger),
        (DataType::Time, Json::Number(number)) => integral(number).map(Value::Time),
        (DataType::Time, Json::String(text)) => text
            .parse::<jiff::Timestamp>()
            .ok()
            .map(|time| Value::Time(time.as_second())),
        (DataType::Opaque, Json::String(text)) => STANDARD_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .map(Value::Opaque),
        (DataType::ObjectLink, Json::String(text)) => parse_link(text).map(Value::ObjectLink),
        _ => None,
    };
    value.ok_or_else(|| format!("{json} is not {}", wanted(data_type)))
}

/// An integer, also when it is written 5.0.
fn integral(number: &serde_json::Number) -> Option<i64> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    number.as_i64().or_else(|| {
        let float = number.as_f64()?;
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

fn untyped(json: &Json) -> Result<Value, String> {
    match json {
        Json::Bool(flag) => Ok(Value::Boolean(*flag)),
        Json::String(text) => Ok(Value::String(text.clone())),
        Json::Number(number) => Ok(number
            .as_i64()
            .map(Value::Integer)
            .or_else(|| number.as_u64().map(Value::UnsignedInteger))
            .unwrap_or_else(|| Value::Float(number.as_f64().unwrap_or_default()))),
        Json::Null | Json::Array(_) | Json::Object(_) => {
            Err(format!("{json} is not a single value"))
        }
    }
}

fn parse_link(text: &str) -> Option<ObjectLink> {
    let (object, instance) = text.split_once(':')?;
    Some(ObjectLink {
        object: object.parse().ok()?,
        instance: instance.parse().ok()?,
    })
}

/// What a value of a type looks like, for whoever wrote something else.
const fn wanted(data_type: DataType) -> &'static str {
    match data_type {
        DataType::String => "a string",
        DataType::Integer => "an integer",
        DataType::UnsignedInteger => "an integer from 0 up",
        DataType::Float => "a number",
        DataType::Boolean => "true or false",
        DataType::Opaque => "a string of base64",
        DataType::Time => "a time: seconds since 1970, or 2026-11-22T15:19:25Z",
        DataType::ObjectLink => "an object link \"object:instance\"",
        DataType::CoreLink => "a string in link-format",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_written_value_takes_the_type_of_the_resource() {
        for (json, data_type, value) in [
            (json!(true), DataType::Boolean, Value::Boolean(true)),
            (json!(0), DataType::Boolean, Value::Boolean(false)),
            (json!(5), DataType::Float, Value::Float(5.0)),
            (json!(5.0), DataType::Integer, Value::Integer(5)),
            (json!(-5), DataType::Integer, Value::Integer(-5)),
            (
                json!(u64::MAX),
                DataType::UnsignedInteger,
                Value::UnsignedInteger(u64::MAX),
            ),
            (json!("x"), DataType::String, Value::String("x".into())),
            (json!("AQI="), DataType::Opaque, Value::Opaque(vec![1, 2])),
            (json!("AQI"), DataType::Opaque, Value::Opaque(vec![1, 2])),
            (
                json!("66:0"),
                DataType::ObjectLink,
                Value::ObjectLink(ObjectLink {
                    object: 66,
                    instance: 0,
                }),
            ),
            (
                json!("2026-11-22T15:19:25Z"),
                DataType::Time,
                Value::Time(1_795_360_765),
            ),
            (json!(17), DataType::Time, Value::Time(17)),
        ] {
            assert_eq!(from_json(&json, Some(data_type)), Ok(value), "{json}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_what_was_wanted() {
        for (json, data_type) in [
            (json!("true"), DataType::Boolean),
            (json!(2), DataType::Boolean),
            (json!("5"), DataType::Float),
            (json!(5.5), DataType::Integer),
            (json!(-1), DataType::UnsignedInteger),
            (json!(1), DataType::String),
            (json!(null), DataType::Integer),
            (json!("66"), DataType::ObjectLink),
        ] {
            assert!(from_json(&json, Some(data_type)).is_err(), "{json}");
        }
        assert_eq!(
            from_json(&json!(1.5), Some(DataType::Integer)),
            Err("1.5 is not an integer".into())
        );
    }
}
