//! What the operator says about the broker.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

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

/// Where the broker listens, `[mqtt] url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// Why a URL names no broker that can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// `mqtts`, `ws` or `wss`.
    #[error("{0}:// is not built yet; use mqtt://")]
    NotBuilt(String),
    /// Something else before `://`, or no `://`.
    #[error("a broker URL begins with mqtt://, as in mqtt://localhost:1883")]
    Scheme,
    /// `user@` in the URL.
    #[error("credentials do not belong into the URL; use the keys username and password")]
    Credentials,
    /// No host, or something behind the port.
    #[error("a broker URL is mqtt://HOST or mqtt://HOST:PORT, an IPv6 address in brackets")]
    Host,
    /// Not 1 to 65535.
    #[error("{0:?} is not a port number from 1 to 65535")]
    Port(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        match scheme {
            "mqtt" => {}
            "mqtts" | "ws" | "wss" => return Err(AddressError::NotBuilt(scheme.into())),
            _ => return Err(AddressError::Scheme),
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.contains('@') {
            return Err(AddressError::Credentials);
        }
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(AddressError::Host)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(AddressError::Host),
                }
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) {
            return Err(AddressError::Host);
        }
        let port = match port {
            None => 1883,
            Some(text) => match text.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(AddressError::Port(text.into())),
            },
        };
        Ok(Self {
            host: host.into(),
            port,
        })
    }
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
    /// Which version to speak.
    pub version: VersionChoice,
    /// Unique among the broker's clients.
    pub client_id: String,
    /// Without one, `password` is not sent.
    pub username: Option<String>,
    /// Sent in clear.
    pub password: Option<String>,
    /// The longest silence before a PINGREQ; 1 s to 65 535 s.
    pub keep_alive: Duration,
    /// What the broker publishes when the connection ends without a DISCONNECT.
    pub will: Option<Publish>,
    /// Sent after each connecting.
    pub subscriptions: Vec<Subscription>,
    /// For the jitter of the back-off.
    pub seed: u64,
}

impl Settings {
    /// MQTT 5 or 3.1.1 without credentials, keep alive 30 s, nothing subscribed.
    pub fn new(address: Address, client_id: impl Into<String>) -> Self {
        Self {
            address,
            version: VersionChoice::Auto,
            client_id: client_id.into(),
            username: None,
            password: None,
            keep_alive: Duration::from_secs(30),
            will: None,
            subscriptions: Vec::new(),
            seed: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_host_and_port() {
        for (url, shown) in [
            ("mqtt://localhost", "localhost:1883"),
            ("mqtt://localhost:1884/", "localhost:1884"),
            ("mqtt://[::1]", "[::1]:1883"),
            ("mqtt://[::1]:99", "[::1]:99"),
        ] {
            assert_eq!(url.parse::<Address>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        for (url, error) in [
            ("localhost:1883", AddressError::Scheme),
            ("http://localhost", AddressError::Scheme),
            ("mqtts://localhost", AddressError::NotBuilt("mqtts".into())),
            ("mqtt://me:secret@localhost", AddressError::Credentials),
            ("mqtt://", AddressError::Host),
            ("mqtt://[::1", AddressError::Host),
            ("mqtt://[::1]x", AddressError::Host),
            ("mqtt://localhost/path", AddressError::Host),
            ("mqtt://localhost:0", AddressError::Port("0".into())),
            ("mqtt://localhost:65536", AddressError::Port("65536".into())),
        ] {
            assert_eq!(url.parse::<Address>(), Err(error), "{url}");
        }
    }
}
