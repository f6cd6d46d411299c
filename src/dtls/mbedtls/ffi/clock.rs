//! The time that Mbed TLS sees: the one that the running call was given.
//!
//! Mbed TLS asks two functions, and the crate lets a program supply them once for the process.
//! Ours read a variable of the thread, which [`at`] sets for as long as a call runs. Outside a call
//! there is no time, and a certificate that was looked at then would be taken for expired.

use std::cell::Cell;
use std::sync::Once;

use mbedtls_rs_sys::hook::timer::{MbedtlsTimer, hook_timer};
use mbedtls_rs_sys::hook::wall_clock::{MbedtlsWallClock, hook_wall_clock};
use mbedtls_rs_sys::{mbedtls_ms_time_t, tm};

use crate::time::UnixTime;

thread_local! {
    static NOW: Cell<Option<UnixTime>> = const { Cell::new(None) };
}

/// Says what time it is on this thread, until the returned value is dropped.
pub(super) fn at(now: UnixTime) -> Moment {
    NOW.set(Some(now));
    Moment(())
}

/// See [`at`].
pub(super) struct Moment(());

impl Drop for Moment {
    fn drop(&mut self) {
        NOW.set(None);
    }
}

/// Makes [`at`] the clock of Mbed TLS, and its tables: what is set once for the process, before
/// anything else of the library is used.
pub(super) fn install() {
    static INSTALLED: Once = Once::new();
    static CLOCK: ThreadClock = ThreadClock;
    INSTALLED.call_once(|| {
        // SAFETY: both hooks want to be set before their function is first needed, which is so:
        // every Config calls `install` first, and nothing works without one. CLOCK lives for ever
        // and has no state.
        unsafe {
            hook_wall_clock(Some(&CLOCK));
            hook_timer(Some(&CLOCK));
        }
        // SAFETY: each fills a static table at its first call, which is this one, and gives its
        // address. Later calls, of whatever thread, find it filled.
        unsafe {
            mbedtls_rs_sys::mbedtls_ssl_list_ciphersuites();
            mbedtls_rs_sys::mbedtls_ecp_grp_id_list();
        }
    });
}

struct ThreadClock;

impl MbedtlsWallClock for ThreadClock {
    fn instant(&self) -> Option<tm> {
        let now = jiff::Timestamp::from_millisecond(NOW.get()?.as_millis()).ok()?;
        let civil = jiff::tz::Offset::UTC.to_datetime(now);
        Some(tm {
            tm_sec: civil.second().into(),
            tm_min: civil.minute().into(),
            tm_hour: civil.hour().into(),
            tm_mday: civil.day().into(),
            tm_mon: i32::from(civil.month()) - 1,
            tm_year: i32::from(civil.year()) - 1900,
            tm_wday: civil.weekday().to_sunday_zero_offset().into(),
            tm_yday: i32::from(civil.day_of_year()) - 1,
            tm_isdst: 0,
        })
    }
}

impl MbedtlsTimer for ThreadClock {
    /// Only for the first four bytes of a hello's random (RFC 5246 §7.4.1.2) and the age of a
    /// session that is never resumed.
    fn now(&self) -> mbedtls_ms_time_t {
        NOW.get().map_or(0, UnixTime::as_millis)
    }
}
