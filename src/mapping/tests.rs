//! What a compiled plan answers.

use std::fmt::Write as _;
use std::time::Duration;

use super::*;
use crate::lwm2m::path::Path;
use crate::lwm2m::value::Value;

fn registered(objects: &[(Id, &[Id])]) -> Vec<RegisteredObject> {
    objects
        .iter()
        .map(|(id, instances)| RegisteredObject {
            id: *id,
            version: None,
            instances: instances.to_vec(),
        })
        .collect()
}

fn facts(objects: &[RegisteredObject]) -> DeviceFacts<'_> {
    DeviceFacts {
        endpoint: "dev1",
        lwm2m: Version::V1_1,
        objects,
    }
}

fn plan(text: &str) -> Plan {
    let source = Source {
        file: "test.toml".into(),
        text: format!("schema = 1\n{text}"),
    };
    let compiled = Plan::compile(&[source], &Models::builtin(), "lwm2mqtt");
    let problems = compiled
        .diagnostics
        .iter()
        .fold(String::new(), |mut all, d| {
            let _ = writeln!(all, "{}", d.render(false));
            all
        });
    compiled.plan.unwrap_or_else(|| panic!("{problems}"))
}

fn observations(profile: &Profile, facts: &DeviceFacts<'_>) -> Vec<String> {
    profile
        .observations(facts, &Models::builtin())
        .iter()
        .map(|desired| {
            let mut text = desired.path.to_string();
            let attributes = &desired.attributes;
            for (name, value) in [("pmin", attributes.pmin), ("pmax", attributes.pmax)] {
                if let Some(value) = value {
                    let _ = write!(text, " {name}={value}");
                }
            }
            if let Some(st) = attributes.st {
                let _ = write!(text, " st={st}");
            }
            for dropped in &desired.dropped {
                let _ = write!(text, " -{dropped}");
            }
            text
        })
        .collect()
}

fn topic(profile: &Profile, path: &str) -> String {
    let facts = facts(&[]);
    let path = path.parse().unwrap();
    let device = profile.device_name(&facts);
    match profile.signal(&device, &facts, &path, &Models::builtin()) {
        Destination::Signal(signal) => signal.topic.to_string(),
        Destination::Raw(signal) => format!("raw: {}", signal.topic),
        Destination::Count => "count".into(),
        Destination::Drop => "drop".into(),
    }
}

fn path(profile: &Profile, name: &str) -> Option<String> {
    let objects = registered(&[(3303, &[0, 1])]);
    let (instance, name) = name.split_once('/').unwrap();
    profile
        .path_of(&facts(&objects), instance, name, &Models::builtin())
        .map(|path| path.to_string())
}

#[test]
fn without_a_mapping_names_come_from_the_registry() {
    let profile = Plan::unmapped("lwm2mqtt").profile(&facts(&[]));
    for (path, expected) in [
        (
            "/3303/0/5700",
            "lwm2mqtt/d/dev1/v/temperature-0/sensor-value",
        ),
        ("/3/0/9", "lwm2mqtt/d/dev1/v/device-0/battery-level"),
        (
            "/3/0/6/1",
            "lwm2mqtt/d/dev1/v/device-0/available-power-sources-1",
        ),
        ("/33210/0/7", "lwm2mqtt/d/dev1/v/33210-0/7"),
        ("/3303/0", "count"),
    ] {
        assert_eq!(topic(&profile, path), expected);
    }
    for name in [
        "temperature-0/sensor-value",
        "device-0/available-power-sources-1",
        "33210-0/7",
    ] {
        let path = path(&profile, name).unwrap();
        assert_eq!(topic(&profile, &path), format!("lwm2mqtt/d/dev1/v/{name}"));
    }
    assert_eq!(path(&profile, "temperature-0/humidity"), None);
    assert_eq!(profile.id(), None);
}

