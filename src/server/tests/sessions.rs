//! What becomes of a device whose session ends, and what a device that comes anew leaves behind.

use super::*;
use crate::server::credentials::{Psk, Record};

fn rig() -> Rig {
    let mut rig = Rig::new(Join::Known);
    let psk = Psk::new(&b"id1"[..], Secret::new(*b"id1id1"));
    let record = Record {
        psk: Some(psk),
        ..Record::new("dev1", START.unix)
    };
    let now = rig.now;
    rig.server.with_book(now, |book| book.add(record).unwrap());
    rig
}

#[test]
fn a_device_that_shakes_hands_a_thousand_times_leaves_one_session_and_one_link() {
    let mut rig = rig();
    let device = rig.secured("id1");
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    let number = rig.server.device_of("dev1").unwrap();
    for round in 0..1000 {
        rig.devices[device].address.set_port(1000 + round);
        rig.shake_hands(device, "id1");
        let read = crate::server::Operation::Read(crate::lwm2m::Path::instance(3, 0).into());
        rig.server.operate(rig.now, number, read);
        rig.pass(Duration::from_millis(10));
    }
    assert_eq!(rig.devices[device].requests.len(), 1000);
    assert_eq!(rig.server.sessions(), 1);
    assert_eq!(rig.server.endpoint.links(), 1);
}

#[test]
fn a_device_that_shakes_hands_and_never_registers_leaves_no_link() {
    let mut rig = rig();
    let device = rig.secured("id1");
    for round in 0..100 {
        rig.devices[device].address.set_port(1000 + round);
        rig.shake_hands(device, "id1");
        // Refused, which leaves an answer to be repeated.
        assert_eq!(rig.register(device, "other"), Code::BAD_REQUEST);
    }
    rig.pass(Duration::from_secs(300));
    assert_eq!(rig.server.endpoint.links(), 0);
}

#[test]
fn a_session_lives_as_long_as_the_registration_of_its_device() {
    let mut rig = rig();
    let device = rig.secured("id1");
    let registered = rig.register_for(device, "dev1", 3 * 86_400);
    assert_eq!(registered.code, Code::CREATED);
    let mut update = Request::new(Code::POST, ["rd"]);
    update.path = registered.location;
    for _ in 0..3 {
        rig.pass(Duration::from_secs(25 * 3600));
        let updated = rig.ask(device, update.clone());
        assert_eq!(updated.map(|updated| updated.code), Some(Code::CHANGED));
    }
    // Once the device takes its leave, its session is idle as any.
    let leave = Request {
        method: Code::DELETE,
        ..update
    };
    assert_eq!(rig.ask(device, leave).unwrap().code, Code::DELETED);
    rig.pass(Duration::from_secs(25 * 3600));
    assert_eq!(rig.server.sessions(), 0);
}

#[test]
fn a_session_does_not_live_for_ever_because_a_lifetime_is_endless() {
    let mut rig = rig();
    let device = rig.secured("id1");
    assert_eq!(rig.register_for(device, "dev1", 0).code, Code::CREATED);
    rig.pass(Duration::from_secs(32 * 86_400));
    assert_eq!(rig.server.sessions(), 0);
}
