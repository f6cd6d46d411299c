//! The operations of LwM2M by `lwm2m/<op>`, at scripted devices.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Observe, Request, Response};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const REPLY: &str = "lwm2mqtt/d/dev1/reply";

fn rig() -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.devices[device].requests.clear();
    (rig, device)
}

/// A device of LwM2M 1.2.
fn rig_of_1_2() -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lwm2m=1.2", crate::rig::SENSOR);
    rig.run(3 * SECOND);
    rig.devices[device].requests.clear();
    (rig, device)
}

/// The last word about a request.
fn ask(rig: &mut Rig, operation: &str, payload: &Json) -> Json {
    rig.ask(
        &format!("lwm2mqtt/d/dev1/lwm2m/{operation}"),
        &payload.to_string(),
    );
    rig.run(SECOND);
    let last = rig.broker.messages(REPLY).pop().unwrap();
    assert_eq!(last["final"], true, "{last}");
    assert_eq!(last["op"], operation, "{last}");
    last
}

/// The SenML JSON of a request, with whole names (RFC 8428 §4.6).
fn body(request: &Request) -> Json {
    let mut records: Vec<Json> = serde_json::from_slice(&request.payload).unwrap();
    let mut base = String::new();
    for record in records.iter_mut().filter_map(Json::as_object_mut) {
        if let Some(Json::String(name)) = record.remove("bn") {
            base = name;
        }
        let name = record.get("n").and_then(Json::as_str).unwrap_or_default();
        let name = format!("{base}{name}");
        record.insert("n".into(), name.into());
    }
    Json::Array(records)
}

fn only(rig: &Rig, device: usize) -> &Request {
    let [request] = &rig.devices[device].requests[..] else {
        panic!("{:?}", rig.devices[device].requests)
    };
    request
}

fn status(code: Code) -> Response {
    Response::new(code)
}

// conformance: P28, 229
#[test]
fn a_composite_read_goes_to_the_bare_root_and_brings_all_values() {
    let (mut rig, device) = rig();
    let values = r#"[{"n":"/3/0/9","v":80},{"n":"/3303/0/5700","v":19.5}]"#;
    rig.devices[device].answer(Code::FETCH, "/", content(110, values));
    let paths = json!(["/3303/0/5700", "/3/0/9"]);
    let last = ask(&mut rig, "read-composite", &json!({ "paths": paths }));
    let request = only(&rig, device);
    assert_eq!((request.path.len(), request.query.len()), (0, 0));
    assert_eq!(
        (request.content_format, request.accept),
        (Some(110), Some(110))
    );
    assert_eq!(
        body(request),
        json!([{ "n": "/3303/0/5700" }, { "n": "/3/0/9" }])
    );
    assert_eq!(last["paths"], paths);
    assert_eq!(
        last["values"],
        json!({ "/3/0/9": 80, "/3303/0/5700": 19.5 })
    );
    assert_eq!(last.get("fallback"), None);
    let topic = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
    assert_eq!(rig.broker.json(topic)["value"], 19.5);
}

// conformance: P28
#[test]
fn a_device_without_composite_operations_is_asked_for_one_node_after_the_other() {
    let (mut rig, device) = rig();
    let scripted = &mut rig.devices[device];
    scripted.answer(Code::FETCH, "/", status(Code::METHOD_NOT_ALLOWED));
    let value = r#"[{"n":"/3303/0/5700","v":19.5}]"#;
    scripted.answer(Code::GET, "/3303/0/5700", content(110, value));
    let payload = json!({ "paths": ["/3/0/9", "/3303/0/5700"] });
    let last = ask(&mut rig, "read-composite", &payload);
    assert_eq!(
        (&last["status"], &last["fallback"]),
        (&"done".into(), &"single".into())
    );
    assert_eq!(last["values"], json!({ "/3303/0/5700": 19.5 }));
    assert_eq!(
        rig.devices[device].paths(Code::GET),
        ["/3/0/9", "/3303/0/5700"]
    );
    // It is remembered, until it registers anew.
    ask(&mut rig, "read-composite", &payload);
    assert_eq!(rig.devices[device].paths(Code::FETCH).len(), 1);
    rig.register(device, "dev1", "", crate::rig::SENSOR);
    rig.run(3 * SECOND);
    ask(&mut rig, "read-composite", &payload);
    assert_eq!(rig.devices[device].paths(Code::FETCH).len(), 2);
}

