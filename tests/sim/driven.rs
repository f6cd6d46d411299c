//! Cases of the enabler test specification that judge the device: that we can ask for them over MQTT, and that what
//! the device answers arrives. The device follows a script; each case checks the request that reached it.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const OBJECTS: &str = "</>;ct=110,</1/0>,</3/0>,</4/0>,</5/0>,</6/0>,</7/0>,</10>;ver=1.1,</10/0>,</11/0>,\
    </16/0>,</19/0>,</20/0>,</3303/0>";

/// A registered device that has all these objects, and what it was asked so far forgotten.
fn rig_with(objects: &str) -> (Rig, usize) {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    rig.register(device, "dev1", "lt=300", objects);
    rig.run(5 * SECOND);
    rig.devices[device].requests.clear();
    (rig, device)
}

fn rig() -> (Rig, usize) {
    rig_with(OBJECTS)
}

/// Asks, and gives the last word about it.
fn ask(rig: &mut Rig, op: &str, body: &Json) -> Json {
    rig.ask(&format!("lwm2mqtt/d/dev1/lwm2m/{op}"), &body.to_string());
    rig.run(3 * SECOND);
    rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap()
}

fn last(rig: &Rig, device: usize) -> &Request {
    rig.devices[device].requests.last().unwrap()
}

fn of(code: Code) -> Response {
    Response::new(code)
}

fn senml(text: &str) -> Response {
    content(110, text)
}

// conformance: 201, 652
#[test]
fn resources_are_read_as_text_where_the_device_speaks_that() {
    let (mut rig, device) = rig_with("</>;ct=0,</1/0>,</3/0>");
    rig.devices[device].only = Some(0);
    for (path, text) in [("/3/0/0", "ACME"), ("/3/0/1", "T1"), ("/3/0/3", "1.4.2")] {
        rig.devices[device].answer(Code::GET, path, content(0, text));
        let reply = ask(&mut rig, "read", &json!({ "path": path }));
        assert_eq!(
            (&reply["code"], &reply["value"]),
            (&json!("2.05"), &json!(text))
        );
        assert_eq!(last(&rig, device).accept, Some(0));
    }
}

// conformance: 205, 227
#[test]
fn numbers_are_written_as_text_where_the_device_speaks_that() {
    let (mut rig, device) = rig_with("</>;ct=0,</1/0>,</3/0>");
    rig.devices[device].only = Some(0);
    for (path, value) in [
        ("/1/0/2", 101),
        ("/1/0/3", 1010),
        ("/1/0/5", 2000),
        ("/1/0/1", 63),
    ] {
        rig.devices[device].answer(Code::PUT, path, of(Code::CHANGED));
        let reply = ask(&mut rig, "write", &json!({ "path": path, "value": value }));
        assert_eq!(reply["code"], "2.04");
        let request = last(&rig, device);
        assert_eq!(
            (request.method, request.content_format),
            (Code::PUT, Some(0))
        );
        assert_eq!(request.payload, value.to_string().as_bytes());
    }
}

// conformance: 226
#[test]
fn lifetime_and_storing_go_in_one_message_and_the_update_that_follows_is_taken() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/1/0", of(Code::CHANGED));
    let values = json!({ "path": "/1/0", "values": { "1": 61, "6": true }, "mode": "update" });
    assert_eq!(ask(&mut rig, "write", &values)["code"], "2.04");
    assert_eq!(rig.devices[device].requests.len(), 1);
    let location = rig.location(device);
    let update = Request {
        query: vec!["lt=61".into()],
        ..Request::new(Code::POST, location)
    };
    rig.request(device, update);
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::CHANGED
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["lifetime"],
        61
    );
}

// conformance: 104
#[test]
fn a_device_told_to_update_outlives_its_old_deadline() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/1/0/8", of(Code::CHANGED));
    rig.run(200 * SECOND);
    assert_eq!(
        ask(&mut rig, "execute", &json!({ "path": "/1/0/8" }))["code"],
        "2.04"
    );
    let location = rig.location(device);
    rig.request(device, Request::new(Code::POST, location));
    rig.run(200 * SECOND);
    // 300 s of lifetime and 30 s of grace are over since the Register, not since the Update.
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["state"],
        "online"
    );
    rig.run(200 * SECOND);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["reason"],
        "lifetime_expired"
    );
}

