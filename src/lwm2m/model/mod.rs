//! Object definitions: the OMA registry, built in, and object files read at run time.
//!
//! [`Models`] answers what a resource is ([`Models::object`]), what it is called on topics
//! ([`Models::object_name`]) and which type its values have ([`DeviceTypes`]).

mod device;
mod names;
mod registry;
mod version;
mod xml;

use std::borrow::Cow;
use std::fmt;

pub use device::{DeviceTypes, ResourceType, ResourceTypes};
pub use names::kebab;
pub use version::{Version, VersionError};

use crate::lwm2m::path::Id;
use crate::lwm2m::value::DataType;
use names::Names;
use registry::{Catalogue, Edition, Form, Object};

/// All object definitions known, and the names that topics are made of.
///
/// The built-in registry costs about 250 kB of memory beside its text, which stays in the
/// program file.
#[derive(Clone)]
pub struct Models {
    catalogue: Catalogue,
    names: Names,
}

/// One version of one object.
#[derive(Clone, Copy)]
pub struct ObjectModel<'a> {
    /// The Object ID.
    pub id: Id,
    /// The object's name as its definition spells it.
    pub name: &'a str,
    /// The version defined.
    pub version: Version,
    /// The least LwM2M version that the definition needs.
    pub lwm2m: Version,
    /// Whether there may be several instances.
    pub multiple: bool,
    /// Whether every device has it.
    pub mandatory: bool,
    catalogue: &'a Catalogue,
    object: &'a Object,
    edition: u32,
}

/// A resource of one version of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResourceModel<'a> {
    /// The Resource ID.
    pub id: Id,
    /// The resource's name as its definition spells it.
    pub name: &'a str,
    /// What a server may do with it.
    pub operations: Operations,
    /// Whether it has resource instances.
    pub multiple: bool,
    /// Whether every instance of the object has it.
    pub mandatory: bool,
    /// The type of its values; `None` for what is executed.
    pub data_type: Option<DataType>,
    /// Its unit as the definition spells it, mostly from SenML (RFC 8428 §12.1).
    pub units: Option<&'a str>,
    /// The values allowed, in free text, `0..255`.
    pub range: Option<&'a str>,
}

/// What a server may do with a resource; none of them means that only bootstrap reaches it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Read, Observe, Discover.
    pub read: bool,
    /// Write.
    pub write: bool,
    /// Execute.
    pub execute: bool,
}

impl Operations {
    /// Reads `R`, `W`, `RW`, `E` and the empty text of an object file; anything else is `None`.
    fn parse(text: &str) -> Option<Self> {
        let mut operations = Self::default();
        for letter in text.bytes() {
            let operation = match letter {
                b'R' => &mut operations.read,
                b'W' => &mut operations.write,
                b'E' => &mut operations.execute,
                _ => return None,
            };
            *operation = true;
        }
        Some(operations)
    }
}

/// Why an object file is refused, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct ModelError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong, and how it should be.
    pub message: String,
}

impl Models {
    /// The OMA registry as it was when this program was made.
    ///
    /// Takes a few milliseconds: make it once and share it.
    pub fn builtin() -> Self {
        let catalogue = Catalogue::builtin();
        let names = Names::of(&catalogue);
        Self { catalogue, names }
    }

    /// No object at all.
    pub fn empty() -> Self {
        let catalogue = Catalogue::default();
        let names = Names::of(&catalogue);
        Self { catalogue, names }
    }

    /// Adds the objects of an OMA object file (`LWM2M.xsd`), and says which those are.
    ///
    /// An object of the same id and version is replaced. Names may move: they come from the newest
    /// version of an object.
    ///
    /// # Errors
    ///
    /// When the text is not an object file. Nothing of it is added then.
    pub fn add_xml(&mut self, text: &str) -> Result<Vec<(Id, Version)>, ModelError> {
        let definitions = xml::parse(text)?;
        let added = definitions
            .iter()
            .map(|definition| (definition.id, definition.version))
            .collect();
        let mut catalogue = self.catalogue.clone();
        for definition in &definitions {
            catalogue.add(definition).ok_or_else(|| {
                let message = format!(
                    "object {} has {} versions already, no more are kept",
                    definition.id,
                    registry::MAX_EDITIONS
                );
                definition.place.error(message)
            })?;
        }
        self.names = Names::of(&catalogue);
        self.catalogue = catalogue;
        Ok(added)
    }

