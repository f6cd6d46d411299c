//! The catalogue of object definitions, read from the registry's short form.
//!
//! Texts stay where they are: in the program file, or in one arena for what was added. A
//! definition holds their place only.

use super::{Operations, Version, xml};
use crate::lwm2m::path::{Id, MAX_ID};
use crate::lwm2m::value::DataType;

const BUILTIN: &str = include_str!("registry.txt");

/// How many versions of one object are kept; a [`Form`] has a bit for each.
pub(super) const MAX_EDITIONS: usize = 32;

/// The place of a text in a [`Catalogue`].
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Text {
    start: u32,
    len: u32,
}

/// Definitions of objects, ascending by id.
#[derive(Clone, Default)]
pub(super) struct Catalogue {
    builtin: &'static str,
    /// Texts of added definitions; their places follow on those of `builtin`.
    added: String,
    objects: Vec<Object>,
}

/// All versions of one object.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) id: Id,
    /// Ascending by version, never empty.
    pub(super) editions: Vec<Edition>,
    /// Ascending by resource; several of one resource differ in their `editions`.
    forms: Vec<Form>,
}

/// What a version says of the object itself.
#[derive(Clone, Copy)]
pub(super) struct Edition {
    pub(super) version: Version,
    pub(super) lwm2m: Version,
    pub(super) multiple: bool,
    pub(super) mandatory: bool,
    pub(super) name: Text,
}

/// A resource as one or several versions of its object define it.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) id: Id,
    pub(super) operations: Operations,
    pub(super) multiple: bool,
    pub(super) mandatory: bool,
    pub(super) data_type: Option<DataType>,
    /// Bit n: the n-th edition has this form.
    editions: u32,
    /// Name, units and range, parted by tabs.
    pub(super) text: Text,
}

impl Catalogue {
    pub(super) fn builtin() -> Self {
        let mut catalogue = Self {
            builtin: BUILTIN,
            ..Self::default()
        };
        let mut start = 0;
        for line in BUILTIN.split('\n') {
            catalogue.read_line(line, start);
            start += line.len() as u32 + 1;
        }
        for object in &mut catalogue.objects {
            object.editions.shrink_to_fit();
            object.forms.shrink_to_fit();
        }
        catalogue.objects.shrink_to_fit();
        catalogue
    }

    pub(super) fn objects(&self) -> &[Object] {
        &self.objects
    }

    pub(super) fn object(&self, id: Id) -> Option<&Object> {
        let at = self.objects.binary_search_by_key(&id, |o| o.id).ok()?;
        self.objects.get(at)
    }

    pub(super) fn text(&self, text: Text) -> &str {
        let (start, len) = (text.start as usize, text.len as usize);
        let (source, start) = match start.checked_sub(self.builtin.len()) {
            None => (self.builtin, start),
            Some(start) => (self.added.as_str(), start),
        };
        source.get(start..start + len).unwrap_or_default()
    }

    /// Reads one line of the short form; `None` for a comment or what is no definition.
    ///
    /// A test holds every line of the built-in registry to be read.
    fn read_line(&mut self, line: &'static str, start: u32) -> Option<()> {
        let mut columns = line.split('\t');
        let first = columns.next()?;
        if let Some(id) = first.strip_prefix('/') {
            let id = id.parse().ok()?;
            let version = columns.next()?.parse().ok()?;
            let lwm2m = columns.next()?.parse().ok()?;
            let (multiple, mandatory) = flags(columns.next()?)?;
            let name = columns.next()?;
            if self.objects.last().is_none_or(|object| object.id != id) {
                self.objects.push(Object::new(id));
            }
            self.objects.last_mut()?.editions.push(Edition {
                version,
                lwm2m,
                multiple,
                mandatory,
                name: Text {
                    start: start + (line.len() - name.len()) as u32,
                    len: name.len() as u32,
                },
            });
            return Some(());
        }
        let id = first.parse().ok()?;
        let object = self.objects.last_mut()?;
        let editions = object.editions_of(columns.next()?)?;
        let operations = Operations::parse(columns.next()?.trim_start_matches('-'))?;
        let (multiple, mandatory) = flags(columns.next()?)?;
        let data_type = data_type(columns.next()?)?;
        let name = columns.next()?;
        let offset = name.as_ptr() as usize - line.as_ptr() as usize;
        object.forms.push(Form {
            id,
            operations,
            multiple,
            mandatory,
            data_type,
            editions,
            text: Text {
                start: start + offset as u32,
                len: (line.len() - offset) as u32,
            },
        });
        Some(())
    }

