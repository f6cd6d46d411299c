//! The whole agent with real sockets, while the broker is killed and comes back without memory.

use std::collections::BTreeMap;
use std::time::Duration;

use lwm2mqtt::agent::config::{Config, Join};
use lwm2mqtt::agent::mqtt::VersionChoice;
use lwm2mqtt::agent::run::Agent;
use lwm2mqtt::agent::setup;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::broker::{Broker, Subscriber};
use crate::device::Device;

fn agent(broker: &Broker, version: VersionChoice) -> Agent {
    agent_of(broker, version, |_| {})
}

/// An agent in this process, with a port of its own and no socket for the command line.
pub(crate) fn agent_of(
    broker: &Broker,
    version: VersionChoice,
    change: impl FnOnce(&mut Config),
) -> Agent {
    let mut config = Config::default();
    config.gateway.id = Some("test".into());
    let port = match version {
        VersionChoice::V311 => broker.v311_port,
        _ => broker.port,
    };
    config.mqtt.url = format!("mqtt://127.0.0.1:{port}");
    config.mqtt.version = version;
    config.devices.coap = vec!["127.0.0.1:0".parse().unwrap()];
    config.devices.coaps = Vec::new();
    config.devices.join = Join::Open;
    change(&mut config);
    let mut options = setup::options(&config).ok().unwrap();
    options.local = lwm2mqtt::agent::local::Settings::default();
    Agent::start(options).unwrap()
}

fn value_topic(device: usize) -> String {
    format!("lwm2mqtt/d/dev{device}/v/temperature-0/sensor-value")
}

async fn killed(version: VersionChoice) {
    let mut broker = Broker::start();
    let agent = agent(&broker, version);
    let server = agent.addresses()[0];
    let (stop, stopped) = oneshot::channel::<()>();
    let agent = tokio::spawn(agent.run(async move {
        let _ = stopped.await;
    }));
    let mut devices = Vec::new();
    for number in 0..3 {
        devices.push(Device::register(server, &format!("dev{number}"), 100).await);
    }
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let quiet = value_topic(2);
    consumer.wait_for(|got| got.topic == quiet).await;

    // Traffic before, while and after; device 2 says nothing any more. And one read is on its way
    // when the broker dies.
    for value in 101..150 {
        devices[0].notify(value).await;
        devices[1].notify(value).await;
    }
    devices[0].hold();
    let get = "lwm2mqtt/d/dev0/get/temperature-0/sensor-value";
    consumer.request(get, r#"{"id":"g1"}"#, None, None).await;
    let ours = |got: &crate::broker::Received| {
        got.topic == "lwm2mqtt/d/dev0/reply" && got.payload.contains("\"g1\"")
    };
    consumer.wait_for(ours).await;
    broker.kill();
    devices[0].release().await;
    for value in 150..180 {
        devices[0].notify(value).await;
        devices[1].notify(value).await;
    }
    broker.restart();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    for value in 180..200 {
        devices[0].notify(value).await;
    }

    let mut last = BTreeMap::<String, Value>::new();
    let mut answered = false;
    let complete = |last: &BTreeMap<String, Value>| {
        let number = |device| last.get(&value_topic(device))?["value"].as_f64();
        [0, 1, 2].map(number) == [Some(199.0), Some(179.0), Some(100.0)]
            && (0..3).all(|device| last.contains_key(&format!("lwm2mqtt/d/dev{device}")))
            && (0..3).all(|device| {
                let topic = format!("lwm2mqtt/d/dev{device}/availability");
                last.get(&topic)
                    .is_some_and(|json| json["state"] == "online")
            })
            && last
                .get("lwm2mqtt/bridge/state")
                .is_some_and(|json| json["state"] == "online")
    };
    while !(complete(&last) && answered) {
        let Some(got) = consumer.next().await else {
            panic!("answered: {answered}, and the rest is {last:#?}");
        };
        if let Ok(json) = serde_json::from_str::<Value>(&got.payload) {
            answered |= ours(&got) && json["final"] == true && json["status"] == "done";
            last.insert(got.topic, json);
        }
    }
    // Nothing older follows, and a late subscriber finds the same.
    sleep(Duration::from_millis(500)).await;
    let mut late = Subscriber::connect(broker.port, "lwm2mqtt/d/+/v/#").await;
    let mut retained = BTreeMap::new();
    while retained.len() < 3 {
        let got = late.next().await.expect("three retained values");
        assert!(got.retain);
        let json: Value = serde_json::from_str(&got.payload).unwrap();
        retained.insert(got.topic, json["value"].as_f64());
    }
    let values: Vec<_> = retained.into_values().flatten().collect();
    assert_eq!(values, [199.0, 179.0, 100.0]);

    stop.send(()).unwrap();
    agent.await.unwrap();
}

#[tokio::test]
async fn a_killed_broker_has_every_value_and_reply_again_over_mqtt_5() {
    killed(VersionChoice::V5).await;
}

#[tokio::test]
async fn a_killed_broker_has_every_value_and_reply_again_over_mqtt_3_1_1() {
    killed(VersionChoice::V311).await;
}
