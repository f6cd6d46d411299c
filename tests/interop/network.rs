//! A network of a case's own, in a namespace of the kernel, that loses datagrams.
//!
//! The case runs a second time as a process inside the namespace, where nothing is but the loopback: broker, agent and
//! device all live there, so that what is lost is lost by the kernel, on the way that real datagrams go.

use std::env;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::peers::program;
use crate::process::run;
use crate::{PATIENCE, step};

/// Tells the process inside that it is inside.
const INSIDE: &str = "LWM2MQTT_INTEROP_INSIDE";
/// Loses so many of a hundred datagrams; TCP is left alone.
const SETUP: &str = r#"ip link set lo up
nft "add table ip loss; add chain ip loss in { type filter hook input priority 0; }"
nft "add rule ip loss in meta l4proto udp numgen random mod 100 < $PERCENT counter drop"
exec "$0" "$@""#;

/// Whether this process is the one inside.
pub fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Whether a namespace can be made here.
pub fn available() -> Result<()> {
    for name in ["unshare", "ip", "nft"] {
        program(&[name])?;
    }
    let mut probe = Command::new("unshare");
    probe.args(["--net", "nft", "add table ip probe"]);
    let (code, output) = run(&mut probe, PATIENCE)?;
    ensure!(
        code == 0,
        "no network namespace can be made here: {}",
        output.trim()
    );
    Ok(())
}

/// Plays the case of this name in a namespace where `percent` of all datagrams are lost.
pub fn play_inside(case: &str, percent: u32) -> Result<()> {
    let myself = env::current_exe().context("which program this is")?;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "sh", "-ec", SETUP])
        .arg(myself)
        .arg(case)
        .env(INSIDE, "1")
        .env("PERCENT", percent.to_string())
        .stdin(Stdio::null());
    let status = command.status().context("unshare")?;
    ensure!(
        status.success(),
        "inside its own network it ended with {status}"
    );
    Ok(())
}

/// How many datagrams were lost so far; says so. Inside only.
pub fn lost() -> Result<u64> {
    let mut list = Command::new("nft");
    list.args(["list", "chain", "ip", "loss", "in"]);
    let (_, output) = run(&mut list, PATIENCE)?;
    let count = output
        .split_once("counter packets ")
        .and_then(|(_, rest)| rest.split(' ').next())
        .context("no counter")?;
    step!("the network has lost {count} datagrams");
    Ok(count.parse()?)
}
