//! What mappings make of values on their way to MQTT and back.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);

/// A device with object 33999, of which nothing is known, and a meter.
const OBJECTS: &str = "</>;ct=110,</1/0>,</3/0>,</3305/0>,</33999/0>";

fn registered(mapping: &str) -> (Rig, usize) {
    let mut rig = Rig::with_mapping(mapping);
    let device = rig.add_device();
    let answers = &mut rig.devices[device];
    answers.answer(Code::GET, "/3/0", content(110, "[]"));
    answers.answer(Code::GET, "/33999/0", content(110, "[]"));
    answers.answer(Code::GET, "/3305/0", content(110, "[]"));
    rig.register(device, "dev1", "lwm2m=1.1", OBJECTS);
    rig.run(SECOND);
    (rig, device)
}

fn notify(rig: &mut Rig, device: usize, path: &str, records: &str) {
    rig.notify(device, path, content(110, records), false);
    rig.run(SECOND);
}

fn value(rig: &Rig, signal: &str) -> Json {
    let message = rig.broker.json(&format!("lwm2mqtt/d/dev1/v/{signal}"));
    json!([message["value"], message["quality"]])
}

#[test]
fn what_a_mapping_calculates_is_published_and_what_it_cannot_is_suspect() {
    let (mut rig, device) = registered(
        r#"
[instances]
"33999/0" = "tank"
[[signal]]
name = "pressure"
path = "/33999/0/1"
value = { unit = "bar", expr = "value / 14.5038", round = 2 }
[[signal]]
name = "ratio"
path = "/33999/0/2"
value = { expr = "100 / value", max = 50 }
[[signal]]
name = "state"
path = "/33999/0/3"
value = { expr = "if(value >= 2, 'hot', 'cold')" }
"#,
    );
    let records = r#"[{"bn":"/33999/0/","n":"1","v":29},{"n":"2","v":0},{"n":"3","v":2}]"#;
    notify(&mut rig, device, "/33999/0", records);
    assert_eq!(value(&rig, "tank/pressure"), json!([2.0, "good"]));
    assert_eq!(value(&rig, "tank/ratio"), json!([null, "suspect"]));
    assert_eq!(value(&rig, "tank/state"), json!(["hot", "good"]));
    let message = rig.broker.json("lwm2mqtt/d/dev1/v/tank/pressure");
    assert_eq!(message["unit"], "bar");
    rig.run(SECOND);
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert_eq!(birth["signals"]["tank/state"]["type"], "string");
    assert_eq!(birth["signals"]["tank/state"]["access"], "r");
    notify(
        &mut rig,
        device,
        "/33999/0",
        r#"[{"n":"/33999/0/2","v":1}]"#,
    );
    assert_eq!(value(&rig, "tank/ratio"), json!([50.0, "suspect"]));
    let counters = rig.gateway.counters();
    assert_eq!((counters.uncalculated, counters.clipped), (1, 1));
}

