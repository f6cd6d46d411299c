//! What outlives the process.
//!
//! The core says what to keep, one [`Change`] at a time, and is given all of it back in [`Kept`] at
//! the next start. Each change says how much hurry it is in ([`Urgency`]). What is *absent* here:
//! files, the database, and what the bytes of a [`Document`] mean.

mod changes;
mod device;
mod encoding;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use minicbor::{Decode, Encode};

use crate::gateway::publish::Class;
use crate::lwm2m::{Path, Target};
use crate::server::credentials;

pub use changes::Changes;
pub use device::{
    Contact, Descriptor, Device, Learned, Observation, Problem, Registration, Signal,
};
pub use encoding::{path_from_bytes, path_to_bytes};

/// Something that is another one from now on.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Who may come in.
    Credential(credentials::Change),
    /// The registration of an endpoint is this one.
    Registered(Arc<str>, Box<Registration>, Urgency),
    /// The registration of an endpoint has ended, and its observations with it.
    Ended(Arc<str>),
    /// This is observed of an endpoint.
    Observed(Arc<str>, Box<Observation>),
    /// This is not observed of an endpoint any more.
    Unobserved(Arc<str>, Target),
    /// As what MQTT knows an endpoint.
    Described(Arc<str>, Box<Descriptor>, Urgency),
    /// An endpoint was heard of.
    Heard(Arc<str>, Box<Contact>, Urgency),
    /// What stands on a topic of an endpoint.
    Stands(Arc<str>, Box<Signal>, Urgency),
    /// Nothing stands of a path of an endpoint any more.
    Cleared(Arc<str>, Path),
    /// Nothing of an endpoint is kept any more but who it may be.
    Forgotten(Arc<str>),
    /// A document is this one; one of the same kind, endpoint and id is replaced.
    Put(Document, Urgency),
    /// There is no such document any more.
    Drop(DocumentKey, Urgency),
    /// What the gateway knows of itself.
    Gateway(Gateway, Urgency),
    /// A message waits for the broker.
    Spooled(Spooled),
    /// Of this class, messages with a lower number do not wait any more.
    Unspooled(Class, i64),
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
    /// The gateway.
    Gateway,
    /// The registration of an endpoint.
    Registration(Arc<str>),
    /// The descriptor of an endpoint.
    Descriptor(Arc<str>),
    /// An observation of an endpoint.
    Observation(Arc<str>, Target),
    /// When an endpoint was heard of.
    Contact(Arc<str>),
    /// A signal of an endpoint.
    Signal(Arc<str>, Path),
    /// All of an endpoint.
    Endpoint(Arc<str>),
    /// A document.
    Document(DocumentKey),
    /// A message that waits for the broker.
    Spooled(i64),
    /// Messages that wait no more: of events, if it is true, else of samples.
    Unspooled(bool),
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
    /// A retained topic that was deleted. It is of no endpoint, because it outlives it.
    Cleared,
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

/// A message that waits for the broker. As of a [`Document`], only its writer understands the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spooled {
    /// Its place: they are sent in the order of their numbers.
    pub number: i64,
    /// [`Class::Event`] or [`Class::Sample`].
    pub class: Class,
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
    /// Whether the process stopped in order, and the broker had acknowledged everything.
    #[n(2)]
    #[cbor(default)]
    pub settled: bool,
}

/// All or a part of what was kept. In parts, the order is that of the fields: credentials and
/// messages come before devices, and devices before the documents about them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// What the gateway knew of itself; `None` in all parts at the very first start.
    pub gateway: Option<Gateway>,
    /// Who may come in.
    pub credentials: credentials::Stored,
    /// What waited for the broker, by number.
    pub spool: Vec<Spooled>,
    /// The devices, in the order in which they came.
    pub devices: Vec<Device>,
    /// Commands, replies, updates, by key.
    pub documents: Vec<Document>,
}

impl Change {
    /// When it has to be on the disk.
    pub const fn urgency(&self) -> Urgency {
        match self {
            Self::Credential(_)
            | Self::Ended(_)
            | Self::Observed(..)
            | Self::Unobserved(..)
            | Self::Cleared(..)
            | Self::Forgotten(_)
            | Self::Spooled(_)
            | Self::Unspooled(..) => Urgency::Now,
            Self::Registered(_, _, urgency)
            | Self::Described(_, _, urgency)
            | Self::Heard(_, _, urgency)
            | Self::Stands(_, _, urgency)
            | Self::Put(_, urgency)
            | Self::Drop(_, urgency)
            | Self::Gateway(_, urgency) => *urgency,
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
            Self::Registered(endpoint, ..) | Self::Ended(endpoint) => {
                Key::Registration(endpoint.clone())
            }
            Self::Observed(endpoint, observation) => {
                Key::Observation(endpoint.clone(), observation.target.clone())
            }
            Self::Unobserved(endpoint, target) => {
                Key::Observation(endpoint.clone(), target.clone())
            }
            Self::Described(endpoint, ..) => Key::Descriptor(endpoint.clone()),
            Self::Heard(endpoint, ..) => Key::Contact(endpoint.clone()),
            Self::Stands(endpoint, signal, _) => Key::Signal(endpoint.clone(), signal.path),
            Self::Cleared(endpoint, path) => Key::Signal(endpoint.clone(), *path),
            Self::Forgotten(endpoint) => Key::Endpoint(endpoint.clone()),
            Self::Put(document, _) => Key::Document(document.key.clone()),
            Self::Drop(key, _) => Key::Document(key.clone()),
            Self::Gateway(..) => Key::Gateway,
            Self::Spooled(spooled) => Key::Spooled(spooled.number),
            Self::Unspooled(class, _) => Key::Unspooled(*class == Class::Event),
        }
    }

    /// Whether somebody was told that it is safe, whatever becomes of the machine: so it waits for
    /// the disk itself. What else a power cut takes, the devices bring again.
    pub fn is_owed(&self) -> bool {
        match self {
            Self::Credential(_) | Self::Spooled(_) => true,
            Self::Stands(_, signal, _) => signal.due,
            _ => false,
        }
    }
}

impl Key {
    /// The endpoint that it is about, if nothing of it is to stay when that is forgotten.
    fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Record(_)
            | Self::Grant(_)
            | Self::Gateway
            | Self::Spooled(_)
            | Self::Unspooled(_) => None,
            Self::Registration(endpoint)
            | Self::Descriptor(endpoint)
            | Self::Observation(endpoint, _)
            | Self::Contact(endpoint)
            | Self::Signal(endpoint, _)
            | Self::Endpoint(endpoint) => Some(endpoint),
            Self::Document(key) => Some(&key.endpoint),
        }
    }
}
