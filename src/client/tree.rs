//! What the client shows to its servers: objects, instances, resources and their values.
//!
//! The tree holds values, it does not produce them. Whoever produces one (a simulated sensor, a
//! shell that read a file) calls [`Tree::set`]; the tree remembers which values moved until
//! reporting asks.

use std::collections::{BTreeMap, BTreeSet};

use crate::lwm2m::codec::{ResourceType, ResourceTypes};
use crate::lwm2m::model::Operations;
use crate::lwm2m::path::MAX_ID;
use crate::lwm2m::{DataType, Id, ObjectLink, Path, Record, Value, Version};

/// The objects of one client.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    objects: BTreeMap<Id, Object>,
    changed: BTreeSet<Path>,
    revision: u64,
}

/// One object and its instances.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// The object's version, where it is not the one that the enabler or 1.0 implies
    /// (LwM2M Core 1.1 §7.2.2): it goes into the registration as `ver`.
    pub version: Option<Version>,
    /// The instances by id.
    pub instances: BTreeMap<Id, Instance>,
    /// What a new instance is like, where servers may create and delete some.
    pub model: Option<Instance>,
}

/// One object instance: its resources by id.
pub type Instance = BTreeMap<Id, Resource>;

/// One resource: what it is, and what it holds.
#[derive(Clone, Debug)]
pub struct Resource {
    /// What servers may do with it.
    pub operations: Operations,
    /// Whether the object is not whole without it.
    pub mandatory: bool,
    /// The least and the greatest number that a server may write.
    pub range: Option<(f64, f64)>,
    /// The type of its values; `None` for an executable resource.
    pub data_type: Option<DataType>,
    /// The values.
    pub content: Content,
}

/// What a resource holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Nothing: it is executed.
    Executable,
    /// One value, or none at present.
    Single(Option<Value>),
    /// Any number of resource instances, none included.
    Multiple(BTreeMap<Id, Value>),
}

/// Why a node cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such node.
    #[error("not found")]
    NotFound,
    /// The node does not allow the operation.
    #[error("not allowed here")]
    NotAllowed,
    /// The value is of another type, out of range, or a link to nowhere; or a mandatory one is missing.
    #[error("unacceptable value")]
    BadValue,
}

const READ: Operations = Operations {
    read: true,
    write: false,
    execute: false,
};
const READ_WRITE: Operations = Operations {
    read: true,
    write: true,
    execute: false,
};
const EXECUTE: Operations = Operations {
    read: false,
    write: false,
    execute: true,
};

impl Resource {
    /// One value that servers read.
    pub fn readable(value: Value) -> Self {
        Self {
            operations: READ,
            mandatory: false,
            range: None,
            data_type: Some(value.data_type()),
            content: Content::Single(Some(value)),
        }
    }

    /// One value that servers read and write.
    pub fn writable(value: Value) -> Self {
        Self {
            operations: READ_WRITE,
            ..Self::readable(value)
        }
    }

    /// A place for one value that servers read and write; none is there yet.
    pub fn vacant(data_type: DataType) -> Self {
        Self {
            operations: READ_WRITE,
            mandatory: false,
            range: None,
            data_type: Some(data_type),
            content: Content::Single(None),
        }
    }

    /// Several values of one type that servers read.
    pub fn multiple(data_type: DataType, values: impl IntoIterator<Item = (Id, Value)>) -> Self {
        Self {
            operations: READ,
            mandatory: false,
            range: None,
            data_type: Some(data_type),
            content: Content::Multiple(values.into_iter().collect()),
        }
    }

    /// Something that servers execute.
    pub fn executable() -> Self {
        Self {
            operations: EXECUTE,
            mandatory: false,
            range: None,
            data_type: None,
            content: Content::Executable,
        }
    }

    /// The same, mandatory in its object.
    pub fn mandatory(mut self) -> Self {
        self.mandatory = true;
        self
    }

    /// The same, writable only within `least..=greatest`.
    pub fn within(mut self, least: f64, greatest: f64) -> Self {
        self.range = Some((least, greatest));
        self
    }

    /// Whether a number is in the range that a server may write.
    pub(super) fn admits(&self, value: &Value) -> bool {
        match (self.range, value.as_f64()) {
            (Some((least, greatest)), Some(number)) => (least..=greatest).contains(&number),
            _ => true,
        }
    }

    /// Whether it has a value, or could be executed, at present.
    pub(super) fn is_present(&self) -> bool {
        self.content != Content::Single(None)
    }
}

