//! The DTLS engine that is there: Mbed TLS (`docs/decisions/0006-dtls-engine.md`).
//!
//! DTLS 1.2, both roles; pre-shared keys and mutual X.509; connection IDs (RFC 9146); sessions that
//! move from one process to the next. No Raw Public Key, no DTLS 1.3.
//!
//! [`ffi`] is all that is not safe Rust. [`session`] gives its outcomes the words of [`Fatal`].

mod ffi;
mod saved;
mod session;
mod suites;
#[cfg(test)]
mod tests;

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

pub use ffi::SetupError;
use ffi::{Build, Config, Context, Opening, Role, Trust};
use session::Session;

use super::{Accept, Connect, Credential, DtlsSession, Fatal, ServerTrust, Suites};
use crate::secret::Secret;
use crate::time::Now;

/// The longest pre-shared key in bytes; the library is built for 32. RFC 4279 §5.3 would have 64,
/// LwM2M's own keys have 16 (RFC 7925 §4.2).
pub const LONGEST_KEY: usize = ffi::LONGEST_KEY;

const _: () = assert!(LONGEST_KEY >= crate::dtls::LONGEST_PSK);

/// The first and the last time to wait before a flight is sent again, doubled in between: given up
/// after 1 + 2 + 4 + 8 + 16 s.
///
/// That is RFC 6347 §4.2.4.1. RFC 7925 §11 would begin with 9 s, for the sake of networks where an
/// answer takes that long; but there one flight too many costs one datagram, while in all others a
/// single loss would cost 9 s of a device's time awake.
pub const RETRANSMIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(16));

/// What a server is set up with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our certificate chain (the leaf first: PEM, or one DER) and its private key (PEM or DER).
    /// Without one, only pre-shared keys are served.
    pub certificate: Option<(Vec<u8>, Secret)>,
    /// Certificates, DER or PEM, that make the certificates good which they signed.
    pub authorities: Vec<Vec<u8>>,
    /// The length of the connection IDs that [`Accept::cid`] gives, 0 to 32 bytes. The record
    /// header does not say it (RFC 9146 §4), so it is the same for all sessions.
    pub cid_length: usize,
    /// The first and the last time to wait before a flight is sent again.
    pub retransmit: (Duration, Duration),
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            certificate: None,
            authorities: Vec::new(),
            cid_length: 8,
            retransmit: RETRANSMIT,
        }
    }
}

/// Makes sessions with Mbed TLS.
pub struct Engine {
    server: Arc<Config>,
    served: &'static [u16],
    retransmit: (Duration, Duration),
}

impl Engine {
    /// An engine with these settings.
    ///
    /// # Errors
    ///
    /// With what is wrong in them.
    pub fn new(settings: &Settings) -> Result<Self, SetupError> {
        let certificate = settings.certificate.as_ref();
        let served = suites::served(certificate.is_some());
        let server = Config::new(&Build {
            role: Role::Server,
            suites: served,
            cid_length: settings.cid_length,
            retransmit: settings.retransmit,
            own: certificate.map(|(chain, key)| (&**chain, key)),
            authorities: &settings.authorities,
            psk: None,
        })?;
        Ok(Self {
            server: Arc::new(server),
            served,
            retransmit: settings.retransmit,
        })
    }

    /// A client that has no certificate when it is asked for one, as no sound client would be.
    #[cfg(test)]
    fn connect_without_certificate(&self, now: Now, connect: &Connect) -> Box<dyn DtlsSession> {
        self.connect_as(now, connect, &suites::ECDSA, false)
            .expect("a client")
    }

    /// As [`crate::dtls::Engine::connect`], but offering these suites only, which have to fit the
    /// credential: to see what a server speaks.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn connect_with(
        &self,
        now: Now,
        connect: &Connect,
        suites: &[u16],
    ) -> Result<Box<dyn DtlsSession>, Fatal> {
        self.connect_as(now, connect, suites, true)
    }

    fn connect_as(
        &self,
        now: Now,
        connect: &Connect,
        suites: &[u16],
        certified: bool,
    ) -> Result<Box<dyn DtlsSession>, Fatal> {
        let ours = |problem: SetupError| Fatal::Ours(format!("settings: {problem}"));
        let mut build = Build {
            role: Role::Client,
            suites,
            cid_length: connect.cid.len(),
            retransmit: self.retransmit,
            own: None,
            authorities: &[],
            psk: None,
        };
        let (mut name, mut trust, mut psk) = (None, Trust::Authority, None);
        let authorities;
        match &connect.credential {
            Credential::Psk { identity, key } => {
                build.psk = Some((identity, key));
                psk = Some(identity.clone());
            }
            Credential::X509 { chain, key, server } => {
                build.own = certified.then_some((&**chain, key));
                match server {
                    ServerTrust::Pinned(pin) => trust = Trust::Only(*pin),
                    ServerTrust::Authorities {
                        certificates,
                        name: wanted,
                    } => {
                        authorities = [certificates.clone()];
                        build.authorities = &authorities;
                        name = Some(server_name(wanted).map_err(ours)?);
                    }
                }
            }
        }
        let config = Arc::new(Config::new(&build).map_err(ours)?);
        let opening = Some(Box::new(Opening::new(trust)));
        let mut context =
            Context::new(config, Some(&connect.cid), opening).map_err(Fatal::Unsupported)?;
        context
            .expect_name(name.as_ref())
            .map_err(Fatal::Unsupported)?;
        let mut session = Session::opening(context, psk);
        session.shake(now, &[])?;
        Ok(Box::new(session))
    }
}

/// A name that a certificate can be asked for. A DNS name only: with no colon and a letter in it,
/// it is never taken for an IP address (`SECURITY.md`, CVE-2026-25833).
fn server_name(name: &str) -> Result<CString, SetupError> {
    let dns = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        && name.len() <= 253;
    CString::new(name)
        .ok()
        .filter(|_| dns)
        .ok_or_else(|| SetupError::ServerName(name.to_owned()))
}

impl super::Engine for Engine {
    fn accept(&self, _: Now, accept: Accept<'_>) -> Result<Box<dyn DtlsSession>, Fatal> {
        let cid = match accept.cid.len() {
            0 => None,
            length if length == self.server.cid_length => Some(accept.cid),
            length => {
                return Err(Fatal::Unsupported(format!(
                    "the connection ID has {length} bytes, and the engine is set to {}",
                    self.server.cid_length
                )));
            }
        };
        let opening = Some(Box::new(Opening::new(Trust::Keys(accept.keys))));
        let mut context =
            Context::new(self.server.clone(), cid, opening).map_err(Fatal::Unsupported)?;
        context
            .expect_cookie(accept.cookie)
            .map_err(Fatal::Unsupported)?;
        Ok(Box::new(Session::opening(context, None)))
    }

    fn connect(&self, now: Now, connect: &Connect) -> Result<Box<dyn DtlsSession>, Fatal> {
        let suites: &[u16] = match &connect.credential {
            Credential::Psk { .. } => &suites::PSK,
            Credential::X509 { .. } => &suites::ECDSA,
        };
        self.connect_with(now, connect, suites)
    }

    fn restore(&self, _: Now, saved: &[u8]) -> Result<Box<dyn DtlsSession>, Fatal> {
        Ok(Box::new(saved::read(&self.server, saved)?))
    }

    fn is_costly(&self, offered: Suites<'_>) -> bool {
        suites::is_costly(self.served, offered)
    }
}
