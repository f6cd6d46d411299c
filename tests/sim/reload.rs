//! Mapping files that are read again while devices are busy.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request};
use lwm2mqtt::gateway::{AdminAccess, MappingCause, Message};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, SENSOR, content};

const SECOND: Duration = Duration::from_secs(1);
const MOMENT: Duration = Duration::from_millis(30);

const MAPPING: &str = r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
history = true
"#;

fn renamed() -> String {
    MAPPING.replace("\"temperature\"", "\"warmth\"")
}

fn topic(device: &str, kind: &str, name: &str) -> String {
    format!("lwm2mqtt/d/{device}/{kind}/temperature-0/{name}")
}

/// What was said of the mapping files on `bridge/event`.
fn told(rig: &Rig) -> Vec<Json> {
    let mut events = rig.broker.messages("lwm2mqtt/bridge/event");
    events.retain(|event| event["type"].as_str().unwrap().starts_with("mapping_"));
    events
}

fn responses(rig: &Rig) -> Vec<Json> {
    rig.broker
        .messages("lwm2mqtt/bridge/response/mapping/reload")
}

fn numbers(messages: &[Json]) -> Vec<f64> {
    let values = messages.iter().map(|it| it["value"].as_f64().unwrap());
    values.collect()
}

// wish: 5, 21
#[test]
fn a_reload_under_traffic_moves_a_topic_and_loses_no_value() {
    let mut rig = Rig::with_mapping(MAPPING);
    let busy = rig.add_registered();
    let quiet = rig.add_sensor();
    rig.register(quiet, "dev2", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    let asked = [busy, quiet].map(|device| rig.devices[device].requests.len());
    let mut expected = vec![21.5];
    for value in 0..40 {
        let value = f64::from(value);
        expected.push(value);
        let sample = format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#);
        // Not confirmable: of those a device leaves out what it has something newer for.
        rig.notify(busy, "/3303/0", content(110, &sample), false);
        // In the middle of a burst: some are at the broker, some wait for it, some are on the way.
        rig.broker.silent = value > 15.0 && value < 25.0;
        rig.run(Duration::from_millis(7));
        if value == 20.0 {
            rig.read_mapping(MappingCause::Change, &renamed());
        }
    }
    rig.disconnect();
    rig.connect();
    rig.run(2 * SECOND);
    for device in ["dev1", "dev2"] {
        assert!(
            !rig.broker
                .retained
                .contains_key(&topic(device, "v", "temperature"))
        );
    }
    assert_eq!(
        rig.broker.json(&topic("dev1", "v", "warmth"))["value"],
        39.0
    );
    let moved = rig.broker.json(&topic("dev2", "v", "warmth"));
    assert_eq!(
        (&moved["value"], &moved["quality"]),
        (&21.5.into(), &"cached".into())
    );
    let mut arrived = numbers(&rig.broker.messages(&topic("dev1", "t", "temperature")));
    arrived.extend(numbers(&rig.broker.messages(&topic("dev1", "t", "warmth"))));
    // A broker that went before it acknowledged gets the same again.
    arrived.sort_by(f64::total_cmp);
    arrived.dedup();
    expected.sort_by(f64::total_cmp);
    assert_eq!(arrived, expected);
    // Nobody was asked anything: what is observed is the same.
    let since = [busy, quiet].map(|device| rig.devices[device].requests.len());
    assert_eq!(since, asked);
    let mut told = told(&rig);
    told.dedup();
    let [loaded] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(loaded["type"], "mapping_loaded");
    let info = rig.broker.json("lwm2mqtt/bridge/info");
    assert_eq!(info["mapping_hash"], loaded["hash"]);
}

#[test]
fn a_kill_right_after_a_reload_leaves_the_newest_value_at_its_new_place() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    let sample = r#"[{"n":"/3303/0/5700","v":9}]"#;
    rig.notify(device, "/3303/0", content(110, sample), true);
    rig.run(SECOND);
    rig.disconnect();
    rig.read_mapping(MappingCause::Signal, &renamed());
    rig.run(MOMENT);
    rig.crash();
    rig.start(Rig::setup(Rig::plan(&renamed())));
    rig.run(2 * SECOND);
    let value = rig.broker.json(&topic("dev1", "v", "warmth"));
    assert_eq!(value["value"], 9.0);
}

