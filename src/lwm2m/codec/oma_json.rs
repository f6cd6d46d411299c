//! JSON of LwM2M 1.0 (LwM2M Core 1.0 §6.4.4), which servers must still read.
//!
//! ```json
//! {"bn":"/3/0/","bt":25462634,"e":[{"n":"0","sv":"Open Mobile Alliance"},{"n":"9","v":100,"t":-5}]}
//! ```

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};

use super::json::{Scalar, Text};
use super::senml::{Field, Fields, Pack};
use super::{DecodeError, MAX_RECORDS, Sink};
use crate::lwm2m::path::Path;

pub(super) fn decode(payload: &[u8], sink: &mut Sink<'_>) -> Result<(), DecodeError> {
    if payload.is_empty() {
        return Ok(());
    }
    let document: Document<'_> = serde_json::from_slice(payload)
        .map_err(|error| DecodeError::Json(format!("not OMA JSON: {error}")))?;
    let mut pack = Pack::default();
    pack.record(document.base, sink)?;
    for mut fields in document.entries {
        if !document.has_base_name {
            fields.name = Some(from_request(fields.name.as_deref(), &sink.context.base).into());
        } else if fields.name.is_none() && fields.value.is_some() {
            fields.name = Some("".into());
        }
        pack.record(fields, sink)?;
    }
    Ok(())
}

/// The name that an entry has where there is no base name: it is relative to the request.
fn from_request(name: Option<&str>, base: &Path) -> String {
    match name {
        None | Some("") => base.to_string(),
        Some(name) if name.starts_with('/') => name.to_owned(),
        Some(name) if *base == Path::ROOT => format!("/{name}"),
        Some(name) => format!("{base}/{name}"),
    }
}

/// The base may stand behind the entries, so all is read before any of it is understood.
struct Document<'a> {
    base: Fields<'a>,
    has_base_name: bool,
    entries: Vec<Fields<'a>>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Document<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with entries in \"e\"")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut base = Fields::default();
                let mut entries = None;
                while let Some(Text(label)) = map.next_key()? {
                    match &*label {
                        "bn" => base.base_name = Some(map.next_value::<Text<'_>>()?.0),
                        "bt" => base.base_time = Some(map.next_value()?),
                        "e" if entries.is_some() => return Err(de::Error::duplicate_field("e")),
                        "e" => entries = Some(map.next_value::<Entries<'_>>()?.0),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(Document {
                    has_base_name: base.base_name.is_some(),
                    base,
                    entries: entries.ok_or_else(|| de::Error::missing_field("e"))?,
                })
            }
        }

        json.deserialize_map(DocumentVisitor)
    }
}

/// What stands in `e`; so many of it that too many are noticed.
struct Entries<'a>(Vec<Fields<'a>>);

impl<'de: 'a, 'a> Deserialize<'de> for Entries<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of entries")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while entries.len() <= MAX_RECORDS {
                    match array.next_element()? {
                        Some(Entry(fields)) => entries.push(fields),
                        None => return Ok(Entries(entries)),
                    }
                }
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Entries(entries))
            }
        }

        json.deserialize_seq(EntriesVisitor)
    }
}

struct Entry<'a>(Fields<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for Entry<'a> {
    fn deserialize<D: Deserializer<'de>>(json: D) -> Result<Self, D::Error> {
        struct EntryVisitor;

        impl<'de> Visitor<'de> for EntryVisitor {
            type Value = Entry<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an entry")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Fields::default();
                while let Some(Text(label)) = map.next_key()? {
                    let label = &*label;
                    if !matches!(label, "n" | "t" | "v" | "bv" | "sv" | "ov") {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    }
                    match (label, map.next_value::<Scalar<'_>>()?) {
                        ("n", Scalar::Text(name)) => fields.name = Some(name),
                        ("n", _) => fields.break_off(label, "is no text"),
                        ("t", Scalar::Number(time)) => fields.time = time.as_f64(),
                        ("t", _) => fields.break_off(label, "is no number"),
                        ("sv", Scalar::Text(text)) => {
                            fields.set_value(label, Field::Text(text.into_owned()));
                        }
                        ("ov", value) => fields.set_value(label, value.or(Field::of_link)),
                        // The value itself tells its type.
                        (_, value) => fields.set_value(label, value.into()),
                    }
                }
                Ok(Entry(fields))
            }
        }

        json.deserialize_map(EntryVisitor)
    }
}
