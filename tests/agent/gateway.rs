//! The program itself: `lwm2mqtt run` between `lwm2mqtt simulate` and a broker.

use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::time::sleep;

use crate::broker::{Broker, Received, Subscriber};

const PROGRAM: &str = env!("CARGO_BIN_EXE_lwm2mqtt");
const VALUE: &str = "lwm2mqtt/d/sim-0/v/temperature-0/sensor-value";

/// A process that dies with its test.
struct Process(Child);

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    /// As Ctrl-C does; waits for the end.
    fn interrupt(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A configuration in a folder of its own.
struct Gateway {
    folder: PathBuf,
    coap: u16,
}

impl Gateway {
    fn configure(name: &str, broker: u16, version: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What an earlier run kept would be gone on with.
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let coap = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let text = format!(
            "[store]\npath = {:?}\n[admin]\nsocket = {:?}\n[mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\nversion = \"{version}\"\n\
             [devices]\ncoap = [\"127.0.0.1:{coap}\"]\ncoaps = []\njoin = \"open\"\n\
             files = []\n[mappings]\npaths = []\n[models]\npaths = []\n",
            folder.join("store"),
            std::env::temp_dir().join(format!("lwm2mqtt-{}-{name}.sock", std::process::id())),
        );
        fs::write(folder.join("lwm2mqtt.toml"), text).unwrap();
        Self { folder, coap }
    }

    fn run(&self) -> Process {
        let file = self.folder.join("lwm2mqtt.toml");
        Process::start(&["run", "--config", file.to_str().unwrap()])
    }

    fn simulate(&self, devices: u32) -> Process {
        let server = format!("coap://127.0.0.1:{}", self.coap);
        let devices = devices.to_string();
        Process::start(&[
            "simulate",
            "--server",
            &server,
            "--devices",
            &devices,
            "--endpoint-prefix",
            "sim-",
        ])
    }
}

fn json(received: &Received) -> Json {
    serde_json::from_str(&received.payload).unwrap()
}

#[tokio::test]
async fn a_device_stands_on_mqtt_takes_a_command_and_leaves() {
    let broker = Broker::start();
    let gateway = Gateway::configure("leaves", broker.port, "5");
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let _agent = gateway.run();
    let device = gateway.simulate(1);
    let online = consumer
        .wait_for(|message| message.topic == "lwm2mqtt/d/sim-0/availability")
        .await;
    assert_eq!(json(&online)["state"], "online");
    let first = consumer.wait_for(|message| message.topic == VALUE).await;
    assert!(json(&first)["value"].is_f64());
    assert_eq!(first.content_type.as_deref(), Some("application/json"));
    let second = consumer.wait_for(|message| message.topic == VALUE).await;
    assert!(json(&second)["seq"].as_u64() > json(&first)["seq"].as_u64());

    let topic = "lwm2mqtt/d/sim-0/set/light-control-0/on-off";
    consumer
        .request(topic, r#"{"value":true,"id":"c1"}"#, None, None)
        .await;
    let done = consumer
        .wait_for(|message| {
            message.topic == "lwm2mqtt/d/sim-0/reply" && json(message)["final"] == true
        })
        .await;
    let done = json(&done);
    assert_eq!(
        (&done["id"], &done["status"], &done["code"]),
        (&"c1".into(), &"done".into(), &"2.04".into())
    );
    // Confirmed by the device itself.
    consumer
        .wait_for(|message| {
            message.topic == "lwm2mqtt/d/sim-0/v/light-control-0/on-off"
                && json(message)["value"] == true
        })
        .await;

    device.interrupt();
    let offline = consumer
        .wait_for(|message| {
            message.topic == "lwm2mqtt/d/sim-0/availability" && json(message)["state"] == "offline"
        })
        .await;
    assert_eq!(json(&offline)["reason"], "deregistered");
    // Who comes later sees the same.
    let mut late = Subscriber::connect(broker.port, "lwm2mqtt/d/sim-0/+").await;
    let retained = late
        .wait_for(|message| message.topic.ends_with("/availability"))
        .await;
    assert!(retained.retain && json(&retained)["state"] == "offline");
}

// wish: 19
#[tokio::test]
async fn the_answer_goes_where_mqtt_5_says() {
    let broker = Broker::start();
    let gateway = Gateway::configure("answers", broker.port, "auto");
    let mut consumer = Subscriber::connect(broker.port, "#").await;
    let _agent = gateway.run();
    let _device = gateway.simulate(1);
    consumer.wait_for(|message| message.topic == VALUE).await;
    let topic = "lwm2mqtt/d/sim-0/get/temperature-0/sensor-value";
    consumer
        .request(topic, "", Some("app/42/in"), Some(&[7, 0, 255]))
        .await;
    let answer = consumer
        .wait_for(|message| message.topic == "app/42/in" && json(message)["final"] == true)
        .await;
    assert!(json(&answer)["value"].is_f64());
    assert_eq!(answer.correlation, Some(vec![7, 0, 255]));
}

#[tokio::test]
async fn devices_are_served_before_there_is_a_broker() {
    let mut broker = Broker::start();
    broker.kill();
    let gateway = Gateway::configure("before", broker.v311_port, "3.1.1");
    let _agent = gateway.run();
    let _device = gateway.simulate(1);
    sleep(Duration::from_secs(3)).await;
    broker.restart();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let value = consumer.wait_for(|message| message.topic == VALUE).await;
    assert_eq!(json(&value)["quality"], "good");
}

#[tokio::test]
async fn a_flood_of_datagrams_does_not_stop_the_clock() {
    let broker = Broker::start();
    let gateway = Gateway::configure("flood", broker.port, "5");
    let file = gateway.folder.join("lwm2mqtt.toml");
    let text = fs::read_to_string(&file).unwrap();
    let text = text.replace("[devices]\n", "[devices]\nlifetime_grace = \"0 s\"\n");
    fs::write(&file, text).unwrap();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/#").await;
    let _agent = gateway.run();
    let device = UdpSocket::bind("127.0.0.1:0").unwrap();
    device.connect(("127.0.0.1", gateway.coap)).unwrap();
    // CON POST /rd?ep=short&lt=2, in link-format: </3/0>
    let register = b"\x40\x02\x12\x34\xb2rd\x11\x28\x38ep=short\x04lt=2\xff</3/0>";
    let online = async {
        loop {
            // Until the agent is there to hear it.
            let _ = device.send(register);
            sleep(Duration::from_millis(200)).await;
        }
    };
    let is_state = |message: &Received, state: &str| {
        message.topic == "lwm2mqtt/d/short/availability" && json(message)["state"] == state
    };
    tokio::select! {
        () = online => {}
        _ = consumer.wait_for(|message| is_state(message, "online")) => {}
    }
    let flooding = Arc::new(AtomicBool::new(true));
    let floods = [(); 2].map(|()| {
        let (flooding, device) = (flooding.clone(), device.try_clone().unwrap());
        std::thread::spawn(move || {
            while flooding.load(Ordering::Relaxed) {
                let _ = device.send(&[0]);
            }
        })
    });
    let expired = consumer.wait_for(|message| is_state(message, "offline"));
    let expired = tokio::time::timeout(Duration::from_secs(8), expired).await;
    flooding.store(false, Ordering::Relaxed);
    for flood in floods {
        flood.join().unwrap();
    }
    assert!(expired.is_ok(), "the device of 2 s is there after 8 s");
}