impl Tree {
    /// A tree without objects.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an object instance, or replaces it. Servers learn of it with the next Update.
    pub fn insert(
        &mut self,
        object: Id,
        version: Option<Version>,
        instance: Id,
        resources: impl IntoIterator<Item = (Id, Resource)>,
    ) {
        let object = self.objects.entry(object).or_default();
        object.version = version;
        object
            .instances
            .insert(instance, resources.into_iter().collect());
        self.revision += 1;
    }

    /// Adds an object in which servers may create instances that are like `model`, and delete them.
    pub fn offer(&mut self, object: Id, version: Option<Version>, model: Instance) {
        let object = self.objects.entry(object).or_default();
        object.version = version;
        object.model = Some(model);
        self.revision += 1;
    }

    /// Removes an object instance. Observations of it end, and servers learn of it with the next
    /// Update. Returns whether it was there.
    pub fn remove(&mut self, object: Id, instance: Id) -> bool {
        let removed = self
            .objects
            .get_mut(&object)
            .is_some_and(|object| object.instances.remove(&instance).is_some());
        if removed {
            self.changed.insert(Path::instance(object, instance));
            self.revision += 1;
        }
        removed
    }

    /// Counts the changes to which objects and instances there are.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// All objects by id.
    pub fn objects(&self) -> &BTreeMap<Id, Object> {
        &self.objects
    }

    /// The resource at or above `path`.
    pub fn resource(&self, path: &Path) -> Option<&Resource> {
        let &[object, instance, resource, ..] = path.ids() else {
            return None;
        };
        let instance = self.objects.get(&object)?.instances.get(&instance)?;
        instance.get(&resource)
    }

    fn resource_mut(&mut self, path: &Path) -> Option<&mut Resource> {
        let &[object, instance, resource, ..] = path.ids() else {
            return None;
        };
        let object = self.objects.get_mut(&object)?;
        object.instances.get_mut(&instance)?.get_mut(&resource)
    }

    /// The value of a single resource or of a resource instance.
    pub fn value(&self, path: &Path) -> Option<&Value> {
        match (&self.resource(path)?.content, path.resource_instance_id()) {
            (Content::Single(value), None) => value.as_ref(),
            (Content::Multiple(values), Some(index)) => values.get(&index),
            _ => None,
        }
    }

    /// Whether the node exists. The root does.
    pub fn contains(&self, path: &Path) -> bool {
        match *path.ids() {
            [] => true,
            [object] => self.objects.contains_key(&object),
            [object, instance] => self
                .objects
                .get(&object)
                .is_some_and(|object| object.instances.contains_key(&instance)),
            [_, _, _] => self.resource(path).is_some_and(Resource::is_present),
            _ => self.value(path).is_some(),
        }
    }

    /// Whether a node exists, or might although nothing is there yet: what attributes attach to.
    ///
    /// # Errors
    /// [`Refusal::NotFound`]; [`Refusal::NotAllowed`] for an instance of a single resource.
    pub fn require(&self, path: &Path) -> Result<(), Refusal> {
        if let (Some(resource), Some(_)) = (self.resource(path), path.resource_instance_id())
            && !matches!(resource.content, Content::Multiple(_))
        {
            return Err(Refusal::NotAllowed);
        }
        match self.contains(path) {
            true => Ok(()),
            false => Err(Refusal::NotFound),
        }
    }

    /// Puts a value produced on this side, whatever servers may do with it. Returns whether
    /// anything changed; a path that holds no value of this type is left alone.
    pub fn set(&mut self, path: &Path, value: Value) -> bool {
        let Some(resource) = self.resource_mut(path) else {
            return false;
        };
        if resource.data_type != Some(value.data_type()) {
            return false;
        }
        let replaced = match (&mut resource.content, path.resource_instance_id()) {
            (Content::Single(held), None) => held.replace(value.clone()),
            (Content::Multiple(held), Some(index)) => held.insert(index, value.clone()),
            _ => return false,
        };
        let moved = replaced.as_ref() != Some(&value);
        if moved {
            self.changed.insert(*path);
        }
        moved
    }

    /// [`Tree::set`] for a value that moves with every look at it, such as the time of day: it is
    /// no reason for a notification, only part of one.
    pub fn set_silently(&mut self, path: &Path, value: Value) {
        let known = self.changed.contains(path);
        if self.set(path, value) && !known {
            self.changed.remove(path);
        }
    }

