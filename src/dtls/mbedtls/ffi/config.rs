//! What sessions have in common.

use std::os::raw::c_int;
use std::ptr;
use std::time::Duration;

use mbedtls_rs_sys::{self as sys, mbedtls_pk_context, mbedtls_ssl_config, mbedtls_x509_crt};

use super::{Object, callbacks, clock, words};
use crate::secret::Secret;

/// The longest pre-shared key in bytes. Fixed when the library is built.
pub(in super::super) const LONGEST_KEY: usize = sys::MBEDTLS_PSK_MAX_LEN as usize;

/// Which end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Role {
    Server,
    Client,
}

/// What a [`Config`] is built from.
pub(in super::super) struct Build<'a> {
    pub role: Role,
    /// In the order of preference.
    pub suites: &'a [u16],
    /// The length of the connection IDs that we give to peers, 0 to 32.
    pub cid_length: usize,
    /// The first and the last time to wait for an answer before a flight is sent again.
    pub retransmit: (Duration, Duration),
    /// Our certificate chain and its private key.
    pub own: Option<(&'a [u8], &'a Secret)>,
    /// Certificates whose signature makes a peer's certificate good.
    pub authorities: &'a [Vec<u8>],
    /// A client's PSK identity and key.
    pub psk: Option<(&'a [u8], &'a Secret)>,
}

/// Why an engine cannot be made of its settings. [`std::fmt::Display`] says what to mend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The own certificate chain.
    #[error("the certificate cannot be read: {0}; it has to be PEM, or one certificate in DER")]
    Chain(String),
    /// The own private key.
    #[error(
        "the private key cannot be read: {0}; it has to be an ECDSA key on P-256 or P-384, PEM or DER, without a passphrase"
    )]
    Key(String),
    /// They do not belong together.
    #[error("the private key is not the one of the certificate")]
    Mismatch,
    /// An authority's certificate, by its place in the list.
    #[error("certificate {} of the authorities cannot be read: {problem}", .index + 1)]
    Authority {
        /// From 0.
        index: usize,
        /// In words.
        problem: String,
    },
    /// A client's PSK.
    #[error("the pre-shared key has {0} bytes; it has to have 1 to {LONGEST_KEY}")]
    KeyLength(usize),
    /// A client's PSK identity.
    #[error("the PSK identity has {0} bytes; it has to have 1 to 128")]
    IdentityLength(usize),
    /// A server's name.
    #[error("\"{0}\" is not the DNS name of a server")]
    ServerName(String),
    /// See [`super::super::Settings::cid_length`].
    #[error("a connection ID has at most 32 bytes, not {0}")]
    CidLength(usize),
    /// Out of memory, or a library built otherwise than this program needs it.
    #[error("Mbed TLS could not be set up: {0}")]
    Library(String),
}

/// What sessions have in common. Written while it is built, read ever after.
pub(in super::super) struct Config {
    conf: Object<mbedtls_ssl_config>,
    // Only C looks at these, through `conf`.
    _own: Object<mbedtls_x509_crt>,
    _key: Object<mbedtls_pk_context>,
    _authorities: Object<mbedtls_x509_crt>,
    _suites: Box<[c_int]>,
    pub role: Role,
    pub cid_length: usize,
}

// SAFETY: nothing in here is bound to a thread (Mbed TLS keeps no thread-local state), so it may
// be dropped on another one.
unsafe impl Send for Config {}

// SAFETY: after `new` no field is written by us, and Mbed TLS takes `const mbedtls_ssl_config *`
// from a context. What hangs on it is read by handshakes: certificate chains are compared and
// copied out; the private key signs by `mbedtls_ecdsa_write_signature`, deterministic (RFC 6979),
// which reads the group and the scalar. The group has a cache, the comb table `grp->T`, which
// `ecp_mul_comb` writes when it is missing; for P-256 and P-384 it is a constant of the library
// (MBEDTLS_ECP_FIXED_POINT_OPTIM is 1 and `ecp_curves.c` sets `T`, so `ecp.c` never gets to the
// line that writes it). Of the library's static variables, AES tables are constants
// (MBEDTLS_AES_ROM_TABLES), the lists of suites and curves are filled by `clock::install`, and what
// is left are three counters of operations on curves (`add_count`, `dbl_count`, `mul_count` in `ecp.c`): they
// are incremented by whatever thread works on a curve, without order, and read by the library's
// self-test alone, which we do not run. So two threads may do handshakes with one Config, a worker
// those with certificates and the main thread all others, without MBEDTLS_THREADING_C.
unsafe impl Sync for Config {}

