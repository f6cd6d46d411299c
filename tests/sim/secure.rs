//! Devices behind DTLS, without its cryptography: who gets in, who stays, who is put out.

mod bootstrap;
mod ends;
mod hostile;
mod kept;

use std::time::Duration;

use lwm2mqtt::coap::{Code, Request, Response};
use lwm2mqtt::dtls::Fatal;
use lwm2mqtt::dtls::plain::{COSTLY, Plain};
use lwm2mqtt::gateway::{Event, Setup};
use lwm2mqtt::mapping::Plan;
use lwm2mqtt::server::Join;
use serde_json::{Value as Json, json};

use crate::rig::{Rig, SENSOR, content};
use crate::road::{COAPS, Road};

const SECOND: Duration = Duration::from_secs(1);
const KEY: &[u8; 16] = b"not to be seen !";
const VALUE: &str = "lwm2mqtt/d/sec1/v/temperature-0/sensor-value";
const AVAILABILITY: &str = "lwm2mqtt/d/sec1/availability";

/// A gateway with an engine, which knows the devices that it was told of and nobody else.
fn rig() -> Rig {
    rig_with(|_| {})
}

fn rig_with(adjust: impl FnOnce(&mut Setup)) -> Rig {
    Rig::with_setup(Plan::unmapped("lwm2mqtt"), |setup| {
        setup.engine = Some(Box::new(Plain::new([9; 32])));
        setup.settings.server.policy.join = Join::Known;
        adjust(setup);
    })
}

/// The same with device `sec1`, of identity `id-sec1`.
fn rig_with_sec1() -> Rig {
    let mut rig = rig();
    add(&mut rig, "sec1", KEY);
    rig
}

