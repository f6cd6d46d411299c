//! Sessions that are established.

use std::time::Duration;

use super::papers::*;
use super::rig::*;
use crate::dtls::mbedtls::{Engine, Settings, suites};
use crate::dtls::{Accept, Engine as _, Fatal};

fn open(suite: u16) -> (Engine, Pair) {
    let engine = server();
    let client = engine.connect_with(today(), &dev1(), &[suite]).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, ring(), b"");
    pair.run();
    (engine, pair)
}

/// One protected datagram of the client.
fn record(pair: &mut Pair, data: &[u8]) -> Vec<u8> {
    pair.client.say(data);
    let mut sent = pair.client.take();
    assert_eq!(sent.len(), 1);
    sent.remove(0)
}

// conformance: P34
#[test]
fn a_replayed_datagram_is_passed_over() {
    for suite in suites::PSK {
        let (_, mut pair) = open(suite);
        let record = record(&mut pair, b"once");
        for _ in 0..3 {
            pair.server.feed(pair.now, &record);
        }
        assert_eq!(pair.server.heard, [b"once"]);
        pair.server.heard.clear();
        pair.assert_works();
    }
}

#[test]
fn datagrams_that_arrive_in_another_order_are_all_taken() {
    let (_, mut pair) = open(0xc0a8);
    let records = [b"1", b"2", b"3"].map(|data| record(&mut pair, data));
    for index in [2, 0, 1] {
        pair.server.feed(pair.now, &records[index]);
    }
    assert_eq!(pair.server.heard, [b"3", b"1", b"2"]);
}

#[test]
fn no_change_of_any_bit_of_a_datagram_ends_a_session_or_is_believed() {
    for suite in [0xc0a8, 0x00ae] {
        let (_, mut pair) = open(suite);
        pair.assert_works();
        let good = record(&mut pair, b"the true datagram");
        for bit in 0..good.len() * 8 {
            let mut forged = good.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            pair.server.feed(pair.now, &forged);
            assert_eq!(pair.server.failed, None, "bit {bit}");
            assert!(pair.server.heard.is_empty(), "bit {bit}");
            assert!(!pair.server.closed, "bit {bit}");
        }
        for length in 0..good.len() {
            pair.server.feed(pair.now, &good[..length]);
        }
        assert_eq!(pair.server.take(), [[0u8; 0]; 0], "and nothing is answered");
        pair.server.feed(pair.now, &good);
        assert_eq!(pair.server.heard, [b"the true datagram"]);
        pair.server.heard.clear();
        pair.assert_works();
    }
}

#[test]
fn what_anyone_can_send_without_a_key_does_not_end_a_session() {
    let (engine, mut pair) = open(0xc0a8);
    // The very hello that opened it, and a fresh one with the same cookie.
    let other = engine.connect(today(), &dev1()).unwrap();
    let mut other = End::new(other);
    let hello = with_cookie(&mut other, today(), COOKIE);
    let header = |kind: u8, epoch: u8, sequence: u8, body: &[u8]| {
        let mut record = vec![kind, 254, 253, 0, epoch, 0, 0, 0, 0, 0, sequence];
        record.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        record.extend(body);
        record
    };
    let alert = header(21, 0, 90, &[2, 40]);
    let mut behind = alert.clone();
    behind.extend(&hello);
    let mut behind_data = header(23, 1, 89, &[0; 40]);
    behind_data.extend(&hello);
    // A record of another epoch, and a piece that is shorter than a header behind it.
    let mut piece = header(23, 7, 88, &[0; 40]);
    piece.extend([1, 2, 3]);
    let forgeries = [
        hello.clone(),
        behind_data,
        piece,
        alert,
        behind,
        header(21, 0, 91, &[1, 0]),
        header(21, 1, 92, &[2, 40]),
        header(21, 1, 93, &[1, 0]),
        header(20, 0, 94, &[1]),
        header(20, 1, 95, &[1]),
        header(22, 1, 96, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        header(22, 0, 97, &[14, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]),
        header(23, 2, 98, &[0; 40]),
        header(25, 1, 99, &[0; 60]),
        header(22, 0, 100, &hello[13..]),
        vec![0xff; 1500],
        vec![0; 4000],
        vec![22],
        Vec::new(),
    ];
    for forgery in &forgeries {
        for end in [&mut pair.server, &mut pair.client] {
            end.feed(pair.now, forgery);
            assert_eq!((&end.failed, end.closed), (&None, false), "{forgery:?}");
            assert!(end.heard.is_empty());
            assert!(end.take().is_empty(), "answered {forgery:?}");
        }
    }
    pair.assert_works();
}

#[test]
fn a_final_flight_that_was_lost_is_sent_again_when_the_client_repeats_its_own() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    let hello = pair.client.take().remove(0);
    pair.server.feed(pair.now, &hello);
    for datagram in pair.server.take() {
        pair.client.feed(pair.now, &datagram);
    }
    for datagram in pair.client.take() {
        pair.server.feed(pair.now, &datagram);
    }
    assert!(pair.server.identity.is_some());
    // The server's Finished is lost; it is established, and idle.
    assert!(!pair.server.take().is_empty());
    assert_eq!(pair.server.wait, None);
    pair.pass(Duration::from_secs(1));
    pair.run();
    assert!(pair.client.identity.is_some());
    pair.assert_works();
}

