//! What an MQTT user chooses: where answers go, ids, topic levels, paths.

use super::*;

const ASK: &str = "lwm2mqtt/d/dev1/lwm2m/discover";
const WHERE: &str = r#"{"path":"/3303/0"}"#;

/// Topics that answers must not go to.
fn forbidden() -> Vec<String> {
    let mut topics: Vec<String> = [
        "lwm2mqtt",
        "lwm2mqtt/",
        "lwm2mqtt/bridge/state",
        "lwm2mqtt/bridge/request/permit_join",
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        "lwm2mqtt/d/dev2/reply",
        "homeassistant",
        "homeassistant/switch/x/config",
        "$SYS/broker/log",
        "$share/g/app/in",
        "app/+/in",
        "app/#",
        "#",
        "",
        "app/\0",
        "app/\u{1}",
        "app/\u{9f}",
        "app/\u{FFFF}",
    ]
    .map(str::to_owned)
    .into();
    topics.push("a/".repeat(100));
    topics.push("a".repeat(70_000));
    topics
}

#[test]
fn a_response_topic_gets_no_answer_where_its_author_may_not_publish() {
    for topic in forbidden() {
        let mut rig = dev1();
        let asked = rig.devices[0].requests.len();
        ask(&mut rig, ASK, WHERE, Some(&topic));
        let error = refusal(&rig);
        assert_eq!(error["kind"], "parse", "{topic:?}");
        let detail = error["detail"].as_str().unwrap();
        assert!(
            detail.starts_with("no answer can go where it was wanted: "),
            "{detail}"
        );
        assert_eq!(rig.devices[0].requests.len(), asked, "{topic:?}");
    }
    let mut rig = dev1();
    ask(&mut rig, ASK, WHERE, Some("app/42/in"));
    assert!(!rig.broker.messages("app/42/in").is_empty());
}

#[test]
fn a_reply_to_gets_no_answer_there_either() {
    for topic in forbidden() {
        let mut rig = dev1();
        let payload = json!({ "path": "/3303/0", "reply_to": topic }).to_string();
        ask(&mut rig, ASK, &payload, None);
        assert_eq!(refusal(&rig)["kind"], "parse", "{topic:?}");
    }
    // The property wins, and is no way around either.
    let mut rig = dev1();
    let payload = json!({ "path": "/3303/0", "reply_to": "app/1" }).to_string();
    ask(&mut rig, ASK, &payload, Some("lwm2mqtt/bridge/state"));
    assert_eq!(refusal(&rig)["kind"], "parse");
}

#[test]
fn a_refused_request_does_nothing_to_the_device() {
    let mut rig = dev1();
    rig.devices[0].answer(Code::PUT, "/3311/0/5850", Response::new(Code::CHANGED));
    ask(
        &mut rig,
        "lwm2mqtt/d/dev1/set/light-control-0/on-off",
        "true",
        Some("lwm2mqtt/x"),
    );
    assert_eq!(refusal(&rig)["kind"], "parse");
    assert!(rig.devices[0].paths(Code::PUT).is_empty());
}

#[test]
fn no_answer_goes_where_a_mapping_publishes_values() {
    let mapping = |topic: &str| {
        format!(
            "schema = 1\n[profile]\nid = \"p\"\n[match]\nendpoint = \"*\"\n\
             [[signal]]\npath = \"/3303/0/5700\"\ntopic = \"{topic}\"\n"
        )
    };
    // Of a device that is there, and by the words of the mapping of one that is not.
    for (topic, taken, free) in [
        (
            "plant7/{device}/temperature",
            "plant7/dev1/temperature",
            "plant7/replies",
        ),
        (
            "plant7/{device}/temperature",
            "plant7/dev2/temperature",
            "plant7/dev2/other",
        ),
        (
            "{device}/{inst}/{name}",
            "dev1/temperature-0/sensor-value",
            "app/42/in",
        ),
    ] {
        let mut rig = mapped(&mapping(topic));
        rig.add_registered();
        rig.broker.log.clear();
        ask(&mut rig, ASK, WHERE, Some(taken));
        let error = refusal(&rig);
        assert!(
            error["detail"]
                .as_str()
                .unwrap()
                .ends_with("values of devices are published there")
        );
        ask(&mut rig, ASK, WHERE, Some(free));
        assert!(!rig.broker.messages(free).is_empty(), "{free}");
    }
}