#[test]
fn a_device_of_1_0_is_never_asked_for_several_nodes_at_once() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lwm2m=1.0", crate::rig::SENSOR);
    rig.run(3 * SECOND);
    let taken = status(Code::CHANGED);
    rig.devices[device].answer(Code::PUT, "/1/0/1", taken);
    let last = ask(
        &mut rig,
        "write-composite",
        &json!({ "values": { "/1/0/1": 60 } }),
    );
    assert_eq!(
        (&last["code"], &last["fallback"]),
        (&"2.04".into(), &"single".into())
    );
    assert!(rig.devices[device].paths(Code::IPATCH).is_empty());
}

// conformance: 1.1-int-230
#[test]
fn a_composite_write_is_one_request_over_several_objects() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::IPATCH, "/", status(Code::CHANGED));
    let values = json!({ "/1/0/1": 60, "/3311/0/5850": true });
    let last = ask(&mut rig, "write-composite", &json!({ "values": values }));
    assert_eq!(last["code"], "2.04");
    let request = only(&rig, device);
    assert_eq!((request.path.len(), request.query.len()), (0, 0));
    assert_eq!(
        body(request),
        json!([{ "n": "/1/0/1", "v": 60 }, { "n": "/3311/0/5850", "vb": true }])
    );
}

// conformance: P27
#[test]
fn a_composite_write_done_singly_stops_at_the_first_failure_and_says_what_was_done() {
    let (mut rig, device) = rig();
    let scripted = &mut rig.devices[device];
    scripted.answer(Code::IPATCH, "/", status(Code::NOT_IMPLEMENTED));
    scripted.answer(Code::PUT, "/1/0/1", status(Code::CHANGED));
    scripted.answer(Code::PUT, "/3/0/14", status(Code::BAD_REQUEST));
    let values = json!({ "/1/0/1": 60, "/3/0/14": "x", "/3311/0/5850": true });
    let last = ask(&mut rig, "write-composite", &json!({ "values": values }));
    assert_eq!(
        (&last["status"], &last["fallback"]),
        (&"failed".into(), &"single".into())
    );
    assert_eq!(last["done"], json!(["/1/0/1"]));
    assert_eq!(
        (&last["error"]["kind"], &last["error"]["code"]),
        (&"coap".into(), &"4.00".into())
    );
    assert_eq!(rig.devices[device].paths(Code::PUT), ["/1/0/1", "/3/0/14"]);
}

#[test]
fn a_composite_write_that_a_resource_refuses_is_not_tried_in_parts() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::IPATCH, "/", status(Code::METHOD_NOT_ALLOWED));
    let values = json!({ "/1/0/1": 60, "/3/0/0": "ACME" });
    let last = ask(&mut rig, "write-composite", &json!({ "values": values }));
    assert_eq!(last["error"]["code"], "4.05");
    assert_eq!(
        last["error"]["detail"],
        "/3/0/0 is not writable (object 3 1.2: R)"
    );
    assert!(rig.devices[device].paths(Code::PUT).is_empty());
}

#[test]
fn a_composite_write_deletes_since_1_2() {
    let (mut rig, device) = rig_of_1_2();
    rig.devices[device].answer(Code::IPATCH, "/", status(Code::CHANGED));
    let values = json!({ "values": { "/16/0/0/1": null, "/16/0/0/2": "b" } });
    assert_eq!(ask(&mut rig, "write-composite", &values)["code"], "2.04");
    let request = only(&rig, device);
    assert_eq!(request.content_format, Some(322));

    let (mut rig, device) = self::rig();
    let last = ask(&mut rig, "write-composite", &values);
    assert_eq!(last["error"]["kind"], "unknown_command", "{last}");
    assert!(rig.devices[device].requests.is_empty());
}

