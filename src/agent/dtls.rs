//! The DTLS engine of this build, and what it is given.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::agent::config::Devices;
use crate::dtls::Engine;
use crate::secret::Secret;

/// Our certificate and its key.
pub(super) struct OwnCertificate {
    chain: Vec<u8>,
    key: Secret,
}

/// The engine that the configuration asks for, trusting these authorities (DER) beside those of
/// `[devices] ca_file`.
///
/// # Errors
/// A file that cannot be read, and what [`server_engine`] says.
pub(super) fn engine_of(
    devices: &Devices,
    authorities: Vec<Vec<u8>>,
) -> anyhow::Result<Box<dyn Engine>> {
    let own = match (&devices.cert_file, &devices.key) {
        (Some(file), Some(key)) => Some(OwnCertificate {
            chain: read("cert_file", file)?,
            key: Secret::new(key.expose()),
        }),
        (None, None) => None,
        (Some(_), None) => bail!("[devices] cert_file needs its private key: set `key`"),
        (None, Some(_)) => bail!("[devices] key is the key of a certificate: set `cert_file`"),
    };
    let mut authorities = authorities;
    if let Some(file) = &devices.ca_file {
        authorities.push(read("ca_file", file)?);
    }
    server_engine(own, authorities)
}

fn read(key: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("[devices] {key}: cannot read {}", file.display()))
}

/// An engine for the server's end: our own certificate, if there is one, and who may vouch for a
/// device's.
///
/// # Errors
/// A certificate or key that is none, or that do not fit each other; a build without DTLS.
#[cfg(feature = "dtls")]
pub(super) fn server_engine(
    own: Option<OwnCertificate>,
    authorities: Vec<Vec<u8>>,
) -> anyhow::Result<Box<dyn Engine>> {
    use crate::dtls::mbedtls;
    let settings = mbedtls::Settings {
        certificate: own.map(|own| (own.chain, own.key)),
        authorities,
        ..mbedtls::Settings::default()
    };
    let engine = mbedtls::Engine::new(&settings).context("DTLS")?;
    Ok(Box::new(engine))
}

/// What a build without an engine says.
///
/// # Errors
/// Always.
#[cfg(not(feature = "dtls"))]
pub(super) fn server_engine(
    _own: Option<OwnCertificate>,
    _authorities: Vec<Vec<u8>>,
) -> anyhow::Result<Box<dyn Engine>> {
    bail!("this build has no DTLS (cargo feature `dtls`), so it cannot serve coaps")
}

/// An engine for the client's end.
///
/// # Errors
/// A build without DTLS.
pub(super) fn client_engine() -> anyhow::Result<Box<dyn Engine>> {
    server_engine(None, Vec::new())
}