// conformance: 103
#[test]
fn a_disabled_device_takes_its_leave_and_is_gone() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/1/0/4", of(Code::CHANGED));
    assert_eq!(
        ask(&mut rig, "execute", &json!({ "path": "/1/0/4" }))["code"],
        "2.04"
    );
    let location = rig.location(device);
    rig.request(device, Request::new(Code::DELETE, location));
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::DELETED
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["reason"],
        "deregistered"
    );
    assert_eq!(
        ask(&mut rig, "read", &json!({ "path": "/3/0/0" }))["why"],
        "offline"
    );
}

// conformance: 105, P32
#[test]
fn an_update_gets_4_04_when_there_is_no_such_registration_and_only_then() {
    let (mut rig, device) = rig();
    let location = rig.location(device);
    let update = || Request::new(Code::POST, location.clone());
    for _ in 0..3 {
        rig.run(100 * SECOND);
        rig.request(device, update());
        rig.run(SECOND);
        assert_eq!(
            rig.devices[device].responses.last().unwrap().code,
            Code::CHANGED
        );
    }
    rig.run(400 * SECOND);
    rig.request(device, update());
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::NOT_FOUND
    );
    rig.register(device, "dev1", "lt=300", OBJECTS);
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::CREATED
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/availability")["state"],
        "online"
    );
}

// conformance: 222, 651, 701, 751, 801, 901, 1200, 1201, 2001
#[test]
fn the_objects_of_the_specification_are_read_by_their_definitions() {
    let (mut rig, device) = rig();
    for (path, payload, below, value) in [
        (
            "/3/0",
            r#"[{"n":"/3/0/13","v":1700000000},{"n":"/3/0/14","vs":"+02:00"}]"#,
            "/3/0/14",
            json!("+02:00"),
        ),
        (
            "/4/0",
            r#"[{"n":"/4/0/0","v":1},{"n":"/4/0/4/0","vs":"10.0.0.1"}]"#,
            "/4/0/4/0",
            json!("10.0.0.1"),
        ),
        (
            "/5/0",
            r#"[{"n":"/5/0/3","v":0},{"n":"/5/0/5","v":0}]"#,
            "/5/0/3",
            json!(0),
        ),
        (
            "/6/0",
            r#"[{"n":"/6/0/0","v":52.5},{"n":"/6/0/1","v":13.4}]"#,
            "/6/0/1",
            json!(13.4),
        ),
        (
            "/7/0",
            r#"[{"n":"/7/0/2","v":12},{"n":"/7/0/3","v":4}]"#,
            "/7/0/2",
            json!(12),
        ),
        (
            "/10/0",
            r#"[{"n":"/10/0/4","v":20},{"n":"/10/0/14","v":2}]"#,
            "/10/0/4",
            json!(20),
        ),
        (
            "/20/0",
            r#"[{"n":"/20/0/4015","v":0}]"#,
            "/20/0/4015",
            json!(0),
        ),
        (
            "/3",
            r#"[{"n":"/3/0/0","vs":"ACME"}]"#,
            "/3/0/0",
            json!("ACME"),
        ),
    ] {
        rig.devices[device].answer(Code::GET, path, senml(payload));
        let reply = ask(&mut rig, "read", &json!({ "path": path }));
        assert_eq!(reply["values"][below], value, "{path}: {reply}");
    }
}

// conformance: 651, 901, 905, 1202, 1901, 2000
#[test]
fn the_objects_of_the_specification_are_written_by_their_definitions() {
    let (mut rig, device) = rig();
    for (path, value, expected) in [
        (
            "/3/0/13",
            json!(1_700_000_000),
            json!([{ "n": "/3/0/13", "v": 1_700_000_000 }]),
        ),
        (
            "/3/0/14",
            json!("+02:00"),
            json!([{ "n": "/3/0/14", "vs": "+02:00" }]),
        ),
        ("/7/0/8", json!(60), json!([{ "n": "/7/0/8", "v": 60 }])),
        ("/10/0/14", json!(2), json!([{ "n": "/10/0/14", "v": 2 }])),
        (
            "/19/0/0/0",
            json!("q80="),
            json!([{ "n": "/19/0/0/0", "vd": "q80" }]),
        ),
    ] {
        rig.devices[device].answer(Code::PUT, path, of(Code::CHANGED));
        let reply = ask(&mut rig, "write", &json!({ "path": path, "value": value }));
        assert_eq!(reply["code"], "2.04", "{path}: {reply}");
        let request = last(&rig, device);
        assert_eq!(request.content_format, Some(110), "{path}");
        assert_eq!(
            serde_json::from_slice::<Json>(&request.payload).unwrap(),
            expected
        );
    }
    for path in ["/7/0/6", "/7/0/7", "/20/0/4011"] {
        rig.devices[device].answer(Code::POST, path, of(Code::CHANGED));
        assert_eq!(
            ask(&mut rig, "execute", &json!({ "path": path }))["code"],
            "2.04"
        );
    }
}

