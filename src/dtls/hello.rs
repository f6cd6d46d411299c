//! What stands before any session: the ClientHello, and the cookie that proves that whoever sent
//! it gets what is sent to its address (RFC 6347 §4.2.1).
//!
//! Nothing here remembers anybody. Until a cookie comes back, a client costs one HMAC and one
//! datagram, which is smaller than its own.

use std::net::IpAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use rand::RngExt;
use rand::rngs::StdRng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::dtls::Suites;
use crate::dtls::record::{Reader, Record, content};
use crate::route::Route;
use crate::time::Instant;

/// Length of a cookie. DTLS 1.0 clients take up to 32 bytes.
pub(crate) const COOKIE_LENGTH: usize = 20;

/// A cookie of ours.
pub(crate) type Cookie = [u8; COOKIE_LENGTH];

/// Part of a cookie: enough to tell a hello that comes again from another one. A cookie is checked
/// before it is compared by this, so nobody can choose one that is the same.
pub(crate) type CookieMark = std::num::NonZeroU64;

/// The mark of a cookie.
pub(crate) fn mark(cookie: &Cookie) -> Option<CookieMark> {
    let number = Reader(cookie).uint(8)?;
    CookieMark::new(number)
}

/// Longest ClientHello that is looked at, in bytes.
const LONGEST: usize = 2048;

/// `HandshakeType` of a ClientHello.
pub(crate) const CLIENT_HELLO: u8 = 1;
/// `HandshakeType` of a HelloVerifyRequest.
pub(crate) const HELLO_VERIFY_REQUEST: u8 = 3;

/// A ClientHello, whole in one record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientHello<'a> {
    record_number: u64,
    message_seq: u16,
    /// `client_version`.
    pub(crate) version: u16,
    /// `random`.
    pub(crate) random: [u8; 32],
    /// Version, random and session ID, as they stand there.
    before: &'a [u8],
    /// What proves the address; empty in a client's first hello.
    pub(crate) cookie: &'a [u8],
    /// Suites and compression methods.
    after: &'a [u8],
    /// The suites that it offers.
    pub(crate) suites: Suites<'a>,
    /// The extensions, each as type, length and content.
    pub(crate) extensions: &'a [u8],
}

/// Whether a record holds (the beginning of) a ClientHello.
pub(crate) fn is_client_hello(record: &Record<'_>) -> bool {
    record.content == content::HANDSHAKE
        && record.epoch() == 0
        && record.fragment.first() == Some(&CLIENT_HELLO)
}

impl<'a> ClientHello<'a> {
    /// Reads a hello. `None` when it is malformed, longer than 2048 bytes, or comes in fragments:
    /// to put these together would be to allocate for a stranger.
    pub(crate) fn parse(record: &Record<'a>) -> Option<Self> {
        if !is_client_hello(record) || record.fragment.len() > LONGEST {
            return None;
        }
        let mut message = Reader(record.fragment);
        message.take(1)?;
        let length = message.uint(3)?;
        let message_seq = message.uint(2)? as u16;
        let (offset, fragment_length) = (message.uint(3)?, message.uint(3)?);
        let body = message.0;
        if offset != 0 || fragment_length != length || length != body.len() as u64 {
            return None;
        }

        let mut rest = Reader(body);
        let version = rest.uint(2)? as u16;
        let random = rest.array()?;
        if rest.vector(1)?.len() > 32 {
            return None;
        }
        let before = body.get(..body.len() - rest.0.len())?;
        let cookie = rest.vector(1)?;
        let parameters = rest.0;
        let suites = rest.vector(2)?;
        let compression = rest.vector(1)?;
        if suites.is_empty() || suites.len() % 2 != 0 || compression.is_empty() {
            return None;
        }
        let after = parameters.get(..parameters.len() - rest.0.len())?;
        // A hello may end here; what follows are extensions and nothing else.
        let extensions = match rest.0 {
            [] => rest.0,
            _ => rest.vector(2)?,
        };
        if !rest.0.is_empty() {
            return None;
        }
        Some(Self {
            record_number: record.number,
            message_seq,
            version,
            random,
            before,
            cookie,
            after,
            suites: Suites(suites),
            extensions,
        })
    }
}

/// Makes cookies and knows them again.
pub(crate) struct Cookies {
    current: Hmac<Sha256>,
    previous: Hmac<Sha256>,
    since: Instant,
    period: Duration,
}

impl Cookies {
    /// Cookies under a secret that is replaced every `period`; one made under the secret before is
    /// still good.
    pub(crate) fn new(period: Duration, rng: &mut StdRng) -> Self {
        Self {
            current: secret(rng),
            previous: secret(rng),
            since: Instant::ZERO,
            period,
        }
    }

