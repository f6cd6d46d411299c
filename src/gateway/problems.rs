//! What is wrong with a device and stays wrong: said once, and in its birth message.

use serde::Serialize;

use crate::gateway::{Event, Gateway};
use crate::kept;
use crate::lwm2m::{Path, Target};
use crate::server::DeviceId;
use crate::time::Now;

/// Something about a device that an operator should know.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// What kind, of [`Problem::KINDS`].
    pub kind: &'static str,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What, for a person.
    pub detail: String,
}

impl Problem {
    /// Those that there are.
    pub const KINDS: [&'static str; 8] = [
        "observe",
        "attributes",
        "attribute_dropped",
        "composite",
        "read",
        "send",
        "topic",
        "on_register",
    ];

    /// How many of them a birth message has.
    const TOPICS_MAX: usize = 32;

    /// Adds that the values of `path` have no topic, unless enough is said of topics already.
    pub fn of_topic(problems: &mut Vec<Self>, path: Path, detail: String) {
        if problems
            .iter()
            .filter(|problem| problem.is_of_a_topic())
            .count()
            < Self::TOPICS_MAX
        {
            problems.push(Self {
                kind: "topic",
                path: Some(path.to_string()),
                detail,
            });
        }
    }

    /// Whether it says something about what another one is about.
    pub fn is_same(&self, other: &Self) -> bool {
        self.kind == other.kind && self.path == other.path
    }

    /// Whether it is about the topic of a signal.
    pub fn is_of_a_topic(&self) -> bool {
        self.kind == "topic"
    }

    /// As the store keeps it.
    pub fn kept(&self) -> kept::Problem {
        kept::Problem {
            kind: self.kind.to_owned(),
            path: self.path.clone(),
            detail: self.detail.clone(),
        }
    }

    /// One of a kind that is not known any more is dropped.
    pub fn restored(kept: kept::Problem) -> Option<Self> {
        let kind = Self::KINDS.into_iter().find(|known| *known == kept.kind)?;
        Some(Self {
            kind,
            path: kept.path,
            detail: kept.detail,
        })
    }
}

impl Gateway {
    /// Says that a node is not reported as it should be, unless that was said.
    pub(super) fn report_problem(
        &mut self,
        now: Now,
        id: DeviceId,
        kind: &'static str,
        target: &Target,
        detail: String,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let problem = Problem {
            kind,
            path: Some(target.to_string()),
            detail: detail.clone(),
        };
        if device.problems.contains(&problem) {
            return;
        }
        // One a path, however often it fails.
        device.problems.retain(|known| !known.is_same(&problem));
        device.problems.push(problem);
        let event = Event::ObserveFailed {
            device: device.name.to_string(),
            path: target.to_string(),
            detail,
        };
        self.report(now, event);
        self.birth_later(now, id);
    }

    /// What was said of a node is true no longer.
    pub(super) fn problem_over(
        &mut self,
        now: Now,
        id: DeviceId,
        kind: &'static str,
        target: &Target,
    ) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        if device.problems.is_empty() {
            return;
        }
        let path = target.to_string();
        let before = device.problems.len();
        device
            .problems
            .retain(|known| known.kind != kind || known.path.as_ref() != Some(&path));
        if device.problems.len() < before {
            self.birth_later(now, id);
        }
    }
}
