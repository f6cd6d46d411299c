//! When an observed value is worth a notification: Observe, and the notification attributes
//! (LwM2M Core 1.2.2 §5.1.2, §6.4).
//!
//! One [`Reporting`] belongs to one server: attributes and observations are never shared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::client::tree::Tree;
use crate::coap::Token;
use crate::lwm2m::attributes::{Edge, NotificationAttributes};
use crate::lwm2m::{ContentFormat, Id, Level, Path, Target, Value, Version};
use crate::time::Instant;

/// RFC 7641 §4.5: at least one notification a day is confirmable.
const CONFIRM_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// What one server attached and observes.
#[derive(Debug, Default)]
pub(super) struct Reporting {
    attached: BTreeMap<Path, NotificationAttributes>,
    observations: BTreeMap<Token, Observation>,
}

/// A notification to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) token: Token,
    pub(super) target: Target,
    pub(super) accept: Option<ContentFormat>,
    pub(super) confirmable: bool,
}

/// What holds where nothing is attached: Default Minimum and Maximum Period and Default
/// Notification Mode of the server's account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) pmin: u32,
    pub(super) pmax: u32,
    pub(super) con: bool,
}

impl Defaults {
    /// Those of `/1/{instance}`.
    pub(super) fn of(tree: &Tree, instance: Id) -> Self {
        let seconds = |resource| match tree.value(&Path::resource(1, instance, resource)) {
            Some(Value::Integer(seconds)) => u32::try_from(*seconds).unwrap_or(0),
            _ => 0,
        };
        Self {
            pmin: seconds(2),
            pmax: seconds(3),
            con: seconds(26) == 1,
        }
    }
}

#[derive(Debug)]
struct Observation {
    target: Target,
    accept: Option<ContentFormat>,
    /// Attributes that came with the Observe; then nothing attached counts.
    own: Option<NotificationAttributes>,
    /// One for each node, in the order of the target.
    parts: Vec<Part>,
    notified: Instant,
    confirmed: Instant,
}

/// A node of an observation. Of a composite one, each has rules of its own, and what one asks for
/// brings the values of all (LwM2M Core 1.1 §6.4.5).
#[derive(Debug)]
struct Part {
    path: Path,
    rule: Rule,
    /// The last value that the server was told, not the last one there was.
    last: Sample,
    /// The rule asks for a notification; pmin may hold it back.
    pending: bool,
}

/// A value, as far as rules look at it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sample {
    Number(f64),
    Boolean(bool),
    /// Text, bytes, or several values: all that counts is that something moved.
    Other,
}

impl Sample {
    fn of(tree: &Tree, path: &Path) -> Self {
        match tree.value(path) {
            Some(Value::Boolean(value)) => Self::Boolean(*value),
            Some(value) => value.as_f64().map_or(Self::Other, Self::Number),
            None => Self::Other,
        }
    }
}

/// The attributes in force for one observation.
#[derive(Clone, Debug, Default, PartialEq)]
struct Rule {
    pmin: Duration,
    pmax: Option<Duration>,
    gt: Option<f64>,
    lt: Option<f64>,
    st: Option<f64>,
    edge: Option<Edge>,
    con: bool,
}

impl Rule {
    fn new(attributes: &NotificationAttributes, defaults: Defaults) -> Self {
        let pmin = attributes.pmin.unwrap_or(defaults.pmin);
        let pmax = attributes.pmax.unwrap_or(defaults.pmax);
        Self {
            pmin: Duration::from_secs(pmin.into()),
            // 0 is no maximum, and one below the minimum is ignored
            pmax: (pmax > 0 && pmax >= pmin).then(|| Duration::from_secs(pmax.into())),
            gt: attributes.gt,
            lt: attributes.lt,
            st: attributes.st,
            edge: attributes.edge,
            con: attributes.con.unwrap_or(defaults.con),
        }
    }

    /// Whether a move from the last notified value to this one is worth a notification.
    fn is_met(&self, last: Sample, value: Sample) -> bool {
        match (last, value) {
            (Sample::Number(last), Sample::Number(value)) => {
                if self.gt.is_none() && self.lt.is_none() && self.st.is_none() {
                    return last != value;
                }
                self.gt.is_some_and(|limit| crosses(limit, last, value))
                    || self.lt.is_some_and(|limit| crosses(limit, last, value))
                    || self.st.is_some_and(|step| (value - last).abs() >= step)
            }
            (Sample::Boolean(last), Sample::Boolean(value)) => match self.edge {
                None => last != value,
                Some(Edge::Falling) => last && !value,
                Some(Edge::Rising) => !last && value,
            },
            _ => true,
        }
    }
}