#[test]
fn reply_topics_narrow_where_answers_go() {
    let replies = Replies {
        filters: vec!["app/+/in".into()],
        discovery_prefix: "ha/discovery".into(),
    };
    let mut rig = Rig::with_replies(Plan::unmapped("lwm2mqtt"), replies);
    rig.add_registered();
    for (topic, permitted) in [
        ("app/42/in", true),
        ("app/42/out", false),
        ("other", false),
        ("lwm2mqtt/d/dev2/set", false),
    ] {
        rig.broker.log.clear();
        ask(&mut rig, ASK, WHERE, Some(topic));
        if permitted {
            assert!(!rig.broker.messages(topic).is_empty());
        } else {
            assert_eq!(refusal(&rig)["kind"], "parse", "{topic}");
        }
    }
    // The default topic is always one.
    rig.broker.log.clear();
    ask(&mut rig, ASK, WHERE, None);
    assert!(!rig.broker.messages(REPLY).is_empty());
}

#[test]
fn the_prefix_of_discovery_is_the_configured_one() {
    let replies = Replies {
        discovery_prefix: "ha/discovery".into(),
        ..Replies::default()
    };
    let mut rig = Rig::with_replies(Plan::unmapped("lwm2mqtt"), replies);
    rig.add_registered();
    rig.broker.log.clear();
    ask(&mut rig, ASK, WHERE, Some("ha/discovery/switch/x/config"));
    assert_eq!(refusal(&rig)["kind"], "parse");
    ask(&mut rig, ASK, WHERE, Some("ha/other"));
    assert!(!rig.broker.messages("ha/other").is_empty());
}

#[test]
fn correlation_data_is_echoed_and_changes_nothing_else() {
    for correlation in [
        vec![],
        vec![0, 0xFF, b'#', b'/'],
        vec![7; 65_535],
        vec![7; 65_536],
    ] {
        let mut rig = dev1();
        rig.input(Input::Message(Message {
            topic: ASK.into(),
            payload: WHERE.into(),
            correlation: Some(correlation.clone()),
            ..Message::default()
        }));
        rig.run(SECOND);
        // What MQTT cannot carry is not sent, and said.
        let expressible = correlation.len() < 65_536;
        let mut published = topics(&rig);
        published.retain(|topic| *topic != "lwm2mqtt/bridge/event");
        assert_eq!(!published.is_empty(), expressible);
        assert!(published.iter().all(|topic| *topic == REPLY));
        let said = |event: &Event| matches!(event, Event::RequestMalformed { .. });
        assert_eq!(!rig.events.iter().any(said), expressible);
    }
}

#[test]
fn ids_and_times_to_live_stay_in_payloads() {
    for hostile in HOSTILE {
        let mut rig = dev1();
        let payload = json!({ "path": "/3303/0", "id": hostile, "ttl": u64::MAX }).to_string();
        ask(&mut rig, ASK, &payload, None);
        assert!(topics(&rig).iter().all(|topic| *topic == REPLY));
        assert_eq!(rig.broker.messages(REPLY).pop().unwrap()["id"], hostile);
    }
    let mut rig = dev1();
    let payload = json!({ "path": "/3303/0", "id": "x".repeat(257) }).to_string();
    ask(&mut rig, ASK, &payload, None);
    assert_eq!(refusal(&rig)["kind"], "parse");
}

