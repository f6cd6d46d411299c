//! Samples that a device took earlier: each keeps its time, and no old one takes the place of a new
//! one.

use std::time::Duration;

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/temperature";
const HISTORY: &str = "lwm2mqtt/d/dev1/t/temperature-0/temperature";
/// 2026-11-22T15:00:00Z, some minutes before a run begins.
const EARLIER: u32 = 1_795_359_600;

const MAPPING: &str = r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
history = true
"#;

fn notify(rig: &mut Rig, device: usize, records: &str) {
    rig.notify(device, "/3303/0", content(110, records), false);
}

/// Without what tells each message of the device from its others.
fn without_ids(mut messages: Vec<serde_json::Value>) -> Vec<serde_json::Value> {
    let objects = messages.iter_mut().filter_map(|it| it.as_object_mut());
    objects.for_each(|object| {
        object.remove("src_id");
    });
    messages
}

fn sample(value: f64, time: u32) -> String {
    format!(r#"[{{"n":"/3303/0/5700","v":{value},"t":{time}}}]"#)
}

// wish: 3
#[test]
fn seven_old_notifications_after_a_newer_one_are_history_and_not_the_value() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    notify(&mut rig, device, &sample(30.0, EARLIER + 600));
    rig.run(SECOND);
    let standing = rig.broker.json(VALUE);
    // The first value came later than this one was taken.
    assert_eq!(
        (&standing["value"], &standing["time_from"]),
        (&21.5.into(), &"gateway".into())
    );
    notify(&mut rig, device, &sample(31.0, EARLIER + 1_180));
    rig.run(SECOND);
    let newest = rig.broker.json(VALUE);
    assert_eq!(newest["time"], "2026-11-22T15:19:40.000Z");
    let before = rig.broker.messages(HISTORY).len();
    for number in 0..7 {
        notify(
            &mut rig,
            device,
            &sample(f64::from(number), EARLIER + number * 60),
        );
        rig.run(SECOND);
    }
    assert_eq!(rig.broker.json(VALUE), newest);
    let history = rig.broker.messages(HISTORY).split_off(before);
    let samples: Vec<_> = history.iter().map(|message| &message["samples"]).collect();
    let expected: Vec<serde_json::Value> = (0..7)
        .map(|number| {
            let value = f64::from(number);
            serde_json::json!([[format!("2026-11-22T15:0{number}:00.000Z"), value]])
        })
        .collect();
    assert_eq!(samples, expected.iter().collect::<Vec<_>>());
    assert_eq!(history[0]["historical"], true);
    assert_eq!(history[0]["unit"], "Cel");
    assert_eq!(rig.gateway.counters().older, 0);
}

// conformance: P17
#[test]
fn seven_notifications_overtaken_on_the_way_are_history_and_not_the_value() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.run(SECOND);
    let before = rig.broker.messages(HISTORY).len();
    for number in 0..8 {
        notify(
            &mut rig,
            device,
            &sample(f64::from(number), EARLIER + 1_190 + number),
        );
    }
    // The one with the highest Observe number arrives first.
    rig.turn_wire();
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 7.0);
    let history = rig.broker.messages(HISTORY).split_off(before);
    assert_eq!(history.len(), 8);
    for (number, message) in (0..7).rev().zip(&history[1..]) {
        let sample = &message["samples"][0];
        assert_eq!(sample[0], format!("2026-11-22T15:19:5{number}.000Z"));
        assert_eq!(sample[1], f64::from(number));
    }
}

// conformance: P17
#[test]
fn overtaken_notifications_without_a_time_of_their_own_are_counted_and_nothing_else() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.run(SECOND);
    let before = rig.broker.messages(HISTORY).len();
    for number in 0..8 {
        let value = format!(r#"[{{"n":"/3303/0/5700","v":{number}}}]"#);
        notify(&mut rig, device, &value);
    }
    rig.turn_wire();
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 7.0);
    assert_eq!(rig.broker.messages(HISTORY).len(), before + 1);
    assert_eq!(rig.gateway.counters().older, 7);
}

