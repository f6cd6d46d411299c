//! A scripted device of another stack, and its whole life as a consumer on MQTT sees it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::agent::Agent;
use crate::broker::{Broker, Memory, Watch};
use crate::peers::Peer;
use crate::process::Process;
use crate::{Stage, step};

/// A running device; it takes commands as lines and tells what happens to it.
pub struct Device {
    process: Process,
}

impl Device {
    pub fn start(
        stage: &Stage,
        peer: Peer,
        agent: &Agent,
        endpoint: &str,
        lifetime: u32,
    ) -> Result<Device> {
        let lifetime = lifetime.to_string();
        let mut device = Device::begin(stage, peer, &[&agent.server, endpoint, &lifetime])?;
        device.registers()?;
        Ok(device)
    }

    /// Starts it with these arguments: server, endpoint, lifetime, options.
    pub fn begin(stage: &Stage, peer: Peer, arguments: &[&str]) -> Result<Device> {
        let mut command = peer.command()?;
        command.args(arguments);
        let endpoint = arguments.get(1).context("no endpoint")?;
        let log = stage.folder.join(format!("{endpoint}.log"));
        let process = Process::start(peer.name(), &mut command, &log)?;
        Ok(Device { process })
    }

    /// Waits for the next thing that it says, which must be that it is registered.
    pub fn registers(&mut self) -> Result<()> {
        match self.says() {
            Some(line) if line.starts_with("registered /rd/") => Ok(()),
            Some(line) => bail!("instead of registering: {line}"),
            None => bail!("it did not register; see its log"),
        }
    }

    /// The next thing that it says, if it says anything.
    pub fn says(&mut self) -> Option<String> {
        self.process.line(Duration::from_secs(30))
    }

    pub fn tell(&mut self, command: &str) -> Result<()> {
        self.process.tell(command)
    }

    pub fn expect(&mut self, event: &str) -> Result<String> {
        self.process.expect(event)
    }

    /// Changes a value of the device, which notifies whoever observes it.
    pub fn set(&mut self, path: &str, value: &str) -> Result<()> {
        self.tell(&format!("set {path} {value}"))?;
        self.expect(&format!("set {path}")).map(drop)
    }

    pub fn deregister(mut self) -> Result<()> {
        self.tell("deregister")?;
        self.expect("deregistered").map(drop)
    }

    /// Ends it as an empty battery does.
    pub fn kill(self) {
        self.process.kill();
    }
}

pub fn is(key: &'static str, wanted: impl Into<Value>) -> impl Fn(&Value) -> bool {
    let wanted = wanted.into();
    move |payload| payload[key] == wanted
}

/// Publishes a request and waits for its one final answer on the device's `reply` topic.
pub fn ask(
    broker: &Broker,
    watch: &Watch,
    version: &str,
    topic: &str,
    request: &Value,
) -> Result<Value> {
    broker.publish(version, topic, &request.to_string())?;
    let device = topic.split('/').nth(2).context("no device in the topic")?;
    let reply = format!("lwm2mqtt/d/{device}/reply");
    let id = &request["id"];
    let mine = |payload: &Value| payload["id"] == *id && payload["final"] == true;
    let answer = watch
        .sees(&reply, mine)
        .with_context(|| format!("the answer to {request} on {topic}"))?;
    ensure!(
        watch.count(&reply, mine) == 1,
        "more than one final answer to {id}"
    );
    Ok(answer)
}

pub fn done(answer: &Value) -> Result<()> {
    ensure!(answer["status"] == "done", "not done: {answer}");
    Ok(())
}

