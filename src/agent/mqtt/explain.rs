//! Why there is no TLS or no WebSocket with the broker, for a person: what is wrong, and the remedy.

use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::{AlertDescription as Alert, CertificateError, Error, PeerIncompatible};
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::error::ProtocolError;

use super::address::Transport;
use super::settings::Settings;
use super::words;
use crate::time::UnixTime;

/// Why a TLS handshake failed. `asked` is whether the broker asked for our certificate.
pub(super) fn handshake(error: &io::Error, settings: &Settings, asked: bool) -> String {
    if let Some(error) = of_tls(error) {
        return tls(error, settings, asked);
    }
    let address = &settings.address;
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset if asked => {
            unidentified(settings)
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => format!(
            "{address} closed the connection instead of answering in TLS: it is perhaps a listener \
             without TLS; {}",
            other_port(settings)
        ),
        _ => words::io(error, settings),
    }
}

/// What TLS says, if that is what ended a connection.
pub(super) fn of_tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

/// What an error of TLS means. `asked` is whether the broker asked for our certificate.
pub(super) fn tls(error: &Error, settings: &Settings, asked: bool) -> String {
    let address = &settings.address;
    match error {
        Error::InvalidCertificate(error) => certificate(error, settings),
        Error::AlertReceived(alert) => refused(*alert, settings, asked),
        Error::InvalidMessage(_) => format!(
            "what answers at {address} is no TLS server; {}",
            other_port(settings)
        ),
        Error::PeerIncompatible(
            PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        ) => version(settings),
        Error::PeerIncompatible(why) => {
            format!("{address} and the gateway have nothing in TLS in common ({why:?}); {SUITES}")
        }
        error => format!("TLS with {address} failed: {error}"),
    }
}

const SUITES: &str =
    "permit TLS 1.3, or TLS 1.2 with ECDHE and AES-GCM or ChaCha20-Poly1305, at the broker";

/// The broker asked who we are, and did not take what it got.
pub(super) fn unidentified(settings: &Settings) -> String {
    let address = &settings.address;
    match &settings.tls.cert_file {
        None => format!(
            "{address} wants a client certificate, and the gateway has none; set [mqtt] cert_file \
             and key"
        ),
        Some(cert_file) => format!(
            "{address} ended the connection after it saw our certificate {}; the broker's log \
             says why",
            cert_file.display()
        ),
    }
}

fn other_port(settings: &Settings) -> &'static str {
    match settings.address.transport {
        Transport::SecureWebSocket => {
            "take the port of WebSocket with TLS, or ws:// if the connection may be in clear"
        }
        _ => {
            "take the broker's port for TLS, 8883 as a rule, or mqtt:// if the connection may be in clear"
        }
    }
}

fn version(settings: &Settings) -> String {
    format!(
        "{} speaks no TLS version that the gateway does; permit TLS 1.2 or 1.3 at the broker",
        settings.address
    )
}

fn certificate(error: &CertificateError, settings: &Settings) -> String {
    let subject = format!("the certificate of {}", settings.address);
    match error {
        CertificateError::ExpiredContext { not_after, .. } => format!(
            "{subject} expired on {}; renew it at the broker, {}",
            date(not_after.as_secs()),
            clock()
        ),
        CertificateError::Expired => {
            format!("{subject} has expired; renew it at the broker, {}", clock())
        }
        CertificateError::NotValidYetContext { not_before, .. } => format!(
            "{subject} is not valid before {}; wait or make another, {}",
            date(not_before.as_secs()),
            clock()
        ),
        CertificateError::NotValidYet => {
            format!(
                "{subject} is not valid yet; wait or make another, {}",
                clock()
            )
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            match &settings.tls.ca_file {
                Some(file) => format!(
                    "{subject} is signed by no authority in {}; if the broker is the right one, put \
                     the certificate of its authority there",
                    file.display()
                ),
                None => format!(
                    "{subject} is signed by no authority that this system trusts; if the broker is \
                     the right one, set [mqtt] ca_file to the certificate of its authority"
                ),
            }
        }
        CertificateError::NotValidForNameContext { presented, .. } => {
            let wanted = &settings.address.host;
            let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
            let names = match names.as_slice() {
                [] => "for no name at all (it has no subjectAltName)".to_owned(),
                names => format!("for {}", names.join(", ")),
            };
            format!(
                "{subject} is {names}, not for {wanted}; give the broker a certificate with the \
                 subjectAltName {wanted}, or write a name that it has into [mqtt] url"
            )
        }
        CertificateError::InvalidPurposeContext { .. } => format!(
            "{subject} is not one for a server; make one whose extendedKeyUsage has serverAuth"
        ),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => format!(
            "{subject} is signed in a way that is not trusted any more; make one with ECDSA P-256 \
             or RSA from 2048 bits, and SHA-256"
        ),
        // The names are those of rustls-webpki, which rustls passes on as they are.
        CertificateError::Other(why) if why.to_string() == "CaUsedAsEndEntity" => format!(
            "{subject} is that of an authority (CA:TRUE); make one for the broker, signed by it"
        ),
        CertificateError::Other(why) if why.to_string() == "UnsupportedCertVersion" => format!(
            "{subject} is of X.509 version 1, which has no subjectAltName; make one of version 3"
        ),
        error => format!("{subject} cannot be accepted ({error}); make another"),
    }
}