#[test]
fn bits_become_names_and_frames_become_fields() {
    let (mut rig, device) = registered(
        r#"
[instances]
"33999/0" = "valve"
[[signal]]
name = "faults"
path = "/33999/0/7"
value = { bits = { 0 = "overpressure", 1 = "leak", 5 = "tamper" } }
[[signal]]
name = "snapshot"
path = "/33999/0/20"
kind = "event"
value = { opaque = "base64", layout = [
  { name = "seq",   type = "u16be" },
  { name = "temp",  type = "i16be", scale = 0.1 },
  { name = "flags", type = "u8", bits = { 0 = "dry", 1 = "frozen" } },
] }
[[signal]]
name = "id"
path = "/33999/0/21"
value = { opaque = "hex" }
[[signal]]
name = "bare"
path = "/33999/0/22"
format = "value"
value = { bits = { 0 = "a" } }
"#,
    );
    // 34 is bits 1 and 5; the frame is 0007 fff1 06.
    let records = r#"[{"bn":"/33999/0/","n":"7","v":34},{"n":"20","vd":"AAf_8QY"},{"n":"21","vd":"yv4"},{"n":"22","v":9}]"#;
    notify(&mut rig, device, "/33999/0", records);
    assert_eq!(
        value(&rig, "valve/faults"),
        json!([["leak", "tamper"], "good"])
    );
    assert_eq!(value(&rig, "valve/id"), json!(["cafe", "good"]));
    assert_eq!(
        rig.broker.retained["lwm2mqtt/d/dev1/v/valve/bare"],
        b"a,bit-3"
    );
    let events = rig.broker.messages("lwm2mqtt/d/dev1/e/valve/snapshot");
    assert_eq!(
        events[0]["value"],
        json!({"seq": 7, "temp": -1.5, "flags": ["frozen", "bit-2"]})
    );
    rig.run(SECOND);
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    let kind = |signal: &str| birth["signals"][signal]["type"].clone();
    assert_eq!(kind("valve/faults"), "list");
    assert_eq!(kind("valve/snapshot"), "object");
    // A frame that is too short is said by name, and no field of it is made up.
    notify(
        &mut rig,
        device,
        "/33999/0",
        r#"[{"n":"/33999/0/20","vd":"AAc"}]"#,
    );
    let events = rig.broker.messages("lwm2mqtt/d/dev1/e/valve/snapshot");
    assert_eq!(
        (&events[1]["value"], &events[1]["quality"]),
        (&Json::Null, &json!("suspect"))
    );
    assert_eq!(rig.gateway.counters().undecodable, 1);
    let said = rig.broker.messages("lwm2mqtt/bridge/event");
    let detail = said.iter().find(|event| event["type"] == "undecodable");
    assert_eq!(
        detail.unwrap()["detail"],
        "2 bytes, and the layout of the mapping needs 5"
    );
}

#[test]
fn a_value_is_published_in_the_unit_wanted_and_written_back_in_the_devices() {
    let (mut rig, device) = registered(
        r#"
[instances]
"3305/0" = "meter"
[[signal]]
name = "energy"
path = "/3305/0/5805"
value = { unit = "kWh" }
[[signal]]
name = "calibration"
path = "/3305/0/5806"
value = { unit = "kW" }
[[signal]]
name = "power"
path = "/3305/0/5800"
value = { expr = "value" }
"#,
    );
    let records = r#"[{"bn":"/3305/0/","n":"5805","v":1234.5},{"n":"5800","v":1}]"#;
    notify(&mut rig, device, "/3305/0", records);
    let message = rig.broker.json("lwm2mqtt/d/dev1/v/meter/energy");
    assert_eq!(
        (&message["value"], &message["unit"]),
        (&json!(1.2345), &json!("kWh"))
    );
    let answers = &mut rig.devices[device];
    answers.answer(Code::PUT, "/3305/0/5806", Response::new(Code::CHANGED));
    rig.ask("lwm2mqtt/d/dev1/set/meter/calibration", "1.5");
    rig.run(SECOND);
    let written = rig.devices[device].requests.last().unwrap();
    assert_eq!(written.path, ["3305", "0", "5806"]);
    let text = String::from_utf8_lossy(&written.payload);
    assert!(text.contains("1500"), "{text}");
    rig.ask("lwm2mqtt/d/dev1/set/meter/power", r#"{"id":"x","value":1}"#);
    rig.run(SECOND);
    let reply = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(reply["error"]["kind"], "access", "{reply}");
}

#[test]
fn names_and_fields_stand_as_they_were_after_a_restart() {
    let mapping = r#"
[[signal]]
name = "faults"
path = "/33999/0/7"
value = { bits = { 1 = "leak" } }
"#;
    let (mut rig, device) = registered(mapping);
    notify(
        &mut rig,
        device,
        "/33999/0",
        r#"[{"n":"/33999/0/7","v":2}]"#,
    );
    let before = rig.broker.json("lwm2mqtt/d/dev1/v/33999-0/faults");
    rig.stop();
    // The broker forgets, so that all is published again.
    rig.broker.retained.clear();
    rig.start(Rig::setup(Rig::plan(mapping)));
    rig.connect();
    rig.run(5 * SECOND);
    let after = rig.broker.json("lwm2mqtt/d/dev1/v/33999-0/faults");
    assert_eq!(after["value"], before["value"]);
    assert_eq!(after["time"], before["time"]);
}
