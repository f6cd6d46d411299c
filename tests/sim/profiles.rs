//! What profiles are put together of, and what they ask a device when it registers.

use lwm2mqtt::coap::Code;
use lwm2mqtt::lwm2m::Models;
use lwm2mqtt::mapping::{Plan, Source};

use crate::queue::SECOND;
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
