//! TLS to the broker (RFC 8446, RFC 5246): whom we trust, who we are, and what is wrong with the
//! files that say so.
//!
//! The files are read when the configuration is loaded, to find what is wrong with them, and again
//! at each attempt to connect: renewed certificates count from the next connection on.

use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_rustls::rustls::client::ResolvesClientCert;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject as _};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, SignatureScheme};

use crate::secret::Secret;

/// The largest file that is taken for certificates or a key; the bundle of a Linux distribution has
/// some 220 kB.
const FILE_MAX: u64 = 4 << 20;

/// `[mqtt] ca_file`, `cert_file` and `key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// The authorities that may have signed the broker's certificate; those of the system if absent.
    pub ca_file: Option<PathBuf>,
    /// Our certificate, and then those that lead to its authority.
    pub cert_file: Option<PathBuf>,
    /// The private key of our certificate.
    pub key: Option<Key>,
}

/// A private key in PEM, or where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    /// The key itself.
    Literal(Secret),
    /// A file.
    File(PathBuf),
}

/// Which key of the configuration a [`Problem`] belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// `ca_file`
    Authorities,
    /// `cert_file`
    Certificate,
    /// `key`
    Key,
}

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where the configuration names it.
    pub part: Part,
    /// Whether it could not be read at all, which may be otherwise for another user of the machine.
    pub unreadable: bool,
    /// One sentence without a full stop. Nothing of a key is in it.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Problem {
    fn new(part: Part, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            part,
            unreadable: false,
            message: message.into(),
            hint: hint.into(),
        }
    }

    fn unreadable(part: Part, path: &Path, error: &io::Error) -> Self {
        Self {
            unreadable: true,
            ..Self::new(
                part,
                format!("{} cannot be read: {error}", path.display()),
                "check the path and who may read it",
            )
        }
    }
}

/// What the files hold.
struct Read {
    authorities: Option<RootCertStore>,
    ours: Option<Arc<CertifiedKey>>,
}

impl Tls {
    /// Everything that is wrong with the files and how they fit together; nothing means that a
    /// connection will not fail for their sake.
    pub fn problems(&self) -> Vec<Problem> {
        self.read().err().unwrap_or_default()
    }

    /// Reads the files, and without a `ca_file` the authorities of the system. It takes up to some
    /// hundred milliseconds.
    ///
    /// Why not is a sentence that has the remedy.
    pub(super) fn client(&self) -> Result<Client, String> {
        let Read { authorities, ours } = self.read().map_err(|problems| {
            let sentence = |problem: &Problem| format!("{}; {}", problem.message, problem.hint);
            problems.iter().map(sentence).collect::<Vec<_>>().join("; ")
        })?;
        let authorities = match authorities {
            Some(authorities) => authorities,
            None => of_the_system()?,
        };
        let identity = Arc::new(Identity {
            ours,
            asked: AtomicBool::new(false),
        });
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(authorities)
            .with_client_cert_resolver(Arc::clone(&identity) as Arc<dyn ResolvesClientCert>);
        Ok(Client {
            config: Arc::new(config),
            identity,
        })
    }

    fn read(&self) -> Result<Read, Vec<Problem>> {
        let mut problems = Vec::new();
        let authorities = self
            .ca_file
            .as_deref()
            .and_then(|path| noted(&mut problems, authorities(path)));
        let ours = match (&self.cert_file, &self.key) {
            (Some(cert_file), Some(key)) => {
                let chain = noted(&mut problems, certificates(Part::Certificate, cert_file));
                let key = noted(&mut problems, key.read());
                chain.zip(key).and_then(|(chain, key)| {
                    noted(
                        &mut problems,
                        certified(&ring::default_provider(), cert_file, chain, key),
                    )
                })
            }
            (Some(_), None) => {
                problems.push(Problem::new(
                    Part::Certificate,
                    "a certificate without its private key is no use",
                    "add `key` under [mqtt]: { file = \"PATH\" } or { credential = \"NAME\" }",
                ));
                None
            }
            (None, Some(_)) => {
                problems.push(Problem::new(
                    Part::Key,
                    "a private key without its certificate is no use",
                    "add `cert_file` under [mqtt]",
                ));
                None
            }
            (None, None) => None,
        };
        if problems.is_empty() {
            Ok(Read { authorities, ours })
        } else {
            Err(problems)
        }
    }
}

fn noted<T>(problems: &mut Vec<Problem>, result: Result<T, Problem>) -> Option<T> {
    result.map_err(|problem| problems.push(problem)).ok()
}

fn authorities(path: &Path) -> Result<RootCertStore, Problem> {
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates(Part::Authorities, path)?
        .into_iter()
        .enumerate()
    {
        store.add(certificate).map_err(|error| {
            Problem::new(
                Part::Authorities,
                format!(
                    "certificate {} of {} cannot be used: {error}",
                    index + 1,
                    path.display()
                ),
                "remove it from the file, or put the certificate of an authority in its place",
            )
        })?;
    }
    Ok(store)
}

/// The authorities that the distribution trusts. One that rustls does not understand is left out.
fn of_the_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let why = if why.is_empty() {
            String::new()
        } else {
            format!(" ({})", why.join(", "))
        };
        return Err(format!(
            "this system trusts no certificate authority{why}; install its package \
             ca-certificates, or set [mqtt] ca_file"
        ));
    }
    Ok(store)
}

