//! Whatever a device or an MQTT user chooses cannot make the gateway publish or write where they may
//! not (MQTT contract §0 and §5): a test for each way by which a string of theirs gets in.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use lwm2mqtt::gateway::{Event, Input, Message, Replies};
use lwm2mqtt::lwm2m::model::Models;
use lwm2mqtt::mapping::{Plan, Source};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, content};

const SECOND: Duration = Duration::from_secs(1);
const REPLY: &str = "lwm2mqtt/d/dev1/reply";

/// What nobody may get into a topic by his own choice.
const HOSTILE: [&str; 18] = [
    "+",
    "#",
    "$SYS",
    "../..",
    "a/b",
    "/",
    "dev1/set/light-control-0/on-off",
    "bridge",
    "bridge/state",
    "d",
    "lwm2mqtt",
    "homeassistant",
    "dev1",
    "a\u{1}b",
    "a\u{7f}b",
    "a\u{85}b",
    "a\u{FFFE}b\u{FDD0}",
    "{base}{device}",
];

/// A gateway with one mapping file.
fn mapped(text: &str) -> Rig {
    let source = Source {
        file: "mapping.toml".into(),
        text: text.into(),
    };
    let compiled = Plan::compile(&[source], &Models::builtin(), "lwm2mqtt");
    Rig::with_plan(
        compiled
            .plan
            .unwrap_or_else(|| panic!("{:?}", compiled.diagnostics)),
    )
}

/// Adds a device called `endpoint` with a temperature sensor.
fn add_sensor(rig: &mut Rig, endpoint: &str, value: f64) -> usize {
    let device = rig.add_device();
    let payload = json!([{ "bn": "/3303/0/", "n": "5700", "v": value }]).to_string();
    rig.devices[device].answer(Code::GET, "/3303/0", content(110, &payload));
    rig.register(device, endpoint, "lt=300", "</>;ct=110,</3303/0>");
    rig.run(SECOND * 3);
    device
}

/// Every topic published on so far.
fn topics(rig: &Rig) -> Vec<&str> {
    rig.broker
        .log
        .iter()
        .map(|(topic, _)| topic.as_str())
        .collect()
}

/// Whether a topic is one of those that the gateway has for a device without a mapping, and which.
fn device_of(topic: &str) -> Option<&str> {
    let levels: Vec<&str> = topic.split('/').collect();
    match levels[..] {
        ["lwm2mqtt", "d", device] => Some(device),
        ["lwm2mqtt", "d", device, "availability" | "reply"] => Some(device),
        ["lwm2mqtt", "d", device, "v", _, _] => Some(device),
        _ => None,
    }
}

/// Publishes a request of MQTT 5.
fn ask(rig: &mut Rig, topic: &str, payload: &str, response_topic: Option<&str>) {
    rig.input(Input::Message(Message {
        topic: topic.into(),
        payload: payload.into(),
        response_topic: response_topic.map(str::to_owned),
        ..Message::default()
    }));
    rig.run(SECOND);
}

/// A registered `dev1`, and what was published so far forgotten.
fn dev1() -> Rig {
    let mut rig = Rig::new();
    rig.add_registered();
    rig.broker.log.clear();
    rig
}

/// The last reply on the default topic, after a check that nothing was published elsewhere.
fn refusal(rig: &Rig) -> Json {
    assert!(
        topics(rig).iter().all(|topic| *topic == REPLY),
        "{:?}",
        topics(rig)
    );
    let reply = rig.broker.messages(REPLY).pop().unwrap();
    assert_eq!(reply["status"], "failed");
    reply["error"].clone()
}

// What a device chooses.

