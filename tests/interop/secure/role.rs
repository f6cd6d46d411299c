//! Our client role, `lwm2mqtt simulate`, towards servers of other makes.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::message::Carrier;
use super::{KEY, KEY_TEXT, Pki, text};
use crate::agent::free_udp_port;
use crate::nat::Nat;
use crate::peers::{leshan_server, program};
use crate::process::Process;
use crate::table::{What, Who};
use crate::{Case, Need, Stage, step};

const OPENSSL: Need = Need::Program("openssl");

pub fn cases() -> Vec<Case> {
    vec![
        Case::new(
            "secure client openssl psk",
            OPENSSL,
            &[(Who::OpensslServer, What::PskCcm8)],
            |stage| {
                let server = [
                    "-nocert",
                    "-psk",
                    KEY,
                    "-cipher",
                    "PSK-AES128-CCM8:@SECLEVEL=0",
                ];
                s_server(stage, &server, &PSK)
            },
        ),
        Case::new(
            "secure client openssl x509",
            OPENSSL,
            &[
                (Who::OpensslServer, What::X509Ccm8),
                (Who::OpensslServer, What::X509Gcm),
            ],
            |stage| {
                for suite in ["ECDHE-ECDSA-AES128-CCM8", "ECDHE-ECDSA-AES128-GCM-SHA256"] {
                    s_server_x509(stage, suite)?;
                }
                Ok(())
            },
        ),
        Case::new(
            "secure client openssl refused",
            OPENSSL,
            &[(Who::OpensslServer, What::Refused)],
            s_server_refused,
        ),
        Case::new(
            "secure client coap-server-openssl",
            Need::Program("coap-server-openssl"),
            &[(Who::CoapServerOpenssl, What::PskCcm8)],
            |stage| libcoap(stage, "coap-server-openssl"),
        ),
        Case::new(
            "secure client coap-server-gnutls",
            Need::Program("coap-server-gnutls"),
            &[(Who::CoapServerGnutls, What::PskCcm8)],
            |stage| libcoap(stage, "coap-server-gnutls"),
        ),
        Case::new(
            "secure client coap-rd-openssl",
            Need::Program("coap-rd-openssl"),
            &[(Who::CoapRdOpenssl, What::PskCcm8)],
            resource_directory,
        ),
        Case::new(
            "secure client leshan-2 psk",
            Need::LeshanServer,
            &[(Who::LeshanServer, What::PskCcm8)],
            leshan_psk,
        ),
        Case::new(
            "secure client leshan-2 x509",
            Need::LeshanServer,
            &[(Who::LeshanServer, What::X509Ccm8)],
            leshan_x509,
        ),
        Case::new(
            "secure client leshan-2 cid",
            Need::LeshanServer,
            &[(Who::LeshanServer, What::Cid)],
            leshan_cid,
        ),
    ]
}

const PSK: [&str; 4] = ["--psk-identity", "id1", "--psk-key", KEY];

/// One simulated device, `dev-0`, towards this server.
fn simulate(stage: &Stage, server: &str, credential: &[&str]) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lwm2mqtt"));
    command.args(["simulate", "--server", &format!("coaps://{server}")]);
    command.args(["--endpoint-prefix", "dev-", "--json"]);
    command.args(credential);
    Process::start("simulate", &mut command, &stage.folder.join("agent.log"))
}

/// Waits for a line of the simulated device that says this.
fn says(device: &mut Process, word: &str) -> Result<String> {
    let mut seen = Vec::new();
    loop {
        match device.line(crate::process::PATIENCE) {
            Some(line) if line.contains(word) => return Ok(line),
            Some(line) => seen.push(line),
            None => anyhow::bail!("it never said \"{word}\", only {seen:?}"),
        }
    }
}

/// The answer 2.01 to the Register among these bytes, if it is there.
fn created(bytes: &[u8]) -> Option<Vec<u8>> {
    // Its first option is the Uri-Path; header and token stand before that.
    let path = bytes.windows(3).position(|window| window == b"\xb2rd")?;
    (0..=8_u8).find_map(|length| {
        let start = path.checked_sub(4 + usize::from(length))?;
        let request = bytes.get(start..path)?;
        let [first, 2, rest @ ..] = request else {
            return None;
        };
        // A confirmable POST with a token of this length.
        (*first == 0x40 | length).then(|| {
            let header = [0x60 | length, 0x41];
            [&header[..], rest, b"\x82rd\x03one"].concat()
        })
    })
}

