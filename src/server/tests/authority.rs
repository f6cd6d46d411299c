//! Devices that an authority vouches for have no record of their own, so nothing but the proof
//! itself ties them to their names.

use super::*;
use crate::diagnostic::{Diagnostic, Severity};
use crate::lwm2m::Path;
use crate::server::Operation;
use crate::server::credentials::{Placed, Psk, Record};

fn rig(join: Join) -> Rig {
    let mut rig = Rig::new(join);
    rig.replace_files(files(vec![authority_file()]));
    rig
}

fn placed(record: Record) -> Placed {
    Placed {
        record,
        place: Diagnostic::whole(Severity::Error, "", "d.toml", "", ""),
    }
}

/// A file with one device that has a key.
fn device_file(endpoint: &str) -> File {
    let origin = Origin::File("d.toml".into());
    let psk = Psk::new(endpoint.as_bytes(), Secret::new([1; 16]));
    let record = Record {
        psk: Some(psk),
        origin,
        ..Record::new(endpoint, START.unix)
    };
    File {
        name: "d.toml".into(),
        content: Some(Content {
            records: vec![placed(record)],
            ..Content::default()
        }),
    }
}

#[test]
fn a_stranger_in_clear_does_not_displace_a_device_that_proved_its_name() {
    let mut rig = rig(Join::Open);
    let (device, stranger) = (rig.secured("cert:leaf:dev1"), rig.in_clear());
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    let peer = rig.peer_of("dev1");
    assert!(matches!(peer, Some(Peer::Session(_))));
    assert_eq!(rig.register(stranger, "dev1"), Code::FORBIDDEN);
    assert_eq!(rig.peer_of("dev1"), peer);
    let Some(Event::Refused { refusal, .. }) = rig.events.last() else {
        panic!("{:?}", rig.events);
    };
    assert!(refusal.detail.contains("proved"), "{refusal}");
}

#[test]
fn nor_does_the_join_window_approve_it_in_clear() {
    let mut rig = rig(Join::Window);
    let now = rig.now;
    rig.server
        .with_book(now, |book| book.open_window(now, Duration::from_secs(60)));
    let (device, stranger) = (rig.secured("cert:leaf:dev1"), rig.in_clear());
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    assert_eq!(rig.register(stranger, "dev1"), Code::FORBIDDEN);
    assert!(rig.server.book().is_empty());
    assert!(matches!(rig.peer_of("dev1"), Some(Peer::Session(_))));
}

#[test]
fn a_device_is_put_out_with_the_authority_that_vouched_for_it() {
    let mut rig = rig(Join::Known);
    let device = rig.secured("cert:leaf:dev1");
    rig.secured("cert:other:dev2");
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    assert_eq!(rig.server.sessions(), 2);
    rig.replace_files(files(vec![]));
    assert_eq!(rig.peer_of("dev1"), None);
    let revoked = |event: &Event| matches!(event, Event::Revoked { removed: false, .. });
    assert!(rig.events.iter().any(revoked));
    // Nor is anything left of those that had not registered.
    assert_eq!(rig.server.sessions(), 0);
}

#[test]
fn an_authority_that_stays_keeps_its_devices_when_files_change() {
    let mut rig = rig(Join::Known);
    let device = rig.secured("cert:leaf:dev1");
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    let peer = rig.peer_of("dev1");
    rig.replace_files(files(vec![authority_file(), device_file("other")]));
    assert_eq!(rig.peer_of("dev1"), peer);
    assert_eq!(rig.server.sessions(), 1);
}

#[test]
fn a_file_with_a_credential_puts_out_who_is_there_without_it() {
    let mut rig = rig(Join::Open);
    let (plain, certified) = (rig.in_clear(), rig.secured("cert:leaf:dev2"));
    assert_eq!(rig.register(plain, "dev1"), Code::CREATED);
    assert_eq!(rig.register(certified, "dev2"), Code::CREATED);
    rig.replace_files(files(vec![authority_file(), device_file("dev1")]));
    assert_eq!(rig.peer_of("dev1"), None);
    assert!(rig.peer_of("dev2").is_some());
    rig.replace_files(files(vec![authority_file(), device_file("dev2")]));
    // It has a key of its own now, and did not come with it.
    assert_eq!(rig.peer_of("dev2"), None);
}

#[test]
fn of_two_certificates_for_one_endpoint_the_last_one_registered_takes_over() {
    let mut rig = rig(Join::Known);
    let first = rig.secured("cert:old:dev1");
    assert_eq!(rig.register(first, "dev1"), Code::CREATED);
    // The renewed certificate of the same device.
    let second = rig.secured("cert:new:dev1");
    assert_eq!(rig.register(second, "dev1"), Code::CREATED);
    let peer = rig.peer_of("dev1");
    // A new session with the old one takes nothing back by itself.
    rig.devices[first].address.set_port(41_000);
    rig.shake_hands(first, "cert:old:dev1");
    assert_eq!(rig.peer_of("dev1"), peer);
    // That with the new one does.
    rig.devices[second].address.set_port(41_001);
    rig.shake_hands(second, "cert:new:dev1");
    assert_ne!(rig.peer_of("dev1"), peer);
    assert!(rig.peer_of("dev1").is_some());
}