/// Both directions count; being on the limit is on neither side of it.
fn crosses(limit: f64, last: f64, value: f64) -> bool {
    (last <= limit && value > limit) || (last >= limit && value < limit)
}

/// Write-Attributes: what is attached at a node after a request with these queries
/// (LwM2M Core 1.1 §6.3.4). `None` if one of them is no attribute, not one of this version or of
/// no use at this node, or if together they contradict themselves.
pub(super) fn merge(
    attached: &NotificationAttributes,
    path: &Path,
    version: Version,
    queries: &[String],
) -> Option<NotificationAttributes> {
    let merged = attached.changed_by(queries).ok()?;
    (!is_misplaced(&merged, version, path.level())).then_some(merged)
}

/// Whether attributes hold something that a client of this version, or a node of this level, has
/// no use for: thresholds, step and edge belong to values, and versions have added some.
fn is_misplaced(attributes: &NotificationAttributes, version: Version, level: Level) -> bool {
    let NotificationAttributes {
        gt,
        lt,
        st,
        epmin,
        epmax,
        edge,
        con,
        hqmax,
        ..
    } = *attributes;
    let of_a_value = gt.or(lt).or(st).is_some() || edge.is_some();
    let since_1_1 = epmin.or(epmax).is_some();
    let since_1_2 = hqmax.is_some() || con.is_some() || edge.is_some();
    (of_a_value && level < Level::Resource)
        || (since_1_1 && version < Version::V1_1)
        || (since_1_2 && version < Version::V1_2)
}

impl Reporting {
    /// How many observations there are.
    pub(super) fn observations(&self) -> usize {
        self.observations.len()
    }

    /// Whether one more observation, under this token, would be one too many.
    pub(super) fn is_full(&self, token: Token, limit: usize) -> bool {
        self.observations.len() >= limit && !self.observations.contains_key(&token)
    }

    /// What the server attached at this very node.
    pub(super) fn attached(&self, path: &Path) -> NotificationAttributes {
        self.attached.get(path).cloned().unwrap_or_default()
    }

    /// What is in force at a node: the nearest of itself and its ancestors, name by name.
    pub(super) fn inherited(&self, path: &Path) -> NotificationAttributes {
        let mut all = self.attached(path);
        let mut node = path.parent();
        while let Some(path) = node {
            all.inherit(&self.attached(&path));
            node = path.parent();
        }
        all
    }

    /// Write-Attributes: replaces what is attached at a node. Running observations obey at once.
    pub(super) fn attach(
        &mut self,
        path: Path,
        attributes: NotificationAttributes,
        defaults: Defaults,
    ) {
        match attributes.is_empty() {
            true => _ = self.attached.remove(&path),
            false => _ = self.attached.insert(path, attributes),
        }
        self.reconsider(defaults);
    }

    /// How many nodes have something attached.
    pub(super) fn attachments(&self) -> usize {
        self.attached.len()
    }

    /// Takes new defaults into account.
    pub(super) fn reconsider(&mut self, defaults: Defaults) {
        let mut observations = std::mem::take(&mut self.observations);
        for observation in observations.values_mut() {
            for part in &mut observation.parts {
                part.rule = self.rule(&part.path, observation.own.as_ref(), defaults);
            }
        }
        self.observations = observations;
    }

    fn rule(&self, path: &Path, own: Option<&NotificationAttributes>, defaults: Defaults) -> Rule {
        match own {
            Some(own) => Rule::new(own, defaults),
            None => Rule::new(&self.inherited(path), defaults),
        }
    }

    /// Begins an observation; its answer is the first notification. A second Observe under the
    /// same token takes the place of the first (RFC 7641 §4.1).
    pub(super) fn observe(
        &mut self,
        now: Instant,
        (token, target): (Token, Target),
        accept: Option<ContentFormat>,
        own: Option<NotificationAttributes>,
        tree: &Tree,
        defaults: Defaults,
    ) {
        let part = |path: &Path| Part {
            path: *path,
            rule: self.rule(path, own.as_ref(), defaults),
            last: Sample::of(tree, path),
            pending: false,
        };
        let observation = Observation {
            parts: target.paths().iter().map(part).collect(),
            target,
            accept,
            own,
            notified: now,
            confirmed: now,
        };
        self.observations.insert(token, observation);
    }