    /// Adds a definition, in place of one of the same id and version; `None` when the object has
    /// [`MAX_EDITIONS`] versions already.
    pub(super) fn add(&mut self, definition: &xml::Definition) -> Option<()> {
        let at = self
            .objects
            .binary_search_by_key(&definition.id, |object| object.id)
            .unwrap_or_else(|at| {
                self.objects.insert(at, Object::new(definition.id));
                at
            });
        let edition = Edition {
            version: definition.version,
            lwm2m: definition.lwm2m,
            multiple: definition.multiple,
            mandatory: definition.mandatory,
            name: self.keep(&[&definition.name]),
        };
        let editions = 1 << self.objects.get_mut(at)?.replace_edition(edition)?;
        for resource in &definition.resources {
            let text = self.keep(&[&resource.name, &resource.units, &resource.range]);
            self.objects.get_mut(at)?.forms.push(Form {
                id: resource.id,
                operations: resource.operations,
                multiple: resource.multiple,
                mandatory: resource.mandatory,
                data_type: resource.data_type,
                editions,
                text,
            });
        }
        self.objects.get_mut(at)?.forms.sort_by_key(|form| form.id);
        Some(())
    }

    fn keep(&mut self, columns: &[&str]) -> Text {
        let start = self.added.len();
        for (at, column) in columns.iter().enumerate() {
            if at > 0 {
                self.added.push('\t');
            }
            self.added.push_str(column);
        }
        Text {
            start: (self.builtin.len() + start) as u32,
            len: (self.added.len() - start) as u32,
        }
    }
}

impl Object {
    fn new(id: Id) -> Self {
        Self {
            id,
            editions: Vec::new(),
            forms: Vec::new(),
        }
    }

    /// The place of that version, else of the nearest with its major number, else of the newest.
    pub(super) fn nearest(&self, version: Option<Version>) -> Option<usize> {
        let newest = self.editions.len().checked_sub(1)?;
        let Some(version) = version else {
            return Some(newest);
        };
        self.editions
            .iter()
            .enumerate()
            .filter(|(_, edition)| edition.version.major == version.major)
            .min_by_key(|(_, edition)| {
                let found = edition.version.minor;
                // Of two as near, the newer one.
                (found.abs_diff(version.minor), found < version.minor)
            })
            .map_or(Some(newest), |(at, _)| Some(at))
    }

    /// The form of a resource in the n-th edition.
    pub(super) fn form(&self, resource: Id, edition: usize) -> Option<&Form> {
        self.forms_of_resource(resource)
            .iter()
            .find(|form| form.is_of(edition))
    }

    /// The form of a resource in the newest edition that has it.
    pub(super) fn newest_form(&self, resource: Id) -> Option<&Form> {
        self.forms_of_resource(resource)
            .iter()
            .max_by_key(|form| form.editions)
    }

    /// The forms of the n-th edition, ascending by resource.
    pub(super) fn forms_of(&self, edition: usize) -> impl Iterator<Item = &Form> {
        self.forms.iter().filter(move |form| form.is_of(edition))
    }

    /// Every resource that any edition has, in its newest form and whether any form is multiple,
    /// ascending.
    pub(super) fn resources(&self) -> impl Iterator<Item = (&Form, bool)> {
        self.forms
            .chunk_by(|a, b| a.id == b.id)
            .filter_map(|forms| {
                let newest = forms.iter().max_by_key(|form| form.editions)?;
                Some((newest, forms.iter().any(|form| form.multiple)))
            })
    }

    fn forms_of_resource(&self, resource: Id) -> &[Form] {
        let start = self.forms.partition_point(|form| form.id < resource);
        let rest = self.forms.get(start..).unwrap_or_default();
        let len = rest.iter().take_while(|form| form.id == resource).count();
        rest.get(..len).unwrap_or_default()
    }

