//! The broker goes, comes back, and forgets.

use std::time::Duration;

use lwm2mqtt::coap::Code;
use lwm2mqtt::gateway::{Event, Input, Message};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";

fn temperature(value: f64) -> lwm2mqtt::coap::Response {
    content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#))
}

// wish: 26
#[test]
fn the_newest_value_is_published_when_the_broker_is_back() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.disconnect();
    for value in [1.0, 2.0, 3.0] {
        rig.notify(device, "/3303/0", temperature(value), true);
        rig.run(SECOND);
    }
    let before = rig.broker.log.len();
    rig.connect();
    rig.run(2 * SECOND);
    let values: Vec<_> = rig.broker.log[before..]
        .iter()
        .filter(|(topic, _)| topic == VALUE)
        .collect();
    assert_eq!(values.len(), 1, "two older ones were coalesced");
    assert_eq!(rig.broker.json(VALUE)["value"], 3.0);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
}

#[test]
fn devices_are_served_while_there_is_no_broker() {
    let mut rig = Rig::new();
    rig.disconnect();
    let device = rig.add_registered();
    assert!(!rig.devices[device].observers.is_empty());
    assert!(!rig.broker.retained.contains_key(VALUE));
    rig.connect();
    rig.run(2 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 21.5);
}

#[test]
fn a_broker_that_kept_everything_gets_nothing_twice() {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.disconnect();
    let before = rig.broker.messages(VALUE).len();
    rig.connect();
    rig.run(10 * SECOND);
    assert_eq!(rig.broker.messages(VALUE).len(), before);
}

// wish: 22, 23
#[test]
fn a_broker_that_forgot_gets_everything_again() {
    let mut rig = Rig::new();
    rig.add_registered();
    let (topics, time) = (
        rig.broker.retained.keys().cloned().collect::<Vec<_>>(),
        rig.broker.json(VALUE)["time"].clone(),
    );
    rig.disconnect();
    rig.broker.retained.clear();
    rig.connect();
    rig.run(10 * SECOND);
    assert_eq!(
        rig.broker.retained.keys().cloned().collect::<Vec<_>>(),
        topics
    );
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["value"], &value["quality"], &value["time"]),
        (&21.5.into(), &"cached".into(), &time)
    );
    assert_eq!(rig.broker.json("lwm2mqtt/bridge/state")["state"], "online");
}

// wish: 22
#[test]
fn a_large_fleet_is_published_again_at_a_pace() {
    let mut rig = Rig::new();
    for number in 0..60 {
        let device = rig.add_device();
        let light = r#"[{"bn":"/3311/0/","n":"5850","vb":true},{"n":"5851","v":7}]"#;
        rig.devices[device].answer(Code::GET, "/3311/0", content(110, light));
        rig.register(
            device,
            &format!("dev{number}"),
            "lt=3000",
            "</>;ct=110,</3311/0>",
        );
    }
    rig.run(5 * SECOND);
    let before: Vec<_> = rig.broker.retained.keys().cloned().collect();
    rig.disconnect();
    rig.broker.retained.clear();
    rig.connect();
    rig.run(SECOND * 4 / 10);
    // The sentinel was waited for, and the first hundred milliseconds of 500 a second are over.
    assert!(
        rig.broker.retained.len() < 120,
        "{}",
        rig.broker.retained.len()
    );
    rig.run(2 * SECOND);
    let after: Vec<_> = rig.broker.retained.keys().cloned().collect();
    assert_eq!(after, before);
}

#[test]
fn what_was_not_acknowledged_is_published_again() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.broker.silent = true;
    rig.notify(device, "/3303/0", temperature(9.0), true);
    rig.run(SECOND);
    rig.disconnect();
    rig.broker.retained.remove(VALUE);
    rig.broker.silent = false;
    rig.connect();
    rig.run(2 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 9.0);
}

#[test]
fn a_reply_given_while_the_broker_was_away_arrives() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].dead = true;
    rig.ask(
        "lwm2mqtt/d/dev1/get/temperature-0/sensor-value",
        r#"{"id":"r"}"#,
    );
    rig.disconnect();
    rig.run(Duration::from_secs(120));
    rig.connect();
    rig.run(2 * SECOND);
    let last = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!((&last["id"], &last["final"]), (&"r".into(), &true.into()));
}

#[test]
fn a_gateway_that_stops_says_so() {
    let mut rig = Rig::new();
    rig.input(Input::Stop);
    rig.run(SECOND);
    assert_eq!(rig.broker.json("lwm2mqtt/bridge/state")["state"], "offline");
    assert!(rig.gateway.is_drained());
}

#[test]
fn another_gateway_on_the_same_topics_is_named_once() {
    let mut rig = Rig::new();
    rig.add_registered();
    let said = |rig: &Rig| {
        let others = rig.events.iter();
        others
            .filter(|event| matches!(event, Event::OtherGateway { .. }))
            .count()
    };
    rig.disconnect();
    rig.connect();
    rig.run(SECOND);
    assert_eq!(said(&rig), 0, "its own message is no news");
    for _ in 0..2 {
        rig.input(Input::Message(Message {
            topic: "lwm2mqtt/bridge/info".into(),
            payload: br#"{"gateway":"gw-2","version":"0.1.0"}"#.to_vec(),
            ..Message::default()
        }));
    }
    assert_eq!(said(&rig), 1);
    let event = rig.broker.messages("lwm2mqtt/bridge/event").pop().unwrap();
    assert_eq!(
        (&event["type"], &event["gateway"]),
        (&"other_gateway".into(), &"gw-2".into())
    );
}

// wish: 22
#[test]
fn publishing_again_that_a_kill_cut_short_begins_anew_whatever_waited_before() {
    for outputs in 0..12 {
        let mut rig = Rig::new();
        let device = rig.add_registered();
        rig.notify(device, "/3303/0", temperature(22.0), true);
        rig.run(SECOND);
        let topics: Vec<_> = rig.broker.retained.keys().cloned().collect();
        rig.disconnect();
        rig.notify(device, "/3303/0", temperature(23.0), true);
        rig.run(70 * SECOND);
        rig.broker.retained.clear();
        rig.connect();
        rig.doomed = Some(outputs);
        rig.run(2 * SECOND);
        if !rig.is_away() {
            rig.crash();
        }
        rig.start(Rig::setup(lwm2mqtt::mapping::Plan::unmapped("lwm2mqtt")));
        rig.run(10 * SECOND);
        let again: Vec<_> = rig.broker.retained.keys().cloned().collect();
        assert_eq!(again, topics, "killed after {outputs}");
    }
}
