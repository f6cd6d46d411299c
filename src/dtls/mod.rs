//! Secure sessions over datagrams (RFC 6347): what the program asks of a DTLS engine, and what
//! stands around one.
//!
//! What is *absent* here: sockets, clocks, CoAP, and cryptography. An [`Engine`] makes
//! [`DtlsSession`]s; the mux owns them, finds the one that a datagram is for, and tells the layer
//! above who is at the other end.

pub(crate) mod hello;
mod limits;
#[cfg(feature = "dtls")]
pub mod mbedtls;
mod mux;
pub mod plain;
pub(crate) mod record;

use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;
use crate::time::{Instant, Now};

pub use limits::{Counters, Limits};
pub use mux::{Malformed, Mux, Output, Saved, SessionId, Work};
pub use record::CID_LENGTH;

/// Makes sessions. What all sessions have in common (suites, our certificate, the authorities that
/// we trust) belongs to the engine; when one of these changes, a new engine takes its place, and
/// sessions of the old one live on.
pub trait Engine: Send {
    /// The server's end of a new session. The caller has seen the client prove its cookie, and
    /// feeds the very ClientHello that proved it as the first datagram.
    fn accept(&self, now: Now, accept: Accept<'_>) -> Result<Box<dyn DtlsSession>, Fatal>;

    /// The client's end of a new session; its first [`DtlsSession::poll`] has the ClientHello.
    fn connect(&self, now: Now, connect: &Connect) -> Result<Box<dyn DtlsSession>, Fatal>;

    /// Goes on with a session that [`DtlsSession::save`] gave to an earlier process. `saved` must
    /// come from there and from nowhere else: it is not checked for sense.
    fn restore(&self, now: Now, saved: &[u8]) -> Result<Box<dyn DtlsSession>, Fatal>;

    /// Whether a handshake with a client that offers these suites takes so long (a signature, a
    /// key agreement: milliseconds) that it must not be done where datagrams wait.
    fn is_costly(&self, offered: Suites<'_>) -> bool;
}

/// One session, or the handshake that becomes one. No sockets, tasks or clock inside.
///
/// After each call that takes `&mut self`, drain [`DtlsSession::poll`] until it says
/// [`Event::Wait`]. After a [`Fatal`] the last [`Event::Send`]s (an alert) are still to be drained;
/// then the session is dropped, and no other call is made.
pub trait DtlsSession: Send {
    /// A datagram came. One that is malformed, forged or replayed is passed over: `Ok`, no event.
    fn datagram(&mut self, now: Now, datagram: &[u8]) -> Result<(), Fatal>;

    /// The instant of the last [`Event::Wait`] has come.
    fn timeout(&mut self, now: Now) -> Result<(), Fatal>;

    /// What to do next.
    fn poll(&mut self) -> Event<'_>;

    /// Protects a datagram of the layer above, and gives it as [`Event::Send`]. Only after
    /// [`Event::Established`].
    fn send(&mut self, application_data: &[u8]) -> Result<(), Fatal>;

    /// Says close_notify.
    fn close(&mut self);

    /// The connection ID that the peer wants on what it is sent; empty when there is none
    /// (RFC 9146 §3). Known once established.
    fn peer_cid(&self) -> &[u8];

    /// The name of the suite as IANA has it; empty before it is agreed.
    fn suite(&self) -> &'static str;

    /// Takes the session out of this process, for [`Engine::restore`]. `None` when this one cannot
    /// be moved (a handshake, a CBC suite, no data of the peer yet).
    fn save(self: Box<Self>) -> Option<Secret>;
}

/// What comes out of [`DtlsSession::poll`].
#[derive(Debug)]
pub enum Event<'a> {
    /// Send this datagram.
    Send(&'a [u8]),
    /// The peer sent this, and nobody changed it.
    App(&'a [u8]),
    /// The handshake is done, and this is who the peer is. Once.
    Established(PeerIdentity),
    /// The peer said close_notify.
    Closed,
    /// Nothing more until a datagram comes, or this instant.
    Wait(Option<Instant>),
}

/// What a server's session begins with.
#[derive(Clone)]
pub struct Accept<'a> {
    /// The cookie that the ClientHello carries, proven by the caller (RFC 6347 §4.2.1).
    pub cookie: &'a [u8],
    /// The connection ID that a client which wants one is to send (RFC 9146 §3); empty for none.
    pub cid: &'a [u8],
    /// The keys of those who may come in.
    pub keys: Arc<dyn Keys>,
}

/// The keys of those who may come in, asked while handshakes run, and from whatever thread does so.
pub trait Keys: Send + Sync {
    /// The key of a PSK identity.
    fn psk(&self, identity: &[u8]) -> Option<Secret>;

    /// Whether the certificate with this SHA-256 (of its DER) is known itself, so that no
    /// authority has to vouch for it. Its dates count all the same.
    fn pins(&self, sha256: &[u8; 32]) -> bool;
}

/// The longest pre-shared key, in bytes. LwM2M allows 64 (Core 1.1 §E.1, /0/x/5); the library is
/// built for 32, twice what its suites have use for.
pub const LONGEST_PSK: usize = 32;

/// What a client's session begins with.
#[derive(Clone, Debug)]
pub struct Connect {
    /// Who we are.
    pub credential: Credential,
    /// The connection ID that the server is to send; empty when we need none, and can follow a
    /// server that wants one.
    pub cid: Vec<u8>,
}

/// Who a client is.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A pre-shared key (RFC 4279).
    Psk {
        /// At most 128 bytes.
        identity: Vec<u8>,
        /// At most [`LONGEST_PSK`] bytes.
        key: Secret,
    },
    /// A certificate.
    X509 {
        /// Ours, the leaf first: PEM, or one DER.
        chain: Vec<u8>,
        /// Its private key, PEM or DER.
        key: Secret,
        /// What makes the server's certificate good.
        server: ServerTrust,
    },
}

/// What makes a server's certificate good (LwM2M Core 1.1 §E.1, /0/x/15).
#[derive(Clone, Debug)]
pub enum ServerTrust {
    /// These authorities (PEM or DER), and the name that the certificate has to carry.
    Authorities {
        /// PEM, or one DER.
        certificates: Vec<u8>,
        /// A DNS name.
        name: String,
    },
    /// Exactly this certificate, by the SHA-256 of its DER.
    Pinned([u8; 32]),
}

/// Who is at the other end, proven by the handshake.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerIdentity {
    /// It has the key of this PSK identity.
    Psk(Vec<u8>),
    /// It has the private key of this certificate.
    X509 {
        /// DER.
        leaf: Vec<u8>,
        /// What it sent after the leaf, DER.
        chain: Vec<Vec<u8>>,
        /// The subject's common name, then DNS names and URIs of the alternative names, as text.
        names: Vec<String>,
        /// SHA-256 of the authority's DER that vouches for it; `None` when it is pinned itself.
        authority: Option<[u8; 32]>,
    },
    /// It has the private key of this SubjectPublicKeyInfo (RFC 7250), DER. No engine does this
    /// yet.
    RawPublicKey(Vec<u8>),
}

