//! The ways by which the values of a device get here.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Observe, Request, Response};

use crate::rig::{Rig, SENSOR, content};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/temperature";
const DIMMER: &str = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";

fn mapping(strategy: &str) -> String {
    format!(
        r#"
[device]
wake = {{ strategy = "{strategy}" }}
[[signal]]
name = "temperature"
path = "/3303/*/5700"
observe = {{ pmax = 60 }}
"#
    )
}

const ALL: &str =
    r#"[{"n":"/3303/0/5700","v":20.5},{"n":"/3311/0/5850","vb":true},{"n":"/3311/0/5851","v":55}]"#;

/// A device that may compose, registered with this version.
fn registered(strategy: &str, version: &str, composes: bool) -> (Rig, usize) {
    let mut rig = Rig::with_mapping(&mapping(strategy));
    let device = rig.add_sensor();
    let answers = &mut rig.devices[device];
    for path in ["/3303/0", "/3303/1", "/1/0/23"] {
        answers.answer(Code::PUT, path, Response::new(Code::CHANGED));
    }
    if composes {
        answers.answer(Code::FETCH, "/", content(110, ALL));
    }
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = vec![
        "ep=dev1".into(),
        format!("lwm2m={version}"),
        "lt=86400".into(),
    ];
    request.content_format = Some(40);
    request.payload = SENSOR.into();
    rig.request(device, request);
    rig.run(SECOND);
    (rig, device)
}

fn update(rig: &mut Rig, device: usize, objects: &str) {
    let mut request = Request::new(Code::POST, rig.location(device));
    if !objects.is_empty() {
        request.content_format = Some(40);
        request.payload = objects.into();
    }
    rig.request(device, request);
    rig.run(SECOND);
}

/// The requests since the first `skip`, as method and path, with `observe` or `cancel`; without
/// the one that lets each device send.
fn asked(rig: &Rig, device: usize, skip: usize) -> Vec<String> {
    let mut asked = all_asked(rig, device, skip);
    asked.retain(|asked| asked != UNMUTED);
    asked
}

const UNMUTED: &str = "0.03 PUT /1/0/23";

fn all_asked(rig: &Rig, device: usize, skip: usize) -> Vec<String> {
    let requests = rig.devices[device].requests[skip..].iter();
    requests
        .map(|request| {
            let observe = match request.observe {
                Some(Observe::Register) => " observe",
                Some(Observe::Deregister) => " cancel",
                None => "",
            };
            format!("{:?} /{}{observe}", request.method, request.path.join("/"))
        })
        .collect()
}