#[test]
fn an_endpoint_name_becomes_one_level_of_its_own() {
    let mut rig = Rig::new();
    let mut names = Vec::new();
    for endpoint in HOSTILE {
        let state = rig.broker.json("lwm2mqtt/bridge/state");
        rig.broker.log.clear();
        add_sensor(&mut rig, endpoint, 1.0);
        let published = topics(&rig);
        let mine: Vec<&str> = published
            .iter()
            .filter(|topic| !topic.starts_with("lwm2mqtt/bridge/"))
            .map(|topic| device_of(topic).unwrap_or_else(|| panic!("{endpoint:?}: {topic}")))
            .collect();
        assert!(mine.len() >= 3, "{endpoint:?}: {published:?}");
        assert!(mine.iter().all(|device| *device == mine[0]));
        names.push(mine[0].to_owned());
        let of_the_bridge = [
            "lwm2mqtt/bridge/event",
            "lwm2mqtt/bridge/health",
            "lwm2mqtt/bridge/sentinel",
        ];
        for topic in published
            .iter()
            .filter(|topic| topic.starts_with("lwm2mqtt/bridge/"))
        {
            assert!(of_the_bridge.contains(topic), "{endpoint:?}: {topic}");
        }
        assert_eq!(rig.broker.json("lwm2mqtt/bridge/state"), state);
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), HOSTILE.len(), "two devices share a name");
}

#[test]
fn an_endpoint_name_that_looks_like_anothers_does_not_get_its_topics() {
    let mut rig = Rig::new();
    add_sensor(&mut rig, "a/b", 1.0);
    // What `a/b` is called, and what a second one of that name would be called.
    for endpoint in ["a_b-c14cdd", "a_b-c14cdd-2bb1c5"] {
        add_sensor(&mut rig, endpoint, 2.0);
    }
    let value = rig
        .broker
        .json("lwm2mqtt/d/a_b-c14cdd/v/temperature-0/sensor-value");
    assert_eq!(value["value"], 1.0);
}

#[test]
fn an_endpoint_name_in_a_topic_of_the_mapping_does_not_take_over_another_devices() {
    for topic in [
        "plant/{endpoint:tail}/{inst}/{name}",
        "lwm2mqtt/p/{endpoint:tail}/{name}",
    ] {
        let mut rig = mapped(&format!(
            "schema = 1\n[profile]\nid = \"p\"\n[match]\nendpoint = \"*\"\n\
             [[signal]]\npath = \"/3303/0/5700\"\ntopic = \"{topic}\"\n"
        ));
        add_sensor(&mut rig, "good-00A7", 21.0);
        let held: Vec<String> = topics(&rig)
            .into_iter()
            .filter(|topic| topic.contains("/00A7/"))
            .map(str::to_owned)
            .collect();
        assert_eq!(held.len(), 1, "{held:?}");
        rig.broker.log.clear();

        let evil = add_sensor(&mut rig, "evil-00A7", 99.0);
        assert!(!topics(&rig).contains(&held[0].as_str()));
        assert_eq!(rig.broker.json(&held[0])["value"], 21.0);
        // It is said, and stays said when the device registers again.
        rig.register(evil, "evil-00A7", "lt=300", "</>;ct=110,</3303/0>");
        rig.run(SECOND * 3);
        let birth = rig.broker.json("lwm2mqtt/d/evil-00A7");
        assert_eq!(birth["problems"][0]["kind"], "topic", "{birth}");
        let detail = birth["problems"][0]["detail"].as_str().unwrap();
        assert!(
            detail.contains("holds /3303/0/5700 of good-00A7"),
            "{detail}"
        );
        assert_eq!(rig.gateway.counters().topics_refused, 1);
        assert_eq!(rig.broker.json(&held[0])["value"], 21.0);
    }
}

