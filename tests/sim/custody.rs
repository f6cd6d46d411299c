//! What a device is told to be safe is safe: with the broker, or on the disk.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::gateway::outbox;
use lwm2mqtt::kept::Kept;
use serde_json::json;

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(30);
/// Longer than the broker is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/temperature";
const HISTORY: &str = "lwm2mqtt/d/dev1/t/temperature-0/temperature";

const MAPPING: &str = r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
history = true
"#;

const PLAIN: &str = r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
"#;

fn temperature(value: f64) -> Response {
    content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#))
}

/// Sends a confirmable notification; how many datagrams came back within `wait`.
fn answered(rig: &mut Rig, device: usize, value: f64, wait: Duration) -> u32 {
    let before = rig.sent;
    rig.notify(device, "/3303/0", temperature(value), true);
    rig.run(wait);
    rig.sent - before
}

fn due(kept: &Kept) -> Vec<bool> {
    let signals = kept.devices.iter().flat_map(|device| &device.signals);
    let temperature = signals.filter(|signal| &*signal.topic == VALUE);
    temperature.map(|signal| signal.due).collect()
}

fn values(rig: &Rig, topic: &str, since: usize) -> Vec<f64> {
    let log = rig.broker.log[since..].iter();
    log.filter(|(to, _)| to == topic)
        .map(|(_, payload)| serde_json::from_slice::<serde_json::Value>(payload).unwrap())
        .map(|message| message["value"].as_f64().unwrap())
        .collect()
}

#[test]
fn nothing_is_written_while_the_broker_answers() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    for value in 0..20 {
        assert_eq!(answered(&mut rig, device, f64::from(value), MOMENT), 1);
    }
    rig.run(SECOND);
    let kept = rig.kept.kept();
    assert_eq!(kept.spool, []);
    assert_eq!(due(&kept), [false]);
}

#[test]
fn a_notification_is_acknowledged_once_its_samples_are_on_the_disk() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.broker.silent = true;
    assert_eq!(answered(&mut rig, device, 9.0, MOMENT), 0);
    assert_eq!(rig.kept.kept().spool.len(), 0);
    let before = rig.sent;
    rig.run(PATIENCE);
    assert_eq!(rig.sent - before, 1);
    let kept = rig.kept.kept();
    assert_eq!((kept.spool.len(), due(&kept)), (1, vec![true]));
}

#[test]
fn without_a_broker_the_disk_is_not_kept_waiting() {
    let mut rig = Rig::with_mapping(PLAIN);
    let device = rig.add_registered();
    rig.disconnect();
    assert_eq!(answered(&mut rig, device, 9.0, 3 * MOMENT), 1);
    assert_eq!(due(&rig.kept.kept()), [true]);
}

#[test]
fn a_send_is_answered_once_its_values_are_safe() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.broker.silent = true;
    let mut request = Request::new(Code::POST, ["dp"]);
    request.content_format = Some(110);
    request.payload = r#"[{"n":"/3303/0/5700","v":4}]"#.into();
    rig.request(device, request);
    let before = rig.devices[device].responses.len();
    rig.run(MOMENT);
    assert_eq!(rig.devices[device].responses.len(), before);
    rig.run(PATIENCE);
    assert_eq!(rig.devices[device].responses[before].code, Code::CHANGED);
    assert_eq!(rig.kept.kept().spool.len(), 1);
}

#[test]
fn every_acknowledged_sample_arrives_after_the_process_was_killed() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.disconnect();
    for value in 0..50 {
        assert_eq!(answered(&mut rig, device, f64::from(value), PATIENCE), 1);
    }
    rig.crash();
    let before = rig.broker.log.len();
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(2 * SECOND);
    let expected: Vec<_> = (0..50).map(f64::from).collect();
    assert_eq!(values(&rig, HISTORY, before), expected);
    assert_eq!(rig.broker.json(VALUE)["value"], 49.0);
    assert_eq!(rig.broker.json(VALUE)["quality"], "cached");
    // With the broker, they are on the disk no longer.
    let kept = rig.kept.kept();
    assert_eq!((kept.spool.len(), due(&kept)), (0, vec![false]));
    rig.crash();
    let before = rig.broker.log.len();
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(2 * SECOND);
    assert_eq!(values(&rig, HISTORY, before), [0.0; 0]);
    assert_eq!(values(&rig, VALUE, before), [0.0; 0]);
}

