//! What a mapping says about writes: bounds, steps, and how it is seen that the device took them.

use lwm2mqtt::coap::{Code, Response};
use serde_json::{Value as Json, json};

use crate::queue::{SECOND, sleepy_with, update};
use crate::rig::{Rig, content};

const REPLY: &str = "lwm2mqtt/d/dev1/reply";
const SET: &str = "lwm2mqtt/d/dev1/set/light-control-0/dimmer";
const TARGET: &str = "lwm2mqtt/d/dev1/target/light-control-0/dimmer";
const VALUE: &str = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";

/// A device whose dimmer is written by these rules, and is observed with the rest of its instance.
fn rig(rules: &str) -> (Rig, usize) {
    let mut rig = Rig::with_mapping(&mapping(rules));
    let device = rig.add_registered();
    rig.devices[device].answer(Code::PUT, "/3311/0/5851", Response::new(Code::CHANGED));
    rig.devices[device].requests.clear();
    (rig, device)
}

fn mapping(rules: &str) -> String {
    format!("[[signal]]\nname = \"dimmer\"\npath = \"/3311/*/5851\"\nwrite = {{ {rules} }}\n")
}

/// What a read of the dimmer finds.
fn holds(rig: &mut Rig, device: usize, value: i64) {
    let payload = format!(r#"[{{"n":"/3311/0/5851","v":{value}}}]"#);
    rig.devices[device].answer(Code::GET, "/3311/0/5851", content(110, &payload));
}

fn notify(rig: &mut Rig, device: usize, value: i64) {
    let payload =
        format!(r#"[{{"n":"/3311/0/5850","vb":false}},{{"n":"/3311/0/5851","v":{value}}}]"#);
    rig.notify(device, "/3311/0", content(110, &payload), true);
}

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

fn reads(rig: &Rig, device: usize) -> usize {
    let reads = rig.devices[device].paths(Code::GET);
    reads.iter().filter(|path| *path == "/3311/0/5851").count()
}

#[test]
fn a_value_out_of_range_or_between_steps_never_reaches_the_device() {
    let (mut rig, device) = rig("min = 10, max = 90, step = 5");
    for (value, detail) in [
        ("5", "5 is below min 10 of light-control-0/dimmer"),
        ("95", "95 is above max 90 of light-control-0/dimmer"),
        (
            "12",
            "12 is no step of 5 from 10: the nearest is 10 of light-control-0/dimmer",
        ),
    ] {
        rig.ask(SET, &format!(r#"{{"id":"{value}","value":{value}}}"#));
        rig.run(SECOND);
        let failed = last(&rig, value);
        assert_eq!(failed["status"], "failed");
        assert_eq!(
            failed["error"],
            json!({ "kind": "range", "detail": detail, "retry": false })
        );
        assert!(!rig.broker.retained.contains_key(TARGET));
    }
    rig.ask(SET, r#"{"id":"type","value":"much"}"#);
    assert_eq!(last(&rig, "type")["error"]["kind"], "type");
    // One of several is enough that none is written.
    rig.ask(
        "lwm2mqtt/d/dev1/set",
        r#"{"id":"two","set":{"light-control-0/on-off":true,"light-control-0/dimmer":100}}"#,
    );
    rig.run(SECOND);
    assert_eq!(last(&rig, "two")["error"]["kind"], "range");
    assert!(rig.devices[device].requests.is_empty());
    rig.ask(SET, r#"{"id":"good","value":85}"#);
    rig.run(SECOND);
    assert_eq!(said(&rig, "good"), ["sent", "done"]);
    let signal = &rig.broker.json("lwm2mqtt/d/dev1")["signals"]["light-control-0/dimmer"];
    assert_eq!(
        (&signal["min"], &signal["max"], &signal["step"]),
        (&json!(10), &json!(90), &json!(5))
    );
}

#[test]
fn a_write_is_read_back() {
    let (mut rig, device) = rig(r#"confirm = "read""#);
    holds(&mut rig, device, 7);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    assert_eq!(rig.broker.json(TARGET)["value"], 7);
    rig.run(SECOND);
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["code"], &done["confirmed"], &done["value"]),
        (&json!("2.04"), &json!("read"), &json!(7))
    );
    assert_eq!(rig.broker.json(VALUE)["value"], 7);
    assert!(!rig.broker.retained.contains_key(TARGET));
    assert_eq!(reads(&rig, device), 1);
}

#[test]
fn a_value_that_follows_late_is_waited_for() {
    let (mut rig, device) = rig(r#"confirm = "read", timeout = "8s""#);
    holds(&mut rig, device, 40);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(3 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    assert_eq!(rig.broker.json(TARGET)["id"], "a");
    holds(&mut rig, device, 7);
    rig.run(3 * SECOND);
    assert_eq!(last(&rig, "a")["value"], 7);
}

#[test]
fn a_value_that_does_not_follow_is_said_with_what_it_is_instead() {
    let (mut rig, device) = rig(r#"confirm = "read", timeout = "8s""#);
    holds(&mut rig, device, 40);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(10 * SECOND);
    let failed = last(&rig, "a");
    assert_eq!(
        failed["error"],
        json!({
            "kind": "confirm",
            "detail": "7 was written, and light-control-0/dimmer (/3311/0/5851) is 40",
            "retry": true,
        })
    );
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    assert!(!rig.broker.retained.contains_key(TARGET));
    assert_eq!(rig.broker.json(VALUE)["value"], 40);
    // Nothing goes on in silence.
    let asked = reads(&rig, device);
    rig.run(30 * SECOND);
    assert_eq!(reads(&rig, device), asked);
}

#[test]
fn a_value_that_cannot_be_read_back_is_not_confirmed() {
    let (mut rig, _) = rig(r#"confirm = "read""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    let failed = last(&rig, "a");
    assert_eq!(failed["error"]["kind"], "confirm");
    assert_eq!(failed["error"]["retry"], false);
}

#[test]
fn a_write_is_confirmed_by_a_notification() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(2 * SECOND);
    // An older value may be under way still.
    notify(&mut rig, device, 40);
    rig.run(SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    notify(&mut rig, device, 7);
    rig.run(SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["confirmed"], &done["value"]),
        (&json!("done"), &json!("notify"), &json!(7))
    );
    assert_eq!(reads(&rig, device), 0);
}

#[test]
fn a_notification_that_comes_before_the_answer_counts() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    notify(&mut rig, device, 7);
    rig.run(SECOND);
    assert_eq!(last(&rig, "a")["confirmed"], "notify");
}

#[test]
fn without_a_notification_in_time_a_write_is_not_confirmed_and_others_go_on_meanwhile() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    rig.ask("lwm2mqtt/d/dev1/lwm2m/read", r#"{"id":"r","path":"/3/0"}"#);
    rig.run(SECOND);
    assert_eq!(said(&rig, "r"), ["sent", "done"]);
    assert_eq!(said(&rig, "a"), ["sent"]);
    rig.run(8 * SECOND);
    assert_eq!(
        last(&rig, "a")["error"]["detail"],
        "7 was written, and no notification of light-control-0/dimmer (/3311/0/5851) came within 8s"
    );
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
}

#[test]
fn what_has_not_changed_is_not_notified_and_so_is_read() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s""#);
    holds(&mut rig, device, 40);
    assert_eq!(rig.broker.json(VALUE)["value"], 40);
    rig.ask(SET, r#"{"id":"a","value":40}"#);
    rig.run(SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["confirmed"]),
        (&json!("done"), &json!("read"))
    );
}

#[test]
fn a_newer_write_takes_the_place_of_one_that_waits_to_be_confirmed() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    rig.ask(SET, r#"{"id":"b","value":8}"#);
    assert_eq!(last(&rig, "a")["status"], "superseded");
    assert_eq!(last(&rig, "a")["by"], "b");
    assert_eq!(rig.broker.json(TARGET)["id"], "b");
    rig.run(SECOND);
    notify(&mut rig, device, 8);
    rig.run(SECOND);
    assert_eq!(last(&rig, "b")["status"], "done");
    assert!(!rig.broker.retained.contains_key(TARGET));
}

#[test]
fn writes_that_keep_their_turn_are_confirmed_one_after_the_other() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "8s", queue = "fifo""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    rig.ask(SET, r#"{"id":"b","value":8}"#);
    rig.run(SECOND);
    assert_eq!(said(&rig, "b"), ["accepted"]);
    notify(&mut rig, device, 7);
    rig.run(SECOND);
    assert_eq!(last(&rig, "a")["status"], "done");
    assert_eq!(said(&rig, "b"), ["accepted", "sent"]);
}

#[test]
fn a_device_that_fell_asleep_after_the_write_is_read_when_it_wakes() {
    let (mut rig, device) = sleepy_with(&mapping(r#"confirm = "read""#));
    holds(&mut rig, device, 7);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    // The write has arrived, and its answer is on the way.
    rig.run(std::time::Duration::from_millis(15));
    rig.devices[device].dead = true;
    rig.run(300 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["confirmed"]),
        (&json!("done"), &json!("read"))
    );
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
}

#[test]
fn a_write_that_waits_to_be_confirmed_is_not_written_again_by_another_process() {
    let (mut rig, device) = rig(r#"confirm = "notify", timeout = "1m""#);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    holds(&mut rig, device, 7);
    rig.crash();
    rig.run(5 * SECOND);
    rig.start(Rig::setup(Rig::plan(&mapping(
        r#"confirm = "notify", timeout = "1m""#,
    ))));
    rig.run(10 * SECOND);
    let done = last(&rig, "a");
    assert_eq!(
        (&done["status"], &done["code"], &done["confirmed"]),
        (&json!("done"), &json!("2.04"), &json!("read"))
    );
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 1);
    assert!(!rig.broker.retained.contains_key(TARGET));
}

#[test]
fn a_wait_to_be_confirmed_ends_when_it_would_have_without_a_restart() {
    let rules = r#"confirm = "notify", timeout = "1m""#;
    let (mut rig, device) = rig(rules);
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.run(SECOND);
    rig.crash();
    rig.devices[device].dead = true;
    rig.run(50 * SECOND);
    rig.start(Rig::setup(Rig::plan(&mapping(rules))));
    rig.run(5 * SECOND);
    assert_eq!(said(&rig, "a"), ["sent"]);
    // What is being read may be the one: so long as it may take.
    rig.run(120 * SECOND);
    assert_eq!(last(&rig, "a")["error"]["kind"], "confirm");
}

#[test]
fn several_signals_are_written_and_confirmed_each() {
    let (mut rig, device) = rig(r#"confirm = "read""#);
    rig.devices[device].answer(Code::PUT, "/3311/0/5850", Response::new(Code::CHANGED));
    holds(&mut rig, device, 7);
    rig.ask(
        "lwm2mqtt/d/dev1/set",
        r#"{"id":"a","set":{"light-control-0/dimmer":7,"light-control-0/on-off":true}}"#,
    );
    rig.run(SECOND);
    assert_eq!(said(&rig, "a"), ["sent", "done"]);
    assert_eq!(last(&rig, "a")["values"], json!({ "/3311/0/5851": 7 }));
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 2);
}

#[test]
fn a_write_is_carried_back_by_an_expression() {
    let mut rig = Rig::with_mapping(
        r#"
        [[signal]]
        name = "dimmer"
        path = "/3311/*/5851"
        value = { min = 0, max = 10 }
        write = { expr = "value * 10", max = 8 }
        "#,
    );
    let device = rig.add_registered();
    rig.devices[device].answer(Code::PUT, "/3311/0/5851", Response::new(Code::CHANGED));
    rig.ask(SET, r#"{"id":"a","value":7}"#);
    rig.ask(SET, r#"{"id":"b","value":9}"#);
    rig.run(SECOND);
    assert_eq!(last(&rig, "b")["error"]["kind"], "range");
    let write = rig.devices[device].requests.last().unwrap();
    let body: Json = serde_json::from_slice(&write.payload).unwrap();
    assert_eq!(body, json!([{ "n": "/3311/0/5851", "v": 70 }]));
    assert_eq!(last(&rig, "a")["status"], "done");
}