#[test]
fn topic_levels_of_a_request_reach_only_the_device_that_they_name() {
    let mut rig = Rig::new();
    rig.add_registered();
    let other = add_sensor(&mut rig, "dev2", 5.0);
    let untouched = rig.devices[other].requests.len();
    rig.broker.log.clear();
    let mut levels: Vec<String> = HOSTILE.map(str::to_owned).into();
    levels.push("../dev2".into());
    levels.push("light-control-0/../../dev2/set/x/y".into());
    for level in levels {
        for (verb, payload) in [
            (format!("set/{level}/on-off"), "true".to_owned()),
            (format!("set/light-control-0/{level}"), "true".to_owned()),
            (format!("get/{level}/{level}"), String::new()),
            (format!("do/{level}"), String::new()),
            (format!("lwm2m/{level}"), WHERE.to_owned()),
            (level.clone(), "{}".to_owned()),
            (
                "set".to_owned(),
                json!({ "set": { &level: true } }).to_string(),
            ),
            (
                "lwm2m/read".to_owned(),
                json!({ "path": level }).to_string(),
            ),
            (
                "lwm2m/write".to_owned(),
                json!({ "path": "/3311/0", "values": { &level: 1 } }).to_string(),
            ),
        ] {
            ask(&mut rig, &format!("lwm2mqtt/d/dev1/{verb}"), &payload, None);
        }
    }
    for topic in topics(&rig) {
        assert!(
            topic == REPLY || topic.starts_with("lwm2mqtt/bridge/"),
            "{topic}"
        );
    }
    assert!(
        rig.devices[0].paths(Code::PUT).is_empty() && rig.devices[0].paths(Code::POST).is_empty()
    );
    assert_eq!(rig.devices[other].requests.len(), untouched);
}

#[test]
fn a_device_level_that_is_no_text_gets_no_answer() {
    for name in ["a\u{1}", "a\u{FFFE}"] {
        let mut rig = dev1();
        ask(&mut rig, &format!("lwm2mqtt/d/{name}/set/a/b"), "1", None);
        assert!(
            topics(&rig)
                .iter()
                .all(|topic| topic.starts_with("lwm2mqtt/bridge/"))
        );
        let said = |event: &Event| matches!(event, Event::RequestMalformed { .. });
        assert!(rig.events.iter().any(said));
    }
}

// conformance: P21
#[test]
fn objects_that_hold_keys_are_out_of_reach_by_path_and_by_name() {
    let mut rig = dev1();
    let asked = rig.devices[0].requests.len();
    let mut requests = Vec::new();
    for path in ["/0", "/0/0", "/0/0/5", "/21/0/0"] {
        let payload = json!({ "path": path, "value": "x", "pmin": 1 }).to_string();
        for operation in [
            "read",
            "discover",
            "observe",
            "cancel-observe",
            "write",
            "write-attributes",
            "execute",
        ] {
            requests.push((format!("lwm2m/{operation}"), payload.clone()));
        }
    }
    requests.push(("get/lwm2m-security-0/secret-key".into(), String::new()));
    requests.push(("set/lwm2m-security-0/secret-key".into(), "x".into()));
    requests.push(("do/lwm2m-security-0/secret-key".into(), String::new()));
    let mixed =
        json!({ "set": { "light-control-0/on-off": true, "lwm2m-security-0/secret-key": "x" } });
    requests.push(("set".into(), mixed.to_string()));
    for (verb, payload) in requests {
        rig.broker.log.clear();
        ask(&mut rig, &format!("lwm2mqtt/d/dev1/{verb}"), &payload, None);
        let error = refusal(&rig);
        let kinds = ["access", "parse", "type"];
        assert!(
            kinds.iter().any(|kind| error["kind"] == *kind),
            "{verb} {payload}: {error}"
        );
    }
    assert_eq!(rig.devices[0].requests.len(), asked);
}

// wish: 25
#[test]
fn a_retained_request_is_not_carried_out_whoever_left_it_there() {
    let mut rig = dev1();
    rig.input(Input::Message(Message {
        topic: "lwm2mqtt/d/dev1/set/light-control-0/on-off".into(),
        payload: b"true".to_vec(),
        retain: true,
        ..Message::default()
    }));
    rig.run(SECOND);
    assert_eq!(refusal(&rig)["kind"], "retained");
    assert!(rig.devices[0].paths(Code::PUT).is_empty());
}