#[test]
fn without_a_mapping_applications_battery_location_and_firmware_are_observed() {
    let objects = registered(&[
        (0, &[0]),
        (1, &[0]),
        (3, &[0]),
        (4, &[0]),
        (5, &[0]),
        (6, &[0]),
        (21, &[0]),
        (3303, &[0, 3]),
        (3304, &[]),
        (33210, &[0]),
    ]);
    let profile = Plan::unmapped("lwm2mqtt").profile(&facts(&objects));
    assert_eq!(
        observations(&profile, &facts(&objects)),
        [
            "/3/0/9", "/5/0/3", "/6/0", "/3303/0", "/3303/3", "/3304", "/33210/0"
        ]
    );
}

// wish: 14
#[test]
fn a_signal_that_drops_the_rest_is_the_only_observation_of_its_instance() {
    let plan = plan(
        r#"
        [profile]
        id = "t"
        unmapped = "drop"
        [match]
        endpoint = "*"
        [[signal]]
        name = "temperature"
        path = "/3303/*/5700"
        "#,
    );
    let objects = registered(&[(3, &[0]), (3303, &[0, 1]), (3304, &[0])]);
    let profile = plan.profile(&facts(&objects));
    assert_eq!(
        observations(&profile, &facts(&objects)),
        ["/3303/0/5700", "/3303/1/5700"]
    );
    assert_eq!(
        topic(&profile, "/3303/1/5700"),
        "lwm2mqtt/d/dev1/v/temperature-1/temperature"
    );
    assert_eq!(topic(&profile, "/3303/1/5701"), "drop");
    assert_eq!(
        path(&profile, "temperature-1/temperature").unwrap(),
        "/3303/1/5700"
    );
    assert_eq!(path(&profile, "temperature-1/sensor-value"), None);
    assert_eq!(path(&profile, "temperature-1/sensor-units"), None);
}

#[test]
fn an_instance_takes_the_attributes_that_its_signals_agree_on() {
    let plan = plan(
        r#"
        [profile]
        id = "t"
        [match]
        endpoint = "*"
        [defaults]
        observe = { pmin = 10, pmax = 600 }
        [[signal]]
        name = "temperature"
        path = "/3303/*/5700"
        [[signal]]
        name = "battery"
        path = "/3/0/9"
        observe = { pmin = 3600, pmax = 86400, edge = "both", con = true }
        [[signal]]
        name = "humidity"
        path = "/3304/0/5700"
        observe = { st = 2.5 }
        "#,
    );
    let objects = registered(&[(3, &[0]), (3303, &[0]), (3304, &[0, 1])]);
    let profile = plan.profile(&facts(&objects));
    assert_eq!(
        observations(&profile, &facts(&objects)),
        [
            "/3/0/9 pmin=3600 pmax=86400 -con",
            "/3303/0 pmin=10 pmax=600",
            "/3304/0 pmin=10 pmax=600",
            "/3304/0/5700 pmin=10 pmax=600 st=2.5",
            "/3304/1",
        ]
    );
}

#[test]
fn a_signal_of_every_resource_observes_the_instance_with_its_own_attributes() {
    let plan = plan(
        r#"
        [profile]
        id = "t"
        unmapped = "drop"
        [match]
        endpoint = "*"
        [defaults]
        observe = { st = 1, pmax = 900 }
        [[signal]]
        path = "/3303/*/*"
        observe = { pmin = 5 }
        [[signal]]
        name = "closed"
        path = "/3342/0/5500"
        "#,
    );
    let objects = registered(&[(3, &[0]), (3303, &[0]), (3304, &[0]), (3342, &[0])]);
    let profile = plan.profile(&facts(&objects));
    assert_eq!(
        observations(&profile, &facts(&objects)),
        ["/3303/0 pmin=5 pmax=900", "/3342/0/5500 pmax=900"]
    );
    assert_eq!(
        topic(&profile, "/3303/0/5601"),
        "lwm2mqtt/d/dev1/v/temperature-0/min-measured-value"
    );
}

