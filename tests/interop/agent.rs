//! The agent under test: the binary as it is built, with a configuration file of its own.

use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::peers::program;
use crate::process::{PATIENCE, Process, run};

/// A running `lwm2mqtt run`.
pub struct Agent {
    /// Where devices register.
    pub server: String,
    folder: PathBuf,
    process: Process,
}

impl Agent {
    /// Starts it against the broker on `port`; `more` is appended to its configuration.
    pub fn start(folder: &Path, broker: u16, version: &str, more: &str) -> Result<Agent> {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let server = format!("127.0.0.1:{port}");
        let configuration = format!(
            r#"[gateway]
id = "interop"

[mqtt]
url = "mqtt://127.0.0.1:{broker}"
version = "{version}"

[devices]
coap = ["{server}"]
coaps = []
join = "open"
lifetime_grace = "1s"

[devices.bootstrap]
coaps = []

[mappings]
paths = []

[models]
paths = []

[store]
path = "{}"

[log]
level = "debug"
{more}"#,
            folder.join("store").display()
        );
        let file = folder.join("lwm2mqtt.toml");
        fs::write(&file, configuration)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
        command.arg("run").arg("--config").arg(&file);
        let process = Process::start("lwm2mqtt", &mut command, &folder.join("agent.log"))?;
        Ok(Agent {
            server,
            folder: folder.to_owned(),
            process,
        })
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Asks with `coap-client`; gives its verbose output.
    pub fn coap(&self, arguments: &[&str], path: &str) -> Result<String> {
        let mut command = Command::new(coap_client()?);
        command.args(["-v", "7", "-B", "8"]).args(arguments);
        command
            .arg(format!("coap://{}{path}", self.server))
            .current_dir(&self.folder);
        let (_, output) = run(&mut command, PATIENCE).context("coap-client")?;
        Ok(output)
    }
}

/// libcoap's client, with or without DTLS.
pub fn coap_client() -> Result<PathBuf> {
    program(&[
        "coap-client-notls",
        "coap-client-openssl",
        "coap-client-gnutls",
        "coap-client",
    ])
}

/// The last lines that the agent logged in `folder`.
pub fn last_lines(folder: &Path) -> String {
    let text = fs::read_to_string(folder.join("agent.log")).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
