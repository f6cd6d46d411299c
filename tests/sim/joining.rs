//! Who may join, and what an operator does about it.

use std::time::Duration;

use lwm2mqtt::coap::Code;
use lwm2mqtt::gateway::{AdminAccess, Event, Message};
use lwm2mqtt::mapping::Plan;
use lwm2mqtt::server::Join;
use lwm2mqtt::server::credentials::{Change, Policy};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const KEY: &str = "5034732477307264aabbccddeeff0011";
const OBJECTS: &str = "</1/0>,</3/0>,</3303/0>";

fn rig(join: Join) -> Rig {
    Rig::with_policy(Policy {
        join,
        ..Policy::default()
    })
}

/// The code that a device gets for its Register.
fn register(rig: &mut Rig, device: usize, endpoint: &str) -> Code {
    rig.register(device, endpoint, "lt=300", OBJECTS);
    rig.run(Duration::from_secs(3));
    rig.devices[device].responses.last().unwrap().code
}

fn add(rig: &mut Rig, name: &str) -> Json {
    rig.administer(&json!({
        "verb": "device/add", "name": name, "psk": { "identity": format!("id-{name}"), "key": KEY },
    }))
}

/// Why the last registration was refused.
fn refusal(rig: &Rig) -> String {
    let refusals = rig.events.iter().filter_map(|event| match event {
        Event::RegistrationRefused { code, detail, .. } => Some(format!("{code} {detail}")),
        _ => None,
    });
    refusals.collect::<Vec<_>>().pop().unwrap()
}

fn said(rig: &Rig, event: &Event) -> bool {
    rig.events.contains(event)
}

#[test]
fn with_join_known_a_stranger_is_refused_until_it_is_approved() {
    let mut rig = rig(Join::Known);
    let device = rig.add_device();
    assert_eq!(register(&mut rig, device, "dev1"), Code::FORBIDDEN);
    // Why, the operator is told, and not whoever sent a datagram.
    assert!(rig.devices[device].responses[0].payload.is_empty());
    assert!(
        refusal(&rig).starts_with("4.03 endpoint \"dev1\" is not known; give it a credential with `lwm2mqtt device add dev1 --psk-generate`"),
        "{}",
        refusal(&rig)
    );
    let published = rig.broker.messages("lwm2mqtt/bridge/event");
    assert_eq!(published.last().unwrap()["type"], "registration_refused");
    let approved = rig.administer(&json!({
        "verb": "device/approve", "endpoint": "dev1", "name": "cellar",
    }));
    assert_eq!(approved["ok"], true, "{approved}");
    assert!(matches!(&rig.stored[..], [Change::Put(record)] if &*record.name == "cellar"));
    assert_eq!(register(&mut rig, device, "dev1"), Code::CREATED);
    // The operator's name is the topic name.
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/cellar/availability")["state"],
        "online"
    );
}

#[test]
fn a_window_lets_strangers_in_while_it_is_open_and_they_stay() {
    let mut rig = rig(Join::Window);
    let (first, second) = (rig.add_device(), rig.add_device());
    assert_eq!(register(&mut rig, first, "dev1"), Code::FORBIDDEN);
    assert!(refusal(&rig).contains("lwm2mqtt device join --for 2m"));
    let opened = rig.administer(&json!({ "verb": "permit_join", "seconds": 60 }));
    assert_eq!(opened["ok"], true);
    assert!(said(&rig, &Event::JoinWindowOpened { seconds: 60 }));
    assert_eq!(register(&mut rig, first, "dev1"), Code::CREATED);
    assert!(said(
        &rig,
        &Event::DeviceJoined {
            endpoint: "dev1".into()
        }
    ));
    assert!(matches!(&rig.stored[..], [Change::Put(record)] if &*record.endpoint == "dev1"));
    let status = rig.administer(&json!({ "verb": "status" }));
    let counters = &status["result"]["counters"];
    assert_eq!(
        (&counters["refused"], &counters["coap_malformed"]),
        (&json!(1), &json!(0))
    );
    assert_eq!(
        status["result"]["join"],
        json!({ "policy": "window", "window": 57 })
    );
    rig.run(Duration::from_secs(60));
    assert!(said(&rig, &Event::JoinWindowClosed));
    assert_eq!(register(&mut rig, second, "dev2"), Code::FORBIDDEN);
    assert_eq!(register(&mut rig, first, "dev1"), Code::CREATED);
}