impl Config {
    /// Builds one.
    ///
    /// # Errors
    ///
    /// With what is wrong in `build`.
    pub fn new(build: &Build<'_>) -> Result<Self, SetupError> {
        clock::install();
        if build.cid_length > sys::MBEDTLS_SSL_CID_IN_LEN_MAX as usize {
            return Err(SetupError::CidLength(build.cid_length));
        }
        // SAFETY: each pair of functions is the one of its type; both take zeroed memory, and a
        // struct in whatever state setup has left it.
        let (conf, own, key, authorities) = unsafe {
            (
                Object::new(sys::mbedtls_ssl_config_init, sys::mbedtls_ssl_config_free),
                Object::new(sys::mbedtls_x509_crt_init, sys::mbedtls_x509_crt_free),
                Object::new(sys::mbedtls_pk_init, sys::mbedtls_pk_free),
                Object::new(sys::mbedtls_x509_crt_init, sys::mbedtls_x509_crt_free),
            )
        };
        let suites = build.suites.iter().map(|suite| c_int::from(*suite));
        let config = Self {
            conf,
            _own: own,
            _key: key,
            _authorities: authorities,
            _suites: suites.chain([0]).collect(),
            role: build.role,
            cid_length: build.cid_length,
        };
        config.common(build)?;
        if let Some((chain, secret)) = build.own {
            config.own(chain, secret)?;
        }
        for (index, der) in build.authorities.iter().enumerate() {
            parse(&config._authorities, der)
                .map_err(|problem| SetupError::Authority { index, problem })?;
        }
        if let Some((identity, key)) = build.psk {
            config.psk(identity, key)?;
        }
        Ok(config)
    }