/// Registers, is read, observed, written and executed, updates, de-registers, comes back and dies.
pub fn life(stage: &Stage, peer: Peer, version: &str) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let mut agent = Agent::start(&stage.folder, broker.port, version, "")?;
    broker.retained_is("lwm2mqtt/bridge/state", is("state", "online"))?;
    step!("mosquitto and the agent are up, MQTT {version}");
    let watch = broker.watch(version)?;

    let mut device = Device::start(stage, peer, &agent, "dev1", 300)?;
    let availability = "lwm2mqtt/d/dev1/availability";
    let online = broker.retained_is(availability, is("state", "online"))?;
    ensure!(
        online["reason"] == "registered" && online["lifetime"] == 300,
        "availability: {online}"
    );
    let birth = broker.retained_is("lwm2mqtt/d/dev1", is("endpoint", "dev1"))?;
    ensure!(birth["lwm2m"] == peer.lwm2m(), "birth: {birth}");
    ensure!(
        birth["objects"]["3303"].is_string(),
        "birth without object 3303: {birth}"
    );
    step!("it registered with LwM2M {}: {online}", peer.lwm2m());

    uplink(&broker, &watch, &mut device)?;
    downlink(&broker, &watch, &mut device, version)?;
    refusals(&broker, &watch, version)?;
    if version == "5" {
        let (answers, correlation) = ("interop/answers", "n\u{b0}7");
        let read = r#"{"path":"/3/0/1"}"#;
        broker.request("lwm2mqtt/d/dev1/lwm2m/read", read, answers, correlation)?;
        let answer = watch.sees(answers, |answer| answer["final"] == true)?;
        done(&answer)?;
        ensure!(answer["value"] == "interop", "answer: {answer}");
        let correlated = watch.correlated(answers, correlation);
        ensure!(
            correlated.last() == Some(&answer),
            "the correlation data did not come back"
        );
        step!("a request with response topic and correlation data was answered there: {answer}");
    }

    device.tell("update")?;
    device.expect("updated")?;
    let seen = broker.retained_is(availability, |now| now["last_seen"] != online["last_seen"])?;
    ensure!(seen["state"] == "online", "after the update: {seen}");
    step!("it updated: {seen}");

    device.deregister()?;
    let gone = broker.retained_is(availability, is("state", "offline"))?;
    ensure!(
        gone["reason"] == "deregistered",
        "after the de-registration: {gone}"
    );
    let kept = broker.retained("lwm2mqtt/d/dev1/v/temperature-0/sensor-value")?;
    ensure!(kept.is_some(), "the value is gone with the device");
    step!("it de-registered: {gone}");

    let device = Device::start(stage, peer, &agent, "dev1", 4)?;
    broker.retained_is(availability, is("state", "online"))?;
    device.kill();
    let expired = broker.retained_is(availability, is("state", "offline"))?;
    ensure!(
        expired["reason"] == "lifetime_expired",
        "after the lifetime: {expired}"
    );
    step!("it came back and died without a word: {expired}");

    for event in ["device_registered", "device_deregistered", "device_expired"] {
        let said = |payload: &Value| payload.to_string().contains(event);
        watch
            .sees("lwm2mqtt/bridge/event", said)
            .with_context(|| format!("the event {event}"))?;
    }
    ensure!(agent.is_running(), "the agent has ended");
    Ok(())
}

