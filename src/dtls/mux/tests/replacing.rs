//! A client that says hello where a session is (RFC 6347 §4.2.8).

use super::*;

// conformance: P33
#[test]
fn a_rebooted_client_on_the_same_port_is_served_within_one_handshake() {
    let mut rig = Rig::new(&without_cid);
    let (before, old) = rig.established(&without_cid, 1);
    rig.assert_works(before, old);
    rig.clients[before].cut_off = true;
    let (after, new) = rig.established(&without_cid, 1);
    assert_ne!(old, new);
    assert!(rig.has_closed(old));
    assert_eq!(rig.server.identity(old), None);
    assert_eq!(rig.server.len(), 1);
    assert_eq!(rig.server.counters().sessions_replaced, 1);
    rig.assert_works(after, new);
    // The old one is told before the new one.
    let order: Vec<_> = rig
        .told
        .iter()
        .filter_map(|told| match told {
            Output::Closed { session } | Output::Established { session, .. } => Some(*session),
            _ => None,
        })
        .collect();
    assert_eq!(order, [old, old, new]);
}

// conformance: P33
#[test]
fn the_old_session_works_until_the_new_handshake_is_done() {
    beside_a_new_handshake(&plain);
    beside_a_new_handshake(&without_cid);
}

pub(super) fn beside_a_new_handshake(make: MakeEngines<'_>) {
    let mut rig = Rig::new(make);
    let (before, old) = rig.established(make, 1);
    begin_again(&mut rig, make, 2);
    assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 1));
    rig.assert_works(before, old);
    // Its unfinished rival goes, and it stays.
    rig.pass(Duration::from_secs(91));
    assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 0));
    assert_eq!(rig.failures(), [Fatal::TimedOut]);
    rig.assert_works(before, old);
    assert!(!rig.has_closed(old));
}

#[test]
fn a_new_handshake_with_a_wrong_key_leaves_the_old_session_alone() {
    let mut rig = Rig::new(&without_cid);
    let (before, old) = rig.established(&without_cid, 1);
    rig.clients[before].cut_off = true;
    let wrong = Credential::Psk {
        identity: "device-1".into(),
        key: Secret::new(*b"guessed"),
    };
    let other = rig.join(&without_cid, 1, wrong);
    assert_eq!(rig.clients[other].failed, [Fatal::Alert(20)]);
    assert_eq!(rig.failures().len(), 1);
    rig.clients[other].cut_off = true;
    rig.clients[before].cut_off = false;
    rig.assert_works(before, old);
}

#[test]
fn records_of_the_old_session_do_not_disturb_the_new_handshake() {
    let mut rig = Rig::new(&strict_without_cid);
    let (before, old) = rig.established(&strict_without_cid, 1);
    rig.assert_works(before, old);
    // Late ones: the client had sent them before it rebooted.
    let old_client = &mut rig.clients[before];
    old_client.mux.send(old_client.session, b"late");
    let Some(Output::Datagram { bytes: late, .. }) = old_client.mux.poll() else {
        panic!("nothing sent");
    };
    let replayed = rig.to_server.last().unwrap().1.clone();
    let (_, last) = begin_again(&mut rig, &strict_without_cid, 2);
    rig.inject(route(1), &replayed);
    rig.inject(route(1), &late);
    assert_eq!(rig.heard(old), ["late"]);
    rig.inject(route(1), &last.unwrap());
    assert_eq!(rig.server.len(), 1);
    assert!(rig.has_closed(old));
    assert_ne!(rig.last_established(), old);
}

#[test]
fn a_hello_that_comes_again_goes_to_the_handshake_it_began() {
    let mut rig = Rig::new(&plain);
    let (flights, _) = begin_again(&mut rig, &plain, 2);
    let sent = rig.from_server.len();
    rig.inject(route(1), &flights[1]);
    assert_eq!(rig.server.handshakes(), 1);
    assert_eq!(rig.server.counters().handshakes_started, 1);
    let again = &rig.from_server[sent..];
    assert_eq!(again.len(), 1, "the server's flight, said again");
}

#[test]
fn a_hello_that_comes_again_after_the_handshake_begins_nothing() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    let hello = rig.to_server[1].1.clone();
    rig.inject(route(1), &hello);
    assert_eq!(rig.server.handshakes(), 0);
    assert_eq!(rig.server.counters().late_hellos, 1);
    rig.assert_works(client, session);
}

