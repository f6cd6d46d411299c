//! Runs that end because of something on our side.

use std::time::Duration;

use super::rig::Rig;
use crate::coap::{Code, Response};
use crate::server::bootstrap::*;

const KEYED: &str = r#"
schema = 1
[profile]
id = "keyed"
[match]
endpoint = "*"
[[server]]
uri = "coaps://gw.example:5684"
short_server_id = 101
"#;

/// A device that has a key of an earlier run, and is to be told that a second one is done.
fn at_the_end_of_its_second_run() -> Rig {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert!(matches!(rig.last(), News::Done { .. }));
    rig.device.held = Some(Vec::new());
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert_eq!((rig.server.bootstraps(), rig.kept().len()), (1, 1));
    rig
}

fn finish(rig: &mut Rig, code: Code) {
    let finish = rig.device.held.take().unwrap().pop().unwrap();
    let now = rig.now.instant;
    let answer = Response::new(code);
    rig.device.endpoint.respond(now, finish, answer);
    rig.settle();
}

#[test]
fn a_device_removed_while_it_is_bootstrapped_gets_no_key_back() {
    for code in [Code::NOT_ACCEPTABLE, Code::CHANGED] {
        let mut rig = at_the_end_of_its_second_run();
        let removed = rig.server.with_book(rig.now, |book| book.remove("gw1"));
        assert_eq!(removed.as_deref(), Ok("gw1"));
        rig.settle();
        assert!(rig.failure().1.contains("changed"), "{:?}", rig.failure());
        finish(&mut rig, code);
        assert_eq!((rig.server.bootstraps(), rig.kept()), (0, vec![]));
    }
}

#[test]
fn a_run_is_cut_when_the_window_that_its_key_ends_with_closes() {
    let mut rig = at_the_end_of_its_second_run();
    rig.run(Duration::from_secs(130));
    assert_eq!((rig.server.bootstraps(), rig.kept()), (0, vec![]));
    assert!(matches!(rig.last(), News::Failed { .. }));
}

#[test]
fn a_device_whose_key_could_not_be_stored_keeps_the_one_before() {
    let mut rig = Rig::with_window(KEYED);
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let first = rig.kept();
    rig.device.requests.clear();
    rig.disk_full = true;
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    let (_, detail) = rig.failure();
    assert!(
        detail.ends_with("could not be stored: the disk is full"),
        "{detail}"
    );
    assert_eq!(rig.kept(), first);
    // It is not told that it is done, so it does not use what it was told.
    let finished = rig.device.requests.iter().any(|it| it.starts_with("POST"));
    assert!(!finished, "{:?}", rig.device.requests);
    rig.disk_full = false;
    rig.bootstrap(&["ep=gw1", "pct=112"]);
    assert!(matches!(rig.last(), News::Done { .. }));
    assert_ne!(rig.kept(), first);
}