#[test]
fn a_device_that_was_away_takes_its_values_along_when_it_registers() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_registered();
    let request = Request::new(Code::DELETE, rig.location(device));
    rig.request(device, request);
    rig.run(SECOND);
    // The same files once more are no reason to touch anything.
    rig.read_mapping(MappingCause::Signal, MAPPING);
    let before = rig.broker.log.len();
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    let deleted = |rig: &Rig, before: usize| {
        let log = rig.broker.log[before..].iter();
        let deleted = log.filter(|(_, payload)| payload.is_empty());
        deleted.map(|(topic, _)| topic.clone()).collect::<Vec<_>>()
    };
    assert_eq!(deleted(&rig, before), [""; 0]);
    let request = Request::new(Code::DELETE, rig.location(device));
    rig.request(device, request);
    rig.run(SECOND);
    rig.read_mapping(MappingCause::Change, &renamed());
    let before = rig.broker.log.len();
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    assert_eq!(deleted(&rig, before), [topic("dev1", "v", "temperature")]);
    let value = rig.broker.json(&topic("dev1", "v", "warmth"));
    assert_eq!(value["value"], 21.5);
}

#[test]
fn files_with_mistakes_leave_all_as_it_was_and_are_told_of_once() {
    let mut rig = Rig::with_mapping(MAPPING);
    rig.add_registered();
    let hash = rig.broker.json("lwm2mqtt/bridge/info")["mapping_hash"].clone();
    let standing = rig.broker.retained.clone();
    rig.read_mapping(
        MappingCause::Change,
        "nonsense = true\n[[signal]]\npath = 3\n",
    );
    rig.run(SECOND);
    assert_eq!(rig.broker.retained, standing);
    let told_so_far = told(&rig);
    let [rejected] = &told_so_far[..] else {
        panic!("{told_so_far:?}");
    };
    assert_eq!(rejected["type"], "mapping_rejected");
    assert_eq!(rejected["hash"], hash);
    let mistakes = rejected["diagnostics"].as_array().unwrap();
    assert_eq!(rejected["mistakes"], mistakes.len());
    let first = mistakes[0].as_str().unwrap();
    assert!(first.starts_with("test.toml:6:1: error"), "{first}");
    // That they are sound again is news, though nothing has changed; the next time it is none.
    for _ in 0..2 {
        rig.read_mapping(MappingCause::Change, MAPPING);
        rig.run(SECOND);
        assert_eq!(told(&rig).len(), 2);
    }
    assert_eq!(told(&rig)[1]["type"], "mapping_loaded");
}

#[test]
fn whoever_asks_for_a_reload_is_answered_when_the_files_have_been_read() {
    let mut rig = Rig::with_mapping(MAPPING);
    rig.add_registered();
    let ask = |rig: &mut Rig, id: &str| {
        let payload = json!({ "id": id }).to_string();
        rig.ask("lwm2mqtt/bridge/request/mapping/reload", &payload);
        rig.run(MOMENT);
    };
    ask(&mut rig, "one");
    // What this one wants read may have been written while the first reading was under way.
    ask(&mut rig, "two");
    let here = rig.begin_admin(&json!({ "verb": "mapping/reload" }));
    assert_eq!((rig.readings, responses(&rig).len()), (1, 0));
    // A reading for another reason is no answer.
    rig.read_mapping(MappingCause::Change, MAPPING);
    rig.run(MOMENT);
    assert_eq!(responses(&rig).len(), 0);
    rig.read_mapping(MappingCause::Request, &renamed());
    rig.run(MOMENT);
    let first = responses(&rig);
    assert_eq!((first.len(), rig.readings), (1, 2));
    assert_eq!(
        (&first[0]["id"], &first[0]["status"]),
        (&"one".into(), &"done".into())
    );
    assert_eq!(first[0]["result"]["changed"], true);
    rig.read_mapping(MappingCause::Request, "nonsense = true\n");
    rig.run(MOMENT);
    let second = responses(&rig).pop().unwrap();
    assert_eq!(
        (&second["id"], &second["status"]),
        (&"two".into(), &"failed".into())
    );
    let detail = second["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("test.toml:6:1"), "{detail}");
    assert_eq!(rig.replies[&here].last().unwrap()["ok"], false);
    assert_eq!((responses(&rig).len(), rig.readings), (2, 2));
}

#[test]
fn who_may_only_read_cannot_have_the_mappings_read_again() {
    let mut rig = Rig::with(Rig::plan(MAPPING), |settings| {
        settings.admin = AdminAccess::Read;
    });
    rig.input(lwm2mqtt::gateway::Input::Message(Message {
        topic: "lwm2mqtt/bridge/request/mapping/reload".into(),
        ..Message::default()
    }));
    rig.run(MOMENT);
    assert_eq!(responses(&rig)[0]["error"]["kind"], "access");
    assert_eq!(rig.readings, 0);
}
