//! Observations that fall silent, end or are refused, and values that get no successor.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Observe, Request, Response};
use lwm2mqtt::gateway::MappingCause;

use crate::rig::{Rig, SENSOR, content};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/temperature";

/// A temperature that is to be reported every minute, and nothing else.
const MAPPING: &str = r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
observe = { pmax = 60 }
"#;

fn temperature(value: f64) -> Response {
    content(110, &format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#))
}

/// A registered device with a lifetime of a day.
fn registered(mapping: &str) -> (Rig, usize) {
    let mut rig = Rig::with_mapping(mapping);
    let device = rig.add_sensor();
    let answers = &mut rig.devices[device];
    answers.answer(Code::GET, "/3303/0/5700", temperature(21.5));
    for path in ["/3303/0", "/3303/0/5700"] {
        answers.answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    rig.register(device, "dev1", "lt=86400", SENSOR);
    rig.run(SECOND);
    (rig, device)
}

/// The requests to observe since the first `skip` requests, as paths, and how many others.
fn asked(rig: &Rig, device: usize, skip: usize) -> (Vec<String>, usize) {
    let requests = &rig.devices[device].requests[skip..];
    let observes = requests
        .iter()
        .filter(|request| request.observe == Some(Observe::Register));
    let paths: Vec<_> = observes
        .map(|request| format!("/{}", request.path.join("/")))
        .collect();
    let others = requests.len() - paths.len();
    (paths, others)
}

fn update(rig: &mut Rig, device: usize, objects: &str) {
    let mut request = Request::new(Code::POST, rig.location(device));
    request.content_format = Some(40);
    request.payload = objects.into();
    rig.request(device, request);
    rig.run(SECOND);
}

// conformance: P15
#[test]
fn attributes_are_written_once_a_registration_and_observations_begin_anew_with_each() {
    let (mut rig, device) = registered(MAPPING);
    assert_eq!(
        rig.devices[device].paths(Code::PUT),
        ["/3303/0"],
        "the instance takes them"
    );
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, &format!("{SENSOR},</3303/1>"));
    // What is new is asked for, and nothing else.
    let (observed, others) = asked(&rig, device, before);
    assert_eq!((observed, others), (vec!["/3303/1".to_owned()], 1));
    let before = rig.devices[device].requests.len();
    rig.register(device, "dev1", "lt=86400", SENSOR);
    rig.run(SECOND);
    let (observed, others) = asked(&rig, device, before);
    assert_eq!(observed, ["/3303/0", "/3311/0"]);
    assert_eq!(
        others, 3,
        "read of the device object, the attributes, and that it may send"
    );
}

// conformance: P15
#[test]
fn an_update_without_news_asks_for_nothing() {
    let (mut rig, device) = registered(MAPPING);
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, SENSOR);
    assert_eq!(rig.devices[device].requests.len(), before);
}

#[test]
fn an_instance_that_an_update_takes_away_is_forgotten_without_a_request() {
    let (mut rig, device) = registered(MAPPING);
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, "</1/0>,</3/0>,</3303/0>");
    assert_eq!(rig.devices[device].requests.len(), before);
    // Whatever it says of it all the same is not wanted.
    let light = content(110, r#"[{"n":"/3311/0/5851","v":99}]"#);
    rig.notify(device, "/3311/0", light, false);
    rig.run(SECOND);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/v/light-control-0/dimmer")["value"],
        40
    );
}

// wish: 12
#[test]
fn an_observation_that_falls_silent_is_begun_anew() {
    let (mut rig, device) = registered(MAPPING);
    rig.run(80 * SECOND);
    rig.notify(device, "/3303/0", temperature(22.0), false);
    rig.run(SECOND);
    // The device forgot, as one does that restarts without telling.
    rig.devices[device].observers.clear();
    rig.devices[device].answer(Code::GET, "/3303/0", temperature(23.0));
    let before = rig.devices[device].requests.len();
    rig.run(88 * SECOND);
    assert_eq!(
        rig.devices[device].requests.len(),
        before,
        "not before its time"
    );
    rig.run(4 * SECOND);
    let (observed, others) = asked(&rig, device, before);
    assert_eq!((observed, others), (vec!["/3303/0".to_owned()], 0));
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["value"], &value["quality"]),
        (&23.0.into(), &"good".into())
    );
    assert_eq!(rig.gateway.counters().observations_lost, 1);
    assert_eq!(rig.gateway.counters().stale, 0);
    // It stands: notifications come in, and nothing is asked.
    let before = rig.devices[device].requests.len();
    for number in 0..5 {
        rig.notify(
            device,
            "/3303/0",
            temperature(24.0 + f64::from(number)),
            true,
        );
        rig.run(MINUTE);
    }
    assert_eq!(rig.devices[device].requests.len(), before);
    assert_eq!(rig.broker.json(VALUE)["value"], 28.0);
}