#[test]
fn what_no_signal_names_goes_where_the_profile_says() {
    for (unmapped, expected) in [
        ("default", "lwm2mqtt/d/dev1/v/air/max-measured-value"),
        ("raw", "raw: lwm2mqtt/d/dev1/raw/3303/0/5602"),
        ("count", "count"),
        ("drop", "drop"),
    ] {
        let plan = plan(&format!(
            "[profile]\nid = \"t\"\nunmapped = \"{unmapped}\"\n[match]\nendpoint = \"dev1\"\n\
             [instances]\n\"3303/0\" = \"air\"\n[[signal]]\nname = \"t\"\npath = \"/3303/0/5700\"",
        ));
        let profile = plan.profile(&facts(&[]));
        assert_eq!(topic(&profile, "/3303/0/5602"), expected);
        assert_eq!(topic(&profile, "/3303/0/5700"), "lwm2mqtt/d/dev1/v/air/t");
        assert_eq!(path(&profile, "air/t").unwrap(), "/3303/0/5700");
        assert_eq!(path(&profile, "temperature-0/t"), None);
        assert_eq!(path(&profile, "temperature-1/t"), None);
    }
}

#[test]
fn signals_of_multiple_resources_name_each_instance() {
    let plan = plan(
        r#"
        [profile]
        id = "t"
        [match]
        endpoint = "*"
        [[signal]]
        name = "source"
        path = "/3/0/6"
        [[signal]]
        name = "volts"
        path = "/3/0/7/*"
        topic = "plant/{device}/{inst}/volts/{riid}"
        [[signal]]
        name = "main-current"
        path = "/3/0/8/0"
        "#,
    );
    let profile = plan.profile(&facts(&[]));
    for (at, expected) in [
        ("/3/0/6/1", "lwm2mqtt/d/dev1/v/device-0/source-1"),
        ("/3/0/7/2", "plant/dev1/device-0/volts/2"),
        ("/3/0/8/0", "lwm2mqtt/d/dev1/v/device-0/main-current"),
        (
            "/3/0/8/1",
            "lwm2mqtt/d/dev1/v/device-0/power-source-current-1",
        ),
    ] {
        assert_eq!(topic(&profile, at), expected);
    }
    for (name, at) in [
        ("source-1", "/3/0/6/1"),
        ("volts-2", "/3/0/7/2"),
        ("main-current", "/3/0/8/0"),
    ] {
        assert_eq!(path(&profile, &format!("device-0/{name}")).unwrap(), at);
    }
}

#[test]
fn the_shipped_raw_paths_give_topics_of_numbers() {
    let text = include_str!("../../mappings/raw-paths.toml");
    let shipped = Source {
        file: "raw-paths.toml".into(),
        text: text.replace("# endpoint = \"*\"", "endpoint = \"*\""),
    };
    let plan = Plan::compile(&[shipped], &Models::builtin(), "lwm2mqtt")
        .plan
        .unwrap();
    let objects = registered(&[(3, &[0]), (3303, &[0])]);
    let profile = plan.profile(&facts(&objects));
    assert_eq!(
        topic(&profile, "/3303/0/5700"),
        "lwm2mqtt/p/dev1/3303/0/5700"
    );
    assert_eq!(topic(&profile, "/3/0/6/1"), "lwm2mqtt/p/dev1/3/0/6/1");
    assert_eq!(
        path(&profile, "temperature-0/sensor-value").unwrap(),
        "/3303/0/5700"
    );
    assert_eq!(
        observations(&profile, &facts(&objects)),
        ["/3/0/9", "/3303/0"]
    );
}

