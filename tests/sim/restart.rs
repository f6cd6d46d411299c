//! The agent ends and begins again.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::kept::Kept;
use lwm2mqtt::mapping::Plan;
use serde_json::{Value as Json, json};

use crate::rig::{Rig, SENSOR, content};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
const AVAILABILITY: &str = "lwm2mqtt/d/dev1/availability";

fn temperature(value: f64) -> Response {
    content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#))
}

fn plan() -> Plan {
    Plan::unmapped("lwm2mqtt")
}

fn update(rig: &mut Rig, device: usize) -> Code {
    let location = rig.location(device);
    let request = Request::new(Code::POST, location);
    rig.request(device, request);
    rig.run(SECOND);
    rig.devices[device].responses.last().unwrap().code
}

/// What was published since, but for what the gateway says of itself.
fn published(rig: &Rig, since: usize) -> Vec<String> {
    let of_devices = |(topic, _): &&(String, Vec<u8>)| !topic.starts_with("lwm2mqtt/bridge/");
    let log = rig.broker.log[since..].iter();
    log.filter(of_devices)
        .map(|(topic, _)| topic.clone())
        .collect()
}

#[test]
fn a_restart_publishes_and_asks_nothing_that_stands() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.notify(device, "/3303/0", temperature(22.5), true);
    rig.run(SECOND);
    rig.stop();
    let retained = rig.broker.retained.clone();
    let (published_before, asked) = (rig.broker.log.len(), rig.devices[device].requests.len());
    rig.run(20 * SECOND);
    rig.start(Rig::setup(plan()));
    rig.run(4 * SECOND);
    assert_eq!(published(&rig, published_before), [""; 0]);
    assert_eq!(rig.devices[device].requests.len(), asked);
    for (topic, payload) in retained {
        if !topic.starts_with("lwm2mqtt/bridge/") {
            assert_eq!(rig.broker.retained.get(&topic), Some(&payload), "{topic}");
        }
    }
}

#[test]
fn a_registration_goes_on_after_the_agent_was_killed() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.crash();
    rig.start(Rig::setup(plan()));
    assert_eq!(update(&mut rig, device), Code::CHANGED);
    assert_eq!(rig.broker.json(AVAILABILITY)["state"], "online");
    let observed = |request: &&Request| request.observe.is_some();
    let requests = &rig.devices[device].requests;
    assert_eq!(requests.iter().filter(observed).count(), 2);
}

#[test]
fn a_notification_of_an_observation_from_before_is_taken() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.crash();
    rig.start(Rig::setup(plan()));
    rig.notify(device, "/3303/0", temperature(23.5), true);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 23.5);
    assert_eq!(rig.devices[device].observers.len(), 2, "none was reset");
    let unit: &Json = &rig.broker.json(VALUE)["unit"];
    assert_eq!(unit, "Cel", "what the sensor stated before");
}

#[test]
fn a_device_that_stood_online_is_asked_something_small_and_nothing_is_said() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].answer(Code::GET, "/1/0/1", content(0, "300"));
    rig.stop();
    let (before, asked) = (rig.broker.log.len(), rig.devices[device].requests.len());
    rig.start(Rig::setup(plan()));
    rig.run(10 * SECOND);
    let requests = &rig.devices[device].requests[asked..];
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].path, ["1", "0", "1"]);
    assert_eq!(published(&rig, before), [""; 0]);
}

#[test]
fn a_device_that_went_away_meanwhile_is_found_out() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.stop();
    rig.devices[device].dead = true;
    rig.start(Rig::setup(plan()));
    rig.run(120 * SECOND);
    let availability = rig.broker.json(AVAILABILITY);
    assert_eq!(availability["state"], "offline");
    assert_eq!(availability["reason"], "unreachable");
}

#[test]
fn a_device_whose_lifetime_ended_meanwhile_is_late_and_then_expired() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.stop();
    rig.run(400 * SECOND);
    rig.devices[device].dead = true;
    rig.start(Rig::setup(plan()));
    rig.run(10 * SECOND);
    let availability = rig.broker.json(AVAILABILITY);
    assert_eq!(availability["state"], "late");
    assert_eq!(availability["reason"], "gateway_restart");
    let seen = availability["last_seen"].clone();
    assert!(seen.as_str().unwrap() < "2026-11-22T15:20:00");
    rig.run(120 * SECOND);
    let availability = rig.broker.json(AVAILABILITY);
    assert_eq!(availability["reason"], "lifetime_expired");
    assert_eq!(availability["last_seen"], seen);
}

#[test]
fn a_late_device_that_updates_is_online_again_and_its_observations_stand() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.stop();
    rig.run(400 * SECOND);
    rig.start(Rig::setup(plan()));
    rig.run(10 * SECOND);
    assert_eq!(rig.broker.json(AVAILABILITY)["state"], "late");
    assert_eq!(update(&mut rig, device), Code::CHANGED);
    assert_eq!(rig.broker.json(AVAILABILITY)["state"], "online");
    rig.notify(device, "/3303/0", temperature(3.0), true);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 3.0);
}

