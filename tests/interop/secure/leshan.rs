//! Leshan's client with keys, certificates, connection IDs, after a reboot, and through the bootstrap server.

use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::clients::served;
use super::{Gateway, KEY, Pki, text};
use crate::agent::free_udp_port;
use crate::device::Device;
use crate::nat::Nat;
use crate::peers::Peer;
use crate::process::{PATIENCE, eventually, run};
use crate::table::{What, Who};
use crate::{Case, Need, Stage, step};

const LESHAN: Need = Need::Device(Peer::Leshan2);
const TEMPERATURE: &str = "lwm2mqtt/d/sec1/v/temperature-0/sensor-value";

pub fn cases() -> Vec<Case> {
    let proves = |whats: &[What]| -> Vec<(Who, What)> {
        whats
            .iter()
            .map(|what| (Who::LeshanDevice, *what))
            .collect()
    };
    vec![
        Case::new(
            "secure leshan-2 psk suites",
            LESHAN,
            &proves(&[What::PskCcm, What::PskGcm, What::PskCbc, What::EcdhePskCbc]),
            psk_suites,
        ),
        Case::new(
            "secure leshan-2 x509",
            LESHAN,
            &proves(&[What::X509Ccm8, What::X509Gcm]),
            x509,
        ),
        Case::new("secure leshan-2 cid", LESHAN, &proves(&[What::Cid]), cid),
        Case::new(
            "secure leshan-2 reboot",
            LESHAN,
            &proves(&[What::Rehandshake]),
            reboot,
        ),
        Case::new(
            "secure leshan-2 bootstrap",
            LESHAN,
            &proves(&[What::Bootstrap]),
            bootstrap,
        ),
    ]
}

fn begin(stage: &Stage, server: &str, options: &[&str]) -> Result<Device> {
    let arguments = [&[server, "sec1", "300"][..], options].concat();
    Device::begin(stage, Peer::Leshan2, &arguments)
}

fn psk_of(identity: &str, key: &str) -> String {
    format!("psk={identity}:{key}")
}

fn psk(key: &str) -> String {
    psk_of("id1", key)
}

// conformance: 401
fn psk_suites(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    for (name, number) in [
        ("TLS_PSK_WITH_AES_128_CCM", 0xc0a4),
        ("TLS_PSK_WITH_AES_128_GCM_SHA256", 0x00a8),
        ("TLS_PSK_WITH_AES_128_CBC_SHA256", 0x00ae),
        ("TLS_ECDHE_PSK_WITH_AES_128_CBC_SHA256", 0xc037),
    ] {
        let nat = Nat::to(&gateway.coaps)?;
        let suite = format!("suite={name}");
        let mut device = begin(stage, &nat.address, &[&psk(KEY), &suite])?;
        device.registers().with_context(|| name.to_owned())?;
        ensure!(nat.suite()? == number, "the suite is {:#06x}", nat.suite()?);
        gateway.is_online("sec1")?;
        device.deregister()?;
        step!("registered and de-registered with {name}");
    }
    Ok(())
}

// conformance: 402
fn x509(stage: &Stage) -> Result<()> {
    let pki = Pki::of(stage, "sec1")?;
    let gateway = Gateway::with_certificates(stage, &pki)?;
    let files = [
        pki.file("device.der"),
        pki.file("device.key.der"),
        pki.file("server.der"),
    ];
    let files: Result<Vec<&str>> = files.iter().map(|file| text(file)).collect();
    let files = format!("x509={}", files?.join(":"));
    for (name, number) in [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_CCM_8", 0xc0ae),
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0xc02b),
    ] {
        let nat = Nat::to(&gateway.coaps)?;
        let suite = format!("suite={name}");
        let mut device = begin(stage, &nat.address, &[&files, &suite])?;
        device.registers().with_context(|| name.to_owned())?;
        ensure!(nat.suite()? == number, "the suite is {:#06x}", nat.suite()?);
        served(&gateway, &mut device, "sec1")?;
        device.deregister()?;
        step!("{name}: each took the other's certificate");
    }
    Ok(())
}

/// A port that the gateway knows nothing of, and what came back to it.
struct Stranger(UdpSocket);

impl Stranger {
    fn towards(gateway: &Gateway) -> Result<Stranger> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(&gateway.coaps)?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(Stranger(socket))
    }

    fn sends(&self, datagram: &[u8]) -> Result<()> {
        self.0.send(datagram)?;
        Ok(())
    }

    fn hears_nothing(&self) -> Result<()> {
        let mut buffer = [0; 2048];
        let heard = self.0.recv(&mut buffer);
        ensure!(
            heard.is_err(),
            "a stranger was sent {} bytes of type {}",
            heard.unwrap_or(0),
            buffer[0]
        );
        Ok(())
    }
}