    /// Replaces secrets whose time is over. To be called before cookies are made or checked.
    pub(crate) fn rotate(&mut self, now: Instant, rng: &mut StdRng) {
        let age = now.since(self.since);
        if age < self.period {
            return;
        }
        let next = secret(rng);
        let last = std::mem::replace(&mut self.current, next);
        // After a quiet time the last secret is as old as the one before it.
        self.previous = if age < self.period * 2 {
            last
        } else {
            secret(rng)
        };
        self.since = now;
    }

    /// The cookie for this hello from there.
    pub(crate) fn make(&self, route: Route, hello: &ClientHello<'_>) -> Cookie {
        let whole = bind(&self.current, route, hello).finalize().into_bytes();
        let mut cookie = [0; COOKIE_LENGTH];
        cookie
            .iter_mut()
            .zip(whole)
            .for_each(|(to, byte)| *to = byte);
        cookie
    }

    /// The cookie of this hello, if we made it for this very hello from there. Takes the same time
    /// whatever the cookie.
    pub(crate) fn prove(&self, route: Route, hello: &ClientHello<'_>) -> Option<Cookie> {
        let cookie = Cookie::try_from(hello.cookie).ok()?;
        let by_current = bind(&self.current, route, hello).verify_truncated_left(&cookie);
        let by_previous = bind(&self.previous, route, hello).verify_truncated_left(&cookie);
        (by_current.is_ok() | by_previous.is_ok()).then_some(cookie)
    }
}

/// A keyed HMAC with a secret of its own.
fn secret(rng: &mut StdRng) -> Hmac<Sha256> {
    let mut key = Zeroizing::new([0; 64]);
    rng.fill(key.as_mut_slice());
    Hmac::new((&*key).into())
}

/// The HMAC over where a hello comes from and the parameters that a client has to repeat (RFC 6347
/// §4.2.1: version, random, session_id, cipher_suites, compression_method). Extensions are not
/// among them: a client may change those.
fn bind(secret: &Hmac<Sha256>, route: Route, hello: &ClientHello<'_>) -> Hmac<Sha256> {
    let address = match route.address.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let mut mac = secret.clone();
    mac.update(&route.listener.to_be_bytes());
    mac.update(&address.octets());
    mac.update(&route.address.port().to_be_bytes());
    mac.update(hello.before);
    mac.update(hello.after);
    mac
}

