//! Values that devices send of their own accord, and registrations that are told by a profile ID.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use serde_json::{Value as Json, json};

use crate::rig::{MUTE_SEND, Rig, SENSOR};

const SECOND: Duration = Duration::from_secs(1);

/// What comes back to a Send with this payload.
fn send(
    rig: &mut Rig,
    device: usize,
    format: Option<u16>,
    payload: impl Into<Vec<u8>>,
) -> Response {
    let mut request = Request::new(Code::POST, ["dp"]);
    request.content_format = format;
    request.payload = payload.into();
    let before = rig.devices[device].responses.len();
    rig.request(device, request);
    rig.run(SECOND);
    rig.devices[device].responses[before].clone()
}

fn value(rig: &Rig, signal: &str) -> Json {
    rig.broker.json(&format!("lwm2mqtt/d/dev1/v/{signal}"))
}

// wish: 2
// conformance: 1.1-int-306, 1.1-int-311, P23
#[test]
fn what_a_device_sends_stands_on_its_topics_with_its_own_time() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let payload = r#"[{"bn":"/3303/0/","bt":1795360770,"n":"5700","v":23.5},{"bn":"/3311/0/5850","vb":true}]"#;
    let response = send(&mut rig, device, Some(110), payload);
    assert_eq!((response.code, response.payload.len()), (Code::CHANGED, 0));
    let sent = value(&rig, "temperature-0/sensor-value");
    assert_eq!(
        (&sent["value"], &sent["src"]),
        (&23.5.into(), &"send".into())
    );
    assert_eq!(sent["time"], "2026-11-22T15:19:30.000Z");
    assert_eq!(value(&rig, "light-control-0/on-off")["value"], true);
}

// conformance: 1.1-int-306, 1.1-int-237
#[test]
fn a_send_comes_in_each_of_its_formats() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lwm2m=1.2", SENSOR);
    rig.run(3 * SECOND);
    for (format, payload, expected) in [
        (110, br#"[{"n":"/3311/0/5851","v":1}]"#.to_vec(), 1),
        (112, b"\x81\xa2\x00\x6c/3311/0/5851\x02\x02".to_vec(), 2),
        // {[3311, 0]: {5851: 3}}
        (
            11544,
            b"\xa1\x82\x19\x0c\xef\x00\xa1\x19\x16\xdb\x03".to_vec(),
            3,
        ),
    ] {
        let response = send(&mut rig, device, Some(format), payload);
        assert_eq!(response.code, Code::CHANGED, "{format}: {response:?}");
        assert_eq!(value(&rig, "light-control-0/dimmer")["value"], expected);
    }
}

// conformance: P23
#[test]
fn a_send_with_anything_wrong_in_it_is_refused_as_a_whole() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let good = r#"{"n":"/3311/0/5851","v":77}"#;
    for (format, payload, code) in [
        (
            Some(110),
            format!("[{good},{{\"n\":\"/3311/1/5851\",\"v\":1}}]"),
            Code::NOT_FOUND,
        ),
        (
            Some(110),
            format!("[{good},{{\"n\":\"/4/0/1\",\"v\":1}}]"),
            Code::NOT_FOUND,
        ),
        (
            Some(110),
            format!("[{good},{{\"n\":\"/0/0/1\",\"vb\":true}}]"),
            Code::NOT_FOUND,
        ),
        (
            Some(110),
            format!("[{good},{{\"n\":\"/3311/0/5850\",\"vs\":\"x\"}}]"),
            Code::BAD_REQUEST,
        ),
        (
            Some(110),
            format!("[{good},{{\"n\":\"/3311/0\",\"v\":1}}]"),
            Code::BAD_REQUEST,
        ),
        (Some(110), format!("[{good}"), Code::BAD_REQUEST),
        (Some(110), "[]".to_owned(), Code::BAD_REQUEST),
        (Some(11543), format!("[{good}]"), Code::BAD_REQUEST),
        (None, format!("[{good}]"), Code::BAD_REQUEST),
    ] {
        let response = send(&mut rig, device, format, payload.as_bytes());
        assert_eq!(response.code, code, "{payload}");
    }
    let topic = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";
    let values = rig.broker.messages(topic);
    assert!(values.iter().all(|message| message["value"] != 77));
}

