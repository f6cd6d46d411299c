//! What a device chooses: its name, its objects, its values.

use super::*;

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

// conformance: P21
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
