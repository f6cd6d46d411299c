//! What anybody can send to a live session without having its key, kind by kind. Each leaves the
//! session as it is. Written for any pair of engines: see [`spoofed_datagrams!`].

use rand::RngExt;

use super::*;

/// A kind of datagram that is not of the peer.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    TooShort,
    RandomBytes,
    HelloWithoutCookie,
    HelloWithACookieFromElsewhere,
    UnprotectedAlert,
    HelloRequest,
    ChangeCipherSpec,
    UnprotectedHandshake,
    UnprotectedApplication,
    ForgedRecord,
    ReplayedDatagrams,
    ChangedRecord,
    TruncatedRecord,
    JunkBeforeAnAlert,
}

/// One test a kind, for a pair of engines.
macro_rules! spoofed_datagrams {
    ($make:expr) => {
        $crate::dtls::mux::tests::spoofed::spoofed_datagrams! { $make;
            datagrams_too_short_for_a_record_do_nothing: TooShort,
            random_bytes_do_nothing: RandomBytes,
            a_hello_without_cookie_does_nothing: HelloWithoutCookie,
            a_hello_with_a_cookie_from_elsewhere_does_nothing: HelloWithACookieFromElsewhere,
            an_unprotected_alert_does_nothing: UnprotectedAlert,
            a_hello_request_does_nothing: HelloRequest,
            an_unprotected_change_of_cipher_does_nothing: ChangeCipherSpec,
            unprotected_handshake_messages_do_nothing: UnprotectedHandshake,
            unprotected_application_data_does_nothing: UnprotectedApplication,
            a_forged_record_does_nothing: ForgedRecord,
            all_that_was_ever_sent_does_nothing_when_it_is_sent_again: ReplayedDatagrams,
            a_record_changed_on_the_way_does_nothing: ChangedRecord,
            a_record_cut_short_does_nothing: TruncatedRecord,
            junk_before_an_unprotected_alert_does_nothing: JunkBeforeAnAlert,
        }
    };
    ($make:expr; $($name:ident: $kind:ident,)*) => {
        $(
            #[test]
            fn $name() {
                use $crate::dtls::mux::tests::spoofed::{Kind, leaves_a_live_session_working};
                leaves_a_live_session_working(&$make, Kind::$kind);
            }
        )*
    };
}
pub(crate) use spoofed_datagrams;

mod with_connection_id {
    spoofed_datagrams!(super::super::plain);
}

mod without_connection_id {
    spoofed_datagrams!(super::super::without_cid);
}

mod with_an_engine_that_checks_what_it_is_given {
    spoofed_datagrams!(super::super::strict);
}

/// Sends datagrams of this kind from the session's own address, from elsewhere, and to another
/// listener, and checks that nobody could tell.
pub(crate) fn leaves_a_live_session_working(make: MakeEngines<'_>, kind: Kind) {
    let mut rig = Rig::new(make);
    let (client, session) = rig.established(make, 1);
    rig.assert_works(client, session);
    let other_listener = Route {
        listener: LISTENER + 1,
        ..route(1)
    };
    rig.server.serve(other_listener.listener, Arc::new(Doubled));
    rig.told.clear();

    let datagrams = datagrams(&mut rig, client, kind);
    for route in [route(1), route(77), other_listener] {
        for datagram in &datagrams {
            rig.inject(route, datagram);
        }
        assert!(rig.told.is_empty(), "{kind:?} at {route}: {:?}", rig.told);
        assert_eq!((rig.server.len(), rig.server.handshakes()), (1, 0));
        assert_eq!(rig.server.route(session), Some(self::route(1)));
        rig.assert_works(client, session);
    }
    rig.pass(Duration::from_secs(600));
    rig.assert_works(client, session);
    assert!(rig.told.is_empty(), "{kind:?} later: {:?}", rig.told);
}

#[test]
fn a_session_in_the_clients_role_bears_them_too() {
    for make in [plain, without_cid, strict] {
        leave_the_clients_end_working(&make);
    }
}

/// The same at the other end: what seems to come from the server.
pub(crate) fn leave_the_clients_end_working(make: MakeEngines<'_>) {
    let mut rig = Rig::new(make);
    let client = rig.join_with_cid(make, 1, credential("device-1"), &[1]);
    let session = rig.last_established();
    rig.assert_works(client, session);
    let seen: Vec<Vec<u8>> = rig.from_server.iter().map(|(_, at)| at.clone()).collect();
    let kinds = [
        Kind::TooShort,
        Kind::RandomBytes,
        Kind::HelloWithoutCookie,
        Kind::UnprotectedAlert,
        Kind::HelloRequest,
        Kind::ChangeCipherSpec,
        Kind::UnprotectedHandshake,
        Kind::UnprotectedApplication,
        Kind::ForgedRecord,
    ];
    let mut all: Vec<_> = kinds
        .into_iter()
        .flat_map(|kind| datagrams(&mut rig, client, kind))
        .chain(seen.iter().cloned())
        .collect();
    let mut changed = seen.last().unwrap().clone();
    changed[10] = changed[10].wrapping_add(100);
    all.push(changed);
    let server = Route {
        listener: 0,
        address: server_address(),
    };
    let elsewhere = Route {
        listener: 0,
        address: address(66),
    };
    for route in [server, elsewhere] {
        for datagram in &all {
            rig.clients[client].mux.receive(rig.now, route, datagram);
        }
        rig.settle();
        assert!(!rig.clients[client].closed);
        assert!(rig.clients[client].received.is_empty());
        assert_eq!(
            rig.clients[client].mux.route(rig.clients[client].session),
            Some(server)
        );
        rig.assert_works(client, session);
    }
}

