//! The broker is killed under traffic and comes back, with and without its memory.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::agent::Agent;
use crate::broker::{Broker, Memory};
use crate::device::Device;
use crate::peers::Peer;
use crate::relay::Relay;
use crate::{Stage, step};

const VALUE: &str = "v/temperature-0/sensor-value";

/// Three devices notify while the broker is killed and started again. Then every topic stands at its newest value,
/// and each event and reply of the time between has come.
pub fn kill(stage: &Stage, peer: Peer, memory: Memory, version: &str) -> Result<()> {
    let mut broker = Broker::start(stage.folder.clone(), memory)?;
    // The agent's wire is joined again only once a consumer listens: what it then sees is all that the agent sends.
    let relay = Relay::to(broker.port)?;
    let mut agent = Agent::start(&stage.folder, relay.port, version, "")?;
    let names = ["dev1", "dev2", "dev3"];
    let mut devices = Vec::new();
    for name in names {
        devices.push(Device::start(stage, peer, &agent, name, 300)?);
        broker.retained_is(&format!("lwm2mqtt/d/{name}/{VALUE}"), |value| {
            value["value"] == 20.5
        })?;
    }
    step!("three devices are there, MQTT {version}, the broker's memory {memory:?}");

    // Traffic runs when the broker goes, while it is away, and when it is back.
    let notify = |devices: &mut Vec<Device>, range: std::ops::Range<u32>| -> Result<()> {
        for count in range {
            for device in devices.iter_mut() {
                device.set("/3303/0/5700", &f64::from(count).to_string())?;
            }
        }
        Ok(())
    };
    notify(&mut devices, 100..150)?;
    // An answer that comes while nobody is there to hear it.
    devices[0].tell("delay 1500")?;
    devices[0].expect("delay")?;
    broker.publish(
        version,
        "lwm2mqtt/d/dev1/lwm2m/execute",
        &json!({"id": "x1", "path": "/3/0/4"}).to_string(),
    )?;
    devices[0].expect("executing /3/0/4")?;
    relay.cut();
    broker.kill();
    step!("the broker was killed while an execute was on its way");

    devices[0].expect("executed /3/0/4")?;
    notify(&mut devices, 150..200)?;
    let last = devices.pop().context("three devices")?;
    last.deregister()?;
    let fresh = Device::start(stage, peer, &agent, "dev4", 300)?;
    step!("meanwhile: notifications, the answer, one device gone, another come");

    thread::sleep(Duration::from_secs(1));
    broker.restart()?;
    let watch = broker.watch(version)?;
    relay.join();
    watch.sees("lwm2mqtt/bridge/state", |state| state["state"] == "online")?;
    notify(&mut devices, 200..203)?;

    let values = [
        ("dev1", 202.0),
        ("dev2", 202.0),
        ("dev3", 199.0),
        ("dev4", 20.5),
    ];
    for (name, wanted) in values {
        broker.retained_is(&format!("lwm2mqtt/d/{name}/{VALUE}"), |value| {
            value["value"] == wanted
        })?;
    }
    for (name, wanted) in [
        ("dev1", "online"),
        ("dev2", "online"),
        ("dev3", "offline"),
        ("dev4", "online"),
    ] {
        broker.retained_is(&format!("lwm2mqtt/d/{name}/availability"), |now| {
            now["state"] == wanted
        })?;
        broker.retained_is(&format!("lwm2mqtt/d/{name}"), |birth| {
            birth["endpoint"] == name
        })?;
        // What did not change while the broker was away has to be there as well.
        let topic = format!("lwm2mqtt/d/{name}/v/light-control-0/on-off");
        broker.retained_is(&topic, |value| value["value"] == false)?;
    }
    broker.retained_is("lwm2mqtt/bridge/info", |info| info.is_object())?;
    step!("every topic stands retained at its newest value");

    let reply = watch.sees("lwm2mqtt/d/dev1/reply", |reply| {
        reply["id"] == "x1" && reply["final"] == true
    })?;
    ensure!(reply["status"] == "done", "the reply: {reply}");
    for (event, name) in [
        ("device_deregistered", "dev3"),
        ("device_registered", "dev4"),
    ] {
        watch
            .sees("lwm2mqtt/bridge/event", |payload| {
                let text = payload.to_string();
                text.contains(event) && text.contains(name)
            })
            .with_context(|| format!("the event {event} of {name}"))?;
    }
    step!("the reply and the events of the time between have come: {reply}");

    // Values of a topic never go back.
    let mut newest = 0.0;
    for value in watch.values(&format!("lwm2mqtt/d/dev1/{VALUE}")) {
        let value = value["value"]
            .as_f64()
            .context("a value that is no number")?;
        ensure!(value >= newest, "{value} came after {newest}");
        newest = value;
    }
    drop(fresh);
    ensure!(agent.is_running(), "the agent has ended");
    Ok(())
}

/// The agent starts before its broker, and serves devices meanwhile.
pub fn late_broker(stage: &Stage, peer: Peer) -> Result<()> {
    let mut broker = Broker::prepared(stage.folder.clone(), Memory::Lost)?;
    let mut agent = Agent::start(&stage.folder, broker.port, "auto", "")?;
    let mut device = Device::start(stage, peer, &agent, "dev1", 300)?;
    device.set("/3303/0/5700", "7.5")?;
    step!("a device registered and notified without any broker");
    ensure!(agent.is_running(), "the agent has ended");
    broker.restart()?;
    broker.retained_is(&format!("lwm2mqtt/d/dev1/{VALUE}"), |value| {
        value["value"] == 7.5
    })?;
    step!("the broker came and has its value");
    Ok(())
}
