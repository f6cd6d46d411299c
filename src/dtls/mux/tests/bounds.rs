//! What strangers and members can make grow, and what then gives way.

use std::net::Ipv4Addr;

use rand::RngExt;

use super::*;

impl Mux {
    /// The bytes that the tables have, without what the engine has, identities and outputs.
    fn footprint(&self) -> usize {
        // A hash map has a control byte a bucket, and buckets for 8/7 of its capacity; a tree has
        // nodes that are two thirds full, or so.
        fn table<K, V>(map: &crate::keyed::KeyedMap<K, V>) -> usize {
            (map.capacity() * 8).div_ceil(7) * (size_of::<(K, V)>() + 1)
        }
        self.sessions.footprint()
            + table(&self.routes)
            + table(&self.cids)
            + self.idle.len() * 16 * 3 / 2
            + (self.unfinished.len() + self.connecting.len()) * 200
            + (self.told.len() + self.work.len()) * 100
    }
}

#[test]
fn a_flood_of_hellos_and_single_bytes_from_spoofed_addresses_leaves_no_trace() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    let mut hello = rig.to_server[0].1.clone();
    let before = rig.server.footprint();
    let mut rng = StdRng::seed_from_u64(5);
    for number in 0..100_000_u32 {
        let spoofed = Route {
            listener: LISTENER,
            address: (Ipv4Addr::from_bits(rng.random()), rng.random()).into(),
        };
        // Half of them with a cookie, of the right length, that proves nothing.
        hello[27..31].copy_from_slice(&number.to_be_bytes());
        rig.server.receive(rig.now, spoofed, &hello);
        let Some(Output::Datagram { route, bytes }) = rig.server.poll() else {
            panic!("no answer");
        };
        assert_eq!(route, spoofed);
        assert!(bytes.len() < hello.len());
        rig.server.receive(rig.now, spoofed, &[22]);
        assert!(rig.server.poll().is_none());
        if number % 1000 == 0 {
            rig.pass(Duration::from_millis(500));
        }
    }
    assert_eq!(rig.server.footprint(), before);
    assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 0));
    let counters = rig.server.counters();
    assert_eq!(counters.short_datagrams, 100_000);
    assert_eq!(counters.hello_verify_requests, 100_001);
    rig.assert_works(client, session);
}

// conformance: P33
#[test]
fn a_hello_with_a_guessed_cookie_is_asked_again() {
    let mut rig = Rig::new(&plain);
    rig.join(&plain, 1, credential("device-1"));
    let mut hello = rig.to_server[1].1.clone();
    let cookie = 25 + 34 + 2;
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..10_000 {
        rng.fill(&mut hello[cookie..cookie + 20]);
        rig.server.receive(rig.now, route(2), &hello);
        let Some(Output::Datagram { bytes, .. }) = rig.server.poll() else {
            panic!("no answer");
        };
        assert!(bytes.len() < hello.len());
    }
    assert_eq!(rig.server.handshakes(), 0);
}

/// Clients at these addresses prove them, and then say no more.
fn begin_many(rig: &mut Rig, count: u16, address: impl Fn(u16) -> SocketAddr) {
    rig.join(&plain, 9000, credential("model"));
    let hello = rig.to_server[0].1.clone();
    for number in 0..count {
        let from = Route {
            listener: LISTENER,
            address: address(number),
        };
        rig.inject(from, &hello);
        let request = rig.from_server.last().unwrap().1.clone();
        // The cookie goes behind the empty session ID, and three lengths count it.
        let mut proven = hello.clone();
        let rest = proven.split_off(25 + 34 + 1);
        proven.push(20);
        proven.extend(&request[28..]);
        proven.extend(&rest[1..]);
        for length in [12, 16, 24] {
            proven[length] += 20;
        }
        rig.inject(from, &proven);
    }
}

#[test]
fn a_right_key_is_served_however_many_handshakes_its_neighbours_leave_open() {
    let limits = Limits {
        handshakes: 40,
        handshakes_per_source: 20,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&plain, limits);
    begin_many(&mut rig, 50, |number| address(1000 + number));
    assert_eq!(rig.server.handshakes(), 20);
    let evicted = rig.server.counters().handshakes_evicted;
    assert_eq!(evicted, 50 - 20);
    // Of another source, all may be.
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    assert!(rig.failures().is_empty(), "giving way is counted, not told");
    // The oldest gave way: the newest of them is still there, and ends by its time.
    rig.pass(Duration::from_secs(91));
    assert_eq!(rig.server.handshakes(), 0);
}

