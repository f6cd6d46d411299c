//! `lwm2mqtt read`, `write`, `execute`, `observe`, `discover` … and `watch`, on a device that lives.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value as Json, json};

use crate::broker::{Broker, Subscriber};
use crate::home::{Agent, Home};

/// An agent with one device of its own program, `sim-0`.
struct Live {
    home: Home,
    broker: Broker,
    _agent: Agent,
    _device: Agent,
}

impl Live {
    fn start(name: &str) -> Self {
        let broker = Broker::start();
        let home = Home::new(name, broker.port, "join = \"open\"");
        let agent = home.start();
        let device = home.simulate("sim-");
        // Until everything that the mapping wants of it is asked.
        home.wait(|| home.run(&["read", "sim-0", "/3/0/0"]).status.success());
        Self {
            home,
            broker,
            _agent: agent,
            _device: device,
        }
    }
}

/// The first lines of a command that goes on, as JSON; it is killed then, as Ctrl-C does.
fn first_lines(mut command: Command, is_enough: impl Fn(&[Json]) -> bool) -> Vec<Json> {
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Agent(child);
    let mut lines = Vec::new();
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
        lines.push(serde_json::from_str(&line.unwrap()).unwrap());
        if is_enough(&lines) {
            return lines;
        }
    }
    panic!("it ended: {lines:?}");
}

#[test]
fn without_an_agent_operations_say_so_and_exit_with_1() {
    let home = Home::new("operate-nobody", 1, "");
    for arguments in [
        &["read", "dev1", "/3/0/9"][..],
        &["write", "dev1", "/1/0/1=60"],
        &["execute", "dev1", "/3/0/4"],
        &["observe", "dev1", "/3/0/9"],
        &["discover", "dev1", "/3"],
        &["create", "dev1", "/3311/1"],
        &["delete", "dev1", "/3311/1"],
        &["attributes", "dev1", "/3/0/9", "pmin=1"],
        &["watch"],
    ] {
        let sentence = home.fails(1, arguments);
        assert!(
            sentence.contains("no agent answers at") && sentence.contains("lwm2mqtt run"),
            "{sentence}"
        );
    }
}

#[test]
fn what_cannot_be_meant_is_a_usage_error() {
    let home = Home::new("operate-usage", 1, "");
    for arguments in [
        &["read", "dev1"][..],
        &["read", "dev1", "/3/x"],
        &["read", "dev1", "battery"],
        &["write", "dev1", "/1/0/1"],
        &["write", "dev1", "/1/0/1=1", "light-control-0/on-off=true"],
        &["discover", "dev1", "/3", "--depth", "9"],
        &["attributes", "dev1", "/3/0/9", "pmin"],
        &["observe", "dev1", "/3/0/9", "--for", "soon"],
    ] {
        home.fails(64, arguments);
    }
}

