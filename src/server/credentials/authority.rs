//! Authorities that vouch for many devices, and how a certificate says which endpoint it is for.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::record::Origin;
use crate::name_pattern::glob_matches;

/// The largest certificate that is taken, in bytes of DER.
const CERTIFICATE_MAX: usize = 16 * 1024;

/// A certificate authority whose devices may come in without a record of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// Its certificate, DER.
    pub certificate: Arc<[u8]>,
    /// The SHA-256 of that.
    pub sha256: [u8; 32],
    /// Which name of a device's certificate is its endpoint.
    pub rule: Rule,
    /// Only certificates that have a name of this form, with `*` and `?`; `None` is any.
    pub subject: Option<String>,
    /// Where it comes from.
    pub origin: Origin,
}

impl Authority {
    /// An authority that vouches for every certificate, the endpoint being any name in it.
    pub fn new(certificate: impl Into<Arc<[u8]>>, origin: Origin) -> Self {
        let certificate = certificate.into();
        Self {
            sha256: fingerprint(&certificate),
            certificate,
            rule: Rule::AnyName,
            subject: None,
            origin,
        }
    }

    /// Whether a certificate with these names, of which the first is the common name, may be
    /// `endpoint`.
    pub fn vouches(&self, names: &[String], endpoint: &str) -> bool {
        self.covers(names)
            && self
                .rule
                .endpoints(names)
                .any(|allowed| allowed == endpoint)
    }

    /// Whether a certificate with these names is of the form that this authority may vouch for.
    pub fn covers(&self, names: &[String]) -> bool {
        let fits = |glob: &String| names.iter().any(|name| glob_matches(glob, name));
        self.subject.as_ref().is_none_or(fits)
    }
}

/// Which name of a certificate is the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The common name, or any alternative name.
    AnyName,
    /// The common name with text before and behind it.
    CommonName(String, String),
    /// Any alternative name (DNS name or URI) with text before and behind it.
    AlternativeName(String, String),
}

impl Rule {
    /// Reads `"{cn}"` or `"{san}"`, with text around it or not. `None` when it is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let around = |placeholder| {
            let (before, behind) = text.split_once(placeholder)?;
            let plain = |text: &str| !text.contains(['{', '}']);
            (plain(before) && plain(behind)).then(|| (before.to_owned(), behind.to_owned()))
        };
        around("{cn}")
            .map(|(before, behind)| Self::CommonName(before, behind))
            .or_else(|| {
                around("{san}").map(|(before, behind)| Self::AlternativeName(before, behind))
            })
    }

    /// The endpoints that a certificate with these names may be.
    pub fn endpoints<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let (names, before, behind) = match self {
            Self::AnyName => (names, "", ""),
            Self::CommonName(before, behind) => (
                names.get(..1).unwrap_or_default(),
                before.as_str(),
                behind.as_str(),
            ),
            Self::AlternativeName(before, behind) => (
                names.get(1..).unwrap_or_default(),
                before.as_str(),
                behind.as_str(),
            ),
        };
        names
            .iter()
            .map(move |name| format!("{before}{name}{behind}"))
    }
}

/// The SHA-256 of a certificate's DER: what a record keeps of it.
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// The certificates of a file, DER each: PEM blocks (RFC 7468), or one DER.
///
/// # Errors
///
/// What the content is not, in words that follow the file's name.
pub fn certificates(content: &[u8]) -> Result<Vec<Vec<u8>>, &'static str> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let found = match std::str::from_utf8(content) {
        Ok(text) if text.contains("-----BEGIN ") => text
            .split(BEGIN)
            .skip(1)
            .map(|block| {
                let body: String = block
                    .split_once(END)
                    .ok_or("has a certificate without an end")?
                    .0
                    .split_whitespace()
                    .collect();
                STANDARD
                    .decode(body)
                    .map_err(|_| "has a certificate that is not base64")
            })
            .collect::<Result<Vec<_>, _>>()?,
        _ => vec![content.to_owned()],
    };
    if found.is_empty() {
        return Err("has no certificate");
    }
    if found.iter().all(|der| is_certificate(der)) {
        Ok(found)
    } else {
        Err("is no certificate, neither PEM nor DER")
    }
}

/// Whether it is one DER SEQUENCE and nothing behind it (X.690 §8.1), of which the first element is
/// a SEQUENCE too. What is in it, the DTLS engine judges.
fn is_certificate(der: &[u8]) -> bool {
    let body = match der {
        [0x30, 0x82, high, low, body @ ..] => (usize::from(*high) << 8 | usize::from(*low), body),
        [0x30, 0x81, length, body @ ..] => (usize::from(*length), body),
        _ => return false,
    };
    der.len() <= CERTIFICATE_MAX && body.0 == body.1.len() && body.1.first() == Some(&0x30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_endpoint_is_the_name_that_the_rule_says() {
        let certificate = names(&["dev7", "dev7.example", "urn:dev:os:7"]);
        let mut authority = Authority::new(*b"der", Origin::Store);
        for (rule, endpoint, allowed) in [
            (None, "dev7", true),
            (None, "urn:dev:os:7", true),
            (None, "dev8", false),
            (Some("{cn}"), "dev7", true),
            (Some("{cn}"), "dev7.example", false),
            (Some("urn:dev:{cn}"), "urn:dev:dev7", true),
            (Some("{san}"), "dev7", false),
            (Some("{san}"), "urn:dev:os:7", true),
        ] {
            authority.rule = rule.map_or(Rule::AnyName, |rule| Rule::parse(rule).unwrap());
            assert_eq!(
                authority.vouches(&certificate, endpoint),
                allowed,
                "{rule:?} {endpoint}"
            );
        }
        assert_eq!(Rule::parse("dev7"), None);
        assert_eq!(Rule::parse("{cn}{san}"), None);
    }

    #[test]
    fn an_authority_vouches_for_certificates_of_its_form_only() {
        let authority = Authority {
            subject: Some("*.meters.example".to_owned()),
            ..Authority::new(*b"der", Origin::Store)
        };
        assert!(authority.vouches(&names(&["m1", "m1.meters.example"]), "m1"));
        assert!(!authority.vouches(&names(&["m1", "m1.example"]), "m1"));
        assert!(!authority.vouches(&[], ""));
    }

    #[test]
    fn certificates_come_as_pem_or_der() {
        let der = [&[0x30, 0x81, 0x82, 0x30, 0x81, 0x7f][..], &[0x05; 0x7f]].concat();
        assert_eq!(certificates(&der), Ok(vec![der.clone()]));
        let pem = format!(
            "subject=x\n-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD.encode(&der)
        );
        let two = format!("{pem}{pem}");
        assert_eq!(
            certificates(two.as_bytes()),
            Ok(vec![der.clone(), der.clone()])
        );
        for (bad, why) in [
            (&b"hello"[..], "is no certificate, neither PEM nor DER"),
            (&der[..9], "is no certificate, neither PEM nor DER"),
            (b"-----BEGIN PRIVATE KEY-----", "has no certificate"),
            (
                b"-----BEGIN CERTIFICATE-----\nAAAA",
                "has a certificate without an end",
            ),
            (
                b"-----BEGIN CERTIFICATE-----\n*\n-----END CERTIFICATE-----",
                "has a certificate that is not base64",
            ),
        ] {
            assert_eq!(certificates(bad), Err(why));
        }
    }
}