    /// Ends an observation. Returns whether there was one.
    pub(super) fn cancel(&mut self, token: Token) -> bool {
        self.observations.remove(&token).is_some()
    }

    /// Ends all observations, as De-register and Register do. What is attached stays.
    pub(super) fn end_observations(&mut self) {
        self.observations.clear();
    }

    /// Looks at the nodes that moved.
    pub(super) fn changed(&mut self, tree: &Tree, nodes: &BTreeSet<Path>) {
        let observations = self.observations.values_mut();
        for part in observations.flat_map(|observation| &mut observation.parts) {
            let touched = |node: &Path| part.path.contains(node) || node.contains(&part.path);
            if !part.pending && nodes.iter().any(touched) {
                let value = Sample::of(tree, &part.path);
                part.pending = part.rule.is_met(part.last, value);
            }
        }
    }

    /// Takes one notification whose time has come, with the value of this moment as its value.
    pub(super) fn next_due(&mut self, now: Instant, tree: &Tree) -> Option<Due> {
        let (&token, observation) = self
            .observations
            .iter_mut()
            .find(|(_, observation)| observation.due_at().is_some_and(|at| at <= now))?;
        observation.notified = now;
        for part in &mut observation.parts {
            part.pending = false;
            part.last = Sample::of(tree, &part.path);
        }
        let con = observation.parts.iter().any(|part| part.rule.con);
        let confirmable = con || now.since(observation.confirmed) >= CONFIRM_AFTER;
        if confirmable {
            observation.confirmed = now;
        }
        Some(Due {
            token,
            target: observation.target.clone(),
            accept: observation.accept,
            confirmable,
        })
    }

    /// When the next notification is due, as things stand.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.observations
            .values()
            .filter_map(Observation::due_at)
            .min()
    }

    /// Drops attributes of nodes that are gone.
    pub(super) fn prune(&mut self, tree: &Tree) {
        self.attached.retain(|path, _| {
            path.level() == Level::ResourceInstance || tree.contains(&path.truncate(2))
        });
    }
}