impl fmt::Display for PeerIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Psk(identity) => write!(f, "PSK identity {}", Printable(identity)),
            Self::X509 { names, .. } => match names.first() {
                Some(name) => write!(f, "certificate {}", Printable(name.as_bytes())),
                None => f.write_str("a certificate without a name"),
            },
            Self::RawPublicKey(_) => f.write_str("a raw public key"),
        }
    }
}

/// A name that a stranger chose, fit for a line of the log: quoted, without control characters,
/// hexadecimal where it is not text, and not long.
pub struct Printable<'a>(pub &'a [u8]);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 128;
        let shown = self.0.get(..LONGEST).unwrap_or(self.0);
        match std::str::from_utf8(shown) {
            Ok(text) => write!(f, "\"{}\"", text.escape_debug())?,
            Err(_) => {
                f.write_str("0x")?;
                shown.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        if shown.len() < self.0.len() {
            f.write_str("…")?;
        }
        Ok(())
    }
}

/// The cipher suites of a ClientHello, two bytes each (RFC 5246 §7.4.1.2).
#[derive(Clone, Copy, Debug)]
pub struct Suites<'a>(pub &'a [u8]);

impl Suites<'_> {
    /// Their numbers, in the client's order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        self.0
            .chunks_exact(2)
            .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
    }
}

