//! Certificates for tests, made anew each time.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};
use sha2::{Digest, Sha256};

use super::program::dtls::{Connect, Credential, ServerTrust};
use super::program::secret::Secret;

/// One who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
}

/// What a certificate is to say.
pub struct Wish<'a> {
    pub name: &'a str,
    pub dns: &'a [&'a str],
    pub uri: Option<&'a str>,
    pub ip: bool,
    /// First and last year.
    pub years: (i32, i32),
    /// An authority of its own.
    pub authority: bool,
}

impl<'a> Wish<'a> {
    pub fn named(name: &'a str) -> Self {
        Self {
            name,
            dns: &[],
            uri: None,
            ip: false,
            years: (2020, 2060),
            authority: false,
        }
    }

    fn params(&self) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, self.name);
        let dns = self.dns.iter();
        params.subject_alt_names = dns
            .map(|name| SanType::DnsName((*name).try_into().unwrap()))
            .chain(self.uri.map(|uri| SanType::URI(uri.try_into().unwrap())))
            .chain(self.ip.then(|| SanType::IpAddress([192, 0, 2, 1].into())))
            .collect();
        params.not_before = date_time_ymd(self.years.0, 1, 1);
        params.not_after = date_time_ymd(self.years.1, 12, 31);
        if self.authority {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }
}

/// A certificate and its key.
pub struct Papers {
    pub der: Vec<u8>,
    pub pem: String,
    pub key: Secret,
}

impl Papers {
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    pub fn own(&self) -> (Vec<u8>, Secret) {
        (self.pem.clone().into_bytes(), self.key.clone())
    }

    /// A client with these papers.
    pub fn client(&self, server: ServerTrust) -> Connect {
        Connect {
            credential: Credential::X509 {
                chain: self.der.clone(),
                key: self.key.clone(),
                server,
            },
            cid: Vec::new(),
        }
    }
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::for_years(name, (2020, 2060))
    }

    pub fn for_years(name: &str, years: (i32, i32)) -> Self {
        let params = Wish {
            authority: true,
            years,
            ..Wish::named(name)
        }
        .params();
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        Self {
            issuer: Issuer::new(params, key),
            der,
        }
    }

    /// An authority below this one, and the PEM of its certificate.
    pub fn below(&self, name: &str) -> (Self, String) {
        let wish = Wish {
            authority: true,
            ..Wish::named(name)
        };
        let key = KeyPair::generate().unwrap();
        let certificate = wish.params().signed_by(&key, &self.issuer).unwrap();
        let below = Self {
            issuer: Issuer::new(wish.params(), key),
            der: certificate.der().to_vec(),
        };
        (below, certificate.pem())
    }

    pub fn certify(&self, wish: &Wish<'_>) -> Papers {
        let key = KeyPair::generate().unwrap();
        let certificate = wish.params().signed_by(&key, &self.issuer).unwrap();
        Papers {
            der: certificate.der().to_vec(),
            pem: certificate.pem(),
            key: Secret::new(key.serialize_pem()),
        }
    }

    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.der).into()
    }

    /// What a client trusts that trusts this authority and wants this name.
    pub fn vouches(&self, name: &str) -> ServerTrust {
        ServerTrust::Authorities {
            certificates: self.der.clone(),
            name: name.to_owned(),
        }
    }
}

/// A certificate that nobody but itself vouches for.
pub fn self_signed(wish: &Wish<'_>) -> Papers {
    let key = KeyPair::generate().unwrap();
    let certificate = wish.params().self_signed(&key).unwrap();
    Papers {
        der: certificate.der().to_vec(),
        pem: certificate.pem(),
        key: Secret::new(key.serialize_pem()),
    }
}
