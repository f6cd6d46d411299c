//! Which devices a profile is for.

use std::cmp::Reverse;
use std::str::FromStr;

use super::DeviceFacts;
use super::pattern::parse_id;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Id;
use crate::name_pattern::NamePattern;

/// The `[match]` of a profile: every condition must hold.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    pub(super) endpoint: Option<NamePattern>,
    pub(super) objects: Vec<ObjectCondition>,
    /// There is no `[match]`, or it has a condition that this version does not build: the profile
    /// is for no device.
    pub(super) never: bool,
}

/// An object that the device must have, in one of these versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectCondition {
    pub(super) object: Id,
    versions: Vec<(Comparison, Version)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    AtLeast,
    Above,
    AtMost,
    Below,
    Equal,
}

impl Selector {
    pub(super) fn selects(&self, facts: &DeviceFacts<'_>) -> bool {
        !self.never
            && self
                .endpoint
                .as_ref()
                .is_none_or(|pattern| pattern.matches(facts.endpoint))
            && self.objects.iter().all(|condition| condition.holds(facts))
    }

    /// Orders the more specific first: an endpoint without wildcard, then more literal
    /// characters, then more objects.
    pub(super) fn specificity(&self) -> impl Ord + use<> {
        let (exact, literal) = match &self.endpoint {
            Some(pattern) => (pattern.is_exact(), pattern.literal_characters()),
            None => (false, 0),
        };
        Reverse((exact, literal, self.objects.len()))
    }
}

impl ObjectCondition {
    fn holds(&self, facts: &DeviceFacts<'_>) -> bool {
        facts.object(self.object).is_some_and(|object| {
            let version = object
                .version
                .unwrap_or_else(|| Version::implied(object.id, facts.lwm2m));
            self.allows(version)
        })
    }

    pub(super) fn allows(&self, version: Version) -> bool {
        self.versions
            .iter()
            .all(|(comparison, bound)| match comparison {
                Comparison::AtLeast => version >= *bound,
                Comparison::Above => version > *bound,
                Comparison::AtMost => version <= *bound,
                Comparison::Below => version < *bound,
                Comparison::Equal => version == *bound,
            })
    }
}

impl FromStr for ObjectCondition {
    type Err = ();

    /// Reads `3342`, `3342 >=1.0` and `33210 >=2.0 <3.0`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split_ascii_whitespace();
        let object = words.next().and_then(parse_id).ok_or(())?;
        let versions = words
            .map(|word| {
                let (comparison, version) = [
                    (">=", Comparison::AtLeast),
                    ("<=", Comparison::AtMost),
                    (">", Comparison::Above),
                    ("<", Comparison::Below),
                    ("=", Comparison::Equal),
                ]
                .into_iter()
                .find_map(|(sign, comparison)| Some((comparison, word.strip_prefix(sign)?)))
                .ok_or(())?;
                Ok((comparison, version.parse().map_err(|_| ())?))
            })
            .collect::<Result<_, ()>>()?;
        Ok(Self { object, versions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lwm2m::registered::RegisteredObject;

    // wish: 4
    #[test]
    fn an_object_condition_bounds_the_version() {
        let condition: ObjectCondition = "33210 >=2.0 <3.0".parse().unwrap();
        for (version, holds) in [
            ((1, 9), false),
            ((2, 0), true),
            ((2, 7), true),
            ((3, 0), false),
        ] {
            let objects = [RegisteredObject {
                id: 33210,
                version: Some(Version::new(version.0, version.1)),
                instances: vec![],
            }];
            let facts = DeviceFacts {
                endpoint: "x",
                lwm2m: Version::V1_1,
                objects: &objects,
            };
            assert_eq!(condition.holds(&facts), holds, "{version:?}");
        }
        for text in ["", "x", "3342 1.0", "3342 >=1", "3342 ~1.0", "70000", "03"] {
            assert!(text.parse::<ObjectCondition>().is_err(), "{text}");
        }
    }
}