#[test]
fn a_broker_that_forgot_while_the_agent_was_away_gets_everything_again() {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.run(70 * SECOND);
    let time = rig.broker.json(VALUE)["time"].clone();
    rig.stop();
    let retained: Vec<_> = rig.broker.retained.keys().cloned().collect();
    rig.broker.retained.clear();
    rig.start(Rig::setup(plan()));
    rig.run(20 * SECOND);
    let again: Vec<_> = rig.broker.retained.keys().cloned().collect();
    assert_eq!(again, retained);
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["value"], &value["quality"], &value["time"]),
        (&21.5.into(), &"cached".into(), &time)
    );
}

#[test]
fn a_device_that_may_not_be_here_any_more_is_put_out_at_the_start() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.stop();
    let mut setup = Rig::setup(plan());
    setup.settings.server.policy.join = lwm2mqtt::server::Join::Known;
    rig.start(setup);
    rig.run(SECOND);
    assert_eq!(update(&mut rig, device), Code::NOT_FOUND);
    assert_eq!(rig.broker.json(AVAILABILITY)["reason"], "blocked");
}

// wish: 21
#[test]
fn a_value_moves_when_the_mapping_gives_it_another_topic() {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.stop();
    let source = lwm2mqtt::mapping::Source {
        file: "test.toml".into(),
        text: "schema = 1\n[profile]\nid = \"test\"\n[match]\nendpoint = \"*\"\n[[signal]]\nname = \"warmth\"\npath = \"/3303/*/5700\"\n".into(),
    };
    let models = lwm2mqtt::lwm2m::model::Models::builtin();
    let plan = Plan::compile(&[source], &models, "lwm2mqtt").plan.unwrap();
    rig.start(Rig::setup(plan));
    rig.run(SECOND);
    assert!(!rig.broker.retained.contains_key(VALUE));
    let moved = rig.broker.json("lwm2mqtt/d/dev1/v/temperature-0/warmth");
    assert_eq!(moved["value"], 21.5);
    assert_eq!(moved["quality"], "cached");
}

#[test]
fn a_moved_value_has_the_unit_that_its_sensor_stated_in_a_later_resource() {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.stop();
    let mapping = "[[signal]]\nname = \"warmth\"\npath = \"/3303/*/5700\"";
    rig.start(Rig::setup(Rig::plan(mapping)));
    rig.run(SECOND);
    let moved = rig.broker.json("lwm2mqtt/d/dev1/v/temperature-0/warmth");
    assert_eq!(
        (&moved["value"], &moved["unit"]),
        (&21.5.into(), &"Cel".into())
    );
}

#[test]
fn a_value_is_not_stale_because_the_agent_began_anew() {
    let mapping = r#"
        [[signal]]
        name = "warmth"
        path = "/3303/*/5700"
        stale_after = "2m"
        "#;
    let mut rig = Rig::with_mapping(mapping);
    let device = rig.add_registered();
    rig.run(250 * SECOND);
    rig.notify(device, "/3303/0", temperature(22.5), true);
    rig.run(SECOND);
    rig.stop();
    rig.start(Rig::setup(Rig::plan(mapping)));
    assert_eq!(update(&mut rig, device), Code::CHANGED);
    rig.run(10 * SECOND);
    let topic = "lwm2mqtt/d/dev1/v/temperature-0/warmth";
    assert_eq!(rig.broker.json(topic)["quality"], "good");
}

// wish: 15
#[test]
fn the_name_of_a_device_stays_its_own_over_a_restart() {
    let mut rig = Rig::new();
    let (first, second) = (rig.add_sensor(), rig.add_sensor());
    rig.register(second, "a b", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    rig.register(first, "a+b", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    let names = |rig: &Rig| -> Vec<_> {
        let births = rig.broker.retained.keys();
        births
            .filter(|topic| topic.ends_with("/availability"))
            .cloned()
            .collect()
    };
    let before = names(&rig);
    rig.crash();
    rig.start(Rig::setup(plan()));
    for device in [first, second] {
        let endpoint = if device == first { "a+b" } else { "a b" };
        rig.register(device, endpoint, "lt=300", SENSOR);
    }
    rig.run(3 * SECOND);
    assert_eq!(names(&rig), before);
}

// wish: 15
#[test]
fn nothing_is_kept_of_a_device_that_was_removed() {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1" }));
    rig.administer(&json!({ "verb": "device/remove", "name": "dev1" }));
    rig.run(SECOND);
    assert_eq!(rig.kept.kept().devices, []);
}

#[test]
fn an_update_alone_is_written_down_with_others_and_not_at_once() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.run(60 * SECOND);
    let before = rig.kept.kept();
    update(&mut rig, device);
    let refreshed = |kept: &Kept| kept.devices[0].contact.as_ref().unwrap().refreshed;
    assert_eq!(refreshed(&rig.kept.kept()), refreshed(&before));
    rig.run(110 * SECOND);
    assert!(refreshed(&rig.kept.kept()) > refreshed(&before));
}

#[test]
fn what_the_broker_was_not_told_before_a_kill_is_told_after_it() {
    let mut rig = Rig::new();
    let leaving = rig.add_registered();
    rig.run(10 * SECOND);
    rig.disconnect();
    let location = rig.location(leaving);
    rig.request(leaving, Request::new(Code::DELETE, location));
    let device = rig.add_sensor();
    rig.register(device, "dev2", "lt=300", SENSOR);
    rig.run(5 * SECOND);
    rig.crash();
    rig.start(Rig::setup(plan()));
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.json(AVAILABILITY)["state"], "offline");
    let topic = |rest: &str| format!("lwm2mqtt/d/dev2{rest}");
    assert_eq!(rig.broker.json(&topic("/availability"))["state"], "online");
    assert_eq!(rig.broker.json(&topic(""))["endpoint"], "dev2");
    let value = rig.broker.json(&topic("/v/temperature-0/sensor-value"));
    assert_eq!(
        (&value["value"], &value["quality"]),
        (&json!(21.5), &json!("cached"))
    );
    // Once is enough.
    rig.stop();
    let before = rig.broker.log.len();
    rig.start(Rig::setup(plan()));
    rig.run(5 * SECOND);
    assert_eq!(published(&rig, before), [""; 0]);
}

