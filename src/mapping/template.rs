//! Texts with placeholders: topics and device names.

use std::fmt::Write as _;

use crate::name_pattern::glob_matches;

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `{base}`: the base topic.
    Base,
    /// `{device}`: the device's topic name.
    Device,
    /// `{device.area}`: the area that the profile puts the device in.
    DeviceArea,
    /// `{endpoint}`: the endpoint name.
    Endpoint,
    /// `{endpoint:tail}`: what follows its last `-` or `:`.
    EndpointTail,
    /// `{inst}`: the name of the object instance.
    Inst,
    /// `{oid}`: the Object ID.
    Oid,
    /// `{iid}`: the Object Instance ID.
    Iid,
    /// `{rid}`: the Resource ID.
    Rid,
    /// `{riid}`: the Resource Instance ID.
    Riid,
    /// `{name}`: the name of the signal.
    Name,
}

const FIELDS: [(&str, Field); 11] = [
    ("base", Field::Base),
    ("device", Field::Device),
    ("device.area", Field::DeviceArea),
    ("endpoint", Field::Endpoint),
    ("endpoint:tail", Field::EndpointTail),
    ("inst", Field::Inst),
    ("oid", Field::Oid),
    ("iid", Field::Iid),
    ("rid", Field::Rid),
    ("riid", Field::Riid),
    ("name", Field::Name),
];

impl Field {
    /// What may stand in a topic.
    pub const TOPIC: [Self; 11] = [
        Self::Base,
        Self::Device,
        Self::DeviceArea,
        Self::Endpoint,
        Self::EndpointTail,
        Self::Inst,
        Self::Oid,
        Self::Iid,
        Self::Rid,
        Self::Riid,
        Self::Name,
    ];
    /// What may stand in a device's name.
    pub const DEVICE_NAME: [Self; 4] = [
        Self::Base,
        Self::DeviceArea,
        Self::Endpoint,
        Self::EndpointTail,
    ];

    /// What stands between the braces.
    pub fn name(self) -> &'static str {
        FIELDS
            .iter()
            .find(|(_, field)| *field == self)
            .map_or("", |(name, _)| name)
    }
}

/// A text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(Field),
}

/// Why a text is not a [`Template`]; holds the part that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// A brace without its other one.
    Brace,
    /// There is no such placeholder, or not in this place.
    Unknown(String),
    /// A placeholder of the language that this version does not fill in.
    NotBuilt(String),
}

impl Template {
    /// Reads `text`; only `allowed` placeholders may stand in it.
    ///
    /// # Errors
    ///
    /// The first part that is wrong.
    pub fn parse(text: &str, allowed: &[Field]) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, after)) = rest.split_once('{') {
            let (word, after) = after.split_once('}').ok_or(TemplateError::Brace)?;
            push_literal(&mut parts, literal)?;
            let field = FIELDS
                .iter()
                .find(|(name, field)| *name == word && allowed.contains(field));
            match field {
                Some((_, field)) => parts.push(Part::Field(*field)),
                None if word.starts_with("params.") || word == "now" || word.starts_with('/') => {
                    return Err(TemplateError::NotBuilt(word.to_owned()));
                }
                None => return Err(TemplateError::Unknown(word.to_owned())),
            }
            rest = after;
        }
        push_literal(&mut parts, rest)?;
        Ok(Self { parts })
    }

    /// Whether the placeholder stands in it.
    pub fn has(&self, field: Field) -> bool {
        self.parts.contains(&Part::Field(field))
    }

    /// Whether it can become `topic` with some content of its placeholders, of which none fills more
    /// than one level; `{base}` is `base`. One that begins with a placeholder could become nearly
    /// every topic, and is passed over.
    pub(super) fn may_be(&self, topic: &str, base: &str) -> bool {
        let glob = self.render(|field, text| match field {
            Field::Base => text.push_str(base),
            _ => text.push('*'),
        });
        let begins_literally = glob
            .split('/')
            .next()
            .is_some_and(|level| !level.contains('*'));
        begins_literally
            && glob.split('/').count() == topic.split('/').count()
            && glob
                .split('/')
                .zip(topic.split('/'))
                .all(|(glob, level)| glob_matches(glob, level))
    }

    /// The text with what `value` writes for each placeholder.
    pub fn render(&self, mut value: impl FnMut(Field, &mut String)) -> String {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Field(field) => value(*field, &mut text),
            }
        }
        text
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) -> Result<(), TemplateError> {
    if literal.contains('}') {
        return Err(TemplateError::Brace);
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.to_owned()));
    }
    Ok(())
}

/// Writes a number; a `String` takes anything.
pub(super) fn push_number(text: &mut String, number: u16) {
    let _ = write!(text, "{number}");
}

/// What follows the last `-` or `:` of an endpoint name; all of it when there is none.
pub fn endpoint_tail(endpoint: &str) -> &str {
    endpoint
        .rsplit(['-', ':'])
        .next()
        .filter(|tail| !tail.is_empty())
        .unwrap_or(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let template = Template::parse("{base}/p/{endpoint:tail}/{iid}x", &Field::TOPIC).unwrap();
        assert_eq!(
            template.render(|field, text| text.push_str(field.name())),
            "base/p/endpoint:tail/iidx"
        );
        assert!(template.has(Field::Base) && !template.has(Field::Name));
    }

    #[test]
    fn a_topic_is_known_for_one_that_a_template_can_become() {
        let template = Template::parse("{base}/p/x-{device}/{iid}", &Field::TOPIC).unwrap();
        for (topic, may_be) in [
            ("b/c/p/x-dev1/0", true),
            ("b/c/p/dev1/0", false),
            ("b/c/p/x-dev1/0/1", false),
            ("b/c/p/x-dev1", false),
            ("c/p/x-dev1/0", false),
        ] {
            assert_eq!(template.may_be(topic, "b/c"), may_be, "{topic}");
        }
        let template = Template::parse("{device}/{inst}/{name}", &Field::TOPIC).unwrap();
        assert!(!template.may_be("app/42/in", "b/c"));
    }

    #[test]
    fn a_wrong_placeholder_is_named() {
        for (text, error) in [
            ("a{b", TemplateError::Brace),
            ("a}b", TemplateError::Brace),
            ("a{base}}", TemplateError::Brace),
            ("a{bse}", TemplateError::Unknown("bse".into())),
            ("{inst}", TemplateError::Unknown("inst".into())),
            ("{/3/0/2}", TemplateError::NotBuilt("/3/0/2".into())),
            ("{params.x}", TemplateError::NotBuilt("params.x".into())),
        ] {
            assert_eq!(
                Template::parse(text, &Field::DEVICE_NAME),
                Err(error),
                "{text}"
            );
        }
    }

    #[test]
    fn the_tail_is_behind_the_last_separator() {
        for (endpoint, tail) in [
            ("urn:dev:ops:32473-CR200-00A7", "00A7"),
            ("urn:imei:490154", "490154"),
            ("dev1", "dev1"),
            ("dev-", "dev-"),
        ] {
            assert_eq!(endpoint_tail(endpoint), tail);
        }
    }
}
