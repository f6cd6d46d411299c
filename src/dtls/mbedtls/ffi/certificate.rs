//! A peer's certificates: what is in them, and whether they are good.
//!
//! Mbed TLS checks signatures, dates, key usage and (for a client) the name. What it finds comes
//! to [`Verdict::look_at`], certificate by certificate from the authority down to the leaf, which
//! adds two rules: a pinned leaf needs no authority, and a certificate with an IP address among
//! its names is refused.

use std::marker::PhantomData;
use std::sync::Arc;

use mbedtls_rs_sys::{self as sys, mbedtls_asn1_buf, mbedtls_asn1_named_data, mbedtls_x509_crt};
use sha2::{Digest, Sha256};

use crate::dtls::{CertificateProblem, Keys};

/// The last three arcs of 2.5.4.3, the common name, in DER.
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
/// Kinds of alternative name (RFC 5280 §4.2.1.6).
const DNS_NAME: u8 = 2;
const URI: u8 = 6;
const IP_ADDRESS: u8 = 7;

/// Names that we report of one certificate.
const MOST_NAMES: usize = 32;

/// What makes a certificate good beside an authority.
pub(in super::super) enum Trust {
    /// Being known to the server's keys.
    Keys(Arc<dyn Keys>),
    /// Being this one, by the SHA-256 of its DER, and no other: an authority does not help.
    Only([u8; 32]),
    /// Nothing.
    Authority,
}

/// What was found out about the peer's chain.
#[derive(Default)]
pub(in super::super) struct Verdict {
    /// The first reason against it, and the subject of the certificate that it is about.
    pub problem: Option<(String, CertificateProblem)>,
    /// The subject of the leaf.
    pub subject: String,
    /// SHA-256 of the authority's DER. None when the leaf is pinned.
    pub authority: Option<[u8; 32]>,
}

impl Verdict {
    /// Takes the next certificate of the chain, `depth` steps above the leaf, with the flags that
    /// Mbed TLS has set for it. Returns the flags that are to stand for the whole chain so far:
    /// 0 until the leaf has been seen, whose flags are the sum of all.
    pub(super) fn look_at(
        &mut self,
        trust: &Trust,
        certificate: Certificate<'_>,
        depth: u32,
        flags: u32,
    ) -> u32 {
        let own = flags
            | if certificate.has_ip_name() {
                IP_NAME
            } else {
                0
            };
        if self.authority.is_none() && depth > 0 {
            // The first one that is shown is the authority, if it is one: else the flags say so.
            self.authority = Some(certificate.sha256());
        }
        if depth > 0 {
            self.blame(certificate, own);
            return 0;
        }
        self.subject = certificate.subject();
        let pinned = match trust {
            Trust::Keys(keys) => keys.pins(&certificate.sha256()),
            Trust::Only(pin) => certificate.sha256() == *pin,
            Trust::Authority => false,
        };
        let own = if pinned {
            // Who vouches for it, and what is wrong with them, does not matter.
            self.problem = None;
            self.authority = None;
            own & (sys::MBEDTLS_X509_BADCERT_EXPIRED
                | sys::MBEDTLS_X509_BADCERT_FUTURE
                | sys::MBEDTLS_X509_BADCERT_BAD_KEY
                | IP_NAME)
        } else if matches!(trust, Trust::Only(_)) {
            own | sys::MBEDTLS_X509_BADCERT_NOT_TRUSTED
        } else {
            // A leaf that is in the list of authorities vouches for itself.
            self.authority = self.authority.or_else(|| Some(certificate.sha256()));
            own
        };
        self.blame(certificate, own);
        match &self.problem {
            None => 0,
            // Of these Mbed TLS picks the alert.
            Some((_, CertificateProblem::Expired | CertificateProblem::Future)) => {
                sys::MBEDTLS_X509_BADCERT_EXPIRED
            }
            Some((_, CertificateProblem::Untrusted)) => sys::MBEDTLS_X509_BADCERT_NOT_TRUSTED,
            Some((_, CertificateProblem::WrongName)) => sys::MBEDTLS_X509_BADCERT_CN_MISMATCH,
            Some((_, CertificateProblem::Unacceptable)) => sys::MBEDTLS_X509_BADCERT_BAD_PK,
        }
    }

    /// Keeps the worst that is known: an authority's certificate that has expired says more than
    /// that what it signed is not trusted then.
    fn blame(&mut self, certificate: Certificate<'_>, flags: u32) {
        let Some(problem) = problem(flags) else {
            return;
        };
        let worse = |(_, known): &(_, CertificateProblem)| rank(problem) > rank(*known);
        if self.problem.as_ref().is_none_or(worse) {
            self.problem = Some((certificate.subject(), problem));
        }
    }
}

/// Ours, in the place of MBEDTLS_X509_BADCERT_OTHER ("can be used by verify callback").
const IP_NAME: u32 = sys::MBEDTLS_X509_BADCERT_OTHER;

