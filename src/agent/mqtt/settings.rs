//! What the operator says about the broker.

use std::time::Duration;

use super::address::Address;
use super::tls::Tls;
use crate::gateway::publish::Publish;

/// Which protocol version to speak, `[mqtt] version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VersionChoice {
    /// MQTT 5; 3.1.1 with a broker that does not know it.
    #[default]
    Auto,
    /// MQTT 5 only.
    V5,
    /// MQTT 3.1.1 only.
    V311,
}

/// A topic filter, and how MQTT 5 treats it. QoS 1, Retain As Published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// With or without wildcards.
    pub filter: String,
    /// Whether the broker sends what it retains at each subscribing (Retain Handling 0, else 2).
    /// 3.1.1 brokers always do.
    pub retained: bool,
    /// Whether our own messages come back (No Local). 3.1.1 brokers always send them.
    pub own: bool,
}

impl Subscription {
    /// For requests: nothing retained, nothing of our own.
    pub fn requests(filter: impl Into<String>) -> Self {
        Self {
            filter: filter.into(),
            retained: false,
            own: false,
        }
    }

    /// For what the broker retains, such as our own sentinel.
    pub fn retained(filter: impl Into<String>) -> Self {
        Self {
            filter: filter.into(),
            retained: true,
            own: true,
        }
    }
}

/// Everything a [`Link`](super::Link) needs. It has no `Debug`, because it holds the password.
#[derive(Clone)]
pub struct Settings {
    /// The broker.
    pub address: Address,
    /// Whom to trust and who we are, where the address says TLS.
    pub tls: Tls,
    /// Which version to speak.
    pub version: VersionChoice,
    /// Unique among the broker's clients.
    pub client_id: String,
    /// Without one, `password` is not sent.
    pub username: Option<String>,
    /// Sent as it is: only TLS hides it from the network.
    pub password: Option<String>,
    /// The longest silence before a PINGREQ; 1 s to 65 535 s.
    pub keep_alive: Duration,
    /// What the broker publishes when the connection ends without a DISCONNECT.
    pub will: Option<Publish>,
    /// Sent after each connecting.
    pub subscriptions: Vec<Subscription>,
    /// Whether the broker is to keep nothing of the connection once it has ended; else MQTT 5 has it
    /// keep the session for ten minutes.
    pub passing: bool,
    /// For the jitter of the back-off.
    pub seed: u64,
}

impl Settings {
    /// MQTT 5 or 3.1.1 without credentials, keep alive 30 s, nothing subscribed.
    pub fn new(address: Address, client_id: impl Into<String>) -> Self {
        Self {
            address,
            tls: Tls::default(),
            version: VersionChoice::Auto,
            client_id: client_id.into(),
            username: None,
            password: None,
            keep_alive: Duration::from_secs(30),
            will: None,
            subscriptions: Vec::new(),
            passing: false,
            seed: 0,
        }
    }
}
