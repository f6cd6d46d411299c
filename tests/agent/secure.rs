//! The program behind DTLS, with real devices' end and real sockets.

mod flood;
mod restart;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rcgen::{CertificateParams, DnType};
use serde_json::Value as Json;

use crate::broker::{Broker, Subscriber};
use crate::front::{Authority, Files, Issued};
use crate::home::{Agent, Home, KEY, PROGRAM};

const VALUE: &str = "lwm2mqtt/d/sec-0/v/temperature-0/sensor-value";

/// A simulated device, and what it says.
struct Device {
    process: Agent,
    out: std::path::PathBuf,
}

impl Device {
    /// A device `{prefix}0`, which prints JSON.
    fn start(home: &Home, prefix: &str, arguments: &[&str]) -> Self {
        let out = home.folder.join(format!("{prefix}.json"));
        let server = format!("coaps://127.0.0.1:{}", home.coaps);
        let common = ["--json", "simulate", "--server", &server];
        let process = Command::new(PROGRAM)
            .args(common)
            .args(["--endpoint-prefix", prefix, "--interval", "200ms"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(out.with_extension("err")).unwrap())
            .spawn();
        let process = Agent(process.unwrap());
        Self { process, out }
    }

    /// One with this key.
    fn with_key(home: &Home, prefix: &str, key: &str) -> Self {
        Self::start(home, prefix, &["--psk-key", key, "--lifetime", "6s"])
    }

    /// The lines of one kind.
    fn said(&self, event: &str) -> Vec<Json> {
        let text = fs::read_to_string(&self.out).unwrap();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str::<Json>(line).unwrap());
        lines.filter(|line| line["event"] == event).collect()
    }

    /// Waits for its end, which has to be a failure, and gives the sentence on standard error.
    fn fails(mut self) -> String {
        let status = self.process.0.wait().unwrap();
        assert_eq!(status.code(), Some(1));
        fs::read_to_string(self.out.with_extension("err")).unwrap()
    }
}

/// As `lwm2mqtt device add NAME --psk-identity NAME`.
fn add(home: &Home, name: &str) {
    home.ok(&[
        "device",
        "add",
        name,
        "--psk-identity",
        name,
        "--psk-key",
        KEY,
    ]);
}

