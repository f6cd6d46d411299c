//! Devices that are called something else.

use std::time::Duration;

use lwm2mqtt::coap::Code;
use lwm2mqtt::gateway::{Event, MappingCause};
use serde_json::{Value as Json, json};

use crate::queue::{SECOND, sleepy, update};
use crate::rig::Rig;

/// The retained topics of devices, below `lwm2mqtt/d/`.
fn standing(rig: &Rig) -> Vec<&str> {
    let topics = rig.broker.retained.keys();
    topics
        .filter_map(|topic| topic.strip_prefix("lwm2mqtt/d/"))
        .collect()
}

fn rename(rig: &mut Rig, name: &str, to: &str) -> Json {
    rig.administer(&json!({ "verb": "device/rename", "name": name, "to": to }))
}

// wish: 21
#[test]
fn everything_of_a_renamed_device_moves_and_nothing_stays_behind() {
    let (mut rig, device) = sleepy();
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1" }));
    rig.run(100 * SECOND);
    rig.ask(
        "lwm2mqtt/d/dev1/set/light-control-0/dimmer",
        r#"{"value":7,"id":"c"}"#,
    );
    let before = rig
        .broker
        .json("lwm2mqtt/d/dev1/v/temperature-0/sensor-value");
    let stood: Vec<_> = standing(&rig)
        .iter()
        .map(|topic| topic.replacen("dev1", "cellar", 1))
        .collect();
    for part in ["availability", "queue", "target/light-control-0/dimmer"] {
        assert!(stood.contains(&format!("cellar/{part}")), "{stood:?}");
    }
    let asked = rig.devices[device].requests.len();

    let renamed = rename(&mut rig, "dev1", "cellar");
    assert_eq!(renamed["result"]["topic_name"], "cellar", "{renamed}");
    rig.run(SECOND);
    assert_eq!(standing(&rig), stood);
    let after = rig
        .broker
        .json("lwm2mqtt/d/cellar/v/temperature-0/sensor-value");
    assert_eq!(
        (&after["value"], &after["time"], &after["quality"]),
        (&before["value"], &before["time"], &"cached".into())
    );
    assert_eq!(rig.broker.json("lwm2mqtt/d/cellar")["name"], "cellar");
    let event = Event::DeviceRenamed {
        device: "cellar".into(),
        was: "dev1".into(),
    };
    assert!(rig.events.contains(&event));
    assert_eq!(
        rig.devices[device].requests.len(),
        asked,
        "nothing is asked of the device"
    );

    // Its command goes on, and it is asked under the new name alone.
    update(&mut rig, device, &[]);
    rig.run(SECOND);
    assert_eq!(rig.devices[device].paths(Code::PUT), ["/3311/0/5851"]);
    assert!(!standing(&rig).contains(&"cellar/queue"));
    rig.ask("lwm2mqtt/d/dev1/get/temperature-0/sensor-value", "");
    let refused = rig.broker.messages("lwm2mqtt/d/dev1/reply");
    assert_eq!(
        refused.last().unwrap()["error"]["kind"],
        "unknown_device",
        "{refused:?}"
    );
}

#[test]
fn a_new_name_holds_over_a_restart_and_when_the_device_comes_back() {
    let mut rig = Rig::new();
    let device = rig.add_registered();
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1", "name": "cellar" }));
    rig.run(SECOND);
    let stood: Vec<String> = standing(&rig).iter().map(ToString::to_string).collect();
    assert!(
        stood.iter().all(|topic| topic.starts_with("cellar")),
        "{stood:?}"
    );
    rig.crash();
    rig.start(Rig::setup(Rig::plan("")));
    rig.run(20 * SECOND);
    rig.register(device, "dev1", "lt=300", crate::rig::SENSOR);
    rig.run(20 * SECOND);
    assert_eq!(standing(&rig), stood);
}

