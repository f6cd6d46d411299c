//! The DTLS engine of this build, and what it is given.

use std::path::Path;

use anyhow::{Context as _, bail};

use crate::agent::config::Devices;
use crate::dtls::Engine;
use crate::secret::Secret;
use crate::server::credentials::{Authority, Origin, certificates};

/// Makes engines for the devices' side, one after the other as the authorities change.
pub struct Engines {
    own: Option<OwnCertificate>,
    /// Those of `[devices] ca_file`.
    authorities: Vec<Authority>,
}

/// Our certificate and its key.
#[cfg_attr(
    not(feature = "dtls"),
    expect(dead_code, reason = "a build without DTLS has no use for them")
)]
struct OwnCertificate {
    chain: Vec<u8>,
    key: Secret,
}

impl Engines {
    /// With the files that `[devices]` names.
    ///
    /// # Errors
    /// A file that cannot be read or is no certificate, and a certificate without its key.
    pub fn of(devices: &Devices) -> anyhow::Result<Self> {
        let own = match (&devices.cert_file, &devices.key) {
            (Some(file), Some(key)) => Some(OwnCertificate {
                chain: read("cert_file", file)?,
                key: key.clone(),
            }),
            (None, None) => None,
            (Some(_), None) => bail!("[devices] cert_file needs its private key: set `key`"),
            (None, Some(_)) => bail!("[devices] key is the key of a certificate: set `cert_file`"),
        };
        let mut authorities = Vec::new();
        if let Some(file) = &devices.ca_file {
            match certificates(&read("ca_file", file)?) {
                Ok(found) => authorities.extend(
                    found
                        .into_iter()
                        .map(|certificate| Authority::new(certificate, Origin::Store)),
                ),
                Err(reason) => bail!("[devices] ca_file: {}: {reason}", file.display()),
            }
        }
        Ok(Self { own, authorities })
    }

    /// The authorities of the configuration itself, for the book.
    pub fn authorities(&self) -> Vec<Authority> {
        self.authorities.clone()
    }

    /// An engine that trusts exactly these authorities.
    ///
    /// # Errors
    /// A certificate or key that is none, or that do not fit each other; a build without DTLS.
    pub fn engine(&self, authorities: &[Authority]) -> anyhow::Result<Box<dyn Engine>> {
        engine(self.own.as_ref(), authorities)
    }
}

/// An engine for the client's end.
///
/// # Errors
/// A build without DTLS.
pub(super) fn client_engine() -> anyhow::Result<Box<dyn Engine>> {
    engine(None, &[])
}

#[cfg(feature = "dtls")]
fn engine(
    own: Option<&OwnCertificate>,
    authorities: &[Authority],
) -> anyhow::Result<Box<dyn Engine>> {
    use crate::dtls::mbedtls;
    let settings = mbedtls::Settings {
        certificate: own.map(|own| (own.chain.clone(), own.key.clone())),
        authorities: authorities
            .iter()
            .map(|authority| authority.certificate.to_vec())
            .collect(),
        ..mbedtls::Settings::default()
    };
    let engine = mbedtls::Engine::new(&settings)
        .context("the certificate of [devices] or an authority cannot be used")?;
    Ok(Box::new(engine))
}

#[cfg(not(feature = "dtls"))]
fn engine(_: Option<&OwnCertificate>, _: &[Authority]) -> anyhow::Result<Box<dyn Engine>> {
    bail!("this build has no DTLS (cargo feature `dtls`), so it has no coaps")
}

fn read(key: &str, file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("[devices] {key}: cannot read {}", file.display()))
}
