//! One thing that a device is to report, a node or several in one observation: how far that has
//! come, and what is to be done next.

use std::time::Duration;

use crate::lwm2m::attributes::AttributeChange;
use crate::lwm2m::{NotificationAttributes, Path, Target};
use crate::mapping::{Desired, Strategy};
use crate::server::Operation;
use crate::time::Instant;

/// How often a node is read that cannot be observed, when its `pmax` says nothing about it.
const POLL_INTERVAL: Duration = Duration::from_secs(600);

/// Every so many times that a node is read, it is tried whether it can be observed by now.
const POLLS_TO_A_TRY: u8 = 8;

/// After a refusal the next try waits this long, twice as long after each further one, and no
/// longer than 64 times.
const FIRST_RETRY: Duration = Duration::from_secs(60);
const RETRY_DOUBLINGS: u8 = 6;

/// Something that the plan wants reported, during one registration.
#[derive(Debug)]
pub struct Watch {
    /// An object, instance or resource; or several of them, in one composite observation.
    pub target: Target,
    /// What has come of it.
    pub state: Watching,
    /// Whether a step for it waits or is under way.
    pub busy: bool,
    /// What came of the attributes.
    pub written: Written,
    /// What went wrong since the last notification; of a node that is read, how often it was.
    failures: u8,
    /// When something was last heard or tried of it.
    seen: Instant,
    /// When its values came last.
    pub heard: Instant,
    /// The attributes that the plan wants attached to the nodes, where it wants any.
    attributes: Vec<(Path, NotificationAttributes)>,
}

/// What has come of observing a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watching {
    /// It has not been asked for yet.
    Wanted,
    /// It is observed.
    Observed,
    /// It cannot be observed, and is read now and then.
    Polled,
    /// The device refuses; it is tried again later.
    Refused,
    /// The device has no such node.
    Absent,
    /// It is not observed, but read whenever the device is heard of.
    OnWake,
}

/// What came of the attributes of a node, during this registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// They have to be written.
    No,
    /// The device has them.
    Confirmed,
    /// The device does not take them.
    Refused,
}

/// What is watched so that the nodes that are wanted get here.
/// `composes`: whether the device may have composite operations.
pub fn of(desired: Vec<Desired>, strategy: Strategy, composes: bool) -> Vec<Watch> {
    let apart: fn(&Desired, &Desired) -> bool = match strategy {
        Strategy::Send => return Vec::new(),
        Strategy::Composite | Strategy::PollOnWake if composes => |_, _| false,
        Strategy::CompositeByObject if composes => {
            |one, other| one.path.object_id() != other.path.object_id()
        }
        _ => |_, _| true,
    };
    let mut all: Vec<Vec<Desired>> = Vec::new();
    for node in desired {
        match all.last_mut() {
            Some(together) if together.last().is_some_and(|last| !apart(last, &node)) => {
                together.push(node);
            }
            _ => all.push(vec![node]),
        }
    }
    let mut watches: Vec<_> = all.into_iter().map(Watch::new).collect();
    if strategy == Strategy::PollOnWake {
        for watch in &mut watches {
            watch.state = Watching::OnWake;
            watch.attributes.clear();
        }
    }
    watches
}

impl Watch {
    /// Nodes that are to be observed, together if they are several.
    pub fn new(nodes: Vec<Desired>) -> Self {
        let target = match nodes.as_slice() {
            [one] => Target::Node(one.path),
            _ => Target::composite(nodes.iter().map(|desired| desired.path)),
        };
        let attributes = nodes
            .into_iter()
            .filter(|desired| !desired.attributes.is_empty())
            .map(|desired| (desired.path, desired.attributes))
            .collect();
        Self {
            target,
            state: Watching::Wanted,
            busy: false,
            written: Written::No,
            failures: 0,
            seen: Instant::ZERO,
            heard: Instant::ZERO,
            attributes,
        }
    }

    /// A node that the device turned out not to have.
    pub fn absent(node: Path) -> Self {
        Self {
            target: Target::Node(node),
            state: Watching::Absent,
            ..Self::new(Vec::new())
        }
    }

