//! The same network with the engine that is there.

use sha2::{Digest, Sha256};

use super::spoofed::spoofed_datagrams;
use super::*;
use crate::dtls::{ServerTrust, mbedtls};

/// What sessions are made with outside of tests.
fn engines(_seed: u64) -> Engines {
    let engine = || Box::new(mbedtls::Engine::new(&mbedtls::Settings::default()).unwrap());
    Engines {
        server: engine(),
        client: engine(),
    }
}

mod spoofed {
    super::spoofed_datagrams!(super::engines);
}

#[test]
fn a_session_in_the_clients_role_bears_spoofed_datagrams_too() {
    super::spoofed::leave_the_clients_end_working(&engines);
}

#[test]
fn a_client_comes_in_moves_reboots_and_goes() {
    let mut rig = Rig::new(&engines);
    let (client, session) = rig.established(&engines, 1);
    assert_eq!(**rig.server.identity(session).unwrap(), psk("device-1"));
    rig.assert_works(client, session);
    rig.clients[client].address = address(2);
    rig.assert_works(client, session);
    assert_eq!(rig.server.route(session), Some(route(2)));
    assert_eq!(rig.server.counters().passed_over, 0);

    rig.clients[client].cut_off = true;
    let client = rig.join(&engines, 2, credential("device-1"));
    let after = rig.last_established();
    assert!(rig.has_closed(session));
    rig.assert_works(client, after);
    let end = &mut rig.clients[client];
    end.mux.close(end.session);
    rig.settle();
    assert!(rig.has_closed(after));
    assert!(rig.server.is_empty());
}

#[test]
fn a_wrong_key_and_an_unknown_identity_look_alike_from_outside() {
    let mut rig = Rig::new(&engines);
    let wrong = Credential::Psk {
        identity: "device-1".into(),
        key: Secret::new(*b"guessed"),
    };
    let first = rig.join(&engines, 1, wrong);
    rig.pass(Duration::from_secs(10));
    let second = rig.join(&engines, 2, credential("?nobody"));
    assert_eq!(rig.clients[first].failed, rig.clients[second].failed);
    assert_eq!(rig.clients[first].failed.len(), 1);
    assert!(matches!(
        rig.failures()[..],
        [Fatal::WrongKey { .. }, Fatal::UnknownIdentity { .. }]
    ));
    assert_eq!((rig.server.len(), rig.server.handshakes()), (0, 0));
}

#[test]
fn replayed_traffic_from_elsewhere_moves_nothing() {
    let mut rig = Rig::new(&engines);
    let (client, session) = rig.established(&engines, 1);
    rig.assert_works(client, session);
    for (_, datagram) in rig.to_server.clone() {
        rig.inject(route(66), &datagram);
    }
    assert_eq!(rig.server.route(session), Some(route(1)));
    assert_eq!(rig.server.counters().moved, 0);
    rig.assert_works(client, session);
}

#[test]
fn sessions_go_on_after_an_orderly_restart() {
    let mut rig = Rig::new(&engines);
    let (client, session) = rig.established(&engines, 1);
    rig.assert_works(client, session);
    assert_eq!(saving::restart(&mut rig, &engines), 1);
    let session = rig.last_established();
    rig.assert_works(client, session);
    rig.clients[client].address = address(2);
    rig.assert_works(client, session);
    assert_eq!(rig.server.route(session), Some(route(2)));
}

#[test]
fn a_server_that_wants_connection_ids_gets_them_from_a_client_that_wants_some() {
    let mut rig = Rig::new(&engines);
    let client = rig.join_with_cid(&engines, 1, credential("device-1"), &[1]);
    let session = rig.last_established();
    rig.assert_works(client, session);
    let content = |(_, bytes): &(Route, Vec<u8>)| bytes[0];
    assert_eq!(rig.to_server.last().map(content), Some(25));
    assert_eq!(rig.from_server.last().map(content), Some(25));
}

#[test]
fn random_datagrams_do_no_harm() {
    hostile::random_datagrams(&engines, 0..3);
}

#[test]
fn a_lost_last_flight_is_sent_again() {
    replacing::a_lost_last_flight(&engines);
}

// conformance: P33
#[test]
fn the_old_session_works_until_the_new_handshake_is_done() {
    replacing::beside_a_new_handshake(&engines);
}

/// A certificate that signs itself, and its key, PEM.
fn certificate(name: &str) -> (Vec<u8>, Secret) {
    let mut params = rcgen::CertificateParams::new(vec![name.into()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let key = Secret::new(key.serialize_pem().into_bytes());
    (certificate.der().to_vec(), key)
}

/// Everybody's certificate is good.
struct AnyPin;

impl Keys for AnyPin {
    fn psk(&self, _: &[u8]) -> Option<Secret> {
        None
    }

    fn pins(&self, _: &[u8; 32]) -> bool {
        true
    }
}

#[test]
fn certificates_are_exchanged_by_works_at_both_ends_and_survive_a_restart() {
    let (server_certificate, server_key) = certificate("gateway.example");
    let pin: [u8; 32] = Sha256::digest(&server_certificate).into();
    let make = |_: u64| {
        let settings = mbedtls::Settings {
            certificate: Some((server_certificate.clone(), server_key.clone())),
            ..mbedtls::Settings::default()
        };
        Engines {
            server: Box::new(mbedtls::Engine::new(&settings).unwrap()),
            ..engines(0)
        }
    };
    let (chain, key) = certificate("device-1");
    let device = Credential::X509 {
        chain: chain.clone(),
        key,
        server: ServerTrust::Pinned(pin),
    };
    let mut rig = Rig::new(&make);
    rig.server.serve(LISTENER, Arc::new(AnyPin));
    rig.keep_work = true;
    let client = rig.join(&make, 1, device);
    let mut steps = 0;
    while let Some(work) = rig.works.pop_front() {
        assert!(rig.server.is_empty(), "it is established by a work");
        rig.work(work);
        rig.settle();
        steps += 1;
    }
    assert!(steps >= 2, "{steps} steps");
    let session = rig.last_established();
    rig.assert_works(client, session);
    let is_device = |identity: &PeerIdentity| match identity {
        PeerIdentity::X509 { leaf, .. } => *leaf == chain,
        _ => false,
    };
    assert!(is_device(rig.server.identity(session).unwrap()));

    saving::restart(&mut rig, &make);
    let session = rig.last_established();
    assert!(is_device(rig.server.identity(session).unwrap()));
    rig.assert_works(client, session);
}
