//! Changed datagrams into DTLS handshakes in both roles and into open sessions, for as long as one
//! likes: the test of `src/dtls/mbedtls/tests/fuzz.rs`, made to run under AddressSanitizer.
//!
//! `lwm2mqtt-fuzz [SECONDS] [SEED]`. Prints the seed at the start, progress every ten seconds. Ends
//! with a panic or the sanitizer's report when something is found; `SEED` repeats the run.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

// The files of the test call the program by this name, wherever they are compiled.
use lwm2mqtt as program;

#[path = "../../src/dtls/mbedtls/tests/fuzz.rs"]
mod fuzz;
#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
#[path = "../../src/dtls/mbedtls/tests/papers.rs"]
mod papers;
#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
#[path = "../../src/dtls/mbedtls/tests/rig.rs"]
mod rig;

/// One handshake of so many is one with certificates: they cost fifty times as much.
const CERTIFICATES: u32 = 30;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| {
        let number = argument.parse::<u64>();
        number.unwrap_or_else(|_| panic!("{argument} is no number: [SECONDS] [SEED]"))
    });
    let seconds = arguments.next().unwrap_or(60);
    let seed = arguments.next().unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.map_or(0, |now| now.as_secs())
    });
    println!("seed {seed}, {seconds} s");
    let mut fuzz = fuzz::Fuzz::new(seed);
    let begin = Instant::now();
    let mut shown = begin;
    while begin.elapsed() < Duration::from_secs(seconds) {
        for _ in 0..50 {
            fuzz.round(CERTIFICATES);
        }
        if shown.elapsed() > Duration::from_secs(10) {
            shown = Instant::now();
            println!("{:>6} s  {:?}", begin.elapsed().as_secs(), fuzz.counts);
        }
    }
    println!("{:>6} s  {:?}", begin.elapsed().as_secs(), fuzz.counts);
    println!("nothing found");
}