/// As `lwm2mqtt device add NAME --psk-identity id-NAME`.
fn add(rig: &mut Rig, name: &str, key: &[u8]) {
    let added = rig.administer(&json!({
        "verb": "device/add", "name": name,
        "psk": { "identity": format!("id-{name}"), "key": hex(key) },
    }));
    assert_eq!(added["ok"], true, "{added}");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A device with a sensor and a road of its own, which has sent nothing yet.
fn device(rig: &mut Rig, identity: &str, key: &[u8]) -> usize {
    let number = rig.add_sensor();
    let device = &mut rig.devices[number];
    device.route.listener = COAPS;
    device.road = Some(Road::new(number as u8, identity, key));
    device.answer(Code::PUT, "/3311/0/5850", Response::new(Code::CHANGED));
    number
}

/// Sends a Register; the code that comes back, if one does.
fn register(rig: &mut Rig, device: usize, endpoint: &str) -> Option<Code> {
    rig.devices[device].responses.clear();
    rig.register(device, endpoint, "lt=300", SENSOR);
    rig.run(3 * SECOND);
    Some(rig.devices[device].responses.last()?.code)
}

/// The device `sec1`, registered.
fn registered(rig: &mut Rig) -> usize {
    let sec1 = device(rig, "id-sec1", KEY);
    assert_eq!(register(rig, sec1, "sec1"), Some(Code::CREATED));
    sec1
}

/// Has a device measure, and says what is retained afterwards.
fn measured(rig: &mut Rig, device: usize, value: f64) -> Json {
    let payload = format!(r#"[{{"n":"/3303/0/5700","v":{value}}}]"#);
    rig.notify(device, "/3303/0", content(110, &payload), true);
    rig.run(SECOND);
    rig.broker.json(VALUE)["value"].clone()
}

/// Switches the light by MQTT; the end that it came to.
fn switched(rig: &mut Rig) -> Json {
    let topic = "lwm2mqtt/d/sec1/set/light-control-0/on-off";
    rig.ask(topic, r#"{"value":true,"timeout":5}"#);
    rig.run(10 * SECOND);
    let replies = rig.broker.messages("lwm2mqtt/d/sec1/reply");
    replies.last().unwrap()["status"].clone()
}

fn state(rig: &Rig) -> Json {
    rig.broker.json(AVAILABILITY)["state"].clone()
}

/// How often somebody registered.
fn registrations(rig: &Rig) -> usize {
    let is_registered = |event: &&Event| matches!(event, Event::DeviceRegistered { .. });
    rig.events.iter().filter(is_registered).count()
}

/// What `status` says of the sessions.
fn sessions(rig: &mut Rig) -> u64 {
    let status = rig.administer(&json!({ "verb": "status" }));
    status["result"]["sessions"].as_u64().unwrap()
}

fn counter(rig: &mut Rig, name: &str) -> u64 {
    let status = rig.administer(&json!({ "verb": "status" }));
    status["result"]["counters"][name].as_u64().unwrap()
}

fn last_words(rig: &Rig) -> String {
    rig.events.last().unwrap().to_string()
}

fn road(rig: &mut Rig, device: usize) -> &mut Road {
    rig.devices[device].road.as_mut().unwrap()
}

// wish: 8
// conformance: 401
#[test]
fn a_device_with_the_right_key_stands_on_mqtt_and_takes_commands() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    assert_eq!(state(&rig), "online");
    assert_eq!(rig.broker.json(VALUE)["value"], 21.5);
    assert_eq!(measured(&mut rig, sec1, 22.5), 22.5);
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(road(&mut rig, sec1).handshakes, 1);
    assert_eq!(sessions(&mut rig), 1);
    // The operator sees where it is, and that is an address.
    let told = rig.broker.messages("lwm2mqtt/bridge/event");
    let told = told
        .iter()
        .find(|event| event["type"] == "device_registered");
    assert_eq!(told.unwrap()["address"], "10.0.0.1:5683");
    let shown = rig.administer(&json!({ "verb": "device/show", "name": "sec1" }));
    assert_eq!(shown["result"]["registration"]["address"], "10.0.0.1:5683");
}

// wish: 8
#[test]
fn a_wrong_key_and_an_unknown_identity_are_told_apart_to_the_operator_alone() {
    let mut rig = rig_with_sec1();
    for (identity, sentence) in [
        (
            "id-sec1",
            "10.0.0.1:5683: no secure session: the key of PSK identity \"id-sec1\" is not the one we have",
        ),
        (
            "nobody",
            "10.0.0.2:5683: no secure session: PSK identity \"nobody\" is not known",
        ),
    ] {
        let stranger = device(&mut rig, identity, b"some other key !");
        assert_eq!(register(&mut rig, stranger, "sec1"), None);
        assert_eq!(last_words(&rig), sentence);
        // It cannot tell whether there is such an identity (RFC 4279 §2).
        let failures = &road(&mut rig, stranger).failures;
        assert!(
            !failures.is_empty() && !failures.contains(&Fatal::Alert(115)),
            "{failures:?}"
        );
    }
    let told = rig.broker.messages("lwm2mqtt/bridge/event");
    assert!(!told.is_empty());
    assert!(told.iter().all(|event| event["type"] == "handshake_failed"));
    assert!(!rig.broker.retained.contains_key(AVAILABILITY));
    assert_eq!(sessions(&mut rig), 0);
}

// conformance: P22
#[test]
fn an_identity_is_refused_the_name_of_another_endpoint() {
    let mut rig = rig_with_sec1();
    let sec1 = device(&mut rig, "id-sec1", KEY);
    assert_eq!(register(&mut rig, sec1, "other"), Some(Code::BAD_REQUEST));
    let Some(Event::RegistrationRefused {
        endpoint,
        address,
        identity,
        code,
        detail,
    }) = rig.events.last()
    else {
        panic!("{:?}", rig.events.last());
    };
    assert_eq!(endpoint.as_deref(), Some("other"));
    assert_eq!(address, "10.0.0.1:5683");
    assert_eq!(identity.as_deref(), Some("PSK identity \"id-sec1\""));
    assert_eq!(code, "4.00");
    assert!(
        detail.starts_with("PSK identity \"id-sec1\" belongs to endpoint \"sec1\", and the device says that it is \"other\""),
        "{detail}"
    );
    assert!(!rig.broker.retained.contains_key("lwm2mqtt/d/other"));
    // It may be what it is.
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
}

// conformance: P22
#[test]
fn a_stolen_name_does_not_displace_the_one_who_has_it() {
    let mut rig = rig_with_sec1();
    add(&mut rig, "sec2", b"another's key !!");
    let sec1 = registered(&mut rig);
    let location = rig.location(sec1);
    let in_clear = rig.add_sensor();
    let member = device(&mut rig, "id-sec2", b"another's key !!");
    assert_eq!(register(&mut rig, in_clear, "sec1"), Some(Code::FORBIDDEN));
    assert_eq!(register(&mut rig, member, "sec1"), Some(Code::BAD_REQUEST));
    // Nor does the location help, for whoever saw it.
    for thief in [in_clear, member] {
        for method in [Code::POST, Code::DELETE] {
            rig.request(thief, Request::new(method, location.clone()));
            rig.run(SECOND);
            let answer = rig.devices[thief].responses.last().unwrap();
            assert_eq!(answer.code, Code::NOT_FOUND);
        }
    }
    assert_eq!(state(&rig), "online");
    assert_eq!(measured(&mut rig, sec1, 23.5), 23.5);
    assert_eq!(switched(&mut rig), "done");
    assert!(rig.devices[member].requests.is_empty());
    assert_eq!(registrations(&rig), 1);
}

#[test]
fn an_endpoint_that_is_left_out_is_the_one_of_the_identity() {
    let mut rig = rig_with_sec1();
    let sec1 = device(&mut rig, "id-sec1", KEY);
    let mut request = Request::new(Code::POST, ["rd"]);
    request.query = vec!["lwm2m=1.1".into(), "lt=300".into()];
    request.content_format = Some(40);
    request.payload = SENSOR.into();
    rig.request(sec1, request.clone());
    rig.run(3 * SECOND);
    assert_eq!(rig.devices[sec1].responses[0].code, Code::CREATED);
    assert_eq!(rig.broker.json("lwm2mqtt/d/sec1")["endpoint"], "sec1");
    // In clear nothing says who it is.
    let in_clear = rig.add_sensor();
    rig.request(in_clear, request);
    rig.run(3 * SECOND);
    let answer = &rig.devices[in_clear].responses[0];
    assert_eq!(answer.code, Code::BAD_REQUEST);
}

/// Gives a device that restarted a session of its own, and has it say something by it.
fn restart(rig: &mut Rig, device: usize, engine: Plain) -> Road {
    let road = Road::with_engine(100, "id-sec1", KEY, engine);
    let before = rig.devices[device].road.replace(road).unwrap();
    rig.devices[device].requests.clear();
    assert_eq!(measured(rig, device, 24.5), 24.5);
    before
}

// wish: 9
#[test]
fn a_device_that_restarted_goes_on_where_it_was() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    // From the same port, and its observers are what it remembers (LwM2M Transport 1.1 §6.4.1).
    let mut before = restart(&mut rig, sec1, Plain::new([100; 32]));
    assert_eq!(road(&mut rig, sec1).handshakes, 1);
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(rig.devices[sec1].paths(Code::PUT), ["/3311/0/5850"]);
    assert_eq!(sessions(&mut rig), 1);
    // What the old session says is nothing any more.
    before.send(rig.now, b"\x40\x02\x12\x34\xb2rd".to_vec());
    let late = before.datagram().unwrap();
    let route = rig.devices[sec1].route;
    rig.input(lwm2mqtt::gateway::Input::Datagram {
        route,
        bytes: &late,
    });
    rig.run(SECOND);
    assert_eq!(registrations(&rig), 1);
    assert_eq!(measured(&mut rig, sec1, 25.5), 25.5);
    assert_eq!(state(&rig), "online");
}

// conformance: 1350, P15
#[test]
fn a_device_without_connection_id_goes_on_from_its_new_address() {
    let mut rig = rig_with_sec1();
    let sec1 = device(&mut rig, "id-sec1", KEY);
    let without = || Plain::new([50; 32]).without_cid();
    rig.devices[sec1].road = Some(Road::with_engine(50, "id-sec1", KEY, without()));
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    let old = rig.devices[sec1].route;
    rig.devices[sec1].route.address = ([10, 9, 9, 9], 40_000).into();
    let mut before = restart(&mut rig, sec1, without());
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(rig.devices[sec1].paths(Code::PUT), ["/3311/0/5850"]);
    assert_eq!((registrations(&rig), sessions(&mut rig)), (1, 1));
    // The session from the old address is over.
    let strays = counter(&mut rig, "dtls_strays");
    before.send(rig.now, b"\x40\x04\x12\x34\xb2rd".to_vec());
    let late = before.datagram().unwrap();
    rig.input(lwm2mqtt::gateway::Input::Datagram {
        route: old,
        bytes: &late,
    });
    assert_eq!(counter(&mut rig, "dtls_strays"), strays + 1);
    assert_eq!(switched(&mut rig), "done");
}

#[test]
fn an_update_of_the_old_location_is_good_by_the_new_session() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    let location = rig.location(sec1);
    restart(&mut rig, sec1, Plain::new([100; 32]));
    rig.request(sec1, Request::new(Code::POST, location));
    rig.run(SECOND);
    let answer = rig.devices[sec1].responses.last().unwrap();
    assert_eq!(answer.code, Code::CHANGED);
}

