//! The agent ends and begins again between secured devices.

use super::*;
use crate::rig::Rig;

fn setup() -> Setup {
    let mut setup = Rig::setup(Plan::unmapped("lwm2mqtt"));
    setup.engine = Some(Box::new(Plain::new([9; 32])));
    setup.settings.server.policy.join = Join::Known;
    setup
}

#[test]
fn after_a_crash_a_device_goes_on_with_a_handshake_and_no_register() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    rig.crash();
    rig.start(setup());
    // It notices that its session is gone, and shakes hands anew.
    restart(&mut rig, sec1, Plain::new([100; 32]));
    assert_eq!(registrations(&rig), 1);
    assert_eq!(measured(&mut rig, sec1, 25.5), 25.5);
    assert_eq!(switched(&mut rig), "done");
    let observed = |request: &&Request| request.observe.is_some();
    let requests = &rig.devices[sec1].requests;
    assert_eq!(requests.iter().filter(observed).count(), 0);
}

#[test]
fn a_session_that_was_handed_over_finds_its_registration() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    rig.stop();
    let sessions = rig.gateway.save_sessions();
    assert_eq!(sessions.len(), 1);
    rig.start(setup());
    assert_eq!(rig.gateway.restore_sessions(rig.now, sessions), 1);
    rig.run(SECOND);
    assert_eq!(measured(&mut rig, sec1, 26.5), 26.5);
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(road(&mut rig, sec1).handshakes, 1);
    assert_eq!(registrations(&rig), 1);
}

#[test]
fn a_device_without_a_session_is_not_asked_and_not_taken_for_gone() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    rig.crash();
    let asked = rig.devices[sec1].requests.len();
    rig.start(setup());
    rig.run(120 * SECOND);
    assert_eq!(rig.devices[sec1].requests.len(), asked);
    assert_eq!(state(&rig), "online", "until its lifetime is over");
    rig.run(400 * SECOND);
    assert_eq!(state(&rig), "offline");
}

#[test]
fn a_key_that_was_taken_back_while_nobody_was_here_ends_the_registration() {
    let mut rig = rig_with_sec1();
    registered(&mut rig);
    rig.stop();
    let change = lwm2mqtt::server::credentials::Change::Remove("sec1".into());
    rig.kept.add(lwm2mqtt::kept::Change::Credential(change));
    rig.start(setup());
    rig.run(SECOND);
    assert_eq!(rig.broker.json(AVAILABILITY)["reason"], "blocked");
}
