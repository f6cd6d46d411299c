//! What a device is asked and told once, when it registers.

use std::collections::BTreeSet;

use super::DeviceFacts;
use super::command::Step;
use super::observe::NEVER;
use super::profile::Profile;
use super::rule::Way;
use crate::lwm2m::path::{Id, Path};

/// `[on_register]` of a mapping file.
#[derive(Clone, Debug, Default)]
pub(super) struct OnRegister {
    /// Objects, instances and resources.
    pub(super) read: Vec<Path>,
    /// Writes, and nothing else.
    pub(super) write: Vec<Step>,
}

impl Profile {
    /// What is read once of a device that registers, in the order of the paths: what the mapping
    /// says, and signals with `source = "register"`. Only of objects that it has; none stands below
    /// another.
    pub fn reads(&self, facts: &DeviceFacts<'_>) -> Vec<Path> {
        let said = self.on_register.read.iter().copied();
        let said = said.filter(|path| {
            let object = path.object_id().and_then(|object| facts.object(object));
            object.is_some_and(|object| {
                object.instances.is_empty()
                    || path
                        .instance_id()
                        .is_none_or(|id| object.instances.contains(&id))
            })
        });
        let mut paths: BTreeSet<Path> = said.collect();
        for object in facts
            .objects
            .iter()
            .filter(|object| !NEVER.contains(&object.id))
        {
            self.read_of_object(object.id, &object.instances, &mut paths);
        }
        let mut reads: Vec<Path> = Vec::new();
        // A node stands before what is below it.
        for path in paths {
            if !reads.last().is_some_and(|above| above.contains(&path)) {
                reads.push(path);
            }
        }
        reads
    }

    fn read_of_object(&self, object: Id, instances: &[Id], paths: &mut BTreeSet<Path>) {
        let rules = self.signals.iter().filter(|rule| {
            rule.way == Way::Register && rule.pattern.object.is_none_or(|id| id == object)
        });
        for rule in rules {
            let pattern = &rule.pattern;
            let named = pattern.instance.filter(|_| instances.is_empty());
            let of_rule = instances
                .iter()
                .copied()
                .filter(|id| pattern.instance.is_none_or(|own| own == *id))
                .chain(named);
            for instance in of_rule {
                match pattern.resource {
                    None => {
                        paths.insert(Path::instance(object, instance));
                    }
                    Some(resource) => {
                        let path = Path::resource(object, instance, resource);
                        let node = match pattern.index.flatten() {
                            Some(index) => path.child(index),
                            None => Some(path),
                        };
                        paths.extend(node.filter(|_| self.counts(rule, path)));
                    }
                }
            }
            if pattern.instance.is_none() && instances.is_empty() {
                paths.insert(Path::object(object));
            }
        }
    }

    /// Whether the value of a resource that was read at a registration is published: of the device
    /// object more is read.
    pub fn is_read(&self, path: &Path) -> bool {
        self.says_read(path)
            || self
                .rule(path)
                .is_some_and(|rule| rule.way == Way::Register)
    }

    /// Whether `[on_register]` itself says that a node at or above this is read, so that the device
    /// is expected to have it.
    pub fn says_read(&self, path: &Path) -> bool {
        self.on_register.read.iter().any(|node| node.contains(path))
    }

    /// What is written once a registration.
    pub fn writes(&self) -> &[Step] {
        &self.on_register.write
    }

    /// The write of `[on_register]` to this resource.
    pub fn write_to(&self, path: &Path) -> Option<&Step> {
        self.on_register
            .write
            .iter()
            .find(|step| step.path() == *path)
    }
}