#[test]
fn the_highest_priority_wins_then_the_most_specific() {
    let profile = |id: &str, priority: i64, matching: &str| Source {
        file: format!("{id}.toml"),
        text: format!(
            "schema = 1\n[profile]\nid = \"{id}\"\npriority = {priority}\n[match]\n{matching}\n"
        ),
    };
    let sources = [
        profile("any", 0, "endpoint = \"*\""),
        profile("glob", 0, "endpoint = \"dev*\""),
        profile("exact", 0, "endpoint = \"dev2\""),
        profile(
            "objects",
            0,
            "endpoint = \"dev*\"\nobjects = [\"3303 >=1.0\"]",
        ),
        profile("urgent", 5, "endpoint = \"re:x.*\""),
        profile("nobody", 9, ""),
    ];
    let compiled = Plan::compile(&sources, &Models::builtin(), "lwm2mqtt");
    let plan = compiled.plan.unwrap();
    let with = registered(&[(3303, &[0])]);
    let chosen = |endpoint: &str, objects: &[RegisteredObject]| {
        let facts = DeviceFacts {
            endpoint,
            lwm2m: Version::V1_0,
            objects,
        };
        plan.profile(&facts).id().map(str::to_owned)
    };
    assert_eq!(chosen("y", &[]).as_deref(), Some("any"));
    assert_eq!(chosen("dev1", &[]).as_deref(), Some("glob"));
    assert_eq!(chosen("dev1", &with).as_deref(), Some("objects"));
    assert_eq!(chosen("dev2", &with).as_deref(), Some("exact"));
    assert_eq!(chosen("x1", &[]).as_deref(), Some("urgent"));
}

#[test]
fn a_file_of_an_earlier_folder_replaces_one_with_the_same_id() {
    let source = |file: &str, device: &str| Source {
        file: file.into(),
        text: format!(
            "schema = 1\n[profile]\nid = \"a\"\n[match]\nendpoint = \"*\"\n\
             [device]\nname = \"{device}-{{endpoint}}\"\n"
        ),
    };
    let compile = |second: &str| {
        let sources = [source("etc/a.toml", "mine"), source(second, "theirs")];
        Plan::compile(&sources, &Models::builtin(), "lwm2mqtt")
    };
    let plan = compile("usr/b.toml").plan.unwrap();
    assert_eq!(
        plan.profile(&facts(&[])).device_name(&facts(&[])),
        "mine-dev1"
    );
    let refused = compile("etc/b.toml");
    assert!(refused.plan.is_none());
    assert_eq!(refused.diagnostics[0].code, "duplicate-profile");
}

fn compiled(files: &[&str]) -> Compiled {
    let sources: Vec<_> = files
        .iter()
        .enumerate()
        .map(|(number, text)| Source {
            file: format!("{number}.toml"),
            text: format!("schema = 1\n{text}"),
        })
        .collect();
    Plan::compile(&sources, &Models::builtin(), "lwm2mqtt")
}

/// The profile `mine` of several files.
fn mine(files: &[&str]) -> Profile {
    let compiled = compiled(files);
    let plan = compiled
        .plan
        .unwrap_or_else(|| panic!("{:?}", compiled.diagnostics));
    let mut profiles = plan.profiles();
    profiles
        .find(|profile| profile.id() == Some("mine"))
        .unwrap()
        .clone()
}

const BASE: &str = r#"
    [profile]
    id = "base"
    [defaults]
    qos = 0
    observe = { pmin = 7, pmax = 70 }
    [instances]
    "3303/0" = "one"
    "3303/1" = "two"
    "3304/*" = "wet-{iid}"
    [[signal]]
    name = "temperature"
    path = "/3303/*/5700"
    observe = { pmin = 5 }
    format = "value"
    [[signal]]
    name = "hottest"
    path = "/3303/*/5602"
    [[command]]
    name = "reset"
    execute = "/3303/0/5605"
    ttl = "1h"
"#;

