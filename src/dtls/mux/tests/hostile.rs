//! Bytes of all kinds, thrown at both ends.

use std::ops::Range;

use rand::RngExt;

use super::*;

#[test]
fn random_datagrams_do_no_harm() {
    for make in [plain, costly, strict, strict_without_cid] {
        random_datagrams(&make, 0..10);
    }
}

/// Real traffic, changed at random, cut, joined and sent from anywhere: no panic, and tables that
/// agree with each other.
pub(super) fn random_datagrams(make: MakeEngines<'_>, seeds: Range<u64>) {
    for seed in seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let limits = Limits {
            sessions: 4,
            handshakes: 4,
            handshakes_per_source: 3,
            ..Limits::default()
        };
        let mut rig = Rig::with_limits(make, limits);
        for number in 0..4 {
            rig.join_with_cid(make, number, credential("device"), &[1]);
        }
        for _ in 0..1000 {
            step(&mut rig, &mut rng, make);
            check(&rig.server);
            rig.clients.iter().for_each(|client| check(&client.mux));
        }
    }
}

fn step(rig: &mut Rig, rng: &mut StdRng, make: MakeEngines<'_>) {
    let client = rng.random_range(0..rig.clients.len());
    match rng.random_range(0..20) {
        0 if rig.clients.len() < 40 => {
            rig.join_with_cid(make, rng.random_range(0..6), credential("device"), &[1]);
        }
        1 => rig.clients[client].cut_off ^= true,
        2 => rig.clients[client].address = address(rng.random_range(0..6)),
        3 => rig.pass(Duration::from_millis(rng.random_range(0..40_000))),
        4 => rig.keep_work ^= true,
        5 => rig.settle(),
        6..9 => rig.say(client, "something"),
        _ => {
            let length = rng.random_range(0..60);
            let mut datagram = match rng.random_range(0..4) {
                0 => (0..length).map(|_| rng.random()).collect(),
                1 => pick(&rig.from_server, rng),
                _ => pick(&rig.to_server, rng),
            };
            for _ in 0..rng.random_range(0..4) {
                if !datagram.is_empty() {
                    let at = rng.random_range(0..datagram.len());
                    datagram[at] = rng.random();
                }
            }
            if rng.random_range(0..4) == 0 {
                datagram.truncate(rng.random_range(0..=datagram.len()));
            }
            if rng.random_range(0..4) == 0 {
                datagram.extend(pick(&rig.to_server, rng));
            }
            if rng.random() {
                rig.inject(route(rng.random_range(0..6)), &datagram);
            } else {
                let server = Route {
                    listener: 0,
                    address: server_address(),
                };
                rig.clients[client].mux.receive(rig.now, server, &datagram);
                rig.settle();
            }
        }
    }
}

fn pick(seen: &[(Route, Vec<u8>)], rng: &mut StdRng) -> Vec<u8> {
    // Mostly of late.
    let from = seen.len().saturating_sub(12);
    let from = if rng.random_range(0..4) == 0 { 0 } else { from };
    seen[rng.random_range(from..seen.len())].1.clone()
}

/// That the tables of a mux agree.
fn check(mux: &Mux) {
    let indices = mux.sessions.indices();
    let mut live = 0;
    let mut with_cid = 0;
    for index in &indices {
        let session = mux.sessions.at(*index).unwrap();
        assert_eq!(mux.sessions.find(mux.sessions.id(*index)), Some(*index));
        if let Some(cid) = session.cid {
            assert_eq!(mux.cids.get(&cid), Some(index));
            with_cid += 1;
        }
        let here = mux.routes.get(&session.route);
        match session.live() {
            Some(at) => {
                live += 1;
                assert!(mux.idle.contains(&(at.placed, *index)));
                assert!(session.dtls.is_some());
            }
            None => assert_eq!(here.unwrap().unfinished, Some(*index)),
        }
    }
    assert_eq!(live, mux.len());
    assert_eq!(indices.len() - live, mux.handshakes());
    assert_eq!(mux.cids.len(), with_cid);
    assert!(mux.routes.len() <= indices.len());
    assert!(mux.timers.len() <= indices.len());
    assert!(mux.len() <= mux.limits.sessions);
}