// conformance: P23
#[test]
fn a_send_of_somebody_who_is_not_registered_is_refused() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let stranger = rig.add_device();
    let payload = r#"[{"n":"/3311/0/5851","v":77}]"#;
    assert_eq!(
        send(&mut rig, stranger, Some(110), payload).code,
        Code::BAD_REQUEST
    );
    let location = rig.location(device);
    let mut leave = Request::new(Code::DELETE, ["rd"]);
    leave.path = location;
    rig.request(device, leave);
    rig.run(SECOND);
    assert_eq!(
        send(&mut rig, device, Some(110), payload).code,
        Code::BAD_REQUEST
    );
}

// conformance: P23
#[test]
fn a_device_is_let_send_once_a_registration_and_only_its_account_of_ours() {
    let unmutes = |rig: &Rig, device: usize| {
        let requests = rig.devices[device].requests.iter();
        let of_account = |request: &&Request| request.path.first().is_some_and(|id| id == "1");
        let paths = requests
            .filter(of_account)
            .map(|request| request.path.join("/"));
        paths.collect::<Vec<_>>()
    };
    let mut rig = Rig::new();
    let device = rig.add_registered();
    let path = MUTE_SEND.trim_start_matches('/');
    assert_eq!(
        unmutes(&rig, device),
        [path],
        "it has none, and is left alone"
    );
    let mut update = Request::new(Code::POST, ["rd"]);
    update.path = rig.location(device);
    rig.request(device, update);
    rig.run(3 * SECOND);
    assert_eq!(unmutes(&rig, device), [path]);
    rig.register(device, "dev1", "", SENSOR);
    rig.run(3 * SECOND);
    assert_eq!(unmutes(&rig, device), [path, path]);
    // A 1.0 device has no Send, and of two accounts nobody says which one is ours.
    for (endpoint, query, objects) in [
        ("old", "lwm2m=1.0", SENSOR),
        ("two", "", "</>;ct=110,</1/0>,</1/1>,</3/0>"),
    ] {
        let device = rig.add_sensor();
        rig.register(device, endpoint, query, objects);
        rig.run(3 * SECOND);
        assert!(unmutes(&rig, device).is_empty(), "{endpoint}");
    }
}

// conformance: P16
#[test]
fn a_send_does_not_make_a_registration_last_longer() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lt=60", SENSOR);
    rig.run(50 * SECOND);
    let payload = r#"[{"n":"/3311/0/5851","v":1}]"#;
    assert_eq!(
        send(&mut rig, device, Some(110), payload).code,
        Code::CHANGED
    );
    rig.run(45 * SECOND);
    let state = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(state["reason"], "lifetime_expired");
}

// conformance: 1.2-int-110, 1.2-int-111
#[test]
fn an_object_list_is_known_by_its_profile_id_once_a_device_sent_both() {
    let mut rig = Rig::new();
    let first = rig.add_sensor();
    let second = rig.add_sensor();
    let answer = |rig: &Rig, device: usize| rig.devices[device].responses.last().unwrap().code;
    let query = "lwm2m=1.2&pid=6:27354b9a";
    let register = |rig: &mut Rig, device: usize, endpoint: &str, objects: &str| {
        let mut request = Request::new(Code::POST, ["rd"]);
        request.query = vec![format!("ep={endpoint}")];
        request.query.extend(query.split('&').map(str::to_owned));
        request.content_format = (!objects.is_empty()).then_some(40);
        request.payload = objects.into();
        rig.request(device, request);
        rig.run(3 * SECOND);
    };
    register(&mut rig, second, "dev2", "");
    assert_eq!(answer(&rig, second), Code::CONFLICT);
    register(&mut rig, first, "dev1", SENSOR);
    assert_eq!(answer(&rig, first), Code::CREATED);
    register(&mut rig, second, "dev2", "");
    assert_eq!(answer(&rig, second), Code::CREATED);
    let objects =
        |rig: &Rig, name: &str| rig.broker.json(&format!("lwm2mqtt/d/{name}"))["objects"].clone();
    assert_eq!(objects(&rig, "dev2"), objects(&rig, "dev1"));
    register(&mut rig, second, "dev2", "</4/0>");
    assert_eq!(answer(&rig, second), Code::CREATED);
    let joined = objects(&rig, "dev2");
    assert!(
        joined.get("4").is_some() && joined.get("3303").is_some(),
        "{joined}"
    );
    assert_ne!(joined, json!({}));
}