#[test]
fn an_observation_that_stays_silent_gets_its_attributes_again_and_is_then_read() {
    let (mut rig, device) = registered(MAPPING);
    let before = rig.devices[device].requests.len();
    rig.run(10 * MINUTE);
    let requests = &rig.devices[device].requests[before..];
    let kinds: Vec<_> = requests
        .iter()
        .map(|request| (request.method, request.observe.is_some()))
        .collect();
    let (read, observe, write) = ((Code::GET, false), (Code::GET, true), (Code::PUT, false));
    // At 90, 180 and 270 seconds, then every 60.
    assert_eq!(
        kinds,
        [observe, write, observe, read, read, read, read, read, read]
    );
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["quality"], &value["src"]),
        (&"good".into(), &"read".into())
    );
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert_eq!(birth["problems"][0]["path"], "/3303/0");
    // It speaks again: all is well.
    rig.notify(device, "/3303/0", temperature(30.0), false);
    rig.run(5 * SECOND);
    assert!(rig.broker.json("lwm2mqtt/d/dev1").get("problems").is_none());
}

#[test]
fn without_a_pmax_silence_is_no_loss() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lt=864000", SENSOR);
    rig.run(SECOND);
    let before = rig.devices[device].requests.len();
    rig.run(Duration::from_secs(86_400));
    assert_eq!(rig.devices[device].requests.len(), before);
    assert_eq!(rig.gateway.counters().stale, 0);
}

#[test]
fn a_device_that_does_not_let_itself_be_observed_is_read() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_sensor();
    rig.devices[device].unobservable = true;
    rig.devices[device].answer(Code::PUT, "/3303/0", Response::new(Code::CHANGED));
    rig.register(device, "dev1", "lt=86400", "</3/0>,</3303/0>");
    rig.run(SECOND);
    let before = rig.devices[device].requests.len();
    rig.devices[device].answer(Code::GET, "/3303/0", temperature(25.0));
    rig.run(61 * SECOND);
    assert_eq!(asked(&rig, device, before), (vec![], 1));
    assert_eq!(rig.broker.json(VALUE)["value"], 25.0);
    rig.run(10 * MINUTE);
    let (observed, read) = asked(&rig, device, before);
    assert_eq!(observed.len(), 1, "it is tried whether it can by now");
    assert!((8..=10).contains(&read), "{read}");
}

#[test]
fn a_device_that_refuses_is_asked_again_and_not_hammered() {
    let mut rig = Rig::with_mapping(MAPPING);
    let device = rig.add_sensor();
    rig.devices[device].answer(
        Code::GET,
        "/3303/0",
        Response::new(Code::METHOD_NOT_ALLOWED),
    );
    rig.register(device, "dev1", "lt=86400", "</3/0>,</3303/0>");
    rig.run(SECOND);
    let before = rig.devices[device].requests.len();
    rig.run(120 * MINUTE);
    // After 1, 2, 4, 8, 16 and 32 minutes, and nothing else.
    let observed = asked(&rig, device, before).0;
    assert_eq!(observed.len(), 6);
    rig.devices[device].answer(Code::GET, "/3303/0", temperature(25.0));
    rig.run(64 * MINUTE);
    assert_eq!(rig.broker.json(VALUE)["value"], 25.0);
    assert!(
        rig.broker
            .json("lwm2mqtt/d/dev1")
            .get("problems")
            .is_some_and(|problems| {
                problems
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|problem| problem["kind"] == "attributes")
            })
    );
}

