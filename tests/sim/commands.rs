//! Commands from MQTT, each with one last word.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use lwm2mqtt::gateway::{Input, Message};
use serde_json::Value as Json;

use crate::rig::{Rig, SENSOR};

const SECOND: Duration = Duration::from_secs(1);
const REPLY: &str = "lwm2mqtt/d/dev1/reply";

/// A registered device that takes every write and execute.
fn rig() -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    for path in ["/3311/0/5850", "/3311/0/5851"] {
        rig.devices[device].answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    rig.devices[device].answer(Code::POST, "/3/0/4", Response::new(Code::CHANGED));
    (rig, device)
}

fn statuses(replies: &[Json]) -> Vec<&str> {
    replies
        .iter()
        .map(|reply| reply["status"].as_str().unwrap())
        .collect()
}

#[test]
fn a_write_reaches_the_device_and_is_answered() {
    let (mut rig, device) = rig();
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        r#"{"value":true,"id":"c1"}"#,
    );
    rig.run(SECOND);
    let write = rig.devices[device].requests.last().unwrap();
    assert_eq!((write.method, write.content_format), (Code::PUT, Some(110)));
    assert_eq!(
        serde_json::from_slice::<Json>(&write.payload).unwrap(),
        serde_json::json!([{ "n": "/3311/0/5850", "vb": true }])
    );
    let replies = rig.broker.messages(REPLY);
    assert_eq!(statuses(&replies), ["sent", "done"]);
    let last = &replies[1];
    assert_eq!(
        (&last["id"], &last["final"], &last["code"], &last["path"]),
        (
            &"c1".into(),
            &true.into(),
            &"2.04".into(),
            &"/3311/0/5850".into()
        )
    );
    assert_eq!(last["signal"], "light-control-0/on-off");
}

#[test]
fn a_bare_value_is_written_too() {
    let (mut rig, device) = rig();
    rig.ask("lwm2mqtt/d/dev1/set/light-control-0/dimmer", "55");
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::PUT), ["/3311/0/5851"]);
    assert_eq!(rig.broker.messages(REPLY).last().unwrap()["status"], "done");
}

#[test]
fn several_signals_are_written_in_order_with_one_last_word() {
    let (mut rig, device) = rig();
    rig.ask(
        "lwm2mqtt/d/dev1/set",
        r#"{"id":"m","set":{"light-control-0/dimmer":10,"light-control-0/on-off":false}}"#,
    );
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::PUT).len(), 2);
    let replies = rig.broker.messages(REPLY);
    assert_eq!(
        replies
            .iter()
            .filter(|reply| reply["final"] == true)
            .count(),
        1
    );
}

// wish: 2
#[test]
fn a_read_brings_the_value_and_refreshes_the_topic() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(
        Code::GET,
        "/3303/0/5700",
        crate::rig::content(110, r#"[{"n":"/3303/0/5700","v":19.5}]"#),
    );
    rig.ask("lwm2mqtt/d/dev1/get/temperature-0/sensor-value", "");
    rig.run(SECOND);
    assert_eq!(rig.broker.messages(REPLY).last().unwrap()["value"], 19.5);
    let value = rig
        .broker
        .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value");
    assert_eq!(
        (&value["value"], &value["src"]),
        (&19.5.into(), &"read".into())
    );
}

// conformance: 241
#[test]
fn an_execute_goes_by_name_or_by_path() {
    let (mut rig, device) = rig();
    rig.ask("lwm2mqtt/d/dev1/do/device-0/reboot", "");
    rig.ask(
        "lwm2mqtt/d/dev1/lwm2m/execute",
        r#"{"id":"x","path":"/3/0/4"}"#,
    );
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::POST), ["/3/0/4", "/3/0/4"]);
    let replies = rig.broker.messages(REPLY);
    // The second waits behind the first.
    assert_eq!(
        statuses(&replies),
        ["sent", "accepted", "done", "sent", "done"]
    );
}

#[test]
fn the_devices_refusal_is_explained() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(
        Code::POST,
        "/3306/0/5850",
        Response::new(Code::METHOD_NOT_ALLOWED),
    );
    rig.ask(
        "lwm2mqtt/d/dev1/lwm2m/execute",
        r#"{"id":"x","path":"/3306/0/5850"}"#,
    );
    rig.run(SECOND);
    let error = &rig.broker.messages(REPLY).pop().unwrap()["error"];
    assert_eq!(
        (&error["kind"], &error["code"], &error["text"]),
        (&"coap".into(), &"4.05".into(), &"Method Not Allowed".into())
    );
    assert!(
        error["detail"]
            .as_str()
            .unwrap()
            .contains("is not executable"),
        "{error}"
    );
}

