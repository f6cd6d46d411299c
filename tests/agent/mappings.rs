//! Mapping files that change while the agent runs.

use std::fs;

use crate::broker::{Broker, Subscriber};
use crate::home::{Agent, Home};

fn hang_up(agent: &Agent) {
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

#[tokio::test]
async fn mapping_files_are_read_again_at_sighup_and_values_move() {
    let broker = Broker::start();
    let home = Home::new("mappings", broker.port, "join = \"open\"");
    let folder = home.folder.join("mappings.d");
    fs::create_dir(&folder).unwrap();
    let config = home.folder.join("lwm2mqtt.toml");
    let text = fs::read_to_string(&config).unwrap();
    let paths = format!("[mappings]\npaths = [{folder:?}]");
    fs::write(&config, text.replace("[mappings]\npaths = []", &paths)).unwrap();
    let write = |name: &str| {
        let mapping = format!(
            "schema = 1\n[profile]\nid = \"sim\"\n[match]\nendpoint = \"sim-*\"\n\
             [[signal]]\nname = \"{name}\"\npath = \"/3303/0/5700\"\n"
        );
        fs::write(folder.join("sim.toml"), mapping).unwrap();
    };
    write("warmth");
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/+/v/#").await;
    let _device = home.simulate("sim-");
    let topic = |name: &str| format!("lwm2mqtt/d/sim-0/v/temperature-0/{name}");
    consumer
        .wait_for(|got| got.topic == topic("warmth") && !got.payload.is_empty())
        .await;

    // With a mistake all stays as it is.
    fs::write(folder.join("sim.toml"), "schema = 1\nnonsense = true\n").unwrap();
    hang_up(&agent);
    home.wait(|| home.log().contains("the mappings stay as they were"));
    write("heat");
    hang_up(&agent);
    consumer
        .wait_for(|got| got.topic == topic("warmth") && got.payload.is_empty())
        .await;
    consumer
        .wait_for(|got| got.topic == topic("heat") && !got.payload.is_empty())
        .await;
}
