//! What an operation or an observation is about: one node, or several at once.

use std::fmt;
use std::sync::Arc;

use crate::lwm2m::Path;

/// One node; or, for composite operations, a list of nodes in an order that stays
/// (LwM2M Core 1.1 §6.3.7, §6.4.5).
///
/// Two lists are the same when they hold the same paths in the same order: a composite observation
/// is cancelled with exactly the list that began it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// One node.
    Node(Path),
    /// Several nodes, in one request.
    // Thin, so that a target is not larger than a path that is aligned.
    Composite(Arc<Vec<Path>>),
}

impl Target {
    /// Several nodes, in this order.
    pub fn composite(paths: impl IntoIterator<Item = Path>) -> Self {
        Self::Composite(Arc::new(paths.into_iter().collect()))
    }

    /// The nodes.
    pub fn paths(&self) -> &[Path] {
        match self {
            Self::Node(path) => std::slice::from_ref(path),
            Self::Composite(paths) => paths,
        }
    }

    /// The node, if it is one.
    pub const fn node(&self) -> Option<&Path> {
        match self {
            Self::Node(path) => Some(path),
            Self::Composite(_) => None,
        }
    }

    /// What a request for it is addressed to: the node, or the root.
    pub fn base(&self) -> Path {
        self.node().copied().unwrap_or(Path::ROOT)
    }

    /// Whether one of the nodes is `path` or lies above it.
    pub fn contains(&self, path: &Path) -> bool {
        self.paths().iter().any(|node| node.contains(path))
    }

    /// Whether it is a list.
    pub const fn is_composite(&self) -> bool {
        matches!(self, Self::Composite(_))
    }
}

impl From<Path> for Target {
    fn from(path: Path) -> Self {
        Self::Node(path)
    }
}

/// `/3/0/9`, or `/3/0/9, /1/0`.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, path) in self.paths().iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{path}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_as_small_as_a_path_allows() {
        assert_eq!(size_of::<Target>(), 16);
    }

    #[test]
    fn a_list_is_itself_only_in_its_own_order() {
        let (a, b) = (Path::instance(1, 0), Path::resource(3, 0, 9));
        let list = Target::composite([a, b]);
        assert_eq!(list, Target::composite([a, b]));
        assert_ne!(list, Target::composite([b, a]));
        assert_eq!(list.to_string(), "/1/0, /3/0/9");
        assert!(list.contains(&Path::resource(1, 0, 1)));
        assert!(!list.contains(&Path::resource(3, 0, 1)));
        assert_eq!((list.base(), Target::Node(b).base()), (Path::ROOT, b));
    }
}