/// The samples on the history topic with this value.
fn samples(rig: &Rig, value: f64) -> Vec<serde_json::Value> {
    let mut messages = rig.broker.messages(HISTORY);
    messages.retain(|message| message["value"] == value);
    messages
}

#[test]
fn what_a_device_says_again_to_another_process_arrives_twice_under_one_id() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    for value in [7.0, 8.0] {
        answered(&mut rig, device, value, MOMENT);
    }
    rig.broker.silent = true;
    assert_eq!(answered(&mut rig, device, 9.0, MOMENT), 0);
    // The store hears of the device while its notification is open.
    let update = Request::new(Code::POST, [rig.location(device), vec![]].concat());
    rig.request(device, update);
    rig.run(MOMENT);
    rig.crash();
    rig.broker.silent = false;
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(20 * SECOND);
    let twice = samples(&rig, 9.0);
    assert_eq!(twice.len(), 2, "{twice:?}");
    assert_eq!(twice[0]["src_id"], twice[1]["src_id"]);
    assert_eq!(rig.broker.json(VALUE)["value"], 9.0);
    let ids: std::collections::BTreeSet<_> = rig
        .broker
        .messages(HISTORY)
        .iter()
        .filter_map(|message| message["src_id"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(ids.len(), 3, "{ids:?}");
    // What came in an answer is not said again.
    assert_eq!(samples(&rig, 21.5)[0]["src_id"], json!(null));
}

#[test]
fn a_send_that_comes_again_to_another_process_has_the_same_id() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.broker.silent = true;
    let mut request = Request::new(Code::POST, ["dp"]);
    request.content_format = Some(110);
    request.payload = r#"[{"n":"/3303/0/5700","v":4,"t":-60},{"n":"/3303/0/5700","v":5}]"#.into();
    rig.request(device, request);
    rig.run(MOMENT);
    rig.crash();
    rig.broker.silent = false;
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(20 * SECOND);
    let mut stored = rig.broker.messages(HISTORY);
    stored.retain(|message| message["historical"] == true);
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert!(stored[0]["src_id"].is_string());
    assert_eq!(stored[0]["src_id"], stored[1]["src_id"]);
}

#[test]
fn what_was_written_down_never_takes_the_place_of_a_newer_value() {
    let mut rig = Rig::with_mapping(PLAIN);
    let device = rig.add_registered();
    rig.disconnect();
    answered(&mut rig, device, 1.0, PATIENCE);
    // Not confirmable, so nobody waits for them.
    rig.notify(device, "/3303/0", temperature(2.0), false);
    rig.run(PATIENCE);
    assert_eq!(due(&rig.kept.kept()), [true]);
    rig.broker.silent = true;
    rig.connect();
    rig.notify(device, "/3303/0", temperature(3.0), false);
    rig.run(MOMENT);
    assert_eq!(rig.broker.json(VALUE)["value"], 3.0);
    // The broker has it, and the gateway was not told any more.
    rig.crash();
    rig.broker.silent = false;
    let before = rig.broker.log.len();
    rig.start(Rig::setup(Rig::plan(PLAIN)));
    rig.run(2 * SECOND);
    let after = values(&rig, VALUE, before);
    assert!(after.iter().all(|value| *value == 3.0), "{after:?}");
    assert_eq!(rig.broker.json(VALUE)["value"], 3.0);
}