// conformance: 710, 810, 910, 1203, 1204, 1900
#[test]
fn the_objects_of_the_specification_are_observed_and_each_value_arrives() {
    let (mut rig, device) = rig();
    for (path, before, after) in [
        (
            "/4/0/2",
            r#"[{"n":"/4/0/2","v":92}]"#,
            r#"[{"n":"/4/0/2","v":80}]"#,
        ),
        (
            "/6/0/0",
            r#"[{"n":"/6/0/0","v":1.5}]"#,
            r#"[{"n":"/6/0/0","v":2.5}]"#,
        ),
        (
            "/7/0/2",
            r#"[{"n":"/7/0/2","v":1}]"#,
            r#"[{"n":"/7/0/2","v":2}]"#,
        ),
        (
            "/10/0/4",
            r#"[{"n":"/10/0/4","v":20}]"#,
            r#"[{"n":"/10/0/4","v":40}]"#,
        ),
        (
            "/19/0/0/0",
            r#"[{"n":"/19/0/0/0","vd":"AQ"}]"#,
            r#"[{"n":"/19/0/0/0","vd":"Ag"}]"#,
        ),
    ] {
        rig.devices[device].answer(Code::GET, path, senml(before));
        let reply = ask(&mut rig, "observe", &json!({ "path": path }));
        assert_eq!(reply["status"], "done", "{path}: {reply}");
        let values = rig.gateway.counters().values;
        rig.notify(device, path, senml(after), true);
        rig.run(SECOND);
        assert_eq!(rig.gateway.counters().values, values + 1, "{path}");
    }
}

// conformance: 256, 680, 685
#[test]
fn what_the_device_refuses_is_said_with_its_code() {
    let (mut rig, device) = rig();
    let refused = of(Code::METHOD_NOT_ALLOWED);
    for (method, at, op, body) in [
        (
            Code::PUT,
            "/1/0/0",
            "write",
            json!({ "path": "/1/0/0", "value": 123 }),
        ),
        (
            Code::POST,
            "/3",
            "create",
            json!({ "path": "/3", "instance": 1, "values": { "15": "UTC" } }),
        ),
        (Code::DELETE, "/3/0", "delete", json!({ "path": "/3/0" })),
    ] {
        rig.devices[device].answer(method, at, refused.clone());
        let reply = ask(&mut rig, op, &body);
        assert_eq!(
            (&reply["status"], &reply["error"]["code"]),
            (&json!("failed"), &json!("4.05")),
            "{op}"
        );
        assert_eq!(last(&rig, device).method, method);
    }
}

// conformance: 229, 235, 236, 281
#[test]
fn a_composite_read_takes_what_there_is_and_what_is_left_out_is_no_error() {
    let (mut rig, device) = rig();
    let value = r#"[{"n":"/1/0/1","v":300},{"n":"/1/0/7","vs":"U"}]"#;
    rig.devices[device].answer(Code::FETCH, "/", senml(value));
    for paths in [
        json!(["/1/0/1", "/1/0/7", "/1/0/8"]),
        json!(["/1/0/1", "/1/0/7", "/3/0/99", "/3442"]),
        json!(["/"]),
    ] {
        let reply = ask(&mut rig, "read-composite", &json!({ "paths": paths }));
        assert_eq!(
            reply["values"],
            json!({ "/1/0/1": 300, "/1/0/7": "U" }),
            "{reply}"
        );
    }
}