    /// The bits of the versions that a line names.
    fn editions_of(&self, text: &str) -> Option<u32> {
        if text == "*" {
            let unused = MAX_EDITIONS.checked_sub(self.editions.len())?;
            return u32::MAX.checked_shr(unused as u32);
        }
        text.split(',').try_fold(0, |bits, version| {
            let version: Version = version.parse().ok()?;
            let at = self.editions.iter().position(|e| e.version == version)?;
            Some(bits | 1 << at)
        })
    }

    /// Puts an edition in its place, without resources, and says where that is.
    fn replace_edition(&mut self, edition: Edition) -> Option<usize> {
        let place = self
            .editions
            .binary_search_by_key(&edition.version, |edition| edition.version);
        match place {
            Ok(at) => {
                self.editions[at] = edition;
                self.forms
                    .iter_mut()
                    .for_each(|form| form.editions &= !(1 << at));
                self.forms.retain(|form| form.editions != 0);
                Some(at)
            }
            Err(_) if self.editions.len() == MAX_EDITIONS => None,
            Err(at) => {
                self.editions.insert(at, edition);
                let below = (1 << at) - 1;
                for form in &mut self.forms {
                    form.editions = form.editions & below | (form.editions & !below) << 1;
                }
                Some(at)
            }
        }
    }
}

impl Form {
    fn is_of(&self, edition: usize) -> bool {
        self.editions >> edition & 1 == 1
    }
}

/// `M` or `S` for multiple or single, `M` or `O` for mandatory or optional.
fn flags(text: &str) -> Option<(bool, bool)> {
    match text {
        "SO" => Some((false, false)),
        "SM" => Some((false, true)),
        "MO" => Some((true, false)),
        "MM" => Some((true, true)),
        _ => None,
    }
}

/// The data type as object files name it; the inner `None` is no type at all.
pub(super) fn data_type(text: &str) -> Option<Option<DataType>> {
    Some(Some(match text {
        "" => return Some(None),
        "String" => DataType::String,
        "Integer" => DataType::Integer,
        "Unsigned Integer" => DataType::UnsignedInteger,
        "Float" => DataType::Float,
        "Boolean" => DataType::Boolean,
        "Opaque" => DataType::Opaque,
        "Time" => DataType::Time,
        "Objlnk" => DataType::ObjectLink,
        "Corelnk" => DataType::CoreLink,
        _ => return None,
    }))
}

/// An identifier as object files write it.
pub(super) fn id(text: &str) -> Option<Id> {
    text.parse().ok().filter(|&id| id != MAX_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_registry_is_read() {
        let mut catalogue = Catalogue {
            builtin: BUILTIN,
            ..Catalogue::default()
        };
        let mut read = 0;
        for line in BUILTIN.lines().filter(|line| !line.starts_with('#')) {
            assert!(catalogue.read_line(line, 0).is_some(), "{line}");
            read += 1;
        }
        let editions: usize = catalogue.objects.iter().map(|o| o.editions.len()).sum();
        let forms: usize = catalogue.objects.iter().map(|o| o.forms.len()).sum();
        assert_eq!(read, editions + forms);
        assert_eq!((catalogue.objects.len(), editions), (327, 424));
        assert!(catalogue.objects.is_sorted_by(|a, b| a.id < b.id));
        for object in &catalogue.objects {
            assert!(object.editions.is_sorted_by(|a, b| a.version < b.version));
            assert!(object.forms.is_sorted_by_key(|form| form.id));
        }
    }

    #[test]
    fn each_version_has_each_resource_once() {
        for object in Catalogue::builtin().objects() {
            for forms in object.forms.chunk_by(|a, b| a.id == b.id) {
                let all = forms.iter().fold(0, |bits, form| bits ^ form.editions);
                let sum: u32 = forms.iter().map(|form| form.editions.count_ones()).sum();
                assert_eq!(all.count_ones(), sum, "/{} {}", object.id, forms[0].id);
            }
        }
    }
}
