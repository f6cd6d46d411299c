//! Whatever a device or an MQTT user chooses cannot make the gateway publish or write where they may
//! not (MQTT contract §0 and §5): a test for each way by which a string of theirs gets in.

mod devices;
mod users;

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use lwm2mqtt::gateway::{Event, Input, Message, Replies};
use lwm2mqtt::lwm2m::model::Models;
use lwm2mqtt::mapping::{Plan, Source};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const REPLY: &str = "lwm2mqtt/d/dev1/reply";

/// What nobody may get into a topic by his own choice.
const HOSTILE: [&str; 18] = [
    "+",
    "#",
    "$SYS",
    "../..",
    "a/b",
    "/",
    "dev1/set/light-control-0/on-off",
    "bridge",
    "bridge/state",
    "d",
    "lwm2mqtt",
    "homeassistant",
    "dev1",
    "a\u{1}b",
    "a\u{7f}b",
    "a\u{85}b",
    "a\u{FFFE}b\u{FDD0}",
    "{base}{device}",
];

/// A gateway with one mapping file.
fn mapped(text: &str) -> Rig {
    let source = Source {
        file: "mapping.toml".into(),
        text: text.into(),
    };
    let compiled = Plan::compile(&[source], &Models::builtin(), "lwm2mqtt");
    Rig::with_plan(
        compiled
            .plan
            .unwrap_or_else(|| panic!("{:?}", compiled.diagnostics)),
    )
}

/// Adds a device called `endpoint` with a temperature sensor.
fn add_sensor(rig: &mut Rig, endpoint: &str, value: f64) -> usize {
    let device = rig.add_device();
    let payload = json!([{ "bn": "/3303/0/", "n": "5700", "v": value }]).to_string();
    rig.devices[device].answer(Code::GET, "/3303/0", content(110, &payload));
    rig.register(device, endpoint, "lt=300", "</>;ct=110,</3303/0>");
    rig.run(SECOND * 3);
    device
}

/// Every topic published on so far.
fn topics(rig: &Rig) -> Vec<&str> {
    rig.broker
        .log
        .iter()
        .map(|(topic, _)| topic.as_str())
        .collect()
}

/// Whether a topic is one of those that the gateway has for a device without a mapping, and which.
fn device_of(topic: &str) -> Option<&str> {
    let levels: Vec<&str> = topic.split('/').collect();
    match levels[..] {
        ["lwm2mqtt", "d", device] => Some(device),
        ["lwm2mqtt", "d", device, "availability" | "reply"] => Some(device),
        ["lwm2mqtt", "d", device, "v", _, _] => Some(device),
        _ => None,
    }
}

/// Publishes a request of MQTT 5.
fn ask(rig: &mut Rig, topic: &str, payload: &str, response_topic: Option<&str>) {
    rig.input(Input::Message(Message {
        topic: topic.into(),
        payload: payload.into(),
        response_topic: response_topic.map(str::to_owned),
        ..Message::default()
    }));
    rig.run(SECOND);
}

/// A registered `dev1`, and what was published so far forgotten.
fn dev1() -> Rig {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.broker.log.clear();
    rig
}

/// The last reply on the default topic, after a check that nothing was published elsewhere, but for
/// the sentinel, which comes by the clock.
fn refusal(rig: &Rig) -> Json {
    let expected = [REPLY, "lwm2mqtt/bridge/sentinel"];
    let published = topics(rig);
    assert!(
        published.iter().all(|topic| expected.contains(topic)),
        "{published:?}"
    );
    let reply = rig.broker.messages(REPLY).pop().unwrap();
    assert_eq!(reply["status"], "failed");
    reply["error"].clone()
}
