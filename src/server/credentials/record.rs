//! What is stored of one device, and what makes it acceptable.

use std::sync::Arc;

use super::authority::fingerprint;
use crate::dtls::{PeerIdentity, Printable};
use crate::name::objection;
use crate::secret::Secret;
use crate::time::UnixTime;

/// The longest endpoint name, in bytes.
pub const ENDPOINT_MAX: usize = 255;
/// The longest PSK identity, in bytes (LwM2M Core 1.1 §E.1, RFC 4279 §5.3).
pub const IDENTITY_MAX: usize = 128;
/// The longest PSK, in bytes (RFC 4279 §5.3).
pub const KEY_MAX: usize = crate::dtls::LONGEST_PSK;
/// A PSK below this many bytes can be guessed from one recorded handshake.
pub const KEY_ADVISED: usize = 16;

/// A pre-shared key and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Psk {
    /// 1 to [`IDENTITY_MAX`] bytes.
    pub identity: Arc<[u8]>,
    /// 1 to [`KEY_MAX`] bytes.
    pub key: Secret,
}

impl Psk {
    /// A key and its identity, not checked yet.
    pub fn new(identity: impl Into<Arc<[u8]>>, key: Secret) -> Self {
        Self {
            identity: identity.into(),
            key,
        }
    }

    /// Whether the key is shorter than anybody should use.
    pub fn is_weak(&self) -> bool {
        self.key.expose().len() < KEY_ADVISED
    }

    /// Whether identity and key have lengths that they can have.
    ///
    /// # Errors
    ///
    /// The first mistake.
    pub fn check(&self) -> Result<(), Mistake> {
        match self.identity.len() {
            0 => return Err(Mistake::NoIdentity),
            1..=IDENTITY_MAX => {}
            _ => return Err(Mistake::LongIdentity),
        }
        match self.key.expose().len() {
            0 => Err(Mistake::NoKey),
            1..=KEY_MAX => Ok(()),
            _ => Err(Mistake::LongKey),
        }
    }
}

/// Where a record comes from, and where it can be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The store: the command line and the join window write there.
    Store,
    /// A file that the operator or a fleet tool writes, by its name.
    File(Arc<str>),
}

/// One device that may come in, and with what.
///
/// Without any credential it is an approval: the device is served without security.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The operator's name of the device, and its topic name where it is not the endpoint.
    pub name: Arc<str>,
    /// The endpoint name that it registers with.
    pub endpoint: Arc<str>,
    /// Its key for the LwM2M server.
    pub psk: Option<Psk>,
    /// Its key for the bootstrap server.
    pub bootstrap_psk: Option<Psk>,
    /// The SHA-256 of its certificate's DER.
    pub certificate: Option<[u8; 32]>,
    /// When it was added.
    pub added: UnixTime,
    /// Where it comes from.
    pub origin: Origin,
}

impl Record {
    /// An approval of `endpoint`, called the same, in the store.
    pub fn new(endpoint: &str, added: UnixTime) -> Self {
        let endpoint: Arc<str> = endpoint.into();
        Self {
            name: endpoint.clone(),
            endpoint,
            psk: None,
            bootstrap_psk: None,
            certificate: None,
            added,
            origin: Origin::Store,
        }
    }

    /// Whether the device has to prove who it is.
    pub fn has_credential(&self) -> bool {
        self.psk.is_some() || self.bootstrap_psk.is_some() || self.certificate.is_some()
    }

    /// Whether the device has other credentials than in `earlier`, or is another endpoint.
    pub(super) fn differs(&self, earlier: &Self) -> bool {
        (
            &self.endpoint,
            &self.psk,
            &self.bootstrap_psk,
            &self.certificate,
        ) != (
            &earlier.endpoint,
            &earlier.psk,
            &earlier.bootstrap_psk,
            &earlier.certificate,
        )
    }

    /// What the device can prove itself with, when that is not valid any more.
    pub(super) fn lost(&self) -> Vec<Lost> {
        let psks = [&self.psk, &self.bootstrap_psk].into_iter().flatten();
        psks.map(|psk| Lost::Psk(psk.identity.clone()))
            .chain(self.certificate.map(Lost::Certificate))
            .collect()
    }

    /// Whether it can be stored at all.
    ///
    /// # Errors
    ///
    /// The first mistake, for a person.
    pub fn check(&self) -> Result<(), Mistake> {
        check_endpoint(&self.endpoint)?;
        // The endpoint as a name becomes a topic as every endpoint does.
        if self.name != self.endpoint
            && let Some(why) = objection(&self.name)
        {
            return Err(Mistake::Name(self.name.to_string(), why));
        }
        [&self.psk, &self.bootstrap_psk]
            .into_iter()
            .flatten()
            .try_for_each(Psk::check)
    }

