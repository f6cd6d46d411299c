//! The gateway and the LwM2M client of this program, all the way from MQTT to a simulated device
//! and back.

use std::time::Duration;

use lwm2mqtt::lwm2m::{Path, Value, Version};
use serde_json::{Value as Json, json};

use crate::rig::Rig;

const SECOND: Duration = Duration::from_secs(1);
const REPLY: &str = "lwm2mqtt/d/dev1/reply";
const DIMMER: Path = Path::resource(3311, 0, 5851);

fn rig(version: Version) -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_client("dev1", version);
    rig.run(5 * SECOND);
    (rig, device)
}

/// The last word about a request that does well.
fn ask(rig: &mut Rig, operation: &str, payload: &Json) -> Json {
    let last = answer(rig, operation, payload);
    assert_eq!(last["status"], "done", "{last}");
    last
}

fn answer(rig: &mut Rig, operation: &str, payload: &Json) -> Json {
    let topic = format!("lwm2mqtt/d/dev1/lwm2m/{operation}");
    rig.ask(&topic, &payload.to_string());
    rig.run(SECOND);
    let last = rig.broker.messages(REPLY).pop().unwrap();
    assert_eq!(
        (&last["final"], &last["op"]),
        (&true.into(), &operation.into())
    );
    last
}

fn value(rig: &Rig, device: usize, path: &Path) -> Option<Value> {
    let client = rig.devices[device].client.as_ref().unwrap();
    client.tree().value(path).cloned()
}

fn set(rig: &mut Rig, device: usize, path: &Path, value: Value) {
    let client = rig.devices[device].client.as_mut().unwrap();
    client.tree_mut().set(path, value);
    rig.nudge(device);
}

// conformance: 1.1-int-280, 1.1-int-230, 1.1-int-304, 1.1-int-305
#[test]
fn composite_operations_reach_a_device_and_come_back() {
    for version in [Version::V1_1, Version::V1_2] {
        let (mut rig, device) = rig(version);
        let paths = json!(["/3311/0/5851", "/3311/0/5850", "/77/0"]);
        let last = ask(&mut rig, "read-composite", &json!({ "paths": paths }));
        assert_eq!(
            last["values"],
            json!({ "/3311/0/5850": false, "/3311/0/5851": 100 })
        );
        assert_eq!(last.get("fallback"), None);

        let values = json!({ "/1/0/2": 0, "/3311/0/5851": 30 });
        ask(&mut rig, "write-composite", &json!({ "values": values }));
        assert_eq!(value(&rig, device, &DIMMER), Some(Value::Integer(30)));
        // All or nothing.
        let values = json!({ "/3/0/14": "+01:00", "/3311/0/5851": 130 });
        let last = answer(&mut rig, "write-composite", &json!({ "values": values }));
        assert_eq!(last["error"]["code"], "4.00");
        assert_eq!(
            value(&rig, device, &Path::resource(3, 0, 14)),
            Some(Value::String("+00:00".into()))
        );

        let paths = json!({ "paths": ["/3311/0/5851", "/3342/0/5501"] });
        ask(&mut rig, "observe-composite", &paths);
        set(&mut rig, device, &DIMMER, Value::Integer(55));
        rig.run(SECOND);
        let topic = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";
        assert_eq!(rig.broker.json(topic)["value"], 55);
        ask(&mut rig, "cancel-observe-composite", &paths);
    }
}

#[test]
fn a_device_that_was_registered_as_1_0_is_asked_singly() {
    let (mut rig, _) = rig(Version::V1_0);
    let paths = json!(["/3311/0/5851", "/77/0/1", "/3311/0/5850"]);
    let last = ask(&mut rig, "read-composite", &json!({ "paths": paths }));
    assert_eq!(
        last["values"],
        json!({ "/3311/0/5850": false, "/3311/0/5851": 100 })
    );
    assert_eq!(last["fallback"], "single");
}

