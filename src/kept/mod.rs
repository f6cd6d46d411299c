//! What outlives the process.
//!
//! The core says what to keep, one [`Change`] at a time, and is given all of it back in [`Kept`] at
//! the next start. Each change says how much hurry it is in ([`Urgency`]). What is *absent* here:
//! files, the database, and what the bytes of a [`Document`] mean.

use std::collections::BTreeMap;
use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::server::credentials;

/// Something that is another one from now on.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Who may come in.
    Credential(credentials::Change),
    /// A document is this one; one of the same kind, endpoint and id is replaced.
    Put(Document, Urgency),
    /// There is no such document any more.
    Drop(DocumentKey, Urgency),
    /// What the gateway knows of itself.
    Gateway(Gateway),
}

/// When a change has to be on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Within a minute or at an orderly stop; until then a newer one of the same key takes its place.
    Soon,
    /// Before anything that follows it in the output is done.
    Now,
}

/// What a change is about: a newer change of the same key replaces an older one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The record of a name.
    Record(Arc<str>),
    /// The key that an endpoint was granted.
    Grant(Arc<str>),
    /// A document.
    Document(DocumentKey),
    /// The gateway.
    Gateway,
}

/// What a document is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A command that is not final yet.
    Command,
    /// The final reply to a command, for whoever asks again.
    Reply,
    /// A firmware or software update under way.
    Update,
}

/// Names a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DocumentKey {
    /// What it is about.
    pub kind: Kind,
    /// The endpoint name of its device; with the device its documents go.
    pub endpoint: Arc<str>,
    /// Tells it from others of this kind and device.
    pub id: Arc<str>,
}

/// Bytes that only the part of the core understands that wrote them. They may be read by a later
/// version, so their encoding has to say what it is (CBOR with numbered fields, JSON).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Which.
    pub key: DocumentKey,
    /// The content.
    pub body: Vec<u8>,
}

/// What the gateway knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Gateway {
    /// Whose retained messages stand at the broker: the `boot` of `bridge/sentinel`.
    #[n(0)]
    pub ledger: String,
    /// The `n` of the sentinel that the broker was known to have.
    #[n(1)]
    pub sentinel: u64,
}

/// All or a part of what was kept. In parts, the order is that of the fields: credentials come
/// before devices, and devices before the documents about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// What the gateway knew of itself; `None` in all parts at the very first start.
    pub gateway: Option<Gateway>,
    /// Who may come in.
    pub credentials: credentials::Stored,
    /// Commands, replies, updates, by key.
    pub documents: Vec<Document>,
}

impl Change {
    /// When it has to be on the disk.
    pub const fn urgency(&self) -> Urgency {
        match self {
            Self::Credential(_) => Urgency::Now,
            Self::Put(_, urgency) | Self::Drop(_, urgency) => *urgency,
            Self::Gateway(_) => Urgency::Soon,
        }
    }

    /// What it is about.
    pub fn key(&self) -> Key {
        match self {
            Self::Credential(change) => match change {
                credentials::Change::Put(record) => Key::Record(record.name.clone()),
                credentials::Change::Remove(name) => Key::Record(name.clone()),
                credentials::Change::Grant(grant) => Key::Grant(grant.endpoint.clone()),
                credentials::Change::Revoke(endpoint) => Key::Grant(endpoint.clone()),
            },
            Self::Put(document, _) => Key::Document(document.key.clone()),
            Self::Drop(key, _) => Key::Document(key.clone()),
            Self::Gateway(_) => Key::Gateway,
        }
    }
}

/// The newest change of each key.
#[derive(Clone, Debug, Default)]
pub struct Changes(BTreeMap<Key, Change>);

impl Changes {
    /// Adds a change, in the place of an older one of the same key.
    pub fn add(&mut self, change: Change) {
        self.0.insert(change.key(), change);
    }

    /// Takes out the change of a key.
    pub fn remove(&mut self, key: &Key) {
        self.0.remove(key);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes out all of them, in the order of their keys.
    pub fn take(&mut self) -> impl Iterator<Item = Change> + use<> {
        std::mem::take(&mut self.0).into_values()
    }

    /// What a store holds to which all of them, and nothing else, were given.
    pub fn kept(&self) -> Kept {
        let mut kept = Kept::default();
        for change in self.0.values() {
            match change {
                Change::Credential(credentials::Change::Put(record)) => {
                    kept.credentials.records.push((**record).clone());
                }
                Change::Credential(credentials::Change::Grant(grant)) => {
                    kept.credentials.grants.push((**grant).clone());
                }
                Change::Put(document, _) => kept.documents.push(document.clone()),
                Change::Gateway(gateway) => kept.gateway = Some(gateway.clone()),
                Change::Credential(
                    credentials::Change::Remove(_) | credentials::Change::Revoke(_),
                )
                | Change::Drop(..) => {}
            }
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_change_of_the_same_key_takes_the_place_of_the_older() {
        let key = |id: &str| DocumentKey {
            kind: Kind::Command,
            endpoint: "dev1".into(),
            id: id.into(),
        };
        let document = |id, body: &[u8]| Document {
            key: key(id),
            body: body.to_vec(),
        };
        let mut changes = Changes::default();
        for change in [
            Change::Put(document("a", b"1"), Urgency::Now),
            Change::Put(document("b", b"1"), Urgency::Soon),
            Change::Put(document("a", b"2"), Urgency::Soon),
            Change::Drop(key("b"), Urgency::Now),
        ] {
            changes.add(change);
        }
        assert_eq!(changes.len(), 2);
        assert_eq!(changes.kept().documents, [document("a", b"2")]);
        assert_eq!(changes.take().count(), 2);
        assert!(changes.is_empty());
    }
}