    /// An observation that stands, of which nothing is known but what it is of.
    pub fn standing(target: Target, now: Instant) -> Self {
        let mut watch = Self {
            target,
            ..Self::new(Vec::new())
        };
        watch.answered(now, true);
        watch
    }

    /// Whether it was not asked for yet.
    pub fn is_to_come(&self) -> bool {
        matches!(self.state, Watching::Wanted | Watching::OnWake)
    }

    /// Takes over what is wanted of the same nodes by now. What it takes to observe them with other
    /// attributes; nothing if they are the same.
    pub fn want(&mut self, other: Self) -> Vec<Operation> {
        if other.attributes == self.attributes {
            return Vec::new();
        }
        let before = std::mem::replace(&mut self.attributes, other.attributes);
        let known = self.written != Written::No;
        self.written = Written::No;
        let none = NotificationAttributes::default();
        let find = |list: &[(Path, NotificationAttributes)], node: &Path| {
            let found = list.iter().find(|(path, _)| path == node);
            found.map_or_else(|| none.clone(), |(_, attributes)| attributes.clone())
        };
        let changes: Vec<_> = self
            .target
            .paths()
            .iter()
            .map(|node| {
                let after = find(&self.attributes, node);
                let change = if known {
                    AttributeChange::between(&find(&before, node), &after)
                } else {
                    after.into()
                };
                (*node, change)
            })
            .filter(|(_, change)| !change.is_empty())
            .map(|(node, change)| Operation::WriteAttributes(node, change))
            .collect();
        self.busy = true;
        changes.into_iter().chain([self.observe()]).collect()
    }

    /// What it takes to observe: the attributes first, unless they stand there.
    pub fn begin(&mut self) -> Vec<Operation> {
        self.begin_after(&[])
    }

    /// The same; what stands there by watches from before is not written again.
    pub fn begin_after(&mut self, before: &[Self]) -> Vec<Operation> {
        if self.state == Watching::OnWake {
            return self.read();
        }
        self.busy = true;
        let stands = |attributes: &(Path, NotificationAttributes)| {
            let mut before = before.iter();
            before.any(|watch| {
                watch.written == Written::Confirmed && watch.attributes.contains(attributes)
            })
        };
        let writes: Vec<_> = self
            .attributes
            .iter()
            .filter(|attributes| self.written == Written::No && !stands(attributes))
            .map(|(path, attributes)| Operation::WriteAttributes(*path, attributes.clone().into()))
            .collect();
        if writes.is_empty() && self.written == Written::No && !self.attributes.is_empty() {
            self.written = Written::Confirmed;
        }
        writes.into_iter().chain([self.observe()]).collect()
    }

    /// The device has no composite operations, and was asked for each node by itself: a watch for
    /// each, of which those in `observed` stand.
    pub fn split(self, now: Instant, observed: impl Fn(&Path) -> bool) -> Vec<Self> {
        let node = |path: &Path| {
            let attributes = self.attributes.iter().filter(|(node, _)| node == path);
            let mut watch = Self {
                target: Target::Node(*path),
                attributes: attributes.cloned().collect(),
                ..Self::new(Vec::new())
            };
            watch.written = self.written;
            if observed(path) {
                watch.answered(now, true);
            } else {
                watch.refused(now);
            }
            watch
        };
        self.target.paths().iter().map(node).collect()
    }

    /// Goes on with an observation that stands. What it takes; nothing if its attributes are those
    /// that were written when it began, or if there are none.
    pub fn take_up(&mut self, now: Instant, has_attributes: bool) -> Vec<Operation> {
        self.answered(now, true);
        if has_attributes {
            self.written = Written::Confirmed;
        }
        match self.attributes.is_empty() || has_attributes {
            true => Vec::new(),
            false => self.begin(),
        }
    }

    fn observe(&self) -> Operation {
        Operation::Observe(self.target.clone(), NotificationAttributes::default())
    }

