//! What an open session costs: `cargo run --release --example memory`. Resident memory of the
//! process before and after, server's and client's ends apart, and time on the way.

use std::sync::Arc;
use std::time::Instant;

use lwm2mqtt as program;

#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
#[path = "../../src/dtls/mbedtls/tests/papers.rs"]
mod papers;
#[allow(dead_code, reason = "shared with the unit tests, which use more of it")]
#[path = "../../src/dtls/mbedtls/tests/rig.rs"]
mod rig;

use papers::{Authority, Wish};
use program::dtls::Engine as _;
use program::dtls::mbedtls::{Engine, Settings};
use rig::{Pair, dev1, ring, today};

/// Resident bytes.
fn resident() -> f64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: f64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096.0
}

fn main() {
    const SESSIONS: usize = 4000;
    let authority = Authority::new("an authority");
    let papers = authority.certify(&Wish {
        dns: &["gw.example"],
        ..Wish::named("gw")
    });
    let device = authority.certify(&Wish::named("dev1"));
    let engine = Engine::new(&Settings {
        certificate: Some(papers.own()),
        authorities: vec![authority.der.clone()],
        ..Settings::default()
    })
    .unwrap();
    for (name, count, connect) in [
        (
            "X.509",
            SESSIONS / 8,
            device.client(authority.vouches("gw.example")),
        ),
        ("PSK", SESSIONS, dev1()),
    ] {
        let mut kept = Vec::with_capacity(count);
        // The first ones make the allocator's and the code's own pages resident.
        for _ in 0..20 {
            open(&engine, &connect);
        }
        let (before, begin) = (resident(), Instant::now());
        for _ in 0..count {
            let pair = open(&engine, &connect);
            kept.push(pair.server.session);
        }
        let each = (resident() - before) / count as f64;
        let took = begin.elapsed().as_secs_f64() / count as f64;
        println!(
            "{name}: {each:.0} bytes a server's session; {:.0} µs both ends of a handshake",
            took * 1e6
        );
        // Freed, they would make room for the next, which is then not seen to grow.
        std::mem::forget(kept);
    }
}

fn open(engine: &Engine, connect: &program::dtls::Connect) -> Pair {
    let client = engine.connect(today(), connect).unwrap();
    let keys: Arc<rig::Ring> = ring();
    let mut pair = Pair::begin(today(), engine, client, keys, b"a server");
    pair.run();
    pair.assert_works();
    pair.server.identity = None;
    pair
}
