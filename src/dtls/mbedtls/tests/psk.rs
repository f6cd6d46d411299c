use std::time::Duration;

use super::rig::*;
use crate::dtls::mbedtls::{Engine, LONGEST_KEY, Settings, suites};
use crate::dtls::{Accept, Engine as _, Fatal, PeerIdentity, suite_name};

#[test]
fn a_client_with_the_right_key_is_let_in_under_its_identity() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    pair.run();
    let dev1 = PeerIdentity::Psk(b"dev1".to_vec());
    assert_eq!(pair.server.identity, Some(dev1.clone()));
    assert_eq!(pair.client.identity, Some(dev1));
    assert_eq!((pair.client.wait, pair.server.wait), (None, None));
    pair.assert_works();
}

// conformance: 401
#[test]
fn every_suite_with_a_pre_shared_key_is_spoken() {
    let engine = server();
    for suite in suites::PSK {
        let client = engine.connect_with(today(), &dev1(), &[suite]).unwrap();
        let mut pair = Pair::begin(today(), &engine, client, ring(), b"");
        pair.run();
        pair.assert_works();
        assert_eq!(Some(pair.server.session.suite()), suite_name(suite));
        assert_eq!(Some(pair.client.session.suite()), suite_name(suite));
    }
}

#[test]
fn whichever_datagram_of_a_handshake_is_lost_it_is_sent_again() {
    let engine = server();
    let datagrams = 4;
    for lost in 0..=datagrams {
        let mut pair = Pair::psk(&engine, &dev1());
        let (count, seconds) = pair.run_losing(lost);
        pair.assert_works();
        assert_eq!(seconds > 0, lost < datagrams, "datagram {lost} of {count}");
    }
}

#[test]
fn an_answer_that_comes_when_the_time_is_up_counts() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    for _ in 0..6 {
        // Nobody was told that the time is up; the datagrams tell it.
        pair.now = pair.now + Duration::from_secs(2);
        for datagram in pair.client.take() {
            pair.server.feed(pair.now, &datagram);
        }
        for datagram in pair.server.take() {
            pair.client.feed(pair.now, &datagram);
        }
    }
    assert!(pair.client.identity.is_some() && pair.server.identity.is_some());
    pair.run();
    pair.assert_works();
}

// conformance: P40
#[test]
fn a_peer_that_stops_answering_is_given_up_after_half_a_minute() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    let hello = pair.client.take().remove(0);
    pair.server.feed(pair.now, &hello);
    let flight = pair.server.take();
    let mut again = 0;
    let begin = pair.now.instant;
    while pair.server.failed.is_none() {
        let until = pair.server.wait.expect("a timer runs");
        let rest = until.since(pair.now.instant);
        pair.pass(rest);
        again += usize::from(!pair.server.take().is_empty());
    }
    assert_eq!(pair.server.failed, Some(Fatal::TimedOut));
    assert!(!flight.is_empty());
    assert_eq!(again, 4);
    assert_eq!(pair.now.instant.since(begin), Duration::from_secs(31));
    assert_eq!(pair.server.wait, None);
}

#[test]
fn a_wrong_key_and_an_unknown_identity_differ_for_us_and_not_for_the_client() {
    let engine = server();
    let mut wrong = Pair::psk(&engine, &psk("dev1", b"another key"));
    wrong.run();
    let mut unknown = Pair::psk(&engine, &psk("dev2", b"0123456789abcdef"));
    unknown.run();
    let identity = |name: &str| name.as_bytes().to_vec();
    assert_eq!(
        wrong.server.failed,
        Some(Fatal::WrongKey {
            identity: identity("dev1")
        })
    );
    assert_eq!(
        unknown.server.failed,
        Some(Fatal::UnknownIdentity {
            identity: identity("dev2")
        })
    );
    for pair in [wrong, unknown] {
        assert_eq!(pair.client.failed, Some(Fatal::Alert(20)));
        assert_eq!((pair.client.identity, pair.server.identity), (None, None));
    }
}