    /// Whether a node of it is to have attributes.
    pub fn has_attributes(&self, node: &Path) -> bool {
        self.attributes.iter().any(|(path, _)| path == node)
    }

    /// The device answered to attributes of a node.
    pub fn wrote(&mut self, taken: bool) {
        self.written = match self.written {
            Written::Refused => Written::Refused,
            _ if taken => Written::Confirmed,
            _ => Written::Refused,
        };
    }

    /// Most time between two notifications, if the device has been told.
    pub fn pmax(&self) -> Option<Duration> {
        let told = self.written == Written::Confirmed;
        let pmaxes = self.attributes.iter().filter(|_| told);
        let pmax = pmaxes.filter_map(|(_, attributes)| attributes.pmax.filter(|pmax| *pmax > 0));
        Some(Duration::from_secs(pmax.min()?.into()))
    }

    /// When something is to be done about it, if nothing is heard of it before.
    pub fn due(&self) -> Option<Instant> {
        if self.busy {
            return None;
        }
        let wait = match self.state {
            Watching::Wanted | Watching::Absent | Watching::OnWake => return None,
            Watching::Observed => self.pmax().map(|pmax| pmax + pmax / 2)?,
            Watching::Polled => self.pmax().unwrap_or(POLL_INTERVAL),
            Watching::Refused => {
                let doublings = self.failures.saturating_sub(1).min(RETRY_DOUBLINGS);
                FIRST_RETRY * (1 << doublings)
            }
        };
        Some(self.seen + wait)
    }

    /// What is to be done now that it is due. An observation that says nothing is begun anew, then
    /// with its attributes, as the device may have lost them too; after that the node is read.
    pub fn next_steps(&mut self) -> Vec<Operation> {
        match self.state {
            Watching::Observed => {
                self.failures = self.failures.saturating_add(1);
                match self.failures {
                    1 => self.begin(),
                    2 => {
                        self.written = Written::No;
                        self.begin()
                    }
                    _ => {
                        self.state = Watching::Polled;
                        self.failures = 0;
                        self.read()
                    }
                }
            }
            Watching::Polled => {
                self.failures = self.failures.wrapping_add(1);
                if self.failures.is_multiple_of(POLLS_TO_A_TRY) {
                    self.begin()
                } else {
                    self.read()
                }
            }
            Watching::Refused => self.begin(),
            Watching::Wanted | Watching::Absent | Watching::OnWake => Vec::new(),
        }
    }

    /// What is to be done because the device is heard of.
    pub fn on_wake(&mut self) -> Vec<Operation> {
        if self.state == Watching::OnWake && !self.busy {
            self.read()
        } else {
            Vec::new()
        }
    }

    /// Whether it is read and not observed.
    pub fn is_read(&self) -> bool {
        matches!(self.state, Watching::Polled | Watching::OnWake)
    }

    fn read(&mut self) -> Vec<Operation> {
        self.busy = true;
        vec![Operation::Read(self.target.clone())]
    }

    /// A notification came.
    pub fn notified(&mut self, now: Instant) {
        (self.seen, self.heard) = (now, now);
        self.failures = 0;
        self.state = Watching::Observed;
    }

    /// The device answered, and observes the node from now on, or does not.
    pub fn answered(&mut self, now: Instant, observing: bool) {
        (self.seen, self.heard) = (now, now);
        self.busy = false;
        self.state = if observing {
            Watching::Observed
        } else {
            Watching::Polled
        };
    }

    /// The node was read, or could not be.
    pub fn was_read(&mut self, now: Instant, answered: bool) {
        self.seen = now;
        self.busy = false;
        if answered {
            self.heard = now;
        }
    }

