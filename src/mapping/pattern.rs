//! Paths with `*`: what a signal is about.

use std::cmp::Reverse;
use std::fmt;
use std::str::FromStr;

use crate::lwm2m::path::{Id, MAX_ID, Path};

/// `/{object}/{instance}/{resource}` or `/…/{resource instance}`, where each may be `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PathPattern {
    /// The object; `None` is any.
    pub object: Option<Id>,
    /// The object instance.
    pub instance: Option<Id>,
    /// The resource.
    pub resource: Option<Id>,
    /// The resource instance, if the pattern goes that deep.
    pub index: Option<Option<Id>>,
}

/// Why a text is not a [`PathPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It does not begin with `/`.
    #[error("a path begins with `/`")]
    Relative,
    /// It has fewer than three or more than four segments.
    #[error("a signal is a resource or a resource instance: three or four numbers")]
    Depth,
    /// A segment looks like a version.
    #[error("a version is never part of a path")]
    Version,
    /// A segment is no number and not `*`.
    #[error("each part of a path is `*` or a number from 0 to 65534 without leading zeros")]
    Number,
}

impl PathPattern {
    /// Whether `path`, a resource or resource instance, is meant.
    ///
    /// A pattern of a resource is also about the instances of that resource.
    pub fn matches(&self, path: &Path) -> bool {
        let is = |want: Option<Id>, id: Option<Id>| id.is_some() && (want.is_none() || want == id);
        is(self.object, path.object_id())
            && is(self.instance, path.instance_id())
            && is(self.resource, path.resource_id())
            && match self.index {
                None => true,
                Some(index) => is(index, path.resource_instance_id()),
            }
    }

    /// Whether the pattern is about something in this object instance.
    pub fn touches(&self, object: Id, instance: Id) -> bool {
        self.object.is_none_or(|id| id == object) && self.instance.is_none_or(|id| id == instance)
    }

    /// Orders the more specific pattern first: object before resource before instance.
    pub fn specificity(&self) -> impl Ord + use<> {
        Reverse((
            self.object.is_some(),
            self.resource.is_some(),
            self.instance.is_some(),
            self.index.map(|index| index.is_some()),
        ))
    }
}

impl FromStr for PathPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let rest = text.strip_prefix('/').ok_or(PatternError::Relative)?;
        let segments: Vec<&str> = rest.split('/').collect();
        if segments.iter().any(|segment| is_version(segment)) {
            return Err(PatternError::Version);
        }
        let ids: Vec<Option<Id>> = segments
            .iter()
            .map(|segment| parse_segment(segment))
            .collect::<Result<_, _>>()?;
        let (object, instance, resource, index) = match ids[..] {
            [object, instance, resource] => (object, instance, resource, None),
            [object, instance, resource, index] => (object, instance, resource, Some(index)),
            _ => return Err(PatternError::Depth),
        };
        Ok(Self {
            object,
            instance,
            resource,
            index,
        })
    }
}

fn is_version(segment: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    segment
        .strip_prefix('v')
        .unwrap_or(segment)
        .split_once('.')
        .is_some_and(|(major, minor)| digits(major) && digits(minor))
}

fn parse_segment(segment: &str) -> Result<Option<Id>, PatternError> {
    if segment == "*" {
        return Ok(None);
    }
    parse_id(segment).map(Some).ok_or(PatternError::Number)
}

/// A canonical decimal identifier.
pub(super) fn parse_id(text: &str) -> Option<Id> {
    let canonical = matches!(text.as_bytes(), [b'0'] | [b'1'..=b'9', ..]);
    text.parse().ok().filter(|&id| canonical && id != MAX_ID)
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let levels = [
            Some(self.object),
            Some(self.instance),
            Some(self.resource),
            self.index,
        ];
        levels.iter().flatten().try_for_each(|id| match id {
            Some(id) => write!(f, "/{id}"),
            None => f.write_str("/*"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_any_number() {
        for (text, path, matches) in [
            ("/3303/*/5700", "/3303/7/5700", true),
            ("/3303/*/5700", "/3303/7/5701", false),
            ("/3303/0/5700", "/3303/1/5700", false),
            ("/*/*/*", "/3/0/9", true),
            ("/*/*/*", "/3/0/7/1", true),
            ("/*/*/*", "/3/0", false),
            ("/3/0/7/*", "/3/0/7/1", true),
            ("/3/0/7/*", "/3/0/7", false),
            ("/3/0/7/0", "/3/0/7/1", false),
        ] {
            assert_eq!(
                pattern(text).matches(&path.parse().unwrap()),
                matches,
                "{text} {path}"
            );
            assert_eq!(pattern(text).to_string(), text);
        }
    }

    #[test]
    fn texts_that_are_no_pattern_are_refused() {
        for (text, error) in [
            ("3303/0/5700", PatternError::Relative),
            ("/3303/0", PatternError::Depth),
            ("/3303/0/1/2/3", PatternError::Depth),
            ("/3303/1.1/0/5700", PatternError::Version),
            ("/3303/v1.1/0/5700", PatternError::Version),
            ("/3303/0/5700/", PatternError::Number),
            ("/3303/0/057", PatternError::Number),
            ("/3303/0/65535", PatternError::Number),
            ("/3303/**/1", PatternError::Number),
        ] {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
    }

    #[test]
    fn the_more_specific_pattern_comes_first() {
        let mut patterns = [
            "/*/*/*",
            "/3303/*/*",
            "/3303/*/5700",
            "/3303/0/*",
            "/3303/0/5700",
        ]
        .map(pattern);
        patterns.sort_by_key(PathPattern::specificity);
        let order = patterns.map(|p| p.to_string()).join(" ");
        assert_eq!(
            order,
            "/3303/0/5700 /3303/*/5700 /3303/0/* /3303/*/* /*/*/*"
        );
    }
}