/// `openssl s_server` carries the bytes; what it got is answered by hand.
fn s_server(stage: &Stage, server: &[&str], credential: &[&str]) -> Result<()> {
    let port = free_udp_port()?;
    let mut command = Command::new(program(&["openssl"])?);
    command.args([
        "s_server",
        "-dtls1_2",
        "-quiet",
        "-accept",
        &format!("127.0.0.1:{port}"),
    ]);
    command.args(server);
    let mut server = Carrier::start(&mut command, &stage.folder.join("s_server.log"))?;
    let mut device = simulate(stage, &format!("localhost:{port}"), credential)?;
    let answer = server
        .until(created)
        .with_context(|| format!("no Register came: {}", server.printed()))?;
    let answer = answer.with_context(|| format!("s_server ended: {}", server.printed()))?;
    ensure!(
        server.printed().contains("ep=dev-0"),
        "no endpoint name in {}",
        server.printed()
    );
    server.send(&answer)?;
    let line = says(&mut device, "registered")?;
    step!("it registered: {line}");
    Ok(())
}

fn s_server_x509(stage: &Stage, suite: &str) -> Result<()> {
    let pki = Pki::of(stage, "dev-0")?;
    let cipher = format!("{suite}:@SECLEVEL=0");
    let files: Vec<_> = [
        "server.pem",
        "server.key",
        "ca.pem",
        "device.pem",
        "device.key",
    ]
    .iter()
    .map(|name| pki.file(name))
    .collect();
    let files: Result<Vec<&str>> = files.iter().map(|file| text(file)).collect();
    let [cert, key, ca, device, device_key] = files?[..] else {
        anyhow::bail!("five files");
    };
    let server = [
        "-cert",
        cert,
        "-key",
        key,
        "-CAfile",
        ca,
        "-cipher",
        &cipher,
        "-Verify",
        "2",
        "-verify_return_error",
    ];
    let credential = ["--cert", device, "--key", device_key, "--ca", ca];
    s_server(stage, &server, &credential).with_context(|| suite.to_owned())?;
    step!("{suite}: each checked the other's certificate");
    Ok(())
}

/// A server that is not the one it should be gets no Register.
fn s_server_refused(stage: &Stage) -> Result<()> {
    let pki = Pki::of(stage, "dev-0")?;
    let port = free_udp_port()?;
    for (name, ca, wanted, reason) in [
        (
            "rogue",
            "ca",
            "localhost",
            "is signed by no authority that we trust",
        ),
        (
            "server",
            "rogue-ca",
            "localhost",
            "is signed by no authority that we trust",
        ),
        ("server", "ca", "other.example", "is for another name"),
        ("expired", "ca", "dev-0", "has expired"),
    ] {
        let mut command = Command::new(program(&["openssl"])?);
        let place = format!("127.0.0.1:{port}");
        command.args(["s_server", "-dtls1_2", "-quiet", "-accept", &place]);
        command.args(["-cipher", "ECDHE-ECDSA-AES128-CCM8:@SECLEVEL=0"]);
        command.arg("-cert").arg(pki.file(&format!("{name}.pem")));
        command.arg("-key").arg(pki.file(&format!("{name}.key")));
        let log = stage.folder.join("s_server.log");
        let server = Carrier::start(&mut command, &log)?;
        let (cert, key) = (pki.file("device.pem"), pki.file("device.key"));
        let trusted = pki.file(&format!("{ca}.pem"));
        let credential = [
            "--cert",
            text(&cert)?,
            "--key",
            text(&key)?,
            "--ca",
            text(&trusted)?,
            "--server-name",
            wanted,
        ];
        let mut device = simulate(stage, &place, &credential)?;
        let line = says(&mut device, reason)?;
        ensure!(!server.printed().contains("ep="), "it registered");
        step!("{name} for {wanted}, trusting {ca}: {line}");
    }
    Ok(())
}

