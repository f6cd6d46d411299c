//! The two kinds of time that the core is given, and never takes.
//!
//! [`Instant`] drives timers; [`UnixTime`] stamps values. Both are plain numbers, so a test makes
//! hours pass by adding to them.

use std::fmt;
use std::ops::{Add, AddAssign};
use std::time::Duration;

/// A monotonic point in time, in microseconds since an origin that the shell chooses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The origin.
    pub const ZERO: Self = Self(0);

    /// The instant `micros` microseconds after the origin.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the origin.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Time passed since `earlier`; zero when `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Saturates at the end of time, so that an endless lifetime is a late deadline.
    fn add(self, rhs: Duration) -> Self {
        let micros = u64::try_from(rhs.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

/// Wall-clock time in milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// `millis` milliseconds after (or, negative, before) the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }
}

impl Add<Duration> for UnixTime {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let millis = i64::try_from(rhs.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(millis))
    }
}

/// RFC 3339 in UTC with milliseconds, `2026-11-22T15:19:25.120Z`.
///
/// A time outside the years -9999 to 9999 is shown as the nearest end of that range.
impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use jiff::Timestamp;
        use jiff::fmt::{StdFmtWrite, temporal::DateTimePrinter};
        const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
        let timestamp = Timestamp::from_millisecond(self.0).unwrap_or(if self.0 < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        });
        PRINTER
            .print_timestamp(&timestamp, StdFmtWrite(f))
            .map_err(|_| fmt::Error)
    }
}

/// Both times of one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// For stamps.
    pub unix: UnixTime,
}

impl Now {
    /// The moment that had this stamp, if it was not later than this one: a clock may have been set
    /// back since. What is older than the origin of instants counts as the origin.
    pub fn back_to(self, unix: UnixTime) -> Self {
        let Ok(millis) = u64::try_from(self.unix.0.saturating_sub(unix.0)) else {
            return self;
        };
        let instant = Instant(self.instant.0.saturating_sub(millis.saturating_mul(1_000)));
        Self { instant, unix }
    }
}

impl Add<Duration> for Now {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self {
            instant: self.instant + rhs,
            unix: self.unix + rhs,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unix_time_is_shown_in_rfc_3339_with_milliseconds() {
        assert_eq!(
            UnixTime::from_millis(1_795_360_765_120).to_string(),
            "2026-11-22T15:19:25.120Z"
        );
        assert_eq!(
            UnixTime::from_millis(0).to_string(),
            "1970-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn a_stamp_leads_back_to_its_moment() {
        let at = |seconds: i64| Now {
            instant: Instant::from_micros(seconds.unsigned_abs() * 1_000_000),
            unix: UnixTime::from_millis(seconds * 1_000),
        };
        assert_eq!(at(100).back_to(UnixTime::from_millis(40_000)), at(40));
        // The clock was set back.
        assert_eq!(at(100).back_to(UnixTime::from_millis(200_000)), at(100));
        let before = at(100).back_to(UnixTime::from_millis(-5));
        assert_eq!(before.instant, Instant::ZERO);
    }

    #[test]
    fn instants_saturate_instead_of_wrapping() {
        let end = Instant::ZERO + Duration::MAX;
        assert_eq!(end + Duration::from_secs(1), end);
        assert_eq!(Instant::ZERO.since(end), Duration::ZERO);
    }
}