// wish: 10
// conformance: 1350
#[test]
fn a_device_behind_a_nat_is_followed_by_its_connection_id() {
    let mut rig = rig_with_sec1();
    let sec1 = registered(&mut rig);
    rig.devices[sec1].route.address = ([10, 0, 0, 1], 61_000).into();
    assert_eq!(measured(&mut rig, sec1, 26.5), 26.5);
    let moved = Event::DeviceMoved {
        device: "sec1".into(),
        from: "10.0.0.1:5683".into(),
        address: "10.0.0.1:61000".into(),
    };
    assert!(rig.events.contains(&moved), "{:?}", rig.events);
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(road(&mut rig, sec1).handshakes, 1);
    assert_eq!(registrations(&rig), 1);
    // Who repeats a datagram from elsewhere moves nothing and changes nothing.
    let seen = rig.broker.log.len();
    let replayed = road(&mut rig, sec1).last.clone();
    let mut thief = rig.devices[sec1].route;
    thief.address = ([10, 6, 6, 6], 666).into();
    rig.input(lwm2mqtt::gateway::Input::Datagram {
        route: thief,
        bytes: &replayed,
    });
    rig.run(SECOND);
    assert_eq!(rig.broker.log.len(), seen);
    assert_eq!(counter(&mut rig, "dtls_moved"), 1);
    // Nor does one that was held back on the way and comes when newer ones have come (RFC 9146 §6).
    let now = rig.now;
    road(&mut rig, sec1).send(now, b"\x40\x00\x12\x34".to_vec());
    let held_back = road(&mut rig, sec1).datagram().unwrap();
    assert_eq!(measured(&mut rig, sec1, 27.5), 27.5);
    rig.input(lwm2mqtt::gateway::Input::Datagram {
        route: thief,
        bytes: &held_back,
    });
    assert_eq!(counter(&mut rig, "dtls_moved"), 1);
    rig.devices[sec1].requests.clear();
    assert_eq!(switched(&mut rig), "done");
    assert_eq!(rig.devices[sec1].paths(Code::PUT), ["/3311/0/5850"]);
}

#[test]
fn a_costly_handshake_is_handed_out_and_ends_established() {
    let costly = |seed| Plain::new([seed; 32]).with_suites(&[COSTLY]);
    let mut rig = rig_with(|setup| setup.engine = Some(Box::new(costly(9))));
    add(&mut rig, "sec1", KEY);
    let sec1 = device(&mut rig, "id-sec1", KEY);
    rig.devices[sec1].road = Some(Road::with_engine(50, "id-sec1", KEY, costly(50)));
    assert_eq!(register(&mut rig, sec1, "sec1"), Some(Code::CREATED));
    assert!(rig.works > 0);
    assert_eq!(measured(&mut rig, sec1, 27.5), 27.5);
    assert_eq!(switched(&mut rig), "done");
}
