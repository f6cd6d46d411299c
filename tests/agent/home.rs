//! The program with a configuration, store, socket and files of devices of its own.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value as Json;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_lwm2mqtt");
/// The key of a device, in hexadecimal.
pub(crate) const KEY: &str = "5034732477307264aabbccddeeff0011";

/// A configuration with store, socket and files of devices of its own; removed at the end of a test
/// that succeeds.
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    pub(crate) coap: u16,
    /// Where devices come in through DTLS; 0 for nowhere.
    pub(crate) coaps: u16,
}

/// An agent that dies with its test.
pub(crate) struct Agent(pub(crate) Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Agent {
    /// As systemd does; waits for the end.
    #[cfg(feature = "dtls")]
    pub(crate) fn terminate(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept: {}", self.folder.display());
        } else {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

impl Home {
    /// `broker` 1 is nobody.
    pub(crate) fn new(name: &str, broker: u16, devices: &str) -> Self {
        Self::listening(name, broker, 0, devices)
    }

    /// One where devices come in through DTLS as well.
    pub(crate) fn secured(name: &str, broker: u16, devices: &str) -> Self {
        Self::listening(name, broker, free_udp_port(), devices)
    }

    fn listening(name: &str, broker: u16, coaps: u16, devices: &str) -> Self {
        // The path of a socket has 107 bytes at most, so it is not below the target folder.
        let folder =
            std::env::temp_dir().join(format!("lwm2mqtt-cli-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("devices.d")).unwrap();
        let coap = free_udp_port();
        let secured = match coaps {
            0 => "coaps = []".to_owned(),
            port => format!(
                "coaps = [\"127.0.0.1:{port}\"]\nbootstrap = {{ coap = [], coaps = [], profiles = [] }}"
            ),
        };
        let text = format!(
            "[store]\npath = {:?}\n[admin]\nsocket = {:?}\n[mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\nadmin = \"all\"\n\
             [devices]\ncoap = [\"127.0.0.1:{coap}\"]\n{secured}\nfiles = [{:?}]\n{devices}\n\
             [mappings]\npaths = []\n[models]\npaths = []\n[log]\nlevel = \"trace\"\n",
            folder.join("store"),
            folder.join("admin.sock"),
            folder.join("devices.d"),
        );
        fs::write(folder.join("lwm2mqtt.toml"), text).unwrap();
        Self {
            folder,
            coap,
            coaps,
        }
    }

    /// Changes the configuration.
    pub(crate) fn set(&self, before: &str, after: &str) {
        let file = self.folder.join("lwm2mqtt.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(before));
        fs::write(&file, text.replace(before, after)).unwrap();
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .arg("--config")
            .arg(self.folder.join("lwm2mqtt.toml"));
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).stdin(Stdio::null()).output();
        output.unwrap()
    }

    /// Standard output of a command that has to succeed.
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Standard error of a command that has to fail with this code.
    pub(crate) fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        String::from_utf8(output.stderr).unwrap()
    }

    pub(crate) fn json(&self, arguments: &[&str]) -> Json {
        let arguments = [arguments, &["--json"]].concat();
        serde_json::from_str(&self.ok(&arguments)).unwrap()
    }

    /// The names of all devices.
    pub(crate) fn names(&self) -> Vec<String> {
        let list = self.json(&["device", "list"]);
        let entries = list.as_array().unwrap().iter();
        entries
            .map(|entry| entry["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Starts the agent and waits until it answers.
    pub(crate) fn start(&self) -> Agent {
        let log = fs::File::create(self.folder.join("log")).unwrap();
        let child = self.command(&["run"]).stderr(log).spawn().unwrap();
        let agent = Agent(child);
        self.wait(|| self.run(&["status"]).status.success());
        agent
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Waits until something is so.
    pub(crate) fn wait(&self, is_so: impl Fn() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{}", self.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn write_devices(&self, file: &str, text: &str) {
        let path = self.folder.join("devices.d").join(file);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub(crate) fn mode(&self, path: &str) -> u32 {
        fs::metadata(self.folder.join(path)).unwrap().mode() & 0o777
    }

    pub(crate) fn simulate(&self, prefix: &str) -> Agent {
        let server = format!("coap://127.0.0.1:{}", self.coap);
        let arguments = ["simulate", "--server", &server, "--endpoint-prefix", prefix];
        let child = Command::new(PROGRAM)
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Agent(child.unwrap())
    }
}

fn free_udp_port() -> u16 {
    let free = UdpSocket::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().port()
}