/// Why a handshake or session ended, in the terms of the one who has to mend it. [`fmt::Display`]
/// is a sentence for that person.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fatal {
    /// The peer offers nothing that we do.
    #[error("no common cipher suite: it offers {}, we do not serve any of these", SuiteNames(.offered))]
    NoCommonSuite {
        /// What it offers, in its order.
        offered: Vec<u16>,
    },
    /// The peer speaks no DTLS 1.2.
    #[error("it does not speak DTLS 1.2")]
    Version,
    /// Nobody with this PSK identity is known. The peer cannot tell this from a wrong key.
    #[error("PSK identity {} is not known", Printable(.identity))]
    UnknownIdentity {
        /// The identity.
        identity: Vec<u8>,
    },
    /// The PSK identity is known, and the peer's key is another one.
    #[error("the key of PSK identity {} is not the one we have", Printable(.identity))]
    WrongKey {
        /// The identity.
        identity: Vec<u8>,
    },
    /// The peer sent no certificate.
    #[error("it sent no certificate, and one is required")]
    NoCertificate,
    /// The peer's certificate is not good.
    #[error("its certificate {} {problem}", Printable(.subject.as_bytes()))]
    Certificate {
        /// The subject, as text.
        subject: String,
        /// What is wrong with it.
        problem: CertificateProblem,
    },
    /// We were asked for a certificate and have none, or one of no use.
    #[error("our own {0}")]
    Ours(String),
    /// The peer gave up, with this alert (RFC 5246 §7.2).
    #[error("it ended the session: {}", alert_name(*.0))]
    Alert(u8),
    /// The peer stopped answering.
    #[error(
        "it stopped answering during the handshake (some do when the pre-shared key is not theirs)"
    )]
    TimedOut,
    /// What it sent is not DTLS as the RFCs have it.
    #[error("what it sent is not sound DTLS: {0}")]
    Protocol(String),
    /// The engine cannot do this.
    #[error("{0}")]
    Unsupported(String),
}

/// What is wrong with a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateProblem {
    /// Its last day is over.
    #[error("has expired")]
    Expired,
    /// Its first day is to come. Our clock may be wrong.
    #[error("is not valid yet (is this machine's clock right?)")]
    Future,
    /// No authority that we trust vouches for it.
    #[error("is signed by no authority that we trust")]
    Untrusted,
    /// It is for another name.
    #[error("is for another name")]
    WrongName,
    /// It has a part that we do not take: an IP subject name, a weak key or digest.
    #[error("has a part that is not accepted (an IP address as its name, a weak key or digest)")]
    Unacceptable,
}

/// Suites by their names, for a sentence.
struct SuiteNames<'a>(&'a [u16]);

