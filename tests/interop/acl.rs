//! The rules of `lwm2mqtt acl mosquitto`, as mosquitto understands them.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::broker::{Broker, Memory};
use crate::process::{PATIENCE, run};
use crate::{Stage, step};

const READERS: [(&str, &str, bool); 7] = [
    ("dashboard", "lwm2mqtt/d/dev1/v/air/temperature", true),
    ("dashboard", "lwm2mqtt/bridge/state", true),
    ("dashboard", "lwm2mqtt/bridge/info", false),
    ("alice", "lwm2mqtt/d/dev1/reply", true),
    ("bob", "lwm2mqtt/bridge/info", true),
    ("lwm2mqtt", "lwm2mqtt/bridge/request/device/list", true),
    ("mallory", "lwm2mqtt/d/dev1/v/air/temperature", false),
];

const WRITERS: [(&str, &str, bool); 9] = [
    ("dashboard", "lwm2mqtt/d/dev1/set/air/temperature", false),
    ("alice", "lwm2mqtt/d/dev1/set/air/temperature", true),
    ("alice", "lwm2mqtt/d/dev1/do/reboot", true),
    ("alice", "lwm2mqtt/d/dev1/lwm2m/read", false),
    ("alice", "lwm2mqtt/d/dev1/v/air/temperature", false),
    ("bob", "lwm2mqtt/d/dev1/lwm2m/read", true),
    ("bob", "lwm2mqtt/bridge/request/device/list", true),
    ("bob", "lwm2mqtt/bridge/state", false),
    ("lwm2mqtt", "lwm2mqtt/d/dev1/availability", true),
];

pub fn mosquitto(stage: &Stage) -> Result<()> {
    let broker = Broker::prepared(stage.folder.clone(), Memory::Lost)?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
    // No file of the machine's own is to count.
    let empty = stage.folder.join("empty.toml");
    fs::write(&empty, "")?;
    command.args([
        "acl",
        "mosquitto",
        "--viewer",
        "dashboard",
        "--operator",
        "alice",
    ]);
    command
        .args(["--maintainer", "bob", "--config"])
        .arg(&empty);
    let (code, rules) = run(&mut command, PATIENCE)?;
    ensure!(code == 0, "{rules}");
    let file = stage.folder.join("lwm2mqtt.acl");
    // The suite itself looks from outside.
    fs::write(&file, format!("{rules}\nuser suite\ntopic readwrite #\n"))?;
    let configuration = stage.folder.join("mosquitto.conf");
    let text = fs::read_to_string(&configuration)?;
    fs::write(
        &configuration,
        format!("{text}acl_file {}\n", file.display()),
    )?;
    let broker = broker.started()?;
    step!("mosquitto took the rules");

    for (user, topic, may) in READERS {
        broker.publish_as("suite", topic, "here")?;
        let seen = broker.retained_for(user, topic)?.is_some();
        ensure!(
            seen == may,
            "{user} reads {topic}: {seen}, and should: {may}"
        );
        broker.publish_as("suite", topic, "")?;
    }
    for (user, topic, may) in WRITERS {
        // What is not allowed, mosquitto acknowledges and drops.
        broker.publish_as(user, topic, "here").context(user)?;
        let seen = broker.retained_for("suite", topic)?.is_some();
        ensure!(
            seen == may,
            "{user} writes {topic}: {seen}, and should: {may}"
        );
        broker.publish_as("suite", topic, "")?;
    }
    step!("viewer, operator, maintainer and a stranger may do what they should, and no more");
    Ok(())
}
