//! Sessions that outlive the process.

use super::*;
use crate::dtls::mux::{Malformed, Saved};

/// Restarts the server: what was saved goes through bytes into another one.
pub(super) fn restart(rig: &mut Rig, make: MakeEngines<'_>) -> usize {
    let saved: Vec<_> = rig
        .server
        .save()
        .iter()
        .map(|saved| Saved::from_bytes(saved.to_bytes().expose()).unwrap())
        .collect();
    assert!(rig.server.is_empty());
    assert_eq!(rig.server.next_timeout(), None);
    rig.settle();
    rig.told.clear();
    let mut rng = StdRng::seed_from_u64(4711);
    rig.server = Mux::new(make(99).server, Limits::default(), &mut rng);
    rig.server.serve(LISTENER, Arc::new(Doubled));
    let restored = rig.server.restore(rig.now, saved);
    rig.settle();
    restored
}

#[test]
fn sessions_go_on_after_an_orderly_restart() {
    for make in [plain, without_cid] {
        let mut rig = Rig::new(&make);
        let (first, before) = rig.established(&make, 1);
        rig.assert_works(first, before);
        let (second, other) = rig.established(&make, 2);
        rig.assert_works(second, other);
        let replayed = rig.to_server.clone();

        assert_eq!(restart(&mut rig, &make), 2);
        let told: Vec<_> = rig
            .told
            .iter()
            .map(|told| match told {
                Output::Established {
                    session,
                    identity,
                    suite,
                } => (*session, (**identity).clone(), *suite),
                other => panic!("{other:?}"),
            })
            .collect();
        let suite = "TLS_PSK_WITH_AES_128_CCM_8";
        assert_eq!((&told[0].1, told[0].2), (&psk("device-1"), suite));
        assert_eq!((&told[1].1, told[1].2), (&psk("device-2"), suite));
        assert_eq!(rig.server.len(), 2);

        // What was sent before is still a replay, and each end still understands the other.
        rig.told.clear();
        for (from, datagram) in replayed {
            rig.server.receive(rig.now, from, &datagram);
        }
        while let Some(output) = rig.server.poll() {
            assert!(matches!(output, Output::Datagram { .. }), "{output:?}");
        }
        rig.assert_works(first, told[0].0);
        rig.assert_works(second, told[1].0);
        rig.pass(Duration::from_secs(24 * 3600));
        assert_eq!(rig.server.len(), 0);
    }
}

#[test]
fn a_restored_session_still_follows_its_peer_and_only_by_newer_records() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    let late = {
        let client = &mut rig.clients[client];
        client.mux.send(client.session, b"late");
        match client.mux.poll() {
            Some(Output::Datagram { bytes, .. }) => bytes,
            other => panic!("{other:?}"),
        }
    };
    rig.assert_works(client, session);
    restart(&mut rig, &plain);
    let session = rig.last_established();
    rig.inject(route(66), &late);
    assert_eq!(rig.heard(session), ["late"]);
    assert_eq!(rig.server.route(session), Some(route(1)));
    rig.clients[client].address = address(2);
    rig.assert_works(client, session);
    assert_eq!(rig.server.route(session), Some(route(2)));
}

#[test]
fn what_cannot_be_moved_is_left_behind() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    // No data of this peer yet, which the engine wants before.
    rig.established(&plain, 2);
    assert_eq!(rig.server.len(), 2);
    assert_eq!(rig.server.save().len(), 1);
    assert_eq!((rig.server.len(), rig.server.handshakes()), (0, 0));
}

#[test]
fn sessions_of_a_listener_that_is_gone_and_second_copies_are_not_restored() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    let saved = rig.server.save();
    let mut rng = StdRng::seed_from_u64(1);
    let mut other = Mux::new(plain(7).server, Limits::default(), &mut rng);
    assert_eq!(other.restore(rig.now, saved.clone()), 0);
    other.serve(LISTENER, Arc::new(Doubled));
    let twice = [saved.clone(), saved].concat();
    assert_eq!(other.restore(rig.now, twice), 1);
    assert_eq!((other.len(), other.counters().unrestored), (1, 2));
}

#[test]
fn bytes_that_are_no_saved_session_are_refused() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    let saved = rig.server.save().remove(0);
    let mut certified = saved.clone();
    certified.identity = PeerIdentity::X509 {
        leaf: vec![1, 2, 3],
        chain: vec![vec![4], vec![]],
        names: vec!["däs".into(), String::new()],
        authority: Some([9; 32]),
    };
    certified.route.address = "[fe80::1%7]:5684".parse().unwrap();
    certified.cid = None;
    let mut raw = saved.clone();
    raw.identity = PeerIdentity::RawPublicKey(vec![5; 91]);
    for saved in [saved, certified, raw] {
        let bytes = saved.to_bytes();
        let bytes = bytes.expose();
        assert_eq!(Saved::from_bytes(bytes), Ok(saved));
        for length in 0..bytes.len() {
            assert_eq!(Saved::from_bytes(&bytes[..length]), Err(Malformed));
        }
        assert_eq!(Saved::from_bytes(&[bytes, &[0]].concat()), Err(Malformed));
        let mut other_version = bytes.to_vec();
        other_version[0] += 1;
        assert_eq!(Saved::from_bytes(&other_version), Err(Malformed));
        // Whatever is changed: an answer, and no more memory than there are bytes.
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.to_vec();
                changed[at] ^= 1 << bit;
                let _ = Saved::from_bytes(&changed);
            }
        }
    }
}

#[test]
fn a_saved_session_shows_no_key() {
    let mut rig = Rig::new(&plain);
    let (client, session) = rig.established(&plain, 1);
    rig.assert_works(client, session);
    let saved = rig.server.save().remove(0);
    assert!(format!("{saved:?}").contains("engine: [secret]"));
}