    /// What every configuration has.
    fn common(&self, build: &Build<'_>) -> Result<(), SetupError> {
        let conf = self.conf.ptr();
        let role = match build.role {
            Role::Server => sys::MBEDTLS_SSL_IS_SERVER,
            Role::Client => sys::MBEDTLS_SSL_IS_CLIENT,
        };
        let millis =
            |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX / 4);
        // SAFETY: `conf` is an initialised configuration that no context uses yet. The suite list
        // ends in 0 and lives as long as `conf` (fields of one struct, and the slice's memory does
        // not move with it), as do the authorities. The callbacks have the types that are asked
        // for and need no context pointer.
        //
        // The list of authorities may be empty, which is a zeroed certificate: it matches no
        // issuer, because a name in DER has at least a header, and has no key to check a signature
        // with. It must be there all the same, or the library refuses a client's certificate
        // before the verify callback can see that it is pinned.
        unsafe {
            check(sys::mbedtls_ssl_config_defaults(
                conf,
                role as c_int,
                sys::MBEDTLS_SSL_TRANSPORT_DATAGRAM as c_int,
                sys::MBEDTLS_SSL_PRESET_DEFAULT as c_int,
            ))?;
            sys::mbedtls_ssl_conf_rng(conf, Some(callbacks::random), ptr::null_mut());
            sys::mbedtls_ssl_conf_ciphersuites(conf, self._suites.as_ptr());
            sys::mbedtls_ssl_conf_handshake_timeout(
                conf,
                millis(build.retransmit.0),
                millis(build.retransmit.1),
            );
            check(sys::mbedtls_ssl_conf_cid(
                conf,
                build.cid_length,
                sys::MBEDTLS_SSL_UNEXPECTED_CID_IGNORE as c_int,
            ))?;
            sys::mbedtls_ssl_conf_authmode(conf, sys::MBEDTLS_SSL_VERIFY_REQUIRED as c_int);
            sys::mbedtls_ssl_conf_ca_chain(conf, self._authorities.ptr(), ptr::null_mut());
            match build.role {
                Role::Server => {
                    sys::mbedtls_ssl_conf_dtls_cookies(
                        conf,
                        Some(callbacks::write_cookie),
                        Some(callbacks::check_cookie),
                        ptr::null_mut(),
                    );
                    sys::mbedtls_ssl_conf_psk_cb(conf, Some(callbacks::psk), ptr::null_mut());
                    // The names of our authorities would only make the flight longer; an empty
                    // list asks for any certificate (RFC 5246 §7.4.4).
                    sys::mbedtls_ssl_conf_cert_req_ca_list(
                        conf,
                        sys::MBEDTLS_SSL_CERT_REQ_CA_LIST_DISABLED as _,
                    );
                }
                Role::Client => sys::mbedtls_ssl_conf_session_tickets(
                    conf,
                    sys::MBEDTLS_SSL_SESSION_TICKETS_DISABLED as c_int,
                ),
            }
        }
        Ok(())
    }

    /// Our own certificate.
    fn own(&self, chain: &[u8], secret: &Secret) -> Result<(), SetupError> {
        parse(&self._own, chain).map_err(SetupError::Chain)?;
        let text = terminated(secret.expose());
        let text = text.expose();
        // SAFETY: the key is initialised and empty, the bytes are as long as is said, and there is
        // no password. A PEM ends in NUL, which counts.
        let result = unsafe {
            sys::mbedtls_pk_parse_key(
                self._key.ptr(),
                text.as_ptr(),
                text.len(),
                ptr::null(),
                0,
                Some(callbacks::random),
                ptr::null_mut(),
            )
        };
        if result != 0 {
            return Err(SetupError::Key(words(result)));
        }
        // SAFETY: both are initialised, and `own` was parsed, so its `pk` is set up. The chain and
        // the key live as long as `conf`.
        unsafe {
            let own = self._own.ptr();
            let pair = sys::mbedtls_pk_check_pair(
                &raw const (*own).pk,
                self._key.ptr(),
                Some(callbacks::random),
                ptr::null_mut(),
            );
            if pair != 0 {
                return Err(SetupError::Mismatch);
            }
            check(sys::mbedtls_ssl_conf_own_cert(
                self.conf.ptr(),
                own,
                self._key.ptr(),
            ))
        }
    }

    /// A client's pre-shared key.
    fn psk(&self, identity: &[u8], key: &Secret) -> Result<(), SetupError> {
        if !(1..=128).contains(&identity.len()) {
            return Err(SetupError::IdentityLength(identity.len()));
        }
        let key = key.expose();
        if !(1..=LONGEST_KEY).contains(&key.len()) {
            return Err(SetupError::KeyLength(key.len()));
        }
        // SAFETY: both slices are as long as is said; both are copied.
        check(unsafe {
            sys::mbedtls_ssl_conf_psk(
                self.conf.ptr(),
                key.as_ptr(),
                key.len(),
                identity.as_ptr(),
                identity.len(),
            )
        })
    }

    /// For the contexts: they keep the Config alive that they point to.
    pub(super) fn ptr(&self) -> *const mbedtls_ssl_config {
        self.conf.ptr()
    }
}

fn check(result: c_int) -> Result<(), SetupError> {
    match result {
        0 => Ok(()),
        code => Err(SetupError::Library(words(code))),
    }
}

/// Appends certificates, PEM or one DER, to a list.
fn parse(list: &Object<mbedtls_x509_crt>, certificates: &[u8]) -> Result<(), String> {
    let text = terminated(certificates);
    let text = text.expose();
    // SAFETY: the list is initialised, no context uses it yet, and the bytes, which are copied, are
    // as long as is said.
    match unsafe { sys::mbedtls_x509_crt_parse(list.ptr(), text.as_ptr(), text.len()) } {
        0 => Ok(()),
        failed if failed > 0 => Err(format!("{failed} of its certificates are not understood")),
        code => Err(words(code)),
    }
}

/// PEM with the NUL at its end that Mbed TLS knows it by; DER as it is.
fn terminated(bytes: &[u8]) -> Secret {
    let pem = bytes.windows(11).any(|window| window == b"-----BEGIN ");
    // Room for the NUL at once: growing would leave a copy of the key behind.
    let mut text = Vec::with_capacity(bytes.len() + 1);
    text.extend_from_slice(bytes);
    if pem && !bytes.ends_with(&[0]) {
        text.push(0);
    }
    Secret::new(text)
}
