//! Devices with keys and certificates: DTLS as others speak it, towards the gateway and from it.

mod clients;
mod leshan;
mod message;
mod role;
mod show;
mod suites;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::agent::{Agent, free_udp_port};
use crate::broker::{Broker, Memory, Watch};
use crate::peers::devices;
use crate::process::{PATIENCE, eventually, run};
use crate::{Case, Stage};

/// The key of most devices here; libcoap and node-dtls-client take it as text only.
pub const KEY: &str = "5034732477307264";
pub const KEY_TEXT: &str = "P4s$w0rd";
/// Somebody else's.
pub const WRONG_KEY: &str = "5034732477307265";

pub fn cases() -> Vec<Case> {
    let mut cases = show::cases();
    cases.extend(suites::cases());
    cases.extend(clients::cases());
    cases.extend(leshan::cases());
    cases.extend(role::cases());
    cases
}

/// A gateway that listens for DTLS and lets in whom it knows, with its broker and a consumer.
pub struct Gateway {
    pub agent: Agent,
    pub broker: Broker,
    pub watch: Watch,
    /// Where devices register.
    pub coaps: String,
    /// Where they bootstrap.
    pub bootstrap: String,
}

impl Gateway {
    /// Starts one that has no certificate.
    pub fn start(stage: &Stage) -> Result<Gateway> {
        Gateway::with(stage, "", "")
    }

    /// Starts one with the certificates of `pki`, which trusts their authority.
    pub fn with_certificates(stage: &Stage, pki: &Pki) -> Result<Gateway> {
        let devices = format!(
            "cert_file = \"{}\"\nkey = {{ file = \"{}\" }}\nca_file = \"{}\"\n",
            pki.file("server.pem").display(),
            pki.file("server.key").display(),
            pki.file("ca.pem").display()
        );
        Gateway::with(stage, &devices, "")
    }

    /// Starts one with more lines in `[devices]`, and in `[devices.bootstrap]`.
    pub fn with(stage: &Stage, devices: &str, bootstrap: &str) -> Result<Gateway> {
        let coaps = format!("127.0.0.1:{}", free_udp_port()?);
        Gateway::at(stage, coaps, devices, bootstrap)
    }

    /// Starts one at this address.
    pub fn at(stage: &Stage, coaps: String, devices: &str, bootstrap: &str) -> Result<Gateway> {
        let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
        let watch = broker.watch("5")?;
        let place = format!("127.0.0.1:{}", free_udp_port()?);
        let devices = format!(
            r#"coap = []
coaps = ["{coaps}"]
join = "known"
{devices}
[devices.bootstrap]
coap = []
coaps = ["{place}"]
{bootstrap}"#
        );
        let agent = Agent::with(&stage.folder, broker.port, "5", &devices, "")?;
        let gateway = Gateway {
            agent,
            broker,
            watch,
            coaps,
            bootstrap: place,
        };
        gateway
            .watch
            .sees("lwm2mqtt/bridge/state", |state| state["state"] == "online")?;
        Ok(gateway)
    }

    /// Adds a device while the gateway runs.
    pub fn add(&self, name: &str, more: &[&str]) -> Result<String> {
        self.agent
            .command(&[&["device", "add", name][..], more].concat())
    }

    /// Adds one with a PSK identity and [`KEY`].
    pub fn add_psk(&self, name: &str, identity: &str) -> Result<String> {
        self.add(name, &["--psk-identity", identity, "--psk-key", KEY])
    }

    /// Waits for an event of this type that says all these words, and for the same words in one line of the log.
    pub fn says(&self, kind: &str, words: &[&str]) -> Result<Value> {
        let event = self.watch.sees("lwm2mqtt/bridge/event", |event| {
            event["type"] == kind && {
                let text = plain(&event.to_string());
                words.iter().all(|word| text.contains(word))
            }
        });
        let event = event.with_context(|| format!("no event {kind} with {words:?}"))?;
        eventually("the same in the log", || {
            let log = plain(&self.agent.log());
            let said = |line: &str| words.iter().all(|word| line.contains(word));
            Ok(log.lines().any(said).then_some(()))
        })
        .with_context(|| format!("no line of the log has {words:?}"))?;
        Ok(event)
    }

    /// The endpoint is registered, as a consumer sees it.
    pub fn is_online(&self, name: &str) -> Result<()> {
        let topic = format!("lwm2mqtt/d/{name}/availability");
        self.broker
            .retained_is(&topic, |now| now["state"] == "online")
            .map(drop)
    }

    /// Nothing of a device of this name was ever published.
    pub fn never_saw(&self, name: &str) -> Result<()> {
        let topic = format!("lwm2mqtt/d/{name}/availability");
        ensure!(
            self.broker.retained(&topic)?.is_none(),
            "{name} is on the broker"
        );
        Ok(())
    }

    /// Reads a resource of a device by a command over MQTT.
    pub fn read(&self, name: &str, path: &str, id: &str) -> Result<Value> {
        let request = format!(r#"{{"id":"{id}","path":"{path}"}}"#);
        self.broker
            .publish("5", &format!("lwm2mqtt/d/{name}/lwm2m/read"), &request)?;
        let reply = format!("lwm2mqtt/d/{name}/reply");
        let answer = self.watch.sees(&reply, |answer| {
            answer["id"] == id && answer["final"] == true
        })?;
        ensure!(answer["status"] == "done", "a read of {path}: {answer}");
        Ok(answer["value"].clone())
    }
}

/// Without the quotes, which events and log escape each in its way.
fn plain(text: &str) -> String {
    text.replace(['\\', '"'], "")
}

/// Certificates of this case's own.
pub struct Pki {
    folder: PathBuf,
}

impl Pki {
    /// Makes them; the device's has `endpoint` as its common name.
    pub fn of(stage: &Stage, endpoint: &str) -> Result<Pki> {
        let folder = stage.folder.join("pki");
        fs::create_dir_all(&folder)?;
        let mut command = Command::new("sh");
        command
            .arg(devices().join("pki.sh"))
            .arg(endpoint)
            .current_dir(&folder);
        let (code, output) = run(&mut command, PATIENCE)?;
        ensure!(code == 0, "pki.sh: {output}");
        Ok(Pki { folder })
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