// conformance: 308, 309, 310
#[test]
fn a_composite_observation_stands_while_instances_come_and_go_and_attributes_change() {
    let (mut rig, device) = rig();
    let one = r#"[{"n":"/1/0/1","v":300},{"n":"/3303/0/5700","v":20}]"#;
    let two = r#"[{"n":"/1/0/1","v":300},{"n":"/3303/0/5700","v":20},{"n":"/3303/1/5700","v":7}]"#;
    rig.devices[device].answer(Code::FETCH, "/", senml(one));
    let paths = json!({ "paths": ["/1/0/1", "/3303"] });
    assert_eq!(ask(&mut rig, "observe-composite", &paths)["status"], "done");
    let number = |rig: &Rig| rig.gateway.counters().values;
    rig.devices[device].answer(Code::POST, "/3303", of(Code::CREATED));
    rig.devices[device].answer(Code::DELETE, "/3303/1", of(Code::DELETED));
    rig.devices[device].answer(Code::PUT, "/3303", of(Code::CHANGED));
    let create = json!({ "path": "/3303/1", "values": { "5700": 7.0 } });
    assert_eq!(ask(&mut rig, "create", &create)["code"], "2.01");
    let before = number(&rig);
    rig.notify(device, "/", senml(two), true);
    rig.run(SECOND);
    assert!(number(&rig) > before);
    assert_eq!(
        ask(
            &mut rig,
            "write-attributes",
            &json!({ "path": "/3303", "pmax": 5 })
        )["code"],
        "2.04"
    );
    assert_eq!(
        ask(&mut rig, "delete", &json!({ "path": "/3303/1" }))["code"],
        "2.02"
    );
    let moved = one.replace("20", "21");
    rig.notify(device, "/", senml(&moved), true);
    rig.run(SECOND);
    let value = rig
        .broker
        .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value");
    assert_eq!(value["value"], 21.0);
    assert_eq!(
        rig.devices[device]
            .observers
            .iter()
            .filter(|(path, _)| path == "/")
            .count(),
        1
    );
}

