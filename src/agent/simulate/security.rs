//! Who the simulated devices are: keys and certificates of the command line.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::dtls::{Connect, Credential, LONGEST_PSK, ServerTrust};
use crate::secret::Secret;
use crate::server::credentials::key_of_hex;

/// What a `coaps` server needs to know of the devices.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Security, for coaps://")]
pub struct Credentials {
    /// PSK identity; {endpoint} stands for each device's endpoint name [default: {endpoint}]
    #[arg(long, value_name = "IDENTITY")]
    pub psk_identity: Option<String>,

    /// The pre-shared key of all devices, in hexadecimal. It can be seen in `ps` and stays in the
    /// shell's history
    #[arg(long, value_name = "HEX", conflicts_with_all = ["psk_key_file", "cert"])]
    pub psk_key: Option<String>,

    /// A file with that key, in hexadecimal
    #[arg(long, value_name = "FILE", conflicts_with = "cert")]
    pub psk_key_file: Option<PathBuf>,

    /// The devices' certificate, PEM, with what stands between it and its authority
    #[arg(long, value_name = "FILE", requires = "key", requires = "ca")]
    pub cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// The authorities that may vouch for the server, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub ca: Option<PathBuf>,

    /// The name that the server's certificate has to carry [default: the host of --server]
    #[arg(long, value_name = "NAME", requires = "cert")]
    pub server_name: Option<String>,

    /// Ask the server to send a connection ID, too (RFC 9146); ours is always offered to it
    #[arg(long)]
    pub cid: bool,
}

/// How the devices secure what they send.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Security {
    credential: Kind,
    cid: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Psk { identity: String, key: Secret },
    X509(Credential),
}

impl Credentials {
    /// Reads what the arguments name. `None` for a server without security.
    ///
    /// # Errors
    /// A file that cannot be read, a key that is none, and arguments that do not fit the server.
    pub(in crate::agent) fn load(
        &self,
        secure: bool,
        host: &str,
    ) -> anyhow::Result<Option<Security>> {
        let key = self.psk()?;
        if !secure {
            ensure!(
                key.is_none() && self.cert.is_none(),
                "a key or certificate needs a coaps:// server"
            );
            return Ok(None);
        }
        let credential = match (key, &self.cert, &self.key, &self.ca) {
            (Some(key), ..) => Kind::Psk {
                identity: self
                    .psk_identity
                    .clone()
                    .unwrap_or_else(|| "{endpoint}".to_owned()),
                key,
            },
            (None, Some(cert), Some(key), Some(ca)) => Kind::X509(Credential::X509 {
                chain: read(cert)?,
                key: Secret::new(read(key)?),
                server: ServerTrust::Authorities {
                    certificates: read(ca)?,
                    name: self.server_name.clone().unwrap_or_else(|| host.to_owned()),
                },
            }),
            _ => bail!(
                "a coaps:// server needs to know the devices: give --psk-key-file FILE (or --psk-key HEX), \
                 or --cert, --key and --ca"
            ),
        };
        Ok(Some(Security {
            credential,
            cid: self.cid,
        }))
    }

    fn psk(&self) -> anyhow::Result<Option<Secret>> {
        let text = match (&self.psk_key, &self.psk_key_file) {
            (Some(text), _) => text.clone(),
            (None, Some(file)) => std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?,
            (None, None) => return Ok(None),
        };
        let key = key_of_hex(text.as_bytes())
            .context("a key is written in hexadecimal, an even number of digits")?;
        ensure!(
            (1..=LONGEST_PSK).contains(&key.expose().len()),
            "a key has 1 to {LONGEST_PSK} bytes"
        );
        Ok(Some(key))
    }
}

impl Security {
    /// What the session of one device begins with.
    pub(in crate::agent) fn connect(&self, endpoint: &str, cid: [u8; 8]) -> Connect {
        let credential = match &self.credential {
            Kind::Psk { identity, key } => Credential::Psk {
                identity: identity.replace("{endpoint}", endpoint).into_bytes(),
                key: key.clone(),
            },
            Kind::X509(credential) => credential.clone(),
        };
        Connect {
            credential,
            cid: if self.cid { cid.to_vec() } else { Vec::new() },
        }
    }
}

fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_has_the_identity_that_its_endpoint_name_makes() {
        let args = Credentials {
            psk_key: Some("00112233445566778899aabbccddeeff".into()),
            psk_identity: Some("id-{endpoint}".into()),
            ..Credentials::default()
        };
        let security = args.load(true, "localhost").unwrap().unwrap();
        let Credential::Psk { identity, key } = security.connect("sim-3", [0; 8]).credential else {
            panic!("no PSK");
        };
        assert_eq!(identity, b"id-sim-3");
        assert_eq!(key.expose()[..3], [0x00, 0x11, 0x22]);
    }

    #[test]
    fn what_does_not_fit_the_server_is_said() {
        let psk = Credentials {
            psk_key: Some("0011".into()),
            ..Credentials::default()
        };
        assert!(psk.load(false, "h").is_err());
        assert!(Credentials::default().load(true, "h").is_err());
        assert!(Credentials::default().load(false, "h").unwrap().is_none());
        let odd = Credentials {
            psk_key: Some("001".into()),
            ..Credentials::default()
        };
        assert!(odd.load(true, "h").is_err());
    }
}
