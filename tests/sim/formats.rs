//! What devices send and take: each its own formats.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};

use crate::rig::{Rig, SENSOR};

const SECOND: Duration = Duration::from_secs(1);
const VALUE: &str = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
const REPLY: &str = "lwm2mqtt/d/dev1/reply";

/// 22.5 at /3303/0/5700, as an answer to a Read of /3303/0.
const ANSWERS: [(u16, &[u8]); 7] = [
    (11542, b"\xe4\x16\x44\x41\xb4\x00\x00"),
    (1542, b"\xe4\x16\x44\x41\xb4\x00\x00"),
    (110, br#"[{"bn":"/3303/0/","n":"5700","v":22.5}]"#),
    (112, b"\x81\xa2\x00\x6c/3303/0/5700\x02\xf9\x4d\xa0"),
    (11543, br#"{"bn":"/3303/0/","e":[{"n":"5700","v":22.5}]}"#),
    (1543, br#"{"e":[{"n":"5700","v":22.5}]}"#),
    (
        11544,
        b"\xbf\x19\x0c\xe7\xbf\x00\xbf\x19\x16\x44\xf9\x4d\xa0\xff\xff\xff",
    ),
];

fn answer(format: u16, payload: &[u8]) -> Response {
    Response {
        content_format: Some(format),
        payload: payload.to_vec(),
        ..Response::new(Code::CONTENT)
    }
}

/// Registers a device of LwM2M 1.2 that advertises these formats.
fn register(rig: &mut Rig, device: usize, ct: &str) {
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = ["ep=dev1", "lwm2m=1.2", "lt=300", "b=U"]
        .map(str::to_owned)
        .into();
    request.content_format = Some(40);
    request.payload = SENSOR.replace("ct=110", &format!("ct=\"{ct}\"")).into();
    rig.request(device, request);
    rig.run(3 * SECOND);
}

// conformance: 1.1-int-237, 1.1-int-203, 1.1-int-204, P9
#[test]
fn an_answer_is_read_in_whatever_format_the_device_chose() {
    for (format, payload) in ANSWERS {
        let mut rig = Rig::new();
        let device = rig.add_sensor();
        rig.devices[device].answer(Code::GET, "/3303/0", answer(format, payload));
        rig.register(device, "dev1", "lt=300", SENSOR);
        rig.run(3 * SECOND);
        assert_eq!(rig.broker.json(VALUE)["value"], 22.5, "{format}");
        // Notifications are no different.
        rig.notify(device, "/3303/0", answer(format, payload), true);
        rig.run(SECOND);
        let standing = rig.broker.json(VALUE);
        assert_eq!(
            (&standing["value"], &standing["src"]),
            (&22.5.into(), &"notify".into()),
            "{format}"
        );
        assert_eq!(rig.gateway.counters().undecodable, 0);
    }
}

// conformance: 1.1-int-211, 1.1-int-212
#[test]
fn one_value_is_asked_for_and_written_in_cbor_where_the_device_advertises_it() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    let single = answer(60, b"\xf9\x4d\xa0");
    rig.devices[device].answer(Code::GET, "/3303/0/5700", single);
    rig.devices[device].answer(Code::PUT, "/3311/0/5850", Response::new(Code::CHANGED));
    register(&mut rig, device, "60 110");
    rig.ask("lwm2mqtt/d/dev1/lwm2m/read", r#"{"path":"/3303/0/5700"}"#);
    rig.run(SECOND);
    let read = rig.devices[device].requests.last().unwrap();
    assert_eq!((read.method, read.accept), (Code::GET, Some(60)));
    let reply = rig.broker.messages(REPLY).pop().unwrap();
    assert!(reply.to_string().contains("22.5"), "{reply}");
    rig.ask(
        "lwm2mqtt/d/dev1/lwm2m/write",
        r#"{"path":"/3311/0/5850","value":true}"#,
    );
    rig.run(SECOND);
    let write = rig.devices[device].requests.last().unwrap();
    assert_eq!((write.method, write.content_format), (Code::PUT, Some(60)));
    assert_eq!(write.payload, [0xF5]);
}

#[test]
fn a_device_of_1_2_that_advertises_lwm2m_cbor_is_asked_for_it() {
    let mut rig = Rig::new();
    let device = rig.add_sensor();
    for (format, payload) in ANSWERS.into_iter().filter(|(format, _)| *format == 11544) {
        rig.devices[device].answer(Code::GET, "/3303/0", answer(format, payload));
    }
    register(&mut rig, device, "112 11544");
    let requests = &rig.devices[device].requests;
    let read = requests.iter().find(|read| read.path == ["3303", "0"]);
    assert_eq!(read.unwrap().accept, Some(11544));
    assert_eq!(rig.broker.json(VALUE)["value"], 22.5);
}

/// The values of /1/0 that the enabler test 215 writes.
const SERVER: &str = r#"{"2":101,"3":1010,"5":2000,"6":true,"7":"U"}"#;

// conformance: 1.1-int-215, 1.1-int-228, 1.1-int-233, 1.1-int-234
#[test]
fn an_instance_a_resource_and_a_resource_instance_are_written_in_the_format_of_the_device() {
    for (format, instance, resource, one_of_many) in [
        (
            11542,
            &b"\xc1\x02\x65\xc2\x03\x03\xf2\xc2\x05\x07\xd0\xc1\x06\x01\xc1\x07U"[..],
            &b"\xe1\x16\xdb\x28"[..],
            &b"\x44\x01test"[..],
        ),
        (
            110,
            br#"[{"bn":"/1/0/","n":"2","v":101},{"n":"3","v":1010},{"n":"5","v":2000},{"n":"6","vb":true},{"n":"7","vs":"U"}]"#,
            br#"[{"n":"/3311/0/5851","v":40}]"#,
            br#"[{"n":"/16/0/0/1","vs":"test"}]"#,
        ),
        (
            112,
            b"\x85\xa3\x21\x65/1/0/\x00\x612\x02\x18\x65\xa2\x00\x613\x02\x19\x03\xf2\xa2\x00\x615\x02\x19\x07\xd0\xa2\x00\x616\x04\xf5\xa2\x00\x617\x03\x61U",
            b"\x81\xa2\x00\x6c/3311/0/5851\x02\x18\x28",
            b"\x81\xa2\x00\x69/16/0/0/1\x03\x64test",
        ),
        (
            11544,
            b"\xa1\x82\x01\x00\xa5\x02\x18\x65\x03\x19\x03\xf2\x05\x19\x07\xd0\x06\xf5\x07\x61U",
            b"\xa1\x83\x19\x0c\xef\x00\x19\x16\xdb\x18\x28",
            b"\xa1\x84\x10\x00\x00\x01\x64test",
        ),
    ] {
        let mut rig = Rig::new();
        let device = rig.add_sensor();
        register(&mut rig, device, &format.to_string());
        for (method, path, body, payload) in [
            (Code::POST, "/1/0", format!(r#""values":{SERVER},"mode":"update""#), instance),
            (Code::PUT, "/1/0", format!(r#""values":{SERVER},"mode":"replace""#), instance),
            (Code::PUT, "/3311/0/5851", r#""value":40"#.to_owned(), resource),
            (Code::PUT, "/16/0/0/1", r#""value":"test""#.to_owned(), one_of_many),
        ] {
            rig.devices[device].answer(method, path, Response::new(Code::CHANGED));
            let command = format!(r#"{{"path":"{path}",{body}}}"#);
            rig.ask("lwm2mqtt/d/dev1/lwm2m/write", &command);
            rig.run(SECOND);
            let write = rig.devices[device].requests.last().unwrap();
            assert_eq!(
                (write.method, &write.path.join("/")[..], write.content_format),
                (method, &path[1..], Some(format))
            );
            assert_eq!(write.payload, payload, "{path} in {format}");
            let reply = rig.broker.messages(REPLY).pop().unwrap();
            assert_eq!(reply["final"], true, "{reply}");
            assert_eq!(reply["error"], serde_json::Value::Null, "{reply}");
        }
    }
}

// conformance: 1.1-int-222, 1.1-int-223, 1.1-int-224, 1.1-int-225, 1.1-int-231, 1.1-int-232
#[test]
fn values_are_read_at_all_four_levels_in_the_format_of_the_device() {
    for (format, voltage) in [
        (110, &br#"[{"n":"/3/0/7/1","v":3812}]"#[..]),
        (112, b"\x81\xa2\x00\x68/3/0/7/1\x02\x19\x0e\xe4"),
    ] {
        let mut rig = Rig::new();
        let device = rig.add_sensor();
        register(&mut rig, device, &format.to_string());
        for path in ["/3", "/3/0", "/3/0/7", "/3/0/7/1"] {
            rig.devices[device].answer(Code::GET, path, answer(format, voltage));
            rig.ask(
                "lwm2mqtt/d/dev1/lwm2m/read",
                &format!(r#"{{"path":"{path}"}}"#),
            );
            rig.run(SECOND);
            let read = rig.devices[device].requests.last().unwrap();
            assert_eq!(
                (read.method, &read.path.join("/")[..], read.accept),
                (Code::GET, &path[1..], Some(format))
            );
            let reply = rig.broker.messages(REPLY).pop().unwrap();
            assert!(reply.to_string().contains("3812"), "{path} {reply}");
        }
    }
}
