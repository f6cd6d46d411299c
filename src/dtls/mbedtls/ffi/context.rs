//! One session.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::raw::{c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use mbedtls_rs_sys::{self as sys, mbedtls_ssl_context};

use super::certificate::{Certificate, Trust, Verdict};
use super::config::{Config, Role};
use super::{Object, callbacks, clock, words};
use crate::dtls::{Keys, PeerIdentity};
use crate::secret::Secret;
use crate::time::{Instant, Now};

/// The largest datagram of a handshake. IPv6 carries 1280 bytes everywhere; the rest is for its
/// header, UDP's, and a tunnel's.
const HANDSHAKE_MTU: u16 = 1200;
/// Attempts to read when what was read was empty: more than a handshake can have kept back.
const MOST_RECORDS: usize = 128;

/// What comes out of a session, in order.
pub(in super::super) enum Item {
    Send(Vec<u8>),
    App(Vec<u8>),
    Established(Box<PeerIdentity>),
    Closed,
}

/// Who a server's peer says it is by its PSK identity.
pub(in super::super) enum PskPeer {
    Known(Vec<u8>),
    Unknown(Vec<u8>),
    /// We have a key for it that Mbed TLS does not take.
    Unusable {
        identity: Vec<u8>,
        length: usize,
    },
}

/// What a session needs while its handshake runs, and not after.
pub(in super::super) struct Opening {
    pub trust: Trust,
    pub verdict: Verdict,
    pub psk: Option<PskPeer>,
}

impl Opening {
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            verdict: Verdict::default(),
            psk: None,
        }
    }

    pub(super) fn keys(&self) -> Option<Arc<dyn Keys>> {
        match &self.trust {
            Trust::Keys(keys) => Some(keys.clone()),
            Trust::Only(_) | Trust::Authority => None,
        }
    }
}

/// The outside of a session, as its callbacks see it.
pub(super) struct Io {
    /// The record that is being fed, or null once it was taken. Valid only inside [`Context::feeding`].
    pub input: *const u8,
    pub input_length: usize,
    pub out: VecDeque<Item>,
    pub now: Instant,
    pub intermediate: Option<Instant>,
    pub deadline: Option<Instant>,
    pub opening: Option<Box<Opening>>,
}

/// What a step of a handshake came to.
pub(in super::super) enum Step {
    Done,
    More,
    Failed(Failure),
}

/// What reading came to.
pub(in super::super) enum Read {
    Nothing,
    Closed,
    Failed(Failure),
}

/// What Mbed TLS says when it gives up.
pub(in super::super) struct Failure {
    pub code: c_int,
    /// Where the handshake was, `mbedtls_ssl_states`.
    pub state: c_int,
    /// The peer's alert, if it was one.
    pub alert: Option<u8>,
}

impl Failure {
    pub fn words(&self) -> String {
        words(self.code)
    }
}

/// The [`Io`] of a context, at an address that does not change.
struct IoPlace(NonNull<Io>);

