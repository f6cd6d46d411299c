//! Devices that sleep: the awake window, and what the gateway knows of them meanwhile.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use serde_json::Value as Json;

use crate::rig::{Rig, SENSOR, content};

pub const SECOND: Duration = Duration::from_secs(1);
const AVAILABILITY: &str = "lwm2mqtt/d/dev1/availability";

/// Registers a device by these parameters.
pub fn register(rig: &mut Rig, device: usize, query: &[&str]) {
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = ["ep=dev1"]
        .iter()
        .chain(query)
        .map(ToString::to_string)
        .collect();
    request.content_format = Some(40);
    request.payload = SENSOR.into();
    rig.request(device, request);
}

/// A device in queue mode with a lifetime of an hour, which has just registered.
pub fn sleepy() -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    for path in ["/3311/0/5850", "/3311/0/5851"] {
        rig.devices[device].answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    rig.devices[device].answer(Code::POST, "/3/0/4", Response::new(Code::CHANGED));
    register(&mut rig, device, &["lwm2m=1.1", "lt=3600", "Q"]);
    rig.run(3 * SECOND);
    (rig, device)
}

/// Sends an Update with these parameters.
pub fn update(rig: &mut Rig, device: usize, query: &[&str]) {
    let mut request = Request::new(Code::POST, rig.location(device));
    request.query = query.iter().map(ToString::to_string).collect();
    rig.request(device, request);
}

fn availability(rig: &Rig) -> (Json, Json) {
    let message = rig.broker.json(AVAILABILITY);
    (message["state"].clone(), message["reason"].clone())
}

fn states(rig: &Rig) -> Vec<String> {
    let messages = rig.broker.messages(AVAILABILITY);
    let mut states: Vec<_> = messages
        .iter()
        .map(|message| message["state"].as_str().unwrap().to_owned())
        .collect();
    states.dedup();
    states
}

// conformance: 1.1-int-108
#[test]
fn queue_mode_is_known_by_both_ways_of_saying_it_and_changed_by_an_update() {
    for (query, queue_mode) in [
        (&["lwm2m=1.0", "b=UQ"][..], true),
        (&["lwm2m=1.0", "b=UQS"], true),
        (&["lwm2m=1.0", "b=SQ"], true),
        (&["lwm2m=1.0", "b=U"], false),
        (&["lwm2m=1.1", "b=U", "Q"], true),
        (&["lwm2m=1.1", "Q="], true),
        (&["lwm2m=1.1", "b=U"], false),
        (&["lwm2m=1.1"], false),
    ] {
        let mut rig = Rig::new();
        let device = rig.add_sensor();
        register(&mut rig, device, query);
        rig.run(3 * SECOND);
        let message = rig.broker.json(AVAILABILITY);
        assert_eq!(message["queue_mode"], queue_mode, "{query:?}");
        assert_eq!(
            message.get("awake_until").is_some(),
            queue_mode,
            "{query:?}"
        );
    }
    let (mut rig, device) = sleepy();
    update(&mut rig, device, &["b=U"]);
    rig.run(200 * SECOND);
    assert_eq!(availability(&rig).0, "online", "it does not sleep any more");
    update(&mut rig, device, &["b=UQ"]);
    rig.run(200 * SECOND);
    assert_eq!(availability(&rig).0, "asleep");
}

// conformance: 1.1-int-109, P19
#[test]
fn nothing_is_sent_after_the_window_and_a_read_waits_for_the_next_update() {
    let (mut rig, device) = sleepy();
    rig.run(100 * SECOND);
    assert_eq!(
        availability(&rig),
        ("asleep".into(), "window_closed".into())
    );
    let (sent, asked) = (rig.sent, rig.devices[device].requests.len());
    rig.devices[device].answer(
        Code::GET,
        "/3303/0/5700",
        content(110, r#"[{"n":"/3303/0/5700","v":19.5}]"#),
    );
    rig.ask("lwm2mqtt/d/dev1/get/temperature-0/sensor-value", "");
    rig.run(1000 * SECOND);
    assert_eq!(
        (rig.sent, rig.devices[device].requests.len()),
        (sent, asked)
    );
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(rig.devices[device].requests.len(), asked + 1);
    let last = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(
        (&last["status"], &last["value"]),
        (&"done".into(), &19.5.into())
    );
}

// conformance: P19
#[test]
fn the_window_begins_anew_with_every_message() {
    let (mut rig, device) = sleepy();
    for round in 0..6 {
        rig.run(80 * SECOND);
        if round % 2 == 0 {
            update(&mut rig, device, &[]);
        } else {
            let value = content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{round}}}]"#));
            rig.notify(device, "/3303/0", value, round == 1);
        }
        rig.run(SECOND);
    }
    assert_eq!(states(&rig), ["online"]);
    // An answer is a message too: a command at the end of the window keeps the device awake.
    rig.run(90 * SECOND);
    rig.ask("lwm2mqtt/d/dev1/set/light-control-0/dimmer", "7");
    rig.run(90 * SECOND);
    assert_eq!(states(&rig), ["online"]);
    rig.run(4 * SECOND);
    assert_eq!(states(&rig), ["online", "asleep"]);
}

