//! `lwm2mqtt device …` and `status`: on a running agent, and on the store alone.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Output, Stdio};

use crate::broker::{Broker, Subscriber};
use crate::home::{Home, KEY};

#[test]
fn without_an_agent_the_commands_work_on_the_store() {
    let home = Home::new("store", 1, "");
    assert!(home.ok(&["device", "list"]).contains("no devices"));
    let argument = [
        "device",
        "add",
        "sec1",
        "--psk-identity",
        "id1",
        "--psk-key",
        "5034732477307264",
    ];
    let output = home.run(&argument);
    assert!(output.status.success(), "{output:?}");
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.contains("list of processes (ps)") && warning.contains("8 bytes"),
        "{warning}"
    );
    let twice = home.fails(1, &argument);
    assert!(
        twice.contains("endpoint \"sec1\" has a record already"),
        "{twice}"
    );

    let key_file = home.folder.join("key");
    fs::write(&key_file, format!("{KEY}\n")).unwrap();
    let from_file = [
        "device",
        "add",
        "sec2",
        "--endpoint",
        "urn:2",
        "--bootstrap",
        "--psk-identity",
        "id2",
        "--psk-key-file",
        key_file.to_str().unwrap(),
    ];
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(home.fails(1, &from_file).contains("chmod 600"));
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
    let added = home.ok(&from_file);
    assert!(
        added.contains("PSK identity id2 for the bootstrap server"),
        "{added}"
    );

    let mut child = home
        .command(&["device", "add", "sec3", "--psk-identity", "id3", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(KEY.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());

    home.ok(&["device", "approve", "dev4", "--name", "cellar"]);
    assert_eq!(home.names(), ["cellar", "sec1", "sec2", "sec3"]);
    let shown = home.ok(&["device", "show", "urn:2"]);
    assert!(shown.contains("bootstrap identity  id2"), "{shown}");
    let table = home.ok(&["device", "list"]);
    assert!(
        table.contains("NAME    ENDPOINT  SECURITY") && !table.contains("5034"),
        "{table}"
    );
    home.ok(&["device", "remove", "urn:2"]);
    let gone = home.fails(1, &["device", "remove", "sec2"]);
    assert!(gone.contains("no device is called \"sec2\""), "{gone}");
    assert_eq!(home.names(), ["cellar", "sec1", "sec3"]);

    assert_eq!(
        (home.mode("store"), home.mode("store/lwm2mqtt.db")),
        (0o700, 0o600)
    );
    for needs_agent in [
        &["device", "join", "--for", "2m"][..],
        &["device", "bootstrap", "sec1"],
        &["status"],
    ] {
        let sentence = home.fails(1, needs_agent);
        assert!(sentence.contains("this needs one: start it"), "{sentence}");
    }
}

#[test]
fn what_the_command_line_does_not_understand_is_a_usage_error() {
    let home = Home::new("usage", 1, "");
    for arguments in [
        &["device", "add", "x"][..],
        &["device", "add", "x", "--psk-key", "00"],
        &["device", "add", "x", "--psk-identity", "x"],
        &["device", "add", "x", "--psk-generate", "--cert", "x.pem"],
        &["device", "add", "x", "--cert", "x.pem", "--bootstrap"],
        &["device", "join"],
        &["device", "join", "--for", "soon"],
        &["device"],
    ] {
        home.fails(64, arguments);
    }
    let no_key = [
        "device",
        "add",
        "x",
        "--psk-identity",
        "x",
        "--psk-key",
        "hunter2",
    ];
    let sentence = home.fails(1, &no_key);
    assert!(
        sentence.contains("hexadecimal") && !sentence.contains("hunter2"),
        "{sentence}"
    );
}

#[test]
fn a_generated_key_is_shown_once_as_text_and_as_a_qr_code() {
    let home = Home::secured("generate", 1, "");
    let shown = home.ok(&["device", "add", "m1", "--psk-generate", "--qr"]);
    let line = shown.lines().find(|line| line.contains("key  ")).unwrap();
    let key = line.split_whitespace().last().unwrap().to_owned();
    assert_eq!(key.len(), 32);
    assert!(
        shown.contains("identity  m1") && shown.contains('█'),
        "{shown}"
    );
    let server = format!("coaps://127.0.0.1:{}", home.coaps);
    assert!(shown.contains(&server), "{shown}");
    let generate = [
        "device",
        "add",
        "m2",
        "--endpoint",
        "urn:m2",
        "--psk-generate",
    ];
    let added = home.json(&generate);
    assert_eq!(added["psk_identity"], "urn:m2");
    assert_eq!(added["key"].as_str().unwrap().len(), 32);
    for later in [&["device", "list", "--json"][..], &["device", "show", "m1"]] {
        assert!(!home.ok(later).contains(&key));
    }
}

#[test]
fn a_certificate_is_stored_by_its_fingerprint() {
    let home = Home::new("cert", 1, "");
    let file = home.folder.join("m1.der");
    // A SEQUENCE with a SEQUENCE in it: what a certificate is on the outside.
    let der = [&[0x30, 0x81, 0x80, 0x30][..], &[0; 0x7f]].concat();
    fs::write(&file, &der).unwrap();
    let path = file.to_str().unwrap();
    let added = home.json(&["device", "add", "m1", "--cert", path]);
    assert_eq!(added["security"], serde_json::json!(["certificate"]));
    assert_eq!(added["cert_sha256"].as_str().unwrap().len(), 64);
    let twice = home.fails(1, &["device", "add", "m2", "--cert", path]);
    assert!(
        twice.contains("this certificate belongs to device \"m1\""),
        "{twice}"
    );
    fs::write(&file, "hello").unwrap();
    let bad = home.fails(1, &["device", "add", "m2", "--cert", path]);
    assert!(bad.contains("is no certificate"), "{bad}");
}

#[tokio::test]
async fn a_running_agent_lets_in_and_puts_out_as_it_is_told() {
    let broker = Broker::start();
    let home = Home::new("agent", broker.port, "join = \"window\"");
    let agent = home.start();
    assert_eq!(home.mode("admin.sock"), 0o660);
    let status = home.ok(&["status"]);
    assert!(
        status.contains("window, the window is closed") && status.contains("is without security"),
        "{status}"
    );
    let mut consumer = Subscriber::connect(broker.port, "lwm2mqtt/d/#").await;

    let said = home.ok(&["device", "join", "--for", "1m 30s"]);
    assert!(said.contains("open for 1m 30s"), "{said}");
    let device = home.simulate("sim-");
    consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/sim-0/availability")
        .await;
    home.ok(&["device", "join", "--close"]);
    home.wait(|| home.log().contains("the join window is closed"));
    assert_eq!(home.json(&["device", "show", "sim-0"])["state"], "online");
    assert!(home.ok(&["status"]).contains("1 online"));

    // It was approved for good: a new agent on the same store knows it.
    drop(agent);
    let agent = home.start();
    assert_eq!(home.names(), ["sim-0"]);
    let second = home.fails(1, &["run"]);
    assert!(second.contains("in use by another lwm2mqtt"), "{second}");

    drop(device);
    let device = home.simulate("sim-");
    home.wait(|| home.json(&["device", "show", "sim-0"])["state"] == "online");
    home.ok(&["device", "remove", "sim-0"]);
    consumer
        .wait_for(|got| got.topic == "lwm2mqtt/d/sim-0/availability" && got.payload.is_empty())
        .await;
    drop((agent, device));
    assert_eq!(home.names(), [""; 0]);
}

#[test]
fn files_of_devices_are_taken_without_a_restart() {
    let home = Home::new("files", 1, "");
    let first =
        format!("[[device]]\nname = \"m1\"\npsk = {{ identity = \"m1\", key = \"{KEY}\" }}\n");
    home.write_devices("10.toml", &first);
    let agent = home.start();
    assert_eq!(home.names(), ["m1"]);
    let in_file = home.fails(1, &["device", "remove", "m1"]);
    assert!(in_file.contains("10.toml; change that file"), "{in_file}");

    home.write_devices("20.toml", "[[device]]\nname = \"m2\"\n");
    home.wait(|| home.names() == ["m1", "m2"]);
    // A file with a mistake leaves what it held, and it is said where.
    home.write_devices("20.toml", "[[device]]\nname = \"m3\"\nkey = \"x\"\n");
    home.wait(|| home.log().contains("20.toml:3:1: error[unknown-key]"));
    assert_eq!(home.names(), ["m1", "m2"]);
    let clash = "[[device]]\nname = \"m3\"\n[[device]]\nname = \"m1\"\n";
    home.write_devices("20.toml", clash);
    home.wait(|| home.log().contains("20.toml:4:1: error[conflict]"));
    assert_eq!(home.names(), ["m1", "m2"]);
    let found = home.fails(78, &["check"]);
    assert!(found.contains("20.toml:4:1: error[conflict]"), "{found}");
    assert!(!found.contains(KEY));

    fs::remove_file(home.folder.join("devices.d/20.toml")).unwrap();
    home.wait(|| home.names() == ["m1"]);
    // SIGHUP reads everything again, and ends nothing.
    let read = || home.log().matches("files of devices read: 1").count();
    let before = read();
    let pid = rustix::process::Pid::from_child(&agent.0);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    home.wait(|| read() > before);
    assert_eq!(home.names(), ["m1"]);
}

#[test]
fn a_store_that_is_damaged_stops_the_agent_and_stays_as_it_is() {
    let home = Home::new("damaged", 1, "");
    home.ok(&["device", "approve", "dev1"]);
    let database = home.folder.join("store/lwm2mqtt.db");
    let rubbish = b"not a database, but somebody's last will ".repeat(100);
    fs::write(&database, &rubbish).unwrap();
    for arguments in [&["run"][..], &["device", "list"]] {
        let sentence = home.fails(1, arguments);
        assert!(sentence.contains("is damaged"), "{sentence}");
    }
    assert_eq!(fs::read(&database).unwrap(), rubbish);
}

#[tokio::test]
async fn no_key_is_in_the_log_on_mqtt_or_in_any_answer() {
    let broker = Broker::start();
    let home = Home::new("secret", broker.port, "join = \"known\"");
    let file =
        format!("[[device]]\nname = \"m0\"\npsk = {{ identity = \"m0\", key = \"{KEY}\" }}\n");
    home.write_devices("10.toml", &file);
    let agent = home.start();
    let mut consumer = Subscriber::connect(broker.port, "#").await;
    let seen = RefCell::new(String::new());
    let keep = |output: Output| {
        let mut seen = seen.borrow_mut();
        seen.push_str(&String::from_utf8(output.stdout).unwrap());
        seen.push_str(&String::from_utf8(output.stderr).unwrap());
    };
    let add = [
        "device",
        "add",
        "m1",
        "--psk-identity",
        "m1",
        "--psk-key",
        KEY,
    ];
    keep(home.run(&add));
    keep(home.run(&add));
    // The simulated device m0 comes without the key that it has.
    let _device = home.simulate("m");
    for arguments in [
        &["device", "list"][..],
        &["device", "list", "--json"],
        &["device", "show", "m1"],
        &["status"],
        &["status", "--json"],
        &["check"],
    ] {
        keep(home.run(arguments));
    }
    consumer
        .wait_for(|got| {
            seen.borrow_mut().push_str(&got.payload);
            got.topic == "lwm2mqtt/bridge/event" && got.payload.contains("has a credential")
        })
        .await;
    for verb in ["device/list", "status"] {
        let topic = format!("lwm2mqtt/bridge/request/{verb}");
        consumer.request(&topic, "", None, None).await;
        let topic = format!("lwm2mqtt/bridge/response/{verb}");
        consumer
            .wait_for(|got| {
                seen.borrow_mut().push_str(&got.payload);
                got.topic == topic
            })
            .await;
    }
    home.ok(&["device", "remove", "m1"]);
    drop(agent);
    let seen = format!("{}{}", seen.into_inner(), home.log()).to_lowercase();
    assert!(seen.contains("\"m1\"") && seen.contains("has a credential"));
    for form in [
        "5034732477307264",
        "p4s$w0rd",
        "udrzjhcwcmsqu8zd7v8aeq",
        "80, 52, 115, 36, 119, 48, 114, 100",
    ] {
        assert!(!seen.contains(form), "{form}");
    }
}
