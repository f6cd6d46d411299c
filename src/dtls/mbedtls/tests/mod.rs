//! Our client against our server, in virtual time.

mod fuzz;
mod open;
mod papers;
mod psk;
mod rig;
mod x509;

// `fuzz/` shares `fuzz`, `papers` and `rig`, where the program is another crate.
use crate as program;

#[test]
fn changed_datagrams_harm_neither_end() {
    let mut fuzz = fuzz::Fuzz::new(7);
    for _ in 0..500 {
        fuzz.round(12);
    }
    let counts = &fuzz.counts;
    // The wire was neither so good nor so bad that nothing was tried.
    assert!(counts.established > 100, "{counts:?}");
    assert!(counts.refused > 100, "{counts:?}");
    assert!(counts.changed > 300 && counts.open > 100, "{counts:?}");
}
