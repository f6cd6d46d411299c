//! Which devices a profile is for.

use std::cmp::Reverse;
use std::str::FromStr;

use regex::{Regex, RegexBuilder};

use super::DeviceFacts;
use super::pattern::parse_id;
use crate::lwm2m::model::Version;
use crate::lwm2m::path::Id;

/// Memory that one compiled expression may take; matching is linear in the endpoint's length.
const REGEX_SIZE: usize = 256 * 1024;

/// The `[match]` of a profile: every condition must hold.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    pub(super) endpoint: Option<EndpointPattern>,
    pub(super) objects: Vec<ObjectCondition>,
    /// There is no `[match]`, or it has a condition that this version does not build: the profile
    /// is for no device.
    pub(super) never: bool,
}

/// An endpoint name with `*` and `?`, or a regular expression behind `re:`.
#[derive(Clone, Debug)]
pub(super) enum EndpointPattern {
    Glob(String),
    Regex(Regex),
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

impl EndpointPattern {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Some(expression) = text.strip_prefix("re:") else {
            return Ok(Self::Glob(text.to_owned()));
        };
        RegexBuilder::new(&format!("^(?:{expression})$"))
            .size_limit(REGEX_SIZE)
            .build()
            .map(Self::Regex)
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
                error => {
                    // The last line says what; those before it draw a picture.
                    let text = error.to_string();
                    let last = text.lines().last().unwrap_or_default();
                    last.trim_start_matches("error: ").to_owned()
                }
            })
    }

    pub(super) fn matches(&self, endpoint: &str) -> bool {
        match self {
            Self::Glob(glob) => glob_matches(glob, endpoint),
            Self::Regex(regex) => regex.is_match(endpoint),
        }
    }

    /// Whether only one endpoint can match.
    pub(super) fn is_exact(&self) -> bool {
        matches!(self, Self::Glob(glob) if !glob.contains(['*', '?']))
    }

    /// An expression counts none: what of it is literal cannot be told simply.
    fn literal_characters(&self) -> usize {
        match self {
            Self::Glob(glob) => glob.chars().filter(|c| !matches!(c, '*' | '?')).count(),
            Self::Regex(_) => 0,
        }
    }
}

/// `*` is any run of characters, `?` any one.
pub(super) fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut g, mut t) = (0, 0);
    // Where to take up again: behind the last star, which then swallows one more character.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match glob.get(g) {
            Some('*') => {
                star = Some((g + 1, t));
                g += 1;
            }
            Some(&c) if c == '?' || c == text[t] => {
                g += 1;
                t += 1;
            }
            _ => match star {
                Some((behind, swallowed)) => {
                    star = Some((behind, swallowed + 1));
                    g = behind;
                    t = swallowed + 1;
                }
                None => return false,
            },
        }
    }
    glob[g..].iter().all(|&c| c == '*')
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

    #[test]
    fn a_glob_matches_the_whole_name() {
        for (glob, name, matches) in [
            ("urn:*-CR200-*", "urn:dev:ops:32473-CR200-00A7", true),
            ("urn:*-CR200-", "urn:dev:ops:32473-CR200-00A7", false),
            ("*", "", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("dev?", "dev1", true),
            ("dev?", "dev", false),
            ("ü?", "üü", true),
            ("", "x", false),
            ("a.c", "abc", false),
        ] {
            let pattern = EndpointPattern::parse(glob).unwrap();
            assert_eq!(pattern.matches(name), matches, "{glob} {name}");
        }
    }

    #[test]
    fn an_expression_matches_the_whole_name() {
        let pattern = EndpointPattern::parse("re:dev[0-9]+|x").unwrap();
        assert!(pattern.matches("dev12") && pattern.matches("x"));
        assert!(!pattern.matches("dev12x") && !pattern.matches("ax"));
    }

    #[test]
    fn a_bad_or_bloated_expression_is_refused() {
        assert_eq!(
            EndpointPattern::parse("re:(").unwrap_err(),
            "unclosed group"
        );
        assert_eq!(
            EndpointPattern::parse("re:(a{1000}){1000}").unwrap_err(),
            "it is too large"
        );
    }

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