impl fmt::Display for SuiteNames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 12;
        // What stands among the suites and is none (RFC 5746 §3.3).
        const RENEGOTIATION_INFO: u16 = 0x00ff;
        let mut suites = self.0.iter().filter(|suite| **suite != RENEGOTIATION_INFO);
        let mut separator = "";
        for suite in suites.by_ref().take(MOST) {
            f.write_str(separator)?;
            match suite_name(*suite) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "{suite:#06x}")?,
            }
            separator = ", ";
        }
        match suites.count() {
            _ if separator.is_empty() => f.write_str("nothing that is a suite"),
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// The IANA name of a suite that a device may offer.
pub fn suite_name(suite: u16) -> Option<&'static str> {
    Some(match suite {
        0x00a8 => "TLS_PSK_WITH_AES_128_GCM_SHA256",
        0x00a9 => "TLS_PSK_WITH_AES_256_GCM_SHA384",
        0x00ae => "TLS_PSK_WITH_AES_128_CBC_SHA256",
        0x00af => "TLS_PSK_WITH_AES_256_CBC_SHA384",
        0x008c => "TLS_PSK_WITH_AES_128_CBC_SHA",
        0x008d => "TLS_PSK_WITH_AES_256_CBC_SHA",
        0x002f => "TLS_RSA_WITH_AES_128_CBC_SHA",
        0x003c => "TLS_RSA_WITH_AES_128_CBC_SHA256",
        0x009c => "TLS_RSA_WITH_AES_128_GCM_SHA256",
        0xc009 => "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
        0xc013 => "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
        0xc023 => "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
        0xc02b => "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        0xc02c => "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        0xc02f => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        0xc030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        0xc037 => "TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256",
        0xc09c => "TLS_RSA_WITH_AES_128_CCM",
        0xc0a0 => "TLS_RSA_WITH_AES_128_CCM_8",
        0xc0a4 => "TLS_PSK_WITH_AES_128_CCM",
        0xc0a5 => "TLS_PSK_WITH_AES_256_CCM",
        0xc0a8 => "TLS_PSK_WITH_AES_128_CCM_8",
        0xc0a9 => "TLS_PSK_WITH_AES_256_CCM_8",
        0xc0ac => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM",
        0xc0ad => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM",
        0xc0ae => "TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8",
        0xc0af => "TLS_ECDHE_ECDSA_WITH_AES_256_CCM_8",
        0xcca8 => "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        0xcca9 => "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        0xccab => "TLS_PSK_WITH_CHACHA20_POLY1305_SHA256",
        0xd001 => "TLS_ECDHE_PSK_WITH_AES_128_GCM_SHA256",
        0xd003 => "TLS_ECDHE_PSK_WITH_AES_128_CCM_8_SHA256",
        0xd005 => "TLS_ECDHE_PSK_WITH_AES_128_CCM_SHA256",
        _ => return None,
    })
}

/// The name of an alert (RFC 5246 §7.2, RFC 4279 §2).
pub fn alert_name(alert: u8) -> &'static str {
    match alert {
        0 => "close_notify",
        10 => "unexpected_message",
        20 => "bad_record_mac (its key is not ours?)",
        21 => "decryption_failed (its key is not ours?)",
        22 => "record_overflow",
        40 => "handshake_failure",
        42 => "bad_certificate: it does not take ours",
        43 => "unsupported_certificate: it does not take ours",
        44 => "certificate_revoked: it does not take ours",
        45 => "certificate_expired: it finds ours expired",
        46 => "certificate_unknown: it does not take ours",
        47 => "illegal_parameter",
        48 => "unknown_ca: it does not trust the authority of our certificate",
        49 => "access_denied",
        50 => "decode_error",
        51 => "decrypt_error (its key is not ours?)",
        70 => "protocol_version",
        71 => "insufficient_security",
        80 => "internal_error",
        90 => "user_canceled",
        100 => "no_renegotiation",
        110 => "unsupported_extension",
        112 => "unrecognized_name",
        115 => "unknown_psk_identity",
        _ => "an alert without a name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offered_suites_are_named_for_a_person() {
        let said = |offered: &[u16]| {
            Fatal::NoCommonSuite {
                offered: offered.to_vec(),
            }
            .to_string()
        };
        assert_eq!(
            said(&[0xc0a0, 0x1234, 0x00ff]),
            "no common cipher suite: it offers TLS_RSA_WITH_AES_128_CCM_8, 0x1234, we do not serve any of these"
        );
        assert!(said(&[0xc02f; 20]).contains(" and 8 more,"));
        assert!(said(&[0x00ff]).contains("nothing that is a suite"));
    }

    #[test]
    fn a_name_that_a_stranger_chose_cannot_break_a_line() {
        assert_eq!(Printable(b"a\nb").to_string(), "\"a\\nb\"");
        assert_eq!(Printable(&[0xff, 0x00]).to_string(), "0xff00");
        assert_eq!(Printable(&[b'x'; 200]).to_string().chars().count(), 131);
    }
}