#[test]
fn an_endpoint_name_in_a_topic_of_the_mapping_does_not_reach_the_gateways_own() {
    for (topic, endpoint) in [
        ("{base}/{endpoint}/state", "bridge"),
        ("{base}/{endpoint}/dev1", "d"),
        (
            "{base}/d/{endpoint:tail}/v/temperature-0/sensor-value",
            "evil-dev1",
        ),
        (
            "{base}/d/{device}/{endpoint:tail}/light-control-0/on-off",
            "evil-set",
        ),
        ("{endpoint}/bridge/state", "lwm2mqtt"),
    ] {
        let mut rig = mapped(&format!(
            "schema = 1\n[profile]\nid = \"p\"\n[match]\nendpoint = \"*\"\n\
             [[signal]]\npath = \"/3303/0/5700\"\ntopic = \"{topic}\"\n"
        ));
        let state = rig.broker.json("lwm2mqtt/bridge/state");
        add_sensor(&mut rig, endpoint, 99.0);
        let of_the_device = format!("lwm2mqtt/d/{endpoint}");
        for topic in topics(&rig) {
            let own = topic == of_the_device || topic == format!("{of_the_device}/availability");
            assert!(
                own || topic.starts_with("lwm2mqtt/bridge/"),
                "{endpoint}: {topic}"
            );
        }
        assert_eq!(rig.broker.json("lwm2mqtt/bridge/state"), state);
        let birth = rig.broker.json(&of_the_device);
        assert_eq!(birth["problems"][0]["kind"], "topic", "{birth}");
    }
}

#[test]
fn an_endpoint_name_in_a_name_of_the_mapping_gives_no_two_devices_one_name() {
    let mut rig = mapped(
        "schema = 1\n[profile]\nid = \"p\"\n[match]\nendpoint = \"*\"\n\
         [device]\nname = \"cr-{endpoint:tail}\"\n",
    );
    add_sensor(&mut rig, "good-1", 21.0);
    add_sensor(&mut rig, "evil-1", 99.0);
    add_sensor(&mut rig, "evil:+/#", 99.0);
    let value = rig
        .broker
        .json("lwm2mqtt/d/cr-1/v/temperature-0/sensor-value");
    assert_eq!(value["value"], 21.0);
    let births = rig
        .broker
        .retained
        .keys()
        .filter(|topic| topic.split('/').count() == 3);
    assert_eq!(
        births
            .filter(|topic| topic.starts_with("lwm2mqtt/d/"))
            .count(),
        3
    );
}

#[test]
fn an_endpoint_name_in_a_property_is_text_that_a_broker_takes() {
    // The rig checks the properties of whatever is published.
    let mut rig = Rig::new();
    add_sensor(&mut rig, "x\u{1}\u{FFFF}", 4.0);
    let topic = topics(&rig)
        .into_iter()
        .find(|topic| topic.ends_with("/sensor-value"));
    assert!(topic.is_some(), "its values are published all the same");
}

#[test]
fn values_of_a_device_stay_in_payloads() {
    for hostile in HOSTILE {
        let mut rig = Rig::new();
        let device = rig.add_device();
        // Manufacturer, model, serial number, firmware; a unit of the sensor's own; an opaque text.
        let about = json!([
            { "bn": "/3/0/", "n": "0", "vs": hostile }, { "n": "1", "vs": hostile },
            { "n": "2", "vs": hostile }, { "n": "3", "vs": hostile },
        ]);
        let sensor = json!([
            { "bn": "/3303/0/", "n": "5700", "v": 1 }, { "n": "5701", "vs": hostile },
            { "n": "5750", "vs": hostile },
        ]);
        rig.devices[device].answer(Code::GET, "/3/0", content(110, &about.to_string()));
        rig.devices[device].answer(Code::GET, "/3303/0", content(110, &sensor.to_string()));
        rig.register(device, "dev1", "lt=300", "</>;ct=110,</3/0>,</3303/0>");
        rig.run(SECOND * 3);
        for topic in topics(&rig) {
            let own = device_of(topic).is_some_and(|device| device == "dev1");
            assert!(
                own || topic.starts_with("lwm2mqtt/bridge/"),
                "{hostile:?}: {topic}"
            );
        }
        let value = rig
            .broker
            .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value");
        assert_eq!(value["unit"], hostile);
        assert_eq!(
            rig.broker.json("lwm2mqtt/d/dev1")["info"]["serial"],
            hostile
        );
    }
}