#[test]
fn handshakes_are_bounded_in_all_and_the_oldest_gives_way() {
    let limits = Limits {
        handshakes: 10,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&plain, limits);
    begin_many(&mut rig, 30, |number| ([10, 0, 0, number as u8], 5).into());
    assert_eq!(rig.server.handshakes(), 10);
    for number in 0..30_u8 {
        let route = Route {
            listener: LISTENER,
            address: ([10, 0, 0, number], 5).into(),
        };
        let there = rig.server.routes.contains_key(&route);
        assert_eq!(there, number >= 20, "number {number}");
    }
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
}

#[test]
fn a_client_is_not_evicted_by_its_peers_number_of_handshakes() {
    let limits = Limits {
        handshakes: 10,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&plain, limits);
    let connect = Connect {
        credential: credential("we"),
        cid: Vec::new(),
    };
    let ours = Route {
        listener: 7,
        address: address(500),
    };
    let id = rig.server.connect(rig.now, ours, connect).unwrap();
    begin_many(&mut rig, 30, |number| ([10, 0, 0, number as u8], 5).into());
    assert_eq!(rig.server.handshakes(), 11);
    assert_eq!(rig.server.route(id), Some(ours));
}

#[test]
fn one_session_too_many_and_the_one_silent_longest_gives_way() {
    let limits = Limits {
        sessions: 3,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&plain, limits);
    let mut there = Vec::new();
    for number in 1..=3 {
        there.push(rig.established(&plain, number));
        rig.pass(Duration::from_secs(120));
    }
    let (first, session) = there[0];
    rig.assert_works(first, session);
    let (client, new) = rig.established(&plain, 4);
    assert_eq!(rig.server.len(), 3);
    assert!(rig.has_closed(there[1].1));
    assert!(rig.clients[there[1].0].closed, "it is told by close_notify");
    assert_eq!(rig.server.counters().sessions_evicted, 1);
    for (client, session) in [there[0], there[2], (client, new)] {
        rig.assert_works(client, session);
    }
}

#[test]
fn a_session_that_is_silent_for_a_day_is_closed_and_one_that_speaks_is_not() {
    let mut rig = Rig::new(&plain);
    let (silent, one) = rig.established(&plain, 1);
    let (speaking, other) = rig.established(&plain, 2);
    for _ in 0..23 {
        rig.pass(Duration::from_secs(3600));
        rig.assert_works(speaking, other);
        // That we speak does not count.
        rig.answer(one, "hello?");
    }
    assert_eq!(rig.server.len(), 2);
    rig.pass(Duration::from_secs(3600));
    assert!(rig.has_closed(one) && rig.clients[silent].closed);
    assert!(!rig.has_closed(other));
    rig.assert_works(speaking, other);
    assert_eq!(rig.server.counters().sessions_expired, 1);
    rig.pass(Duration::from_secs(24 * 3600 - 1));
    assert!(!rig.has_closed(other));
    rig.pass(Duration::from_secs(1));
    assert!(rig.has_closed(other));
    assert_eq!(rig.server.next_timeout(), None);
}

#[test]
fn a_few_failures_are_told_in_ten_seconds_a_source() {
    let limits = Limits {
        failures_per_source: 2,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&plain, limits);
    for number in 0..30 {
        rig.join(&plain, number, credential("?nobody"));
        rig.pass(Duration::from_secs(1));
    }
    assert_eq!(rig.failures().len(), 6);
    assert_eq!(rig.server.counters().handshakes_failed, 30);
    assert_eq!(rig.server.counters().failures_untold, 24);
}

#[test]
fn ten_thousand_sessions_take_less_than_400_bytes_each_beside_the_engines() {
    const COUNT: u32 = 10_000;
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    let saved = rig.server.save().remove(0);
    let many = (0..COUNT)
        .map(|number| {
            let mut saved = saved.clone();
            let mut cid = [0; 8];
            cid[..4].copy_from_slice(&number.to_be_bytes());
            saved.cid = Some(cid);
            saved.route.address = (Ipv4Addr::from_bits(number), 5684).into();
            saved
        })
        .collect();
    assert_eq!(rig.server.restore(rig.now, many), COUNT as usize);
    let each = rig.server.footprint() / COUNT as usize;
    println!("{each} bytes a session");
    assert!(each < 400, "{each} bytes");
    let gone: Vec<_> = std::iter::from_fn(|| rig.server.poll()).collect();
    for output in gone {
        if let Output::Established { session, .. } = output {
            rig.server.close(session);
        }
    }
    assert!(rig.server.is_empty() && rig.server.routes.is_empty() && rig.server.cids.is_empty());
}
