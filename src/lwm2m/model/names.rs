//! Names of objects and resources on topics.
//!
//! A topic is `{object name}-{instance}/{resource name}`, or `…/{resource name}-{index}` for a
//! resource instance. So that no two paths share a topic,
//!
//! * object names differ from each other (the instance stands behind the last `-`);
//! * resource names of one object differ from each other, and none is that of a multiple resource
//!   with `-` and a number behind it;
//! * a number is never a name but of the object or resource that has this number; it also stands
//!   for a single resource where an instance of it is named, which no model knows.
//!
//! Identifiers are named in ascending order: where a name is taken, the higher one carries its
//! number.

use std::collections::{BTreeMap, BTreeSet};

use super::registry::{Catalogue, Object};
use crate::lwm2m::path::Id;

/// The longest plain name, in bytes; what an object file has beyond is cut off.
const MAX_NAME: usize = 128;

/// Lower case, each run of characters other than `a`–`z` and `0`–`9` made one `-`, none at the
/// ends.
pub fn kebab(text: &str) -> String {
    let mut name = String::with_capacity(text.len());
    push_kebab(text, &mut name);
    name
}

fn push_kebab(text: &str, name: &mut String) {
    let start = name.len();
    let mut gap = false;
    for letter in text.bytes() {
        if letter.is_ascii_alphanumeric() {
            if gap && name.len() > start {
                name.push('-');
            }
            gap = false;
            name.push(char::from(letter.to_ascii_lowercase()));
        } else {
            gap = true;
        }
    }
}

/// The names of everything in a [`Catalogue`].
#[derive(Clone, Default)]
pub(super) struct Names {
    /// All names, one behind the other.
    text: String,
    /// Ascending by object.
    objects: Vec<ObjectNames>,
    /// Places in `objects`, ascending by name.
    by_name: Vec<u16>,
    /// Object by object, and there ascending by resource.
    resources: Vec<Name>,
}

#[derive(Clone, Copy)]
struct Name {
    id: Id,
    len: u8,
    /// Of a resource: whether any version of the object has instances of it.
    multiple: bool,
    start: u32,
}

#[derive(Clone, Copy)]
struct ObjectNames {
    name: Name,
    /// Places in `Names::resources`.
    resources: (u32, u32),
}

impl Names {
    pub(super) fn of(catalogue: &Catalogue) -> Self {
        let mut names = Self::default();
        let mut taken = BTreeSet::new();
        for object in catalogue.objects() {
            let newest = object
                .editions
                .last()
                .map_or("", |e| catalogue.text(e.name));
            let label = label(object.id, newest, |label| taken.contains(label));
            let name = names.push(object.id, &label, true);
            taken.insert(label);
            let first = names.resources.len() as u32;
            names.push_resources(catalogue, object);
            names.objects.push(ObjectNames {
                name,
                resources: (first, names.resources.len() as u32),
            });
        }
        names.text.shrink_to_fit();
        names.resources.shrink_to_fit();
        let mut by_name: Vec<u16> = (0..).take(names.objects.len()).collect();
        by_name.sort_by_key(|&at| names.text(names.objects[usize::from(at)].name));
        names.by_name = by_name;
        names
    }

    fn push_resources(&mut self, catalogue: &Catalogue, object: &Object) {
        let mut taken = BTreeMap::new();
        for (form, multiple) in object.resources() {
            let spelled = catalogue.text(form.text).split('\t').next();
            let label = label(form.id, spelled.unwrap_or_default(), |label| {
                is_taken(&taken, label, multiple)
            });
            let name = self.push(form.id, &label, multiple);
            self.resources.push(name);
            taken.insert(label, multiple);
        }
    }

    fn push(&mut self, id: Id, label: &str, multiple: bool) -> Name {
        let start = self.text.len() as u32;
        self.text.push_str(label);
        Name {
            id,
            len: label.len() as u8,
            multiple,
            start,
        }
    }

    fn text(&self, name: Name) -> &str {
        let start = name.start as usize;
        self.text
            .get(start..start + usize::from(name.len))
            .unwrap_or_default()
    }

    pub(super) fn object(&self, id: Id) -> Option<&str> {
        Some(self.text(self.object_names(id)?.name))
    }