#[test]
fn a_value_of_a_device_in_a_template_is_refused_until_it_is_built() {
    // `{/3/0/2}` is the serial number, which a device chooses.
    for (section, key) in [
        ("[device]\n", "name"),
        ("[[signal]]\npath = \"/3303/0/5700\"\n", "topic"),
    ] {
        let text = format!(
            "schema = 1\n[profile]\nid = \"p\"\n[match]\nendpoint = \"*\"\n{section}{key} = \"x-{{/3/0/2}}\"\n"
        );
        let source = Source {
            file: "mapping.toml".into(),
            text: text.clone(),
        };
        let compiled = Plan::compile(&[source], &Models::builtin(), "lwm2mqtt");
        assert!(
            compiled
                .diagnostics
                .iter()
                .any(|found| found.code == "not-built")
        );
        let mut rig = Rig::with_plan(compiled.plan.unwrap());
        rig.add_registered();
        assert!(topics(&rig).iter().all(|topic| !topic.contains("x-")));
    }
}

#[test]
fn names_of_objects_and_instances_come_from_their_numbers() {
    let mut rig = Rig::new();
    let device = rig.add_device();
    let payload = json!([{ "bn": "/33333/65534/", "n": "7", "v": 1 }]).to_string();
    rig.devices[device].answer(Code::GET, "/33333/65534", content(110, &payload));
    // Links with paths, versions and attributes that are none.
    let links = "</33333/65534>;ver=\"1.0/#\",</../bridge/state>,</3303/+>,</3303/0>;ver=\"+/#\",\
                 </99999/0>;x=\"$SYS\",</>;rt=\"oma.lwm2m\";ct=110";
    rig.register(device, "dev1", "lt=300", links);
    rig.run(SECOND * 3);
    for topic in topics(&rig) {
        let own = device_of(topic).is_some_and(|device| device == "dev1");
        assert!(own || topic.starts_with("lwm2mqtt/bridge/"), "{topic}");
    }
}

#[test]
fn records_of_a_payload_go_by_their_numbers_and_never_out_of_the_device() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    add_sensor(&mut rig, "dev2", 5.0);
    rig.broker.log.clear();
    let names = [
        "5700/../../x",
        "../dev2/v/temperature-0/sensor-value",
        "+",
        "#",
        "5518/#",
        "65535",
        "7/65534",
    ];
    let mut records: Vec<Json> = names
        .iter()
        .map(|name| json!({ "n": name, "v": 9 }))
        .collect();
    records[0]["bn"] = "/3303/0/".into();
    for payload in [json!(records).to_string()]
        .into_iter()
        .chain(names.map(|name| json!([{ "n": format!("/3303/0/{name}"), "v": 9 }]).to_string()))
    {
        rig.notify(device, "/3303/0", content(110, &payload), true);
        rig.run(SECOND);
    }
    for topic in topics(&rig) {
        let own = device_of(topic).is_some_and(|device| device == "dev1");
        assert!(own || topic.starts_with("lwm2mqtt/bridge/"), "{topic}");
    }
    let untouched = rig
        .broker
        .json("lwm2mqtt/d/dev2/v/temperature-0/sensor-value");
    assert_eq!(untouched["value"], 5.0);
}

#[test]
fn keys_that_a_device_sends_are_not_published() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.broker.log.clear();
    // The key of a server account and an OSCORE master secret, beside what was asked for.
    let payload = json!([
        { "bn": "/", "n": "3303/0/5700", "v": 3 },
        { "n": "0/0/5", "vd": "aHVudGVyMmh1bnRlcjI" },
        { "n": "21/0/0", "vs": "hunter2hunter2" },
    ])
    .to_string();
    rig.notify(device, "/3303/0", content(110, &payload), true);
    rig.devices[device].answer(Code::GET, "/3303/0/5700", content(110, &payload));
    rig.run(SECOND);
    ask(
        &mut rig,
        "lwm2mqtt/d/dev1/lwm2m/read",
        r#"{"path":"/3303/0/5700"}"#,
        None,
    );
    for (topic, payload) in &rig.broker.log {
        let text = String::from_utf8_lossy(payload);
        assert!(
            !text.contains("aHVudGVyMmh1bnRlcjI") && !text.contains("hunter2"),
            "{topic}: {text}"
        );
        assert!(
            !topic.contains("security") && !topic.contains("oscore"),
            "{topic}"
        );
    }
}

// What an MQTT user chooses.

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
