//! What went wrong with the broker, for a person.

use std::io;

use super::address::Transport;
use super::explain;
use super::settings::Settings;

/// Why a CONNECT was refused: a Reason Code of MQTT 5 §3.2.2.2, or, below 0x80, a return code of
/// MQTT 3.1.1 §3.2.2.3.
pub(super) fn connect_refused(code: u8, settings: &Settings) -> String {
    match code {
        0x01 | 0x84 => "the broker does not speak this MQTT version; set [mqtt] version".into(),
        0x02 | 0x85 => format!(
            "the broker refused the client id {:?}; change [gateway] id",
            settings.client_id
        ),
        0x04 | 0x86 => "the broker refused user name or password".into(),
        0x05 | 0x87 if settings.username.is_none() => {
            "the broker wants user name and password; set [mqtt] username and password".into()
        }
        0x05 | 0x87 => "the broker does not permit this user to connect".into(),
        0x03 | 0x88 => "the broker says it is unavailable".into(),
        code => format!("the broker refused the connection: {}", reason(code)),
    }
}

/// Why the broker ended a connection, by its DISCONNECT (MQTT 5 §3.14.2.1).
pub(super) fn disconnected(code: u8, settings: &Settings) -> String {
    match code {
        0x8E => format!(
            "another client connected with the client id {:?}; give each gateway a [gateway] id \
             of its own",
            settings.client_id
        ),
        0x8B => "the broker is shutting down".into(),
        code => format!("the broker ended the connection: {}", reason(code)),
    }
}

/// A Reason Code by its name (MQTT 5 §2.4).
pub(super) fn reason(code: u8) -> String {
    let name = match code {
        0x00 => "no reason given",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x87 => "not authorized",
        0x89 => "server busy",
        0x8A => "banned",
        0x8B => "server shutting down",
        0x8C => "bad authentication method",
        0x8D => "keep alive timeout",
        0x8E => "session taken over",
        0x8F => "topic filter invalid",
        0x90 => "topic name invalid",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9A => "retain not supported",
        0x9B => "QoS not supported",
        0x9C => "use another server",
        0x9D => "server moved",
        0x9E => "shared subscriptions not supported",
        0x9F => "connection rate exceeded",
        0xA0 => "maximum connect time",
        0xA1 => "subscription identifiers not supported",
        0xA2 => "wildcard subscriptions not supported",
        _ => return format!("unknown reason 0x{code:02X}"),
    };
    format!("{name} (0x{code:02X})")
}

/// Why a connection could not be made, or did not last.
pub(super) fn io(error: &io::Error, settings: &Settings) -> String {
    let address = &settings.address;
    if let Some(error) = explain::of_tls(error) {
        // After the handshake, only our own certificate can displease (RFC 8446 §4.4.2.4).
        return explain::tls(error, settings, true);
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            format!("connection refused: is the broker running at {address}?")
        }
        io::ErrorKind::TimedOut => {
            format!("no answer from {address}: is the address right, and no firewall in between?")
        }
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe => "the broker closed the connection".into(),
        _ => format!("{address}: {error}"),
    }
}

/// The connection ended where CONNACK should have come.
pub(super) fn unanswered(settings: &Settings) -> String {
    let closed = "the broker closed the connection before it answered";
    match settings.address.transport {
        Transport::Tcp => format!("{closed}; if it wants TLS, write mqtts:// into [mqtt] url"),
        _ => closed.into(),
    }
}

/// What begins like this is no answer of a broker.
pub(super) fn no_broker(begin: &[u8]) -> String {
    let what = match begin {
        // A TLS alert (RFC 8446 §5.1).
        [0x15, 0x03, ..] => "it speaks TLS; write mqtts:// into [mqtt] url",
        [b'H', b'T', ..] => "it is a web server; write ws:// into [mqtt] url if it has a WebSocket",
        _ => "no CONNACK came first",
    };
    format!("what answers there is not an MQTT broker: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings::new("mqtt://localhost".parse().unwrap(), "gw")
    }

    #[test]
    fn both_versions_codes_say_the_same() {
        let mut settings = settings();
        assert!(connect_refused(5, &settings).contains("wants user name and password"));
        settings.username = Some("me".into());
        for (old, new) in [(1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)] {
            assert_eq!(
                connect_refused(old, &settings),
                connect_refused(new, &settings)
            );
        }
    }

    #[test]
    fn every_code_has_words() {
        for code in 0..=255 {
            assert!(!disconnected(code, &settings()).is_empty());
        }
        assert_eq!(reason(0xFF), "unknown reason 0xFF");
    }
}
