//! `value = { … }`: what is done to a value before it is published.

use super::attributes::OBSERVE_KEYS;
use super::subject::Subject;
use super::write::check_order;
use super::{expression, layout};
use crate::diagnostic::{Item, Table};
use crate::lwm2m::value::{DataType, Value};
use crate::mapping::expression::{Kind, Scope};
use crate::mapping::published::{Bits, Encoding};
use crate::mapping::rule::Unit;
use crate::mapping::transform::{Step, Transform};
use crate::mapping::unit::{Line, alike, conversion};

/// Everything that may stand in the table.
pub(super) const VALUE_KEYS: [&str; 11] = [
    "scale", "offset", "unit", "round", "enum", "min", "max", "expr", "bits", "layout", "opaque",
];

/// Those that make the value. Of each line one may stand in a table; `opaque` is also about the
/// bytes of a `layout`.
const WAYS: [&[&str]; 5] = [
    &["expr"],
    &["enum"],
    &["bits"],
    &["layout", "opaque"],
    &["scale", "offset"],
];

/// Reads the table; no transform when the value passes as it is.
pub(super) fn read(item: &Item<'_>, subject: &Subject<'_>) -> (Option<Transform>, Unit) {
    let Some(mut table) = item.table("value", "{ scale = 0.1, unit = \"Cel\" }") else {
        return (None, Unit::Model);
    };
    let mut transform = Transform {
        data_type: subject.data_type(),
        ..Transform::default()
    };
    one_way_only(item, &table);
    let mut number = |key| numeric(&mut table, key, subject)?.number();
    let (scale, offset) = (number("scale"), number("offset"));
    if scale == Some(0.0) {
        item.error(
            "bad-value",
            "a scale of 0 makes every value the same, and cannot be carried back",
            "write the factor from the device's unit to the published one",
        );
    }
    let scale = scale.filter(|scale| *scale != 0.0);
    if scale.is_some() || offset.is_some() {
        transform.step = Step::Scaled(Line::of(scale.unwrap_or(1.0), offset.unwrap_or(0.0)));
    }
    if let Some(item) = table.take("enum") {
        transform.step = Step::Named(read_names(&item, subject));
    }
    if let Some(item) = table.take("bits")
        && let Some(bits) = read_bits(&item, subject)
    {
        transform.step = Step::Bits(bits);
    }
    if let Some(step) = read_bytes(&mut table, subject) {
        transform.step = step;
    }
    if let Some(item) = table.take("expr")
        && let Some(step) = read_expression(&item, subject)
    {
        transform.step = step;
    }
    read_bounds(item, &mut table, &mut transform, subject);
    let unit = read_unit(&mut table, &mut transform, subject);
    table.belongs_elsewhere(&OBSERVE_KEYS, "write it inside `observe = { … }`");
    table.finish();
    let untouched = Transform {
        data_type: transform.data_type,
        ..Transform::default()
    };
    ((transform != untouched).then_some(transform), unit)
}

fn one_way_only(item: &Item<'_>, table: &Table<'_>) {
    let said: Vec<&str> = WAYS
        .iter()
        .filter_map(|way| way.iter().copied().find(|key| table.has(key)))
        .collect();
    if let [one, other, ..] = said[..] {
        let (message, hint) = match (one, other) {
            ("expr", "scale" | "offset") => (
                format!("a value is made by `{one}` or by `{other}`, not by both"),
                "write scale and offset into the expression",
            ),
            ("enum", "scale" | "offset") => (
                "a value has names, or scale and offset, not both".to_owned(),
                "remove `scale` and `offset`; the names are those of the device's values",
            ),
            _ => (
                format!("a value is made by `{one}` or by `{other}`, not by both"),
                "keep one of them",
            ),
        };
        item.error("bad-value", message, hint);
    }
}

fn read_expression(item: &Item<'_>, subject: &Subject<'_>) -> Option<Step> {
    let Some(kind) = Kind::of(subject.data_type()) else {
        item.error(
            "bad-type",
            format!("nothing can be calculated: {}", subject.describe()),
            "take the bytes apart with `layout`",
        );
        return None;
    };
    let scope = Scope::of_value(kind);
    expression::value(item, "value / 14.5", &scope).map(Step::Calculated)
}

/// `round`, `min` and `max`, which are for numbers.
fn read_bounds(
    item: &Item<'_>,
    table: &mut Table<'_>,
    transform: &mut Transform,
    subject: &Subject<'_>,
) {
    let mut bound = |key: &'static str| {
        let item = table.take(key)?;
        let objection = match &transform.step {
            Step::Calculated(expression) => match expression.kind() {
                Kind::Number | Kind::Any => None,
                kind => Some(format!("the expression gives {}", kind.describe())),
            },
            Step::Bits(_) => Some("bits become names".to_owned()),
            Step::Bytes(_) | Step::Layout(_) => Some("it is bytes".to_owned()),
            Step::Scaled(_) | Step::Converted(_) | Step::Named(_) => {
                (!subject.is_numeric()).then(|| subject.describe())
            }
        };
        if let Some(reason) = objection {
            not_numeric(&item, &reason);
        }
        Some(item)
    };
    let round = bound("round");
    let (min, max) = (bound("min"), bound("max"));
    transform.round = round
        .and_then(|item| item.integer(0..=9))
        .and_then(|digits| u8::try_from(digits).ok());
    transform.min = min.and_then(|item| item.number());
    transform.max = max.and_then(|item| item.number());
    check_order(item, transform.min, transform.max);
}