    /// What credentials it has, in words that show none of them.
    pub fn credentials(&self) -> String {
        let words = [
            self.psk
                .as_ref()
                .map(|psk| format!("PSK identity {}", Printable(&psk.identity))),
            self.bootstrap_psk
                .as_ref()
                .map(|psk| format!("bootstrap PSK identity {}", Printable(&psk.identity))),
            self.certificate.map(|_| "a certificate".to_owned()),
        ];
        let words: Vec<String> = words.into_iter().flatten().collect();
        if words.is_empty() {
            "none".to_owned()
        } else {
            words.join(", ")
        }
    }
}

/// Whether an endpoint name is one.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_endpoint(endpoint: &str) -> Result<(), Mistake> {
    if endpoint.is_empty() || endpoint.len() > ENDPOINT_MAX {
        Err(Mistake::Endpoint)
    } else {
        Ok(())
    }
}

/// A key that the bootstrap server gave a device for the LwM2M server. It is valid beside what the
/// record of the endpoint has, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The endpoint that it was given to.
    pub endpoint: Arc<str>,
    /// The key.
    pub psk: Psk,
    /// When it ends; given without security, it does not outlive the join window.
    pub expires: Option<UnixTime>,
    /// When it was given.
    pub added: UnixTime,
}

/// A credential that is not valid any more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lost {
    /// The key of this PSK identity.
    Psk(Arc<[u8]>),
    /// The certificate with this SHA-256.
    Certificate([u8; 32]),
}

impl Lost {
    /// What let a session with this peer in, if a record can have it.
    pub fn of(peer: &PeerIdentity) -> Option<Self> {
        match peer {
            PeerIdentity::Psk(identity) => Some(Self::Psk(identity.as_slice().into())),
            PeerIdentity::X509 { leaf, .. } => Some(Self::Certificate(fingerprint(leaf))),
            PeerIdentity::RawPublicKey(_) => None,
        }
    }
}

/// Why a record cannot be stored as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mistake {
    /// The endpoint name.
    #[error("an endpoint name has 1 to {ENDPOINT_MAX} bytes")]
    Endpoint,
    /// The operator's name.
    #[error("the name \"{}\" cannot be a topic level: it {}; choose another name", .0.escape_debug(), .1)]
    Name(String, String),
    /// An empty PSK identity.
    #[error("the PSK identity is empty")]
    NoIdentity,
    /// A long PSK identity.
    #[error("a PSK identity has at most {IDENTITY_MAX} bytes")]
    LongIdentity,
    /// An empty key.
    #[error("the key is empty")]
    NoKey,
    /// A long key.
    #[error("a key has at most {KEY_MAX} bytes")]
    LongKey,
}

/// Why a record cannot stand beside another one. The texts name the one that stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The name.
    #[error("the name \"{}\" is taken by the device with endpoint \"{}\"", .0.name.escape_debug(), .0.endpoint.escape_debug())]
    Name(Taken),
    /// The endpoint.
    #[error("endpoint \"{}\" has a record already: device \"{}\"{}", .0.endpoint.escape_debug(), .0.name.escape_debug(), .0.place)]
    Endpoint(Taken),
    /// The PSK identity.
    #[error("PSK identity {} belongs to device \"{}\"{} already", Printable(.identity), .taken.name.escape_debug(), .taken.place)]
    Identity {
        /// The identity.
        identity: Vec<u8>,
        /// Whose it is.
        taken: Taken,
    },
    /// The certificate.
    #[error("this certificate belongs to device \"{}\"{} already", .0.name.escape_debug(), .0.place)]
    Certificate(Taken),
}

/// The record that another one conflicts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its name.
    pub name: Arc<str>,
    /// Its endpoint.
    pub endpoint: Arc<str>,
    /// ` in FILE`, or nothing.
    pub place: String,
}

impl Taken {
    pub(super) fn by(record: &Record) -> Self {
        Self {
            name: record.name.clone(),
            endpoint: record.endpoint.clone(),
            place: match &record.origin {
                Origin::Store => String::new(),
                Origin::File(file) => format!(" in {file}"),
            },
        }
    }

    pub(super) fn endpoint(endpoint: &Arc<str>) -> Self {
        Self {
            name: endpoint.clone(),
            endpoint: endpoint.clone(),
            place: String::new(),
        }
    }
}
