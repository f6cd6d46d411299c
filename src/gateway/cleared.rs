//! The retained topics that were deleted: the part of the ledger that nothing else remembers.
//!
//! That a topic is to go is written down with what makes it go, so that neither a kill nor a restart
//! while the broker is away leaves a ghost. That it went is remembered with the number of the
//! sentinel, for a broker that comes back with what stood earlier (MQTT contract §6): its sentinel is
//! older, or missing if the copy was made while everything was being published again.

use std::collections::BTreeSet;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::gateway::publish::Publish;
use crate::gateway::{Gateway, Output};
use crate::kept::{Change, Document, DocumentKey, Kind, Urgency};
use crate::keyed::KeyedMap;
use crate::mapping::Destination;

/// How many topics are remembered that the broker is known to have deleted; the oldest are
/// forgotten.
const REMEMBERED: usize = 4_096;

/// Topics that were deleted and have not been written to since.
#[derive(Debug)]
pub(super) struct Cleared {
    topics: KeyedMap<Arc<str>, Grave>,
    /// Those that the broker has deleted, the oldest first.
    settled: BTreeSet<(u64, Arc<str>)>,
}

/// What is known of a deleted topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Grave {
    /// The sentinel's `n` when it was deleted.
    #[n(0)]
    sentinel: u64,
    /// Whether the broker has not acknowledged that.
    #[n(1)]
    owed: bool,
}

impl Cleared {
    pub(super) fn new(topics: KeyedMap<Arc<str>, Grave>) -> Self {
        Self {
            topics,
            settled: BTreeSet::new(),
        }
    }

    /// Whether a topic was deleted, and the broker may not know it.
    pub(super) fn is_owed(&self, topic: &str) -> bool {
        self.topics.get(topic).is_some_and(|grave| grave.owed)
    }

    fn insert(&mut self, topic: &Arc<str>, grave: Grave) {
        self.remove(topic);
        if !grave.owed {
            self.settled.insert((grave.sentinel, topic.clone()));
        }
        self.topics.insert(topic.clone(), grave);
    }

    fn remove(&mut self, topic: &Arc<str>) -> bool {
        let Some(grave) = self.topics.remove(topic) else {
            return false;
        };
        self.settled.remove(&(grave.sentinel, topic.clone()));
        true
    }

    /// The one that is to be forgotten.
    fn surplus(&self) -> Option<Arc<str>> {
        let (_, oldest) = self.settled.first()?;
        (self.settled.len() > REMEMBERED).then(|| oldest.clone())
    }
}

fn key(topic: &Arc<str>) -> DocumentKey {
    DocumentKey {
        kind: Kind::Cleared,
        // It outlives its device.
        endpoint: "".into(),
        id: topic.clone(),
    }
}

impl Gateway {
    /// A retained message is about to be accepted: its topic is to go, or stands again.
    pub(super) fn note_retained(&mut self, publish: &Publish) {
        self.broker.note_change();
        if publish.payload.is_empty() {
            let grave = Grave {
                sentinel: self.broker.sentinel(),
                owed: true,
            };
            self.cleared.insert(&publish.topic, grave);
            self.keep_grave(&publish.topic, grave, Urgency::Now);
        } else if !self.cleared.topics.is_empty() && self.cleared.remove(&publish.topic) {
            self.drop_grave(&publish.topic);
        }
    }

    /// The broker has taken a message, or never will.
    pub(super) fn cleared_left(&mut self, publish: &Publish) {
        if !publish.retain || !publish.payload.is_empty() {
            return;
        }
        let Some(grave) = self.cleared.topics.get(&publish.topic).copied() else {
            return;
        };
        self.audit.note_deleted(&publish.topic);
        let grave = Grave {
            owed: false,
            ..grave
        };
        self.cleared.insert(&publish.topic, grave);
        self.keep_grave(&publish.topic, grave, Urgency::Soon);
        while let Some(topic) = self.cleared.surplus() {
            self.cleared.remove(&topic);
            self.drop_grave(&topic);
        }
    }

    fn keep_grave(&mut self, topic: &Arc<str>, grave: Grave, urgency: Urgency) {
        if self.settings.has_store {
            let document = Document {
                key: key(topic),
                body: minicbor::to_vec(grave).unwrap_or_default(),
            };
            let change = Change::Put(document, urgency);
            self.outputs.push_back(Output::Store(change));
        }
    }

    fn drop_grave(&mut self, topic: &Arc<str>) {
        if self.settings.has_store {
            let change = Change::Drop(key(topic), Urgency::Soon);
            self.outputs.push_back(Output::Store(change));
        }
    }

    /// Takes what the store held of one.
    pub(super) fn restore_cleared(&mut self, topic: &Arc<str>, body: &[u8]) -> Option<()> {
        let grave = minicbor::decode(body).ok()?;
        self.cleared.insert(topic, grave);
        Some(())
    }

    /// All is restored: what the process before did not get to delete is deleted.
    pub(super) fn cleared_restored(&mut self) {
        if self.cleared.topics.is_empty() {
            return;
        }
        // What was written down last of a topic may be that it stands.
        for topic in self.standing_topics() {
            if self.cleared.remove(&topic) {
                self.drop_grave(&topic);
            }
        }
        let owed = self.cleared.topics.iter().filter(|(_, grave)| grave.owed);
        let owed: Vec<_> = owed.map(|(topic, _)| topic.clone()).collect();
        for topic in owed {
            self.publish(Publish::deletion(topic));
        }
    }

    /// The retained topics of all devices, but for those that come and go with commands.
    pub(super) fn standing_topics(&self) -> Vec<Arc<str>> {
        let devices = self.devices.iter().filter(|device| !device.removed);
        devices
            .flat_map(|device| {
                let signals = device.signals.iter().filter_map(|tracked| {
                    match (&tracked.destination, &tracked.last) {
                        (Destination::Signal(signal), Some(_)) if signal.retain => {
                            Some(signal.topic.clone())
                        }
                        _ => None,
                    }
                });
                signals.chain([
                    self.topics.birth(&device.name),
                    self.topics.device(&device.name, "availability"),
                ])
            })
            .collect()
    }

    /// The broker has lost something, or has gone back to what stood earlier: what was deleted may
    /// stand there again.
    pub(super) fn clear_again(&mut self) {
        let settled = self.cleared.settled.iter();
        let topics: Vec<_> = settled.map(|(_, topic)| topic.clone()).collect();
        for topic in topics {
            self.publish(Publish::deletion(topic));
        }
    }
}