#[test]
fn a_window_can_be_closed_early_and_opens_only_where_it_counts() {
    let mut rig = rig(Join::Window);
    let device = rig.add_device();
    rig.administer(&json!({ "verb": "permit_join", "seconds": 60 }));
    rig.administer(&json!({ "verb": "permit_join", "seconds": 0 }));
    assert!(said(&rig, &Event::JoinWindowClosed));
    assert_eq!(register(&mut rig, device, "dev1"), Code::FORBIDDEN);
    let forever = rig.administer(&json!({ "verb": "permit_join", "seconds": 100_000_000 }));
    assert_eq!(forever["error"]["kind"], "range");
    let mut known = self::rig(Join::Known);
    let refused = known.administer(&json!({ "verb": "permit_join", "seconds": 60 }));
    let detail = refused["error"]["detail"].as_str().unwrap();
    assert!(detail.contains("write `join = \"window\"`"), "{detail}");
}

#[test]
fn an_endpoint_with_a_credential_is_not_served_without_it_even_when_anyone_may_join() {
    let mut rig = rig(Join::Open);
    let device = rig.add_device();
    assert_eq!(register(&mut rig, device, "sec1"), Code::CREATED);
    let location = rig.location(device);
    // From now on it has one: whoever is there without it is put out.
    assert_eq!(add(&mut rig, "sec1")["ok"], true);
    let topic = "lwm2mqtt/d/sec1/availability";
    assert_eq!(rig.broker.json(topic)["state"], "offline");
    assert_eq!(rig.broker.json(topic)["reason"], "blocked");
    let mut update = lwm2mqtt::coap::Request::new(Code::POST, ["rd"]);
    update.path = location;
    rig.request(device, update);
    rig.run(Duration::from_secs(3));
    assert_eq!(
        rig.devices[device].responses.last().unwrap().code,
        Code::NOT_FOUND
    );
    assert_eq!(register(&mut rig, device, "sec1"), Code::FORBIDDEN);
    assert!(refusal(&rig).contains("has a credential and came without it"));
    assert_eq!(register(&mut rig, device, "dev1"), Code::CREATED);
}

#[test]
fn only_the_networks_that_are_named_may_come_without_security() {
    let mut rig = Rig::with_policy(Policy {
        join: Join::Open,
        coap_from: vec!["10.0.0.2/32".parse().unwrap()],
    });
    let (outside, inside) = (rig.add_device(), rig.add_device());
    assert_eq!(register(&mut rig, outside, "dev1"), Code::FORBIDDEN);
    assert!(refusal(&rig).contains("10.0.0.1 is in none of the networks"));
    assert_eq!(register(&mut rig, inside, "dev1"), Code::CREATED);
}

