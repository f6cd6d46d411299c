//! Paths of the LwM2M data model.

use std::fmt;
use std::str::FromStr;

/// An Object ID, Object Instance ID, Resource ID or Resource Instance ID.
///
/// 65535 is reserved (`MAX_ID`, LwM2M Core 1.1 §7.2) and never part of a [`Path`].
pub type Id = u16;

/// The reserved identifier.
pub const MAX_ID: Id = u16::MAX;

/// `/{object}/{instance}/{resource}/{resource instance}`, cut at any level (LwM2M Core 1.1 §7.2).
///
/// Zero identifiers are the root `/`. Ordered level by level, so a node stands before what is
/// below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    ids: [Id; 4],
    len: u8,
}

/// How deep a [`Path`] goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `/`
    Root,
    /// `/3`
    Object,
    /// `/3/0`
    Instance,
    /// `/3/0/9`
    Resource,
    /// `/3/0/7/1`
    ResourceInstance,
}

/// Why a text is not a [`Path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It does not begin with `/`.
    #[error("a path begins with '/'")]
    Relative,
    /// A segment is empty, or the path ends in `/`.
    #[error("a path has no empty segment and no '/' at its end")]
    EmptySegment,
    /// A segment is not a canonical decimal number from 0 to 65534.
    #[error("each segment of a path is a number from 0 to 65534 without leading zeros")]
    Number,
    /// There are more than four segments.
    #[error("a path has at most four segments")]
    TooDeep,
}

impl Path {
    /// `/`
    pub const ROOT: Self = Self {
        ids: [0; 4],
        len: 0,
    };

    /// `/{object}`
    pub const fn object(object: Id) -> Self {
        Self {
            ids: [object, 0, 0, 0],
            len: 1,
        }
    }

    /// `/{object}/{instance}`
    pub const fn instance(object: Id, instance: Id) -> Self {
        Self {
            ids: [object, instance, 0, 0],
            len: 2,
        }
    }

    /// `/{object}/{instance}/{resource}`
    pub const fn resource(object: Id, instance: Id, resource: Id) -> Self {
        Self {
            ids: [object, instance, resource, 0],
            len: 3,
        }
    }

    /// `/{object}/{instance}/{resource}/{resource instance}`
    pub const fn resource_instance(object: Id, instance: Id, resource: Id, index: Id) -> Self {
        Self {
            ids: [object, instance, resource, index],
            len: 4,
        }
    }

    /// The path of these identifiers; `None` when there are more than four or one is 65535.
    pub fn from_ids(ids: &[Id]) -> Option<Self> {
        let mut path = Self::ROOT;
        for &id in ids {
            path = path.child(id)?;
        }
        Some(path)
    }

    /// The identifiers, outermost first.
    pub fn ids(&self) -> &[Id] {
        &self.ids[..usize::from(self.len)]
    }

    /// How deep the path goes.
    pub const fn level(&self) -> Level {
        match self.len {
            0 => Level::Root,
            1 => Level::Object,
            2 => Level::Instance,
            3 => Level::Resource,
            _ => Level::ResourceInstance,
        }
    }

    /// The Object ID, except at the root.
    pub fn object_id(&self) -> Option<Id> {
        self.ids().first().copied()
    }

    /// The Object Instance ID, if the path goes that deep.
    pub fn instance_id(&self) -> Option<Id> {
        self.ids().get(1).copied()
    }

    /// The Resource ID, if the path goes that deep.
    pub fn resource_id(&self) -> Option<Id> {
        self.ids().get(2).copied()
    }

    /// The Resource Instance ID, if the path goes that deep.
    pub fn resource_instance_id(&self) -> Option<Id> {
        self.ids().get(3).copied()
    }

    /// The node `id` below this one; `None` below a resource instance or for 65535.
    pub fn child(&self, id: Id) -> Option<Self> {
        let mut path = *self;
        *path.ids.get_mut(usize::from(self.len))? = id;
        path.len += 1;
        (id != MAX_ID).then_some(path)
    }

    /// The node above; `None` at the root.
    pub fn parent(&self) -> Option<Self> {
        Some(self.truncate(usize::from(self.len.checked_sub(1)?)))
    }

    /// The first `depth` identifiers of the path.
    pub fn truncate(&self, depth: usize) -> Self {
        let len = depth.min(usize::from(self.len));
        let mut ids = [0; 4];
        ids[..len].copy_from_slice(&self.ids[..len]);
        Self {
            ids,
            len: len as u8,
        }
    }

    /// Whether `other` is this node or lies below it.
    pub fn contains(&self, other: &Self) -> bool {
        other.ids().starts_with(self.ids())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.len == 0 {
            return f.write_str("/");
        }
        self.ids().iter().try_for_each(|id| write!(f, "/{id}"))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Path {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let rest = text.strip_prefix('/').ok_or(PathError::Relative)?;
        let mut path = Self::ROOT;
        if rest.is_empty() {
            return Ok(path);
        }
        for segment in rest.split('/') {
            if path.level() == Level::ResourceInstance {
                return Err(PathError::TooDeep);
            }
            path = path.child(parse_id(segment)?).ok_or(PathError::Number)?;
        }
        Ok(path)
    }
}

/// One canonical decimal identifier; "+1", "01" and "" are not.
fn parse_id(segment: &str) -> Result<Id, PathError> {
    match segment.as_bytes() {
        [] => Err(PathError::EmptySegment),
        [b'0'] | [b'1'..=b'9', ..] => segment.parse().map_err(|_| PathError::Number),
        _ => Err(PathError::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_and_shown_alike() {
        for text in ["/", "/3", "/3/0", "/3303/0/5700", "/3/0/7/65534"] {
            assert_eq!(text.parse::<Path>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn texts_that_are_no_path_are_refused() {
        for (text, error) in [
            ("3/0", PathError::Relative),
            ("", PathError::Relative),
            ("/3/", PathError::EmptySegment),
            ("//3", PathError::EmptySegment),
            ("/03", PathError::Number),
            ("/+3", PathError::Number),
            ("/65535", PathError::Number),
            ("/65536", PathError::Number),
            ("/1/2/3/4/5", PathError::TooDeep),
        ] {
            assert_eq!(text.parse::<Path>(), Err(error), "{text}");
        }
    }

    #[test]
    fn a_node_contains_itself_and_what_is_below() {
        let object = Path::object(3);
        assert!(object.contains(&Path::resource(3, 0, 9)));
        assert!(object.contains(&object));
        assert!(!object.contains(&Path::object(33)));
        assert!(!Path::resource(3, 0, 9).contains(&object));
        assert!(Path::ROOT.contains(&object));
    }

    #[test]
    fn a_node_stands_before_what_is_below_it() {
        let mut paths = ["/3/0/9", "/3", "/1/0", "/3/0"].map(|text| text.parse::<Path>().unwrap());
        paths.sort();
        assert_eq!(format!("{paths:?}"), "[/1/0, /3, /3/0, /3/0/9]");
    }
}
