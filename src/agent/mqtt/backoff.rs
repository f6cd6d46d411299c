//! How long to wait before the next attempt to connect.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The first attempt after a stable connection: a broker that restarts is back within a moment.
const QUICK: Duration = Duration::from_millis(250);
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// As long as nobody answers: about twice a second for five minutes, so that a broker that is back has
/// our values within a second; then less often, for links where each attempt costs something.
const ABSENT: Duration = Duration::from_millis(600);
const ABSENT_ATTEMPTS: u32 = 700;
const ABSENT_LONG: Duration = Duration::from_secs(10);

/// Waiting times that double from 1 s to 60 s, after one quick attempt. Each is between half of its
/// nominal value and all of it, so that the clients of a broker that returns do not come at once.
pub(super) struct Backoff {
    attempts: u32,
    /// Attempts that nobody answered, since one was answered.
    unanswered: u32,
    rng: StdRng,
}

impl Backoff {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            attempts: 0,
            unanswered: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// The next wait after somebody answered, and did not want us.
    pub(super) fn wait(&mut self) -> Duration {
        self.unanswered = 0;
        let nominal = match self.attempts {
            0 => QUICK,
            n => SHORTEST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        };
        self.attempts = self.attempts.saturating_add(1);
        self.jitter(nominal)
    }

    /// The next wait after nobody answered.
    pub(super) fn wait_absent(&mut self) -> Duration {
        self.unanswered = self.unanswered.saturating_add(1);
        let nominal = match self.unanswered {
            0..=ABSENT_ATTEMPTS => ABSENT,
            _ => ABSENT_LONG,
        };
        self.jitter(nominal)
    }

    fn jitter(&mut self, nominal: Duration) -> Duration {
        nominal.mul_f64(self.rng.random_range(0.5..=1.0))
    }

    /// The connection was stable: the next wait is the quick one again.
    pub(super) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_a_quick_one_to_a_minute_with_jitter() {
        let mut backoff = Backoff::new(1);
        for nominal in [250, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000] {
            let wait = backoff.wait().as_millis();
            assert!(
                (nominal / 2..=nominal).contains(&wait),
                "{wait} of {nominal}"
            );
        }
        let (mut one, mut other) = (Backoff::new(1), Backoff::new(2));
        assert_ne!(one.wait(), other.wait());
    }

    #[test]
    fn a_broker_that_is_not_there_is_looked_for_twice_a_second_and_later_less() {
        let mut backoff = Backoff::new(1);
        for _ in 0..ABSENT_ATTEMPTS {
            assert!(backoff.wait_absent() <= ABSENT);
        }
        assert!(backoff.wait_absent() > ABSENT);
        backoff.wait();
        assert!(backoff.wait_absent() <= ABSENT);
    }

    #[test]
    fn it_waits_at_most_a_minute_however_often_it_fails() {
        let mut backoff = Backoff::new(1);
        backoff.attempts = u32::MAX;
        assert!(backoff.wait() <= LONGEST);
        backoff.reset();
        assert!(backoff.wait() <= QUICK);
    }
}