    /// The device refused, or ended the observation.
    pub fn refused(&mut self, now: Instant) {
        self.seen = now;
        self.busy = false;
        self.failures = self.failures.saturating_add(1);
        self.state = Watching::Refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const PATH: Path = Path::resource(3303, 0, 5700);

    fn at(seconds: u32) -> Instant {
        Instant::ZERO + seconds * SECOND
    }

    fn desired(pmax: Option<u32>) -> Desired {
        Desired {
            path: PATH,
            attributes: NotificationAttributes {
                pmax,
                ..NotificationAttributes::default()
            },
            dropped: Vec::new(),
        }
    }

    fn watch(pmax: Option<u32>) -> Watch {
        Watch::new(vec![desired(pmax)])
    }

    fn names(steps: impl IntoIterator<Item = Operation>) -> Vec<&'static str> {
        steps.into_iter().map(|step| step.name()).collect()
    }

    #[test]
    fn a_silent_observation_is_begun_anew_then_with_its_attributes_then_read() {
        let mut watch = watch(Some(100));
        assert_eq!(names(watch.begin()), ["write-attributes", "observe"]);
        assert_eq!(watch.due(), None, "while steps wait");
        watch.written = Written::Confirmed;
        watch.answered(at(0), true);
        assert_eq!(watch.due(), Some(at(150)));
        watch.notified(at(90));
        assert_eq!(watch.due(), Some(at(240)));
        assert_eq!(names(watch.next_steps()), ["observe"]);
        watch.answered(at(240), true);
        assert_eq!(watch.due(), Some(at(390)));
        assert_eq!(
            names(watch.next_steps()),
            ["write-attributes", "observe"],
            "it may have lost these as well"
        );
        watch.written = Written::Confirmed;
        watch.answered(at(390), true);
        assert_eq!(names(watch.next_steps()), ["read"]);
        watch.was_read(at(540), true);
        assert_eq!(watch.due(), Some(at(640)), "as often as it was to notify");
        watch.notified(at(600));
        assert_eq!(watch.state, Watching::Observed);
        assert_eq!(names(watch.next_steps()), ["observe"]);
    }

    #[test]
    fn without_a_pmax_silence_is_no_loss() {
        let mut watch = watch(None);
        assert_eq!(names(watch.begin()), ["observe"]);
        watch.answered(at(0), true);
        assert_eq!(watch.due(), None);
    }

    #[test]
    fn a_pmax_that_the_device_did_not_take_counts_for_nothing() {
        let mut watch = watch(Some(100));
        assert_eq!(watch.begin().len(), 2);
        watch.written = Written::Refused;
        watch.answered(at(0), true);
        assert_eq!(watch.due(), None);
        assert_eq!(names(watch.begin()), ["observe"]);
    }

    #[test]
    fn a_node_that_cannot_be_observed_is_read_and_tried_now_and_then() {
        let mut watch = watch(None);
        assert_eq!(watch.begin().len(), 1);
        watch.answered(at(0), false);
        let mut steps = Vec::new();
        for poll in 1..=8 {
            assert_eq!(watch.due(), Some(at(600 * poll)).filter(|_| poll > 0));
            steps.extend(watch.next_steps());
            watch.was_read(at(600 * poll), true);
        }
        let names = names(steps);
        assert!(names[..7].iter().all(|name| *name == "read"));
        assert_eq!(names[7], "observe");
    }

    #[test]
    fn a_refusal_is_tried_again_later_and_later() {
        let mut watch = watch(None);
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(watch.begin().len(), 1);
            watch.refused(at(0));
            waits.extend(watch.due().map(|due| due.since(at(0)).as_secs() / 60));
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
    }

    #[test]
    fn attributes_are_written_again_when_others_are_wanted() {
        let mut watch = watch(Some(100));
        watch.wrote(true);
        assert!(watch.want(Watch::new(vec![desired(Some(100))])).is_empty());
        assert_eq!(names(watch.begin()), ["observe"]);
        let steps = watch.want(Watch::new(vec![desired(Some(60))]));
        assert_eq!(names(steps), ["write-attributes", "observe"]);
        watch.wrote(true);
        let steps = watch.want(Watch::new(vec![desired(None)]));
        let Some(Operation::WriteAttributes(PATH, change)) = steps.first() else {
            panic!("{steps:?}")
        };
        assert_eq!(change.to_queries(), ["pmax"], "is taken away");
    }
}