#[test]
fn a_value_in_the_store_that_waits_for_the_broker_is_told_after_a_kill() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lt=86400", SENSOR);
    rig.run(3 * SECOND);
    rig.disconnect();
    // Nobody waits for it to be safe, and the store has it after ten minutes.
    rig.notify(device, "/3303/0", temperature(22.5), false);
    rig.run(700 * SECOND);
    rig.crash();
    rig.start(Rig::setup(plan()));
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 22.5);
}

#[test]
fn what_a_forgetful_broker_is_told_again_goes_on_after_the_link_broke() {
    let mut rig = Rig::new();
    for number in 0..40 {
        let device = rig.add_sensor();
        rig.register(device, &format!("dev{number}"), "lt=86400", SENSOR);
    }
    rig.run(10 * SECOND);
    let of_devices = |rig: &Rig| {
        let topics = rig.broker.retained.keys();
        topics.filter(|topic| topic.contains("/d/")).count()
    };
    let stood = of_devices(&rig);
    rig.disconnect();
    rig.broker.retained.clear();
    rig.connect();
    rig.run(SECOND / 2);
    assert!(of_devices(&rig) < stood);
    rig.disconnect();
    rig.connect();
    rig.run(10 * SECOND);
    assert_eq!(of_devices(&rig), stood);
}

#[test]
fn a_sentinel_that_waited_does_not_end_a_refill_before_it_is_done() {
    let mut rig = Rig::new();
    let devices: Vec<_> = (0..40).map(|_| rig.add_sensor()).collect();
    for device in &devices {
        rig.register(*device, &format!("dev{device}"), "lt=86400", SENSOR);
    }
    rig.run(9 * SECOND);
    let of_devices = |rig: &Rig| {
        let topics = rig.broker.retained.keys();
        topics.filter(|topic| topic.contains("/d/")).count()
    };
    let stood = of_devices(&rig);
    // It is raised, and the broker does not acknowledge it any more.
    rig.broker.silent = true;
    rig.notify(devices[0], "/3303/0", temperature(22.5), false);
    rig.run(12 * SECOND);
    rig.disconnect();
    rig.broker.retained.clear();
    rig.broker.silent = false;
    rig.connect();
    rig.run(SECOND / 2);
    assert!(of_devices(&rig) < stood);
    rig.disconnect();
    rig.connect();
    rig.run(10 * SECOND);
    let ledger = rig.gateway.ledger();
    let is_missing = |topic: &&std::sync::Arc<str>| !rig.broker.retained.contains_key(&***topic);
    let missing: Vec<_> = ledger.iter().filter(is_missing).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn a_value_that_came_in_an_answer_is_told_after_a_kill() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.disconnect();
    let answer = content(110, r#"[{"n":"/3303/0/5700","v":23.5}]"#);
    rig.devices[device].answer(Code::GET, "/3303/0", answer);
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(5 * SECOND);
    rig.crash();
    rig.start(Rig::setup(plan()));
    rig.run(5 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 23.5);
}

#[test]
fn a_device_that_left_at_the_instant_of_a_kill_is_not_shown_as_there() {
    for outputs in 0..12 {
        let mut rig = Rig::new();
        let device = rig.add_registered();
        let request = Request::new(Code::DELETE, rig.location(device));
        rig.request(device, request);
        rig.doomed = Some(outputs);
        rig.run(SECOND);
        if !rig.is_away() {
            rig.crash();
        }
        let is_registered = rig.kept.kept().devices[0]
            .registration
            .as_ref()
            .is_some_and(|registration| registration.standing);
        rig.start(Rig::setup(plan()));
        rig.run(SECOND);
        let state = rig.broker.json(AVAILABILITY)["state"].clone();
        assert_eq!(
            state,
            if is_registered { "online" } else { "offline" },
            "killed after {outputs}"
        );
    }
}
