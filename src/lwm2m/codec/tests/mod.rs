//! Tests over all formats.

mod composite;
mod habits;
mod properties;
mod refusals;
mod vectors;

use std::sync::LazyLock;

use super::*;
use crate::lwm2m::model::Models;
use crate::lwm2m::path::Id;

static MODELS: LazyLock<Models> = LazyLock::new(Models::builtin);

/// The registry, and the objects that examples in the specifications make up.
struct Types;

impl ResourceTypes for Types {
    fn resource_type(&self, object: Id, resource: Id) -> Option<ResourceType> {
        use DataType::*;
        let (data_type, multiple) = match (object, resource) {
            (65, 0) => (ObjectLink, true),
            (65, 1) => (String, false),
            (65, 2) => (Integer, false),
            (66, 0 | 1) => (String, false),
            (66, 2) => (ObjectLink, false),
            // One resource of each type, and ten further on the same as a multiple one.
            (42000, 0..=18) => {
                let all = [
                    String,
                    Integer,
                    UnsignedInteger,
                    Float,
                    Boolean,
                    Opaque,
                    Time,
                    ObjectLink,
                    CoreLink,
                ];
                (*all.get(usize::from(resource % 10))?, resource >= 10)
            }
            (42000, _) => return None,
            _ => return ResourceTypes::resource_type(&*MODELS, object, resource),
        };
        Some(ResourceType {
            data_type: Some(data_type),
            multiple,
        })
    }
}

const NOW: UnixTime = UnixTime::from_millis(1_795_360_765_120);

fn context(base: &str) -> Context<'static> {
    Context {
        base: base.parse().unwrap(),
        alternate: None,
        now: NOW,
        types: &Types,
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The formats in which one value can stand.
const FOR_ONE_VALUE: [ContentFormat; 6] = [
    ContentFormat::TEXT,
    ContentFormat::CBOR,
    ContentFormat::TLV,
    ContentFormat::SENML_JSON,
    ContentFormat::SENML_CBOR,
    ContentFormat::LWM2M_CBOR,
];

/// Records as they are written, and as that is read again, which has to be whole.
fn through(
    format: ContentFormat,
    records: &[Record],
    context: &Context<'_>,
) -> (Vec<u8>, Vec<Record>) {
    let payload = encode(format, records, context).unwrap();
    let mut read = Vec::new();
    decode(format, &payload, context, &mut read)
        .unwrap()
        .complete()
        .unwrap();
    (payload, read)
}

/// Each record as `path value`, and each problem as it is shown.
fn decoded(format: ContentFormat, payload: &[u8], context: &Context<'_>) -> Vec<String> {
    let mut records = Vec::new();
    let problems = match decode(format, payload, context, &mut records) {
        Ok(decoded) => decoded.problems,
        Err(error) => return vec![format!("error: {error}")],
    };
    let records = records.iter().map(|record| match record.time {
        None => format!("{} {}", record.path, short(&record.value)),
        Some(time) => format!(
            "{} {} at {}",
            record.path,
            short(&record.value),
            time.as_millis()
        ),
    });
    let problems = problems.iter().map(|problem| format!("problem: {problem}"));
    records.chain(problems).collect()
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::CoreLink(text) => format!("corelnk {text:?}"),
        Value::Integer(number) => format!("{number}"),
        Value::UnsignedInteger(number) => format!("{number}u"),
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(value) => format!("{value}"),
        Value::Opaque(bytes) => format!("h'{}'", hex(bytes)),
        Value::Time(seconds) => format!("time {seconds}"),
        Value::ObjectLink(link) => format!("{link}"),
    }
}

fn record(path: &str, value: Value) -> Record {
    Record {
        path: path.parse().unwrap(),
        value,
        time: None,
    }
}