#[test]
fn an_observation_that_the_device_ends_is_tried_again_and_its_values_are_stale() {
    let (mut rig, device) = registered(MAPPING);
    let before = rig.devices[device].requests.len();
    rig.notify(device, "/3303/0", Response::new(Code::NOT_FOUND), true);
    rig.run(2 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["quality"], "stale");
    assert_eq!(rig.devices[device].requests.len(), before);
    rig.run(MINUTE);
    assert_eq!(asked(&rig, device, before).0, ["/3303/0"]);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
}

// wish: 12
#[test]
fn a_value_is_stale_when_neither_observing_nor_reading_brings_another() {
    let (mut rig, device) = registered(MAPPING);
    let standing = rig.broker.json(VALUE);
    rig.devices[device].dead = true;
    rig.run(89 * SECOND);
    assert_eq!(rig.broker.json(VALUE), standing);
    rig.run(2 * MINUTE);
    let stale = rig.broker.json(VALUE);
    assert_eq!(
        (&stale["quality"], &stale["time"], &stale["value"]),
        (&"stale".into(), &standing["time"], &standing["value"])
    );
    let said = rig.broker.messages(VALUE).len();
    rig.run(60 * MINUTE);
    assert_eq!(rig.broker.messages(VALUE).len(), said, "once");
    // The device is heard of again, and what it was not asked is asked now.
    rig.devices[device].dead = false;
    update(&mut rig, device, SENSOR);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
}

#[test]
fn a_value_that_is_not_observed_is_stale_after_the_time_that_the_mapping_says() {
    let (mut rig, device) = registered(
        r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
stale_after = "30s"
"#,
    );
    rig.run(20 * SECOND);
    rig.notify(device, "/3303/0", temperature(21.5), false);
    rig.run(29 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
    rig.run(2 * SECOND);
    assert_eq!(rig.broker.json(VALUE)["quality"], "stale");
    rig.notify(device, "/3303/0", temperature(21.5), false);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
}

#[test]
fn a_stale_value_that_moves_to_another_topic_is_stale_there() {
    let (mut rig, device) = registered(MAPPING);
    rig.devices[device].dead = true;
    rig.run(3 * MINUTE);
    assert_eq!(rig.broker.json(VALUE)["quality"], "stale");
    let renamed = MAPPING.replace("\"temperature\"", "\"warmth\"");
    rig.read_mapping(MappingCause::Signal, &renamed);
    let moved = rig.broker.json("lwm2mqtt/d/dev1/v/temperature-0/warmth");
    assert_eq!(moved["quality"], "stale");
}

const UNITS: &str = "lwm2mqtt/d/dev1/v/temperature-0/sensor-units";

#[test]
fn a_resource_that_its_instance_has_no_longer_is_taken_back() {
    let (mut rig, device) = registered(MAPPING);
    assert_eq!(rig.broker.json(UNITS)["value"], "Cel");
    rig.notify(device, "/3303/0", temperature(22.0), true);
    rig.run(2 * SECOND);
    assert!(!rig.broker.retained.contains_key(UNITS));
    assert_eq!(rig.broker.json(VALUE)["value"], 22.0);
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert!(
        birth["signals"]["temperature-0/sensor-units"].is_null(),
        "{birth}"
    );
    // Nothing is left for a broker that has to be filled again.
    rig.disconnect();
    rig.broker.retained.clear();
    rig.connect();
    rig.run(20 * SECOND);
    assert!(!rig.broker.retained.contains_key(UNITS));
    // It is there again.
    let both = r#"[{"bn":"/3303/0/","n":"5700","v":21.5},{"n":"5701","vs":"K"}]"#;
    rig.notify(device, "/3303/0", content(110, both), true);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(UNITS)["value"], "K");
}

#[test]
fn what_is_not_in_a_payload_that_is_not_the_whole_is_there_all_the_same() {
    let (mut rig, device) = registered(MAPPING);
    for payload in [
        r#"[{"n":"/3303/0/5700","vs":"no number"}]"#,
        r#"[{"n":"/3303/0/5700","v":1,"t":1795360700},{"n":"/3303/0/5700","v":2,"t":1795360710}]"#,
        "[]",
    ] {
        rig.notify(device, "/3303/0", content(110, payload), true);
        rig.run(SECOND);
        assert_eq!(rig.broker.json(UNITS)["value"], "Cel", "{payload}");
    }
}