#[test]
fn a_repeated_value_is_acknowledged_when_the_one_that_stands_is_safe() {
    let mut rig = Rig::with_mapping(PLAIN);
    let device = rig.add_registered();
    rig.disconnect();
    let both = |value| {
        let text =
            format!(r#"[{{"bn":"/3303/0/","n":"5700","v":{value}}},{{"n":"5601","v":{value}}}]"#);
        content(110, &text)
    };
    rig.notify(device, "/3303/0", both(1.0), false);
    rig.run(SECOND);
    assert_eq!(due(&rig.kept.kept()), [false]);
    // Of these two only one value is new.
    let text = r#"[{"bn":"/3303/0/","n":"5700","v":1.0},{"n":"5601","v":7}]"#;
    let before = rig.sent;
    rig.notify(device, "/3303/0", content(110, text), true);
    rig.run(PATIENCE);
    assert_eq!(rig.sent - before, 1);
    assert_eq!(due(&rig.kept.kept()), [true]);
}

#[test]
fn while_the_disk_fails_nobody_is_acknowledged_but_by_the_broker() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.disconnect();
    rig.disk_full = true;
    let before = rig.sent;
    rig.notify(device, "/3303/0", temperature(9.0), true);
    rig.run(SECOND);
    assert_eq!(rig.sent, before);
    let failed = |event: &&lwm2mqtt::gateway::Event| {
        matches!(event, lwm2mqtt::gateway::Event::SpoolFailed { .. })
    };
    assert_eq!(rig.events.iter().filter(failed).count(), 1);
    rig.connect();
    rig.run(MOMENT);
    assert_eq!(rig.sent - before, 1);
    assert_eq!(values(&rig, HISTORY, 0).last(), Some(&9.0));
    // Room again: what comes then is written.
    rig.disk_full = false;
    rig.broker.silent = true;
    assert_eq!(answered(&mut rig, device, 10.0, 6 * SECOND), 1);
}

#[test]
fn a_full_spool_drops_the_oldest_samples_and_says_so() {
    let mut rig = Rig::with_setup(Rig::plan(MAPPING), |setup| {
        setup.limits.outbox = outbox::Limits {
            queued: 20,
            ..outbox::Limits::default()
        };
    });
    let device = rig.add_registered();
    rig.disconnect();
    for value in 0..40 {
        assert_eq!(answered(&mut rig, device, f64::from(value), PATIENCE), 1);
    }
    rig.crash();
    let mut setup = Rig::setup(Rig::plan(MAPPING));
    setup.limits.outbox.queued = 20;
    let before = rig.broker.log.len();
    rig.start(setup);
    rig.run(2 * SECOND);
    let arrived = values(&rig, HISTORY, before);
    let oldest = arrived[0];
    let expected: Vec<_> = (oldest as u32..40).map(f64::from).collect();
    assert_eq!(arrived, expected);
    let said = rig.broker.messages("lwm2mqtt/bridge/event");
    let dropped = said.iter().filter(|event| event["type"] == "spool_dropped");
    let dropped: u64 = dropped
        .map(|event| event["samples"].as_u64().unwrap())
        .sum();
    assert!(
        dropped > 0 && dropped <= oldest as u64,
        "{dropped} of {oldest}"
    );
    let status = rig.administer(&json!({ "verb": "status" }));
    let spool = &status["result"]["spool"];
    assert_eq!(spool["messages"], 0, "{spool}");
}

#[test]
fn a_message_of_the_spool_that_cannot_be_read_is_passed_over_with_a_sentence() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.disconnect();
    for value in 0..3 {
        answered(&mut rig, device, f64::from(value), PATIENCE);
    }
    rig.crash();
    let mut kept = rig.kept.kept();
    kept.spool[1].body.truncate(5);
    let mut gateway = lwm2mqtt::gateway::Gateway::new(rig.now, Rig::setup(Rig::plan(MAPPING)));
    let refused = gateway.restore(rig.now, kept);
    assert_eq!(refused.len(), 1);
    assert!(refused[0].contains("cannot be read"), "{refused:?}");
    assert!(!gateway.is_drained());
}

#[test]
fn an_orderly_stop_without_a_broker_loses_nothing_and_repeats_nothing() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    rig.disconnect();
    rig.notify(device, "/3303/0", temperature(5.0), false);
    rig.run(MOMENT / 10);
    rig.run(MOMENT);
    rig.stop();
    let before = rig.broker.log.len();
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(2 * SECOND);
    assert_eq!(values(&rig, HISTORY, before), [5.0]);
    assert_eq!(values(&rig, VALUE, before), [5.0]);
    rig.stop();
    let before = rig.broker.log.len();
    rig.start(Rig::setup(Rig::plan(MAPPING)));
    rig.run(2 * SECOND);
    assert_eq!(values(&rig, HISTORY, before), [0.0; 0]);
}
