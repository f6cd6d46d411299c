//! What is written to a device, and where: resources and texts with placeholders.

use super::subject;
use crate::diagnostic::{Item, suggestion};
use crate::lwm2m::model::{Operations, ResourceModel};
use crate::lwm2m::path::{Level, Path};
use crate::lwm2m::value::{DataType, Value};
use crate::mapping::command::{Content, Parameter, Part, Placeholder};

/// What the contents of one command may name.
#[derive(Default)]
pub(super) struct Names<'a> {
    pub(super) parameters: &'a [(String, Parameter)],
    pub(super) used: Vec<String>,
}

/// What has to be possible with a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    Write,
    Execute,
    Read,
}

/// The resource that a step is about, with its definition if there is one.
pub(super) fn resource<'a>(
    item: Option<Item<'_>>,
    scope: super::Scope<'a>,
    need: Need,
) -> Option<(Path, Option<ResourceModel<'a>>)> {
    let item = item?;
    let path: Path = match item.text("/3/0/4")?.parse() {
        Ok(path) => path,
        Err(error) => {
            let error: crate::lwm2m::path::PathError = error;
            item.error("bad-path", error.to_string(), "write it like \"/3/0/4\"");
            return None;
        }
    };
    let level = Path::level(&path);
    if level < Level::Resource || need == Need::Execute && level > Level::Resource {
        let (what, hint) = match need {
            Need::Execute => (
                "a command executes a resource",
                "write object, instance and resource: \"/3/0/4\"",
            ),
            _ => (
                "what is written, read or waited for is a resource",
                "write object, instance and resource: \"/3311/0/5850\"",
            ),
        };
        item.error("bad-path", what, hint);
        return None;
    }
    let (object, resource) = (path.object_id()?, path.resource_id()?);
    if matches!(object, 0 | 21) {
        item.error(
            "holds-keys",
            format!("object {object} holds keys, and is reached by bootstrap servers only"),
            "remove the step",
        );
        return None;
    }
    if scope.models.object(object, None).is_none() {
        subject::unknown_object(&item, scope, object);
        return Some((path, None));
    }
    let Some(model) = scope.models.newest_resource(object, resource) else {
        subject::unknown_resource(&item, scope.models, object, resource);
        return None;
    };
    let Operations {
        read,
        write,
        execute,
    } = model.operations;
    let objection = match need {
        Need::Write if !write => Some((
            "not-writable",
            "cannot be written",
            "a resource that is executed is run by `execute`",
        )),
        Need::Execute if !execute => Some((
            "not-executable",
            "cannot be executed",
            "a resource that is written is a [[signal]] with `kind = \"setting\"`, or a step `write`",
        )),
        Need::Read if !read => Some(("not-readable", "cannot be read", "name one that can")),
        _ => None,
    };
    if let Some((code, what, hint)) = objection {
        item.error(code, format!("{path} ({}) {what}", model.name), hint);
        return None;
    }
    Some((path, Some(model)))
}

/// An object, instance or resource that is read.
pub(super) fn node(item: &Item<'_>, scope: super::Scope<'_>) -> Option<Path> {
    let text = item.text("/3/0/0")?;
    let is_whole = text
        .parse()
        .is_ok_and(|path: Path| matches!(path.level(), Level::Object | Level::Instance));
    if !is_whole {
        return resource(Some(*item), scope, Need::Read).map(|(path, _)| path);
    }
    let path: Path = text.parse().ok()?;
    let object = path.object_id()?;
    if matches!(object, 0 | 21) {
        item.error(
            "holds-keys",
            format!("object {object} holds keys, and is reached by bootstrap servers only"),
            "remove it",
        );
        return None;
    }
    if scope.models.object(object, None).is_none() {
        subject::unknown_object(item, scope, object);
    }
    Some(path)
}