// conformance: 1.1-int-304, 1.1-int-305
#[test]
fn a_composite_observation_brings_all_values_and_ends_with_the_list_that_began_it() {
    let (mut rig, device) = rig();
    let values = r#"[{"n":"/3311/0/5851","v":40},{"n":"/3303/0/5700","v":19.5}]"#;
    rig.devices[device].answer(Code::FETCH, "/", content(110, values));
    let paths = json!({ "paths": ["/3311/0/5851", "/3303/0/5700"] });
    assert_eq!(ask(&mut rig, "observe-composite", &paths)["code"], "2.05");
    let begin = only(&rig, device).clone();
    assert_eq!(begin.observe, Some(Observe::Register));
    let values = r#"[{"n":"/3311/0/5851","v":41},{"n":"/3303/0/5700","v":20.5}]"#;
    let notification = Response {
        observe: Some(0),
        ..content(110, values)
    };
    rig.notify(device, "/", notification, true);
    rig.run(SECOND);
    let value = |rig: &Rig, topic: &str| rig.broker.json(&format!("lwm2mqtt/d/dev1/v/{topic}"));
    assert_eq!(value(&rig, "temperature-0/sensor-value")["value"], 20.5);
    assert_eq!(value(&rig, "light-control-0/dimmer")["value"], 41);

    // What is observed for itself is not ended in its place.
    let others = json!({ "paths": ["/3303/0", "/3311/0"] });
    let last = ask(&mut rig, "cancel-observe-composite", &others);
    assert_eq!(last["error"]["kind"], "unknown_signal", "{last}");
    assert_eq!(rig.devices[device].requests.len(), 1);
    assert_eq!(
        ask(&mut rig, "cancel-observe-composite", &paths)["code"],
        "2.05"
    );
    let end = rig.devices[device].requests.last().unwrap();
    assert_eq!(end.observe, Some(Observe::Deregister));
    assert_eq!((end.method, &end.payload), (begin.method, &begin.payload));
    // The token was the same, or the device would not have found it.
    let observers = &rig.devices[device].observers;
    assert!(!observers.iter().any(|(path, _)| path == "/"));
}

