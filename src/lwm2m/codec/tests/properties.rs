//! Encoding and decoding undo each other; damaged payloads do no harm.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::lwm2m::value::ObjectLink;

fn any_value(data_type: DataType, rng: &mut StdRng) -> Value {
    let text = |rng: &mut StdRng| -> String {
        let most = if rng.random_ratio(1, 20) { 400 } else { 12 };
        let len = rng.random_range(0..most);
        (0..len).map(|_| rng.random::<char>()).collect()
    };
    // Numbers of all sizes, the ends of their ranges among them.
    let bits = |rng: &mut StdRng| -> u64 { rng.random::<u64>() >> rng.random_range(0..64) };
    match data_type {
        DataType::String => Value::String(text(rng)),
        DataType::CoreLink => Value::CoreLink(text(rng)),
        DataType::Integer => Value::Integer(bits(rng) as i64 ^ -i64::from(rng.random::<bool>())),
        DataType::Time => Value::Time(bits(rng) as i64),
        DataType::UnsignedInteger => Value::UnsignedInteger(bits(rng)),
        DataType::Boolean => Value::Boolean(rng.random()),
        DataType::Opaque => {
            let most = if rng.random_ratio(1, 20) { 70_000 } else { 12 };
            let len = rng.random_range(0..most);
            Value::Opaque((0..len).map(|_| rng.random()).collect())
        }
        DataType::ObjectLink => Value::ObjectLink(ObjectLink {
            object: rng.random(),
            instance: rng.random(),
        }),
        DataType::Float => Value::Float(match rng.random_range(0..3) {
            0 => f64::from(rng.random_range(-10_000..10_000)) / 10.0,
            1 => rng.random_range(-10_000..10_000).into(),
            _ => Some(f64::from_bits(rng.random()))
                .filter(|n| n.is_finite())
                .unwrap_or_default(),
        }),
    }
}

const TYPES: [DataType; 9] = [
    DataType::String,
    DataType::Integer,
    DataType::UnsignedInteger,
    DataType::Float,
    DataType::Boolean,
    DataType::Opaque,
    DataType::Time,
    DataType::ObjectLink,
    DataType::CoreLink,
];

#[test]
fn one_value_survives_every_format() {
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..2000 {
        let at = round % TYPES.len();
        let path = match rng.random_range(0..2) {
            0 => Path::resource(42000, rng.random_range(0..65535), at as Id),
            _ => Path::resource_instance(42000, 1, at as Id + 10, rng.random_range(0..65535)),
        };
        let context = Context {
            base: path,
            ..context("/")
        };
        let value = any_value(TYPES[at], &mut rng);
        let records = [Record {
            path,
            value,
            time: None,
        }];
        for format in FOR_ONE_VALUE {
            let (payload, read) = through(format, &records, &context);
            // A 32 bit number comes back as the decimal that it is nearest to.
            assert_eq!(
                as_f32(&read),
                as_f32(&records),
                "{format} {}",
                hex(&payload)
            );
        }
    }
}

/// Floating point numbers that fit 32 bits, as those.
fn as_f32(records: &[Record]) -> Vec<Record> {
    let mut records = records.to_vec();
    for record in &mut records {
        if let Value::Float(number) = &mut record.value
            && widened(*number as f32) == *number
        {
            *number = (*number as f32).into();
        }
    }
    records
}