// conformance: 1350
fn cid(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    let nat = Nat::to(&gateway.coaps)?;
    let suite = "suite=TLS_PSK_WITH_AES_128_CCM_8";
    let mut device = begin(stage, &nat.address, &[&psk(KEY), suite, "cid=0"])?;
    device.registers()?;
    served(&gateway, &mut device, "sec1")?;
    ensure!(
        !nat.records_with_cid().is_empty(),
        "no record of the device carries a connection ID"
    );

    let before = nat.port()?;
    nat.forget();
    nat.rebind()?;
    device.set("/3303/0/5700", "23.5")?;
    gateway
        .broker
        .retained_is(TEMPERATURE, |value| value["value"] == 23.5)?;
    ensure!(gateway.read("sec1", "/3/0/2", "moved")? == "sec1", "serial");
    ensure!(
        nat.handshakes() == 0,
        "it took a handshake to find the device again"
    );
    step!(
        "the device's port went from {before} to {}, and it is served as before, without a handshake",
        nat.port()?
    );

    // What went by already, once more from elsewhere.
    let replayed = Stranger::towards(&gateway)?;
    let seen = nat.records_with_cid();
    ensure!(!seen.is_empty(), "nothing to replay");
    for record in &seen {
        replayed.sends(record)?;
    }
    replayed.hears_nothing()?;
    ensure!(
        gateway.read("sec1", "/3/0/2", "replayed")? == "sec1",
        "serial"
    );
    replayed.hears_nothing()?;
    step!("{} replayed records moved nothing", seen.len());

    // Made up: a sequence number far ahead, and a byte of the payload changed.
    let forged = Stranger::towards(&gateway)?;
    for record in &seen {
        let mut forgery = record.clone();
        // Epoch and sequence number follow type and version (RFC 9146 §4).
        forgery[8] = forgery[8].wrapping_add(1);
        forged.sends(&forgery)?;
        if let Some(last) = forgery.last_mut() {
            *last ^= 1;
        }
        forged.sends(&forgery)?;
    }
    forged.hears_nothing()?;
    ensure!(
        gateway.read("sec1", "/3/0/2", "forged")? == "sec1",
        "serial"
    );
    forged.hears_nothing()?;
    step!("{} forged records moved nothing", 2 * seen.len());

    // Genuine, but overtaken: who delays a record must not get the session by it.
    nat.hold();
    device.set("/3303/0/5700", "24.5")?;
    let held = eventually("a record to hold back", || Ok(nat.held()))?;
    device.set("/3303/0/5700", "25.5")?;
    gateway
        .broker
        .retained_is(TEMPERATURE, |value| value["value"] == 25.5)?;
    let late = Stranger::towards(&gateway)?;
    late.sends(&held)?;
    late.hears_nothing()?;
    ensure!(gateway.read("sec1", "/3/0/2", "late")? == "sec1", "serial");
    late.hears_nothing()?;
    ensure!(nat.handshakes() == 0, "the device had to handshake again");
    step!("a genuine record that came late from elsewhere moved nothing");
    Ok(())
}

// conformance: P33
fn reboot(stage: &Stage) -> Result<()> {
    let gateway = Gateway::start(stage)?;
    gateway.add_psk("sec1", "id1")?;
    // What the gateway sees of either life of the device is the one port of the NAT.
    let nat = Nat::to(&gateway.coaps)?;
    let suite = "suite=TLS_PSK_WITH_AES_128_CCM_8";
    let mut device = begin(stage, &nat.address, &[&psk(KEY), suite])?;
    device.registers()?;
    served(&gateway, &mut device, "sec1")?;
    let port = nat.port()?;
    device.kill();
    nat.forget();

    let mut device = begin(stage, &nat.address, &[&psk(KEY), suite])?;
    device.registers()?;
    ensure!(nat.port()? == port, "the port has changed");
    ensure!(
        nat.handshakes() == 1,
        "it took {} handshakes",
        nat.handshakes()
    );
    // The new one begins with the value that every device begins with.
    served(&gateway, &mut device, "sec1")?;
    step!("from port {port} it handshook again once, and was served");
    Ok(())
}

/// The bootstrap profile that the README shows, so that what it shows works.
fn readme_profile() -> Result<String> {
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let (_, rest) = readme
        .split_once("# /etc/lwm2mqtt/bootstrap.d/here.toml\n")
        .context("the README has no bootstrap profile")?;
    let (profile, _) = rest.split_once("```").context("the profile has no end")?;
    ensure!(profile.contains("coaps://gw.example:5684"), "another URI");
    Ok(profile.to_owned())
}

// conformance: 0, 1
fn bootstrap(stage: &Stage) -> Result<()> {
    let coaps = format!("127.0.0.1:{}", free_udp_port()?);
    let readme = readme_profile()?;
    let profile = |uri: &str| {
        readme.replace("coaps://gw.example:5684", uri)
            + "\n[[object]]\npath = \"/3/0\"\nresources = { 14 = \"+02:00\" }\n"
    };
    let folder = stage.folder.join("bootstrap.d");
    fs::create_dir_all(&folder)?;
    let file = folder.join("here.toml");

    fs::write(
        &file,
        profile("coap://127.0.0.1:5683 ").replace("lifetime = 3600", "key = \"generate\""),
    )?;
    let mut check = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
    check.arg("check").arg(&file);
    let (code, printed) = run(&mut check, PATIENCE)?;
    ensure!(code == 78, "a key without DTLS passed the check: {printed}");
    step!("a profile that contradicts itself does not pass the check");

    fs::write(&file, profile(&format!("coaps://{coaps}")))?;
    let paths = format!("profiles = [\"{}\"]\n", folder.display());
    let gateway = Gateway::at(stage, coaps, "", &paths)?;
    gateway.add(
        "sec1",
        &["--bootstrap", "--psk-identity", "boot1", "--psk-key", KEY],
    )?;
    // It has a key for the bootstrap server alone.
    let mut device = begin(
        stage,
        &gateway.bootstrap,
        &[&psk_of("boot1", KEY), "bootstrap"],
    )?;
    device.expect("bootstrapped")?;
    gateway.says("bootstrap_done", &["sec1"])?;
    device.registers()?;
    gateway.is_online("sec1")?;
    let online = gateway
        .broker
        .retained_is("lwm2mqtt/d/sec1/availability", |now| {
            now["lifetime"] == 3600
        })?;
    served(&gateway, &mut device, "sec1")?;
    ensure!(
        gateway.read("sec1", "/3/0/14", "offset")? == "+02:00",
        "offset"
    );
    step!("with the key that it was given it registered: {online}");
    Ok(())
}