// conformance: 301
#[test]
fn periods_are_attached_before_the_node_is_observed() {
    let (mut rig, device) = rig();
    for path in ["/3/0/7", "/3/0/8"] {
        rig.devices[device].answer(Code::PUT, path, of(Code::CHANGED));
        rig.devices[device].answer(
            Code::GET,
            path,
            senml(&format!(r#"[{{"n":"{path}/0","v":3800}}]"#)),
        );
        let attributes = json!({ "path": path, "pmin": 5, "pmax": 15 });
        assert_eq!(
            ask(&mut rig, "write-attributes", &attributes)["code"],
            "2.04"
        );
        assert_eq!(last(&rig, device).query, ["pmin=5", "pmax=15"]);
        assert_eq!(
            ask(&mut rig, "observe", &json!({ "path": path }))["status"],
            "done"
        );
        rig.run(5 * SECOND);
        let values = rig.gateway.counters().values;
        rig.notify(
            device,
            path,
            senml(&format!(r#"[{{"n":"{path}/0","v":3700}}]"#)),
            false,
        );
        rig.run(SECOND);
        assert_eq!(rig.gateway.counters().values, values + 1);
    }
}

// conformance: P37, P40
#[test]
fn silence_is_a_timeout_and_says_nothing_against_the_resource() {
    let (mut rig, device) = rig();
    rig.devices[device].dead = true;
    rig.ask("lwm2mqtt/d/dev1/lwm2m/read", r#"{"path":"/3/0/0"}"#);
    rig.run(Duration::from_secs(120));
    let reply = rig.broker.messages("lwm2mqtt/d/dev1/reply").pop().unwrap();
    assert_eq!(
        (&reply["error"]["kind"], &reply["error"]["retry"]),
        (&json!("timeout"), &json!(true))
    );
    let problems = rig.broker.json("lwm2mqtt/d/dev1")["problems"].clone();
    let about = |problem: &Json| {
        problem["path"]
            .as_str()
            .is_some_and(|path| path.starts_with("/3/"))
    };
    assert!(
        !problems.as_array().into_iter().flatten().any(about),
        "{problems}"
    );
    rig.devices[device].dead = false;
    rig.devices[device].answer(
        Code::GET,
        "/3/0/0",
        senml(r#"[{"n":"/3/0/0","vs":"ACME"}]"#),
    );
    // What else it was asked meanwhile is given up by then.
    rig.run(Duration::from_secs(100));
    let reply = ask(&mut rig, "read", &json!({ "path": "/3/0/0" }));
    assert_eq!(reply["value"], "ACME", "{reply}");
}

// conformance: 307
#[test]
fn a_device_is_muted_and_heard_again() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::PUT, "/1/0/23", of(Code::CHANGED));
    for muted in [true, false] {
        let write = json!({ "path": "/1/0/23", "value": muted });
        assert_eq!(ask(&mut rig, "write", &write)["code"], "2.04");
        let body: Json = serde_json::from_slice(&last(&rig, device).payload).unwrap();
        assert_eq!(body, json!([{ "n": "/1/0/23", "vb": muted }]));
    }
    let send = Request {
        content_format: Some(110),
        payload: br#"[{"n":"/3303/0/5700","v":17.5}]"#.to_vec(),
        ..Request::new(Code::POST, ["dp"])
    };
    rig.request(device, send);
    rig.run(SECOND);
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::CHANGED
    );
    let topic = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
    assert_eq!(rig.broker.json(topic)["value"], 17.5);
}

// conformance: 1250
#[test]
fn a_created_instance_is_taken_from_the_update_that_lists_it() {
    let (mut rig, device) = rig();
    rig.devices[device].answer(Code::POST, "/11", of(Code::CREATED));
    let create = json!({ "path": "/11/1", "values": { "0": "backup", "3": true } });
    let reply = ask(&mut rig, "create", &create);
    assert_eq!(reply["code"], "2.01", "{reply}");
    let update = Request {
        content_format: Some(40),
        payload: format!("{OBJECTS},</11/1>,</3303/1>").into_bytes(),
        ..Request::new(Code::POST, rig.location(device))
    };
    let value = senml(r#"[{"n":"/3303/1/5700","v":5}]"#);
    rig.devices[device].answer(Code::GET, "/3303/1", value);
    rig.request(device, update);
    rig.run(5 * SECOND);
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    assert!(!birth["objects"]["11"].is_null(), "{birth}");
    // What the list brought is observed like what was there from the beginning.
    let topic = "lwm2mqtt/d/dev1/v/temperature-1/sensor-value";
    assert_eq!(rig.broker.json(topic)["value"], 5.0);
}

// conformance: 756, 760, 771, 775, 778
#[test]
fn an_update_by_pull_can_be_driven_and_followed_by_hand() {
    let (mut rig, device) = rig();
    let state = |state: u8| senml(&format!(r#"[{{"n":"/5/0/3","v":{state}}}]"#));
    let result = |result: u8| senml(&format!(r#"[{{"n":"/5/0/5","v":{result}}}]"#));
    let scripted = &mut rig.devices[device];
    scripted.answer(Code::PUT, "/5/0/1", of(Code::CHANGED));
    scripted.answer(Code::POST, "/5/0/2", of(Code::CHANGED));
    scripted.answer(Code::GET, "/5/0/3", state(0));
    scripted.answer(Code::GET, "/5/0/5", result(0));
    for path in ["/5/0/3", "/5/0/5"] {
        let reply = ask(&mut rig, "observe", &json!({ "path": path }));
        assert_eq!(
            (&reply["status"], &reply["value"]),
            (&json!("done"), &json!(0))
        );
    }
    let shown = |rig: &Rig, name: &str| {
        let topic = format!("lwm2mqtt/d/dev1/v/firmware-update-0/{name}");
        rig.broker.json(&topic)["value"].clone()
    };
    // An empty URI resets, a good one is fetched.
    for uri in ["", "coap://10.0.0.254/fw.bin"] {
        let reply = ask(
            &mut rig,
            "write",
            &json!({ "path": "/5/0/1", "value": uri }),
        );
        assert_eq!(reply["code"], "2.04", "{reply}");
        let body: Json = serde_json::from_slice(&last(&rig, device).payload).unwrap();
        assert_eq!(body, json!([{ "n": "/5/0/1", "vs": uri }]));
    }
    for step in [1, 2] {
        rig.notify(device, "/5/0/3", state(step), true);
        rig.run(SECOND);
        assert_eq!(shown(&rig, "state"), step);
    }
    let reply = ask(&mut rig, "execute", &json!({ "path": "/5/0/2" }));
    assert_eq!(reply["code"], "2.04");
    rig.notify(device, "/5/0/3", state(0), true);
    // Done; then, of later attempts, the link lost and a wrong URI.
    for outcome in [1, 4, 7] {
        rig.notify(device, "/5/0/5", result(outcome), true);
        rig.run(SECOND);
        assert_eq!(shown(&rig, "update-result"), outcome);
    }
    assert_eq!(shown(&rig, "state"), 0);
}