    /// The nodes whose values moved since the last call, in order.
    pub(super) fn take_changes(&mut self) -> BTreeSet<Path> {
        std::mem::take(&mut self.changed)
    }

    /// Appends the readable values at and below a node (LwM2M Core 1.1 §6.3.1).
    ///
    /// # Errors
    /// [`Refusal::NotFound`] for a node that is not there; [`Refusal::NotAllowed`] for a resource
    /// that is not readable, and for an instance of a single resource.
    pub fn read(&self, path: &Path, records: &mut Vec<Record>) -> Result<(), Refusal> {
        match *path.ids() {
            [] => Err(Refusal::NotAllowed),
            [object] => {
                let object = self.objects.get(&object).ok_or(Refusal::NotFound)?;
                for (&id, instance) in &object.instances {
                    path.child(id)
                        .into_iter()
                        .for_each(|path| read_instance(&path, instance, records));
                }
                Ok(())
            }
            [object, instance] => {
                let object = self.objects.get(&object).ok_or(Refusal::NotFound)?;
                let instance = object.instances.get(&instance).ok_or(Refusal::NotFound)?;
                read_instance(path, instance, records);
                Ok(())
            }
            _ => {
                let resource = self.resource(path).ok_or(Refusal::NotFound)?;
                if !resource.operations.read {
                    return Err(Refusal::NotAllowed);
                }
                self.require(path)?;
                if path.resource_instance_id().is_none() {
                    read_resource(path, resource, records);
                } else if let Some(value) = self.value(path) {
                    records.push(record(path, value));
                }
                Ok(())
            }
        }
    }

    /// Whether a server may write this value here, and the value as the resource holds it.
    pub(super) fn admit(&self, path: &Path, value: Value) -> Result<Value, Refusal> {
        let resource = self.resource(path).ok_or(Refusal::NotFound)?;
        if !resource.operations.write {
            return Err(Refusal::NotAllowed);
        }
        let multiple = matches!(resource.content, Content::Multiple(_));
        if multiple != path.resource_instance_id().is_some() {
            return Err(Refusal::BadValue);
        }
        let value = resource
            .data_type
            .and_then(|data_type| value.coerce(data_type).ok())
            .ok_or(Refusal::BadValue)?;
        let in_range = resource.admits(&value);
        let leads_somewhere = match value {
            Value::ObjectLink(link) => self.resolves(link),
            _ => true,
        };
        match in_range && leads_somewhere {
            true => Ok(value),
            false => Err(Refusal::BadValue),
        }
    }

    /// LwM2M Core 1.1 appendix C: an Object Link names what is there, or nothing at all.
    fn resolves(&self, link: ObjectLink) -> bool {
        match (link.object, link.instance) {
            (MAX_ID, MAX_ID) => true,
            (object, MAX_ID) => self.objects.contains_key(&object),
            (object, instance) => self.contains(&Path::instance(object, instance)),
        }
    }

    /// Takes away what a resource or a resource instance holds.
    pub(super) fn clear(&mut self, path: &Path) {
        let Some(resource) = self.resource_mut(path) else {
            return;
        };
        let moved = match (&mut resource.content, path.resource_instance_id()) {
            (Content::Executable, _) => false,
            (Content::Single(held), _) => held.take().is_some(),
            (Content::Multiple(held), None) => !std::mem::take(held).is_empty(),
            (Content::Multiple(held), Some(index)) => held.remove(&index).is_some(),
        };
        if moved {
            self.changed.insert(*path);
        }
    }
}

/// So that payloads are read and written by what the tree holds; no registry is needed.
impl ResourceTypes for Tree {
    fn resource_type(&self, object: Id, resource: Id) -> Option<ResourceType> {
        let object = self.objects.get(&object)?;
        let instances = object.instances.values().chain(&object.model);
        let resource = instances
            .filter_map(|instance| instance.get(&resource))
            .next()?;
        Some(ResourceType {
            data_type: resource.data_type,
            multiple: matches!(resource.content, Content::Multiple(_)),
        })
    }
}

fn read_instance(path: &Path, instance: &Instance, records: &mut Vec<Record>) {
    for (&id, resource) in instance {
        if let (true, Some(path)) = (resource.operations.read, path.child(id)) {
            read_resource(&path, resource, records);
        }
    }
}

fn read_resource(path: &Path, resource: &Resource, records: &mut Vec<Record>) {
    match &resource.content {
        Content::Executable => {}
        Content::Single(value) => records.extend(value.iter().map(|value| record(path, value))),
        Content::Multiple(values) => records.extend(
            values
                .iter()
                .filter_map(|(&id, value)| Some(record(&path.child(id)?, value))),
        ),
    }
}

