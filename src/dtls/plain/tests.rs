use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::dtls::{Event, Keys, PeerIdentity};
use crate::secret::Secret;

struct Anybody;

impl Keys for Anybody {
    fn psk(&self, _: &[u8]) -> Option<Secret> {
        Some(Secret::new(*b"the key"))
    }

    fn pins(&self, _: &[u8; 32]) -> bool {
        false
    }
}

type End = Box<dyn DtlsSession>;

fn client(engine: &Plain, key: &[u8]) -> End {
    let connect = Connect {
        credential: Credential::Psk {
            identity: b"me".to_vec(),
            key: Secret::new(key),
        },
        cid: Vec::new(),
    };
    engine.connect(Now::default(), &connect).unwrap()
}

fn server(engine: &Plain) -> End {
    let accept = Accept {
        cookie: &[],
        cid: &[7; 8],
        keys: Arc::new(Anybody),
    };
    engine.accept(Now::default(), accept).unwrap()
}

/// All that an end has to say now.
fn sent(end: &mut End) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    loop {
        match end.poll() {
            Event::Send(bytes) => sent.push(bytes.to_vec()),
            Event::Wait(_) => return sent,
            Event::App(_) | Event::Established(_) | Event::Closed => {}
        }
    }
}

/// Gives all that one end says to the other.
fn carry(from: &mut End, to: &mut End) -> Result<(), Fatal> {
    sent(from)
        .iter()
        .try_for_each(|datagram| to.datagram(Now::default(), datagram))
}

fn pair() -> (End, End) {
    let engine = Plain::new([1; 32]);
    let (mut client, mut server) = (client(&engine, b"the key"), server(&engine));
    carry(&mut client, &mut server).unwrap();
    carry(&mut server, &mut client).unwrap();
    carry(&mut client, &mut server).unwrap();
    let mut finished = None;
    loop {
        match server.poll() {
            Event::Send(bytes) => finished = Some(bytes.to_vec()),
            Event::Established(identity) => assert_eq!(identity, PeerIdentity::Psk(b"me".into())),
            Event::Wait(_) => break,
            other => panic!("{other:?}"),
        }
    }
    client.datagram(Now::default(), &finished.unwrap()).unwrap();
    assert!(matches!(client.poll(), Event::Established(_)));
    (client, server)
}

#[test]
fn each_record_is_taken_once_and_in_any_order_within_the_window() {
    let (mut client, mut server) = pair();
    let mut datagrams = Vec::new();
    for number in 0..100_u8 {
        client.send(&[number]).unwrap();
        datagrams.extend(sent(&mut client));
    }
    let mut taken = Vec::new();
    // Backwards: only the newest 64 are still in the window.
    for datagram in datagrams.iter().rev().chain(&datagrams) {
        server.datagram(Now::default(), datagram).unwrap();
        if let Event::App(bytes) = server.poll() {
            taken.push(bytes[0]);
        }
    }
    assert_eq!(taken, (36..100).rev().collect::<Vec<_>>());
}

#[test]
fn a_flight_without_answer_is_sent_again_and_given_up_in_the_end() {
    let engine = Plain::new([1; 32]);
    let mut end = client(&engine, b"the key");
    let mut now = Now::default();
    let mut flights = sent(&mut end).len();
    let failed = loop {
        let Event::Wait(Some(until)) = end.poll() else {
            panic!("it waits for nothing");
        };
        now = now + until.since(now.instant);
        if let Err(reason) = end.timeout(now) {
            break reason;
        }
        flights += sent(&mut end).len();
    };
    assert_eq!(failed, Fatal::TimedOut);
    assert_eq!(flights, 7);
    // 1 + 2 + 4 + … + 64 s.
    assert_eq!(
        now.instant.since(Now::default().instant),
        Duration::from_secs(127)
    );
}

#[test]
fn no_common_suite_and_an_old_version_are_named() {
    let engine = Plain::new([1; 32]);
    let other = Plain::new([2; 32]).with_suites(&[0xc02b, 0x00ae]);
    let (mut client_end, mut server_end) = (client(&other, b"the key"), server(&engine));
    assert_eq!(
        carry(&mut client_end, &mut server_end),
        Err(Fatal::NoCommonSuite {
            offered: vec![0xc02b, 0x00ae]
        })
    );
    // The alert that says so.
    assert_eq!(
        carry(&mut server_end, &mut client_end),
        Err(Fatal::Alert(40))
    );

    let mut client_end = client(&engine, b"the key");
    let mut hello = sent(&mut client_end).remove(0);
    hello[26] = 0xff;
    assert_eq!(
        server(&engine).datagram(Now::default(), &hello),
        Err(Fatal::Version)
    );
}

#[test]
fn a_session_goes_on_from_what_was_saved_and_a_handshake_cannot_be_saved() {
    let engine = Plain::new([1; 32]);
    assert!(client(&engine, b"the key").save().is_none());
    let (client, server) = pair();
    assert!(client.save().is_none(), "nothing has come from the server");
    drop(server);

    let (mut client, mut server) = pair();
    client.send(b"first").unwrap();
    let first = sent(&mut client).remove(0);
    server.datagram(Now::default(), &first).unwrap();
    assert!(matches!(server.poll(), Event::App(b"first")));
    let saved = server.save().unwrap();
    let mut server = engine.restore(Now::default(), saved.expose()).unwrap();
    server.datagram(Now::default(), &first).unwrap();
    assert!(matches!(server.poll(), Event::Wait(None)), "a replay");
    client.send(b"second").unwrap();
    carry(&mut client, &mut server).unwrap();
    assert!(matches!(server.poll(), Event::App(b"second")));
    server.close();
    let goodbye = sent(&mut server).remove(0);
    client.datagram(Now::default(), &goodbye).unwrap();
    assert!(matches!(client.poll(), Event::Closed));
    assert!(engine.restore(Now::default(), &[1, 2, 3]).is_err());
}

#[test]
fn certificates_are_beyond_it() {
    let connect = Connect {
        credential: Credential::X509 {
            chain: Vec::new(),
            key: Secret::new([]),
            server: crate::dtls::ServerTrust::Pinned([0; 32]),
        },
        cid: Vec::new(),
    };
    let refused = Plain::new([1; 32]).connect(Now::default(), &connect);
    assert!(matches!(refused.err(), Some(Fatal::Unsupported(_))));
}