#[test]
fn a_composite_observation_done_singly_is_ended_singly() {
    let (mut rig, device) = rig();
    let scripted = &mut rig.devices[device];
    scripted.answer(Code::FETCH, "/", status(Code::BAD_OPTION));
    for (path, value) in [
        ("/3303/0/5700", r#"[{"n":"/3303/0/5700","v":1}]"#),
        ("/3311/0/5851", r#"[{"n":"/3311/0/5851","v":2}]"#),
    ] {
        scripted.answer(Code::GET, path, content(110, value));
    }
    let paths = json!({ "paths": ["/3303/0/5700", "/3311/0/5851"] });
    assert_eq!(
        ask(&mut rig, "observe-composite", &paths)["fallback"],
        "single"
    );
    let observed = |rig: &Rig| {
        let observers = rig.devices[device].observers.iter();
        let observed = observers.map(|(path, _)| path.clone());
        observed.filter(|path| path.len() > 10).collect::<Vec<_>>()
    };
    assert_eq!(observed(&rig), ["/3303/0/5700", "/3311/0/5851"]);
    let last = ask(&mut rig, "cancel-observe-composite", &paths);
    assert_eq!(
        (&last["status"], &last["fallback"]),
        (&"done".into(), &"single".into())
    );
    assert!(observed(&rig).is_empty());
}

// conformance: 1.1-int-1630, 1.1-int-1635
#[test]
fn an_instance_is_created_observed_and_deleted() {
    let (mut rig, device) = rig();
    let scripted = &mut rig.devices[device];
    scripted.answer(Code::POST, "/3303", status(Code::CREATED));
    scripted.answer(Code::DELETE, "/3303/1", status(Code::DELETED));
    let value = r#"[{"n":"/3303/1/5700","v":7}]"#;
    scripted.answer(Code::GET, "/3303/1", content(110, value));
    let create = json!({ "path": "/3303", "instance": 1, "values": { "5700": 7, "5701": "Cel" } });
    let last = ask(&mut rig, "create", &create);
    assert_eq!(
        (&last["code"], &last["location"]),
        (&"2.01".into(), &"/3303/1".into())
    );
    let request = &rig.devices[device].requests[0];
    assert_eq!(request.path, ["3303"]);
    assert_eq!(
        body(request),
        json!([{ "n": "/3303/1/5700", "v": 7.0 }, { "n": "/3303/1/5701", "vs": "Cel" }])
    );
    // Without an Update of the device, it is in our view, and observed.
    rig.run(3 * SECOND);
    let topic = "lwm2mqtt/d/dev1/v/temperature-1/sensor-value";
    assert_eq!(rig.broker.json(topic)["value"], 7.0);
    assert_eq!(
        ask(&mut rig, "delete", &json!({ "path": "/3303/1" }))["code"],
        "2.02"
    );
    // The number is free again.
    let create = json!({ "path": "/3303", "values": { "5701": "Cel" } });
    assert_eq!(ask(&mut rig, "create", &create)["location"], "/3303/1");
    assert_eq!(ask(&mut rig, "create", &create)["location"], "/3303/2");
}

#[test]
fn an_instance_that_nobody_names_is_named_by_the_device_or_by_us() {
    for (format, location, expected) in [
        ("11542", vec!["3303", "9"], "/3303/9"),
        ("110", vec![], "/3303/1"),
    ] {
        let mut rig = Rig::new();
        let device = rig.add_sensor();
        let objects = format!("</>;ct={format},</1/0>,</3/0>,</3303/0>");
        rig.register(device, "dev1", "", &objects);
        rig.run(3 * SECOND);
        let created = Response {
            location: location.into_iter().map(str::to_owned).collect(),
            ..status(Code::CREATED)
        };
        rig.devices[device].answer(Code::POST, "/3303", created);
        rig.devices[device].requests.clear();
        let create = json!({ "path": "/3303", "values": { "5701": "K" } });
        let last = ask(&mut rig, "create", &create);
        assert_eq!(last["location"], expected);
        let payload = &rig.devices[device].requests[0].payload;
        match format {
            // The resource alone (LwM2M Core 1.1 §7.4.3).
            "11542" => assert_eq!(payload, b"\xe1\x16\x45K"),
            _ => assert!(payload.starts_with(br#"[{"n":"/3303/1/5701""#)),
        }
    }
}

// conformance: 1.2-int-264, 1.2-int-266
#[test]
fn discover_has_a_depth_since_1_2_and_what_an_older_device_says_beyond_it_is_left_out() {
    let links = "</3>,</3/0>;pmin=10,</3/0/9>,</3/0/7>;dim=2";
    let ask_for = |rig: &mut Rig, device: usize| {
        rig.devices[device].answer(Code::GET, "/3", content(40, links));
        let last = ask(rig, "discover", &json!({ "path": "/3", "depth": 1 }));
        (only(rig, device).query.clone(), last["links"].clone())
    };
    let (mut rig, device) = rig_of_1_2();
    let expected = json!({ "/3": {}, "/3/0": { "pmin": "10" } });
    assert_eq!(
        ask_for(&mut rig, device),
        (vec!["depth=1".to_owned()], expected.clone())
    );
    let (mut rig, device) = self::rig();
    assert_eq!(ask_for(&mut rig, device), (vec![], expected));
}

// conformance: P24, P35
#[test]
fn a_device_with_an_alternate_path_has_everything_below_it() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    let objects = r#"</lwm2m>;rt="oma.lwm2m";ct=110,</lwm2m/1/0>,</lwm2m/3303/0>"#;
    rig.register(device, "dev1", "", objects);
    rig.run(3 * SECOND);
    let scripted = &mut rig.devices[device];
    scripted.requests.clear();
    scripted.answer(
        Code::GET,
        "/lwm2m/3303",
        content(40, "</lwm2m/3303>,</lwm2m/3303/0>"),
    );
    let value = r#"[{"n":"/lwm2m/3303/0/5700","v":19.5}]"#;
    scripted.answer(Code::FETCH, "/lwm2m", content(110, value));
    let created = Response {
        location: ["lwm2m", "3303", "4"].map(str::to_owned).to_vec(),
        ..status(Code::CREATED)
    };
    scripted.answer(Code::POST, "/lwm2m/3303", created);

    let last = ask(&mut rig, "discover", &json!({ "path": "/3303" }));
    assert_eq!(last["links"], json!({ "/3303": {}, "/3303/0": {} }));
    let last = ask(
        &mut rig,
        "read-composite",
        &json!({ "paths": ["/3303/0/5700"] }),
    );
    assert_eq!(last["values"], json!({ "/3303/0/5700": 19.5 }));
    let fetch = &rig.devices[device].requests[1];
    assert_eq!(body(fetch), json!([{ "n": "/lwm2m/3303/0/5700" }]));
    let create = json!({ "path": "/3303", "instance": 4, "values": { "5701": "K" } });
    assert_eq!(ask(&mut rig, "create", &create)["location"], "/3303/4");
}

// conformance: 1.2-int-312, 313
#[test]
fn an_observation_has_attributes_of_its_own_since_1_2() {
    let observe = json!({ "path": "/3303/0/5700", "attributes": { "pmin": 5, "con": true } });
    let (mut rig, device) = rig_of_1_2();
    let value = r#"[{"n":"/3303/0/5700","v":19.5}]"#;
    rig.devices[device].answer(Code::GET, "/3303/0/5700", content(110, value));
    assert_eq!(ask(&mut rig, "observe", &observe)["code"], "2.05");
    assert_eq!(only(&rig, device).query, ["pmin=5", "con=1"]);

    let (mut rig, device) = self::rig();
    let last = ask(&mut rig, "observe", &observe);
    assert_eq!(last["error"]["kind"], "unknown_command");
    assert!(
        last["error"]["detail"].as_str().unwrap().contains("1.2"),
        "{last}"
    );
    assert!(rig.devices[device].requests.is_empty());
}

// conformance: 1.1-int-260, 1.1-int-261
#[test]
fn attributes_are_set_and_taken_away() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::PUT, "/3303/0/5700", status(Code::CHANGED));
    let attributes = json!({ "path": "/3303/0/5700", "pmin": null, "gt": 30.5 });
    assert_eq!(
        ask(&mut rig, "write-attributes", &attributes)["code"],
        "2.04"
    );
    let request = only(&rig, device);
    assert_eq!(request.query, ["gt=30.5", "pmin"]);
    assert_eq!((request.payload.len(), request.content_format), (0, None));
}

// conformance: 1.1-int-228
#[test]
fn a_value_is_written_at_every_level_to_replace_or_to_update() {
    let (mut rig, device) = rig();
    for (payload, method, path, written) in [
        (
            json!({ "path": "/3311/0", "values": { "5850": true } }),
            Code::POST,
            "/3311/0",
            json!([{ "n": "/3311/0/5850", "vb": true }]),
        ),
        (
            json!({ "path": "/3311/0", "mode": "replace", "values": { "5850": true } }),
            Code::PUT,
            "/3311/0",
            json!([{ "n": "/3311/0/5850", "vb": true }]),
        ),
        (
            json!({ "path": "/16/0/0/7", "value": "test" }),
            Code::PUT,
            "/16/0/0/7",
            json!([{ "n": "/16/0/0/7", "vs": "test" }]),
        ),
        (
            json!({ "path": "/16/0/0", "mode": "update", "values": { "7": "test" } }),
            Code::POST,
            "/16/0/0",
            json!([{ "n": "/16/0/0/7", "vs": "test" }]),
        ),
    ] {
        let scripted = &mut rig.devices[device];
        scripted.requests.clear();
        scripted.answer(method, path, status(Code::CHANGED));
        assert_eq!(
            ask(&mut rig, "write", &payload)["code"],
            "2.04",
            "{payload}"
        );
        let request = only(&rig, device);
        assert_eq!(request.method, method, "{payload}");
        assert_eq!(body(request), written, "{payload}");
        // An update of a resource as text would be an Execute.
        assert_eq!(request.content_format, Some(110));
    }
}

// conformance: P25
#[test]
fn what_cannot_be_asked_is_refused_before_it_leaves() {
    let (mut rig, device) = rig();
    for (operation, payload, detail) in [
        (
            "execute",
            json!({ "path": "/3/0/4", "args": "0='a b'" }),
            "args is",
        ),
        (
            "execute",
            json!({ "path": "/3/0/4", "args": { "0": "\\" } }),
            "args is",
        ),
        ("execute", json!({ "path": "/3/0" }), "needs a resource"),
        ("read-composite", json!({ "paths": [] }), "no paths"),
        ("read-composite", json!({ "paths": ["3"] }), "path 3"),
        ("write-composite", json!({ "values": {} }), "needs values"),
        (
            "write-composite",
            json!({ "values": { "/3/0": 1 } }),
            "needs values",
        ),
        ("discover", json!({ "path": "/3", "depth": 4 }), "depth"),
        ("discover", json!({ "path": "/3/0/7/0" }), "needs an object"),
        (
            "create",
            json!({ "path": "/3303/1", "instance": 2 }),
            "different",
        ),
        (
            "create",
            json!({ "path": "/3303", "instance": 65535 }),
            "65534",
        ),
        ("delete", json!({ "path": "/3303" }), "needs an instance"),
        (
            "delete",
            json!({ "path": "/3303/0/5700" }),
            "needs an instance",
        ),
        (
            "write",
            json!({ "path": "/3/0/7/1", "mode": "update", "value": 1 }),
            "needs an instance, or a resource",
        ),
    ] {
        let last = ask(&mut rig, operation, &payload);
        assert_eq!(last["error"]["kind"], "parse", "{last}");
        let said = last["error"]["detail"].as_str().unwrap();
        assert!(said.contains(detail), "{operation} {payload}: {said}");
    }
    for (operation, payload) in [
        ("read-composite", json!({ "paths": ["/3/0/9", "/0/0/5"] })),
        ("write-composite", json!({ "values": { "/0/0/5": "AAAA" } })),
        (
            "create",
            json!({ "path": "/21", "values": { "0": "AAAA" } }),
        ),
    ] {
        let last = ask(&mut rig, operation, &payload);
        assert_eq!(last["error"]["kind"], "access", "{last}");
    }
    assert!(rig.devices[device].requests.is_empty());
}

#[test]
fn arguments_of_an_execute_are_a_text_or_an_object() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/3/0/4", status(Code::CHANGED));
    for args in [json!("0='x',5"), json!({ "0": "x", "5": null })] {
        ask(
            &mut rig,
            "execute",
            &json!({ "path": "/3/0/4", "args": args }),
        );
        let request = rig.devices[device].requests.last().unwrap();
        assert_eq!(request.payload, b"0='x',5");
        assert_eq!(request.content_format, Some(0));
    }
}

