//! What LwM2M 1.1 adds to a device's life, with Leshan: composite operations, Send, Create and Delete, queue mode.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::broker::{Broker, Memory, Watch};
use crate::device::{Device, ask, done, is};
use crate::nat::Nat;
use crate::peers::Peer;
use crate::{Stage, step};

/// How long a device counts as awake in these cases. Leshan's own client never sleeps, so the wire between sleeps for it.
const AWAKE: Duration = Duration::from_secs(3);

/// Composite read, write and observe, Send with and without times of its own, Create and Delete.
// conformance: 1.1-int-229, 1.1-int-230, 1.1-int-304, 1.1-int-305, 1.1-int-306, 1.1-int-311
pub fn all(stage: &Stage) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let agent = Agent::start(&stage.folder, broker.port, "5", "")?;
    let watch = broker.watch("5")?;
    let mut device = Device::start(stage, Peer::Leshan2, &agent, "dev1", 300)?;
    broker.retained_is("lwm2mqtt/d/dev1/availability", is("state", "online"))?;
    composite(&broker, &watch, &mut device)?;
    sends(&broker, &watch, &mut device)?;
    instances(&broker, &watch, &mut device)
}

fn request(broker: &Broker, watch: &Watch, op: &str, request: &Value) -> Result<Value> {
    let answer = ask(
        broker,
        watch,
        "5",
        &format!("lwm2mqtt/d/dev1/lwm2m/{op}"),
        request,
    )?;
    done(&answer)?;
    Ok(answer)
}

fn composite(broker: &Broker, watch: &Watch, device: &mut Device) -> Result<()> {
    let paths = json!({"id": "rc", "paths": ["/3/0/9", "/3303/0/5700", "/3/0/9999"]});
    let answer = request(broker, watch, "read-composite", &paths)?;
    ensure!(
        answer["values"] == json!({"/3/0/9": 87, "/3303/0/5700": 20.5}),
        "composite read: {answer}"
    );
    ensure!(
        answer["fallback"].is_null(),
        "it was not asked in one: {answer}"
    );
    step!("a composite read was answered, what is not there left out: {answer}");

    let values = json!({"id": "wc", "values": {"/3311/0/5851": 33, "/3/0/14": "+03:00"}});
    let answer = request(broker, watch, "write-composite", &values)?;
    ensure!(answer["code"] == "2.04", "composite write: {answer}");
    let mut wrote = [device.expect("wrote ")?, device.expect("wrote ")?];
    wrote.sort();
    ensure!(
        wrote == ["wrote /3/0/14 +03:00", "wrote /3311/0/5851 33"],
        "it wrote {wrote:?}"
    );
    step!("a composite write reached two objects: {answer}");

    let paths = ["/3/0/14", "/3311/0/5851"];
    let observe = json!({"id": "oc", "paths": paths});
    let answer = request(broker, watch, "observe-composite", &observe)?;
    step!("a composite observation stands: {answer}");
    device.set("/3/0/14", "+04:00")?;
    let zone = "lwm2mqtt/d/dev1/v/device-0/utc-offset";
    let dimmer = "lwm2mqtt/d/dev1/v/light-control-0/dimmer";
    broker.retained_is(zone, is("value", "+04:00"))?;
    broker.retained_is(dimmer, is("value", 33))?;
    let cancel = json!({"id": "cc", "paths": paths});
    request(broker, watch, "cancel-observe-composite", &cancel)?;
    step!("its notification carried both, and it was cancelled");
    Ok(())
}

fn sends(broker: &Broker, watch: &Watch, device: &mut Device) -> Result<()> {
    let battery = "lwm2mqtt/d/dev1/v/device-0/battery-level";
    device.tell("send /3/0/9,/3303/0/5700")?;
    ensure!(device.expect("sent ")?.contains("CHANGED"), "Send");
    let value = broker.retained_is(battery, is("src", "send"))?;
    ensure!(value["value"] == 87, "sent: {value}");
    step!("a Send was taken, and answered with 2.04: {value}");

    // Two samples with times of their own: the newer one stands.
    for level in ["71", "70"] {
        device.set("/3/0/9", level)?;
        device.tell("collect /3/0/9")?;
        device.expect("collected")?;
        std::thread::sleep(Duration::from_millis(50));
    }
    device.tell("flush")?;
    device.expect("flushed")?;
    let stands = |value: &Value| {
        value["value"] == 70 && value["src"] == "send" && value["time_from"] == "device"
    };
    let value = broker.retained_is(battery, stands)?;
    step!("of collected samples the newest stands, with the device's own time: {value}");
    ensure!(
        watch.count(battery, |value| value["value"] == 71
            && value["src"] == "send")
            == 0
            || watch.values(battery).last().is_some_and(stands),
        "an older sample came last"
    );
    Ok(())
}

