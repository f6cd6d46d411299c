//! Which suites are spoken (RFC 7252 §9, RFC 7925 §4, LwM2M Transport 1.1 §5.2.8).

use crate::dtls::{Suites, suite_name};

/// Pre-shared keys: the mandatory one first.
pub(super) const PSK: [u16; 5] = [0xc0a8, 0xc0a4, 0x00a8, 0x00ae, 0xc037];
/// Certificates on both ends: the mandatory one first.
pub(super) const ECDSA: [u16; 3] = [0xc0ae, 0xc02b, 0xc023];
/// All of them. Pre-shared keys come first: a client that offers both is served sooner.
pub(super) const BOTH: [u16; 8] = [
    0xc0a8, 0xc0a4, 0x00a8, 0x00ae, 0xc037, 0xc0ae, 0xc02b, 0xc023,
];

/// What a server speaks.
pub(super) fn served(certificate: bool) -> &'static [u16] {
    if certificate { &BOTH } else { &PSK }
}

/// Whether a handshake may need a key agreement or a signature.
pub(super) fn is_costly(served: &[u16], offered: Suites<'_>) -> bool {
    offered
        .iter()
        .any(|suite| served.contains(&suite) && !is_plain_psk(suite))
}

/// Whether nothing but hashes and block ciphers is needed.
fn is_plain_psk(suite: u16) -> bool {
    matches!(suite, 0xc0a8 | 0xc0a4 | 0x00a8 | 0x00ae)
}

/// The name of an agreed suite.
pub(super) fn name(suite: u16) -> &'static str {
    suite_name(suite).unwrap_or_default()
}

/// The suites that a ClientHello offers, if the datagram begins with a whole one; to say what was
/// missing.
pub(super) fn offered(datagram: &[u8]) -> Vec<u16> {
    fn skip(bytes: &[u8], length: usize) -> Option<&[u8]> {
        bytes.get(length..)
    }
    fn parse(datagram: &[u8]) -> Option<Vec<u16>> {
        const HANDSHAKE: u8 = 22;
        const CLIENT_HELLO: u8 = 1;
        let message = (*datagram.first()? == HANDSHAKE).then(|| skip(datagram, 13))??;
        let body = (*message.first()? == CLIENT_HELLO).then(|| skip(message, 12))??;
        // Version and random, session id, cookie.
        let rest = skip(body, 34)?;
        let rest = skip(rest, 1 + usize::from(*rest.first()?))?;
        let rest = skip(rest, 1 + usize::from(*rest.first()?))?;
        let length = u16::from_be_bytes(*rest.first_chunk()?);
        let suites = skip(rest, 2)?.get(..length.into())?;
        Some(Suites(suites).iter().collect())
    }
    parse(datagram).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suite_that_is_spoken_has_a_name() {
        for suite in BOTH {
            assert!(suite_name(suite).is_some(), "{suite:#x}");
        }
        assert_eq!([&PSK[..], &ECDSA[..]].concat(), BOTH);
    }

    #[test]
    fn a_handshake_is_costly_when_any_suite_that_we_would_take_is() {
        let costly = |served: &[u16], offered: &[u8]| is_costly(served, Suites(offered));
        assert!(!costly(&BOTH, &[0xc0, 0xa8, 0x00, 0xff]));
        assert!(costly(&BOTH, &[0xc0, 0xa8, 0xc0, 0xae]));
        // Without a certificate of our own it will not come to that.
        assert!(!costly(&PSK, &[0xc0, 0xa8, 0xc0, 0xae]));
        assert!(costly(&PSK, &[0xc0, 0x37]));
        // Nothing in common: a quick end.
        assert!(!costly(&BOTH, &[0xc0, 0x30]));
    }

    #[test]
    fn a_hello_that_is_cut_anywhere_offers_nothing() {
        let mut hello = vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60];
        hello.extend([1, 0, 0, 48, 0, 0, 0, 0, 0, 0, 0, 48]);
        hello.extend([0; 34]);
        hello.extend([1, 7, 2, 8, 9, 0, 4, 0xc0, 0xa8, 0x00, 0xff]);
        assert_eq!(offered(&hello), [0xc0a8, 0x00ff]);
        for end in 0..hello.len() {
            assert_eq!(offered(&hello[..end]), [0u16; 0], "{end}");
        }
    }
}