impl Observation {
    fn due_at(&self) -> Option<Instant> {
        let part = |part: &Part| match part.pending {
            true => Some(self.notified + part.rule.pmin),
            false => part.rule.pmax.map(|pmax| self.notified + pmax),
        };
        self.parts.iter().filter_map(part).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tree::Resource;

    const VALUE: Path = Path::resource(3303, 0, 5700);
    const SWITCH: Path = Path::resource(3342, 0, 5500);

    fn second(seconds: u64) -> Instant {
        Instant::ZERO + Duration::from_secs(seconds)
    }

    fn token() -> Token {
        Token::new(&[7]).unwrap()
    }

    /// One observation of one value, and what it reports.
    struct Rig {
        tree: Tree,
        reporting: Reporting,
        path: Path,
    }

    impl Rig {
        fn new(path: Path, value: Value, attributes: &[&str]) -> Self {
            let mut tree = Tree::new();
            let &[object, instance, resource] = path.ids() else {
                panic!("a resource")
            };
            tree.insert(
                object,
                None,
                instance,
                [(resource, Resource::readable(value))],
            );
            let mut rig = Self {
                tree,
                reporting: Reporting::default(),
                path,
            };
            rig.attach(path, attributes);
            rig.observe(path);
            rig
        }

        fn attach(&mut self, path: Path, attributes: &[&str]) {
            let attributes =
                NotificationAttributes::from_queries(attributes.iter().copied()).unwrap();
            self.reporting.attach(path, attributes, Defaults::default());
        }

        fn observe(&mut self, path: Path) {
            self.reporting.observe(
                Instant::ZERO,
                (token(), path.into()),
                None,
                None,
                &self.tree,
                Defaults::default(),
            );
        }

        fn set(&mut self, value: Value) {
            self.tree.set(&self.path, value);
            let changes = self.tree.take_changes();
            self.reporting.changed(&self.tree, &changes);
        }

        fn due(&mut self, now: Instant) -> Option<Due> {
            let due = self.reporting.next_due(now, &self.tree);
            assert!(self.reporting.next_due(now, &self.tree).is_none(), "once");
            due
        }

        fn notifies(&mut self, seconds: u64) -> bool {
            self.due(second(seconds)).is_some()
        }
    }

    // conformance: P11
    #[test]
    fn thresholds_and_steps_notify_as_the_specification_shows() {
        for (attributes, from, to, notifies) in [
            (&["gt=45", "st=10"][..], 45.0, 50.0, true),
            (&["gt=45", "st=10"], 38.0, 49.0, true),
            (&["gt=45", "st=10"], 48.0, 42.0, true),
            (&["gt=45", "st=10"], 48.0, 55.0, false),
            (&["lt=20", "gt=85", "st=10"], 87.0, 99.0, true),
            (&["lt=20"], 21.0, 19.0, true),
            (&["lt=20"], 19.0, 21.0, true),
            (&["lt=20"], 20.0, 20.5, true),
            (&["lt=20"], 19.0, 18.0, false),
            (&["gt=45"], 44.0, 45.0, false),
            (&["st=10"], 40.0, 49.9, false),
            (&["st=10"], 40.0, 30.0, true),
            (&["st=0"], 40.0, 40.5, true),
            (&["gt=-90"], -95.0, -85.0, true),
            (&[], 40.0, 40.5, true),
        ] {
            let mut rig = Rig::new(VALUE, Value::Float(from), attributes);
            rig.set(Value::Float(to));
            assert_eq!(rig.notifies(0), notifies, "{attributes:?} {from} -> {to}");
        }
    }

    // conformance: P11
    #[test]
    fn the_step_is_measured_from_the_last_notified_value() {
        let mut rig = Rig::new(VALUE, Value::Float(20.0), &["st=1"]);
        for (value, notifies) in [(20.6, false), (21.2, true), (20.5, false), (20.1, true)] {
            rig.set(Value::Float(value));
            assert_eq!(rig.notifies(1), notifies, "{value}");
        }
    }

    #[test]
    fn edge_takes_one_direction_only() {
        for (edge, from, notifies) in [
            ("edge=0", true, true),
            ("edge=0", false, false),
            ("edge=1", false, true),
            ("edge=1", true, false),
        ] {
            let mut rig = Rig::new(SWITCH, Value::Boolean(from), &[edge]);
            rig.set(Value::Boolean(!from));
            assert_eq!(rig.notifies(0), notifies, "{edge} from {from}");
        }
    }

    // conformance: P12
    #[test]
    fn pmin_holds_back_and_then_sends_the_value_of_that_moment() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmin=10"]);
        rig.set(Value::Float(2.0));
        assert!(!rig.notifies(9));
        assert_eq!(rig.reporting.next_timeout(), Some(second(10)));
        rig.set(Value::Float(3.0));
        assert!(rig.notifies(10));
        // 3.0 was told, so it is what the next value is compared with
        rig.set(Value::Float(3.0));
        assert!(!rig.notifies(30));
        rig.set(Value::Float(4.0));
        assert!(rig.notifies(31));
    }