/// libcoap's servers have no /rd; that they say so takes a session.
fn libcoap(stage: &Stage, name: &str) -> Result<()> {
    let (_server, port) = libcoap_server(stage, name)?;
    let mut device = simulate(stage, &format!("127.0.0.1:{port}"), &PSK)?;
    let line = says(&mut device, "4.0")?;
    step!("it is told that there is no /rd: {line}");
    Ok(())
}

/// Starts it; gives its port for DTLS, the one after that for CoAP.
fn libcoap_server(stage: &Stage, name: &str) -> Result<(Process, u16)> {
    let port = free_udp_port()?;
    let mut command = Command::new(program(&[name])?);
    command.args(["-A", "127.0.0.1", "-p", &port.to_string(), "-k", KEY_TEXT]);
    let log = stage.folder.join(format!("{name}.log"));
    let server = Process::start(name, &mut command, &log)?;
    Ok((server, port + 1))
}

fn resource_directory(stage: &Stage) -> Result<()> {
    let (_server, port) = libcoap_server(stage, "coap-rd-openssl")?;
    let server = format!("127.0.0.1:{port}");
    let mut device = simulate(stage, &server, &PSK)?;
    let line = says(&mut device, "registered")?;
    step!("with its key: {line}");
    Ok(())
}

/// Starts Leshan's server, and gives its port.
fn leshan(stage: &Stage, options: &[&str]) -> Result<(Process, u16)> {
    let port = free_udp_port()?;
    let mut command = leshan_server()?;
    command.arg(port.to_string()).args(options);
    let log = stage.folder.join("server.log");
    let mut server = Process::start("leshan-2's server", &mut command, &log)?;
    server.expect("listening")?;
    Ok((server, port))
}

/// It registers, and is read.
fn served(server: &mut Process, device: &mut Process) -> Result<()> {
    let line = server.expect("registered dev-0")?;
    says(device, "registered")?;
    server.tell("read dev-0 /3/0/0")?;
    let read = server.expect("read /3/0/0")?;
    ensure!(read.contains("CONTENT(205)"), "{read}");
    step!("the server says: {line}; {read}");
    Ok(())
}

fn leshan_psk(stage: &Stage) -> Result<()> {
    let (mut server, port) = leshan(stage, &[&format!("psk=dev-0:id1:{KEY}")])?;
    let place = format!("127.0.0.1:{port}");
    let mut device = simulate(stage, &place, &PSK)?;
    served(&mut server, &mut device)
}

fn leshan_x509(stage: &Stage) -> Result<()> {
    let pki = Pki::of(stage, "dev-0")?;
    let parts = [
        text(&pki.file("server.der"))?.to_owned(),
        text(&pki.file("server.key.der"))?.to_owned(),
        text(&pki.file("ca.der"))?.to_owned(),
        "dev-0".to_owned(),
    ];
    let (mut server, port) = leshan(stage, &[&format!("x509={}", parts.join(":"))])?;
    let (cert, key, ca) = (
        pki.file("device.pem"),
        pki.file("device.key"),
        pki.file("ca.pem"),
    );
    let credential = [
        "--cert",
        text(&cert)?,
        "--key",
        text(&key)?,
        "--ca",
        text(&ca)?,
    ];
    let mut device = simulate(stage, &format!("localhost:{port}"), &credential)?;
    served(&mut server, &mut device)
}

/// Our own address changes, and the server goes on with us by the connection ID that it gave us.
fn leshan_cid(stage: &Stage) -> Result<()> {
    let (mut server, port) = leshan(stage, &[&format!("psk=dev-0:id1:{KEY}"), "cid=6"])?;
    let nat = Nat::to(&format!("127.0.0.1:{port}"))?;
    let options = [&PSK[..], &["--lifetime", "10s"]].concat();
    let mut device = simulate(stage, &nat.address, &options)?;
    served(&mut server, &mut device)?;
    ensure!(
        !nat.records_with_cid().is_empty(),
        "no record of ours carries the server's connection ID"
    );
    let before = nat.port()?;
    nat.forget();
    nat.rebind()?;
    server.expect("updated dev-0")?;
    server.tell("read dev-0 /3/0/0")?;
    let read = server.expect("read /3/0/0")?;
    ensure!(read.contains("CONTENT(205)"), "{read}");
    ensure!(nat.handshakes() == 0, "it took a handshake");
    step!(
        "from port {before} to {}, without a handshake: {read}",
        nat.port()?
    );
    Ok(())
}
