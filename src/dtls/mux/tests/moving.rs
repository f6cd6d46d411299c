//! A session whose peer is at another address all of a sudden (RFC 9146 §6).

use super::*;

#[test]
fn a_session_with_a_connection_id_survives_a_new_address_of_its_nat() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    rig.told.clear();
    rig.clients[client].address = address(2);
    rig.assert_works(client, session);
    assert!(matches!(
        rig.told[..],
        [Output::Moved { session: moved, from }] if moved == session && from == route(1)
    ));
    assert_eq!(rig.server.route(session), Some(route(2)));
    assert_eq!((rig.server.len(), rig.server.counters().moved), (1, 1));
    // And back again.
    rig.clients[client].address = address(1);
    rig.assert_works(client, session);
    assert_eq!(rig.server.route(session), Some(route(1)));
}

#[test]
fn a_session_without_connection_id_does_not_follow() {
    let mut rig = Rig::new(&without_cid);
    let (client, session) = rig.established(&without_cid, 1);
    rig.clients[client].address = address(2);
    rig.say(client, "here");
    assert!(rig.heard(session).is_empty());
    assert_eq!(rig.server.route(session), Some(route(1)));
    assert_eq!(rig.server.counters().strays, 1);
}

// conformance: P34
#[test]
fn a_replayed_record_from_elsewhere_moves_nothing() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    let seen = rig.to_server.clone();
    rig.told.clear();
    for (_, datagram) in seen {
        rig.inject(route(66), &datagram);
    }
    assert!(rig.told.is_empty());
    assert_eq!(rig.server.route(session), Some(route(1)));
    rig.assert_works(client, session);
}

// conformance: P34
#[test]
fn an_older_record_that_comes_late_from_elsewhere_is_taken_and_moves_nothing() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    let late = unsent(&mut rig, client, "late");
    rig.assert_works(client, session);
    rig.inject(route(66), &late);
    assert_eq!(rig.heard(session), ["late"]);
    assert_eq!(rig.server.route(session), Some(route(1)));
    assert_eq!(rig.server.counters().moved, 0);
}

// conformance: P34
#[test]
fn a_forged_number_before_a_genuine_record_does_not_pin_the_session() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    let genuine = unsent(&mut rig, client, "genuine");
    let mut forged = genuine.clone();
    forged[5] = 0xff;
    rig.inject(route(1), &[forged, genuine].concat());
    assert_eq!(rig.heard(session), ["genuine"]);
    rig.clients[client].address = address(2);
    rig.assert_works(client, session);
    assert_eq!(rig.server.route(session), Some(route(2)));
}

#[test]
fn a_record_that_comes_to_another_listener_is_not_taken() {
    let mut rig = Rig::new(&plain);
    rig.server.serve(LISTENER + 1, Arc::new(Doubled));
    let (client, session) = rig.established(&plain, 1);
    let datagram = unsent(&mut rig, client, "to another");
    let elsewhere = Route {
        listener: LISTENER + 1,
        ..route(1)
    };
    rig.inject(elsewhere, &datagram);
    assert!(rig.heard(session).is_empty());
    assert_eq!(rig.server.counters().unknown_cids, 1);
    rig.inject(route(1), &datagram);
    assert_eq!(rig.heard(session), ["to another"]);
}

#[test]
fn whoever_moves_onto_the_address_of_another_session_leaves_that_one_in_place() {
    let mut rig = Rig::new(&plain);
    let (resident, resident_session) = rig.established(&without_cid, 1);
    let (mover, moving_session) = rig.established(&plain, 2);
    let datagram = unsent(&mut rig, mover, "from your address");
    rig.inject(route(1), &datagram);
    assert_eq!(rig.heard(moving_session), ["from your address"]);
    assert_eq!(rig.server.route(moving_session), Some(route(1)));
    rig.assert_works(resident, resident_session);
    // The mover goes away again, and the resident is found as before.
    rig.assert_works(mover, moving_session);
    assert_eq!(rig.server.route(moving_session), Some(route(2)));
    rig.assert_works(resident, resident_session);
    rig.server.close(moving_session);
    rig.assert_works(resident, resident_session);
}

#[test]
fn a_port_that_a_nat_gives_to_another_peer_does_not_end_the_session_of_the_first() {
    let mut rig = Rig::new(&plain);
    let (first, first_session) = rig.established(&plain, 1);
    rig.assert_works(first, first_session);
    // Behind its back its port becomes another one's, who shakes hands there.
    rig.clients[first].address = address(500);
    let second = rig.join(&plain, 1, credential("another"));
    let second_session = rig.last_established();
    assert_ne!(first_session, second_session);
    assert!(!rig.has_closed(first_session));
    assert_eq!(rig.server.len(), 2);
    rig.assert_works(second, second_session);
    rig.assert_works(first, first_session);
    assert_eq!(rig.server.route(first_session), Some(route(500)));
    rig.assert_works(second, second_session);
}

#[test]
fn a_peer_that_begins_anew_at_its_address_ends_its_own_session_with_or_without_connection_id() {
    let mut rig = Rig::new(&plain);
    let (first, session) = rig.established(&plain, 1);
    rig.assert_works(first, session);
    rig.clients[first].cut_off = true;
    rig.established(&plain, 1);
    assert!(rig.has_closed(session));
    assert_eq!(rig.server.len(), 1);
}

#[test]
fn a_handshake_does_not_move() {
    let mut rig = Rig::new(&plain);
    rig.join(&plain, 1, credential("device-1"));
    let finished = rig.to_server.last().unwrap().1.clone();
    let hellos: Vec<_> = rig.to_server[..2].to_vec();
    // The same again up to the last flight, which comes from elsewhere.
    let mut rig = Rig::new(&plain);
    for (from, hello) in hellos {
        rig.inject(from, &hello);
    }
    assert_eq!(rig.server.handshakes(), 1);
    let protected = crate::dtls::record::records(&finished)
        .find(|record| record.epoch() == 1)
        .unwrap();
    rig.inject(route(66), protected.whole);
    assert_eq!(rig.server.counters().strays, 1);
    rig.inject(route(1), &finished);
    assert_eq!(rig.server.len(), 1);
}

fn unsent(rig: &mut Rig, client: usize, text: &str) -> Vec<u8> {
    let client = &mut rig.clients[client];
    client.mux.send(client.session, text.as_bytes());
    match client.mux.poll() {
        Some(Output::Datagram { bytes, .. }) => bytes,
        other => panic!("{other:?}"),
    }
}
