//! The agent under test: the binary as it is built, with a configuration file of its own.

use std::env;
use std::fs;
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::peers::program;
use crate::process::{PATIENCE, Process, run};

/// A free UDP port of the loopback, as free as [`crate::broker::free_tcp_port`].
pub fn free_udp_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A running `lwm2mqtt run`.
pub struct Agent {
    /// Where devices register without security; refused where [`Agent::with`] did not name it.
    pub server: String,
    folder: PathBuf,
    /// Where the command line talks to it. Not in the folder: such a path must be short.
    socket: PathBuf,
    process: Process,
}

impl Agent {
    /// Starts it against the broker on `port`, for devices without security.
    pub fn start(folder: &Path, broker: u16, version: &str, more: &str) -> Result<Agent> {
        let server = format!("127.0.0.1:{}", free_udp_port()?);
        let devices = format!(
            r#"coap = ["{server}"]
coaps = []
join = "open"

[devices.bootstrap]
coaps = []
"#
        );
        let mut agent = Agent::with(folder, broker, version, &devices, more)?;
        agent.server = server;
        Ok(agent)
    }

    /// Starts it with these lines in section `[devices]`, and `more` at the end of its configuration.
    pub fn with(
        folder: &Path,
        broker: u16,
        version: &str,
        devices: &str,
        more: &str,
    ) -> Result<Agent> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let count = STARTED.fetch_add(1, Ordering::Relaxed);
        let socket = env::temp_dir().join(format!("lwm2mqtt-{}-{count}.sock", process::id()));
        let configuration = format!(
            r#"[gateway]
id = "interop"

[mqtt]
url = "mqtt://127.0.0.1:{broker}"
version = "{version}"

[devices]
files = []
lifetime_grace = "1s"
{devices}
[mappings]
paths = []

[models]
paths = []

[store]
path = "{}"

[admin]
socket = "{}"

[log]
level = "debug"
{more}"#,
            folder.join("store").display(),
            socket.display()
        );
        let file = folder.join("lwm2mqtt.toml");
        fs::write(&file, configuration)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
        command.arg("run").arg("--config").arg(&file);
        let process = Process::start("lwm2mqtt", &mut command, &folder.join("agent.log"))?;
        Ok(Agent {
            server: String::new(),
            folder: folder.to_owned(),
            socket,
            process,
        })
    }

    /// A command of the command line on this agent; what it printed, if it went well.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        self.command_within(PATIENCE, words)
    }

    /// The same for a command that takes its time.
    pub fn command_within(&self, limit: Duration, words: &[&str]) -> Result<String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
        command
            .args(words)
            .arg("--config")
            .arg(self.folder.join("lwm2mqtt.toml"));
        let (code, output) = run(&mut command, limit)?;
        ensure!(code == 0, "{words:?} ended with {code}: {output}");
        Ok(output)
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
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

impl Drop for Agent {
    fn drop(&mut self) {
        // It may never have been there.
        let _ = fs::remove_file(&self.socket);
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