impl Drop for IoPlace {
    fn drop(&mut self) {
        // SAFETY: it came out of a box in `Context::new`, and nobody else frees it. The context
        // that had its address has been freed (the order of `Context`'s fields).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A session of Mbed TLS. The order of the fields is that in which they may go.
pub(in super::super) struct Context {
    ssl: Object<mbedtls_ssl_context>,
    io: IoPlace,
    config: Arc<Config>,
}

// SAFETY: a context owns all that it writes: its own struct and buffers, and its Io. What it shares
// is the Config, which is Sync, and `Keys`, which is too. Mbed TLS has no thread-local state, and
// the clock that we give it is set anew around each call. So a handshake may run on a worker thread
// and the session go on in another, one at a time; the channel between them orders the memory.
// The raw pointer `Io::input` is null between calls. It is not Sync, as nothing needs it.
unsafe impl Send for Context {}

impl Context {
    /// A session that has not begun. `cid`: the connection ID that the peer is to send; `None`
    /// when the extension is not to be used at all.
    ///
    /// # Errors
    ///
    /// Out of memory, or a `cid` whose length is not that of `config`.
    pub fn new(
        config: Arc<Config>,
        cid: Option<&[u8]>,
        opening: Option<Box<Opening>>,
    ) -> Result<Self, String> {
        let io = Box::new(Io {
            input: ptr::null(),
            input_length: 0,
            out: VecDeque::new(),
            now: Instant::ZERO,
            intermediate: None,
            deadline: None,
            opening,
        });
        // SAFETY: the pair of functions is the one of the type.
        let ssl = unsafe { Object::new(sys::mbedtls_ssl_init, sys::mbedtls_ssl_free) };
        let context = Self {
            ssl,
            io: IoPlace(NonNull::from(Box::leak(io))),
            config,
        };
        let ssl = context.ssl.ptr();
        let io: *mut c_void = context.io.0.as_ptr().cast();
        // SAFETY: `ssl` is initialised. The configuration lives as long as the context, which has a
        // share of it, and so does the Io, which is dropped after it. The callbacks are written for
        // an Io.
        unsafe {
            check(sys::mbedtls_ssl_setup(ssl, context.config.ptr()))?;
            (*ssl).private_user_data.p = io;
            sys::mbedtls_ssl_set_bio(
                ssl,
                io,
                Some(callbacks::send),
                Some(callbacks::receive),
                None,
            );
            sys::mbedtls_ssl_set_timer_cb(
                ssl,
                io,
                Some(callbacks::set_timer),
                Some(callbacks::timer),
            );
            sys::mbedtls_ssl_set_verify(ssl, Some(callbacks::verify), io);
            sys::mbedtls_ssl_set_mtu(ssl, HANDSHAKE_MTU);
            if let Some(cid) = cid {
                check(sys::mbedtls_ssl_set_cid(
                    ssl,
                    sys::MBEDTLS_SSL_CID_ENABLED as c_int,
                    cid.as_ptr(),
                    cid.len(),
                ))?;
            }
        }
        Ok(context)
    }

    /// The proven cookie that the first ClientHello carries. Server, before the handshake.
    pub fn expect_cookie(&mut self, cookie: &[u8]) -> Result<(), String> {
        // SAFETY: the bytes are copied.
        check(unsafe {
            sys::mbedtls_ssl_set_client_transport_id(self.ssl.ptr(), cookie.as_ptr(), cookie.len())
        })
    }

    /// The name that the server's certificate has to carry, and that is sent to it; `None` when
    /// the certificate is known by other means. Client, before the handshake.
    pub fn expect_name(&mut self, name: Option<&CString>) -> Result<(), String> {
        let name = name.map_or(ptr::null(), |name| name.as_ptr());
        // SAFETY: null, or a string with its NUL, which is copied.
        check(unsafe { sys::mbedtls_ssl_set_hostname(self.ssl.ptr(), name) })
    }

    /// The outside. Not to be held while C runs, which the borrow sees to.
    fn io(&mut self) -> &mut Io {
        // SAFETY: the Io lives as long as `self`, and nobody else has a reference: callbacks run
        // only inside calls that borrow `self` mutably.
        unsafe { self.io.0.as_mut() }
    }

    pub fn pop(&mut self) -> Option<Item> {
        let io = self.io();
        let item = io.out.pop_front();
        if item.is_none() && io.out.capacity() > 0 {
            // Sessions are idle most of the time; none keeps memory for its next event.
            io.out = VecDeque::new();
        }
        item
    }

    pub fn push(&mut self, item: Item) {
        self.io().out.push_back(item);
    }

    pub fn deadline(&mut self) -> Option<Instant> {
        self.io().deadline
    }

    pub fn opening(&mut self) -> Option<&mut Opening> {
        self.io().opening.as_deref_mut()
    }

    /// Runs `call` at this time and with this input.
    fn feeding<T>(&mut self, now: Now, record: &[u8], call: impl FnOnce(&mut Self) -> T) -> T {
        let _moment = clock::at(now.unix);
        let io = self.io();
        io.now = now.instant;
        io.input = record.as_ptr();
        io.input_length = record.len();
        let result = call(self);
        self.io().input = ptr::null();
        result
    }

    /// Goes on with the handshake: with a record, or (empty) by the clock.
    pub fn handshake(&mut self, now: Now, record: &[u8]) -> Step {
        self.feeding(now, record, |context| {
            loop {
                // SAFETY: the context is set up, has not failed, and nothing of its Io is borrowed.
                let code = unsafe { sys::mbedtls_ssl_handshake(context.ssl.ptr()) };
                match code {
                    0 => return Step::Done,
                    sys::MBEDTLS_ERR_SSL_WANT_READ | sys::MBEDTLS_ERR_SSL_WANT_WRITE => {}
                    code => return Step::Failed(context.failure(code)),
                }
                // When its time is up too, Mbed TLS sends its flight again and does not look at
                // what came; its timer runs anew then, so this ends.
                let io = context.io();
                let late = io.deadline.is_some_and(|deadline| deadline <= io.now);
                if late || io.input.is_null() || record.is_empty() {
                    return Step::More;
                }
            }
        })
    }

    /// Reads what is in a record, or (empty) what is left of the one before. Application data
    /// goes to [`Context::pop`].
    pub fn read(&mut self, now: Now, record: &[u8]) -> Read {
        // One record at most, so that nothing of it is left for the next call.
        let mut buffer = [0u8; sys::MBEDTLS_SSL_IN_CONTENT_LEN as usize];
        self.feeding(now, record, |context| {
            for _ in 0..MOST_RECORDS {
                // SAFETY: as in `handshake`; the buffer is as long as is said.
                let code = unsafe {
                    sys::mbedtls_ssl_read(context.ssl.ptr(), buffer.as_mut_ptr(), buffer.len())
                };
                match code {
                    0 => {}
                    sys::MBEDTLS_ERR_SSL_WANT_READ
                    | sys::MBEDTLS_ERR_SSL_WANT_WRITE
                    | sys::MBEDTLS_ERR_SSL_TIMEOUT => return Read::Nothing,
                    sys::MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY => return Read::Closed,
                    code => match usize::try_from(code).ok().and_then(|n| buffer.get(..n)) {
                        Some(data) => context.push(Item::App(data.to_vec())),
                        None => return Read::Failed(context.failure(code)),
                    },
                }
            }
            Read::Nothing
        })
    }

    /// Protects a datagram; what is to be sent goes to [`Context::pop`].
    ///
    /// # Errors
    ///
    /// In words, and the session is of no more use.
    pub fn write(&mut self, data: &[u8]) -> Result<(), String> {
        // SAFETY: as in `handshake`; the data is as long as is said.
        let code = unsafe { sys::mbedtls_ssl_write(self.ssl.ptr(), data.as_ptr(), data.len()) };
        match usize::try_from(code) {
            Ok(written) if written == data.len() => Ok(()),
            Ok(_) => Err("a record was cut short".to_owned()),
            Err(_) => Err(words(code)),
        }
    }

    /// The largest datagram that [`Context::write`] takes now: what the buffer holds, or what the
    /// peer asked us not to exceed (RFC 6066 §4).
    pub fn room(&self) -> usize {
        // SAFETY: reads the context.
        let room = unsafe { sys::mbedtls_ssl_get_max_out_record_payload(self.ssl.ptr()) };
        usize::try_from(room).unwrap_or(0)
    }

    /// Says close_notify.
    pub fn close(&mut self) {
        // SAFETY: as in `handshake`. That it might not be sent is of no interest any more.
        unsafe { sys::mbedtls_ssl_close_notify(self.ssl.ptr()) };
    }

    fn failure(&self, code: c_int) -> Failure {
        let ssl = self.ssl.ptr();
        // SAFETY: reads the context. After a fatal alert `in_msg` is at its two bytes (their
        // number was checked by the library), else it is not looked at.
        unsafe {
            Failure {
                code,
                state: (*ssl).private_state,
                alert: (code == sys::MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE)
                    .then(|| *(*ssl).private_in_msg.add(1)),
            }
        }
    }

    /// Who the peer is, once the handshake is done; `psk_server` is what a client with a PSK calls
    /// the other end. What only the handshake needed is given up.
    pub fn settle(&mut self, psk_server: Option<Vec<u8>>) -> Option<PeerIdentity> {
        let opening = self.io().opening.take()?;
        let ssl = self.ssl.ptr();
        // SAFETY: the handshake is done, so there is a session. Its certificates are not changed
        // until they are freed below, after the last use of `leaf`.
        let leaf = unsafe { Certificate::at(sys::mbedtls_ssl_get_peer_cert(ssl)) };
        let identity = match (leaf, opening.psk, psk_server) {
            (Some(leaf), _, _) => {
                let rest = std::iter::successors(leaf.next(), |certificate| certificate.next());
                PeerIdentity::X509 {
                    leaf: leaf.der().to_vec(),
                    chain: rest.map(|certificate| certificate.der().to_vec()).collect(),
                    names: leaf.names(),
                    authority: opening.verdict.authority,
                }
            }
            (None, Some(PskPeer::Known(identity)), _) | (None, None, Some(identity)) => {
                PeerIdentity::Psk(identity)
            }
            _ => return None,
        };
        // SAFETY: the session is there (see above). Freeing its certificates leaves an empty list
        // in the place, as before parsing, which Mbed TLS frees again with the session, and saves
        // as "none". Nothing reads them after a handshake without renegotiation. 0 as the MTU is no
        // limit, and no transport id lets no cookie pass.
        unsafe {
            let session = (*ssl).private_session;
            if !session.is_null() && !(*session).private_peer_cert.is_null() {
                sys::mbedtls_x509_crt_free((*session).private_peer_cert);
            }
            sys::mbedtls_ssl_set_mtu(ssl, 0);
            sys::mbedtls_ssl_set_client_transport_id(ssl, [].as_ptr(), 0);
        }
        Some(identity)
    }

    /// The agreed suite; 0 before.
    pub fn suite(&self) -> u16 {
        // SAFETY: reads the context.
        let suite = unsafe { sys::mbedtls_ssl_get_ciphersuite_id_from_ssl(self.ssl.ptr()) };
        u16::try_from(suite).unwrap_or(0)
    }

    /// The connection ID that the peer wants. After the handshake.
    pub fn peer_cid(&mut self) -> Vec<u8> {
        let mut enabled = 0;
        let mut cid = [0u8; sys::MBEDTLS_SSL_CID_OUT_LEN_MAX as usize];
        let mut length = cid.len();
        // SAFETY: the buffer is as long as a connection ID can be.
        let result = unsafe {
            sys::mbedtls_ssl_get_peer_cid(
                self.ssl.ptr(),
                &raw mut enabled,
                cid.as_mut_ptr(),
                &raw mut length,
            )
        };
        if result != 0 || enabled != sys::MBEDTLS_SSL_CID_ENABLED as c_int {
            return Vec::new();
        }
        cid.get(..length).unwrap_or_default().to_vec()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The state of an established session. It is of no more use here then. `None` when Mbed TLS
    /// cannot write it: no AEAD suite, or the last flight may still be asked for.
    pub fn save(self) -> Option<Secret> {
        let mut length = 0;
        // SAFETY: a null buffer of length 0 asks for the length only.
        unsafe {
            sys::mbedtls_ssl_context_save(self.ssl.ptr(), ptr::null_mut(), 0, &raw mut length);
        }
        if !(1..=1 << 16).contains(&length) {
            return None;
        }
        let mut bytes = vec![0; length];
        // SAFETY: the buffer is as long as is said. `self` goes, so the context is not used again.
        let result = unsafe {
            sys::mbedtls_ssl_context_save(
                self.ssl.ptr(),
                bytes.as_mut_ptr(),
                bytes.len(),
                &raw mut length,
            )
        };
        bytes.truncate(length);
        let saved = Secret::new(bytes);
        (result == 0).then_some(saved)
    }

    /// Takes on a saved state. `saved` is believed: it must be what [`Context::save`] gave.
    pub fn load(&mut self, saved: &[u8]) -> Result<(), String> {
        // SAFETY: the context is set up and was not used, the bytes are as long as is said. That
        // they are sound is the caller's promise (`Engine::restore`): a changed one could make C
        // write where it must not, which is why they are sealed until then.
        check(unsafe {
            sys::mbedtls_ssl_context_load(self.ssl.ptr(), saved.as_ptr(), saved.len())
        })?;
        // SAFETY: see `settle`.
        unsafe { sys::mbedtls_ssl_set_mtu(self.ssl.ptr(), 0) };
        Ok(())
    }

    pub fn is_server(&self) -> bool {
        self.config.role == Role::Server
    }
}

fn check(result: c_int) -> Result<(), String> {
    match result {
        0 => Ok(()),
        code => Err(words(code)),
    }
}