#[test]
fn requests_that_cannot_be_served_are_answered_with_a_kind() {
    let (mut rig, device) = rig();
    let sent = rig.devices[device].requests.len();
    for (topic, payload, kind) in [
        ("set/light-control-0/on-off", "\"maybe\"", "type"),
        ("set/light-control-0/on-off", "", "parse"),
        ("set/light-control-0/on-off", "{\"value\":", "parse"),
        ("set/light-control-0/nothing", "1", "unknown_signal"),
        ("set/temperature-0/sensor-value", "1", "access"),
        ("do/nothing", "", "unknown_command"),
        ("lwm2m/fly", "{}", "unknown_command"),
        ("lwm2m/read", "{\"path\":\"3/0\"}", "parse"),
        ("lwm2m/execute", "{\"path\":\"/3/0\"}", "parse"),
        (
            "lwm2m/cancel-observe",
            "{\"path\":\"/3/0/1\"}",
            "unknown_signal",
        ),
        ("get/temperature-0", "", "unknown_command"),
        (
            "set/light-control-0/on-off",
            "{\"value\":true,\"reply_to\":\"lwm2mqtt/d/dev1/v/a/b\"}",
            "parse",
        ),
    ] {
        rig.ask(&format!("lwm2mqtt/d/dev1/{topic}"), payload);
        rig.run(SECOND);
        let reply = rig.broker.messages(REPLY).pop().unwrap();
        assert_eq!(
            (&reply["final"], &reply["error"]["kind"]),
            (&true.into(), &kind.into()),
            "{topic} {payload} {reply}"
        );
    }
    assert_eq!(
        rig.devices[device].requests.len(),
        sent,
        "nothing of this reaches the device"
    );
    rig.ask("lwm2mqtt/d/nobody/get/a/b", "");
    assert_eq!(
        rig.broker.messages("lwm2mqtt/d/nobody/reply")[0]["error"]["kind"],
        "unknown_device"
    );
}

// wish: 25
#[test]
fn a_retained_request_is_refused() {
    let (mut rig, device) = rig();
    let message = Message {
        topic: "lwm2mqtt/d/dev1/set/light-control-0/on-off".into(),
        payload: "true".into(),
        retain: true,
        ..Message::default()
    };
    rig.input(Input::Message(message));
    rig.run(SECOND);
    assert_eq!(rig.broker.messages(REPLY)[0]["error"]["kind"], "retained");
    assert!(rig.devices[device].paths(Code::PUT).is_empty());
}

// wish: 19
#[test]
fn mqtt_5_says_where_the_answer_goes() {
    let (mut rig, _) = rig();
    let message = Message {
        topic: "lwm2mqtt/d/dev1/set/light-control-0/on-off".into(),
        payload: "true".into(),
        response_topic: Some("app/42/in".into()),
        correlation: Some(vec![1, 2, 3]),
        ..Message::default()
    };
    rig.input(Input::Message(message));
    rig.run(SECOND);
    assert_eq!(
        statuses(&rig.broker.messages("app/42/in")),
        ["sent", "done"]
    );
    assert!(rig.broker.messages(REPLY).is_empty());
}

#[test]
fn a_command_that_waits_too_long_expires() {
    let (mut rig, device) = rig();
    rig.devices[device].dead = true;
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        r#"{"value":true,"id":"first"}"#,
    );
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/dimmer",
        r#"{"value":1,"id":"second","ttl":5}"#,
    );
    rig.run(Duration::from_secs(6));
    let replies = rig.broker.messages(REPLY);
    assert_eq!(statuses(&replies), ["sent", "accepted", "expired"]);
    assert_eq!(replies[2]["id"], "second");
}

#[test]
fn a_command_that_waits_can_be_cancelled() {
    let (mut rig, device) = rig();
    rig.devices[device].dead = true;
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        r#"{"value":true,"id":"first"}"#,
    );
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/dimmer",
        r#"{"value":1,"id":"second"}"#,
    );
    rig.ask("lwm2mqtt/d/dev1/cancel", r#"{"id":"second"}"#);
    rig.ask("lwm2mqtt/d/dev1/cancel", r#"{"id":"first"}"#);
    rig.run(Duration::from_secs(100));
    let replies = rig.broker.messages(REPLY);
    let finals: Vec<_> = replies
        .iter()
        .filter(|reply| reply["final"] == true)
        .map(|reply| {
            (
                reply["id"].as_str().unwrap(),
                reply["status"].as_str().unwrap(),
            )
        })
        .collect();
    // What has left cannot be called back: the cancelling request itself fails.
    assert_eq!(
        finals,
        [
            ("second", "cancelled"),
            ("first", "failed"),
            ("first", "failed")
        ]
    );
    assert!(rig.devices[device].paths(Code::PUT).is_empty());
}

#[test]
fn a_command_goes_on_when_its_device_registers_anew() {
    let (mut rig, device) = rig();
    rig.devices[device].dead = true;
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        r#"{"value":true,"id":"c"}"#,
    );
    rig.devices[device].dead = false;
    rig.register(device, "dev1", "", SENSOR);
    rig.run(SECOND);
    let replies = rig.broker.messages(REPLY);
    assert_eq!(statuses(&replies), ["sent", "done"]);
}
