//! What mapping files say of signals and instances, checked.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::command::WriteRules;
use super::pattern::{PathPattern, parse_id};
use super::signal::{Format, Kind, OnOffline, StaleAfter};
use super::template::Template;
use super::transform::Transform;
use crate::lwm2m::attributes::NotificationAttributes;
use crate::lwm2m::path::Id;

/// A `[[signal]]` of a mapping file, checked.
#[derive(Clone, Debug)]
pub(super) struct SignalRule {
    pub(super) pattern: PathPattern,
    /// After the registry if absent.
    pub(super) name: Option<String>,
    /// After the resource's operations if absent.
    pub(super) kind: Option<Kind>,
    pub(super) way: Way,
    pub(super) attributes: NotificationAttributes,
    pub(super) transform: Option<Arc<Transform>>,
    pub(super) unit: Unit,
    pub(super) topic: Option<Template>,
    pub(super) format: Format,
    pub(super) retain: Option<bool>,
    pub(super) qos: u8,
    pub(super) history: Option<HistoryRule>,
    pub(super) stale_after: StaleAfter,
    pub(super) on_offline: OnOffline,
    pub(super) expire: Option<u32>,
    pub(super) write: Arc<WriteRules>,
}

/// How the values of a signal get here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Way {
    /// By an observation.
    #[default]
    Observe,
    /// The device sends them.
    Send,
    /// They are read once a registration.
    Register,
}

impl SignalRule {
    /// The topics that it says itself.
    pub(super) fn templates(&self) -> impl Iterator<Item = &Template> {
        let history = self.history.as_ref().and_then(|rule| rule.topic.as_ref());
        self.topic.iter().chain(history)
    }
}

/// `history` and `telemetry` of a signal.
#[derive(Clone, Debug)]
pub(super) struct HistoryRule {
    /// `{base}/d/{device}/t/{inst}/{name}` if absent.
    pub(super) topic: Option<Template>,
    pub(super) format: Format,
}

#[derive(Clone, Debug)]
pub(super) enum Unit {
    /// That of the object's definition.
    Model,
    /// None: the value is scaled into something that the definition does not know.
    None,
    Named(Arc<str>),
}

/// Names of object instances.
#[derive(Clone, Debug, Default)]
pub(super) struct InstanceNames {
    pub(super) exact: BTreeMap<(Id, Id), String>,
    /// What stands before and behind `{iid}`.
    pub(super) any: BTreeMap<Id, (String, String)>,
}

impl InstanceNames {
    pub(super) fn name(&self, object: Id, instance: Id) -> Option<String> {
        self.exact.get(&(object, instance)).cloned().or_else(|| {
            let (before, behind) = self.any.get(&object)?;
            Some(format!("{before}{instance}{behind}"))
        })
    }

    /// The instances of this name.
    pub(super) fn named(&self, name: &str) -> Vec<(Id, Id)> {
        let exact = self
            .exact
            .iter()
            .filter(|(_, exact)| *exact == name)
            .map(|(ids, _)| *ids);
        let any = self.any.iter().filter_map(|(&object, (before, behind))| {
            let number = name.strip_prefix(before.as_str())?;
            let number = number.strip_suffix(behind.as_str())?;
            let instance = parse_id(number)?;
            (!self.exact.contains_key(&(object, instance))).then_some((object, instance))
        });
        exact.chain(any).collect()
    }
}