fn uplink(broker: &Broker, watch: &Watch, device: &mut Device) -> Result<()> {
    let topic = "lwm2mqtt/d/dev1/v/temperature-0/sensor-value";
    let first = broker.retained_is(topic, is("value", 20.5))?;
    ensure!(first["quality"] == "good", "first value: {first}");
    ensure!(
        first["time"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z')),
        "first value: {first}"
    );
    broker.retained_is(
        "lwm2mqtt/d/dev1/v/light-control-0/on-off",
        is("value", false),
    )?;
    step!("its values are retained: {first}");

    // One by one, so that every single one has to arrive.
    for tenths in 211..=215 {
        let value = f64::from(tenths) / 10.0;
        device.set("/3303/0/5700", &value.to_string())?;
        watch.sees(topic, is("value", value))?;
    }
    let last = broker.retained_is(topic, is("value", 21.5))?;
    step!("five notifications came through, the last is retained: {last}");
    Ok(())
}

fn downlink(broker: &Broker, watch: &Watch, device: &mut Device, version: &str) -> Result<()> {
    let at = |rest: &str| format!("lwm2mqtt/d/dev1/{rest}");

    let request = json!({"value": true, "id": "c1"});
    let answer = ask(
        broker,
        watch,
        version,
        &at("set/light-control-0/on-off"),
        &request,
    )?;
    done(&answer)?;
    device.expect("wrote /3311/0/5850 true")?;
    broker.retained_is(&at("v/light-control-0/on-off"), is("value", true))?;
    step!("a set reached it: {answer}");

    let request = json!({"id": "w1", "path": "/3/0/14", "value": "+02:00"});
    done(&ask(broker, watch, version, &at("lwm2m/write"), &request)?)?;
    device.expect("wrote /3/0/14")?;
    let request = json!({"id": "r1", "path": "/3/0/14"});
    let answer = ask(broker, watch, version, &at("lwm2m/read"), &request)?;
    done(&answer)?;
    ensure!(answer["value"] == "+02:00", "read back: {answer}");
    step!("a raw write was read back: {answer}");

    let request = json!({"id": "g1"});
    let answer = ask(
        broker,
        watch,
        version,
        &at("get/light-control-0/dimmer"),
        &request,
    )?;
    done(&answer)?;
    ensure!(answer["value"] == 50, "get: {answer}");

    let request = json!({"id": "x1", "path": "/3/0/4"});
    let answer = ask(broker, watch, version, &at("lwm2m/execute"), &request)?;
    done(&answer)?;
    device.expect("executed /3/0/4")?;
    step!("an execute reached it: {answer}");

    let request = json!({"id": "d1", "path": "/3303"});
    let answer = ask(broker, watch, version, &at("lwm2m/discover"), &request)?;
    done(&answer)?;
    ensure!(
        answer.to_string().contains("/3303/0/5700"),
        "discover: {answer}"
    );
    step!("a discover was answered: {answer}");
    Ok(())
}

/// What the device or the gateway refuses is answered with the reason.
fn refusals(broker: &Broker, watch: &Watch, version: &str) -> Result<()> {
    let cases = [
        (
            "dev1/lwm2m/read",
            json!({"id": "e1", "path": "/3303/0/9999"}),
            "coap",
        ),
        (
            "dev1/lwm2m/read",
            json!({"id": "e2", "path": "/over/there"}),
            "parse",
        ),
        (
            "dev1/set/light-control-0/on-off",
            json!({"id": "e3", "value": "maybe"}),
            "type",
        ),
        (
            "dev1/set/temperature-0/sensor-value",
            json!({"id": "e4", "value": 1}),
            "access",
        ),
        (
            "dev1/set/temperature-0/nothing",
            json!({"id": "e5", "value": 1}),
            "unknown_signal",
        ),
        (
            "nobody/set/light-control-0/on-off",
            json!({"id": "e6", "value": true}),
            "unknown_device",
        ),
    ];
    for (topic, request, kind) in &cases {
        let answer = ask(
            broker,
            watch,
            version,
            &format!("lwm2mqtt/d/{topic}"),
            request,
        )?;
        ensure!(answer["status"] == "failed", "{topic} {request}: {answer}");
        ensure!(
            answer["error"]["kind"] == *kind,
            "{topic} {request} is not of kind {kind}: {answer}"
        );
    }
    if version == "5" {
        let topic = "lwm2mqtt/d/dev1/set/light-control-0/on-off";
        broker.publish_retained(topic, r#"{"id":"e7","value":false}"#)?;
        watch.sees("lwm2mqtt/d/dev1/reply", |answer| {
            answer["id"] == "e7" && answer["error"]["kind"] == "retained"
        })?;
    }
    step!("what cannot be done was refused with its reason");
    Ok(())
}

/// A value too long for a datagram comes in blocks, at registration and in a notification.
pub fn long_value(stage: &Stage, peer: Peer) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let agent = Agent::start(&stage.folder, broker.port, "5", "")?;
    let mut device = Device::start(stage, peer, &agent, "dev1", 300)?;
    let topic = "lwm2mqtt/d/dev1/v/temperature-0/application-type";
    broker.retained_is(topic, is("value", "shed"))?;
    let long = "0123456789abcdef".repeat(250);
    device.set("/3303/0/5750", &long)?;
    broker.retained_is(topic, is("value", long.as_str()))?;
    step!("a notification of {} bytes came through", long.len());
    let request = json!({"id": "w1", "path": "/3303/0/5750", "value": long.replace('0', "-")});
    let watch = broker.watch("5")?;
    done(&ask(
        &broker,
        &watch,
        "5",
        "lwm2mqtt/d/dev1/lwm2m/write",
        &request,
    )?)?;
    device.expect("wrote /3303/0/5750 \"-123")?;
    step!("a write of {} bytes went through", long.len());
    Ok(())
}