#[test]
fn a_key_that_the_library_cannot_take_is_said_to_be_ours_to_mend() {
    let engine = server();
    let keys = Ring {
        psk: vec![(b"dev1".to_vec(), vec![7; LONGEST_KEY + 1])],
        pins: Vec::new(),
    };
    let client = engine.connect(today(), &dev1()).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, std::sync::Arc::new(keys), b"");
    pair.run();
    let Some(Fatal::Ours(sentence)) = &pair.server.failed else {
        panic!("{:?}", pair.server.failed);
    };
    assert_eq!(
        sentence,
        "key of PSK identity \"dev1\" has 33 bytes, and has to have 1 to 32"
    );
    let Err(Fatal::Ours(sentence)) = engine.connect(today(), &psk("dev1", &[7; 40])) else {
        panic!("a client takes a key of 40 bytes");
    };
    assert!(
        sentence.contains("the pre-shared key has 40 bytes"),
        "{sentence}"
    );
}

#[test]
fn the_longest_key_works() {
    let engine = server();
    let key = vec![7; LONGEST_KEY];
    let keys = Ring {
        psk: vec![(b"dev1".to_vec(), key.clone())],
        pins: Vec::new(),
    };
    let client = engine.connect(today(), &psk("dev1", &key)).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, std::sync::Arc::new(keys), b"");
    pair.run();
    pair.assert_works();
}

#[test]
fn a_client_with_nothing_that_we_speak_is_told_apart_with_what_it_offers() {
    let engine = server();
    // TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8: we have no certificate.
    let client = engine.connect_with(today(), &dev1(), &[0xc0ae]).unwrap();
    let mut pair = Pair::begin(today(), &engine, client, ring(), b"");
    pair.run();
    let Some(Fatal::NoCommonSuite { offered }) = &pair.server.failed else {
        panic!("{:?}", pair.server.failed);
    };
    assert_eq!(offered[..], [0xc0ae, 0x00ff]);
    let sentence = pair.server.failed.as_ref().map(ToString::to_string);
    let sentence = sentence.unwrap();
    assert!(
        sentence.contains("TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8"),
        "{sentence}"
    );
    assert_eq!(pair.client.failed, Some(Fatal::Alert(40)));
}

#[test]
fn a_client_of_dtls_1_0_is_told_apart() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    let mut hello = pair.client.take().remove(0);
    hello[25..27].copy_from_slice(&[254, 255]);
    pair.server.feed(pair.now, &hello);
    assert_eq!(pair.server.failed, Some(Fatal::Version));
}

#[test]
fn a_client_without_any_extension_is_served() {
    let engine = server();
    let mut pair = Pair::psk(&engine, &dev1());
    let mut hello = pair.client.take().remove(0);
    // Version, random, session id, cookie, suites, compression: then extensions, if any.
    let cookie = 25 + 34 + 1;
    let suites = cookie + 1 + COOKIE.len();
    let length = usize::from(u16::from_be_bytes([hello[suites], hello[suites + 1]]));
    let extensions = suites + 2 + length + 2;
    assert!(hello.len() > extensions + 2);
    hello.truncate(extensions);
    let body = u16::try_from(hello.len() - 25).unwrap();
    hello[11..13].copy_from_slice(&(body + 12).to_be_bytes());
    for at in [15, 23] {
        hello[at..at + 2].copy_from_slice(&body.to_be_bytes());
    }
    pair.server.feed(pair.now, &hello);
    assert_eq!(pair.server.failed, None);
    // ServerHello and ServerHelloDone: our client cannot follow, it knows what it has sent.
    assert!(!pair.server.take().is_empty());
}

#[test]
fn a_hello_with_another_cookie_than_the_proven_one_gets_no_session() {
    let engine = server();
    let mut last = COOKIE.to_vec();
    last[COOKIE.len() - 1] ^= 1;
    for cookie in [&last[..], &COOKIE[..COOKIE.len() - 1], b"another"] {
        let mut client = End::new(engine.connect(today(), &dev1()).unwrap());
        let hello = with_cookie(&mut client, today(), cookie);
        let accept = Accept {
            cookie: COOKIE,
            cid: b"",
            keys: ring(),
        };
        let mut server = End::new(engine.accept(today(), accept).unwrap());
        server.feed(today(), &hello);
        assert!(
            matches!(server.failed, Some(Fatal::Protocol(_))),
            "{:?}",
            server.failed
        );
    }
}

#[test]
fn a_connection_id_of_another_length_than_the_engines_is_refused() {
    let engine = Engine::new(&Settings {
        cid_length: 4,
        ..Settings::default()
    })
    .unwrap();
    let accept = Accept {
        cookie: COOKIE,
        cid: b"123456",
        keys: ring(),
    };
    assert!(engine.accept(today(), accept).is_err());
    let settings = Settings {
        cid_length: 33,
        ..Settings::default()
    };
    assert!(Engine::new(&settings).is_err());
}
