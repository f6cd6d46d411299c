//! `value = { … }`: what is done to a value before it is published.

use std::sync::Arc;

use super::attributes::OBSERVE_KEYS;
use super::subject::Subject;
use crate::diagnostic::{Item, Table};
use crate::lwm2m::value::{DataType, Value};
use crate::mapping::profile::Unit;
use crate::mapping::transform::Transform;

/// Everything that may stand in the table.
pub(super) const VALUE_KEYS: [&str; 11] = [
    "scale", "offset", "unit", "round", "enum", "min", "max", "expr", "bits", "layout", "opaque",
];

/// Other ways from bytes or numbers to a value, known and not built.
const UNBUILT: [&str; 4] = ["expr", "bits", "layout", "opaque"];

/// Reads the table; no transform when the value passes as it is.
pub(super) fn read(item: &Item<'_>, subject: &Subject<'_>) -> (Option<Arc<Transform>>, Unit) {
    let mut transform = Transform::default();
    let Some(mut table) = item.table("value", "{ scale = 0.1, unit = \"Cel\" }") else {
        return (None, Unit::Model);
    };
    transform.data_type = subject.data_type();
    let mut number = |key| numeric(&mut table, key, subject)?.number();
    transform.scale = number("scale").unwrap_or(1.0);
    transform.offset = number("offset").unwrap_or(0.0);
    transform.min = number("min");
    transform.max = number("max");
    transform.round = numeric(&mut table, "round", subject)
        .and_then(|item| item.integer(0..=9))
        .and_then(|digits| u8::try_from(digits).ok());
    if transform.scale == 0.0 {
        item.error(
            "bad-value",
            "a scale of 0 makes every value the same, and cannot be carried back",
            "write the factor from the device's unit to the published one",
        );
    }
    if let (Some(min), Some(max)) = (transform.min, transform.max)
        && min > max
    {
        item.error(
            "bad-value",
            format!("min {min} is above max {max}"),
            "exchange them",
        );
    }
    if let Some(item) = table.take("enum") {
        transform.names = read_names(&item, subject);
        if transform.scale != 1.0 || transform.offset != 0.0 {
            item.error(
                "bad-value",
                "a value has names, or scale and offset, not both",
                "remove `scale` and `offset`; the names are those of the device's values",
            );
        }
    }
    let unit = match table.take("unit").map(|item| item.text("Cel")) {
        Some(Some("")) => Unit::None,
        Some(Some(unit)) => Unit::Named(unit.into()),
        _ if transform.scale != 1.0 || transform.offset != 0.0 || !transform.names.is_empty() => {
            Unit::None
        }
        _ => Unit::Model,
    };
    let unbuilt = UNBUILT.iter().any(|key| table.has(key));
    table.not_built(&UNBUILT);
    table.belongs_elsewhere(&OBSERVE_KEYS, "write it inside `observe = { … }`");
    table.finish();
    let untouched = Transform {
        data_type: transform.data_type,
        ..Transform::default()
    };
    if unbuilt {
        // Half of what the author wants would be a wrong value with a right-looking unit.
        return (None, Unit::None);
    }
    ((transform != untouched).then(|| Arc::new(transform)), unit)
}

/// Takes a key that only numbers can have.
fn numeric<'a>(
    table: &mut Table<'a>,
    key: &'static str,
    subject: &Subject<'_>,
) -> Option<Item<'a>> {
    let item = table.take(key)?;
    if !subject.is_numeric() {
        item.error(
            "not-numeric",
            format!("`{key}` needs a number, and {}", subject.describe()),
            "remove it",
        );
    }
    Some(item)
}

/// Reads `enum = { 0 = "off", 1 = "on" }`.
fn read_names(item: &Item<'_>, subject: &Subject<'_>) -> Vec<(Value, String)> {
    let Some(table) = item.table("enum", "{ 0 = \"off\", 1 = \"on\" }") else {
        return Vec::new();
    };
    let data_type = subject.data_type();
    let possible = matches!(
        data_type,
        None | Some(
            DataType::Integer | DataType::UnsignedInteger | DataType::Boolean | DataType::String
        )
    );
    if !possible {
        item.error(
            "bad-type",
            format!(
                "names are for integers, true and false, and texts, and {}",
                subject.describe()
            ),
            "remove `enum`",
        );
        return Vec::new();
    }
    let mut names: Vec<(Value, String)> = Vec::new();
    for item in table.entries() {
        let Some(name) = item.text("on") else {
            continue;
        };
        let Some(value) = named_value(item.key(), data_type) else {
            item.error(
                "bad-value",
                format!("`{}` is no value: {}", item.key(), subject.describe()),
                "write the device's value before the `=`",
            );
            continue;
        };
        if names.iter().any(|(_, other)| other == name) {
            item.error(
                "duplicate-name",
                format!("two values are called `{name}`"),
                "give each value a name of its own, so that it can be written back",
            );
        }
        names.push((value, name.to_owned()));
    }
    names
}

fn named_value(key: &str, data_type: Option<DataType>) -> Option<Value> {
    let integer = || key.parse().ok().map(Value::Integer);
    let unsigned = || key.parse().ok().map(Value::UnsignedInteger);
    let boolean = || key.parse().ok().map(Value::Boolean);
    match data_type {
        Some(DataType::Integer) => integer(),
        Some(DataType::UnsignedInteger) => unsigned(),
        Some(DataType::Boolean) => boolean(),
        Some(_) => Some(Value::String(key.to_owned())),
        None => integer()
            .or_else(boolean)
            .or_else(|| Some(Value::String(key.to_owned()))),
    }
}