fn instances(broker: &Broker, watch: &Watch, device: &mut Device) -> Result<()> {
    let create =
        json!({"id": "cr", "path": "/3311", "instance": 1, "values": {"5850": true, "5851": 7}});
    let answer = request(broker, watch, "create", &create)?;
    ensure!(answer["code"] == "2.01", "create: {answer}");
    let topic = "lwm2mqtt/d/dev1/v/light-control-1/dimmer";
    broker.retained_is(topic, is("value", 7))?;
    broker.retained_is("lwm2mqtt/d/dev1", |birth| {
        birth.to_string().contains("light-control-1")
    })?;
    step!("an instance was created, observed and announced: {answer}");

    let answer = request(
        broker,
        watch,
        "delete",
        &json!({"id": "de", "path": "/3311/1"}),
    )?;
    ensure!(answer["code"] == "2.02", "delete: {answer}");
    device.tell("update")?;
    device.expect("updated")?;
    let read = json!({"id": "rd", "path": "/3311/1"});
    let gone = ask(broker, watch, "5", "lwm2mqtt/d/dev1/lwm2m/read", &read)?;
    ensure!(gone["error"]["code"] == "4.04", "it is still there: {gone}");
    step!("and deleted again: {answer}");
    Ok(())
}

/// A command sent while the device sleeps waits for it, and nothing goes out meanwhile.
// conformance: 1.1-int-108, 1.1-int-109, P19
pub fn queue(stage: &Stage) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let server = format!("127.0.0.1:{}", crate::agent::free_udp_port()?);
    let devices = format!(
        "coap = [\"{server}\"]\ncoaps = []\njoin = \"open\"\nawake_window = \"{}s\"\n[devices.bootstrap]\ncoaps = []\n",
        AWAKE.as_secs()
    );
    let _agent = Agent::with(&stage.folder, broker.port, "5", &devices, "")?;
    let watch = broker.watch("5")?;
    let wire = Nat::to(&server)?;
    let mut device = Device::begin(
        stage,
        Peer::Leshan2,
        &[&wire.address, "dev1", "300", "queue"],
    )?;
    device.registers()?;
    let availability = "lwm2mqtt/d/dev1/availability";
    let online = broker.retained_is(availability, is("queue_mode", true))?;
    let asleep = broker.retained_is(availability, is("state", "asleep"))?;
    step!("it sleeps: {asleep}");
    ensure!(online["state"] != "offline", "availability: {online}");

    wire.forget();
    let set = "lwm2mqtt/d/dev1/set/light-control-0/dimmer";
    let reply = "lwm2mqtt/d/dev1/reply";
    broker.publish("5", set, r#"{"id":"q1","value":11,"ttl":"1h"}"#)?;
    let queued = watch.sees(reply, |reply| {
        reply["id"] == "q1" && reply["status"] == "queued"
    })?;
    ensure!(queued["why"] == "asleep", "queued: {queued}");
    broker.publish("5", set, r#"{"id":"q2","value":12,"ttl":"1h"}"#)?;
    let over = watch.sees(reply, |reply| reply["id"] == "q1" && reply["final"] == true)?;
    ensure!(
        over["status"] == "superseded" && over["by"] == "q2",
        "superseded: {over}"
    );
    std::thread::sleep(2 * AWAKE);
    ensure!(
        wire.reached_device() == 0,
        "{} datagrams went to a device that sleeps",
        wire.reached_device()
    );
    step!("nothing went to it while it sleeps: {queued}");

    device.tell("update")?;
    // Whether it says before that it has updated, or after, is up to its threads.
    device.expect("wrote /3311/0/5851 12")?;
    let answer = watch.sees(reply, |reply| reply["id"] == "q2" && reply["final"] == true)?;
    done(&answer)?;
    ensure!(
        watch.count(reply, |reply| reply["id"] == "q2" && reply["final"] == true) == 1,
        "more than one final answer"
    );
    step!("it woke and got the newer one: {answer}");
    broker.retained_is(availability, is("state", "asleep"))?;
    Ok(())
}
