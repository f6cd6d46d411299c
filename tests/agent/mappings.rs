//! Mapping files that change while the agent runs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value as Json;

use crate::broker::{Broker, Subscriber};
use crate::device::Device;
use crate::home::{Agent, Home};

fn hang_up(agent: &Agent) {
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

/// Writes the mapping file of a home as a careless editor does, in two pieces.
fn write(file: &Path, name: &str) {
    let mapping = format!(
        "schema = 1\n[profile]\nid = \"sim\"\n[match]\nendpoint = \"sim-*\"\n\
         [[signal]]\nname = \"{name}\"\npath = \"/3303/0/5700\"\nhistory = true\n"
    );
    let (first, second) = mapping.split_at(mapping.len() - 20);
    fs::write(file, first).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut file = fs::File::options().append(true).open(file).unwrap();
    file.write_all(second.as_bytes()).unwrap();
}

/// Writes it while others go on.
fn write_later(file: PathBuf) -> tokio::task::JoinHandle<()> {
    tokio::task::spawn_blocking(move || write(&file, "heat"))
}

/// A home with a folder of mappings, and the only file in it.
fn home(name: &str, broker: u16) -> (Home, PathBuf) {
    let home = Home::new(name, broker, "join = \"open\"");
    let folder = home.folder.join("mappings.d");
    fs::create_dir(&folder).unwrap();
    let paths = format!("[mappings]\npaths = [{folder:?}]");
    home.set("[mappings]\npaths = []", &paths);
    let file = folder.join("sim.toml");
    (home, file)
}

fn topic(kind: &str, name: &str) -> String {
    format!("lwm2mqtt/d/sim-0/{kind}/temperature-0/{name}")
}

#[tokio::test]
async fn mapping_files_are_read_again_at_sighup_and_values_move() {
    let broker = Broker::start();
    let (home, file) = home("mappings", broker.port);
    write(&file, "warmth");
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/+/v/#").await;
    let _device = home.simulate("sim-");
    consumer
        .wait_for(|got| got.topic == topic("v", "warmth") && !got.payload.is_empty())
        .await;

    // With a mistake all stays as it is.
    fs::write(&file, "schema = 1\nnonsense = true\n").unwrap();
    hang_up(&agent);
    home.wait(|| home.log().contains("the mappings stay as they were"));
    write(&file, "heat");
    hang_up(&agent);
    consumer
        .wait_for(|got| got.topic == topic("v", "warmth") && got.payload.is_empty())
        .await;
    consumer
        .wait_for(|got| got.topic == topic("v", "heat") && !got.payload.is_empty())
        .await;
}

#[tokio::test]
async fn a_file_that_changes_is_read_once_it_is_whole_and_no_sample_is_lost() {
    let broker = Broker::start();
    let (home, file) = home("mappings-watched", broker.port);
    write(&file, "warmth");
    let _agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let server = format!("127.0.0.1:{}", home.coap).parse().unwrap();
    let device = Device::register(server, "sim-0", 100).await;
    consumer
        .wait_for(|got| got.topic == topic("t", "warmth"))
        .await;
    // Every value is acknowledged, so every one has to arrive.
    let changes = write_later(file);
    let mut value = 100;
    while !home.log().contains("mapping files read: 1, hash") || value % 50 != 0 {
        value += 1;
        device.notify(value).await;
    }
    changes.await.unwrap();
    let (mut arrived, mut told) = (Vec::new(), Vec::new());
    while arrived.last() != Some(&value) {
        let got = consumer.next().await.expect("a message");
        let json = || serde_json::from_str::<Json>(&got.payload).unwrap();
        if got.topic == "lwm2mqtt/bridge/event" {
            told.push(json()["type"].as_str().unwrap().to_owned());
        }
        if [topic("t", "warmth"), topic("t", "heat")].contains(&got.topic) {
            arrived.push(json()["value"].as_f64().unwrap() as u32);
        }
    }
    assert_eq!(arrived, (101..=value).collect::<Vec<_>>());
    told.retain(|kind| kind.starts_with("mapping_"));
    assert_eq!(told, ["mapping_loaded"]);
    assert_eq!(device.observed(), 1);
    let mut late = Subscriber::connect(broker.port, "lwm2mqtt/d/+/v/#").await;
    let stands = late.next().await.expect("a message");
    assert!(
        stands.retain && stands.topic == topic("v", "heat"),
        "{stands:?}"
    );

    // A request is answered when the files have been read.
    let request = "lwm2mqtt/bridge/request/mapping/reload";
    consumer
        .request(request, r#"{"id":"r1"}"#, None, None)
        .await;
    let answer = consumer
        .wait_for(|got| got.topic == "lwm2mqtt/bridge/response/mapping/reload")
        .await;
    let answer: Json = serde_json::from_str(&answer.payload).unwrap();
    assert_eq!(answer["status"], "done", "{answer}");
    assert_eq!(answer["result"]["changed"], false);
}