#[test]
fn close_notify_ends_a_session_at_both_ends() {
    let (_, mut pair) = open(0xc0a8);
    pair.assert_works();
    pair.client.session.close();
    pair.client.drain();
    pair.run();
    assert!(pair.server.closed);
    assert_eq!(pair.server.failed, None);
    // Over is over, and nothing of it is an error.
    let late = pair.server.session.send(b"too late");
    assert!(matches!(late, Err(Fatal::Unsupported(_))));
    pair.server.session.close();
    pair.server.feed(pair.now, &[23; 40]);
    pair.server.tick(pair.now);
    assert!(pair.server.take().is_empty());
}

#[test]
fn a_datagram_that_is_too_long_is_refused_and_the_session_goes_on() {
    let (_, mut pair) = open(0xc0a8);
    pair.client.say(&[7; 2048]);
    pair.run();
    assert_eq!(pair.server.heard.pop().unwrap(), [7; 2048]);
    let refused = pair.client.session.send(&[7; 2049]);
    assert!(matches!(refused, Err(Fatal::Unsupported(_))));
    pair.assert_works();
}

#[test]
fn connection_ids_are_agreed_in_every_combination() {
    let engine = server();
    for (wanted, given) in [
        (&b"client"[..], &b"server's"[..]),
        (b"", b"server's"),
        (b"client", b""),
        (b"", b""),
    ] {
        let mut connect = dev1();
        connect.cid = wanted.to_vec();
        let client = engine.connect(today(), &connect).unwrap();
        let mut pair = Pair::begin(today(), &engine, client, ring(), given);
        pair.run();
        pair.assert_works();
        // A server without one to give does not speak the extension.
        let agreed = !given.is_empty();
        assert_eq!(pair.client.session.peer_cid(), given);
        let expected = if agreed { wanted } else { b"" };
        assert_eq!(pair.server.session.peer_cid(), expected);
        // Record type 25 with the ID behind the sequence number (RFC 9146 §4), or type 23.
        let up = record(&mut pair, b"up");
        assert_eq!(up[0], if given.is_empty() { 23 } else { 25 });
        if agreed {
            assert_eq!(&up[11..19], given);
            let mut elsewhere = up.clone();
            elsewhere[11] ^= 1;
            pair.server.feed(pair.now, &elsewhere);
        }
        assert_eq!(pair.server.failed, None);
        assert!(pair.server.heard.is_empty());
        pair.server.feed(pair.now, &up);
        assert_eq!(pair.server.heard, [b"up"]);
    }
}

#[test]
fn a_session_goes_on_in_another_engine() {
    for suite in [0xc0a8, 0xc0a4, 0x00a8] {
        for cid in [&b""[..], b"server's"] {
            let engine = server();
            let client = engine.connect_with(today(), &dev1(), &[suite]).unwrap();
            let mut pair = Pair::begin(today(), &engine, client, ring(), cid);
            pair.run();
            pair.assert_works();
            let seen = record(&mut pair, b"seen");
            pair.server.feed(pair.now, &seen);
            let saved = pair.server.session.save().expect("can be moved");
            assert!(saved.expose().len() < 260, "{}", saved.expose().len());
            drop(engine);
            let next = server();
            let session = next.restore(pair.now, saved.expose()).unwrap();
            pair.server = End::new(session);
            assert_eq!(pair.server.session.suite(), pair.client.session.suite());
            assert_eq!(pair.client.session.peer_cid(), cid);
            // What was seen before the move is still known.
            pair.server.feed(pair.now, &seen);
            assert!(pair.server.heard.is_empty());
            pair.assert_works();
            // And the other end, in the same way.
            let saved = pair.client.session.save().expect("can be moved");
            pair.client = End::new(next.restore(pair.now, saved.expose()).unwrap());
            assert_eq!(pair.client.session.peer_cid(), cid);
            pair.assert_works();
        }
    }
}