#[test]
fn a_name_that_another_device_has_gets_a_suffix_and_a_taken_one_is_refused() {
    let mut rig = Rig::new();
    rig.add_registered();
    let second = rig.add_sensor();
    rig.register(second, "dev2", "lt=300", crate::rig::SENSOR);
    rig.run(Duration::from_secs(3));
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev2" }));
    let unlisted = rename(&mut rig, "dev1", "cellar");
    assert_eq!(unlisted["error"]["kind"], "conflict", "{unlisted}");
    let nobody = rename(&mut rig, "dev9", "cellar");
    assert_eq!(nobody["error"]["kind"], "unknown_device");
    // dev1 has no record, but its topics stand under its name.
    let renamed = rename(&mut rig, "dev2", "dev1");
    let name = renamed["result"]["topic_name"].as_str().unwrap();
    assert!(name.starts_with("dev1-"), "{renamed}");
    rig.administer(&json!({ "verb": "device/approve", "endpoint": "dev1", "name": "attic" }));
    let taken = rename(&mut rig, "attic", "dev1");
    assert_eq!(taken["error"]["kind"], "conflict");
    rig.run(SECOND);
    let names = standing(&rig);
    assert!(
        names.contains(&"attic") && names.contains(&name),
        "{names:?}"
    );
    assert!(!names.contains(&"dev1") && !names.contains(&"dev2"));
}

#[test]
fn a_mapping_that_calls_its_devices_otherwise_moves_them() {
    let file = |name: &str| format!("[device]\nname = \"{name}-{{endpoint}}\"");
    let mapping = |name: &str| Rig::plan(&file(name));
    let mut rig = Rig::with(mapping("a"), |_| {});
    rig.add_registered();
    let stood = standing(&rig).len();
    assert!(
        standing(&rig)
            .iter()
            .all(|topic| topic.starts_with("a-dev1"))
    );
    rig.read_mapping(MappingCause::Change, &file("b"));
    assert!(
        standing(&rig)
            .iter()
            .all(|topic| topic.starts_with("b-dev1"))
    );
    assert_eq!(standing(&rig).len(), stood);
    rig.stop();
    rig.start(Rig::setup(mapping("c")));
    rig.run(20 * SECOND);
    assert!(
        standing(&rig)
            .iter()
            .all(|topic| topic.starts_with("c-dev1")),
        "{:?}",
        standing(&rig)
    );
    assert_eq!(standing(&rig).len(), stood);
}

// wish: 21
#[test]
fn what_was_to_go_while_the_broker_was_away_goes_after_a_restart() {
    for killed in [false, true] {
        let mut rig = Rig::new();
        rig.add_registered();
        let second = rig.add_sensor();
        rig.register(second, "dev2", "lt=300", crate::rig::SENSOR);
        rig.run(Duration::from_secs(3));
        for endpoint in ["dev1", "dev2"] {
            rig.administer(&json!({ "verb": "device/approve", "endpoint": endpoint }));
        }
        rig.disconnect();
        rig.administer(&json!({ "verb": "device/remove", "name": "dev1" }));
        rename(&mut rig, "dev2", "cellar");
        rename(&mut rig, "cellar", "dev2");
        rename(&mut rig, "dev2", "attic");
        assert!(standing(&rig).contains(&"dev1/availability"));
        if killed {
            rig.crash();
        } else {
            rig.stop();
        }
        rig.start(Rig::setup(Rig::plan("")));
        rig.run(20 * SECOND);
        let topics = standing(&rig);
        assert!(topics.contains(&"attic/availability"));
        assert!(topics.contains(&"attic/v/temperature-0/sensor-value"));
        assert!(
            topics.iter().all(|topic| topic.starts_with("attic")),
            "{topics:?}"
        );
    }
}

// wish: 21, 22
#[test]
fn a_broker_that_goes_back_in_time_gets_rid_of_what_was_deleted_since() {
    let mut rig = Rig::new();
    rig.add_registered();
    let second = rig.add_sensor();
    rig.register(second, "dev2", "lt=3000", crate::rig::SENSOR);
    rig.run(Duration::from_secs(3));
    for endpoint in ["dev1", "dev2"] {
        rig.administer(&json!({ "verb": "device/approve", "endpoint": endpoint }));
    }
    rig.run(100 * SECOND);
    let earlier = rig.broker.retained.clone();
    rename(&mut rig, "dev2", "cellar");
    rig.administer(&json!({ "verb": "device/remove", "name": "dev1" }));
    rig.run(100 * SECOND);
    let stood: Vec<String> = standing(&rig).iter().map(ToString::to_string).collect();
    // Over a restart of the gateway it is known too.
    rig.stop();
    rig.broker.retained = earlier;
    rig.start(Rig::setup(Rig::plan("")));
    rig.run(20 * SECOND);
    assert_eq!(standing(&rig), stood);
}
