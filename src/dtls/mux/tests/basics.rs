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