/// Spoofed datagrams, given all that was sent so far.
fn datagrams(rig: &mut Rig, client: usize, kind: Kind) -> Vec<Vec<u8>> {
    let seen: Vec<Vec<u8>> = rig.to_server.iter().map(|(_, at)| at.clone()).collect();
    let mut rng = StdRng::seed_from_u64(9);
    let mut junk = |length: usize| -> Vec<u8> { (0..length).map(|_| rng.random()).collect() };
    let record = |content: u8, epoch: u8, sequence: u8, fragment: &[u8]| {
        let mut record = vec![content, 0xfe, 0xfd, 0, epoch, 0, 0, 0, 0, 0, sequence, 0];
        record.push(fragment.len() as u8);
        record.extend(fragment);
        record
    };
    match kind {
        Kind::TooShort => (0..13).map(|length| seen[0][..length].to_vec()).collect(),
        Kind::RandomBytes => (0..500).map(|length| junk(length % 100)).collect(),
        Kind::HelloWithoutCookie => vec![seen[0].clone()],
        Kind::HelloWithACookieFromElsewhere => {
            // Made for the same hello from another address.
            rig.inject(route(5), &seen[0]);
            let (to, request) = rig.from_server.last().unwrap();
            assert_eq!((*to, request.len()), (route(5), 48));
            let mut hello = seen[1].clone();
            let cookie = 25 + 34 + 1 + usize::from(hello[25 + 34]) + 1;
            assert_eq!(hello[cookie - 1], 20);
            assert_ne!(hello[cookie..cookie + 20], request[28..]);
            hello[cookie..cookie + 20].copy_from_slice(&request[28..]);
            vec![hello]
        }
        Kind::UnprotectedAlert => (0..=255)
            .flat_map(|alert| [[1, alert], [2, alert]])
            .map(|alert| record(21, 0, 9, &alert))
            .collect(),
        Kind::HelloRequest => vec![
            record(22, 0, 9, &[0; 12]),
            record(22, 0, 9, &[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ],
        Kind::ChangeCipherSpec => vec![record(20, 0, 9, &[1]), record(20, 1, 200, &[1])],
        Kind::UnprotectedHandshake => (0..=25)
            .flat_map(|kind| (0..5).map(move |number| (kind, number)))
            .filter(|(kind, _)| *kind != 1)
            .map(|(kind, number)| {
                let header = [kind, 0, 0, 4, 0, number, 0, 0, 0, 0, 0, 4];
                record(22, 0, 50 + number, &[&header[..], &[0, 2, 65, 66]].concat())
            })
            .collect(),
        Kind::UnprotectedApplication => {
            vec![record(23, 0, 9, b"open the door"), record(23, 0, 10, b"")]
        }
        Kind::ForgedRecord => (20..=23)
            .flat_map(|content| (0..4).map(move |epoch| (content, epoch)))
            .filter(|(_, epoch)| *epoch > 0)
            .map(|(content, epoch)| record(content, epoch, 255, &junk(40)))
            .chain(seen.iter().rev().take(1).flat_map(|last| {
                // With the right connection ID, if there is one.
                let mut forged = last.clone();
                forged[10] = forged[10].wrapping_add(100);
                let mut next_epoch = forged.clone();
                next_epoch[4] += 1;
                [forged, next_epoch]
            }))
            .collect(),
        Kind::ReplayedDatagrams => [seen.clone(), seen].concat(),
        Kind::ChangedRecord => {
            let genuine = unsent(rig, client);
            let changed = |at: usize| {
                let mut changed = genuine.clone();
                changed[at] ^= 1 << (at % 8);
                changed
            };
            (0..genuine.len()).map(changed).collect()
        }
        Kind::TruncatedRecord => {
            let genuine = unsent(rig, client);
            (0..genuine.len())
                .map(|length| genuine[..length].to_vec())
                .collect()
        }
        Kind::JunkBeforeAnAlert => {
            let last = seen.last().unwrap();
            let mut forged = last.clone();
            forged[10] = forged[10].wrapping_add(100);
            let alert = record(21, 0, 9, &[2, 40]);
            vec![
                [forged, alert.clone()].concat(),
                [last.clone(), alert].concat(),
            ]
        }
    }
}

/// A genuine datagram of a client that has not reached the server.
fn unsent(rig: &mut Rig, client: usize) -> Vec<u8> {
    let client = &mut rig.clients[client];
    client.mux.send(client.session, b"lost on the way");
    match client.mux.poll() {
        Some(Output::Datagram { bytes, .. }) => bytes,
        other => panic!("{other:?}"),
    }
}