/// The unit that is published. Where nothing else is done to the value, and the object's definition
/// says another one of the same dimension, the value is converted; else `unit` is a label.
fn read_unit(table: &mut Table<'_>, transform: &mut Transform, subject: &Subject<'_>) -> Unit {
    let said = ["scale", "offset"].iter().any(|key| table.has(key));
    let untouched = !said && matches!(&transform.step, Step::Scaled(line) if line.is_same());
    let item = table.take("unit");
    let unit = match item.as_ref().map(|item| item.text("Cel")) {
        Some(Some("")) => return Unit::None,
        Some(Some(unit)) => unit,
        _ if untouched => return Unit::Model,
        _ => return Unit::None,
    };
    let from = subject.resource.and_then(|resource| resource.units);
    if let (Some(item), Some(from), true) = (&item, from, untouched && subject.is_numeric()) {
        match conversion(from, unit) {
            Ok(line) if line.is_same() => {}
            Ok(line) => transform.step = Step::Converted(line),
            Err(None) => {}
            Err(Some((is, wanted))) => {
                let others = match &alike(from)[..] {
                    [] => String::new(),
                    others => format!("write one of {}, or ", others.join(" ")),
                };
                item.error(
                    "bad-unit",
                    format!("{from} does not become {unit}: the one is {is}, the other {wanted}"),
                    format!(
                        "{others}`scale = 1` beside it, if the device measures in {unit} whatever \
                         the object's definition says"
                    ),
                );
            }
        }
    }
    Unit::Named(unit.into())
}

/// `layout` and `opaque`.
fn read_bytes(table: &mut Table<'_>, subject: &Subject<'_>) -> Option<Step> {
    let opaque = table.take("opaque");
    let layout = table.take("layout");
    let data_type = subject.data_type();
    let encoding = opaque
        .as_ref()
        .and_then(|item| item.one_of(&Encoding::CHOICES));
    if let Some(item) = layout {
        if !matches!(
            data_type,
            None | Some(DataType::Opaque | DataType::String | DataType::CoreLink)
        ) {
            no_bytes(&item, subject);
        }
        let encoding = encoding.unwrap_or(Encoding::Base64);
        return layout::read(&item, encoding).map(Step::Layout);
    }
    let item = opaque?;
    if !matches!(data_type, None | Some(DataType::Opaque)) {
        no_bytes(&item, subject);
    }
    encoding.map(Step::Bytes)
}

fn no_bytes(item: &Item<'_>, subject: &Subject<'_>) {
    item.error(
        "bad-type",
        format!("`{}` is for bytes, and {}", item.key(), subject.describe()),
        "remove it",
    );
}

/// Takes a key that only numbers can have.
fn numeric<'a>(
    table: &mut Table<'a>,
    key: &'static str,
    subject: &Subject<'_>,
) -> Option<Item<'a>> {
    let item = table.take(key)?;
    if !subject.is_numeric() {
        not_numeric(&item, &subject.describe());
    }
    Some(item)
}

pub(super) fn not_numeric(item: &Item<'_>, reason: &str) {
    item.error(
        "not-numeric",
        format!("`{}` needs a number, and {reason}", item.key()),
        "remove it",
    );
}

/// Reads `bits = { 0 = "leak", 5 = "tamper" }` of a resource.
fn read_bits(item: &Item<'_>, subject: &Subject<'_>) -> Option<Bits> {
    let whole = matches!(
        subject.data_type(),
        None | Some(DataType::Integer | DataType::UnsignedInteger)
    );
    if !whole {
        item.error(
            "bad-type",
            format!("bits are those of integers, and {}", subject.describe()),
            "remove `bits`",
        );
        return None;
    }
    bits(item, 64)
}

/// Reads `bits = { … }` of a number of so many bits.
pub(super) fn bits(item: &Item<'_>, width: u8) -> Option<Bits> {
    let table = item.table("bits", "{ 0 = \"leak\", 5 = \"tamper\" }")?;
    let mut names: Vec<(u8, String)> = Vec::new();
    for item in table.entries() {
        let Some(name) = item.text("leak") else {
            continue;
        };
        let bit = item.key().parse().ok().filter(|bit: &u8| *bit < width);
        let Some(bit) = bit else {
            item.error(
                "bad-value",
                format!("`{}` is no bit of it", item.key()),
                format!("write a number from 0, the lowest, to {}", width - 1),
            );
            continue;
        };
        if names.iter().any(|(_, other)| other == name) {
            item.error(
                "duplicate-name",
                format!("two bits are called `{name}`"),
                "give each bit a name of its own",
            );
        }
        names.push((bit, name.to_owned()));
    }
    Some(Bits::new(names))
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
