//! OMA object files (`LWM2M.xsd`, `LWM2M-v1_1.xsd`).
//!
//! Elements may come in any order, with or without CDATA; a file may define several objects. A
//! document type is refused, and with it every entity of its own.

use roxmltree::{Document, Node, ParsingOptions, TextPos};

use super::registry::{data_type, id};
use super::{ModelError, Operations, Version};
use crate::lwm2m::path::Id;
use crate::lwm2m::value::DataType;

/// The longest file read, in bytes; the whole OMA registry has 3 MB.
const MAX_LEN: usize = 16 << 20;
/// The most elements, texts and comments in a file.
const MAX_NODES: u32 = 500_000;
/// The longest name, unit or range, in bytes.
const MAX_TEXT: usize = 1024;

/// One object of a file.
pub(super) struct Definition {
    pub(super) place: Place,
    pub(super) id: Id,
    pub(super) version: Version,
    pub(super) lwm2m: Version,
    pub(super) multiple: bool,
    pub(super) mandatory: bool,
    pub(super) name: String,
    pub(super) resources: Vec<Resource>,
}

/// One `<Item>` of an object.
pub(super) struct Resource {
    pub(super) id: Id,
    pub(super) operations: Operations,
    pub(super) multiple: bool,
    pub(super) mandatory: bool,
    pub(super) data_type: Option<DataType>,
    pub(super) name: String,
    pub(super) units: String,
    pub(super) range: String,
}

/// A line and a column, both from 1.
#[derive(Clone, Copy)]
pub(super) struct Place(TextPos);

impl Place {
    pub(super) fn error(self, message: impl Into<String>) -> ModelError {
        ModelError {
            line: self.0.row,
            column: self.0.col,
            message: message.into(),
        }
    }
}

/// The objects of a file, at least one.
pub(super) fn parse(text: &str) -> Result<Vec<Definition>, ModelError> {
    let start = Place(TextPos::new(1, 1));
    if text.len() > MAX_LEN {
        return Err(start.error(format!("the file is longer than {} MB", MAX_LEN >> 20)));
    }
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: MAX_NODES,
        ..ParsingOptions::default()
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let document = Document::parse_with_options(text, options).map_err(|error| {
        // The library puts the place behind its message, which says it a second time.
        let message = error.to_string();
        let message = message.split(" at ").next().unwrap_or_default();
        Place(error.pos()).error(format!("not well-formed XML: {message}"))
    })?;
    let root = document.root_element();
    if root.tag_name().name() != "LWM2M" {
        return Err(place(root).error(format!(
            "an object file has <LWM2M> at its top, not <{}>",
            root.tag_name().name()
        )));
    }
    let definitions = elements(root, "Object")
        .map(definition)
        .collect::<Result<Vec<_>, _>>()?;
    for (at, definition) in definitions.iter().enumerate() {
        let same =
            |other: &Definition| (other.id, other.version) == (definition.id, definition.version);
        if definitions[..at].iter().any(same) {
            return Err(definition.place.error(format!(
                "object {} version {} is defined twice in this file",
                definition.id, definition.version
            )));
        }
    }
    if definitions.is_empty() {
        return Err(place(root).error("<LWM2M> defines no <Object>"));
    }
    Ok(definitions)
}

fn definition(node: Node<'_, '_>) -> Result<Definition, ModelError> {
    let mut resources: Vec<Resource> = Vec::new();
    for item in elements(node, "Resources").flat_map(|node| elements(node, "Item")) {
        let resource = resource(item)?;
        if resources.iter().any(|other| other.id == resource.id) {
            return Err(place(item).error(format!("resource {} is defined twice", resource.id)));
        }
        resources.push(resource);
    }
    resources.sort_by_key(|resource| resource.id);
    let object_id = required(node, "ObjectID")?;
    Ok(Definition {
        place: place(node),
        id: id(&object_id.text)
            .ok_or_else(|| object_id.error("an object id is a number from 0 to 65534"))?,
        version: version(node, "ObjectVersion")?,
        lwm2m: version(node, "LWM2MVersion")?,
        multiple: choice(node, "MultipleInstances", ["Single", "Multiple"])?,
        mandatory: choice(node, "Mandatory", ["Optional", "Mandatory"])?,
        name: required(node, "Name")?.text,
        resources,
    })
}

fn resource(node: Node<'_, '_>) -> Result<Resource, ModelError> {
    let number = node.attribute("ID").unwrap_or_default();
    let operations = optional(node, "Operations")?;
    let data = optional(node, "Type")?;
    Ok(Resource {
        id: id(number.trim())
            .ok_or_else(|| place(node).error("an <Item> has an ID, a number from 0 to 65534"))?,
        operations: Operations::parse(&operations.text)
            .ok_or_else(|| operations.error("operations are R, W, RW, E or empty"))?,
        multiple: choice(node, "MultipleInstances", ["Single", "Multiple"])?,
        mandatory: choice(node, "Mandatory", ["Optional", "Mandatory"])?,
        data_type: data_type(&data.text).ok_or_else(|| {
            data.error(
                "a type is String, Integer, Unsigned Integer, Float, Boolean, Opaque, Time, \
                 Objlnk, Corelnk or empty",
            )
        })?,
        name: required(node, "Name")?.text,
        units: optional(node, "Units")?.text,
        range: optional(node, "RangeEnumeration")?.text,
    })
}

/// The text of an element, white space made single, with its place.
struct Content {
    place: Place,
    text: String,
}

impl Content {
    fn error(&self, rule: &str) -> ModelError {
        self.place.error(format!("{rule}, not {:?}", self.text))
    }
}

/// The content of a child, empty if there is none.
fn optional(node: Node<'_, '_>, name: &str) -> Result<Content, ModelError> {
    let Some(child) = elements(node, name).next() else {
        return Ok(Content {
            place: place(node),
            text: String::new(),
        });
    };
    let mut text = String::new();
    for part in child.children().filter_map(|part| part.text()) {
        for word in part.split_whitespace() {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(word);
        }
    }
    let place = place(child);
    if text.len() > MAX_TEXT {
        return Err(place.error(format!("<{name}> has more than {MAX_TEXT} bytes")));
    }
    Ok(Content { place, text })
}

/// The content of a child that must be there and not empty.
fn required(node: Node<'_, '_>, name: &str) -> Result<Content, ModelError> {
    let content = optional(node, name)?;
    if content.text.is_empty() {
        let parent = node.tag_name().name();
        return Err(content.place.error(format!("<{parent}> needs a <{name}>")));
    }
    Ok(content)
}

/// The version in a child; 1.0 if there is none.
fn version(node: Node<'_, '_>, name: &str) -> Result<Version, ModelError> {
    let content = optional(node, name)?;
    if content.text.is_empty() {
        return Ok(Version::V1_0);
    }
    content
        .text
        .parse()
        .map_err(|error| content.error(&format!("{error}")))
}

/// Whether a child has the second of two words.
fn choice(node: Node<'_, '_>, name: &str, words: [&str; 2]) -> Result<bool, ModelError> {
    let content = required(node, name)?;
    words
        .iter()
        .position(|word| content.text == *word)
        .map(|at| at == 1)
        .ok_or_else(|| content.error(&format!("<{name}> is {} or {}", words[0], words[1])))
}

fn elements<'a, 'input: 'a>(
    node: Node<'a, 'input>,
    name: &str,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children()
        .filter(move |child| child.tag_name().name() == name)
}

fn place(node: Node<'_, '_>) -> Place {
    Place(node.document().text_pos_at(node.range().start))
}
