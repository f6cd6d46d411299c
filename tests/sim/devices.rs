//! Devices come, measure, fall silent and leave.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";

// wish: 24
// conformance: 101
#[test]
fn a_registered_device_stands_on_mqtt_without_a_mapping() {
    let mut rig = Rig::new();
    rig.add_registered();
    let value = rig
        .broker
        .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value");
    assert_eq!(value["value"], 21.5);
    assert_eq!(value["quality"], "good");
    assert_eq!(value["src"], "notify");
    // The sensor says so itself, in /3303/0/5701.
    assert_eq!(value["unit"], "Cel");
    assert!(
        value["time"]
            .as_str()
            .unwrap()
            .starts_with("2026-11-22T15:19:20.")
    );
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (
            &availability["state"],
            &availability["reason"],
            &availability["lifetime"]
        ),
        (&"online".into(), &"registered".into(), &300.into())
    );
    assert_eq!(availability["expires"], "2026-11-22T15:24:50.010Z");
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert_eq!(birth["endpoint"], "dev1");
    assert_eq!(birth["info"]["manufacturer"], "ACME");
    assert_eq!(birth["signals"]["light-control-0/on-off"]["access"], "rw");
}

#[test]
fn every_notification_is_published() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    for (value, confirmable) in [(22.0, false), (22.5, true), (22.5, false)] {
        rig.notify(
            device,
            "/3303/0",
            content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#)),
            confirmable,
        );
        rig.run(SECOND);
        let standing = rig.broker.json(VALUE);
        assert_eq!(standing["value"], value);
    }
    assert_eq!(rig.broker.messages(VALUE).len(), 4);
}

#[test]
fn of_an_instance_what_changed_is_published_and_the_rest_now_and_then() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let mut counts = Vec::new();
    for (value, pause) in [(22.0, 1), (22.0, 1), (23.0, 61), (24.0, 1)] {
        let before = rig.broker.log.len();
        let payload =
            format!(r#"[{{"bn":"/3303/0/","n":"5700","v":{value}}},{{"n":"5701","vs":"Cel"}}]"#);
        rig.notify(device, "/3303/0", content(110, &payload), false);
        rig.run(pause * SECOND);
        let published = rig.broker.log[before..].iter();
        counts.push(published.filter(|(topic, _)| topic.contains("/v/")).count());
    }
    // One changed; none, so the device spoke for both; one; one and the other after a minute.
    assert_eq!(counts, [1, 2, 1, 2]);
}

#[test]
fn what_a_device_does_not_have_is_not_asked_for() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    // Object 3 has no battery here, and objects 0 to 2 are never touched.
    assert_eq!(
        rig.devices[device].paths(Code::GET),
        ["/3/0", "/3303/0", "/3311/0"]
    );
}

// wish: 7, 15
// conformance: 103
#[test]
fn a_device_that_leaves_is_offline_and_its_values_stay() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let location = rig.location(device);
    rig.request(device, Request::new(Code::DELETE, location));
    rig.run(SECOND);
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&availability["state"], &availability["reason"]),
        (&"offline".into(), &"deregistered".into())
    );
    assert_eq!(
        rig.broker
            .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value")["value"],
        21.5
    );
}

// wish: 6, 7
// conformance: 102
#[test]
fn a_device_that_falls_silent_expires_after_lifetime_and_grace() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].dead = true;
    rig.run(Duration::from_secs(325));
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["state"],
        "late"
    );
    rig.run(Duration::from_secs(5));
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&availability["state"], &availability["reason"]),
        (&"offline".into(), &"lifetime_expired".into())
    );
    // It ended when the lifetime did, and was seen last when it spoke last.
    assert_eq!(availability["since"], "2026-11-22T15:24:20.010Z");
    assert!(availability["last_seen"].as_str().unwrap() < "2026-11-22T15:19:24");
}

// conformance: P16
#[test]
fn updates_keep_a_device_and_notifications_do_not() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let location = rig.location(device);
    for _ in 0..4 {
        rig.run(Duration::from_secs(200));
        rig.request(device, Request::new(Code::POST, location.clone()));
    }
    rig.run(SECOND);
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&availability["state"], &availability["reason"]),
        (&"online".into(), &"update".into())
    );
    for _ in 0..17 {
        rig.run(Duration::from_secs(20));
        rig.notify(
            device,
            "/3303/0",
            content(110, r#"[{"n":"/3303/0/5700","v":1}]"#),
            false,
        );
    }
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["reason"],
        "lifetime_expired"
    );
}