fn record(path: &Path, value: &Value) -> Record {
    Record {
        path: *path,
        value: value.clone(),
        time: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> Tree {
        let mut tree = Tree::new();
        tree.insert(
            3,
            None,
            0,
            [
                (4, Resource::executable().mandatory()),
                (9, Resource::readable(Value::Integer(80))),
                (
                    11,
                    Resource::multiple(DataType::Integer, [(0, Value::Integer(0))]),
                ),
            ],
        );
        tree.insert(
            3311,
            None,
            0,
            [
                (5850, Resource::writable(Value::Boolean(false)).mandatory()),
                (
                    5851,
                    Resource::writable(Value::Integer(0)).within(0.0, 100.0),
                ),
            ],
        );
        tree
    }

    fn paths(tree: &Tree, path: &str) -> Result<Vec<String>, Refusal> {
        let mut records = Vec::new();
        tree.read(&path.parse().unwrap(), &mut records)?;
        Ok(records.iter().map(|r| r.path.to_string()).collect())
    }

    #[test]
    fn a_read_gives_the_readable_values_at_and_below_a_node() {
        let tree = tree();
        assert_eq!(paths(&tree, "/3").unwrap(), ["/3/0/9", "/3/0/11/0"]);
        assert_eq!(paths(&tree, "/3/0").unwrap(), ["/3/0/9", "/3/0/11/0"]);
        assert_eq!(paths(&tree, "/3/0/11").unwrap(), ["/3/0/11/0"]);
        assert_eq!(paths(&tree, "/3/0/11/0").unwrap(), ["/3/0/11/0"]);
    }

    #[test]
    fn a_read_that_cannot_be_says_why() {
        let tree = tree();
        for (path, refusal) in [
            ("/", Refusal::NotAllowed),
            ("/4", Refusal::NotFound),
            ("/3/1", Refusal::NotFound),
            ("/3/0/99", Refusal::NotFound),
            ("/3/0/11/7", Refusal::NotFound),
            ("/3/0/4", Refusal::NotAllowed),
            ("/3/0/9/0", Refusal::NotAllowed),
        ] {
            assert_eq!(paths(&tree, path), Err(refusal), "{path}");
        }
    }

    #[test]
    fn only_a_value_that_differs_is_a_change() {
        let mut tree = tree();
        let path = Path::resource(3, 0, 9);
        assert!(!tree.set(&path, Value::Integer(80)));
        assert!(tree.take_changes().is_empty());
        assert!(tree.set(&path, Value::Integer(79)));
        assert!(tree.take_changes().contains(&path));
        assert!(tree.take_changes().is_empty());
        assert!(!tree.set(&path, Value::Boolean(true)), "another type");
    }

    #[test]
    fn a_written_value_is_admitted_by_type_range_and_operations() {
        let tree = tree();
        let dimmer = Path::resource(3311, 0, 5851);
        assert_eq!(
            tree.admit(&dimmer, Value::Float(40.0)),
            Ok(Value::Integer(40))
        );
        for (path, value, refusal) in [
            (dimmer, Value::Integer(101), Refusal::BadValue),
            (dimmer, Value::Float(1.5), Refusal::BadValue),
            (dimmer, Value::String("1".into()), Refusal::BadValue),
            (
                Path::resource(3, 0, 9),
                Value::Integer(1),
                Refusal::NotAllowed,
            ),
            (
                Path::resource(3, 0, 77),
                Value::Integer(1),
                Refusal::NotFound,
            ),
        ] {
            assert_eq!(tree.admit(&path, value), Err(refusal), "{path}");
        }
    }

    #[test]
    fn an_object_link_must_lead_somewhere() {
        let mut tree = tree();
        let none = ObjectLink {
            object: MAX_ID,
            instance: MAX_ID,
        };
        tree.insert(
            65,
            None,
            0,
            [(0, Resource::writable(Value::ObjectLink(none)))],
        );
        let path = Path::resource(65, 0, 0);
        for (object, instance, allowed) in [
            (3311, 0, true),
            (3311, MAX_ID, true),
            (MAX_ID, MAX_ID, true),
            (3311, 1, false),
            (7, MAX_ID, false),
        ] {
            let link = Value::ObjectLink(ObjectLink { object, instance });
            assert_eq!(
                tree.admit(&path, link).is_ok(),
                allowed,
                "{object}:{instance}"
            );
        }
    }
}
