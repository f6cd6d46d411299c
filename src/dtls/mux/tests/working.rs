//! Handshakes whose steps are taken elsewhere.

use super::*;

#[test]
fn a_costly_handshake_is_driven_by_works_until_it_is_established() {
    let mut rig = Rig::new(&costly);
    rig.keep_work = true;
    let client = rig.join(&costly, 1, credential("device-1"));
    let mut steps = 0;
    while let Some(work) = rig.works.pop_front() {
        rig.work(work);
        rig.settle();
        steps += 1;
    }
    assert_eq!(steps, 2, "the hello, and the client's last flight");
    assert_eq!(rig.server.len(), 1);
    let session = rig.last_established();
    rig.assert_works(client, session);
    assert!(rig.works.is_empty(), "what is established is driven here");
}

#[test]
fn datagrams_that_come_while_a_work_is_out_wait_for_it() {
    let mut rig = Rig::new(&costly);
    rig.keep_work = true;
    rig.join(&costly, 1, credential("device-1"));
    let hello = rig.works.pop_front().unwrap();
    rig.work(hello);
    rig.settle();
    let finished = rig.works.pop_front().unwrap();
    // The client grows impatient.
    rig.pass(Duration::from_secs(4));
    assert!(rig.works.is_empty());
    rig.work(finished);
    rig.settle();
    assert_eq!(rig.server.len(), 1);
    let session = rig.last_established();
    rig.assert_works(0, session);
}

#[test]
fn what_waits_for_a_work_is_bounded() {
    let limits = Limits {
        waiting_bytes: 1000,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&costly, limits);
    rig.keep_work = true;
    rig.join(&costly, 1, credential("device-1"));
    let work = rig.works.pop_front().unwrap();
    rig.clients[0].cut_off = true;
    let junk = [
        &[22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 100][..],
        &[7; 100],
    ]
    .concat();
    for _ in 0..50 {
        rig.inject(route(1), &junk);
    }
    assert_eq!(
        rig.server.counters().waiting_dropped,
        50 - 1000 / (113 + 64)
    );
    rig.work(work);
    rig.settle();
    assert_eq!(rig.works.len(), 1, "all that waited goes into one");
}

#[test]
fn only_so_many_works_are_out_and_those_behind_can_give_way() {
    let limits = Limits {
        work: 2,
        handshakes: 5,
        ..Limits::default()
    };
    let mut rig = Rig::with_limits(&costly, limits);
    rig.keep_work = true;
    for number in 0..8 {
        rig.join(&costly, number, credential("device"));
    }
    assert_eq!(rig.works.len(), 2);
    assert_eq!(rig.server.handshakes(), 5);
    assert_eq!(rig.server.counters().handshakes_evicted, 3);
    assert_eq!(rig.server.work.len(), 2 + 5, "two of them for nobody");
    // The two that are out come back to handshakes that gave way.
    let sent = rig.from_server.len();
    for work in std::mem::take(&mut rig.works) {
        rig.work(work);
    }
    rig.settle();
    assert_eq!(rig.from_server.len(), sent);
    while let Some(work) = rig.works.pop_front() {
        assert!(rig.works.len() < 2);
        rig.work(work);
        rig.settle();
    }
    assert_eq!((rig.server.len(), rig.server.handshakes()), (5, 0));
    assert_eq!(rig.server.work.len(), 0);
}

#[test]
fn a_work_that_comes_back_too_late_has_no_effect() {
    let mut rig = Rig::new(&costly);
    rig.keep_work = true;
    rig.join(&costly, 1, credential("device-1"));
    rig.clients[0].cut_off = true;
    let work = rig.works.pop_front().unwrap();
    rig.pass(Duration::from_secs(91));
    assert_eq!(rig.failures(), [Fatal::TimedOut]);
    let sent = rig.from_server.len();
    rig.work(work);
    rig.settle();
    assert_eq!(rig.from_server.len(), sent);
    assert_eq!((rig.server.len(), rig.server.handshakes()), (0, 0));
}

#[test]
fn a_costly_handshake_that_fails_is_told_and_a_costly_timeout_is_a_work_too() {
    let mut rig = Rig::new(&costly);
    rig.join(&costly, 1, credential("?nobody"));
    assert!(matches!(
        rig.failures()[..],
        [Fatal::UnknownIdentity { .. }]
    ));
    rig.keep_work = true;
    rig.join(&costly, 2, credential("device-2"));
    rig.clients[1].cut_off = true;
    let hello = rig.works.pop_front().unwrap();
    rig.work(hello);
    rig.settle();
    let sent = rig.from_server.len();
    rig.pass(Duration::from_secs(2));
    let timeout = rig.works.pop_front().unwrap();
    rig.work(timeout);
    rig.settle();
    assert_eq!(rig.from_server.len(), sent + 1, "the flight again");
}

#[test]
fn beside_a_costly_handshake_the_old_session_goes_on() {
    let mut rig = Rig::new(&costly);
    let (before, old) = rig.established(&costly, 1);
    rig.keep_work = true;
    rig.join(&costly, 1, credential("device-1"));
    assert_eq!(rig.works.len(), 1);
    rig.say(before, "still here");
    assert_eq!(rig.heard(old), ["still here"]);
    rig.keep_work = false;
    rig.settle();
    assert!(rig.has_closed(old));
    assert_eq!(rig.server.len(), 1);
}