// conformance: 1.1-int-1630, 1.1-int-1635
#[test]
fn an_instance_is_created_and_deleted_at_a_device() {
    for version in [Version::V1_0, Version::V1_1, Version::V1_2] {
        let (mut rig, device) = rig(version);
        let create = json!({ "path": "/16", "instance": 4, "values": { "0/1": "plant" } });
        let last = ask(&mut rig, "create", &create);
        assert_eq!(
            (&last["code"], &last["location"]),
            (&"2.01".into(), &"/16/4".into())
        );
        let path = Path::resource_instance(16, 4, 0, 1);
        assert_eq!(
            value(&rig, device, &path),
            Some(Value::String("plant".into()))
        );
        let last = answer(&mut rig, "create", &create);
        assert_eq!(last["error"]["code"], "4.00", "it is there");
        let create = json!({ "path": "/16", "values": { "0/0": "x" } });
        assert_eq!(ask(&mut rig, "create", &create)["location"], "/16/0");
        assert_eq!(
            ask(&mut rig, "delete", &json!({ "path": "/16/4" }))["code"],
            "2.02"
        );
        assert_eq!(value(&rig, device, &path), None);
        let last = answer(&mut rig, "delete", &json!({ "path": "/3/0" }));
        assert_eq!(last["error"]["code"], "4.05");
    }
}

// conformance: 1.1-int-306, 1.1-int-307, P23
#[test]
fn a_device_may_send_because_the_gateway_lets_it() {
    let (mut rig, device) = rig(Version::V1_1);
    let muted = Path::resource(1, 0, 23);
    assert_eq!(value(&rig, device, &muted), Some(Value::Boolean(false)));
    set(&mut rig, device, &DIMMER, Value::Integer(11));
    rig.send(device, &[DIMMER]);
    rig.run(SECOND);
    let dimmer = rig.broker.json("lwm2mqtt/d/dev1/v/light-control-0/dimmer");
    assert_eq!(
        (&dimmer["value"], &dimmer["src"]),
        (&11.into(), &"send".into())
    );
    // Muted again, it is silent.
    ask(
        &mut rig,
        "write",
        &json!({ "path": "/1/0/23", "value": true }),
    );
    let sent = rig.broker.log.len();
    rig.send(device, &[DIMMER]);
    rig.run(SECOND / 10);
    assert_eq!(rig.broker.log.len(), sent);
}

// conformance: 1.2-int-264, 1.2-int-312, 1.2-int-313
#[test]
fn what_came_with_1_2_is_used_with_1_2() {
    let (mut rig, device) = rig(Version::V1_2);
    let last = ask(
        &mut rig,
        "discover",
        &json!({ "path": "/3311", "depth": 1 }),
    );
    assert_eq!(last["links"], json!({ "/3311": {}, "/3311/0": {} }));
    ask(
        &mut rig,
        "write-attributes",
        &json!({ "path": "/3311/0/5851", "pmin": 60 }),
    );
    let observe = json!({ "path": "/3311/0/5851", "attributes": { "pmax": 10 } });
    ask(&mut rig, "observe", &observe);
    set(&mut rig, device, &DIMMER, Value::Integer(12));
    rig.run(SECOND);
    let topic = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";
    assert_eq!(
        rig.broker.json(topic)["value"],
        12,
        "not held back by what is attached"
    );
}

// conformance: 1.1-int-104, 1.1-int-107
#[test]
fn a_lifetime_and_an_update_are_asked_for() {
    let (mut rig, _) = rig(Version::V1_1);
    ask(
        &mut rig,
        "write",
        &json!({ "path": "/1/0/1", "value": 120 }),
    );
    let state = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&state["lifetime"], &state["state"]),
        (&120.into(), &"online".into())
    );
    ask(
        &mut rig,
        "execute",
        &json!({ "path": "/1/0/8", "args": "0='U'" }),
    );
    rig.run(1000 * SECOND);
    let state = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(state["state"], "online");
}

#[test]
fn a_lifetime_that_is_too_long_is_brought_down() {
    let mut rig = Rig::with(lwm2mqtt::mapping::Plan::unmapped("lwm2mqtt"), |settings| {
        settings.lifetime_max = Some(Duration::from_secs(100));
    });
    let device = rig.add_client("dev1", Version::V1_1);
    rig.run(5 * SECOND);
    let lifetime = Path::resource(1, 0, 1);
    assert_eq!(value(&rig, device, &lifetime), Some(Value::Integer(100)));
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["lifetime"],
        100
    );
}

// conformance: 1.1-int-651
#[test]
fn the_clock_of_a_device_is_set() {
    let (mut rig, _) = rig(Version::V1_1);
    ask(
        &mut rig,
        "write",
        &json!({ "path": "/3/0/13", "value": 1_000_000 }),
    );
    let last = ask(&mut rig, "read", &json!({ "path": "/3/0/13" }));
    let time = last["value"].to_string();
    assert!(
        time.contains("1970-01-12")
            || last["value"]
                .as_i64()
                .is_some_and(|seconds| (1_000_000..1_000_010).contains(&seconds)),
        "{time}"
    );
}
