//! What is kept of a device.

use std::sync::Arc;

use minicbor::{Decode, Encode};

use super::encoding::{shared, text};
use crate::coap::{Peer, Token};
use crate::dtls::PeerIdentity;
use crate::gateway::device::{About, Availability};
use crate::gateway::json::Sample;
use crate::lwm2m::{ObjectList, Path, Target, Version};
use crate::route::Route;
use crate::server::Terms;
use crate::time::UnixTime;

/// All that was kept of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its endpoint name.
    pub endpoint: Arc<str>,
    /// Its last registration.
    pub registration: Option<Registration>,
    /// Its observations, if that registration stands, by what is observed.
    pub observations: Vec<Observation>,
    /// As what MQTT knows it.
    pub descriptor: Option<Descriptor>,
    /// When it was heard of, and how it was then.
    pub contact: Option<Contact>,
    /// Its signals, by path.
    pub signals: Vec<Signal>,
}

impl Device {
    /// A device of which nothing was kept.
    pub const fn new(endpoint: Arc<str>) -> Self {
        Self {
            endpoint,
            registration: None,
            observations: Vec::new(),
            descriptor: None,
            contact: None,
            signals: Vec::new(),
        }
    }
}

/// A registration, as it changes seldom. What it says of objects stays when it has ended: the
/// signals of the device are understood by them.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Registration {
    /// The second segment of the location.
    #[n(0)]
    pub location: Box<str>,
    /// Where the device is, if it came without security.
    #[n(1)]
    pub route: Option<Route>,
    /// Who it has proven to be.
    #[n(2)]
    #[cbor(with = "shared", has_nil)]
    pub identity: Option<Arc<PeerIdentity>>,
    /// The enabler version that it registered with.
    #[n(3)]
    pub version: Version,
    /// Lifetime, binding and queue mode.
    #[n(4)]
    pub terms: Terms,
    /// Its objects.
    #[n(5)]
    pub objects: ObjectList,
    /// Whether it stands.
    #[n(6)]
    pub standing: bool,
}

impl Registration {
    /// Where a peer is found again: a session ends with the process.
    pub const fn route_of(peer: Peer) -> Option<Route> {
        match peer {
            Peer::Route(route) => Some(route),
            Peer::Session(_) => None,
        }
    }
}

/// An observation of ours at a device.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Observation {
    /// What is observed, which is so once at most.
    #[n(0)]
    pub target: Target,
    /// The token of its notifications.
    #[n(1)]
    pub token: Token,
    /// The request that began it, as a datagram.
    #[n(2)]
    #[cbor(with = "minicbor::bytes")]
    pub request: Vec<u8>,
}

/// As what MQTT knows a device.
#[derive(Clone, Debug, Default, PartialEq, Encode, Decode)]
pub struct Descriptor {
    /// Its name in topics.
    #[n(0)]
    pub name: String,
    /// What it says of itself.
    #[n(1)]
    pub about: About,
    /// What went wrong and stays wrong.
    #[n(2)]
    pub problems: Vec<Problem>,
    /// What the plan wants observed, and the device turned out not to have.
    #[n(3)]
    pub absent: Vec<Path>,
    /// The hash of the birth message that stands.
    #[n(4)]
    pub birth: Option<u64>,
    /// The hash of the profile by which attributes were written.
    #[n(5)]
    pub profile: Option<String>,
    /// Whether what the mapping writes once a registration is still to be written.
    #[n(6)]
    #[cbor(default)]
    pub greeting: bool,
}

/// Something about a device that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Problem {
    /// What kind.
    #[n(0)]
    pub kind: String,
    /// Where.
    #[n(1)]
    pub path: Option<String>,
    /// What, for a person.
    #[n(2)]
    pub detail: String,
}

/// When a device was heard of, and how it was then: what changes all the time.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Contact {
    /// Whether it can be reached, since when, and its last packet.
    #[n(0)]
    pub availability: Availability,
    /// The last Register or Update.
    #[n(1)]
    pub refreshed: Option<UnixTime>,
    /// Samples of this device so far.
    #[n(2)]
    pub sequence: u64,
    /// What it was seen to be able to do.
    #[n(3)]
    pub learned: Learned,
    /// The Message ID that our next message would have had.
    #[n(4)]
    pub message_id: Option<u16>,
    /// The numbers of the newest notifications: the first four bytes of the token, and the number.
    #[n(5)]
    pub numbers: Vec<(u32, u32)>,
}

/// What a device was seen to be able to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Learned {
    /// The Content-Format in which it is asked for several values.
    #[n(0)]
    pub many: Option<u16>,
    /// The Content-Format in which it is asked for one value.
    #[n(1)]
    pub single: Option<u16>,
    /// Whether it has Read-Composite and Observe-Composite.
    #[n(2)]
    pub fetch: Option<bool>,
    /// Whether it has Write-Composite.
    #[n(3)]
    pub ipatch: Option<bool>,
}

/// A topic on which something of a device stands, or stood.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct Signal {
    /// A resource or resource instance.
    #[n(0)]
    pub path: Path,
    /// The topic.
    #[n(1)]
    #[cbor(with = "text")]
    pub topic: Arc<str>,
    /// Whether the broker was asked to retain it.
    #[n(2)]
    pub retained: bool,
    /// The newest value.
    #[n(3)]
    pub last: Option<Sample>,
    /// Whether the broker may not have that value, so that it is to be published at the next start.
    #[n(4)]
    #[cbor(default)]
    pub due: bool,
}
