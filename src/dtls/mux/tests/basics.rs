//! The way in, and what is said on it.

use super::*;

#[test]
fn a_client_with_the_right_key_comes_in_and_both_understand_each_other() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    assert!(rig.clients[client].established);
    assert_eq!(**rig.server.identity(session).unwrap(), psk("device-1"));
    assert_eq!(rig.server.route(session), Some(route(1)));
    assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 0));
    rig.assert_works(client, session);
    let counters = rig.server.counters();
    assert_eq!(counters.hello_verify_requests, 1);
    assert_eq!(counters.handshakes_started, 1);
    assert_eq!(counters.handshakes_completed, 1);
    assert_eq!(counters.passed_over, 0);
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_alike_from_outside_and_not_from_inside() {
    let mut rig = Rig::new(&plain);
    let wrong = Credential::Psk {
        identity: "device-1".into(),
        key: Secret::new(*b"guessed"),
    };
    let first = rig.join(&plain, 1, wrong);
    rig.pass(Duration::from_secs(10));
    let second = rig.join(&plain, 2, credential("?nobody"));
    assert_eq!(rig.clients[first].failed, rig.clients[second].failed);
    assert_eq!(rig.clients[first].failed, [Fatal::Alert(20)]);
    let identity = |text: &str| text.as_bytes().to_vec();
    assert_eq!(
        rig.failures(),
        [
            Fatal::WrongKey {
                identity: identity("device-1")
            },
            Fatal::UnknownIdentity {
                identity: identity("?nobody")
            }
        ]
    );
    assert_eq!((rig.server.len(), rig.server.handshakes()), (0, 0));
    assert_eq!(rig.server.counters().handshakes_failed, 2);
}

#[test]
fn close_notify_ends_a_session_at_both_ends() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.server.close(session);
    rig.settle();
    assert!(rig.clients[client].closed);
    assert!(!rig.has_closed(session), "whoever closes knows");
    assert_eq!(rig.server.len(), 0);
    assert_eq!(rig.server.route(session), None);

    let (client, session) = rig.established(&plain, 2);
    let end = &mut rig.clients[client];
    end.mux.close(end.session);
    rig.settle();
    assert!(rig.has_closed(session));
    assert_eq!(rig.server.counters().sessions_closed, 1);
    assert_eq!(rig.server.len(), 0);
}

#[test]
fn what_is_for_no_session_is_counted_and_dropped() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.server.close(session);
    rig.answer(session, "too late");
    assert_eq!(rig.server.counters().unsendable, 1);
    rig.clients[client].cut_off = true;
    // Its place is taken by another one, which has another name.
    let (other, other_session) = rig.established(&plain, 2);
    assert_ne!(session, other_session);
    rig.answer(session, "too late");
    assert_eq!(rig.server.counters().unsendable, 2);
    assert!(rig.clients[other].received.is_empty());
    rig.server.close(session);
    rig.assert_works(other, other_session);
}

#[test]
fn a_listener_that_is_not_served_answers_nobody() {
    let mut rig = Rig::new(&plain);
    rig.join(&plain, 1, credential("device-1"));
    let sent = rig.from_server.len();
    let elsewhere = Route {
        listener: LISTENER + 1,
        ..route(1)
    };
    for (_, datagram) in rig.to_server.clone() {
        rig.inject(elsewhere, &datagram);
    }
    assert_eq!(rig.from_server.len(), sent);
    assert_eq!(rig.server.counters().unserved_datagrams, 3);
}

#[test]
fn what_is_not_dtls_is_counted_by_kind() {
    let mut rig = Rig::new(&plain);
    rig.inject(route(1), &[22; 12]);
    rig.inject(route(1), b"GET / HTTP/1.1\r\n\r\n");
    rig.inject(route(1), &[23, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    rig.inject(
        route(1),
        &[
            25, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0,
        ],
    );
    rig.inject(route(1), &[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
    let counters = rig.server.counters();
    assert_eq!(counters.short_datagrams, 1);
    assert_eq!(counters.malformed_datagrams, 1);
    assert_eq!(counters.strays, 1);
    assert_eq!(counters.unknown_cids, 1);
    assert_eq!(counters.bad_hellos, 1);
    assert!(rig.from_server.is_empty() && rig.told.is_empty());
}

#[test]
fn a_new_engine_makes_the_new_sessions_and_the_old_ones_go_on() {
    let mut rig = Rig::new(&plain);
    let (first, old) = rig.established(&plain, 1);
    rig.server.set_engine(costly(50).server);
    let (second, new) = rig.established(&costly, 2);
    rig.assert_works(first, old);
    rig.assert_works(second, new);
}

#[test]
fn a_client_retransmits_until_the_server_is_there() {
    let mut rig = Rig::new(&plain);
    let mut mux = Mux::new(
        plain(8).client,
        Limits::default(),
        &mut StdRng::seed_from_u64(8),
    );
    let connect = Connect {
        credential: credential("device-1"),
        cid: vec![1],
    };
    let server = Route {
        listener: 3,
        address: server_address(),
    };
    let id = mux.connect(rig.now, server, connect).unwrap();
    assert_eq!(mux.route(id), Some(server));
    assert!(matches!(mux.poll(), Some(Output::Datagram { .. })));
    assert!(mux.poll().is_none(), "the first hello is lost");
    mux.send(id, b"not yet");
    assert_eq!(mux.counters().unsendable, 1);
    rig.now = rig.now + mux.next_timeout().unwrap().since(rig.now.instant);
    mux.timeout(rig.now);
    let mut established = false;
    let mut answered = 0;
    while let Some(output) = mux.poll() {
        match output {
            Output::Datagram { bytes, .. } => rig.inject(route(1), &bytes),
            Output::Established { session, .. } => established = session == id,
            other => panic!("{other:?}"),
        }
        for (_, bytes) in &rig.from_server[answered..] {
            mux.receive(rig.now, server, bytes);
        }
        answered = rig.from_server.len();
    }
    assert!(established);
    // It wanted a connection ID for itself, so that is what the server sends.
    let session = rig.last_established();
    rig.answer(session, "by connection ID");
    assert_eq!(rig.from_server.last().unwrap().1[0], 25);
}

#[test]
fn a_client_gives_up_on_a_server_that_says_nothing_in_time() {
    let mut rig = Rig::new(&plain);
    let connect = Connect {
        credential: credential("we"),
        cid: Vec::new(),
    };
    let nowhere = Route {
        listener: 0,
        address: address(1),
    };
    rig.server.connect(rig.now, nowhere, connect).unwrap();
    rig.pass(Duration::from_secs(91));
    assert_eq!(rig.failures(), [Fatal::TimedOut]);
    assert_eq!(rig.server.handshakes(), 0);
    assert_eq!(rig.server.next_timeout(), None);
}

#[test]
fn the_same_seed_and_the_same_datagrams_make_the_same_run() {
    let run = || {
        let mut rig = Rig::new(&plain);
        let (client, session) = rig.established(&plain, 1);
        rig.assert_works(client, session);
        rig.pass(Duration::from_secs(500));
        rig.established(&plain, 2);
        rig.from_server
    };
    assert_eq!(run(), run());
}
