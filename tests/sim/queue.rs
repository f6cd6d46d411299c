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
    sleepy_in(Rig::new())
}

/// The same with a mapping.
pub fn sleepy_with(mapping: &str) -> (Rig, usize) {
    sleepy_in(Rig::with_mapping(mapping))
}

fn sleepy_in(mut rig: Rig) -> (Rig, usize) {
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

// wish: 6
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

const REPLY: &str = "lwm2mqtt/d/dev1/reply";
const SWITCH: &str = "lwm2mqtt/d/dev1/set/light-control-0/on-off";
const DIMMER: &str = "lwm2mqtt/d/dev1/set/light-control-0/dimmer";
const QUEUE: &str = "lwm2mqtt/d/dev1/queue";
const TARGET: &str = "lwm2mqtt/d/dev1/target/light-control-0/dimmer";

/// A device in queue mode that sleeps.
fn asleep() -> (Rig, usize) {
    let (mut rig, device) = sleepy();
    rig.run(100 * SECOND);
    (rig, device)
}

/// What was said of a command, by its id: `queued`, `sent` …
fn said(rig: &Rig, id: &str) -> Vec<String> {
    let replies = rig.broker.messages(REPLY);
    let of_it = replies.iter().filter(|reply| reply["id"] == id);
    of_it
        .map(|reply| reply["status"].as_str().unwrap().to_owned())
        .collect()
}

fn last(rig: &Rig, id: &str) -> Json {
    let replies = rig.broker.messages(REPLY);
    let mut of_it = replies.into_iter().filter(|reply| reply["id"] == id);
    of_it.next_back().unwrap()
}

// wish: 16
#[test]
fn a_command_for_a_sleeping_device_is_queued_sent_and_done() {
    let (mut rig, device) = asleep();
    rig.ask(DIMMER, r#"{"value":7,"id":"c"}"#);
    let queued = last(&rig, "c");
    assert_eq!(
        (
            &queued["status"],
            &queued["final"],
            &queued["why"],
            &queued["position"]
        ),
        (&"queued".into(), &false.into(), &"asleep".into(), &1.into())
    );
    assert_eq!(queued["next_wake"], "2026-11-22T16:17:47.010Z");
    assert_eq!(queued["expires"], "2026-11-23T15:21:03.000Z");
    assert_eq!(rig.broker.json(QUEUE)["commands"][0]["id"], "c");
    let target = rig.broker.json(TARGET);
    assert_eq!((&target["value"], &target["id"]), (&7.into(), &"c".into()));
    rig.run(500 * SECOND);
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(said(&rig, "c"), ["queued", "sent", "done"]);
    let done = last(&rig, "c");
    assert_eq!(
        (&done["attempts"], &done["ms"], &done["code"]),
        (&1.into(), &500_030.into(), &"2.04".into())
    );
    assert!(!rig.broker.retained.contains_key(QUEUE));
    assert!(!rig.broker.retained.contains_key(TARGET));
}

#[test]
fn the_newest_write_of_a_resource_wins_and_everything_else_keeps_its_order() {
    let (mut rig, device) = asleep();
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", r#"{"id":"b"}"#);
    rig.ask(SWITCH, r#"{"value":true,"id":"c"}"#);
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", r#"{"id":"d"}"#);
    rig.ask(DIMMER, r#"{"value":9,"id":"e"}"#);
    let superseded = last(&rig, "a");
    assert_eq!(
        (
            &superseded["status"],
            &superseded["by"],
            &superseded["final"]
        ),
        (&"superseded".into(), &"e".into(), &true.into())
    );
    assert_eq!(rig.broker.json(TARGET)["id"], "e");
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    let asked: Vec<_> = rig.devices[device].requests[before..]
        .iter()
        .map(|request| format!("/{}", request.path.join("/")))
        .collect();
    assert_eq!(asked, ["/3/0/4", "/3311/0/5850", "/3/0/4", "/3311/0/5851"]);
    for id in ["b", "c", "d", "e"] {
        assert_eq!(said(&rig, id), ["queued", "sent", "done"], "{id}");
    }
}

// conformance: P19
#[test]
fn a_device_that_woke_is_asked_one_thing_at_a_time() {
    let (mut rig, device) = asleep();
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.ask(SWITCH, r#"{"value":true,"id":"b"}"#);
    update(&mut rig, device, &[]);
    // The Update, its answer and the first request, and nothing that follows from its answer.
    rig.run(Duration::from_millis(25));
    assert_eq!((said(&rig, "a").len(), said(&rig, "b").len()), (2, 1));
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 2);
}

// wish: 20
#[test]
fn what_waits_longer_than_it_may_expires() {
    let (mut rig, device) = asleep();
    rig.ask(DIMMER, r#"{"value":7,"id":"a","ttl":"10m"}"#);
    rig.run(700 * SECOND);
    assert_eq!(said(&rig, "a"), ["queued", "expired"]);
    assert!(!rig.broker.retained.contains_key(TARGET));
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert!(rig.devices[device].paths(Code::PUT).is_empty());
}

// wish: 20
#[test]
fn what_waits_can_be_cancelled() {
    let (mut rig, device) = asleep();
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.ask("lwm2mqtt/d/dev1/cancel", r#"{"id":"a"}"#);
    assert_eq!(said(&rig, "a"), ["queued", "cancelled"]);
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert!(rig.devices[device].paths(Code::PUT).is_empty());
}

// conformance: P19, P40
#[test]
fn a_request_that_times_out_is_sent_again_at_the_next_contact() {
    let (mut rig, device) = sleepy();
    rig.devices[device].dead = true;
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.run(300 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    assert_eq!(last(&rig, "a")["attempts"], 2);
}

#[test]
fn an_execute_without_an_answer_is_not_repeated_after_a_new_registration() {
    let (mut rig, device) = sleepy();
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", r#"{"id":"a"}"#);
    rig.run(300 * SECOND);
    rig.devices[device].dead = false;
    register(&mut rig, device, &["lwm2m=1.1", "lt=3600", "Q"]);
    rig.run(SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        (&failed["status"], &failed["error"]["kind"]),
        (&"failed".into(), &"timeout".into())
    );
    assert!(rig.devices[device].paths(Code::POST).is_empty());
}

#[test]
fn commands_for_a_device_that_left_wait_for_its_return() {
    let (mut rig, device) = sleepy();
    let request = Request::new(Code::DELETE, rig.location(device));
    rig.request(device, request);
    rig.run(SECOND);
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    assert_eq!(last(&rig, "a")["why"], "offline");
    rig.run(500 * SECOND);
    register(&mut rig, device, &["lwm2m=1.1", "lt=3600", "Q"]);
    rig.run(SECOND);
    assert_eq!(said(&rig, "a"), ["queued", "sent", "done"]);
}

#[test]
fn a_removed_device_has_its_commands_cancelled() {
    let (mut rig, _) = asleep();
    rig.administer(&serde_json::json!({ "verb": "device/approve", "endpoint": "dev1" }));
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.administer(&serde_json::json!({ "verb": "device/remove", "name": "dev1" }));
    rig.run(SECOND);
    assert_eq!(said(&rig, "a").last().unwrap(), "cancelled");
    assert!(!rig.broker.retained.contains_key(QUEUE));
    assert!(!rig.broker.retained.contains_key(TARGET));
}

#[test]
fn a_queue_that_is_full_takes_only_what_replaces_something() {
    let (mut rig, _) = asleep();
    for number in 0..63 {
        rig.ask(
            "lwm2mqtt/d/dev1/lwm2m/read",
            &format!(r#"{{"path":"/3/0","id":"{number}"}}"#),
        );
    }
    rig.ask(DIMMER, r#"{"value":1,"id":"a"}"#);
    rig.ask(SWITCH, r#"{"value":true,"id":"b"}"#);
    assert_eq!(last(&rig, "b")["error"]["kind"], "queue_full");
    rig.ask(DIMMER, r#"{"value":2,"id":"c"}"#);
    assert_eq!(
        (last(&rig, "a")["status"].clone(), said(&rig, "c")),
        ("superseded".into(), vec!["queued".to_owned()])
    );
}

// wish: 20
#[test]
fn an_id_that_is_known_is_answered_again_and_not_carried_out_again() {
    let (mut rig, device) = sleepy();
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.run(SECOND);
    let done = last(&rig, "a");
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.run(SECOND);
    assert_eq!(
        (said(&rig, "a"), last(&rig, "a")),
        (vec!["sent".to_owned(), "done".into(), "done".into()], done)
    );
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    // After a day it is a new request.
    rig.run(90_000 * SECOND);
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    assert_eq!(last(&rig, "a")["status"], "queued");
    // Under way it is not begun twice, and another command cannot have its id.
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    assert_eq!(last(&rig, "a")["status"], "queued");
    rig.ask(DIMMER, r#"{"value":8,"id":"a"}"#);
    assert_eq!(last(&rig, "a")["error"]["kind"], "duplicate");
    assert_eq!(rig.broker.json(QUEUE)["queued"], 1);
}

// wish: 17
#[test]
fn queued_commands_and_final_answers_outlive_the_process() {
    let (mut rig, device) = sleepy();
    rig.ask(SWITCH, r#"{"value":true,"id":"done"}"#);
    rig.run(100 * SECOND);
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", r#"{"id":"b"}"#);
    rig.ask(DIMMER, r#"{"value":8,"id":"short","ttl":30}"#);
    rig.crash();
    rig.run(60 * SECOND);
    rig.start(Rig::setup(lwm2mqtt::mapping::Plan::unmapped("lwm2mqtt")));
    rig.run(10 * SECOND);
    assert_eq!(said(&rig, "short"), ["queued", "expired"]);
    assert_eq!(said(&rig, "a"), ["queued", "superseded"]);
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(said(&rig, "b"), ["queued", "sent", "done"]);
    let done = last(&rig, "done");
    rig.ask(SWITCH, r#"{"value":true,"id":"done"}"#);
    rig.run(SECOND);
    assert_eq!(last(&rig, "done"), done);
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    assert!(!rig.broker.retained.contains_key(QUEUE));
    assert!(!rig.broker.retained.contains_key(TARGET));
}

// wish: 17
#[test]
fn what_was_sent_when_the_process_died_ends_once_and_an_execute_is_not_repeated() {
    let (mut rig, device) = sleepy();
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", r#"{"id":"x"}"#);
    rig.ask(DIMMER, r#"{"value":7,"id":"w"}"#);
    rig.run(SECOND);
    rig.crash();
    rig.start(Rig::setup(lwm2mqtt::mapping::Plan::unmapped("lwm2mqtt")));
    rig.run(20 * SECOND);
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(200 * SECOND);
    let failed = last(&rig, "x");
    assert_eq!(
        (&failed["status"], &failed["error"]["kind"]),
        (&"failed".into(), &"timeout".into())
    );
    assert!(rig.devices[device].paths(Code::POST).is_empty());
    assert_eq!(last(&rig, "w")["status"], "done");
    for id in ["x", "w"] {
        let replies = rig.broker.messages(REPLY);
        let finals = replies
            .iter()
            .filter(|reply| reply["id"] == id && reply["final"] == true);
        assert_eq!(finals.count(), 1, "{id}");
    }
}

#[test]
fn a_mapping_says_how_long_a_device_listens_and_how_commands_wait() {
    let mut rig = Rig::with_mapping(
        r#"
        [device]
        wake = { reachable_for = "20s" }
        [[signal]]
        name = "dimmer"
        path = "/3311/*/5851"
        write = { queue = "none" }
        [[command]]
        name = "reboot"
        execute = "/3/0/4"
        ttl = "1m"
        "#,
    );
    let device = rig.add_sensor();
    register(&mut rig, device, &["lwm2m=1.1", "lt=3600", "Q"]);
    rig.run(15 * SECOND);
    assert_eq!(availability(&rig).0, "online");
    rig.run(10 * SECOND);
    assert_eq!(availability(&rig).0, "asleep");
    rig.ask(DIMMER, r#"{"value":7,"id":"a"}"#);
    let failed = last(&rig, "a");
    assert_eq!(
        (&failed["status"], &failed["error"]["kind"]),
        (&"failed".into(), &"asleep".into())
    );
    rig.ask("lwm2mqtt/d/dev1/do/reboot", r#"{"id":"b"}"#);
    rig.run(70 * SECOND);
    assert_eq!(said(&rig, "b"), ["queued", "expired"]);
}