#[test]
fn a_client_whose_random_numbers_repeat_after_a_reboot_is_served_all_the_same() {
    let mut rig = Rig::new(&plain);
    let (client, old) = rig.established(&plain, 1);
    rig.assert_works(client, old);
    let hello = rig.to_server[0].1.clone();
    rig.clients.pop();
    rig.to_server.clear();
    // Too soon to tell from a late one: it has to repeat it.
    rig.join(&plain, 1, credential("device-1"));
    assert_eq!(rig.to_server[0].1, hello);
    assert!(!rig.clients[0].established);
    rig.pass(Duration::from_secs(20));
    assert!(rig.clients[0].established);
    let new = rig.last_established();
    assert!(rig.has_closed(old));
    rig.assert_works(0, new);
}

#[test]
fn a_client_that_begins_anew_in_the_middle_replaces_its_own_handshake() {
    let mut rig = Rig::new(&plain);
    begin_again(&mut rig, &plain, 2);
    let (client, session) = rig.established(&plain, 1);
    assert_eq!(rig.server.counters().handshakes_replaced, 1);
    assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 0));
    rig.assert_works(client, session);
}

#[test]
fn a_lost_last_flight_is_sent_again() {
    a_lost_last_flight(&plain);
    a_lost_last_flight(&without_cid);
}

pub(super) fn a_lost_last_flight(make: MakeEngines<'_>) {
    let mut rig = Rig::new(make);
    let (_, finished) = begin_again(&mut rig, make, 2);
    rig.inject(route(1), &finished.unwrap());
    while let Some(output) = rig.clients.last_mut().unwrap().mux.poll() {
        if let Output::Datagram { bytes, .. } = output {
            // What is left of its flight, where that is more than one datagram.
            rig.inject(route(1), &bytes);
        }
    }
    assert_eq!(rig.server.len(), 1);
    let seen = rig.from_server.len();

    // The client never heard that the server is done, and says its part again.
    let client = rig.clients.last_mut().unwrap();
    let due = client.mux.next_timeout().unwrap();
    rig.now = rig.now + due.since(rig.now.instant);
    client.mux.timeout(rig.now);
    let mut again = Vec::new();
    while let Some(output) = client.mux.poll() {
        if let Output::Datagram { bytes, .. } = output {
            again.push(bytes);
        }
    }
    assert!(!again.is_empty());
    for datagram in &again {
        rig.inject(route(1), datagram);
    }
    let answered = rig.from_server.len();
    assert!(answered > seen);
    for datagram in &again {
        rig.inject(route(1), datagram);
    }
    assert_eq!(rig.from_server.len(), answered, "the very same is a replay");
    assert_eq!(rig.server.len(), 1);
}

#[test]
fn a_server_that_we_are_the_client_of_cannot_turn_round() {
    let mut rig = Rig::new(&plain);
    let connect = Connect {
        credential: credential("we"),
        cid: Vec::new(),
    };
    let id = rig.server.connect(rig.now, route(1), connect).unwrap();
    let (flights, _) = begin_again(&mut rig, &plain, 2);
    assert_eq!(flights.len(), 2);
    assert_eq!(rig.server.counters().bad_hellos, 1);
    assert_eq!(rig.server.route(id), Some(route(1)));
    assert_eq!(rig.server.handshakes(), 1);
}

/// A client at address 1 begins a handshake of which only so many datagrams reach the server.
/// Returns these datagrams, and the one that it would send next.
fn begin_again(
    rig: &mut Rig,
    make: MakeEngines<'_>,
    datagrams: usize,
) -> (Vec<Vec<u8>>, Option<Vec<u8>>) {
    let seed = 1000 + rig.clients.len() as u64;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut mux = Mux::new(make(seed).client, Limits::default(), &mut rng);
    let server = Route {
        listener: 0,
        address: server_address(),
    };
    let connect = Connect {
        credential: credential("device-1"),
        cid: Vec::new(),
    };
    let session = mux.connect(rig.now, server, connect).unwrap();
    let mut sent = Vec::new();
    let mut next = None;
    while let Some(output) = mux.poll() {
        let Output::Datagram { bytes, .. } = output else {
            continue;
        };
        if sent.len() == datagrams {
            next = Some(bytes);
            break;
        }
        let answered = rig.from_server.len();
        rig.inject(route(1), &bytes);
        sent.push(bytes);
        for (_, answer) in &rig.from_server[answered..] {
            mux.receive(rig.now, server, answer);
        }
    }
    rig.clients.push(Client {
        mux,
        // Nothing more reaches it.
        address: address(9999),
        session,
        established: false,
        received: Vec::new(),
        failed: Vec::new(),
        closed: false,
        cut_off: true,
    });
    (sent, next)
}