// conformance: 1.1-int-103, 1.1-int-105
#[test]
fn a_device_that_is_told_to_stay_away_leaves_and_comes_back() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/1/0/4", status(Code::CHANGED));
    ask(&mut rig, "execute", &json!({ "path": "/1/0/4" }));
    let mut leave = Request::new(Code::DELETE, ["rd"]);
    leave.path = rig.location(device);
    rig.request(device, leave.clone());
    rig.run(SECOND);
    let answer = |rig: &Rig| rig.devices[device].responses.last().unwrap().code;
    assert_eq!(answer(&rig), Code::DELETED);
    let state = |rig: &Rig| rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(state(&rig)["reason"], "deregistered");
    let update = Request {
        method: Code::POST,
        ..leave
    };
    rig.request(device, update);
    rig.run(SECOND);
    assert_eq!(answer(&rig), Code::NOT_FOUND);
    rig.register(device, "dev1", "", crate::rig::SENSOR);
    rig.run(SECOND);
    assert_eq!(state(&rig)["state"], "online");
}

// conformance: P16, 1.1-int-102, 1.1-int-107
#[test]
fn a_lifetime_that_we_write_counts_though_the_device_does_not_say_it() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::PUT, "/1/0/1", status(Code::CHANGED));
    let state = |rig: &Rig| rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(state(&rig)["lifetime"], 300);
    ask(&mut rig, "write", &json!({ "path": "/1/0/1", "value": 20 }));
    assert_eq!(state(&rig)["lifetime"], 20);
    rig.run(60 * SECOND);
    assert_eq!(state(&rig)["reason"], "lifetime_expired");

    rig.register(device, "dev1", "lt=30", crate::rig::SENSOR);
    rig.run(3 * SECOND);
    ask(
        &mut rig,
        "write",
        &json!({ "path": "/1/0/1", "value": 1000 }),
    );
    rig.run(900 * SECOND);
    assert_eq!(state(&rig)["state"], "online");
    // Endless.
    ask(&mut rig, "write", &json!({ "path": "/1/0/1", "value": 0 }));
    rig.run(100_000 * SECOND);
    assert_eq!(state(&rig)["state"], "online");
}

// conformance: 1.1-int-102
#[test]
fn a_shorter_lifetime_leaves_the_device_the_time_to_say_it() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::PUT, "/1/0/1", status(Code::CHANGED));
    rig.run(200 * SECOND);
    ask(&mut rig, "write", &json!({ "path": "/1/0/1", "value": 20 }));
    rig.run(10 * SECOND);
    let state = rig.broker.json("lwm2mqtt/d/dev1/availability");
    assert_eq!(
        (&state["state"], &state["lifetime"]),
        (&"online".into(), &20.into())
    );
}