fn signal(profile: &Profile, path: &str) -> Signal {
    let path = path.parse().unwrap();
    match profile.signal("dev1", &facts(&[]), &path, &Models::builtin()) {
        Destination::Signal(signal) => signal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_extending_file_replaces_key_by_key() {
    let profile = mine(&[
        BASE,
        r#"
        [profile]
        id = "mine"
        extends = ["base"]
        [match]
        endpoint = "*"
        [defaults]
        qos = 1
        history = true
        observe = { pmax = 90 }
        [instances]
        "3303/1" = "probe"
        [[signal]]
        name = "warmth"
        path = "/3303/*/5700"
        observe = { pmax = 80 }
        [[command]]
        name = "reset"
        steps = [{ write = "/3308/0/5900", value = 1.0 }, { execute = "/3303/0/5605" }]
        "#,
    ]);
    let warmth = signal(&profile, "/3303/1/5700");
    assert_eq!(&*warmth.topic, "lwm2mqtt/d/dev1/v/probe/warmth");
    // Of the base what the file does not say; its defaults over those of the base.
    assert_eq!(
        (warmth.format, warmth.qos, warmth.history.is_some()),
        (Format::Value, 1, true)
    );
    // What the file does not name is the base's, with the base's defaults alone.
    let hottest = signal(&profile, "/3303/0/5602");
    assert_eq!(&*hottest.topic, "lwm2mqtt/d/dev1/v/one/hottest");
    assert_eq!(
        (hottest.format, hottest.qos, hottest.history),
        (Format::Json, 0, None)
    );
    assert_eq!(
        topic(&profile, "/3304/2/5700"),
        "lwm2mqtt/d/dev1/v/wet-2/sensor-value"
    );
    let objects = registered(&[(3303, &[0])]);
    assert_eq!(
        observations(&profile, &facts(&objects)),
        [
            "/3303/0 pmin=7 pmax=80",
            "/3303/0/5602 pmin=7 pmax=70",
            "/3303/0/5700 pmin=5 pmax=80"
        ]
    );
    let reset = profile.command("reset").unwrap();
    assert_eq!(reset.steps.len(), 2);
    assert_eq!(reset.waits.ttl, Some(Duration::from_secs(3600)));
    assert_eq!(profile.commands().count(), 1);
}

#[test]
fn the_later_base_counts_and_one_behind_all_that_extend_it() {
    let named = |id: &str, extends: &str, name: &str| {
        format!(
            "[profile]\nid = \"{id}\"\nextends = [{extends}]\n[instances]\n\"3303/0\" = \"{name}\"\n\
             [match]\n[[signal]]\npath = \"/3303/*/5700\"\nname = \"by-{id}\"\n"
        )
    };
    let root = named("root", "", "root");
    let a = named("a", "\"root\"", "a");
    let b = named("b", "\"root\"", "b");
    let plain = "[profile]\nid = \"b\"\nextends = [\"root\"]\n[match]\n";
    let extending = |bases: &str| {
        format!("[profile]\nid = \"mine\"\nextends = [{bases}]\n[match]\nendpoint = \"*\"\n")
    };
    let of = |b: &str, bases: &str| {
        let profile = mine(&[&root, &a, b, &extending(bases)]);
        topic(&profile, "/3303/0/5700")
    };
    assert_eq!(of(&b, r#""a", "b""#), "lwm2mqtt/d/dev1/v/b/by-b");
    assert_eq!(of(&b, r#""b", "a""#), "lwm2mqtt/d/dev1/v/a/by-a");
    // What both extend does not undo what one of them says.
    assert_eq!(of(plain, r#""a", "b""#), "lwm2mqtt/d/dev1/v/a/by-a");
}

#[test]
fn what_a_file_says_of_many_counts_before_what_its_base_says_of_one() {
    let profile = mine(&[
        r#"
        [profile]
        id = "base"
        [instances]
        "3303/0" = "air"
        [[signal]]
        path = "/3303/0/5700"
        name = "temperature"
        observe = { st = 1 }
        "#,
        r#"
        [profile]
        id = "mine"
        extends = ["base"]
        unmapped = "drop"
        [match]
        endpoint = "*"
        [instances]
        "3303/*" = "t-{iid}"
        [[signal]]
        path = "/3303/*/5700"
        source = "send"
        "#,
    ]);
    assert_eq!(
        topic(&profile, "/3303/0/5700"),
        "lwm2mqtt/d/dev1/v/t-0/sensor-value"
    );
    let objects = registered(&[(3303, &[0])]);
    assert!(observations(&profile, &facts(&objects)).is_empty());
}

#[test]
fn the_hash_of_a_profile_changes_with_what_it_extends() {
    let extending = "[profile]\nid = \"mine\"\nextends = [\"base\"]\n[match]\nendpoint = \"*\"\n";
    let hash = |base: &str| mine(&[base, extending]).hash().to_owned();
    assert_eq!(hash(BASE), hash(BASE));
    assert_ne!(hash(BASE), hash(&BASE.replace("hottest", "warmest")));
}

#[test]
fn circles_are_said_in_every_file_of_them() {
    let file = |id: &str, base: &str| {
        format!("[profile]\nid = \"{id}\"\nextends = [\"{base}\"]\n[match]\nendpoint = \"*\"\n")
    };
    let found = compiled(&[
        &file("a", "b"),
        &file("b", "c"),
        &file("c", "a"),
        &file("d", "d"),
        &file("e", "a"),
    ]);
    let said: Vec<_> = found.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "0.toml:4:1: error[circular-extends]: this extends itself: `b`, which extends `c`, which extends `a`",
            "1.toml:4:1: error[circular-extends]: this extends itself: `c`, which extends `a`, which extends `b`",
            "2.toml:4:1: error[circular-extends]: this extends itself: `a`, which extends `b`, which extends `c`",
            "3.toml:4:1: error[circular-extends]: `d` extends itself",
        ]
    );
}

#[test]
fn a_mistake_of_a_base_is_said_once_and_one_of_the_whole_where_it_is_put_together() {
    let base = r#"
        [profile]
        id = "base"
        [[signal]]
        path = "/3303/*/5700"
        topic = "{device.area}/{device}/{inst}/{name}"
        pmin = 3
    "#;
    let extending = |id: &str| {
        format!("[profile]\nid = \"{id}\"\nextends = [\"base\"]\n[match]\nendpoint = \"*\"\n")
    };
    let found = compiled(&[base, &extending("a"), &extending("b")]);
    let said: Vec<_> = found.diagnostics.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "0.toml:8:9: error[unknown-key]: unknown key `pmin` in [signal]",
            "1.toml:4:1: error[missing-key]: a topic of what is extended has `{device.area}` in it, but [device] has no `area`",
            "2.toml:4:1: error[missing-key]: a topic of what is extended has `{device.area}` in it, but [device] has no `area`",
        ]
    );
}

#[test]
fn raw_paths_are_had_by_extending_them() {
    let profile = mine(&[r#"
        [profile]
        id = "mine"
        extends = ["raw-paths"]
        [match]
        endpoint = "*"
        [[signal]]
        path = "/3303/0/5700"
        name = "warmth"
        "#]);
    assert_eq!(
        topic(&profile, "/3303/1/5700"),
        "lwm2mqtt/p/dev1/3303/1/5700"
    );
    assert_eq!(
        topic(&profile, "/3303/0/5700"),
        "lwm2mqtt/d/dev1/v/temperature-0/warmth"
    );
}

#[test]
fn values_kinds_and_units_are_those_of_the_signal() {
    let plan = plan(
        r#"
        [profile]
        id = "t"
        [match]
        endpoint = "*"
        [defaults]
        qos = 0
        format = "value"
        [[signal]]
        name = "flow"
        path = "/3303/0/5700"
        value = { scale = 0.001, round = 1 }
        [[signal]]
        name = "on"
        path = "/3311/0/5850"
        value = { enum = { false = "off", true = "on" } }
        [[signal]]
        name = "alarm"
        path = "/3342/0/5500"
        kind = "event"
        [[command]]
        name = "reboot"
        execute = "/3/0/4"
        "#,
    );
    let facts = facts(&[]);
    let profile = plan.profile(&facts);
    let signal = |path: &str| {
        let path: Path = path.parse().unwrap();
        match profile.signal("dev1", &facts, &path, &Models::builtin()) {
            Destination::Signal(signal) => signal,
            other => panic!("{other:?}"),
        }
    };
    let flow = signal("/3303/0/5700");
    assert_eq!(flow.unit, None);
    assert_eq!(
        (flow.qos, flow.retain, flow.format),
        (0, true, Format::Value)
    );
    assert_eq!(
        flow.transform.unwrap().apply(Value::Float(4217.0)),
        Applied::good(Value::Float(4.2))
    );
    let on = signal("/3311/0/5850");
    assert_eq!(on.kind, Kind::Setting);
    assert!(on.access.write);
    let wanted = on.transform.unwrap().invert(Value::String("off".into()));
    assert_eq!(wanted, Ok(Value::Boolean(false)));
    let alarm = signal("/3342/0/5500");
    assert_eq!(&*alarm.topic, "lwm2mqtt/d/dev1/e/on-off-switch-0/alarm");
    assert!(!alarm.retain);
    let unnamed = signal("/3303/0/5601");
    assert_eq!((unnamed.qos, unnamed.format), (1, Format::Json));
    let reboot = profile.command("reboot").unwrap();
    assert_eq!(reboot.steps[0].path(), Path::resource(3, 0, 4));
    assert_eq!(profile.command("factory-reset"), None);
}

#[test]
fn every_resource_of_the_registry_is_found_again_by_its_topic() {
    let models = Models::builtin();
    let profile = Plan::unmapped("base").profile(&facts(&[]));
    let facts = facts(&[]);
    let mut topics = std::collections::BTreeSet::new();
    for object in models.objects() {
        for resource in object.resources() {
            let single = Path::resource(object.id, 7, resource.id);
            let index = resource.multiple.then(|| single.child(3).unwrap());
            for path in std::iter::once(single).chain(index) {
                let Destination::Signal(signal) = profile.signal("d", &facts, &path, &models)
                else {
                    panic!("{path} has no signal");
                };
                let back = profile.path_of(&facts, &signal.instance, &signal.name, &models);
                assert_eq!(back, Some(path), "{}", signal.topic);
                assert!(topics.insert(signal.topic.to_string()), "{}", signal.topic);
            }
        }
    }
    assert!(topics.len() > 3_000);
}

#[test]
fn no_endpoint_breaks_out_of_its_topic_level() {
    let plan = plan(
        "[profile]\nid = \"t\"\n[match]\nendpoint = \"*\"\n[device]\nname = \"n-{endpoint:tail}\"\n\
         [[signal]]\npath = \"/3/0/9\"\ntopic = \"p/{endpoint}/{device}\"\n",
    );
    for endpoint in [
        "a/b",
        "+",
        "#",
        "",
        "x-",
        "\u{0}",
        "a b",
        &"/".repeat(5_000),
    ] {
        let facts = DeviceFacts {
            endpoint,
            lwm2m: Version::V1_1,
            objects: &[],
        };
        let profile = plan.profile(&facts);
        let name = profile.device_name(&facts);
        assert!(name.len() <= MAX_NAME && !name.is_empty());
        let path = Path::resource(3, 0, 9);
        let Destination::Signal(signal) = profile.signal(&name, &facts, &path, &Models::builtin())
        else {
            panic!("no signal");
        };
        assert_eq!(signal.topic.matches('/').count(), 2, "{}", signal.topic);
        assert!(
            !signal.topic.contains(['+', '#', '\u{0}', ' ']),
            "{}",
            signal.topic
        );
    }
}

#[test]
fn the_hash_of_a_plan_changes_with_any_file() {
    let of = |title: &str| {
        plan(&format!(
            "[profile]\nid = \"t\"\ntitle = \"{title}\"\n[match]\nendpoint = \"*\"\n"
        ))
        .hash()
    };
    assert_eq!(of("a"), of("a"));
    assert_ne!(of("a"), of("b"));
    assert_ne!(of("a"), Plan::unmapped("lwm2mqtt").hash());
}