#[tokio::test]
async fn a_device_with_the_right_key_arrives_at_the_broker_and_one_with_another_does_not() {
    let broker = Broker::start();
    let home = Home::secured("psk", broker.port, "");
    add(&home, "sec-0");
    let agent = home.start();
    assert!(home.log().contains(&format!(
        "devices reach us at coaps://127.0.0.1:{}",
        home.coaps
    )));
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;

    let wrong = &KEY.replace("50", "51");
    let arguments = ["--psk-key", wrong, "--for", "1s"];
    let intruder = Device::start(&home, "sec-", &arguments);
    let stranger = Device::start(&home, "who-", &["--psk-key", KEY, "--for", "1s"]);
    home.wait(|| {
        home.log()
            .contains("the key of PSK identity \"sec-0\" is not the one we have")
    });
    let told = consumer
        .wait_for(|got| got.topic == "lwm2mqtt/bridge/event")
        .await;
    assert!(told.payload.contains("\"type\":\"handshake_failed\""));
    home.wait(|| home.log().contains("PSK identity \"who-0\" is not known"));
    for failed in [intruder, stranger] {
        let sentence = failed.fails();
        assert!(sentence.contains("its key is not ours?"), "{sentence}");
    }

    let device = Device::with_key(&home, "sec-", KEY);
    let value = consumer.wait_for(|got| got.topic == VALUE).await;
    let value: Json = serde_json::from_str(&value.payload).unwrap();
    assert!(value["value"].is_f64());
    let secured = device.said("secured");
    assert_eq!(secured[0]["suite"], "TLS_PSK_WITH_AES_128_CCM_8");
    assert_eq!(home.json(&["status"])["sessions"], 1);

    // A command goes the other way.
    let topic = "lwm2mqtt/d/sec-0/set/light-control-0/on-off";
    consumer
        .request(topic, r#"{"value":true}"#, None, None)
        .await;
    home.wait(|| !device.said("written").is_empty());

    // Whoever is removed is out at once.
    home.ok(&["device", "remove", "sec-0"]);
    home.wait(|| !device.said("not_secured").is_empty());
    assert_eq!(home.json(&["status"])["sessions"], 0);
    drop(agent);
}

/// A certificate for a device of this name.
fn certificate(authority: &Authority, name: &str) -> Issued {
    authority.issue(&[], |params: &mut CertificateParams| {
        params.distinguished_name.push(DnType::CommonName, name);
    })
}

#[tokio::test]
async fn a_certificate_of_the_authority_is_the_endpoint_of_its_name() {
    let broker = Broker::start();
    let files = Files::new("x509");
    let (authority, rogue) = (Authority::new("fleet"), Authority::new("fleet"));
    let ours = authority.issue(&["localhost"], |_| {});
    let ca = files.write("ca.pem", &authority.pem);
    let devices = format!(
        "cert_file = {:?}\nkey = {{ file = {:?} }}\nca_file = {ca:?}",
        files.write("ours.pem", &ours.certificate),
        files.write("ours.key", &ours.key),
    );
    let home = Home::secured("x509", broker.port, &devices);
    let second = Authority::new("second");
    let second_ca = files.write("second.pem", &second.pem);
    let in_file = format!("[[authority]]\nca_file = {second_ca:?}\n");
    home.write_devices("10.toml", &in_file);
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/#").await;
    let start = |prefix: &str, issued: &Issued, more: &[&str]| {
        let cert = files.write(&format!("{prefix}.pem"), &issued.certificate);
        let key = files.write(&format!("{prefix}.key"), &issued.key);
        let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
        let ca = ca.to_str().unwrap();
        let common = ["--cert", cert, "--key", key, "--ca", ca];
        let name = ["--server-name", "localhost"];
        Device::start(&home, prefix, &[&common[..], &name, more].concat())
    };
    let member = start("sec-", &certificate(&authority, "sec-0"), &[]);
    consumer.wait_for(|got| got.topic == VALUE).await;
    let suite = member.said("secured")[0]["suite"].to_string();
    assert!(suite.contains("TLS_ECDHE_ECDSA_WITH_AES_128_"), "{suite}");

    let guest = start("gst-", &certificate(&second, "gst-0"), &[]);
    let value = VALUE.replace("sec-0", "gst-0");
    consumer.wait_for(|got| got.topic == value).await;

    // One whom another authority vouches for, which calls itself the same.
    let intruder = start("rog-", &certificate(&rogue, "rog-0"), &["--for", "1s"]);
    home.wait(|| {
        home.log()
            .contains("its certificate \"rog-0\" is signed by no authority that we trust")
    });
    // One of the fleet that takes another's name.
    let thief = start("thf-", &certificate(&authority, "sec-0"), &["--for", "1s"]);
    home.wait(|| {
        home.log().contains(
            "certificate \"sec-0\" is for endpoint \"sec-0\", and the device says that it is \"thf-0\"",
        )
    });
    let sentence = intruder.fails();
    assert!(
        sentence.contains("does not trust the authority"),
        "{sentence}"
    );
    let sentence = thief.fails();
    assert!(sentence.contains("4.00"), "{sentence}");
    consumer.wait_for(|got| got.topic == VALUE).await;
    let gone = home.json(&["device", "list"]);
    assert!(!gone.to_string().contains("rog-0"), "{gone}");

    // An authority that is not trusted any more takes its devices along, and no others.
    fs::remove_file(home.folder.join("devices.d/10.toml")).unwrap();
    home.wait(|| !guest.said("not_secured").is_empty());
    assert_eq!(home.json(&["device", "show", "gst-0"])["state"], "offline");
    home.wait(|| {
        home.log()
            .contains("its certificate \"gst-0\" is signed by no authority that we trust")
    });
    consumer.wait_for(|got| got.topic == VALUE).await;
    assert_eq!(member.said("secured").len(), 1);
    drop((agent, member));
}

#[tokio::test]
async fn no_key_of_a_secured_device_is_in_any_output() {
    let broker = Broker::start();
    let home = Home::secured("quiet", broker.port, "");
    let mut seen = home.ok(&[
        "device",
        "add",
        "sec-0",
        "--psk-identity",
        "sec-0",
        "--psk-key",
        KEY,
    ]);
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "#").await;
    let device = Device::with_key(&home, "sec-", KEY);
    let wrong = Device::with_key(&home, "sec-", &KEY.replace("11", "12"));
    for topic in [VALUE, "lwm2mqtt/bridge/event", VALUE] {
        consumer.wait_for(|got| got.topic == topic).await;
    }
    for arguments in [
        &["device", "list"][..],
        &["device", "list", "--json"],
        &["device", "show", "sec-0"],
        &["status"],
        &["status", "--json"],
    ] {
        seen += &home.ok(arguments);
    }
    for verb in ["device/list", "status"] {
        let topic = format!("lwm2mqtt/bridge/request/{verb}");
        consumer.request(&topic, "", None, None).await;
    }
    while let Ok(Some(got)) =
        tokio::time::timeout(Duration::from_millis(300), consumer.next()).await
    {
        seen += &format!("{} {}\n", got.topic, got.payload);
        if got.topic.ends_with("response/status") {
            break;
        }
    }
    let outputs = [&device.out, &wrong.out].map(|out| {
        let err = fs::read_to_string(out.with_extension("err")).unwrap();
        fs::read_to_string(out).unwrap() + &err
    });
    agent.terminate();
    seen += &home.log();
    seen += &outputs.concat();
    assert!(seen.contains("\"sec-0\"") && seen.contains("response/status"));
    let seen = seen.to_lowercase();
    for form in [
        "5034732477307264",
        "p4s$w0rd",
        "udrzjhcwcmsqu8zd7v8aeq",
        "80, 52, 115, 36, 119, 48, 114, 100",
        "50:34:73:24",
        "50 34 73 24",
    ] {
        assert!(!seen.contains(form), "{form}");
    }
    // What lies on the disk for the next start is sealed.
    let sealed = fs::read(home.folder.join("store/sessions.sealed")).unwrap();
    let raw = [0x50, 0x34, 0x73, 0x24, 0x77, 0x30, 0x72, 0x64];
    assert!(!sealed.windows(8).any(|window| window == raw));
}