fn certificates(part: Part, path: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let bytes = read_file(path).map_err(|error| Problem::unreadable(part, path, &error))?;
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Problem::new(
            part,
            format!("{shown} has no certificate in PEM"),
            if bytes.first() == Some(&0x30) {
                format!(
                    "it looks like DER; convert it: openssl x509 -inform der -in {shown} -out FILE.pem"
                )
            } else {
                "a certificate in PEM begins with -----BEGIN CERTIFICATE-----".to_owned()
            },
        )),
        Err(error) => Err(Problem::new(
            part,
            format!("{shown} is damaged: {}", pem_error(&error)),
            "a certificate in PEM is what stands from -----BEGIN CERTIFICATE----- to \
             -----END CERTIFICATE-----, both lines included",
        )),
    }
}

impl Key {
    fn read(&self) -> Result<PrivateKeyDer<'static>, Problem> {
        let (pem, name) = match self {
            Self::Literal(secret) => (secret.clone(), "the key".to_owned()),
            Self::File(path) => {
                let unreadable = |error| Problem::unreadable(Part::Key, path, &error);
                let mode = std::fs::metadata(path)
                    .map_err(unreadable)?
                    .permissions()
                    .mode();
                if mode & 0o006 != 0 {
                    return Err(Problem::new(
                        Part::Key,
                        format!(
                            "the private key {} is open to every user of this machine",
                            path.display()
                        ),
                        format!("take their rights away: chmod o= {}", path.display()),
                    ));
                }
                let bytes = read_file(path).map_err(unreadable)?;
                (Secret::new(bytes), path.display().to_string())
            }
        };
        let pem = pem.expose();
        // PKCS #8 with a passphrase has a label of its own, the older form a header.
        let locked = ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"];
        if locked.iter().any(|mark| contains(pem, mark.as_bytes())) {
            return Err(Problem::new(
                Part::Key,
                format!("{name} has a passphrase, and nobody is there to type it"),
                "take it away: openssl pkey -in KEY -out KEY.new, and let only the gateway read it",
            ));
        }
        PrivateKeyDer::from_pem_slice(pem).map_err(|error| match error {
            pem::Error::NoItemsFound => Problem::new(
                Part::Key,
                format!("{name} is no private key in PEM"),
                "a private key in PEM begins with -----BEGIN PRIVATE KEY-----",
            ),
            error => Problem::new(
                Part::Key,
                format!("{name} is damaged: {}", pem_error(&error)),
                "copy it again, both lines with ----- included",
            ),
        })
    }
}

/// The key with its certificate, if they belong together.
fn certified(
    provider: &CryptoProvider,
    cert_file: &Path,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<Arc<CertifiedKey>, Problem> {
    let shown = cert_file.display();
    CertifiedKey::from_der(chain, key, provider)
        .map(Arc::new)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => Problem::new(
                Part::Key,
                format!("the key is not that of the certificate in {shown}"),
                format!(
                    "the certificate comes first in its file, those of authorities behind it; \
                     these two print the same when they fit: openssl x509 -pubkey -noout -in \
                     {shown}, openssl pkey -pubout -in KEY"
                ),
            ),
            rustls::Error::InvalidCertificate(error) => Problem::new(
                Part::Certificate,
                format!("the first certificate in {shown} cannot be used: {error:?}"),
                "make or copy it again",
            ),
            _ => Problem::new(
                Part::Key,
                "this kind of private key cannot be used",
                "take one of ECDSA P-256 or P-384, Ed25519, or RSA from 2048 bits",
            ),
        })
}

/// Without the bytes that it is about: they may be those of a key.
fn pem_error(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the line with -----END is missing",
        pem::Error::IllegalSectionStart { .. } => "a line with -----BEGIN is cut",
        pem::Error::Base64Decode(_) => "what stands between the lines with ----- is not base64",
        _ => "it is no PEM",
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?
        .take(FILE_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// What one connection attempt uses.
pub(super) struct Client {
    pub(super) config: Arc<ClientConfig>,
    pub(super) identity: Arc<Identity>,
}

/// Who we are; notes whether the broker wanted to know.
#[derive(Debug)]
pub(super) struct Identity {
    ours: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl Identity {
    /// Whether the broker asked for our certificate.
    pub(super) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.ours.clone()
    }

    fn has_certs(&self) -> bool {
        self.ours.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_key_is_said_whatever_is_wrong_with_it() {
        let authority = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let name = format!("lwm2mqtt-tls-{}.pem", std::process::id());
        let cert_file = std::env::temp_dir().join(name);
        std::fs::write(&cert_file, authority.cert.pem()).unwrap();
        for pem in [
            "hunter2",
            "-----BEGIN PRIVATE KEY-----\nhunter2!\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nhunter2=\n",
            "-----BEGIN PRIVATE KEY\nhunter2=\n-----END PRIVATE KEY-----\n",
            "-----BEGIN PRIVATE KEY-----\nhunter2=\n-----END PRIVATE KEY-----\n",
            "-----BEGIN hunter2-----\nhunter2=\n-----END hunter2-----\n",
        ] {
            let tls = Tls {
                ca_file: None,
                cert_file: Some(cert_file.clone()),
                key: Some(Key::Literal(Secret::new(pem))),
            };
            let problems = tls.problems();
            assert_eq!(problems.len(), 1, "{pem}");
            let reason = tls.client().err().unwrap();
            let said = format!("{tls:?}{problems:?}{reason}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        std::fs::remove_file(&cert_file).unwrap();
    }
}
