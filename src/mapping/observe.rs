//! Which observations a device gets.
//!
//! Without a mapping: one observation an instance of every object from 2048 up and of the location,
//! the battery level and the firmware state. A profile refines this, instance by instance:
//!
//! * `unmapped = "count"` or `"drop"`: only what its signals name, each by its own observation.
//! * `"default"` or `"raw"`: the rest of an instance is wanted too, so the instance keeps its one
//!   observation. Where attributes may stand at an instance (`pmin`, `pmax`, not `gt` or `st`) and
//!   the signals in it agree on them, it takes them and no signal is observed again. Else it gets
//!   the largest `pmin` and `pmax` among them, so as not to wake the device more often than any
//!   signal asks, and each signal with other attributes has an observation of its own besides.
//!
//! A signal of every resource (`/3303/*/*`) asks for the instance, with its own attributes.

use std::collections::BTreeMap;

use super::DeviceFacts;
use super::profile::{Profile, Unmapped};
use super::rule::{SignalRule, Way};
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::model::{Models, Version};
use crate::lwm2m::path::{Id, Path};
use crate::lwm2m::registered::RegisteredObject;

/// An observation that a device shall have.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// An object, instance or resource.
    pub path: Path,
    /// When to notify; those that the device's LwM2M version knows.
    pub attributes: NotificationAttributes,
    /// Names of attributes left out because the device's LwM2M version does not know them.
    pub dropped: Vec<&'static str>,
}

/// Security, server, access control, OSCORE and what belongs to gateways: nothing for a topic.
pub(super) const NEVER: [Id; 6] = [0, 1, 2, 21, 23, 24];

/// From here up objects are about what the device does, not about the device.
const FIRST_APPLICATION_OBJECT: Id = 2048;

const LOCATION: Id = 6;
const BATTERY_LEVEL: Path = Path::resource(3, 0, 9);
const FIRMWARE_STATE: Path = Path::resource(5, 0, 3);

type Wanted = BTreeMap<Path, NotificationAttributes>;

impl Profile {
    /// The observations that a device shall have, in the order of their paths.
    pub fn observations(&self, facts: &DeviceFacts<'_>, models: &Models) -> Vec<Desired> {
        let mut wanted = Wanted::new();
        for object in facts.objects {
            self.observe_object(object, models, &mut wanted);
        }
        wanted
            .into_iter()
            .map(|(path, attributes)| known_to(facts.lwm2m, path, attributes))
            .collect()
    }

    fn observe_object(&self, object: &RegisteredObject, models: &Models, wanted: &mut Wanted) {
        for &instance in &object.instances {
            self.observe_instance(object.id, instance, models, wanted);
        }
        if !object.instances.is_empty() {
            return;
        }
        // The instances are not known: those that a rule names are tried, for all others the object
        // is observed as a whole.
        let mut tried: Vec<Id> = self
            .observed(object.id, None)
            .filter(|rule| rule.pattern.object.is_some())
            .filter_map(|rule| rule.pattern.instance)
            .collect();
        if [BATTERY_LEVEL, FIRMWARE_STATE]
            .map(|path| path.object_id())
            .contains(&Some(object.id))
        {
            tried.push(0);
        }
        tried.sort_unstable();
        tried.dedup();
        for instance in tried {
            self.observe_instance(object.id, instance, models, wanted);
        }
        let whole = default_paths(object.id, 0).any(|path| path == Path::instance(object.id, 0));
        let any_instance = self
            .observed(object.id, None)
            .any(|rule| rule.pattern.object.is_some() && rule.pattern.instance.is_none());
        if any_instance || (whole && self.keeps_default_observations(object.id)) {
            wanted.entry(Path::object(object.id)).or_default();
        }
    }

    fn observe_instance(&self, object: Id, instance: Id, models: &Models, wanted: &mut Wanted) {
        let whole = Path::instance(object, instance);
        let mut named: BTreeMap<Path, &NotificationAttributes> = BTreeMap::new();
        let mut observe_whole = false;
        let mut of_whole: Option<&NotificationAttributes> = None;
        for rule in self.observed(object, Some(instance)) {
            match (rule.pattern.object, rule.pattern.resource) {
                (_, Some(resource)) if is_observable(models, object, resource) => {
                    let path = Path::resource(object, instance, resource);
                    // Its values are another rule's, and so is the observation.
                    if !self.counts(rule, path) {
                        continue;
                    }
                    named.entry(path).or_insert(&rule.attributes);
                }
                (about, None) => {
                    observe_whole |= about.is_some();
                    of_whole.get_or_insert(&rule.attributes);
                }
                _ => {}
            }
        }
        if self.keeps_default_observations(object) {
            for path in default_paths(object, instance) {
                if self.comes_otherwise(&path) {
                } else if path == whole {
                    observe_whole = true;
                } else {
                    wanted.entry(path).or_default();
                }
            }
        }
        if observe_whole {
            let attributes = match of_whole {
                Some(own) if !own.is_empty() => own.clone(),
                _ => shared(named.values().copied()),
            };
            named.retain(|_, own| !own.is_empty() && **own != attributes);
            wanted.insert(whole, attributes);
        }
        for (path, attributes) in named {
            wanted.insert(path, attributes.clone());
        }
    }

