//! Devices that an authority vouches for have no record of their own, so nothing but the proof
//! itself ties them to their names.

use super::*;
use crate::diagnostic::{Diagnostic, Severity};
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
