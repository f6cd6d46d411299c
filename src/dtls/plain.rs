//! An engine without any cryptography: **for tests and simulations only**.
//!
//! It shakes hands as DTLS does, in real records: hello, cookie, a claimed identity, a key that
//! both ends must have, connection IDs, sequence numbers, retransmission, close_notify. But it
//! hides nothing, and what stands for a MAC is a checksum that anybody could forge who tried. So
//! no configuration can choose it: only code that constructs a [`Plain`] has one. It is public
//! because the simulations in `tests/` are crates of their own.

mod handshake;
mod session;
#[cfg(test)]
mod tests;

use std::cell::RefCell;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::dtls::plain::session::PlainSession;
use crate::dtls::{Accept, Connect, Credential, DtlsSession, Engine, Fatal, Suites};
use crate::time::Now;

/// The suite that it claims to speak unless told otherwise: TLS_PSK_WITH_AES_128_CCM_8.
pub const CCM_8: u16 = 0xc0a8;

/// A suite that passes for costly: TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8. (It asks for a PSK all the
/// same.)
pub const COSTLY: u16 = 0xc0ae;

/// Makes sessions without cryptography. See the module: for tests and simulations only.
pub struct Plain {
    suites: Vec<u16>,
    offers_cid: bool,
    rng: RefCell<StdRng>,
}

impl Plain {
    /// One that speaks [`CCM_8`]. The same seed and calls make the same sessions.
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            suites: vec![CCM_8],
            offers_cid: true,
            rng: RefCell::new(StdRng::from_seed(seed)),
        }
    }

    /// One that offers, and serves, these suites, in name.
    pub fn with_suites(mut self, suites: &[u16]) -> Self {
        self.suites = suites.to_vec();
        self
    }

    /// One whose clients offer no connection IDs, as most devices do.
    pub fn without_cid(mut self) -> Self {
        self.offers_cid = false;
        self
    }

    fn random(&self) -> [u8; 32] {
        self.rng.borrow_mut().random()
    }
}

impl Engine for Plain {
    fn accept(&self, now: Now, accept: Accept<'_>) -> Result<Box<dyn DtlsSession>, Fatal> {
        let random = self.random();
        let session = PlainSession::accept(now, accept, &self.suites, random);
        Ok(Box::new(session))
    }

    fn connect(&self, now: Now, connect: &Connect) -> Result<Box<dyn DtlsSession>, Fatal> {
        let Credential::Psk { identity, key } = &connect.credential else {
            return Err(Fatal::Unsupported("plain sessions have PSKs only".into()));
        };
        let random = self.random();
        let cid = self.offers_cid.then_some(connect.cid.as_slice());
        let session = PlainSession::connect(now, (identity, key), cid, &self.suites, random);
        Ok(Box::new(session))
    }

    fn restore(&self, _now: Now, saved: &[u8]) -> Result<Box<dyn DtlsSession>, Fatal> {
        PlainSession::restore(saved)
            .map(|session| Box::new(session) as Box<dyn DtlsSession>)
            .ok_or_else(|| Fatal::Protocol("not a plain session".into()))
    }

    fn is_costly(&self, offered: Suites<'_>) -> bool {
        offered.iter().any(|suite| suite == COSTLY)
    }
}
