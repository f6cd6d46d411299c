//! What profiles are put together of, and what they ask a device when it registers.

use std::time::Duration;

use lwm2mqtt::coap::{Code, Response};
use lwm2mqtt::gateway::MappingCause;
use lwm2mqtt::lwm2m::Models;
use lwm2mqtt::mapping::{Plan, Source};

use crate::queue::{SECOND, update};
use crate::rig::{Rig, SENSOR, content};
use crate::updater::{Update, Updater};

/// A plan of one file for every device, with this in `[profile]` and behind it.
fn plan(profile: &str, text: &str) -> Plan {
    let source = Source {
        file: "test.toml".into(),
        text: format!(
            "schema = 1\n[profile]\nid = \"test\"\n{profile}\n[match]\nendpoint = \"*\"\n{text}"
        ),
    };
    let compiled = Plan::compile(&[source], &Models::builtin(), "lwm2mqtt");
    let plan = compiled.plan;
    plan.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
}

#[test]
fn the_built_in_profile_updates_firmware_from_an_address() {
    const REPLY: &str = "lwm2mqtt/d/dev1/reply";
    let mut rig = Rig::with_plan(plan("extends = [\"oma-core\", \"oma-firmware\"]", ""));
    let device = rig.add_device();
    rig.devices[device].updater = Some(Updater {
        update: Update::Ends(0, 1),
        ..Updater::default()
    });
    let state = |rig: &mut Rig, state: u8| {
        let said = content(110, &format!(r#"[{{"n":"/5/0/3","v":{state}}}]"#));
        rig.devices[device].answer(Code::GET, "/5/0/3", said);
    };
    state(&mut rig, 0);
    rig.register(device, "dev1", "lt=86400", &format!("{SENSOR},</5/0>"));
    rig.run(3 * SECOND);
    let told = rig.broker.json("lwm2mqtt/d/dev1/v/firmware/state");
    assert_eq!(told["value"], "idle", "{told}");

    rig.ask(
        "lwm2mqtt/d/dev1/do/firmware-update",
        r#"{"id":"1","uri":"coap://files/app.bin"}"#,
    );
    state(&mut rig, 1);
    rig.run(3 * SECOND);
    let updater = rig.devices[device].updater.as_mut().unwrap();
    assert_eq!(
        (updater.uri.as_str(), updater.updates),
        ("coap://files/app.bin", 0)
    );
    updater.state = 2;
    state(&mut rig, 2);
    rig.run(70 * SECOND);
    assert_eq!(rig.devices[device].updater.as_ref().unwrap().updates, 1);
    state(&mut rig, 0);
    rig.run(70 * SECOND);
    let last = rig.broker.messages(REPLY).pop().unwrap();
    assert_eq!(
        (&last["status"], &last["id"]),
        (&"done".into(), &"1".into()),
        "{last}"
    );
}

const GREETING: &str = r#"
    [on_register]
    read  = ["/3/0/0", "/3311/0/5851"]
    write = [{ path = "/3/0/13", value = "{now}" }, { path = "/3/0/15", value = "UTC" }]

    [[signal]]
    name   = "serial"
    path   = "/3/0/2"
    source = "register"

    [[signal]]
    path   = "/3/0/17"
    source = "register"

    [[signal]]
    name   = "battery"
    path   = "/3/0/9"
    source = "register"
"#;

/// A device that takes a time zone and, unless `refuses`, the time.
fn greeted(text: &str, refuses: bool) -> (Rig, usize) {
    let mut rig = Rig::with_plan(plan("", text));
    let device = rig.add_sensor();
    let scripted = &mut rig.devices[device];
    let dimmer = content(110, r#"[{"n":"/3311/0/5851","v":40}]"#);
    scripted.answer(Code::GET, "/3311/0/5851", dimmer);
    scripted.answer(Code::PUT, "/3/0/15", Response::new(Code::CHANGED));
    if !refuses {
        scripted.answer(Code::PUT, "/3/0/13", Response::new(Code::CHANGED));
    }
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    (rig, device)
}

/// The times that were written, in seconds since 1970.
fn times(rig: &Rig, device: usize) -> Vec<i64> {
    let requests = rig.devices[device].requests.iter();
    let writes =
        requests.filter(|request| request.method == Code::PUT && request.path == ["3", "0", "13"]);
    writes
        .map(|request| match request.content_format {
            Some(0) => String::from_utf8(request.payload.clone())
                .unwrap()
                .parse()
                .unwrap(),
            _ => {
                let json: serde_json::Value = serde_json::from_slice(&request.payload).unwrap();
                json[0]["v"].as_i64().unwrap()
            }
        })
        .collect()
}

#[test]
fn what_is_read_at_registration_is_published_once_and_not_observed() {
    let (mut rig, device) = greeted(GREETING, false);
    let serial = rig.broker.json("lwm2mqtt/d/dev1/v/device-0/serial");
    assert_eq!(
        (&serial["value"], &serial["src"]),
        (&"00A7".into(), &"read".into())
    );
    // Of the device object no more than is wanted, and that it has not all of it is no problem.
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/v/device-0/manufacturer")["value"],
        "ACME"
    );
    assert!(
        !rig.broker
            .retained
            .contains_key("lwm2mqtt/d/dev1/v/device-0/model-number")
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1")["problems"],
        serde_json::Value::Null
    );
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/v/light-control-0/dimmer")["value"],
        40
    );
    let observed: Vec<_> = rig.devices[device]
        .observers
        .iter()
        .map(|(path, _)| path.as_str())
        .collect();
    assert_eq!(observed, ["/3303/0", "/3311/0"]);
    let reads = |rig: &Rig| rig.devices[device].paths(Code::GET).len();
    let before = reads(&rig);
    update(&mut rig, device, &["lt=400"]);
    rig.run(3 * SECOND);
    assert_eq!(reads(&rig), before);
}

#[test]
fn what_a_mapping_writes_at_registration_is_written_once_a_registration() {
    let (mut rig, device) = greeted(GREETING, false);
    let began = rig.now.unix.as_millis() / 1_000 - 3;
    let written = times(&rig, device);
    assert!(
        matches!(written[..], [time] if (began..=began + 1).contains(&time)),
        "{written:?}"
    );
    update(&mut rig, device, &["lt=400"]);
    rig.run(60 * SECOND);
    assert_eq!(times(&rig, device).len(), 1);
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(3 * SECOND);
    let written = times(&rig, device);
    assert_eq!(written.len(), 2);
    assert!(written[1] >= written[0] + 60, "{written:?}");
    rig.stop();
    rig.start(Rig::setup(plan("", GREETING)));
    rig.run(60 * SECOND);
    assert_eq!(times(&rig, device).len(), 2);
}

#[test]
fn what_a_device_does_not_take_at_registration_is_a_problem_and_stops_nothing() {
    let text = format!("{GREETING}\n[[signal]]\npath = \"/3303/0/5700\"\nname = \"t\"\n")
        .replace("/3/0/0", "/3311/0/5850");
    let (rig, device) = greeted(&text, true);
    let birth = rig.broker.json("lwm2mqtt/d/dev1");
    let problems: Vec<_> = birth["problems"].as_array().unwrap().iter().collect();
    let kinds: Vec<_> = problems
        .iter()
        .map(|it| (it["kind"].as_str().unwrap(), it["path"].as_str().unwrap()))
        .collect();
    // That the file names for reading is expected to be there.
    assert_eq!(
        kinds,
        [("read", "/3311/0/5850"), ("on_register", "/3/0/13")]
    );
    assert_eq!(rig.devices[device].paths(Code::PUT), ["/3/0/13", "/3/0/15"]);
    assert_eq!(
        rig.broker.json("lwm2mqtt/d/dev1/v/temperature-0/t")["value"],
        21.5
    );
}

#[test]
fn a_clock_is_set_to_the_time_at_which_it_is_set() {
    let mut rig = Rig::with_plan(plan("", GREETING));
    let device = rig.add_sensor();
    rig.devices[device].answer(Code::PUT, "/3/0/13", Response::new(Code::CHANGED));
    rig.register(device, "dev1", "Q", SENSOR);
    rig.run(Duration::from_millis(25));
    rig.devices[device].dead = true;
    rig.run(1_000 * SECOND);
    assert!(times(&rig, device).is_empty());
    rig.devices[device].dead = false;
    update(&mut rig, device, &[]);
    rig.run(3 * SECOND);
    let now = rig.now.unix.as_millis() / 1_000;
    let written = times(&rig, device);
    assert!(
        matches!(written[..], [time] if (now - 3..=now).contains(&time)),
        "{written:?} at {now}"
    );
}

#[test]
fn what_was_not_written_before_the_agent_ended_is_written_by_the_next() {
    let mut rig = Rig::with_plan(plan("", GREETING));
    let device = rig.add_sensor();
    rig.devices[device].answer(Code::PUT, "/3/0/13", Response::new(Code::CHANGED));
    rig.register(device, "dev1", "lt=300", SENSOR);
    rig.run(Duration::from_millis(25));
    rig.crash();
    assert!(times(&rig, device).is_empty());
    rig.start(Rig::setup(plan("", GREETING)));
    rig.run(60 * SECOND);
    assert_eq!(times(&rig, device).len(), 1);
    assert!(
        rig.broker
            .retained
            .contains_key("lwm2mqtt/d/dev1/v/device-0/serial")
    );
}

#[test]
fn a_mapping_that_is_read_again_reads_what_it_newly_wants_and_writes_nothing() {
    let (mut rig, device) = greeted("", false);
    assert!(
        !rig.broker
            .retained
            .contains_key("lwm2mqtt/d/dev1/v/device-0/serial")
    );
    rig.read_mapping(MappingCause::Change, GREETING);
    rig.run(3 * SECOND);
    assert!(
        rig.broker
            .retained
            .contains_key("lwm2mqtt/d/dev1/v/device-0/serial")
    );
    assert!(times(&rig, device).is_empty());
}