    pub(super) fn object_by_name(&self, name: &str) -> Option<Id> {
        let name_at = |at: &u16| {
            let object = self.objects.get(usize::from(*at));
            object.map_or("", |object| self.text(object.name))
        };
        let found = self
            .by_name
            .binary_search_by(|at| name_at(at).cmp(name))
            .ok()?;
        let at = *self.by_name.get(found)?;
        Some(self.objects.get(usize::from(at))?.name.id)
    }

    pub(super) fn resource(&self, object: Id, resource: Id) -> Option<&str> {
        Some(self.text(self.resource_entry(object, resource)?))
    }

    /// Whether instances of the resource go by its number: it is known, and known to have none.
    pub(super) fn is_single(&self, object: Id, resource: Id) -> bool {
        self.resource_entry(object, resource)
            .is_some_and(|name| !name.multiple)
    }

    fn resource_entry(&self, object: Id, resource: Id) -> Option<Name> {
        let names = self.resources_of(object)?;
        let at = names.binary_search_by_key(&resource, |name| name.id).ok()?;
        names.get(at).copied()
    }

    pub(super) fn resource_by_name(&self, object: Id, label: &str) -> Option<Id> {
        self.resources_of(object)?
            .iter()
            .find(|&&name| self.text(name) == label)
            .map(|name| name.id)
    }

    fn object_names(&self, id: Id) -> Option<&ObjectNames> {
        let at = self
            .objects
            .binary_search_by_key(&id, |object| object.name.id)
            .ok()?;
        self.objects.get(at)
    }

    fn resources_of(&self, object: Id) -> Option<&[Name]> {
        let (start, end) = self.object_names(object)?.resources;
        self.resources.get(start as usize..end as usize)
    }
}

/// The first that is free of the plain name, the name with its number, and the number alone.
fn label(id: Id, spelled: &str, is_taken: impl Fn(&str) -> bool) -> String {
    let mut label = String::with_capacity(spelled.len() + 6);
    push_kebab(spelled, &mut label);
    label.truncate(MAX_NAME);
    if !label.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return id.to_string();
    }
    if is_taken(&label) {
        label = format!("{label}-{id}");
    }
    if is_taken(&label) {
        label = id.to_string();
    }
    label
}

/// Whether a resource name, or a resource instance of a multiple one, would be another's.
fn is_taken(taken: &BTreeMap<String, bool>, label: &str, multiple: bool) -> bool {
    if taken.contains_key(label) {
        return true;
    }
    if let Some((shorter, index)) = label.rsplit_once('-')
        && number(index).is_some()
        && taken.get(shorter) == Some(&true)
    {
        return true;
    }
    let prefix = format!("{label}-");
    multiple
        && taken
            .range(prefix.clone()..)
            .map_while(|(longer, _)| longer.strip_prefix(&prefix))
            .any(|rest| number(rest).is_some())
}

/// An identifier in canonical decimal.
pub(super) fn number(text: &str) -> Option<Id> {
    match text.as_bytes() {
        [b'0'] | [b'1'..=b'9', ..] => super::registry::id(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kebab_case_keeps_letters_and_digits() {
        for (text, name) in [
            ("Sensor Value", "sensor-value"),
            ("On/Off", "on-off"),
            ("  LwM2M  Server (SMS) ", "lwm2m-server-sms"),
            ("Min. X-Value", "min-x-value"),
            ("Temp\u{e9}rature", "temp-rature"),
            ("---", ""),
            ("", ""),
        ] {
            assert_eq!(kebab(text), name, "{text:?}");
        }
    }

    #[test]
    fn a_taken_name_carries_its_number() {
        let free = |_: &str| false;
        assert_eq!(label(7, "Power", free), "power");
        assert_eq!(label(7, "Power", |name| name == "power"), "power-7");
        assert_eq!(label(7, "Power", |_| true), "7");
        assert_eq!(label(7, "42", free), "7", "a number is another one's name");
        assert_eq!(label(7, "\u{96fb}\u{529b}", free), "7");
    }

    #[test]
    fn a_resource_is_never_named_like_the_instance_of_another() {
        let taken = BTreeMap::from([("input".to_owned(), true), ("output-3".to_owned(), false)]);
        assert!(is_taken(&taken, "input-1", false));
        assert!(!is_taken(&taken, "input-01", false));
        assert!(!is_taken(&taken, "input-1-a", false));
        assert!(!is_taken(&taken, "output-3-1", false));
        assert!(is_taken(&taken, "output", true));
        assert!(!is_taken(&taken, "output", false));
        assert!(!is_taken(&taken, "out", true));
    }
}