    /// The rules that are about this object (and instance) and wish to be observed.
    fn observed(&self, object: Id, instance: Option<Id>) -> impl Iterator<Item = &SignalRule> {
        self.signals.iter().filter(move |rule| {
            rule.way == Way::Observe
                && rule.pattern.object.is_none_or(|id| id == object)
                && instance.is_none_or(|id| rule.pattern.instance.is_none_or(|own| own == id))
        })
    }

    /// Whether the values of the resource `path`, or of its instance that the rule names, go by it.
    pub(super) fn counts(&self, rule: &SignalRule, path: Path) -> bool {
        let of_instance = rule.pattern.index.map(|index| index.unwrap_or(0));
        let path = of_instance
            .and_then(|index| path.child(index))
            .unwrap_or(path);
        self.rule(&path)
            .is_some_and(|winner| std::ptr::eq(winner, rule))
    }

    /// Whether a rule says that the values of this resource, or of every resource of this instance,
    /// get here without an observation.
    fn comes_otherwise(&self, path: &Path) -> bool {
        let rule = match path.resource_id() {
            Some(_) => self.rule(path),
            None => self.signals.iter().find(|rule| {
                let pattern = &rule.pattern;
                pattern.object == path.object_id()
                    && pattern
                        .instance
                        .is_none_or(|id| Some(id) == path.instance_id())
                    && pattern.resource.is_none()
            }),
        };
        rule.is_some_and(|rule| rule.way != Way::Observe)
    }

    /// Whether what no rule names in this object is observed as without a mapping: the profile
    /// says so, or a rule for every object names it.
    fn keeps_default_observations(&self, object: Id) -> bool {
        matches!(self.unmapped, Unmapped::Default | Unmapped::Raw)
            || self
                .observed(object, None)
                .any(|rule| rule.pattern.object.is_none())
    }
}

/// What is observed of an instance without a mapping.
fn default_paths(object: Id, instance: Id) -> impl Iterator<Item = Path> {
    let whole = (object >= FIRST_APPLICATION_OBJECT || object == LOCATION)
        .then_some(Path::instance(object, instance));
    let parts = [BATTERY_LEVEL, FIRMWARE_STATE]
        .into_iter()
        .filter(move |path| Path::instance(object, instance).contains(path));
    whole.into_iter().chain(parts).filter(|path| {
        path.object_id()
            .is_some_and(|object| !NEVER.contains(&object))
    })
}

/// What a resource unknown to every model may be is seen by trying.
fn is_observable(models: &Models, object: Id, resource: Id) -> bool {
    models
        .newest_resource(object, resource)
        .is_none_or(|model| model.operations.read)
}

/// The attributes of an instance in which these signals are.
fn shared<'a>(
    signals: impl Iterator<Item = &'a NotificationAttributes> + Clone,
) -> NotificationAttributes {
    let mut all = signals.clone();
    if let Some(first) = all.next()
        && all.all(|other| other == first)
        && !has_value_conditions(first)
    {
        return first.clone();
    }
    let pmin = signals
        .clone()
        .filter_map(|attributes| attributes.pmin)
        .max();
    let pmax = signals.filter_map(|attributes| attributes.pmax).max();
    NotificationAttributes {
        pmin,
        // One signal's pmin may be above the other's pmax.
        pmax: pmax.filter(|pmax| pmin.is_none_or(|pmin| pmin <= *pmax)),
        ..NotificationAttributes::default()
    }
}

/// Whether attributes look at the value, which only a resource has.
pub(super) fn has_value_conditions(attributes: &NotificationAttributes) -> bool {
    attributes.gt.is_some()
        || attributes.lt.is_some()
        || attributes.st.is_some()
        || attributes.edge.is_some()
}

/// Leaves out what came with a later LwM2M version (LwM2M Core 1.2.2 §5.1.2).
fn known_to(lwm2m: Version, path: Path, mut attributes: NotificationAttributes) -> Desired {
    let mut dropped = Vec::new();
    let mut drop_if = |missing: bool, name| {
        if missing {
            dropped.push(name);
        }
        missing
    };
    if lwm2m < Version::V1_1 {
        if drop_if(attributes.epmin.is_some(), "epmin") {
            attributes.epmin = None;
        }
        if drop_if(attributes.epmax.is_some(), "epmax") {
            attributes.epmax = None;
        }
    }
    if lwm2m < Version::V1_2 {
        if drop_if(attributes.edge.is_some(), "edge") {
            attributes.edge = None;
        }
        if drop_if(attributes.con.is_some(), "con") {
            attributes.con = None;
        }
        if drop_if(attributes.hqmax.is_some(), "hqmax") {
            attributes.hqmax = None;
        }
    }
    Desired {
        path,
        attributes,
        dropped,
    }
}