    #[test]
    fn pmax_notifies_without_a_change() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmax=60"]);
        assert_eq!(rig.reporting.next_timeout(), Some(second(60)));
        assert!(!rig.notifies(59));
        assert!(rig.notifies(60));
        assert_eq!(rig.reporting.next_timeout(), Some(second(120)));
        // a notification for another reason starts the period anew
        rig.set(Value::Float(2.0));
        assert!(rig.notifies(100));
        assert_eq!(rig.reporting.next_timeout(), Some(second(160)));
    }

    // conformance: P12
    #[test]
    fn a_pmax_of_zero_or_below_pmin_is_no_maximum() {
        for attributes in [&["pmax=0"][..], &[]] {
            let rig = Rig::new(VALUE, Value::Float(1.0), attributes);
            assert_eq!(rig.reporting.next_timeout(), None, "{attributes:?}");
        }
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmax=5"]);
        rig.attach(Path::object(3303), &["pmin=10"]);
        assert_eq!(rig.reporting.next_timeout(), None);
    }

    // conformance: P13
    #[test]
    fn the_nearest_attachment_counts_name_by_name() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmin=1"]);
        rig.attach(Path::instance(3303, 0), &["pmin=2", "pmax=20"]);
        rig.attach(Path::object(3303), &["pmax=30", "con=1"]);
        let inherited = rig.reporting.inherited(&VALUE);
        assert_eq!(
            (inherited.pmin, inherited.pmax, inherited.con),
            (Some(1), Some(20), Some(true))
        );
    }

    #[test]
    fn attributes_below_the_observed_node_do_not_count() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["gt=100"]);
        rig.observe(Path::instance(3303, 0));
        rig.set(Value::Float(2.0));
        assert!(rig.notifies(0));
    }

    // conformance: 313, P13
    #[test]
    fn attributes_of_the_observe_itself_replace_the_attached_ones() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmin=100", "gt=50"]);
        let own = NotificationAttributes::from_queries(["pmax=60"]).unwrap();
        let defaults = Defaults::default();
        rig.reporting.observe(
            Instant::ZERO,
            (token(), VALUE.into()),
            None,
            Some(own),
            &rig.tree,
            defaults,
        );
        rig.set(Value::Float(2.0));
        assert!(rig.notifies(0));
        assert_eq!(rig.reporting.next_timeout(), Some(second(60)));
    }

    // conformance: P30
    #[test]
    fn each_node_of_a_composite_observation_has_its_own_rules() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmin=10"]);
        let switch = [(5500, Resource::readable(Value::Boolean(false)))];
        rig.tree.insert(3342, None, 0, switch);
        rig.attach(SWITCH, &["pmin=2", "pmax=60", "edge=1"]);
        let target = Target::composite([VALUE, SWITCH]);
        let defaults = Defaults::default();
        let (tree, reporting) = (&rig.tree, &mut rig.reporting);
        reporting.observe(Instant::ZERO, (token(), target), None, None, tree, defaults);
        rig.set(Value::Float(2.0));
        assert!(!rig.notifies(9));
        assert!(rig.notifies(10));
        rig.path = SWITCH;
        rig.set(Value::Boolean(true));
        assert!(!rig.notifies(11));
        assert!(rig.notifies(12));
        // The other edge is none of its, and the longest time is.
        rig.set(Value::Boolean(false));
        assert_eq!(rig.reporting.next_timeout(), Some(second(72)));
    }

    // conformance: P12
    #[test]
    fn a_shorter_pmax_applies_to_the_period_that_runs() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmax=600"]);
        rig.attach(VALUE, &["pmax=60"]);
        assert_eq!(rig.reporting.next_timeout(), Some(second(60)));
    }

    #[test]
    fn write_attributes_adds_changes_and_unsets_by_name() {
        let merged = |attached: &[&str], path: &str, queries: &[&str]| {
            let attached = NotificationAttributes::from_queries(attached.iter().copied()).unwrap();
            let queries: Vec<String> = queries.iter().map(|&query| query.into()).collect();
            merge(&attached, &path.parse().unwrap(), Version::V1_1, &queries)
                .map(|merged| merged.to_queries().join("&"))
        };
        let resource = "/3303/0/5700";
        for (attached, path, queries, expected) in [
            (
                &[][..],
                resource,
                &["pmin=10", "pmax=60"][..],
                Some("pmin=10&pmax=60"),
            ),
            (
                &["pmin=10"],
                resource,
                &["pmax=60"],
                Some("pmin=10&pmax=60"),
            ),
            (
                &["pmin=10", "pmax=60"],
                resource,
                &["pmin"],
                Some("pmax=60"),
            ),
            (
                &["pmin=10", "pmax=60"],
                resource,
                &["pmin="],
                Some("pmax=60"),
            ),
            (&["pmin=10"], resource, &["pmin=20"], Some("pmin=20")),
            (&["pmin=10"], resource, &["pmax=5"], None),
            (&["lt=50"], resource, &["gt=40"], None),
            (&[], "/3303/0", &["gt=40"], None),
            (&[], "/3303/0", &["pmin=4"], Some("pmin=4")),
            (&[], resource, &["pmni=4"], None),
            (&[], resource, &["pmni"], None),
            (&[], resource, &["pmin=x"], None),
            // of LwM2M 1.2, and this is 1.1
            (&[], resource, &["con=1"], None),
        ] {
            assert_eq!(
                merged(attached, path, queries).as_deref(),
                expected,
                "{attached:?} {path} {queries:?}"
            );
        }
    }

    #[test]
    fn con_and_the_daily_one_are_confirmable() {
        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["con=1"]);
        rig.set(Value::Float(2.0));
        assert!(rig.due(second(1)).unwrap().confirmable);

        let mut rig = Rig::new(VALUE, Value::Float(1.0), &["pmax=43200"]);
        assert!(!rig.due(second(43_200)).unwrap().confirmable);
        assert!(rig.due(second(86_400)).unwrap().confirmable);
        assert!(!rig.due(second(129_600)).unwrap().confirmable);
    }
}