/// The HelloVerifyRequest that answers a hello without (good) cookie. It repeats the hello's
/// numbers, because there is no state to count with (RFC 6347 §4.2.1), and is smaller than any
/// hello that can be parsed.
pub(crate) fn verify_request(hello: &ClientHello<'_>, cookie: &Cookie) -> Vec<u8> {
    const BODY: u8 = 3 + COOKIE_LENGTH as u8;
    let mut bytes = Vec::with_capacity(13 + 12 + usize::from(BODY));
    bytes.extend([content::HANDSHAKE, 0xfe, 0xff]);
    bytes.extend(hello.record_number.to_be_bytes());
    bytes.extend([0, 12 + BODY]);
    bytes.extend([HELLO_VERIFY_REQUEST, 0, 0, BODY]);
    bytes.extend(hello.message_seq.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, BODY]);
    // DTLS 1.0, whatever is agreed on later (RFC 6347 §4.2.1).
    bytes.extend([0xfe, 0xff, COOKIE_LENGTH as u8]);
    bytes.extend(cookie);
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;
    use crate::dtls::record::records;

    fn route(port: u16) -> Route {
        Route {
            listener: 1,
            address: ([192, 0, 2, 1], port).into(),
        }
    }

    /// The smallest hello there is: one suite, no extension.
    fn hello(cookie: &[u8]) -> Vec<u8> {
        let mut body = vec![0xfe, 0xfd];
        body.extend([7; 32]);
        body.push(0);
        body.push(cookie.len() as u8);
        body.extend(cookie);
        body.extend([0, 2, 0xc0, 0xa8, 1, 0]);
        framed(&body)
    }

    fn framed(body: &[u8]) -> Vec<u8> {
        let length = body.len() as u8;
        let mut bytes = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 5, 0, 12 + length];
        bytes.extend([1, 0, 0, length, 0, 3, 0, 0, 0, 0, 0, length]);
        bytes.extend(body);
        bytes
    }

    fn parse(datagram: &[u8]) -> Option<ClientHello<'_>> {
        ClientHello::parse(&records(datagram).next()?)
    }

    fn cookies() -> (Cookies, StdRng) {
        let mut rng = StdRng::from_seed([3; 32]);
        (Cookies::new(Duration::from_secs(120), &mut rng), rng)
    }

    #[test]
    fn a_cookie_proves_one_hello_from_one_address_on_one_listener() {
        let (cookies, _) = cookies();
        let first = hello(&[]);
        let first = parse(&first).unwrap();
        assert!(cookies.prove(route(1), &first).is_none());

        let cookie = cookies.make(route(1), &first);
        let second = hello(&cookie);
        assert!(cookies.prove(route(1), &parse(&second).unwrap()).is_some());
        assert!(cookies.prove(route(2), &parse(&second).unwrap()).is_none());
        let elsewhere = Route {
            listener: 2,
            ..route(1)
        };
        assert!(cookies.prove(elsewhere, &parse(&second).unwrap()).is_none());

        for at in 25..second.len() {
            let mut changed = second.clone();
            changed[at] ^= 1;
            if let Some(hello) = parse(&changed) {
                assert!(cookies.prove(route(1), &hello).is_none(), "byte {at}");
            }
        }
        let cut = hello(&cookie[..COOKIE_LENGTH - 1]);
        assert!(cookies.prove(route(1), &parse(&cut).unwrap()).is_none());
    }

    #[test]
    fn extensions_may_change_between_the_hellos() {
        let (cookies, _) = cookies();
        let plain = hello(&[]);
        let cookie = cookies.make(route(1), &parse(&plain).unwrap());
        let mut body = hello(&cookie)[25..].to_vec();
        body.extend([0, 4, 0, 23, 0, 0]);
        let second = framed(&body);
        assert!(cookies.prove(route(1), &parse(&second).unwrap()).is_some());
    }

    #[test]
    fn a_cookie_outlives_one_rotation_of_the_secret_and_not_two() {
        let (mut cookies, mut rng) = cookies();
        let first = hello(&[]);
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        cookies.rotate(at(119), &mut rng);
        let second = hello(&cookies.make(route(1), &parse(&first).unwrap()));
        let second = parse(&second).unwrap();
        cookies.rotate(at(121), &mut rng);
        assert!(cookies.prove(route(1), &second).is_some());
        cookies.rotate(at(240), &mut rng);
        assert!(cookies.prove(route(1), &second).is_some());
        cookies.rotate(at(241), &mut rng);
        assert!(cookies.prove(route(1), &second).is_none());
    }

    #[test]
    fn after_a_quiet_time_no_old_cookie_is_good() {
        let (mut cookies, mut rng) = cookies();
        let first = hello(&[]);
        let second = hello(&cookies.make(route(1), &parse(&first).unwrap()));
        cookies.rotate(Instant::from_micros(3_600_000_000), &mut rng);
        assert!(cookies.prove(route(1), &parse(&second).unwrap()).is_none());
    }

    #[test]
    fn the_verify_request_repeats_the_hellos_numbers_and_is_smaller_than_the_least_hello() {
        let (cookies, _) = cookies();
        let first = hello(&[]);
        let parsed = parse(&first).unwrap();
        let request = verify_request(&parsed, &cookies.make(route(1), &parsed));
        assert!(request.len() < first.len());
        let record = records(&request).next().unwrap();
        assert_eq!(record.number, 5);
        assert_eq!(record.whole.len(), request.len());
        assert_eq!(record.fragment[..6], [3, 0, 0, 23, 0, 3]);
        assert_eq!(record.fragment.len(), 12 + 23);
    }

    #[test]
    fn a_hello_in_fragments_or_cut_short_or_with_more_behind_it_is_none() {
        let whole = hello(&[1; 20]);
        assert!(parse(&whole).is_some());
        for length in 0..whole.len() {
            assert!(parse(&whole[..length]).is_none());
            // Also when the record's own length is right.
            if let Some(fragment) = length.checked_sub(13) {
                let mut cut = whole[..length].to_vec();
                cut[12] = fragment as u8;
                assert!(parse(&cut).is_none(), "{length} bytes");
            }
        }
        let mut offset = whole.clone();
        offset[21] = 1;
        assert!(parse(&offset).is_none());
        let mut body = whole[25..].to_vec();
        body.extend([0, 0, 9]);
        assert!(parse(&framed(&body)).is_none());
    }

    #[test]
    fn an_oversized_hello_is_none() {
        let mut body = hello(&[])[25..].to_vec();
        let extensions = LONGEST;
        body.extend((extensions as u16).to_be_bytes());
        body.resize(body.len() + extensions, 0);
        let length = (body.len() as u32).to_be_bytes();
        let mut bytes = vec![22, 0xfe, 0xff, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend((body.len() as u16 + 12).to_be_bytes());
        bytes.push(1);
        bytes.extend(&length[1..]);
        bytes.extend([0; 5]);
        bytes.extend(&length[1..]);
        bytes.extend(body);
        assert_eq!(records(&bytes).count(), 1);
        assert!(parse(&bytes).is_none());
    }
}
