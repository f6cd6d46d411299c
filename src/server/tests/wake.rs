//! When devices are looked at.

use super::*;

/// The deadlines that are set.
fn armed(rig: &Rig) -> Vec<Instant> {
    rig.server.deadlines.iter().map(|(at, _)| *at).collect()
}

fn register_sleeper(rig: &mut Rig) -> usize {
    let device = rig.in_clear();
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = ["ep=sleeper", "lt=86400", "lwm2m=1.1", "Q"]
        .map(str::to_owned)
        .into();
    request.payload = b"</1/0>,</3/0>".to_vec();
    assert_eq!(rig.ask(device, request).unwrap().code, Code::CREATED);
    device
}

#[test]
fn a_message_that_only_moves_the_window_on_sets_no_new_deadline() {
    let mut rig = Rig::new(Join::Open);
    let device = register_sleeper(&mut rig);
    let first = armed(&rig);
    assert_eq!(first, [START.instant + Duration::from_secs(93)]);
    for _ in 0..9 {
        rig.pass(Duration::from_secs(10));
        rig.ask(device, Request::new(Code::GET, ["x"]));
        assert_eq!(armed(&rig), first);
    }
    // It comes up while the device still listens, and is set to when the window really closes.
    rig.pass(Duration::from_secs(10));
    assert_eq!(armed(&rig), [START.instant + Duration::from_secs(90 + 93)]);
    let slept = |rig: &Rig| {
        rig.events
            .iter()
            .any(|event| matches!(event, Event::Slept(_)))
    };
    assert!(!slept(&rig));
    rig.pass(Duration::from_secs(82));
    assert!(!slept(&rig));
    rig.pass(Duration::from_secs(2));
    assert!(slept(&rig));
}

#[test]
fn a_deadline_that_comes_nearer_is_kept() {
    let mut rig = Rig::new(Join::Open);
    register_sleeper(&mut rig);
    let device = rig.server.device_of("sleeper").unwrap();
    let window = Some(Duration::from_secs(5));
    rig.server.set_awake_window(device, window);
    assert_eq!(armed(&rig), [START.instant + Duration::from_secs(5)]);
}
