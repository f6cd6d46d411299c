//! libcoap's `coap-client` as a device that only registers, and bytes that are no CoAP at all.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::agent::Agent;
use crate::broker::{Broker, Memory};
use crate::{Stage, step};

/// A request by `coap-client`: the code of the answer, and the answer in full.
fn ask(agent: &Agent, method: &str, path: &str, arguments: &[&str]) -> Result<(String, String)> {
    let arguments = [&["-m", method][..], arguments].concat();
    let output = agent.coap(&arguments, path)?;
    let answer = output
        .lines()
        .rfind(|line| line.starts_with("v:1 ") && !line.contains(" c:0.0"));
    let answer = answer.with_context(|| format!("no answer to {method} {path}: {output}"))?;
    let code = answer
        .split(" c:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok((code.unwrap_or_default().to_owned(), answer.to_owned()))
}

fn location(answer: &str) -> Result<String> {
    let options = answer.split("Location-Path:").skip(1);
    let segments = options.filter_map(|rest| rest.split([',', ' ']).next());
    let path: String = segments.map(|segment| format!("/{segment}")).collect();
    ensure!(path.starts_with("/rd/"), "no location in {answer}");
    Ok(path)
}

/// The registration interface, one request after the other.
pub fn registration(stage: &Stage) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let agent = Agent::start(&stage.folder, broker.port, "5", "")?;
    broker.retained_is("lwm2mqtt/bridge/state", |state| state["state"] == "online")?;
    let port = UdpSocket::bind("127.0.0.1:0")?
        .local_addr()?
        .port()
        .to_string();
    let from = ["-p", &port];
    let watch = broker.watch("5")?;

    let links = ["-p", &port, "-t", "40", "-e", "</>;rt=\"oma.lwm2m\",</1/0>"];
    let (code, answer) = ask(&agent, "post", "/rd?b=U&lt=60&ep=raw&lwm2m=1.1", &links)?;
    ensure!(code == "2.01", "register: {answer}");
    let here = location(&answer)?;
    broker.retained_is("lwm2mqtt/d/raw/availability", |now| {
        now["state"] == "online"
    })?;
    step!("registered at {here}");

    let (code, answer) = ask(&agent, "post", &format!("{here}?lt=90"), &from)?;
    ensure!(code == "2.04", "update: {answer}");
    broker.retained_is("lwm2mqtt/d/raw/availability", |now| now["lifetime"] == 90)?;
    watch.sees("lwm2mqtt/bridge/event", |event| {
        event["type"] == "device_updated" && event["device"] == "raw"
    })?;
    step!("an update brought another lifetime");

    // In blocks of 64 bytes.
    let many: Vec<String> = (0..100)
        .map(|instance| format!("</3300/{instance}>"))
        .collect();
    let many = format!("</1/0>,{}", many.join(","));
    let blocks = ["-b", "64", "-t", "40", "-e", &many];
    let (code, answer) = ask(&agent, "post", "/rd?ep=blocks&lt=60&lwm2m=1.1&b=U", &blocks)?;
    ensure!(code == "2.01", "register in blocks: {answer}");
    broker.retained_is("lwm2mqtt/d/blocks", |birth| {
        birth["objects"]["3300"].is_string()
    })?;
    step!(
        "a registration of {} bytes came in blocks of 64",
        many.len()
    );

    let (code, answer) = ask(&agent, "delete", &here, &from)?;
    ensure!(code == "2.02", "de-register: {answer}");
    broker.retained_is("lwm2mqtt/d/raw/availability", |now| {
        now["reason"] == "deregistered"
    })?;
    step!("de-registered");

    let links = ["-t", "40", "-e", "</1/0>"];
    let refused: [(&str, &str, &[&str], &str); 9] = [
        ("delete", &here, &[], "4.04"),
        ("post", &here, &[], "4.04"),
        ("post", "/rd?lt=60&lwm2m=1.1", &links, "4.00"),
        ("post", "/rd?ep=&lt=60&lwm2m=1.1", &links, "4.00"),
        ("post", "/rd?ep=new&lt=soon&lwm2m=1.1", &links, "4.00"),
        ("post", "/rd?ep=new&lt=60&lwm2m=9.9", &links, "4.12"),
        (
            "post",
            "/rd?ep=new&lt=60&lwm2m=1.1",
            &["-t", "40", "-e", "<</1/0"],
            "4.00",
        ),
        (
            "post",
            "/rd?ep=new&lt=60&lwm2m=1.1",
            &["-O", "2049,x", "-t", "40", "-e", "</1/0>"],
            "4.02",
        ),
        ("post", "/nowhere", &links, "4.04"),
    ];
    for (method, path, arguments, wanted) in refused {
        let (code, answer) = ask(&agent, method, path, arguments)?;
        ensure!(
            code == wanted,
            "{method} {path} {arguments:?} should give {wanted}: {answer}"
        );
    }
    ensure!(
        broker.retained("lwm2mqtt/d/new")?.is_none(),
        "a refused registration left a device"
    );
    step!("nine wrong requests got their nine errors");
    Ok(())
}

/// Bytes from a stranger: reset or ignored, and the next registration works.
pub fn noise(stage: &Stage) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let mut agent = Agent::start(&stage.folder, broker.port, "5", "")?;
    broker.retained_is("lwm2mqtt/bridge/state", |state| state["state"] == "online")?;
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(&agent.server)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;

    // RFC 7252 §4.3: a ping is answered with a Reset of the same message id.
    socket.send(&[0x40, 0, 0x12, 0x34])?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer).context("no answer to a ping")?;
    ensure!(
        answer[..length] == [0x70, 0, 0x12, 0x34],
        "ping: {:02x?}",
        &answer[..length]
    );
    step!("a ping got its reset");

    socket.set_nonblocking(true)?;
    let mut state = 1_u32;
    for round in 0..20_000 {
        let mut bytes = [0; 80];
        for byte in &mut bytes {
            // xorshift32: the same noise every time.
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            *byte = state.to_le_bytes()[0];
        }
        // Every second one looks like a registration up to its options.
        if round % 2 == 0 {
            let [_, _, high, low, ..] = bytes;
            bytes[..7].copy_from_slice(&[0x40, 2, high, low, 0xb2, b'r', b'd']);
        }
        let length = usize::try_from(state % 80)?;
        socket.send(&bytes[..length])?;
        // What it answers is its own affair, as long as it goes on.
        while socket.recv(&mut answer).is_ok() {}
    }
    ensure!(agent.is_running(), "the agent has ended");
    step!("20000 datagrams of noise were survived");

    let links = ["-t", "40", "-e", "</1/0>"];
    let (code, answer) = ask(&agent, "post", "/rd?ep=quiet&lt=60&lwm2m=1.1&b=U", &links)?;
    ensure!(code == "2.01", "register after the noise: {answer}");
    broker.retained_is("lwm2mqtt/d/quiet/availability", |now| {
        now["state"] == "online"
    })?;
    Ok(())
}