/// What is written to a resource of this type.
pub(super) fn read_content(
    item: &Item<'_>,
    data_type: Option<DataType>,
    names: &mut Names<'_>,
) -> Option<Content> {
    let content = match item.as_text() {
        Some(text) => read_text(item, text, names)?,
        None => Content::Value(literal(item)?),
    };
    let given = match &content {
        Content::Value(value) => Some(value.clone()),
        // An example of what it will be.
        Content::Filled(Placeholder::Parameter(name)) => {
            let parameter = names.parameters.iter().find(|(known, _)| known == name);
            parameter.map(|(_, parameter)| match parameter.data_type {
                DataType::Boolean => Value::Boolean(true),
                DataType::String => Value::String(String::new()),
                _ => Value::Integer(0),
            })
        }
        Content::Filled(Placeholder::Now) => Some(Value::Integer(0)),
        Content::Filled(Placeholder::Device(_)) | Content::Text(_) => {
            Some(Value::String(String::new()))
        }
    };
    let (Some(given), Some(data_type)) = (given, data_type) else {
        return Some(content);
    };
    if !suits(&given, data_type) {
        item.error(
            "bad-type",
            format!(
                "the resource is {}, and this is not",
                subject::data_type_name(data_type)
            ),
            "write a value of its type, or the `{name}` of a parameter that has it",
        );
        return None;
    }
    Some(content)
}

/// Whether a value of this kind can be written to a resource of this type.
fn suits(value: &Value, data_type: DataType) -> bool {
    match (value, data_type) {
        (Value::String(_), DataType::Opaque | DataType::ObjectLink | DataType::Time) => true,
        (Value::Integer(0..=1), DataType::Boolean) => true,
        (value, data_type) => value.clone().coerce(data_type).is_ok(),
    }
}

pub(super) fn literal(item: &Item<'_>) -> Option<Value> {
    let text = item.as_text().map(|text| Value::String(text.to_owned()));
    let boolean = || item.as_boolean().map(Value::Boolean);
    let integer = || item.as_integer().map(Value::Integer);
    let number = || item.number().map(Value::Float);
    text.or_else(boolean).or_else(integer).or_else(number)
}

/// A text with placeholders. One that is nothing but a placeholder has its type.
pub(super) fn read_text(item: &Item<'_>, text: &str, names: &mut Names<'_>) -> Option<Content> {
    let mut parts = Vec::new();
    let mut rest = text;
    let brace = || {
        item.error(
            "bad-template",
            "a brace stands without its other one",
            "placeholders are written `{seconds}`",
        );
    };
    while let Some((before, behind)) = rest.split_once('{') {
        let Some((word, behind)) = behind.split_once('}') else {
            brace();
            return None;
        };
        if before.contains('}') {
            brace();
            return None;
        }
        if !before.is_empty() {
            parts.push(Part::Literal(before.to_owned()));
        }
        parts.push(Part::Filled(placeholder(item, word, names)?));
        rest = behind;
    }
    if rest.contains('}') {
        brace();
        return None;
    }
    if !rest.is_empty() {
        parts.push(Part::Literal(rest.to_owned()));
    }
    Some(match &parts[..] {
        [] => Content::Value(Value::String(String::new())),
        [Part::Literal(text)] => Content::Value(Value::String(text.clone())),
        [Part::Filled(placeholder)] => Content::Filled(placeholder.clone()),
        _ => Content::Text(parts),
    })
}

fn placeholder(item: &Item<'_>, word: &str, names: &mut Names<'_>) -> Option<Placeholder> {
    if names.parameters.iter().any(|(name, _)| name == word) {
        names.used.push(word.to_owned());
        return Some(Placeholder::Parameter(word.to_owned()));
    }
    if word == "now" {
        return Some(Placeholder::Now);
    }
    let mut of_device = Placeholder::OF_DEVICE.into_iter();
    if let Some(field) = of_device.find(|field| field.name() == word) {
        return Some(Placeholder::Device(field));
    }
    let known: Vec<&str> = names
        .parameters
        .iter()
        .map(|(name, _)| name.as_str())
        .chain(["now"])
        .chain(Placeholder::OF_DEVICE.iter().map(|field| field.name()))
        .collect();
    item.reader().error(
        "unknown-placeholder",
        &item.at_part(&format!("{{{word}}}")),
        format!("there is no placeholder `{{{word}}}` here"),
        suggestion(word, &known),
    );
    None
}