// wish: 11
// conformance: P15
#[test]
fn a_device_that_registers_again_is_observed_again() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let old = rig.devices[device].observers.clone();
    let location = rig.location(device);
    rig.devices[device].observers.clear();
    rig.register(device, "dev1", "lt=300", "</>;ct=110,</1/0>,</3303/0>");
    rig.run(SECOND);
    let new = rig.devices[device].observers.clone();
    assert_eq!(new.len(), 1);
    assert!(old.iter().all(|(_, token)| *token != new[0].1));
    // The old location is void.
    rig.request(device, Request::new(Code::POST, location));
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::NOT_FOUND
    );
}

// conformance: P37, P40
#[test]
fn a_device_that_does_not_answer_is_unreachable_until_it_is_heard_of() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].dead = true;
    rig.ask(
        "lwm2mqtt/d/dev1/get/temperature-0/sensor-value",
        r#"{"id":"r1"}"#,
    );
    rig.run(Duration::from_secs(100));
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["reason"],
        "unreachable"
    );
    let reply = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(
        (&reply["final"], &reply["error"]["kind"]),
        (&true.into(), &"timeout".into())
    );
    rig.devices[device].dead = false;
    rig.notify(
        device,
        "/3303/0",
        content(110, r#"[{"n":"/3303/0/5700","v":3}]"#),
        false,
    );
    rig.run(SECOND);
    let availability = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&availability["state"], &availability["reason"]),
        (&"online".into(), &"notify".into())
    );
}

// conformance: P9, P39
#[test]
fn formats_are_tried_until_one_is_taken() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    // It advertises nothing and takes SenML JSON alone, the third guess.
    rig.devices[device].answer(Code::GET, "/3303/0", Response::new(Code::NOT_ACCEPTABLE));
    rig.register(device, "dev1", "", "</3303/0>");
    rig.run(2 * SECOND);
    let accepts: Vec<_> = rig.devices[device]
        .requests
        .iter()
        .map(|request| request.accept)
        .collect();
    assert_eq!(accepts, [Some(112), Some(11542), Some(110)]);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1")["problems"][0]["path"],
        "/3303/0"
    );
}

// conformance: P1
#[test]
fn an_unknown_version_gets_4_12_and_may_step_down() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = vec!["ep=dev1".into(), "lwm2m=1.3".into(), "lt=60".into()];
    request.payload = "</3/0>".into();
    rig.request(device, request);
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::PRECONDITION_FAILED
    );
    rig.register(device, "dev1", "lt=60", "</3/0>");
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::CREATED
    );
}

// conformance: P15
#[test]
fn an_update_from_another_address_is_not_believed() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let other = rig.add_device();
    let location = rig.location(device);
    rig.request(other, Request::new(Code::DELETE, location));
    rig.run(SECOND);
    assert_eq!(
        rig.devices[other].responses.last().unwrap().code,
        Code::NOT_FOUND
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["state"],
        "online"
    );
}

#[test]
fn a_value_of_the_wrong_type_is_said_and_the_others_are_kept() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.notify(
        device,
        "/3311/0",
        content(
            110,
            r#"[{"bn":"/3311/0/","n":"5850","vs":"on"},{"n":"5851","v":41}]"#,
        ),
        true,
    );
    rig.run(SECOND);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/v/light-control-0/dimmer")["value"],
        41
    );
    let suspect = rig.broker.json("lwm2mqtt/d/dev1/v/light-control-0/on-off");
    assert_eq!(
        (&suspect["value"], &suspect["quality"]),
        (&serde_json::Value::Null, &"suspect".into())
    );
    let events = rig.broker.messages("lwm2mqtt/bridge/event");
    assert!(
        events
            .iter()
            .any(|event| event["type"] == "undecodable" && event["path"] == "/3311/0/5850")
    );
}