    /// The definition of object `id`: of that version, else of the nearest version with the same
    /// major number, else of the newest. No version means the newest.
    pub fn object(&self, id: Id, version: Option<Version>) -> Option<ObjectModel<'_>> {
        let object = self.catalogue.object(id)?;
        let edition = object.nearest(version)?;
        Some(self.view(object, edition))
    }

    /// The newest definition of every object, in the order of their identifiers.
    pub fn objects(&self) -> impl Iterator<Item = ObjectModel<'_>> {
        self.catalogue.objects().iter().filter_map(|object| {
            let edition = object.nearest(None)?;
            Some(self.view(object, edition))
        })
    }

    /// Every version known of object `id`, oldest first.
    pub fn versions(&self, id: Id) -> impl Iterator<Item = ObjectModel<'_>> {
        self.catalogue
            .object(id)
            .into_iter()
            .flat_map(move |object| {
                (0..object.editions.len()).map(move |edition| self.view(object, edition))
            })
    }

    /// A resource as the newest version of its object that has it defines it.
    pub fn newest_resource(&self, object: Id, resource: Id) -> Option<ResourceModel<'_>> {
        self.versions(object)
            .filter_map(|version| version.resource(resource))
            .last()
    }

    /// The type of a resource in the given version of its object (as [`Self::object`] finds it),
    /// else in the newest version that has the resource: devices that do not tell their
    /// object's version, or tell an old one, send newer resources all the same.
    pub fn resource_type(
        &self,
        object: Id,
        version: Option<Version>,
        resource: Id,
    ) -> Option<ResourceType> {
        let object = self.catalogue.object(object)?;
        let edition = object.nearest(version)?;
        let form = object
            .form(resource, edition)
            .or_else(|| object.newest_form(resource))?;
        Some(ResourceType {
            data_type: form.data_type,
            multiple: form.multiple,
        })
    }

    /// The name of an object on topics, without instance: `temperature`, or the number of an
    /// object unknown.
    pub fn object_name(&self, id: Id) -> Cow<'_, str> {
        match self.names.object(id) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(id.to_string()),
        }
    }

    /// The name of a resource on topics: `sensor-value`, or the number of a resource unknown.
    pub fn resource_name(&self, object: Id, resource: Id) -> Cow<'_, str> {
        match self.names.resource(object, resource) {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Owned(resource.to_string()),
        }
    }

    /// The name of an Object Instance on topics, `temperature-0`.
    pub fn instance_name(&self, object: Id, instance: Id) -> String {
        match self.names.object(object) {
            Some(name) => format!("{name}-{instance}"),
            None => format!("{object}-{instance}"),
        }
    }

    /// The name of a resource or a resource instance on topics, `available-power-sources-1`.
    ///
    /// An instance of a resource that has none in any version known keeps its numbers, `9-1`.
    pub fn signal_name(&self, object: Id, resource: Id, index: Option<Id>) -> String {
        match index {
            None => self.resource_name(object, resource).into_owned(),
            Some(index) if self.names.is_single(object, resource) => format!("{resource}-{index}"),
            Some(index) => format!("{}-{index}", self.resource_name(object, resource)),
        }
    }

    /// The object that [`Self::object_name`] gives this name.
    pub fn object_by_name(&self, name: &str) -> Option<Id> {
        self.names
            .object_by_name(name)
            .or_else(|| names::number(name).filter(|&id| self.names.object(id).is_none()))
    }

    /// The resource of `object` that [`Self::resource_name`] gives this name.
    pub fn resource_by_name(&self, object: Id, name: &str) -> Option<Id> {
        self.names
            .resource_by_name(object, name)
            .or_else(|| names::number(name).filter(|&id| self.names.resource(object, id).is_none()))
    }

    /// The object and instance that [`Self::instance_name`] gives this name.
    pub fn instance_by_name(&self, name: &str) -> Option<(Id, Id)> {
        let (object, instance) = name.rsplit_once('-')?;
        Some((self.object_by_name(object)?, names::number(instance)?))
    }

    /// The resource, and resource instance, that [`Self::signal_name`] gives this name.
    pub fn signal_by_name(&self, object: Id, name: &str) -> Option<(Id, Option<Id>)> {
        if let Some(resource) = self.resource_by_name(object, name) {
            return Some((resource, None));
        }
        let (name, index) = name.rsplit_once('-')?;
        let index = names::number(index)?;
        let resource = match self.resource_by_name(object, name) {
            Some(resource) if !self.names.is_single(object, resource) => resource,
            _ => names::number(name).filter(|&id| self.names.is_single(object, id))?,
        };
        Some((resource, Some(index)))
    }

    fn view<'a>(&'a self, object: &'a Object, edition: usize) -> ObjectModel<'a> {
        let Edition {
            version,
            lwm2m,
            multiple,
            mandatory,
            name,
        } = object.editions[edition];
        ObjectModel {
            id: object.id,
            name: self.catalogue.text(name),
            version,
            lwm2m,
            multiple,
            mandatory,
            catalogue: &self.catalogue,
            object,
            edition: edition as u32,
        }
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Models({} objects)", self.catalogue.objects().len())
    }
}

impl<'a> ObjectModel<'a> {
    /// The resource `id` of this version.
    pub fn resource(&self, id: Id) -> Option<ResourceModel<'a>> {
        let form = self.object.form(id, self.edition as usize)?;
        Some(self.resource_of(form))
    }

    /// The resources of this version, in the order of their identifiers.
    pub fn resources(&self) -> impl Iterator<Item = ResourceModel<'a>> {
        let this = *self;
        self.object
            .forms_of(self.edition as usize)
            .map(move |form| this.resource_of(form))
    }

    /// Its first resources for a sentence: `0 (Object ID), 1 (Object Instance ID), …`.
    pub fn outline(&self) -> String {
        let known: Vec<String> = self
            .resources()
            .take(8)
            .map(|resource| format!("{} ({})", resource.id, resource.name))
            .collect();
        format!("{}, …", known.join(", "))
    }

    fn resource_of(&self, form: &Form) -> ResourceModel<'a> {
        let mut columns = self.catalogue.text(form.text).split('\t');
        let mut column = || columns.next().filter(|text| !text.is_empty());
        ResourceModel {
            id: form.id,
            name: column().unwrap_or_default(),
            operations: form.operations,
            multiple: form.multiple,
            mandatory: form.mandatory,
            data_type: form.data_type,
            units: column(),
            range: column(),
        }
    }
}

impl fmt::Debug for ObjectModel<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} {} {:?}", self.id, self.version, self.name)
    }
}

#[cfg(test)]
mod tests;