/// The broker refused us by an alert (RFC 8446 §6.2).
fn refused(alert: Alert, settings: &Settings, asked: bool) -> String {
    let address = &settings.address;
    let ours = settings.tls.cert_file.as_ref();
    match (alert, ours) {
        (Alert::ProtocolVersion, _) => version(settings),
        (Alert::UnrecognisedName, _) => format!(
            "{address} says that it is not {}; write the name that its certificate has into \
             [mqtt] url",
            settings.address.host
        ),
        (Alert::CertificateRequired, _) => unidentified(settings),
        (_, None) if asked => unidentified(settings),
        (alert, Some(ours)) if asked => {
            let ours = ours.display();
            let why = match alert {
                Alert::UnknownCA => {
                    "it does not know the authority that signed it; take a certificate that the \
                     broker's authority signed"
                        .to_owned()
                }
                Alert::CertificateExpired => "it has expired; renew it".to_owned(),
                Alert::CertificateRevoked => "it was revoked; take another".to_owned(),
                alert => format!("{alert:?}; the broker's log says more"),
            };
            format!("{address} refuses our certificate {ours}: {why}")
        }
        (Alert::HandshakeFailure | Alert::InsufficientSecurity, _) => {
            format!("{address} and the gateway have no cipher suite in common; {SUITES}")
        }
        (alert, _) => format!("{address} ended the connection by the TLS alert {alert:?}"),
    }
}

/// Why there is no WebSocket.
pub(super) fn web_socket(error: &WebSocketError, settings: &Settings) -> String {
    let address = &settings.address;
    let path = &address.path;
    match error {
        WebSocketError::Io(error) => match (of_tls(error), error.kind()) {
            (Some(error), _) => tls(error, settings, true),
            (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                no_http(settings)
            }
            (None, _) => words::io(error, settings),
        },
        WebSocketError::Http(response) => {
            let remedy = match response.status().as_u16() {
                401 | 403 => "it wants other credentials than those of MQTT",
                _ => "write the path of the broker's WebSocket behind the port in [mqtt] url",
            };
            let status = response.status();
            format!("{address} answers {status} and no WebSocket at {path}; {remedy}")
        }
        WebSocketError::Protocol(ProtocolError::SecWebSocketSubProtocolError(_)) => format!(
            "the WebSocket at {} does not speak MQTT; write the path of the broker's into [mqtt] url",
            address.url()
        ),
        WebSocketError::Protocol(ProtocolError::HandshakeIncomplete) => no_http(settings),
        WebSocketError::Protocol(ProtocolError::HttparseError(_)) => format!(
            "what answers at {address} is no web server; take the broker's port for WebSocket, or \
             write mqtt:// or mqtts:// into [mqtt] url"
        ),
        error => format!("no WebSocket with {address}: {error}"),
    }
}

fn no_http(settings: &Settings) -> String {
    let address = &settings.address;
    let other = match settings.address.transport {
        Transport::WebSocket => "wss:// if it wants TLS, or mqtt:// if it has no WebSocket",
        _ => "or mqtts:// if it has no WebSocket",
    };
    format!(
        "{address} closed the connection instead of answering in HTTP; take the broker's port for \
         WebSocket, {other}"
    )
}

/// The name in `DnsName("localhost")` or `IpAddress(127.0.0.1)`.
fn bare(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn date(seconds: u64) -> String {
    let millis = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    let shown = UnixTime::from_millis(millis).to_string();
    shown.replacen('T', " ", 1).replace(".000Z", " UTC")
}

/// Dates are wrong as often for the sake of the clock. Its day alone, so that the same failure has
/// the same words at each attempt.
fn clock() -> String {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = date(since_epoch.as_secs());
    let now = now.split(' ').next().unwrap_or_default();
    format!("or set this machine's clock, which says {now}, if that is wrong")
}