// conformance: P39
#[test]
fn a_payload_that_cannot_be_decoded_changes_nothing() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.notify(device, "/3303/0", content(110, "[{"), true);
    rig.run(SECOND);
    assert_eq!(
        rig.broker
            .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value")["value"],
        21.5
    );
    assert!(
        rig.broker
            .messages("lwm2mqtt/bridge/event")
            .iter()
            .any(|event| event["type"] == "undecodable")
    );
    rig.notify(
        device,
        "/3303/0",
        content(110, r#"[{"n":"/3303/0/5700","v":22}]"#),
        true,
    );
    rig.run(SECOND);
    assert_eq!(
        rig.broker
            .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value")["value"],
        22.0
    );
}

#[test]
fn a_value_older_than_the_one_that_stands_does_not_replace_it() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.notify(
        device,
        "/3303/0",
        content(110, r#"[{"n":"/3303/0/5700","v":30,"t":-5}]"#),
        true,
    );
    rig.run(SECOND);
    assert_eq!(
        rig.broker
            .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value")["value"],
        21.5
    );
    assert_eq!(rig.gateway.counters().older, 1);
}

#[test]
fn a_hostile_peer_does_not_flood_the_events() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    for _ in 0..500 {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = vec!["ep=x".into(), "lwm2m=9.9".into()];
        rig.request(device, request);
        rig.run(SECOND / 50);
    }
    let events = rig.broker.messages("lwm2mqtt/bridge/event");
    let complaints = events
        .iter()
        .filter(|event| event["type"] == "registration_refused");
    let said = complaints.count() as u64;
    assert!((5..10).contains(&said), "{said}");
    let counters = rig.gateway.counters();
    assert_eq!(
        (counters.refused, counters.events_suppressed),
        (500, 500 - said)
    );
}

#[test]
fn what_was_under_way_when_a_device_left_is_no_problem_of_its() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    rig.register(device, "dev1", "lt=300", "</3303/0>,</3304/0>");
    rig.run(SECOND / 100);
    rig.register(device, "dev1", "lt=300", "</3303/0>,</3304/0>");
    rig.run(SECOND / 100);
    let failed = rig
        .events
        .iter()
        .filter(|event| matches!(event, lwm2mqtt::gateway::Event::ObserveFailed { .. }));
    assert_eq!(failed.count(), 0);
}

#[test]
fn a_clock_that_is_set_back_does_not_stop_the_values() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.now.unix = lwm2mqtt::time::UnixTime::from_millis(1_700_000_000_000);
    rig.notify(
        device,
        "/3303/0",
        content(110, r#"[{"n":"/3303/0/5700","v":30}]"#),
        false,
    );
    rig.run(SECOND);
    let value = rig.broker.json(VALUE);
    assert_eq!(value["value"], 30.0);
    assert!(value["time"].as_str().unwrap().starts_with("2023-"));
}

// conformance: P24
#[test]
fn a_device_with_an_alternate_path_is_asked_below_it() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    let payload = r#"[{"bn":"/lwm2m/3303/0/","n":"5700","v":7.5}]"#;
    rig.devices[device].answer(Code::GET, "/lwm2m/3303/0", content(110, payload));
    let objects = "</lwm2m>;rt=\"oma.lwm2m\";ct=110, </lwm2m/3303/0>;ver=\"1.1\"";
    rig.register(device, "dev1", "b=U", objects);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 7.5);
}

// wish: 1
#[test]
fn what_no_model_knows_keeps_its_numbers_and_the_type_that_it_comes_with() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    let payload = r#"[{"bn":"/33210/0/","n":"1","v":5},{"n":"7","vb":true},{"n":"8","vs":"x"}]"#;
    rig.devices[device].answer(Code::GET, "/33210/0", content(110, payload));
    rig.register(device, "dev1", "", "</>;ct=110,</33210/0>");
    rig.run(SECOND);
    let value = |name: &str| {
        rig.broker
            .json(&format!("lwm2mqtt/d/dev1/v/33210-0/{name}"))["value"]
            .clone()
    };
    assert_eq!(
        (value("1"), value("7"), value("8")),
        (5.into(), true.into(), "x".into())
    );
}

#[test]
fn an_unchanged_birth_is_not_published_again() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let births = rig.broker.messages("lwm2mqtt/d/dev1").len();
    let location = rig.location(device);
    let mut update = Request::new(Code::POST, location);
    update.query = vec!["lt=400".into()];
    rig.request(device, update);
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.messages("lwm2mqtt/d/dev1").len(), births);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["lifetime"],
        400
    );
}