/// What flags mean, the most telling of them.
fn problem(flags: u32) -> Option<CertificateProblem> {
    use CertificateProblem::{Expired, Future, Unacceptable, Untrusted, WrongName};
    let has = |flag: u32| flags & flag != 0;
    Some(if flags == 0 {
        return None;
    } else if has(IP_NAME) {
        Unacceptable
    } else if has(sys::MBEDTLS_X509_BADCERT_NOT_TRUSTED) {
        Untrusted
    } else if has(sys::MBEDTLS_X509_BADCERT_FUTURE) {
        Future
    } else if has(sys::MBEDTLS_X509_BADCERT_EXPIRED) {
        Expired
    } else if has(sys::MBEDTLS_X509_BADCERT_CN_MISMATCH) {
        WrongName
    } else {
        Unacceptable
    })
}

fn rank(problem: CertificateProblem) -> u8 {
    match problem {
        CertificateProblem::WrongName => 0,
        CertificateProblem::Future => 1,
        CertificateProblem::Expired => 2,
        CertificateProblem::Untrusted => 3,
        CertificateProblem::Unacceptable => 4,
    }
}

/// One parsed certificate, for as long as Mbed TLS keeps it.
#[derive(Clone, Copy)]
pub(super) struct Certificate<'a> {
    at: *const mbedtls_x509_crt,
    life: PhantomData<&'a mbedtls_x509_crt>,
}

impl<'a> Certificate<'a> {
    /// The certificate at this address; `None` for null and for an empty place in a list.
    ///
    /// # Safety
    ///
    /// `at` is null, or an initialised certificate that is not changed or freed during `'a`.
    pub(super) unsafe fn at(at: *const mbedtls_x509_crt) -> Option<Self> {
        // SAFETY: the caller's promise.
        let there = !at.is_null() && unsafe { !(*at).raw.p.is_null() };
        there.then_some(Self {
            at,
            life: PhantomData,
        })
    }

    fn get(self) -> &'a mbedtls_x509_crt {
        // SAFETY: `at` promised that it is there and unchanged for 'a.
        unsafe { &*self.at }
    }

    /// What the peer sent after it.
    pub(super) fn next(self) -> Option<Self> {
        // SAFETY: the list belongs to its first certificate and lives as long.
        unsafe { Self::at(self.get().next) }
    }

    pub(super) fn der(self) -> &'a [u8] {
        bytes(&self.get().raw)
    }

    pub(super) fn sha256(self) -> [u8; 32] {
        Sha256::digest(self.der()).into()
    }

    /// The subject's common names, then DNS names and URIs. Only those that are text through and
    /// through: what decides who somebody is must not depend on how it is decoded.
    pub(super) fn names(self) -> Vec<String> {
        let text = |name: &'a [u8]| {
            let name = std::str::from_utf8(name).ok()?;
            (!name.is_empty() && !name.chars().any(char::is_control)).then(|| name.to_owned())
        };
        let common = self.common_names().filter_map(text);
        let alternative = self
            .alternative_names()
            .filter(|(kind, _)| matches!(*kind, DNS_NAME | URI))
            .filter_map(|(_, name)| text(name));
        common.chain(alternative).take(MOST_NAMES).collect()
    }

    /// A name of the certificate for a sentence.
    fn subject(self) -> String {
        self.names().into_iter().next().unwrap_or_default()
    }

    fn has_ip_name(self) -> bool {
        self.alternative_names().any(|(kind, _)| kind == IP_ADDRESS)
    }

    fn common_names(self) -> impl Iterator<Item = &'a [u8]> {
        /// Kinds of string that are UTF-8 or a part of it (X.690: UTF8, Printable, IA5).
        const TEXT: [i32; 3] = [0x0c, 0x13, 0x16];
        let mut next: Option<&'a mbedtls_asn1_named_data> = Some(&self.get().subject);
        std::iter::from_fn(move || {
            let name = next?;
            // SAFETY: the list of a certificate's names belongs to it, ends in null, and is not
            // changed during 'a.
            next = unsafe { name.next.as_ref() };
            Some(name)
        })
        .filter(|name| bytes(&name.oid) == COMMON_NAME && TEXT.contains(&name.val.tag))
        .map(|name| bytes(&name.val))
    }

    /// The alternative names, each with its kind.
    fn alternative_names(self) -> impl Iterator<Item = (u8, &'a [u8])> {
        let mut next = Some(&self.get().subject_alt_names);
        std::iter::from_fn(move || {
            let name = next?;
            // SAFETY: as in `common_names`.
            next = unsafe { name.next.as_ref() };
            Some(&name.buf)
        })
        .filter(|buffer| !buffer.p.is_null())
        // The tag is context-specific, its low five bits are the kind.
        .map(|buffer| ((buffer.tag & 0x1f) as u8, bytes(buffer)))
    }
}

/// The bytes of a piece of DER.
fn bytes(buffer: &mbedtls_asn1_buf) -> &[u8] {
    if buffer.p.is_null() || buffer.len == 0 {
        return &[];
    }
    // SAFETY: the parser has set `p` and `len` to a part of the certificate's own copy of its DER,
    // which lives as long as the certificate, from which the reference was made.
    unsafe { std::slice::from_raw_parts(buffer.p, buffer.len) }
}
