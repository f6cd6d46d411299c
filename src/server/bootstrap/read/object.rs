//! `[[object]]`: further object instances, their values typed by the object definitions.

use std::collections::BTreeSet;

use super::Scope;
use crate::diagnostic::{At, Item, Reader, Table};
use crate::lwm2m::model::{ObjectModel, ResourceModel};
use crate::lwm2m::path::{Level, Path};
use crate::lwm2m::value::{DataType, Record, Value};
use crate::server::bootstrap::profile::{ACCESS, Instance, SERVER};
use crate::server::credentials::key_of_hex;

/// Reads one.
pub(super) fn read<'a>(
    mut table: Table<'a>,
    scope: Scope<'a>,
) -> Option<(Instance, (&'a Reader, At))> {
    let start = table.at().clone();
    let path = table
        .require("path", "say which instance it is: `path = \"/3/0\"`")
        .and_then(|item| Some((instance(&item, scope)?, item.at())));
    let resources = table.require(
        "resources",
        "write its values: `resources = { 14 = \"+02:00\" }`",
    );
    table.finish();
    let (path, at) = path?;
    let model = scope.models.object(path.object_id()?, None)?;
    let resources = resources?.table("resources", "{ 14 = \"+02:00\" }")?;
    let mut records = Vec::new();
    for item in resources.entries() {
        records.extend(resource(&item, path, scope, &model).unwrap_or_default());
    }
    missing(&model, path, &records, &resources, scope, &start);
    records.sort_by_key(|record: &Record| record.path);
    Some((Instance { path, records }, (scope.reader, at)))
}

/// Each instance is written once.
pub(super) fn check(objects: &[(Instance, (&Reader, At))]) {
    let mut seen = BTreeSet::new();
    for (instance, (reader, at)) in objects {
        if !seen.insert(instance.path) {
            reader.error(
                "duplicate-object",
                at,
                format!("{} is written already", instance.path),
                "write all resources of an instance into one [[object]]",
            );
        }
    }
}

/// The path of an instance of an object that has a definition and no table of its own here.
fn instance(item: &Item<'_>, scope: Scope<'_>) -> Option<Path> {
    let text = item.text("/3/0")?;
    let path = match text.parse::<Path>() {
        Ok(path) if path.level() == Level::Instance => path,
        Ok(_) => {
            item.error(
                "bad-path",
                "what is written is an object instance",
                "write object and instance, \"/3/0\"; resources stand in `resources`",
            );
            return None;
        }
        Err(error) => {
            item.error("bad-path", error.to_string(), "write it like \"/3/0\"");
            return None;
        }
    };
    let object = path.object_id()?;
    if object <= SERVER || object == ACCESS {
        let table = if object == ACCESS { "acl" } else { "server" };
        item.error(
            "reserved-object",
            format!("instances of object {object} are made of [[{table}]]"),
            format!("write a [[{table}]] instead"),
        );
        return None;
    }
    let Some(model) = scope.models.object(object, None) else {
        item.error(
            "unknown-object",
            format!("no definition of object {object} is known, so its values have no type"),
            "put its object XML file into a folder of `[models] paths`",
        );
        return None;
    };
    if !model.multiple && path.instance_id() != Some(0) {
        item.error(
            "single-instance",
            format!("object {object} ({}) has one instance, 0", model.name),
            format!("write \"/{object}/0\""),
        );
        return None;
    }
    Some(path)
}

/// The records of one resource: one, or one an instance.
fn resource(
    item: &Item<'_>,
    instance: Path,
    scope: Scope<'_>,
    model: &ObjectModel<'_>,
) -> Option<Vec<Record>> {
    let key = item.key();
    let Some(path) = below(instance, key) else {
        let hint = match scope.models.signal_by_name(model.id, key) {
            Some((id, _)) => format!("resources are numbered here: `{id} = …`"),
            None => "write its number, `14 = …`".to_owned(),
        };
        item.error("bad-resource", format!("`{key}` is no resource id"), hint);
        return None;
    };
    let id = path.resource_id()?;
    let Some(definition) = scope.models.newest_resource(model.id, id) else {
        item.error(
            "unknown-resource",
            format!("object {} ({}) has no resource {id}", model.id, model.name),
            format!("it has {}", model.outline()),
        );
        return None;
    };
    let Some(data_type) = definition.data_type else {
        item.error(
            "not-writable",
            format!("{path} ({}) is executed and has no value", definition.name),
            "remove it",
        );
        return None;
    };
    if !definition.multiple {
        if item.is_table() || item.is_list() {
            item.error(
                "not-multiple",
                format!("{path} ({}) has one value", definition.name),
                "write that alone",
            );
            return None;
        }
        let value = value(item, &definition, data_type)?;
        return Some(vec![record(path, value)]);
    }
    let items: Vec<(Path, Item<'_>)> = if item.is_table() {
        let entries = item.table(key, "{ 0 = 1 }")?.entries();
        entries
            .into_iter()
            .filter_map(|entry| match below(path, entry.key()) {
                Some(path) => Some((path, entry)),
                None => {
                    entry.error(
                        "bad-resource",
                        format!("`{}` is no resource instance id", entry.key()),
                        "write a number from 0",
                    );
                    None
                }
            })
            .collect()
    } else {
        let items = item.list("[1, 2]")?;
        (0..)
            .map_while(|index| path.child(index))
            .zip(items)
            .collect()
    };
    Some(
        items
            .into_iter()
            .filter_map(|(path, item)| Some(record(path, value(&item, &definition, data_type)?)))
            .collect(),
    )
}

/// The node with this number, in decimal digits without leading zeros.
fn below(path: Path, key: &str) -> Option<Path> {
    format!("{path}/{key}")
        .parse()
        .ok()
        .filter(|_| !key.contains('/'))
}

const fn record(path: Path, value: Value) -> Record {
    let time = None;
    Record { path, value, time }
}

/// The value in the type of the resource.
fn value(item: &Item<'_>, resource: &ResourceModel<'_>, data_type: DataType) -> Option<Value> {
    let text = |example: &str| item.text(example);
    let raw = match data_type {
        DataType::String => Value::String(text("text")?.to_owned()),
        DataType::CoreLink => Value::CoreLink(text("</3/0>")?.to_owned()),
        DataType::Boolean => Value::Boolean(item.boolean()?),
        DataType::Float => Value::Float(item.number()?),
        DataType::Integer => Value::Integer(item.integer(i64::MIN..=i64::MAX)?),
        DataType::UnsignedInteger => Value::Integer(item.integer(0..=i64::MAX)?),
        DataType::Time if item.as_text().is_none() => {
            Value::Time(item.integer(i64::MIN..=i64::MAX)?)
        }
        DataType::Time => Value::String(text("2026-01-01T00:00:00Z")?.to_owned()),
        DataType::ObjectLink => Value::String(text("66:0")?.to_owned()),
        DataType::Opaque => {
            let digits = text("c0ffee")?;
            match key_of_hex(digits.as_bytes()) {
                Some(bytes) => Value::Opaque(bytes.expose().to_vec()),
                None => Value::String(digits.to_owned()),
            }
        }
    };
    match raw.coerce(data_type) {
        Ok(value) => Some(value),
        Err(_) => {
            let form = match data_type {
                DataType::Opaque => "bytes: hexadecimal digits, two a byte, \"c0ffee\"",
                DataType::Time => "a time: seconds since 1970, or \"2026-01-01T00:00:00Z\"",
                DataType::ObjectLink => "an object link: \"66:0\"",
                _ => "of another type",
            };
            item.error(
                "bad-value",
                format!(
                    "`{}` ({}) cannot have this value",
                    item.key(),
                    resource.name
                ),
                format!("it is {form}"),
            );
            None
        }
    }
}

/// Mandatory resources that nobody but a server can fill.
fn missing(
    model: &ObjectModel<'_>,
    path: Path,
    records: &[Record],
    written: &Table<'_>,
    scope: Scope<'_>,
    at: &At,
) {
    let missing: Vec<String> = model
        .resources()
        .filter(|resource| {
            let operations = resource.operations;
            let ours = operations.write || !(operations.read || operations.execute);
            let there = records
                .iter()
                .any(|record| record.path.resource_id() == Some(resource.id));
            resource.mandatory
                && resource.data_type.is_some()
                && ours
                && !there
                && !written.has(&resource.id.to_string())
        })
        .map(|resource| format!("{} ({})", resource.id, resource.name))
        .collect();
    if !missing.is_empty() {
        scope.reader.error(
            "missing-resource",
            at,
            format!(
                "{path} needs {}, which the object demands",
                missing.join(", ")
            ),
            "add it to `resources`: an instance that is written replaces the one that was there",
        );
    }
}
