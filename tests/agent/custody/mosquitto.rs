//! A mosquitto that comes back with what it had on the disk some time before it died.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::json;
use tokio::time::sleep;

use super::{Mortal, Stage};
use crate::broker::{Subscriber, free_port};
use crate::device::Device;

/// For so long the gateway may leave the sentinel as it is.
const SENTINEL: Duration = Duration::from_secs(12);

struct Mosquitto {
    port: u16,
    folder: PathBuf,
    child: Child,
}

impl Mosquitto {
    fn start() -> Self {
        let name = format!("lwm2mqtt-mosquitto-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        let port = free_port();
        let user = match rustix::process::geteuid().is_root() {
            true => "user root\n",
            false => "",
        };
        let text = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\n{user}max_queued_messages 0\n\
             persistence true\npersistence_location {}/\nautosave_interval 1\n",
            folder.display()
        );
        fs::write(folder.join("mosquitto.conf"), text).unwrap();
        let child = spawn(&folder, port);
        Self {
            port,
            folder,
            child,
        }
    }

    /// What it writes to the disk from now on is forgotten.
    fn remember(&self) {
        let (file, old) = (self.folder.join("mosquitto.db"), self.folder.join("old.db"));
        fs::copy(file, old).unwrap();
    }
}

fn spawn(folder: &std::path::Path, port: u16) -> Child {
    let mut log = fs::File::options();
    let log = log.create(true).append(true).open(folder.join("log"));
    let child = Command::new("mosquitto")
        .env("PATH", "/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
        .arg("-c")
        .arg(folder.join("mosquitto.conf"))
        .stdin(Stdio::null())
        .stderr(log.unwrap())
        .spawn()
        .expect("mosquitto: script/setup --interop installs it");
    let begun = std::time::Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no mosquitto");
        std::thread::sleep(Duration::from_millis(10));
    }
    child
}

impl Mortal for Mosquitto {
    fn port(&self) -> u16 {
        self.port
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn restart(&mut self) {
        let (file, old) = (self.folder.join("mosquitto.db"), self.folder.join("old.db"));
        fs::copy(old, file).unwrap();
        self.child = spawn(&self.folder, self.port);
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

#[tokio::test]
#[ignore = "needs mosquitto; `just interop` runs it"]
async fn no_acknowledged_sample_is_lost_with_a_mosquitto_that_goes_back_in_time() {
    let stage = Stage::set("custody-mosquitto", Mosquitto::start()).await;
    let (home, port) = (&stage.home, stage.broker.port);
    let server = format!("127.0.0.1:{}", home.coap).parse().unwrap();
    let _ghost = Device::register(server, "ghost", 5).await;
    let mut consumer = Subscriber::connect(port, "lwm2mqtt/d/+").await;
    consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/ghost")
        .await;
    // Written once a second.
    sleep(Duration::from_secs(2)).await;
    stage.broker.remember();
    // The device is removed: what stood of it then may not stand again.
    for (verb, request) in [
        ("approve", json!({ "endpoint": "ghost" })),
        ("remove", json!({ "name": "ghost" })),
    ] {
        let topic = format!("lwm2mqtt/bridge/request/device/{verb}");
        let request = request.to_string();
        consumer.request(&topic, &request, None, None).await;
    }
    consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/ghost" && got.payload.is_empty())
        .await;
    sleep(SENTINEL).await;
    stage.play().await;
}