// wish: 3
#[test]
fn several_samples_in_one_message_are_one_message_of_history_and_the_newest_is_the_value() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.run(90 * SECOND);
    let before = rig.broker.messages(HISTORY).len();
    let records = format!(
        r#"[{{"bn":"/3303/0/","bt":{},"n":"5700","v":3,"t":60}},{{"n":"5700","v":1}},{{"n":"5701","vs":"Cel"}},{{"n":"5700","v":2,"t":30}}]"#,
        EARLIER + 1_180
    );
    notify(&mut rig, device, &records);
    rig.run(SECOND);
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["value"], &value["time"], &value["time_from"]),
        (
            &3.0.into(),
            &"2026-11-22T15:20:40.000Z".into(),
            &"device".into()
        )
    );
    let history = without_ids(rig.broker.messages(HISTORY).split_off(before));
    assert_eq!(
        history,
        [serde_json::json!({
            "unit": "Cel",
            "src": "notify",
            "historical": true,
            "samples": [
                ["2026-11-22T15:19:40.000Z", 1.0],
                ["2026-11-22T15:20:10.000Z", 2.0],
                ["2026-11-22T15:20:40.000Z", 3.0],
            ],
        })]
    );
}

#[test]
fn every_sample_of_now_stands_in_the_history_as_it_stands_retained() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    for _ in 0..3 {
        notify(&mut rig, device, r#"[{"n":"/3303/0/5700","v":22}]"#);
        rig.run(SECOND);
    }
    let history = without_ids(rig.broker.messages(HISTORY));
    assert_eq!(history, rig.broker.messages(VALUE));
    assert_eq!(history.len(), 4);
    assert!(!rig.broker.retained.contains_key(HISTORY));
}

#[test]
fn without_history_an_older_sample_is_counted() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let value = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
    let standing = rig.broker.json(value);
    notify(&mut rig, device, &sample(5.0, EARLIER));
    rig.run(SECOND);
    assert_eq!(rig.broker.json(value), standing);
    assert_eq!(rig.gateway.counters().older, 1);
    assert!(
        rig.broker
            .log
            .iter()
            .all(|(topic, _)| !topic.contains("/t/"))
    );
}

#[test]
fn a_clock_that_cannot_be_right_is_marked_and_still_tells_the_order() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    // Since 2020 is allowed, and ten minutes ahead of us. Below 2^28 a time counts from now.
    for (first, raw) in [
        (300_000_000_u32, "1979-07-05T05:20:30.000Z"),
        (EARLIER + 7_200, "2026-11-22T17:00:30.000Z"),
    ] {
        let before = rig.broker.messages(HISTORY).len();
        let records = format!(
            r#"[{{"bn":"/3303/0/","bt":{first},"n":"5700","v":2,"t":30}},{{"n":"5700","v":1}}]"#
        );
        notify(&mut rig, device, &records);
        rig.run(SECOND);
        let value = rig.broker.json(VALUE);
        assert_eq!(
            (&value["value"], &value["time_from"], &value["time_raw"]),
            (&2.0.into(), &"gateway".into(), &raw.into())
        );
        assert!(
            value["time"]
                .as_str()
                .unwrap()
                .starts_with("2026-11-22T15:19:")
        );
        let history = rig.broker.messages(HISTORY).split_off(before);
        let samples = &history[0]["samples"];
        assert_eq!((&samples[0][1], &samples[1][1]), (&1.0.into(), &2.0.into()));
        assert_eq!(samples[1][2], raw);
    }
}

#[test]
fn an_event_keeps_all_its_samples_each_for_itself() {
    let mut rig = Rig::with_mapping(
        r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
kind = "event"
"#,
    );
    let device = rig.add_registered();
    let topic = "lwm2mqtt/d/dev1/e/temperature-0/temperature";
    let before = rig.broker.messages(topic).len();
    notify(&mut rig, device, &sample(2.0, EARLIER + 1_150));
    notify(&mut rig, device, &sample(1.0, EARLIER + 60));
    rig.run(SECOND);
    let events = rig.broker.messages(topic).split_off(before);
    assert_eq!(
        events
            .iter()
            .map(|event| &event["time"])
            .collect::<Vec<_>>(),
        ["2026-11-22T15:19:10.000Z", "2026-11-22T15:01:00.000Z"]
    );
}

#[test]
fn a_telemetry_table_says_where_the_history_goes() {
    let mut rig = Rig::with_mapping(
        r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
format = "value"
telemetry = { topic = "plant/ts/{device}/{inst}", format = "json", retain = false }
"#,
    );
    rig.add_registered();
    assert_eq!(rig.broker.retained[VALUE], b"21.5");
    let history = rig.broker.messages("plant/ts/dev1/temperature-0");
    assert_eq!(history[0]["value"], 21.5);
    assert!(
        !rig.broker
            .retained
            .contains_key("plant/ts/dev1/temperature-0")
    );
}
