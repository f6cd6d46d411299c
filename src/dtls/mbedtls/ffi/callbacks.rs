//! What Mbed TLS calls.

use std::os::raw::{c_int, c_uchar, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::{ptr, slice};

use mbedtls_rs_sys::{self as sys, mbedtls_ssl_context, mbedtls_x509_crt};

use super::certificate::Certificate;
use super::config::LONGEST_KEY;
use super::context::{Io, Item, PskPeer};
use crate::secret::Secret;
use crate::time::Instant;

/// PSA_ERROR_INSUFFICIENT_ENTROPY.
const NO_ENTROPY: i32 = -148;
/// MBEDTLS_ERR_CTR_DRBG_ENTROPY_SOURCE_FAILED: what a random function of Mbed TLS says then.
const RANDOM_FAILED: c_int = -0x0034;

/// Fills with randomness of the system, getrandom(2). The one place of the core that does not take
/// randomness as an argument: keys must not depend on a seed that a test or a log could know.
fn fill(mut buffer: &mut [u8]) -> bool {
    while !buffer.is_empty() {
        match rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty()) {
            Ok(filled) if filled > 0 => buffer = buffer.get_mut(filled..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            _ => return false,
        }
    }
    true
}

/// The random function of configurations.
pub(super) unsafe extern "C" fn random(_: *mut c_void, at: *mut c_uchar, length: usize) -> c_int {
    if length == 0 {
        return 0;
    }
    // SAFETY: Mbed TLS gives room for `length` bytes. They may not be initialised, and are written
    // before anybody reads them.
    let buffer = unsafe {
        ptr::write_bytes(at, 0, length);
        slice::from_raw_parts_mut(at, length)
    };
    if fill(buffer) { 0 } else { RANDOM_FAILED }
}

/// The random function of PSA, which the library wants to be supplied (it blinds with it).
#[unsafe(no_mangle)]
unsafe extern "C" fn mbedtls_psa_external_get_random(
    _: *mut sys::mbedtls_psa_external_random_context_t,
    at: *mut u8,
    size: usize,
    length: *mut usize,
) -> sys::psa_status_t {
    // SAFETY: PSA gives room for `size` bytes, and a place for how many were written.
    unsafe {
        let result = random(ptr::null_mut(), at, size);
        *length = if result == 0 { size } else { 0 };
        if result == 0 { 0 } else { NO_ENTROPY }
    }
}

/// Writes the cookie of a HelloVerifyRequest. Never needed: the hello that a session starts with
/// carries a proven cookie. Should it ever not, what goes out is the transport id, and the peer is
/// no further.
pub(super) unsafe extern "C" fn write_cookie(
    _: *mut c_void,
    at: *mut *mut c_uchar,
    end: *mut c_uchar,
    id: *const c_uchar,
    length: usize,
) -> c_int {
    // SAFETY: `*at..end` is the room that is left, and `id` the transport id of this length.
    unsafe {
        if (end as usize).saturating_sub(*at as usize) < length {
            return sys::MBEDTLS_ERR_SSL_BUFFER_TOO_SMALL;
        }
        if length > 0 {
            ptr::copy_nonoverlapping(id, *at, length);
            *at = (*at).add(length);
        }
    }
    0
}

/// Whether a hello's cookie is the one that was proven, which is the transport id of its session.
pub(super) unsafe extern "C" fn check_cookie(
    _: *mut c_void,
    cookie: *const c_uchar,
    cookie_length: usize,
    id: *const c_uchar,
    id_length: usize,
) -> c_int {
    if cookie_length == 0 || cookie_length != id_length {
        return -1;
    }
    // SAFETY: both pointers are of buffers with these lengths, not 0.
    let (cookie, id) = unsafe {
        (
            slice::from_raw_parts(cookie, cookie_length),
            slice::from_raw_parts(id, id_length),
        )
    };
    // In constant time: each byte counts, whatever those before it were.
    let difference = cookie.iter().zip(id).fold(0u8, |sum, (a, b)| sum | (a ^ b));
    if difference == 0 { 0 } else { -1 }
}

/// Looks up the key of a client's PSK identity.
///
/// Nobody outside can tell an identity that is not known from a wrong key: it gets a random one.
pub(super) unsafe extern "C" fn psk(
    _: *mut c_void,
    ssl: *mut mbedtls_ssl_context,
    identity: *const c_uchar,
    length: usize,
) -> c_int {
    // SAFETY: `ssl` is the context that runs, whose user pointer is its Io (Context::new); no other
    // reference to that lives now (module rule). `identity` has `length` bytes.
    let (io, identity) = unsafe {
        let Some(io) = (*ssl).private_user_data.p.cast::<Io>().as_mut() else {
            return sys::MBEDTLS_ERR_SSL_INTERNAL_ERROR;
        };
        let identity: &[u8] = if length == 0 {
            &[]
        } else {
            slice::from_raw_parts(identity, length)
        };
        (io, identity)
    };
    let Some(opening) = io.opening.as_mut() else {
        return sys::MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    };
    let found = match opening.keys() {
        Some(keys) => catch_unwind(AssertUnwindSafe(|| keys.psk(identity))).unwrap_or(None),
        None => None,
    };
    let identity = identity.to_vec();
    let key = match found {
        Some(key) if (1..=LONGEST_KEY).contains(&key.expose().len()) => {
            opening.psk = Some(PskPeer::Known(identity));
            key
        }
        Some(key) => {
            let length = key.expose().len();
            opening.psk = Some(PskPeer::Unusable { identity, length });
            return sys::MBEDTLS_ERR_SSL_UNKNOWN_IDENTITY;
        }
        None => {
            opening.psk = Some(PskPeer::Unknown(identity));
            let mut key = vec![0; 16];
            if !fill(&mut key) {
                return RANDOM_FAILED;
            }
            Secret::new(key)
        }
    };
    let key = key.expose();
    // SAFETY: the context is in its handshake, and copies the key.
    unsafe { sys::mbedtls_ssl_set_hs_psk(ssl, key.as_ptr(), key.len()) }
}

/// Is shown each certificate of the peer's chain, the authority first.
pub(super) unsafe extern "C" fn verify(
    io: *mut c_void,
    certificate: *mut mbedtls_x509_crt,
    depth: c_int,
    flags: *mut u32,
) -> c_int {
    // SAFETY: the pointer was given with this function (Context::new) and is the Io of the context
    // that runs; certificate and flags are valid during this call.
    let (io, certificate, flags) = unsafe {
        (
            io.cast::<Io>().as_mut(),
            Certificate::at(certificate),
            flags.as_mut(),
        )
    };
    let (Some(io), Some(certificate), Some(flags)) = (io, certificate, flags) else {
        return sys::MBEDTLS_ERR_X509_FATAL_ERROR;
    };
    let Some(opening) = io.opening.as_mut() else {
        return sys::MBEDTLS_ERR_X509_FATAL_ERROR;
    };
    let depth = depth.unsigned_abs();
    let found = *flags;
    let looked = catch_unwind(AssertUnwindSafe(|| {
        let opening = &mut **opening;
        opening
            .verdict
            .look_at(&opening.trust, certificate, depth, found)
    }));
    match looked {
        Ok(left) => {
            *flags = left;
            0
        }
        Err(_) => sys::MBEDTLS_ERR_X509_FATAL_ERROR,
    }
}

/// Takes a datagram that is to be sent.
pub(super) unsafe extern "C" fn send(io: *mut c_void, at: *const c_uchar, length: usize) -> c_int {
    let Ok(sent) = c_int::try_from(length) else {
        return sys::MBEDTLS_ERR_SSL_INTERNAL_ERROR;
    };
    // SAFETY: `io` is the Io of the context that runs, and `at` a datagram of this length, not 0.
    unsafe {
        let datagram = slice::from_raw_parts(at, length).to_vec();
        (*io.cast::<Io>()).out.push_back(Item::Send(datagram));
    }
    sent
}

/// Gives the datagram that came in, once.
pub(super) unsafe extern "C" fn receive(io: *mut c_void, at: *mut c_uchar, room: usize) -> c_int {
    // SAFETY: `io` is the Io of the context that runs. Its input is null, or the datagram that
    // Context::feeding borrows for as long as that runs; `at` has room for `room` bytes and is the
    // context's own buffer, which does not overlap with it.
    unsafe {
        let io = &mut *io.cast::<Io>();
        let length = io.input_length;
        let input = std::mem::replace(&mut io.input, ptr::null());
        // A return of 0 would be the end of the connection. One that is too long is left out: cut,
        // it might end within a record's header (see `session::records`).
        if input.is_null() || length == 0 || length > room {
            return sys::MBEDTLS_ERR_SSL_WANT_READ;
        }
        ptr::copy_nonoverlapping(input, at, length);
        c_int::try_from(length).unwrap_or(sys::MBEDTLS_ERR_SSL_WANT_READ)
    }
}

/// Sets the two delays of a flight, in milliseconds from now; a last one of 0 stops the timer.
pub(super) unsafe extern "C" fn set_timer(io: *mut c_void, intermediate: u32, last: u32) {
    // SAFETY: `io` is the Io of the context that runs.
    let io = unsafe { &mut *io.cast::<Io>() };
    let after = |millis: u32| {
        let delay = std::time::Duration::from_millis(millis.into());
        (last != 0).then(|| io.now + delay)
    };
    (io.intermediate, io.deadline) = (after(intermediate), after(last));
}

/// How far the timer is.
pub(super) unsafe extern "C" fn timer(io: *mut c_void) -> c_int {
    // SAFETY: `io` is the Io of the context that runs.
    let io = unsafe { &*io.cast::<Io>() };
    let passed = |at: Option<Instant>| at.is_some_and(|at| io.now >= at);
    match io.deadline {
        None => -1,
        Some(_) if passed(io.deadline) => 2,
        Some(_) if passed(io.intermediate) => 1,
        Some(_) => 0,
    }
}