fn problems(rig: &Rig) -> Vec<String> {
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    let problems = birth
        .get("problems")
        .and_then(|problems| problems.as_array());
    let kinds = problems.into_iter().flatten();
    kinds
        .map(|problem| problem["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn single_is_the_default_and_one_observation_an_instance() {
    for strategy in ["observe", "single"] {
        let (rig, device) = registered(strategy, "1.1", true);
        assert_eq!(
            asked(&rig, device, 0),
            [
                "0.01 GET /3/0",
                "0.03 PUT /3303/0",
                "0.01 GET /3303/0 observe",
                "0.01 GET /3311/0 observe",
            ]
        );
    }
}

// wish: 13
// conformance: 1.1-int-304
#[test]
fn composite_is_one_observation_of_everything() {
    let (mut rig, device) = registered("composite", "1.1", true);
    assert_eq!(
        asked(&rig, device, 0),
        ["0.01 GET /3/0", "0.03 PUT /3303/0", "0.05 FETCH / observe"]
    );
    assert_eq!(rig.broker.json(VALUE)["value"], 20.5);
    let payload = r#"[{"n":"/3303/0/5700","v":21},{"n":"/3311/0/5851","v":56}]"#;
    rig.notify(device, "/", content(110, payload), true);
    rig.run(SECOND);
    assert_eq!(rig.broker.json(VALUE)["value"], 21.0);
    assert_eq!(rig.broker.json(DIMMER)["value"], 56);
    assert_eq!(problems(&rig), [""; 0]);
}

#[test]
fn a_composite_observation_that_falls_silent_is_begun_anew() {
    let (mut rig, device) = registered("composite", "1.1", true);
    let before = rig.devices[device].requests.len();
    rig.run(92 * SECOND);
    assert_eq!(asked(&rig, device, before), ["0.05 FETCH / observe"]);
}

#[test]
fn a_composite_observation_of_other_nodes_stands_before_the_old_one_ends() {
    let (mut rig, device) = registered("composite", "1.1", true);
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, &format!("{SENSOR},</3303/1>"));
    // Of the attributes, those that do not stand yet.
    assert_eq!(
        asked(&rig, device, before),
        [
            "0.03 PUT /3303/1",
            "0.05 FETCH / observe",
            "0.05 FETCH / cancel"
        ]
    );
    assert_eq!(rig.devices[device].observers.len(), 1);
}

#[test]
fn a_device_that_cannot_compose_is_observed_node_by_node_and_it_is_said() {
    let (mut rig, device) = registered("composite", "1.1", false);
    assert_eq!(
        asked(&rig, device, 0),
        [
            "0.01 GET /3/0",
            "0.03 PUT /3303/0",
            "0.05 FETCH / observe",
            "0.01 GET /3303/0 observe",
            "0.01 GET /3311/0 observe",
        ]
    );
    rig.run(2 * SECOND);
    assert_eq!(problems(&rig), ["composite"]);
    // That is remembered, and each observation is looked after by itself.
    let second = content(110, r#"[{"n":"/3303/1/5700","v":1}]"#);
    rig.devices[device].answer(Code::GET, "/3303/1", second);
    let before = rig.devices[device].requests.len();
    update(&mut rig, device, &format!("{SENSOR},</3303/1>"));
    assert_eq!(
        asked(&rig, device, before),
        ["0.03 PUT /3303/1", "0.01 GET /3303/1 observe"]
    );
    let before = rig.devices[device].requests.len();
    rig.run(88 * SECOND);
    assert_eq!(asked(&rig, device, before), ["0.01 GET /3303/0 observe"]);
}

#[test]
fn a_device_of_1_0_is_not_asked_to_compose() {
    let (rig, device) = registered("composite", "1.0", true);
    assert!(
        asked(&rig, device, 0)
            .iter()
            .all(|asked| !asked.contains("FETCH"))
    );
    assert_eq!(rig.devices[device].observers.len(), 2);
    assert_eq!(problems(&rig), ["composite"]);
}

#[test]
fn composite_by_object_is_one_observation_an_object() {
    let mut rig = Rig::with_mapping(&mapping("composite-by-object"));
    let device = rig.add_sensor();
    rig.devices[device].answer(Code::FETCH, "/", content(110, ALL));
    let objects = "</1/0>,</3303/0>,</3303/1>,</3311/0>,</3311/1>,</3311/2>";
    rig.register(device, "dev1", "lt=86400", objects);
    rig.run(SECOND);
    let observed = asked(&rig, device, 0);
    let composite = observed
        .iter()
        .filter(|asked| *asked == "0.05 FETCH / observe");
    assert_eq!(composite.count(), 2, "{observed:?}");
    assert!(observed.iter().all(|asked| !asked.contains("GET")));
}

#[test]
fn poll_on_wake_reads_at_each_contact_and_observes_nothing() {
    let (mut rig, device) = registered("poll-on-wake", "1.1", true);
    assert_eq!(asked(&rig, device, 0), ["0.01 GET /3/0", "0.05 FETCH /"]);
    let value = rig.broker.json(VALUE);
    assert_eq!(
        (&value["value"], &value["src"]),
        (&20.5.into(), &"read".into())
    );
    let before = rig.devices[device].requests.len();
    rig.run(3_600 * SECOND);
    assert_eq!(rig.devices[device].requests.len(), before);
    rig.devices[device].answer(
        Code::FETCH,
        "/",
        content(110, r#"[{"n":"/3303/0/5700","v":30}]"#),
    );
    for _ in 0..3 {
        update(&mut rig, device, "");
    }
    assert_eq!(asked(&rig, device, before), ["0.05 FETCH /"; 3]);
    assert_eq!(rig.broker.json(VALUE)["value"], 30.0);
    assert_eq!(rig.broker.json(VALUE)["quality"], "good");
}

// wish: 18
#[test]
fn poll_on_wake_reads_a_sleeper_at_each_update() {
    let mut rig = Rig::with_mapping(&mapping("poll-on-wake"));
    let device = rig.add_sensor();
    rig.devices[device].answer(Code::FETCH, "/", content(110, ALL));
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = ["ep=dev1", "lwm2m=1.1", "lt=86400", "Q"]
        .map(str::to_owned)
        .into();
    request.content_format = Some(40);
    request.payload = SENSOR.into();
    rig.request(device, request);
    rig.run(SECOND);
    for _ in 0..3 {
        // It sleeps, and does not hear what comes.
        rig.devices[device].dead = true;
        rig.run(3_600 * SECOND);
        rig.devices[device].dead = false;
        let before = rig.devices[device].requests.len();
        update(&mut rig, device, "");
        assert_eq!(asked(&rig, device, before), ["0.05 FETCH /"]);
    }
}

// wish: 18
#[test]
fn a_device_that_sends_is_unmuted_and_not_observed() {
    for strategy in ["send", "send-only"] {
        let (mut rig, device) = registered(strategy, "1.1", true);
        assert_eq!(all_asked(&rig, device, 0), ["0.01 GET /3/0", UNMUTED]);
        let unmuted = &rig.devices[device].requests[1];
        assert!(!unmuted.payload.is_empty());
        let before = rig.devices[device].requests.len();
        update(&mut rig, device, "");
        assert_eq!(rig.devices[device].requests.len(), before);
    }
}

#[test]
fn a_device_that_has_a_signal_that_it_sends_is_unmuted_too() {
    let mut rig = Rig::with_mapping(
        r#"
[[signal]]
name = "temperature"
path = "/3303/*/5700"
source = "send"
"#,
    );
    let device = rig.add_sensor();
    rig.devices[device].answer(
        Code::PUT,
        "/1/0/23",
        Response::new(Code::METHOD_NOT_ALLOWED),
    );
    rig.register(device, "dev1", "lt=86400", SENSOR);
    rig.run(3 * SECOND);
    assert!(all_asked(&rig, device, 0).contains(&UNMUTED.to_owned()));
    assert_eq!(problems(&rig), ["send"]);
}

#[test]
fn a_restart_goes_on_with_composite_observations_and_written_attributes() {
    let (mut rig, device) = registered("composite", "1.1", true);
    let before = rig.devices[device].requests.len();
    rig.crash();
    rig.start(Rig::setup(Rig::plan(&mapping("composite"))));
    rig.run(4 * SECOND);
    assert_eq!(asked(&rig, device, before), [""; 0]);
    // It is still looked after.
    rig.run(100 * SECOND);
    let asked_later = asked(&rig, device, before);
    assert!(
        asked_later.contains(&"0.05 FETCH / observe".to_owned()),
        "{asked_later:?}"
    );
    assert!(
        !asked_later.iter().any(|asked| asked.contains("PUT")),
        "{asked_later:?}"
    );
}

// wish: 5
#[test]
fn a_restart_with_other_attributes_writes_them() {
    let (mut rig, device) = registered("single", "1.1", true);
    let before = rig.devices[device].requests.len();
    rig.crash();
    let other = mapping("single").replace("60", "90");
    rig.start(Rig::setup(Rig::plan(&other)));
    rig.run(20 * SECOND);
    let asked = asked(&rig, device, before);
    assert!(asked.contains(&"0.03 PUT /3303/0".to_owned()), "{asked:?}");
    let write = rig.devices[device].requests[before..]
        .iter()
        .find(|request| request.method == Code::PUT);
    assert_eq!(write.unwrap().query, ["pmax=90"]);
}
