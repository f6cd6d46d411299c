//! Two signals on one topic, as far as it can be seen without a device.
//!
//! The profile itself is asked for the topics of a made-up device that has the instances which the
//! file names, so that what is checked is what will happen.

use std::collections::{BTreeMap, BTreeSet};

use super::Scope;
use crate::diagnostic::{At, Reader};
use crate::lwm2m::model::Version;
use crate::lwm2m::path::{Id, Path};
use crate::mapping::DeviceFacts;
use crate::mapping::profile::Profile;
use crate::mapping::signal::Destination;

/// A place in a file.
pub(super) struct Place<'a> {
    reader: &'a Reader,
    at: At,
}

impl<'a> Place<'a> {
    pub(super) fn new(reader: &'a Reader, at: At) -> Self {
        Self { reader, at }
    }

    /// Whether it is in the file itself, and not in one that it extends.
    fn is_own(&self, scope: Scope<'_>) -> bool {
        std::ptr::eq(self.reader, scope.reader)
    }
}

/// Where the parts of a profile stand in its file, or in those that it extends.
#[derive(Default)]
pub(super) struct Places<'a> {
    /// One for each of the profile's signals.
    pub(super) rules: Vec<Place<'a>>,
    pub(super) instances: BTreeMap<(Id, Option<Id>), Place<'a>>,
}

impl<'a> Places<'a> {
    /// What gives `path` its topic, and whether that is a signal; none where the registry does.
    fn of(&self, profile: &Profile, path: &Path) -> Vec<(&Place<'a>, bool)> {
        let rule = profile
            .signals
            .iter()
            .position(|rule| rule.pattern.matches(path));
        let rule = rule.and_then(|index| self.rules.get(index));
        let instance = || {
            let (object, instance) = (path.object_id()?, path.instance_id());
            let exact = self.instances.get(&(object, instance));
            exact.or_else(|| self.instances.get(&(object, None)))
        };
        let rule = rule.map(|place| (place, true));
        rule.into_iter()
            .chain(instance().map(|place| (place, false)))
            .collect()
    }

    /// The best place to say something about these paths: in the file itself rather than in one
    /// that it extends, and a signal rather than an instance.
    fn best<'s>(
        &'s self,
        profile: &Profile,
        scope: Scope<'s>,
        paths: &[Path],
    ) -> Option<(&'s Reader, &'s At)> {
        let (place, _) = paths
            .iter()
            .flat_map(|path| self.of(profile, path))
            .max_by_key(|(place, is_rule)| (place.is_own(scope), *is_rule))?;
        Some(match place.is_own(scope) {
            true => (place.reader, &place.at),
            // It is sound for itself.
            false => (scope.reader, scope.extends),
        })
    }
}

/// Reports signals with the same path and signals with the same topic.
pub(super) fn find(profile: &Profile, scope: Scope<'_>, places: &Places<'_>) {
    for (index, rule) in profile.signals.iter().enumerate() {
        let earlier = profile
            .signals
            .iter()
            .take(index)
            .any(|other| other.pattern == rule.pattern);
        if let Some(place) = places.rules.get(index).filter(|_| earlier) {
            place.reader.error(
                "duplicate-path",
                &place.at,
                format!("{} has two signals", rule.pattern),
                "keep one of them",
            );
        }
    }
    let mut holders: BTreeMap<String, Path> = BTreeMap::new();
    let mut reported = BTreeSet::new();
    let topics = imagined_paths(profile, scope)
        .into_iter()
        .flat_map(|path| topics_of(profile, scope, path));
    for (path, topic) in topics {
        let Some(holder) = holders.insert(topic.clone(), path) else {
            continue;
        };
        if holder == path {
            if let Some((reader, at)) = places.best(profile, scope, &[path]) {
                reader.error(
                    "topic-clash",
                    at,
                    format!("the last value of {path} and its samples would both be published to {topic}"),
                    "write another topic into `telemetry = { … }`",
                );
            }
            continue;
        }
        // Within one rule the topic itself was looked at already.
        let rule = |path: &Path| profile.rule(path).map(|rule| rule.pattern);
        if rule(&path).is_some() && rule(&path) == rule(&holder) {
            continue;
        }
        if let Some((reader, at)) = places.best(profile, scope, &[path, holder])
            && reported.insert(at.start())
        {
            reader.error(
                "topic-clash",
                at,
                format!("{holder} and {path} would both be published to {topic}"),
                "give one of the signals or instances another name, or leave unnamed resources out \
                 with `unmapped = \"drop\"` in [profile]",
            );
        }
    }
}

/// Where the values of a path go, and their history.
fn topics_of(profile: &Profile, scope: Scope<'_>, path: Path) -> Vec<(Path, String)> {
    let facts = DeviceFacts {
        endpoint: "{endpoint}",
        lwm2m: Version::V1_2,
        objects: &[],
    };
    match profile.signal("{device}", &facts, &path, scope.models) {
        Destination::Signal(signal) => signal
            .topics()
            .map(|topic| (path, topic.to_string()))
            .collect(),
        Destination::Raw(_) | Destination::Count | Destination::Drop => Vec::new(),
    }
}

/// The resources of every instance that the file names, and of two more of each object.
fn imagined_paths(profile: &Profile, scope: Scope<'_>) -> BTreeSet<Path> {
    let mut instances: BTreeSet<(Id, Id)> = profile.instances.exact.keys().copied().collect();
    for &object in profile.instances.any.keys() {
        instances.extend([(object, 0), (object, 1)]);
    }
    for rule in &profile.signals {
        match (rule.pattern.object, rule.pattern.instance) {
            (Some(object), Some(instance)) => {
                instances.insert((object, instance));
            }
            (Some(object), None) => {
                instances.insert((object, 0));
                if scope
                    .models
                    .object(object, None)
                    .is_none_or(|model| model.multiple)
                {
                    instances.insert((object, 1));
                }
            }
            (None, _) => {}
        }
    }
    let mut paths = BTreeSet::new();
    for (object, instance) in instances {
        let model = scope.models.object(object, None);
        let known = model.iter().flat_map(|model| model.resources());
        paths.extend(
            known
                .filter(|resource| resource.operations.read || resource.operations.write)
                .map(|resource| Path::resource(object, instance, resource.id)),
        );
        for rule in &profile.signals {
            let pattern = &rule.pattern;
            if pattern.object == Some(object)
                && pattern.touches(object, instance)
                && let Some(resource) = pattern.resource
            {
                let path = Path::resource(object, instance, resource);
                if let Some(index) = pattern.index {
                    paths.remove(&path);
                    paths.extend(path.child(index.unwrap_or(0)));
                } else {
                    paths.insert(path);
                }
            }
        }
    }
    paths
}
