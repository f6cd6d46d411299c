//! A firmware update of Leshan's client by push, over a network that loses every tenth datagram.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::agent::{Agent, free_udp_port};
use crate::broker::{Broker, Memory};
use crate::device::{Device, is};
use crate::peers::Peer;
use crate::process::run;
use crate::{Stage, network, step};

/// Of the image: a thousand blocks of 1024 bytes.
const SIZE: usize = 1 << 20;
const LOSS: u32 = 10;
/// The longest that the transfer may take here.
const LIMIT: Duration = Duration::from_secs(400);

/// Plays [`push`] where datagrams are lost.
pub fn outside() -> Result<()> {
    network::play_inside("firmware-push leshan-2 inside", LOSS)
}

/// Pushes an image, has it installed, and sees that it is the very one.
// conformance: 1.1-int-755, 1.1-int-760, 1.1-int-770
pub fn push(stage: &Stage) -> Result<()> {
    let broker = Broker::start(stage.folder.clone(), Memory::Lost)?;
    let server = format!("127.0.0.1:{}", free_udp_port()?);
    // The wire is short, so that a lost block need not be missed for two seconds.
    let devices = format!(
        "coap = [\"{server}\"]\ncoaps = []\njoin = \"open\"\nack_timeout = \"200ms\"\n[devices.bootstrap]\ncoaps = []\n"
    );
    let agent = Agent::with(&stage.folder, broker.port, "5", &devices, "")?;
    let mut device = Device::begin(stage, Peer::Leshan2, &[&server, "dev1", "3600", "firmware"])?;
    device.registers()?;
    broker.retained_is("lwm2mqtt/d/dev1", |birth| {
        birth["info"]["firmware"] == "old"
    })?;

    let image: Vec<u8> = (0..SIZE as u32)
        .map(|place| (place.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let file = stage.folder.join("image.bin");
    fs::write(&file, &image)?;
    let digest = digest_of(&file)?;
    let start = Instant::now();
    let printed = agent.command_within(
        LIMIT,
        &["firmware", "push", "dev1", &file.display().to_string()],
    )?;
    let took = start.elapsed().as_secs_f64();
    device.expect(&format!("firmware {SIZE} {digest}"))?;
    device.expect("firmware updated")?;
    step!("{SIZE} bytes went over in {took:.0} s and were installed");
    step!("it said: {}", printed.lines().last().unwrap_or_default());
    ensure!(network::lost()? > 50, "the network lost next to nothing");
    let state = broker.retained_is("lwm2mqtt/d/dev1/fw", is("state", "done"))?;
    step!("the last word on its fw topic: {state}");
    Ok(())
}

fn digest_of(file: &std::path::Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg(file);
    let (_, output) = run(&mut command, crate::PATIENCE)?;
    Ok(output
        .split(' ')
        .next()
        .context("sha256sum said nothing")?
        .to_owned())
}
