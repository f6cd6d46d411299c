//! What the broker retains, held against the ledger: topics below the base that nobody answers for
//! any more, such as those of a store that was lost (MQTT contract §6).

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::gateway::admin::{AdminError, Waiter};
use crate::gateway::publish::Publish;
use crate::gateway::{Event, Gateway, Output};
use crate::server::DeviceId;
use crate::time::Now;

/// Requests that wait for the same reading.
const WAITERS: usize = 16;

/// Topics that an answer names.
const NAMED: usize = 1_000;

/// What the broker was found to retain.
#[derive(Clone, Debug, Default)]
pub struct Retained {
    /// The topics.
    pub topics: BTreeSet<String>,
    /// The payload of the topic that tells whose they are.
    pub whose: Option<Vec<u8>>,
    /// Whether these are all.
    pub complete: bool,
}

/// What is to become of what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    /// It is told.
    Tell,
    /// It is told, and deleted.
    Delete,
}

impl Find {
    const fn verb(self) -> &'static str {
        match self {
            Self::Tell => "retained/audit",
            Self::Delete => "retained/clean",
        }
    }
}

/// Who wants to know.
#[derive(Debug, Default)]
pub(super) struct Audit {
    waiting: Vec<(Find, Waiter)>,
    /// What was deleted since the reading began: it may have been read before.
    gone: BTreeSet<Arc<str>>,
}

impl Audit {
    /// The broker has deleted a topic.
    pub(super) fn note_deleted(&mut self, topic: &Arc<str>) {
        if !self.waiting.is_empty() {
            self.gone.insert(topic.clone());
        }
    }
}

impl Gateway {
    /// Has read what the broker retains, for one who is answered then.
    pub(super) fn audit(&mut self, find: Find, waiter: Waiter) -> Result<(), AdminError> {
        if !self.broker.may_publish() {
            return Err(AdminError::new("offline", "the broker is not there"));
        }
        if self.audit.waiting.len() >= WAITERS {
            return Err(AdminError::new(
                "queue_full",
                "too many wait for what the broker retains",
            ));
        }
        if self.audit.waiting.is_empty() {
            self.outputs.push_back(Output::ReadRetained {
                filter: format!("{}/#", self.settings.base_topic),
                whose: self.topics.bridge("info"),
            });
        }
        self.audit.waiting.push((find, waiter));
        Ok(())
    }

    /// What the broker retains has been read, or why not.
    pub(super) fn on_retained(&mut self, now: Now, read: Result<Retained, String>) {
        let waiting = std::mem::take(&mut self.audit.waiting);
        let gone = std::mem::take(&mut self.audit.gone);
        let found = read
            .map_err(|why| AdminError::new("offline", why))
            .and_then(|retained| self.without_owner(&retained, &gone));
        for (find, waiter) in waiting {
            let outcome = found.clone().map(|found| match find {
                Find::Tell => found.told(),
                Find::Delete => self.delete(now, &found),
            });
            self.answer_waiter(now, find.verb(), waiter, outcome);
        }
    }

    /// Every topic that is, or is about to be, retained in our name, below the base or elsewhere.
    pub fn ledger(&self) -> BTreeSet<Arc<str>> {
        let devices = (0..self.devices.len() as u32).map(DeviceId);
        let passing = devices.flat_map(|id| {
            let pending = self.pending_of(id).into_iter();
            pending.chain(self.update_message(id)).map(|it| it.topic)
        });
        let own = ["state", "sentinel", "info"].map(|name| self.topics.bridge(name));
        let standing = self.standing_topics().into_iter();
        standing.chain(passing).chain(own).collect()
    }

    /// What of it is below the base, and neither ours nor another gateway's.
    fn without_owner(
        &self,
        retained: &Retained,
        gone: &BTreeSet<Arc<str>>,
    ) -> Result<Found, AdminError> {
        if let Some(other) = retained.whose.as_deref().and_then(gateway_of)
            && other != self.settings.id
        {
            return Err(AdminError::new(
                "conflict",
                format!(
                    "gateway \"{}\" publishes below the same base topic, so what is whose cannot be told: give one of them another [mqtt] base_topic",
                    other.escape_debug()
                ),
            ));
        }
        let base = &self.settings.base_topic;
        let ledger = self.ledger();
        let others = roots(&retained.topics, base);
        let mut found = Found {
            complete: retained.complete,
            ..Found::default()
        };
        let unknown = retained.topics.iter().filter(|topic| {
            !ledger.contains(topic.as_str())
                && !gone.contains(topic.as_str())
                && !self.cleared.is_owed(topic)
        });
        for topic in unknown {
            match others.iter().any(|root| topic.starts_with(root)) {
                true => found.of_others += 1,
                false => found.topics.push(topic.as_str().into()),
            }
        }
        Ok(found)
    }

    fn delete(&mut self, now: Now, found: &Found) -> Json {
        for topic in &found.topics {
            self.publish(Publish::deletion(topic.clone()));
        }
        if !found.topics.is_empty() {
            let topics = found.topics.len();
            self.report(now, Event::RetainedCleaned { topics });
        }
        found.told()
    }
}

/// What nobody answers for.
#[derive(Clone, Debug, Default)]
struct Found {
    topics: Vec<Arc<str>>,
    of_others: usize,
    complete: bool,
}

impl Found {
    fn told(&self) -> Json {
        let named: Vec<_> = self.topics.iter().take(NAMED).map(|it| &**it).collect();
        json!({
            "count": self.topics.len(),
            "topics": named,
            "of_other_gateways": self.of_others,
            "complete": self.complete,
        })
    }
}

/// The gateway that a `bridge/info` is of.
fn gateway_of(info: &[u8]) -> Option<String> {
    let info: Json = serde_json::from_slice(info).ok()?;
    info.get("gateway")?.as_str().map(str::to_owned)
}

/// Where other gateways have their base below ours, each with the `/` behind it.
fn roots(topics: &BTreeSet<String>, base: &str) -> Vec<String> {
    let own = format!("{base}/");
    let is_ours = |root: &str| {
        let below = root.strip_prefix(&own).unwrap_or_default();
        below.is_empty() || below.starts_with("d/") || below.starts_with("bridge/")
    };
    let mut roots: Vec<_> = ["bridge/info", "bridge/sentinel", "bridge/state"]
        .iter()
        .flat_map(|name| {
            topics
                .iter()
                .filter_map(move |topic| topic.strip_suffix(name))
        })
        .filter(|root| root.ends_with('/') && !is_ours(root))
        .map(str::to_owned)
        .collect();
    roots.sort();
    roots.dedup();
    roots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_gateway_below_the_base_is_known_by_what_it_says_of_itself() {
        let topics = [
            "gw/bridge/info",
            "gw/x/bridge/sentinel",
            "gw/x/bridge/state",
            "gw/d/bridge/state",
            "gw/d/y/v/a/bridge",
            "gw/xbridge/info",
        ];
        let topics = topics.iter().map(|topic| (*topic).to_owned()).collect();
        assert_eq!(roots(&topics, "gw"), ["gw/x/"]);
    }
}