// conformance: 224, 260
#[test]
fn operations_are_answered_in_the_terminal_and_as_json() {
    let live = Live::start("operate");
    let home = &live.home;

    let shown = home.ok(&["read", "sim-0", "/3/0/0"]);
    assert!(
        !shown.trim().is_empty() && shown.lines().count() == 1,
        "{shown}"
    );
    let reply = home.json(&["read", "sim-0", "device-0/manufacturer"]);
    assert_eq!(
        (&reply["status"], &reply["path"], &reply["final"]),
        (&json!("done"), &json!("/3/0/0"), &json!(true))
    );
    assert_eq!(reply["value"].as_str(), Some(shown.trim()));
    let table = home.ok(&["read", "sim-0", "/3/0"]);
    assert!(table.contains("/3/0/0  "), "{table}");

    let written = home.ok(&["write", "sim-0", "/1/0/1=240"]);
    assert!(written.starts_with("write done /1/0/1, 2.04"), "{written}");
    assert_eq!(home.ok(&["read", "sim-0", "/1/0/1"]), "240\n");
    home.ok(&["write", "sim-0", "/1/0/2=3", "/1/0/3=60"]);
    assert_eq!(home.ok(&["read", "sim-0", "/1/0/3"]), "60\n");

    let found = home.ok(&["discover", "sim-0", "/3"]);
    assert!(found.contains("/3/0/0"), "{found}");
    home.ok(&["attributes", "sim-0", "/3/0/0", "pmin=7"]);
    let found = home.json(&["discover", "sim-0", "/3/0/0"]);
    assert_eq!(found["links"]["/3/0/0"]["pmin"], "7", "{found}");

    // Several objects: one composite request where the device has it.
    let both = home.json(&["read", "sim-0", "/3/0/0", "light-control-0/on-off"]);
    assert_eq!(both["op"], "read-composite");
    assert!(
        !both["values"]["/3/0/0"].is_null() && !both["values"]["/3311/0/5850"].is_null(),
        "{both}"
    );
    home.ok(&["write", "sim-0", "/1/0/1=120", "/3311/0/5851=12"]);
    assert_eq!(home.ok(&["read", "sim-0", "/3311/0/5851"]), "12\n");
    let depth = home.json(&["discover", "sim-0", "/3303", "--depth", "1"]);
    assert!(!depth["links"].is_null(), "{depth}");

    let refused = home.fails(1, &["execute", "sim-0", "/3/0/0"]);
    assert!(refused.contains("4.05"), "{refused}");
    let failed = home.run(&["execute", "sim-0", "/3/0/0", "--json"]);
    let reply: Json = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (failed.status.code(), &reply["error"]["kind"]),
        (Some(1), &json!("coap"))
    );
    let nobody = home.fails(1, &["read", "sim-9", "/3/0/0"]);
    assert!(nobody.contains("no device is called \"sim-9\""), "{nobody}");
    let unnamed = home.fails(1, &["read", "sim-0", "device-0/nonsense"]);
    assert!(unnamed.contains("has no signal"), "{unnamed}");
}

#[tokio::test]
async fn observe_shows_values_as_they_come_and_ends_what_it_began() {
    let live = tokio::task::spawn_blocking(|| Live::start("operate-observe"))
        .await
        .unwrap();
    let home = &live.home;
    // The reading of the simulated sensor changes by itself.
    let observe = ["observe", "sim-0", "temperature-0/sensor-value", "--json"];
    let lines = first_lines(home.command(&observe), |lines| {
        lines
            .iter()
            .filter(|line| line["value"].is_number())
            .count()
            >= 3
    });
    let value = lines.last().unwrap();
    assert_eq!(
        (&value["path"], &value["signal"]),
        (&json!("/3303/0/5700"), &json!("temperature-0/sensor-value")),
        "{value}"
    );
    let timed = home.ok(&["observe", "sim-0", "/3/0/0", "--for", "300ms"]);
    assert_eq!(timed.lines().count(), 1, "{timed}");
    // Its end has reached the device: the next one begins anew and succeeds.
    home.ok(&["observe", "sim-0", "/3/0/0", "--for", "300ms"]);
    let missing = home.fails(1, &["observe", "sim-0", "/3/0/99"]);
    assert!(missing.contains("4.04"), "{missing}");
}

#[tokio::test]
async fn watch_shows_both_sides_as_they_happen() {
    let live = tokio::task::spawn_blocking(|| Live::start("operate-watch"))
        .await
        .unwrap();
    let home = &live.home;
    let mut consumer = Subscriber::connect(live.broker.port, "lwm2mqtt/d/sim-0/#").await;
    let lines = first_lines(home.command(&["watch", "sim-0", "--json"]), |lines| {
        let has = |what: &str| lines.iter().any(|line| line["what"] == what);
        has("notification") && has("publish")
    });
    assert_eq!(lines[0]["what"], "watching");
    let publish = lines.iter().find(|line| line["what"] == "publish").unwrap();
    let topic = publish["topic"].as_str().unwrap().to_owned();
    // What it shows is what a consumer gets.
    consumer.wait_for(|got| got.topic == topic).await;
    let shown = home.ok(&["watch", "--for", "2s"]);
    assert!(shown.starts_with("watching all devices"), "{shown}");
    assert!(
        shown
            .lines()
            .any(|line| line.contains("→ lwm2mqtt/d/sim-0/")),
        "{shown}"
    );
    let nobody = home.fails(1, &["watch", "nobody"]);
    assert!(nobody.contains("no device is called"), "{nobody}");
}