// wish: 21
#[test]
fn of_a_removed_device_nothing_stays_on_mqtt() {
    let mut rig = rig(Join::Open);
    let device = rig.add_device();
    let answer = content(110, r#"[{"bn":"/3303/0/","n":"5700","v":21.5}]"#);
    rig.devices[device].answer(Code::GET, "/3303/0", answer);
    register(&mut rig, device, "dev1");
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1" }));
    let below = |rig: &Rig| {
        let topics = rig.broker.retained.keys();
        topics
            .filter(|topic| topic.starts_with("lwm2mqtt/d/"))
            .count()
    };
    assert_eq!(below(&rig), 3, "{:?}", rig.broker.retained.keys());
    let removed = rig.administer(&json!({ "verb": "device/remove", "name": "dev1" }));
    assert_eq!(removed["result"]["endpoint"], "dev1");
    assert_eq!(below(&rig), 0);
    assert!(matches!(rig.stored.last(), Some(Change::Remove(name)) if &**name == "dev1"));
    let event = Event::DeviceRemoved {
        device: "dev1".into(),
    };
    assert!(said(&rig, &event));
    let first_deleted = rig
        .broker
        .log
        .iter()
        .find(|(_, payload)| payload.is_empty());
    assert_eq!(first_deleted.unwrap().0, "lwm2mqtt/d/dev1/availability");
    // A broker that forgot everything is not told of it again.
    rig.disconnect();
    rig.broker.retained.clear();
    rig.connect();
    rig.run(Duration::from_secs(5));
    assert_eq!(below(&rig), 0);
    // It may come back, as what it is called now, and everything stands again.
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1", "name": "cellar" }));
    assert_eq!(register(&mut rig, device, "dev1"), Code::CREATED);
    assert_eq!(below(&rig), 3);
    assert!(rig.broker.retained.contains_key("lwm2mqtt/d/cellar"));
}

#[test]
fn a_device_list_tells_who_is_there_and_shows_no_key() {
    let mut rig = rig(Join::Open);
    add(&mut rig, "sec1");
    let device = rig.add_device();
    register(&mut rig, device, "dev1");
    let list = rig.administer(&json!({ "verb": "device/list" }))["result"].clone();
    assert_eq!(
        (&list[0]["name"], &list[0]["security"], &list[0]["state"]),
        (&json!("sec1"), &json!(["psk"]), &json!("never_seen"))
    );
    assert_eq!(
        (&list[1]["name"], &list[1]["origin"], &list[1]["state"]),
        (&json!("dev1"), &json!("none"), &json!("online"))
    );
    let shown = rig.administer(&json!({ "verb": "device/show", "name": "dev1" }));
    assert_eq!(shown["result"]["registration"]["lifetime"], 300);
    let nobody = rig.administer(&json!({ "verb": "device/show", "name": "dev9" }));
    assert_eq!(nobody["error"]["kind"], "unknown_device");
}

#[test]
fn mqtt_may_do_what_the_configuration_says_and_never_sees_a_key() {
    let with = |admin| {
        Rig::with(Plan::unmapped("lwm2mqtt"), |settings| {
            settings.server.policy.join = Join::Window;
            settings.admin = admin;
        })
    };
    let ask = |rig: &mut Rig, verb: &str, payload: &str| {
        rig.ask(&format!("lwm2mqtt/bridge/request/{verb}"), payload);
        let answers = rig
            .broker
            .messages(&format!("lwm2mqtt/bridge/response/{verb}"));
        answers.last().cloned()
    };
    let mut all = with(AdminAccess::All);
    let answer = ask(&mut all, "permit_join", r#"{"seconds":60,"id":"a1"}"#).unwrap();
    assert_eq!(
        (&answer["id"], &answer["status"], &answer["final"]),
        (&json!("a1"), &json!("done"), &json!(true))
    );
    let device = all.add_device();
    assert_eq!(register(&mut all, device, "dev1"), Code::CREATED);
    let with_key = format!(r#"{{"name":"x","psk":{{"identity":"x","key":"{KEY}"}}}}"#);
    let refused = ask(&mut all, "device/add", &with_key).unwrap();
    assert_eq!(refused["error"]["kind"], "access");
    let pinned = format!(r#"{{"name":"x","cert_sha256":"{}"}}"#, "00".repeat(32));
    assert_eq!(
        ask(&mut all, "device/add", &pinned).unwrap()["status"],
        "done"
    );
    let unknown = ask(&mut all, "device/praise", "").unwrap();
    assert_eq!(unknown["error"]["kind"], "unknown_command");
    let retained = Message {
        topic: "lwm2mqtt/bridge/request/device/remove".into(),
        payload: br#"{"name":"dev1"}"#.to_vec(),
        retain: true,
        ..Message::default()
    };
    all.input(lwm2mqtt::gateway::Input::Message(retained));
    let answers = all
        .broker
        .messages("lwm2mqtt/bridge/response/device/remove");
    assert_eq!(answers[0]["error"]["kind"], "retained");

    let mut read = with(AdminAccess::Read);
    assert_eq!(ask(&mut read, "device/list", "").unwrap()["status"], "done");
    assert_eq!(ask(&mut read, "status", "{}").unwrap()["status"], "done");
    for (verb, payload) in [
        ("permit_join", r#"{"seconds":60}"#),
        ("device/approve", r#"{"endpoint":"dev1"}"#),
        ("device/remove", r#"{"name":"dev1"}"#),
        ("device/add", pinned.as_str()),
        ("device/bootstrap", r#"{"name":"dev1"}"#),
    ] {
        let refused = ask(&mut read, verb, payload).unwrap();
        assert_eq!(refused["error"]["kind"], "access", "{verb}");
    }
    assert_eq!(read.stored, []);

    let off = with(AdminAccess::Off);
    let filters = off.gateway.subscriptions().requests;
    assert!(!filters.iter().any(|filter| filter.contains("bridge")));
    let mut off = off;
    let refused = ask(&mut off, "status", "").unwrap();
    assert_eq!(refused["error"]["kind"], "access");
}

#[test]
fn an_answer_goes_where_the_asker_says_but_not_into_the_gateways_own_tree() {
    let mut rig = rig(Join::Known);
    let request = |reply_to: &str| Message {
        topic: "lwm2mqtt/bridge/request/status".into(),
        response_topic: Some(reply_to.into()),
        correlation: Some(vec![7]),
        ..Message::default()
    };
    rig.input(lwm2mqtt::gateway::Input::Message(request("app/1")));
    assert_eq!(rig.broker.messages("app/1")[0]["status"], "done");
    let stolen = "lwm2mqtt/d/dev1/availability";
    rig.input(lwm2mqtt::gateway::Input::Message(request(stolen)));
    assert_eq!(rig.broker.messages(stolen), [Json::Null; 0]);
    let answers = rig.broker.messages("lwm2mqtt/bridge/response/status");
    assert_eq!(answers[0]["error"]["kind"], "parse");
}

#[test]
fn without_a_store_nothing_is_promised_that_would_have_to_be_kept() {
    let mut rig = Rig::with(Plan::unmapped("lwm2mqtt"), |settings| {
        settings.has_store = false;
    });
    for request in [
        json!({ "verb": "device/approve", "endpoint": "dev1" }),
        json!({ "verb": "permit_join", "seconds": 60 }),
    ] {
        let refused = rig.administer(&request);
        let detail = refused["error"]["detail"].as_str().unwrap();
        assert!(detail.contains("without a store"), "{detail}");
    }
    let status = rig.administer(&json!({ "verb": "status" }));
    let warnings = status["result"]["warnings"].to_string();
    assert!(warnings.contains("there is no store") && warnings.contains("join is"));
}

#[test]
fn nonsense_gets_an_answer_that_repeats_none_of_it() {
    let mut rig = rig(Join::Known);
    for request in [
        json!("hunter2"),
        json!({ "verb": 7 }),
        json!({ "verb": "device/add", "name": 7 }),
        json!({ "verb": "device/add", "name": "x" }),
        json!({ "verb": "device/add", "name": "x", "psk": "hunter2" }),
        json!({ "verb": "device/add", "name": "x", "psk": { "identity": "x", "key": "hunter2" } }),
        json!({ "verb": "device/add", "name": "x", "psk": { "key": "hunter2" } }),
        json!({ "verb": "device/list", "extra": "hunter2" }),
        json!({ "verb": "permit_join", "seconds": -5 }),
        json!({ "verb": "device/bootstrap", "name": "x" }),
    ] {
        let answer = rig.administer(&request);
        assert_eq!(answer["ok"], false, "{request}");
        assert!(!answer["error"]["detail"].as_str().unwrap().is_empty());
        assert!(!answer.to_string().contains("hunter2"), "{answer}");
    }
    assert_eq!(rig.stored, []);
}

#[test]
fn no_key_is_in_anything_that_comes_out() {
    let mut rig = rig(Join::Window);
    rig.administer(&json!({ "verb": "permit_join", "seconds": 60 }));
    let device = rig.add_device();
    let mut answers = vec![add(&mut rig, "sec1"), add(&mut rig, "sec1")];
    register(&mut rig, device, "sec1");
    for verb in ["device/list", "status"] {
        answers.push(rig.administer(&json!({ "verb": verb })));
        rig.ask(&format!("lwm2mqtt/bridge/request/{verb}"), "");
    }
    answers.push(rig.administer(&json!({ "verb": "device/show", "name": "sec1" })));
    answers.push(rig.administer(&json!({ "verb": "device/remove", "name": "sec1" })));
    rig.run(Duration::from_secs(70));
    let mut all = format!("{answers:?} {:?} {:?}", rig.events, rig.stored).into_bytes();
    for event in &rig.events {
        all.extend(event.to_string().into_bytes());
    }
    for (topic, payload) in &rig.broker.log {
        all.extend(topic.as_bytes());
        all.extend(payload);
    }
    let raw = [0x50, 0x34, 0x73, 0x24, 0x77, 0x30, 0x72, 0x64];
    let list = format!("{raw:?}");
    let forms: [&[u8]; 5] = [
        &raw,
        b"5034732477307264",
        b"UDRzJHcwcmSqu8zd7v8AEQ",
        list.trim_matches(['[', ']']).as_bytes(),
        b"P4s$w0rd",
    ];
    for form in forms {
        let found = all
            .windows(form.len())
            .any(|window| window.eq_ignore_ascii_case(form));
        assert!(!found, "{form:?}");
    }
}