#[test]
fn a_certificate_for_two_endpoints_keeps_the_second_when_the_first_ends_and_takes_nothing_over() {
    let mut rig = rig(Join::Known);
    let device = rig.secured("cert:leaf:dev1,dev2");
    assert_eq!(rig.register(device, "dev1"), Code::CREATED);
    assert_eq!(rig.register(device, "dev2"), Code::CREATED);
    let now = rig.now;
    rig.server.with_book(now, |book| {
        // Ends what is registered as dev1.
        let psk = Psk::new(&b"dev1"[..], Secret::new([1; 16]));
        let record = Record {
            psk: Some(psk),
            ..Record::new("dev1", now.unix)
        };
        book.add(record).unwrap();
    });
    assert_eq!(rig.peer_of("dev1"), None);
    let before = rig.peer_of("dev2");
    assert!(before.is_some());
    // Which of the two handshakes anew is not known before it registers.
    rig.devices[device].address.set_port(41_000);
    rig.shake_hands(device, "cert:leaf:dev1,dev2");
    assert_eq!(rig.peer_of("dev2"), before);
    assert_eq!(rig.register(device, "dev2"), Code::CREATED);
    assert_ne!(rig.peer_of("dev2"), before);
}

/// A device with a certificate for two endpoints, one of which it has registered and observes.
fn one_of_two() -> (Rig, usize, Request) {
    let mut rig = rig(Join::Open);
    let device = rig.secured("cert:leaf:dev1,dev2");
    let registered = rig.register_for(device, "dev1", 300);
    let mut update = Request::new(Code::POST, ["rd"]);
    update.path = registered.location;
    observe(&mut rig, "dev1");
    (rig, device, update)
}

fn observe(rig: &mut Rig, endpoint: &str) {
    let number = rig.server.device_of(endpoint).unwrap();
    let operation = Operation::Observe(Path::instance(3, 0).into(), Default::default());
    rig.server.operate(rig.now, number, operation);
    rig.settle();
    assert_eq!(observed(rig, endpoint), 1);
}

fn observed(rig: &Rig, endpoint: &str) -> usize {
    let number = rig.server.device_of(endpoint).unwrap();
    rig.server.registration(number).unwrap().observed().count()
}

// conformance: CONMGMT-1.1-int-1350
#[test]
fn an_identity_of_several_endpoints_goes_on_at_a_new_address_by_its_location() {
    let (mut rig, device, update) = one_of_two();
    let before = rig.peer_of("dev1");
    rig.devices[device].address.set_port(7);
    rig.shake_hands(device, "cert:leaf:dev1,dev2");
    assert_eq!(
        rig.peer_of("dev1"),
        before,
        "the session does not say which"
    );
    assert_eq!(rig.ask(device, update).unwrap().code, Code::CHANGED);
    assert_ne!(rig.peer_of("dev1"), before);
    assert_eq!((observed(&rig, "dev1"), rig.server.sessions()), (1, 1));
    let number = rig.server.device_of("dev1").unwrap();
    let read = Operation::Read(Path::instance(3, 0).into());
    rig.devices[device].requests.clear();
    rig.server.operate(rig.now, number, read);
    rig.settle();
    assert_eq!(rig.devices[device].requests.len(), 1);
}

#[test]
fn a_location_is_of_no_use_to_another_identity() {
    let (mut rig, _, update) = one_of_two();
    let before = rig.peer_of("dev1");
    for identity in ["cert:other:dev1,dev2", "cert:leaf:dev1"] {
        let other = rig.secured(identity);
        assert_eq!(
            rig.ask(other, update.clone()).unwrap().code,
            Code::NOT_FOUND
        );
        let leave = Request {
            method: Code::DELETE,
            ..update.clone()
        };
        assert_eq!(rig.ask(other, leave).unwrap().code, Code::NOT_FOUND);
    }
    assert_eq!(rig.peer_of("dev1"), before);
}

#[test]
fn an_endpoint_that_comes_to_the_session_of_another_leaves_the_observations_of_that_alone() {
    let (mut rig, device, update) = one_of_two();
    let second = rig.secured("cert:leaf:dev1,dev2");
    assert_eq!(rig.register(second, "dev2"), Code::CREATED);
    observe(&mut rig, "dev2");
    assert_eq!(rig.ask(second, update).unwrap().code, Code::CHANGED);
    assert_eq!(rig.peer_of("dev1"), rig.peer_of("dev2"));
    assert_eq!((observed(&rig, "dev1"), observed(&rig, "dev2")), (0, 1));
    assert!(matches!(
        rig.events.iter().rev().find(|event| matches!(event, Event::Amended(_))),
        Some(Event::Amended(number)) if Some(*number) == rig.server.device_of("dev1")
    ));
    assert!(rig.devices[device].mux.is_some());
}

// conformance: P22
#[test]
fn an_update_in_clear_from_another_address_is_not_known() {
    let mut rig = rig(Join::Open);
    let (device, stranger) = (rig.in_clear(), rig.in_clear());
    let registered = rig.register_for(device, "dev1", 300);
    let mut update = Request::new(Code::POST, ["rd"]);
    update.path = registered.location;
    assert_eq!(
        rig.ask(stranger, update.clone()).unwrap().code,
        Code::NOT_FOUND
    );
    assert_eq!(rig.ask(device, update).unwrap().code, Code::CHANGED);
}