#[test]
fn many_values_survive_every_format_that_has_structure() {
    let mut rng = StdRng::seed_from_u64(2);
    for round in 0..400 {
        let base = match round % 4 {
            0 => Path::ROOT,
            1 => Path::object(42000),
            2 => Path::instance(42000, 7),
            _ => Path::resource(42000, 7, rng.random_range(10..19)),
        };
        let mut records = Vec::new();
        for _ in 0..rng.random_range(0..20) {
            let resource = base
                .resource_id()
                .unwrap_or_else(|| rng.random_range(0..19));
            let instance = base
                .instance_id()
                .unwrap_or_else(|| rng.random_range(0..65535));
            let Some(&data_type) = TYPES.get(usize::from(resource % 10)) else {
                continue;
            };
            let path = if resource < 10 {
                Path::resource(42000, instance, resource)
            } else {
                Path::resource_instance(42000, instance, resource, rng.random_range(0..400))
            };
            let value = any_value(data_type, &mut rng);
            records.push(Record {
                path,
                value,
                time: None,
            });
        }
        records.sort_by_key(|record| record.path);
        records.dedup_by_key(|record| record.path);
        let context = Context {
            base,
            ..context("/")
        };
        let mut formats = vec![
            ContentFormat::SENML_JSON,
            ContentFormat::SENML_CBOR,
            ContentFormat::LWM2M_CBOR,
        ];
        if base != Path::ROOT {
            formats.push(ContentFormat::TLV);
        }
        for format in formats {
            let mut records = records.clone();
            if format == ContentFormat::SENML_JSON || format == ContentFormat::SENML_CBOR {
                for record in &mut records {
                    let time = rng.random_range(-1_000_000_000_000..4_000_000_000_000);
                    record.time = rng.random::<bool>().then(|| UnixTime::from_millis(time));
                }
            }
            let (_, read) = through(format, &records, &context);
            assert_eq!(as_f32(&read), as_f32(&records), "{format}");
        }
    }
}

#[test]
fn random_and_damaged_payloads_do_no_harm() {
    const FORMATS: [ContentFormat; 10] = [
        ContentFormat::TEXT,
        ContentFormat::OPAQUE,
        ContentFormat::CBOR,
        ContentFormat::TLV,
        ContentFormat::SENML_JSON,
        ContentFormat::SENML_CBOR,
        ContentFormat::SENML_ETCH_JSON,
        ContentFormat::SENML_ETCH_CBOR,
        ContentFormat::OMA_JSON,
        ContentFormat::LWM2M_CBOR,
    ];
    let seeds = [
        bytes("82a321682f333330332f302f00643537303002fb403619999999999aa2006435373031036343656c"),
        bytes("08000ec10001c101008302417f07c1037f080212c10003c101008702417f0761013601c1037f"),
        br#"[{"bn":"/3303/0/","n":"5700","v":22.1,"t":-5},{"n":"5701","vs":"Cel"}]"#.to_vec(),
        bytes("9fbf2200c482210100623132636364648041006162f6ffff"),
        bytes("a2820300a200744f70656e204d6f62696c6520416c6c69616e6365091864830100011a00015180"),
        bytes("bf9f1902029fff01ffbf00bf00c11a5182428fffffff"),
        bytes("82a20065312f302f32021865a200692f31362f302f302f3102f6"),
        br#"{"bn":"/3/0/","bt":25462634,"e":[{"n":"0","sv":"Open"},{"n":"6/0","v":1,"t":-5}]}"#
            .to_vec(),
    ];
    let mut rng = StdRng::seed_from_u64(3);
    let bases = ["/", "/3303", "/3303/0", "/2/0/2", "/2/0/2/1"].map(context);
    for _ in 0..20_000 {
        let mut payload = if rng.random::<bool>() {
            let len = rng.random_range(0..64);
            (0..len).map(|_| rng.random()).collect()
        } else {
            seeds[rng.random_range(0..seeds.len())].clone()
        };
        for _ in 0..rng.random_range(0..4) {
            if payload.is_empty() {
                break;
            }
            let at = rng.random_range(0..payload.len());
            match rng.random_range(0..3) {
                0 => payload[at] = rng.random(),
                1 => payload.truncate(at),
                _ => payload.insert(at, rng.random()),
            }
        }
        let format = FORMATS[rng.random_range(0..FORMATS.len())];
        let context = &bases[rng.random_range(0..bases.len())];
        let mut records = Vec::new();
        if let Ok(decoded) = decode(format, &payload, context, &mut records) {
            assert!(records.len() + decoded.problems.len() <= payload.len().max(1));
            for record in &records {
                assert!(context.base.contains(&record.path));
                assert!(record.path.level() >= Level::Resource);
            }
        } else {
            assert!(records.is_empty());
        }
        if let Ok(paths) = decode_paths(format, &payload, context) {
            assert!(paths.len() <= payload.len());
        }
        let mut changes = Vec::new();
        if let Ok(decoded) = decode_changes(format, &payload, context, &mut changes) {
            assert!(changes.len() + decoded.problems.len() <= payload.len().max(1));
            assert!(changes.iter().all(|c| context.base.contains(&c.path)));
        } else {
            assert!(changes.is_empty());
        }
    }
}