#[test]
fn what_becomes_of_the_values_of_a_device_that_leaves_is_what_the_mapping_says() {
    let (mut rig, device) = registered(
        r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
on_offline = "clear"
[[signal]]
path = "/3311/*/5851"
on_offline = "stale"
"#,
    );
    let request = Request::new(Code::DELETE, rig.location(device));
    rig.request(device, request);
    rig.run(SECOND);
    assert!(!rig.broker.retained.contains_key(VALUE));
    let light = |name: &str| format!("lwm2mqtt/d/dev1/v/light-control-0/{name}");
    assert_eq!(rig.broker.json(&light("dimmer"))["quality"], "stale");
    assert_eq!(rig.broker.json(&light("on-off"))["quality"], "good");
    rig.register(device, "dev1", "lt=86400", SENSOR);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 21.5);
    assert_eq!(rig.broker.json(&light("dimmer"))["quality"], "good");
}

// wish: 10
#[test]
fn a_notification_under_way_while_the_observation_begins_anew_is_taken() {
    let (mut rig, device) = registered(MAPPING);
    // The gateway asks anew at 90 seconds; its request is still on the way.
    rig.run(88 * SECOND);
    let before = rig.devices[device].requests.len();
    while rig.gateway.counters().observations_lost == 0 {
        rig.run(Duration::from_millis(5));
    }
    assert_eq!(rig.devices[device].requests.len(), before);
    rig.notify(device, "/3303/0", temperature(29.0), true);
    rig.run(Duration::from_millis(12));
    assert_eq!(rig.broker.json(VALUE)["value"], 29.0);
    rig.run(SECOND);
    assert_eq!(asked(&rig, device, before).0.len(), 1);
    let status = rig.administer(&serde_json::json!({"verb": "status"}));
    assert_eq!(
        status["result"]["counters"]["coap_unknown_tokens"], 0,
        "{status}"
    );
}

// wish: 5
#[test]
fn another_plan_asks_for_what_differs_and_moves_values_to_their_new_topics() {
    let (mut rig, device) = registered(MAPPING);
    rig.run(5 * SECOND);
    let before = rig.devices[device].requests.len();
    let said = rig.broker.log.len();
    let set_plan = |rig: &mut Rig, mapping: &str| {
        rig.read_mapping(MappingCause::Change, mapping);
        rig.run(2 * SECOND);
    };
    // The same once more.
    set_plan(&mut rig, MAPPING);
    assert_eq!(rig.devices[device].requests.len(), before);
    assert!(rig.broker.log[said..].is_empty());
    // Another name: nothing is asked.
    set_plan(&mut rig, &MAPPING.replace("\"temperature\"", "\"warmth\""));
    assert_eq!(rig.devices[device].requests.len(), before);
    assert!(!rig.broker.retained.contains_key(VALUE));
    let moved = rig.broker.json("lwm2mqtt/d/dev1/v/temperature-0/warmth");
    assert_eq!(
        (&moved["value"], &moved["quality"]),
        (&21.5.into(), &"cached".into())
    );
    // Other attributes: these are written, what is not said any more is taken away.
    set_plan(&mut rig, &MAPPING.replace("pmax = 60", "pmin = 5"));
    assert_eq!(rig.broker.json(VALUE)["value"], 21.5);
    let (observed, others) = asked(&rig, device, before);
    assert_eq!((observed, others), (vec!["/3303/0".to_owned()], 1));
    let write = &rig.devices[device].requests[before];
    assert_eq!(write.query, ["pmin=5", "pmax"]);
    // Nothing but the temperature: the other observation ends.
    let before = rig.devices[device].requests.len();
    set_plan(
        &mut rig,
        &format!("[device]\nwake = {{ strategy = \"send\" }}\n{MAPPING}"),
    );
    let cancelled = rig.devices[device].requests[before..].iter();
    let cancelled = cancelled.filter(|request| request.observe == Some(Observe::Deregister));
    assert_eq!(cancelled.count(), 2);
    // What the device counts as an older observation ends with its next notification.
    rig.notify(device, "/3303/0", temperature(77.0), true);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 21.5);
}