#[test]
fn a_session_that_cannot_be_moved_says_so() {
    // A CBC suite.
    for suite in [0x00ae, 0xc037] {
        let (_, mut pair) = open(suite);
        pair.assert_works();
        assert!(pair.server.session.save().is_none());
    }
    // No data of the client yet: its last flight may be repeated.
    let (_, pair) = open(0xc0a8);
    assert!(pair.server.session.save().is_none());
    // A handshake.
    let engine = server();
    let pair = Pair::psk(&engine, &dev1());
    assert!(pair.server.session.save().is_none());
    // A session that was closed.
    let (_, mut pair) = open(0xc0a8);
    pair.assert_works();
    pair.server.session.close();
    assert!(pair.server.session.save().is_none());
}

#[test]
fn what_is_no_saved_session_is_refused() {
    let engine = server();
    for saved in [
        &b""[..],
        &[2, 0, 8],
        &[1, 7, 8],
        &[1, 0, 8],
        &[1, 1, 200, 4],
    ] {
        assert!(engine.restore(today(), saved).is_err(), "{saved:?}");
    }
}

#[test]
fn a_session_with_a_certificate_goes_on_in_another_engine() {
    let authority = Authority::new("the owner's authority");
    let papers = authority.certify(&Wish {
        dns: &["gw.example"],
        ..Wish::named("gw")
    });
    let settings = Settings {
        certificate: Some(papers.own()),
        authorities: vec![authority.der.clone()],
        ..Settings::default()
    };
    let engine = Engine::new(&settings).unwrap();
    let device = authority.certify(&Wish::named("dev1"));
    let connect = device.client(authority.vouches("gw.example"));
    let client = engine.connect(today(), &connect).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, ring(), b"");
    pair.run();
    pair.assert_works();
    let saved = pair.server.session.save().expect("can be moved");
    let session = server().restore(pair.now, saved.expose()).unwrap();
    pair.server = End::new(session);
    pair.assert_works();
}

#[test]
fn an_open_session_is_driven_on_another_thread_than_its_handshake() {
    let authority = Authority::new("the owner's authority");
    let papers = authority.certify(&Wish {
        dns: &["gw.example"],
        ..Wish::named("gw")
    });
    let settings = Settings {
        certificate: Some(papers.own()),
        authorities: vec![authority.der.clone()],
        ..Settings::default()
    };
    let engine = Engine::new(&settings).unwrap();
    // Two handshakes with certificates at once, and one with a key here: they share the Config.
    std::thread::scope(|scope| {
        let workers = [0, 1].map(|_| {
            let device = authority.certify(&Wish::named("dev1"));
            let connect = device.client(authority.vouches("gw.example"));
            let client = engine.connect(today(), &connect).unwrap();
            let mut pair = Pair::begin(today(), &engine, client, ring(), b"");
            scope.spawn(move || {
                pair.run();
                pair
            })
        });
        let mut here = Pair::psk(&engine, &dev1());
        here.run();
        here.assert_works();
        for worker in workers {
            worker.join().unwrap().assert_works();
        }
    });
}

#[test]
fn keys_that_panic_refuse_the_client_and_leave_the_process() {
    struct Broken;
    impl crate::dtls::Keys for Broken {
        fn psk(&self, _: &[u8]) -> Option<crate::secret::Secret> {
            panic!("the store is broken");
        }
        fn pins(&self, _: &[u8; 32]) -> bool {
            panic!("the store is broken");
        }
    }
    let engine = server();
    let client = engine.connect(today(), &dev1()).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, std::sync::Arc::new(Broken), b"");
    pair.run();
    assert!(matches!(
        pair.server.failed,
        Some(Fatal::UnknownIdentity { .. })
    ));
}

#[test]
fn a_session_outlives_its_engine_and_can_be_dropped_at_any_point() {
    for steps in 0..6 {
        let engine = server();
        let mut pair = Pair::psk(&engine, &dev1());
        drop(engine);
        for _ in 0..steps {
            for datagram in pair.client.take() {
                pair.server.feed(pair.now, &datagram);
            }
            for datagram in pair.server.take() {
                pair.client.feed(pair.now, &datagram);
            }
        }
    }
    let engine = server();
    let accept = Accept {
        cookie: b"",
        cid: b"",
        keys: ring(),
    };
    drop(engine.accept(today(), accept).unwrap());
}
