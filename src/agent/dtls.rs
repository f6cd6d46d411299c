//! The DTLS engine of this build, and what it is given.

use std::path::Path;

use anyhow::anyhow;

use crate::agent::config::Devices;
use crate::agent::devices::fetch;
use crate::agent::mqtt::{Part, Problem};
use crate::dtls::Engine;
use crate::secret::Secret;
use crate::server::credentials::{Authority, CERTIFICATE_HINT, Origin, certificates};

/// Everything that is wrong with the certificates and the key of `[devices]`.
pub fn problems(devices: &Devices) -> Vec<Problem> {
    let unusable = |part, error: &anyhow::Error, hint| {
        let message = format!("this cannot be used: {}", error.root_cause());
        Problem::new(part, message, hint)
    };
    let own = OwnCertificate::read(devices).and_then(|own| match engine(own.as_ref(), &[]) {
        Err(error) if own.is_some() => Err(unusable(
            Part::Certificate,
            &error,
            "give a certificate and the `key` that belongs to it",
        )),
        _ => Ok(()),
    });
    let authorities = authorities(devices).and_then(|found| match engine(None, &found) {
        Err(error) if !found.is_empty() => Err(unusable(
            Part::Authorities,
            &error,
            "put the certificates of authorities in their place",
        )),
        _ => Ok(()),
    });
    [own, authorities]
        .into_iter()
        .filter_map(Result::err)
        .collect()
}

/// Makes engines for the devices' side, one after the other as the authorities change.
pub struct Engines {
    own: Option<OwnCertificate>,
    /// Those of `[devices] ca_file`.
    authorities: Vec<Authority>,
}

/// Our certificate and its key.
#[cfg_attr(
    not(feature = "dtls"),
    expect(dead_code, reason = "only an engine has use for them")
)]
struct OwnCertificate {
    chain: Vec<u8>,
    key: Secret,
}

impl OwnCertificate {
    fn read(devices: &Devices) -> Result<Option<Self>, Problem> {
        match (&devices.cert_file, &devices.key) {
            (Some(file), Some(key)) => {
                let chain = content(Part::Certificate, file)?;
                certificates(&chain).map_err(|why| no_certificate(Part::Certificate, file, why))?;
                let key = key.clone();
                Ok(Some(Self { chain, key }))
            }
            (None, None) => Ok(None),
            (Some(_), None) => Err(Problem::new(
                Part::Certificate,
                "a certificate without its private key is no use",
                "add `key` under [devices]: { file = \"PATH\" } or { credential = \"NAME\" }",
            )),
            (None, Some(_)) => Err(Problem::new(
                Part::Key,
                "a private key without its certificate is no use",
                "add `cert_file` under [devices]",
            )),
        }
    }
}

/// The authorities of `ca_file`.
fn authorities(devices: &Devices) -> Result<Vec<Authority>, Problem> {
    let Some(file) = &devices.ca_file else {
        return Ok(Vec::new());
    };
    let found = certificates(&content(Part::Authorities, file)?)
        .map_err(|why| no_certificate(Part::Authorities, file, why))?;
    let authority = |certificate| Authority::new(certificate, Origin::Store);
    Ok(found.into_iter().map(authority).collect())
}

fn content(part: Part, file: &Path) -> Result<Vec<u8>, Problem> {
    fetch(file).map_err(|why| Problem::new(part, why, "check the path and who may read it"))
}

fn no_certificate(part: Part, file: &Path, why: &str) -> Problem {
    let message = format!("{} {why}", file.display());
    Problem::new(part, message, CERTIFICATE_HINT)
}

impl Engines {
    /// With the files that `[devices]` names.
    ///
    /// # Errors
    /// A file that cannot be read or is no certificate, and a certificate without its key.
    pub fn of(devices: &Devices) -> anyhow::Result<Self> {
        Self::read(devices).map_err(|problem| {
            let Problem { message, hint, .. } = problem;
            anyhow!("[devices]: {message}; {hint}")
        })
    }

    fn read(devices: &Devices) -> Result<Self, Problem> {
        let own = OwnCertificate::read(devices)?;
        let authorities = authorities(devices)?;
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
    use anyhow::Context as _;
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
    anyhow::bail!("this build has no DTLS (cargo feature `dtls`), so it has no coaps")
}