// conformance: P19
#[test]
fn a_device_that_fell_asleep_over_a_request_is_not_sent_it_again_until_it_wakes() {
    let (mut rig, device) = sleepy();
    rig.run(88 * SECOND);
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/set/light-control-0/dimmer", "7");
    rig.run(6 * SECOND);
    assert_eq!(availability(&rig).0, "asleep");
    let sent = rig.sent;
    rig.run(30 * SECOND);
    assert_eq!(rig.sent, sent, "nothing is repeated into the void");
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::PUT), ["/3311/0/5851"]);
    let last = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(last["status"], "done");
}

#[test]
fn a_device_is_asleep_then_late_then_offline() {
    let (mut rig, device) = sleepy();
    let registered = rig.broker.json(AVAILABILITY);
    rig.devices[device].dead = true;
    rig.run(3500 * SECOND);
    let message = rig.broker.json(AVAILABILITY);
    assert_eq!(
        (&message["state"], &message["reason"]),
        (&"asleep".into(), &"window_closed".into())
    );
    assert_eq!(
        message["last_seen"].as_str().unwrap()[..19],
        registered["last_seen"].as_str().unwrap()[..19]
    );
    assert_eq!(message["next_contact"], "2026-11-22T16:17:47.010Z");
    assert_eq!(message.get("awake_until"), None);
    rig.run(100 * SECOND);
    assert_eq!(availability(&rig), ("late".into(), "overdue".into()));
    rig.run(40 * SECOND);
    assert_eq!(
        availability(&rig),
        ("offline".into(), "lifetime_expired".into())
    );
    assert_eq!(states(&rig), ["online", "asleep", "late", "offline"]);
}

#[test]
fn a_device_that_misses_its_habit_is_late_long_before_its_lifetime_ends() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    register(&mut rig, device, &["lwm2m=1.1", "lt=86400", "Q"]);
    for _ in 0..4 {
        rig.run(600 * SECOND);
        update(&mut rig, device, &[]);
    }
    rig.run(100 * SECOND);
    let message = rig.broker.json(AVAILABILITY);
    assert_eq!(message["state"], "asleep");
    assert_eq!(message["next_contact"], "2026-11-22T16:09:20.010Z");
    rig.run(750 * SECOND);
    assert_eq!(availability(&rig).0, "asleep");
    rig.run(60 * SECOND);
    assert_eq!(availability(&rig), ("late".into(), "overdue".into()));
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(availability(&rig), ("online".into(), "update".into()));
}

#[test]
fn two_updates_at_once_teach_no_habit() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    register(&mut rig, device, &["lwm2m=1.1", "lt=86400", "Q"]);
    for _ in 0..5 {
        rig.run(SECOND);
        update(&mut rig, device, &[]);
    }
    rig.run(10_000 * SECOND);
    assert_eq!(availability(&rig).0, "asleep");
}

// conformance: P37, P40
#[test]
fn silence_of_a_sleeping_device_is_sleep_and_of_another_unreachable() {
    let (mut rig, device) = sleepy();
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/get/temperature-0/sensor-value", "");
    rig.run(200 * SECOND);
    assert_eq!(
        availability(&rig),
        ("asleep".into(), "window_closed".into())
    );

    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/get/temperature-0/sensor-value", "");
    rig.run(100 * SECOND);
    assert_eq!(availability(&rig), ("offline".into(), "unreachable".into()));
    let last = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(
        (&last["status"], &last["error"]["kind"]),
        (&"failed".into(), &"timeout".into())
    );
}
