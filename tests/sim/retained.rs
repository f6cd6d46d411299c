//! What the broker retains and nobody answers for.

use std::time::Duration;

use lwm2mqtt::gateway::{AdminAccess, Input};
use serde_json::{Value as Json, json};

use crate::rig::Rig;

const SECOND: Duration = Duration::from_secs(1);
const GHOST: &str = "lwm2mqtt/d/gone/v/temperature-0/sensor-value";
const MAPPING: &str =
    "[[signal]]\npath = \"/3303/*/5700\"\ntopic = \"{base}/p/{endpoint}/{inst}\"\n";

/// A gateway whose broker retains what nobody answers for, and what other gateways do.
fn haunted() -> Rig {
    let mut rig = Rig::with_mapping(MAPPING);
    rig.add_registered();
    for topic in [
        GHOST,
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        "lwm2mqtt/cellar/bridge/state",
        "lwm2mqtt/cellar/d/dev1",
        "lwm2mqtt2/d/dev1",
        "elsewhere",
    ] {
        rig.broker.retained.insert(topic.into(), b"{}".to_vec());
    }
    rig
}

/// At the end of a test only what is ours may stand.
fn forget_others(rig: &mut Rig) {
    let others = ["lwm2mqtt/cellar/", "lwm2mqtt2/", "elsewhere"];
    let is_ours = |topic: &String| !others.iter().any(|other| topic.starts_with(other));
    rig.broker.retained.retain(|topic, _| is_ours(topic));
}

/// Asks, and gives the gateway what was found.
fn ask(rig: &mut Rig, verb: &str) -> Json {
    let id = rig.begin_admin(&json!({ "verb": verb }));
    tell(rig);
    rig.replies[&id].last().unwrap().clone()
}

fn tell(rig: &mut Rig) {
    let found = rig.audited.take().unwrap();
    rig.input(Input::Retained(Ok(found)));
    rig.run(SECOND);
}

// wish: 21
#[test]
fn what_nobody_answers_for_is_told_and_deleted_and_nothing_else() {
    let mut rig = haunted();
    let before = rig.broker.retained.clone();
    let ghosts = json!(["lwm2mqtt/d/dev1/set/light-control-0/on-off", GHOST]);
    let told = ask(&mut rig, "retained/audit");
    assert_eq!(told["result"]["topics"], ghosts, "{told}");
    assert_eq!(told["result"]["of_other_gateways"], 2);
    let of_sentinel = |topic: &str| topic.ends_with("bridge/sentinel");
    assert!(before.keys().eq(rig.broker.retained.keys()));
    let cleaned = ask(&mut rig, "retained/clean");
    assert_eq!(cleaned["result"]["topics"], ghosts);
    let mut expected = before;
    for ghost in ghosts.as_array().unwrap() {
        expected.remove(ghost.as_str().unwrap());
    }
    for (topic, payload) in &expected {
        assert!(of_sentinel(topic) || rig.broker.retained.get(topic) == Some(payload));
    }
    assert_eq!(rig.broker.retained.len(), expected.len());
    let events = rig.broker.messages("lwm2mqtt/bridge/event");
    let cleaned = events.iter().find(|it| it["type"] == "retained_cleaned");
    assert_eq!(cleaned.unwrap()["topics"], 2);
    assert_eq!(ask(&mut rig, "retained/audit")["result"]["count"], 0);
    forget_others(&mut rig);
}

#[test]
fn what_is_deleted_while_the_broker_is_read_is_no_ghost() {
    let mut rig = Rig::with_mapping(MAPPING);
    rig.add_registered();
    let id = rig.begin_admin(&json!({ "verb": "retained/audit" }));
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1", "name": "attic" }));
    rig.run(SECOND);
    tell(&mut rig);
    let told = rig.replies[&id].last().unwrap();
    assert_eq!(told["result"]["topics"], json!([]), "{told}");
}

#[test]
fn below_the_base_of_another_gateway_nothing_is_told_or_deleted() {
    let mut rig = haunted();
    let info = json!({ "gateway": "other", "version": "1" }).to_string();
    let ours = rig
        .broker
        .retained
        .insert("lwm2mqtt/bridge/info".into(), info.into());
    for verb in ["retained/audit", "retained/clean"] {
        let refused = ask(&mut rig, verb);
        assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    }
    assert!(rig.broker.retained.contains_key(GHOST));
    rig.broker
        .retained
        .insert("lwm2mqtt/bridge/info".into(), ours.unwrap());
    ask(&mut rig, "retained/clean");
    forget_others(&mut rig);
}

#[test]
fn over_mqtt_whoever_may_read_may_have_it_told_and_not_deleted() {
    let mut rig = Rig::with(Rig::plan(MAPPING), |settings| {
        settings.admin = AdminAccess::Read;
    });
    rig.ask("lwm2mqtt/bridge/request/retained/clean", "");
    rig.ask("lwm2mqtt/bridge/request/retained/audit", r#"{"id":"a"}"#);
    tell(&mut rig);
    let response = |verb: &str| {
        let topic = format!("lwm2mqtt/bridge/response/retained/{verb}");
        rig.broker.messages(&topic).pop().unwrap()
    };
    assert_eq!(response("clean")["error"]["kind"], "access");
    let told = response("audit");
    assert_eq!(
        (&told["id"], &told["result"]["count"]),
        (&"a".into(), &0.into())
    );
}

#[test]
fn without_a_broker_there_is_nothing_to_tell() {
    let mut rig = Rig::with_mapping(MAPPING);
    rig.disconnect();
    let refused = rig.administer(&json!({ "verb": "retained/audit" }));
    assert_eq!(refused["error"]["kind"], "offline");
}
