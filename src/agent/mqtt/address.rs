//! Where the broker listens, and by which transport it is reached.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;
use tokio_rustls::rustls::pki_types::ServerName;

/// What stands between TCP and MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `mqtt://`: nothing.
    Tcp,
    /// `mqtts://`: TLS.
    Tls,
    /// `ws://`: WebSocket (MQTT 5 §6).
    WebSocket,
    /// `wss://`: WebSocket in TLS.
    SecureWebSocket,
}

impl Transport {
    const ALL: [Self; 4] = [Self::Tcp, Self::Tls, Self::WebSocket, Self::SecureWebSocket];

    /// As it stands before `://`.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tcp => "mqtt",
            Self::Tls => "mqtts",
            Self::WebSocket => "ws",
            Self::SecureWebSocket => "wss",
        }
    }

    /// The TCP port when the URL has none.
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Tcp => 1883,
            Self::Tls => 8883,
            Self::WebSocket => 80,
            Self::SecureWebSocket => 443,
        }
    }

    /// Whether there is TLS.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket)
    }

    /// Whether MQTT goes in WebSocket frames.
    pub const fn is_web_socket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SecureWebSocket)
    }
}

/// Where the broker listens, `[mqtt] url`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// How it is reached.
    pub transport: Transport,
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Of a WebSocket, with the `/` that it begins with and a query if there is one; else empty.
    pub path: String,
}

impl Address {
    /// The address as a URL.
    pub fn url(&self) -> String {
        format!("{}://{self}{}", self.transport.scheme(), self.path)
    }
}

/// Host and port, as `localhost:1883` or `[::1]:1883`.
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
    /// Something else before `://`, or no `://`.
    #[error(
        "a broker URL begins with mqtt://, mqtts://, ws:// or wss://, as in mqtt://localhost:1883"
    )]
    Scheme,
    /// `user@` in the URL.
    #[error("credentials do not belong into the URL; use the keys username and password")]
    Credentials,
    /// No host, or something behind the port.
    #[error("a broker URL is mqtt://HOST or mqtt://HOST:PORT, an IPv6 address in brackets")]
    Host,
    /// The host is nothing that a certificate could be made for.
    #[error("{0:?} is no host name or IP address that a certificate could name")]
    Name(String),
    /// The path of a WebSocket has a character that a URL cannot have.
    #[error("{0:?} is no path of a URL: write other characters than A to Z as %XX")]
    Path(String),
    /// Not 1 to 65535.
    #[error("{0:?} is not a port number from 1 to 65535")]
    Port(String),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressError::Scheme)?;
        let transport = Transport::ALL
            .into_iter()
            .find(|transport| transport.scheme() == scheme)
            .ok_or(AddressError::Scheme)?;
        let authority_len = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(authority_len);
        if authority.contains('@') {
            return Err(AddressError::Credentials);
        }
        let path = match path {
            "" | "/" if !transport.is_web_socket() => String::new(),
            _ if !transport.is_web_socket() => return Err(AddressError::Host),
            "" => "/mqtt".to_owned(),
            path => checked_path(path)?,
        };
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or(AddressError::Host)?;
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => return Err(AddressError::Host),
                }
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        if host.is_empty() || host.contains(['#', ' ']) {
            return Err(AddressError::Host);
        }
        if (transport.is_secure() || transport.is_web_socket())
            && ServerName::try_from(host).is_err()
        {
            return Err(AddressError::Name(host.into()));
        }
        let port = match port {
            None => transport.default_port(),
            Some(text) => match text.parse() {
                Ok(port @ 1..) => port,
                _ => return Err(AddressError::Port(text.into())),
            },
        };
        Ok(Self {
            transport,
            host: host.into(),
            port,
            path,
        })
    }
}

/// A path and query, of the characters of RFC 3986 §3.3 and §3.4.
fn checked_path(path: &str) -> Result<String, AddressError> {
    let allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@/?%".contains(&byte);
    if !path.starts_with('/') || !path.bytes().all(allowed) {
        return Err(AddressError::Path(path.into()));
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_transport_host_port_and_path() {
        for (url, whole) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            ("mqtt://localhost:1884/", "mqtt://localhost:1884"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
            ("mqtt://[::1]:99", "mqtt://[::1]:99"),
            ("mqtts://broker.example", "mqtts://broker.example:8883"),
            ("mqtts://192.0.2.1", "mqtts://192.0.2.1:8883"),
            ("mqtts://[2001:db8::1]:99", "mqtts://[2001:db8::1]:99"),
            ("ws://localhost", "ws://localhost:80/mqtt"),
            ("ws://localhost:9001/", "ws://localhost:9001/"),
            ("wss://localhost", "wss://localhost:443/mqtt"),
            ("wss://localhost/a/b?c=d@e", "wss://localhost:443/a/b?c=d@e"),
        ] {
            assert_eq!(url.parse::<Address>().unwrap().url(), whole);
            assert_eq!(whole.parse::<Address>(), url.parse());
        }
    }

    #[test]
    fn a_wrong_url_says_what_is_wrong() {
        for (url, error) in [
            ("localhost:1883", AddressError::Scheme),
            ("http://localhost", AddressError::Scheme),
            ("MQTTS://localhost", AddressError::Scheme),
            ("mqtt://me:secret@localhost", AddressError::Credentials),
            ("wss://me:secret@localhost/x", AddressError::Credentials),
            ("mqtt://", AddressError::Host),
            ("wss:///mqtt", AddressError::Host),
            ("mqtt://[::1", AddressError::Host),
            ("mqtt://[::1]x", AddressError::Host),
            ("mqtt://localhost/path", AddressError::Host),
            ("mqtts://localhost/path", AddressError::Host),
            ("mqtts://bro ker", AddressError::Host),
            ("mqtts://-", AddressError::Name("-".into())),
            ("ws://bro\nker", AddressError::Name("bro\nker".into())),
            ("ws://localhost/a b", AddressError::Path("/a b".into())),
            (
                "ws://localhost/\r\nX: y",
                AddressError::Path("/\r\nX: y".into()),
            ),
            ("ws://localhost?x", AddressError::Path("?x".into())),
            ("mqtt://localhost:0", AddressError::Port("0".into())),
            (
                "mqtts://localhost:65536",
                AddressError::Port("65536".into()),
            ),
        ] {
            assert_eq!(url.parse::<Address>(), Err(error), "{url}");
        }
    }
}
