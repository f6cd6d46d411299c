//! The interop tier: the agent's binary between devices that others wrote and mosquitto.
//!
//! `just interop [WORD…]` runs the cases whose names contain a word, all without one, and prints what each did. A peer
//! that cannot be had is said and counted as skipped; one that ran and failed fails. What is fetched and every log stay
//! under `target/interop`.

// The core's wall is about the core; this tier is nothing but the outside.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout
)]
// `pub` says here what a module offers to the others.
#![allow(unreachable_pub)]

mod agent;
mod broker;
mod device;
mod outage;
mod peers;
mod process;
mod raw;
mod relay;
mod tls;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::broker::Memory;
use crate::peers::Peer;

/// Prints one step of the case that runs.
macro_rules! step {
    ($($word:tt)*) => {
        println!("  {}", format_args!($($word)*))
    };
}
pub(crate) use step;

/// What a case works in.
pub(crate) struct Stage {
    /// Its own folder, empty at the start; the logs stay in it.
    pub(crate) folder: PathBuf,
}

impl Stage {
    fn set(name: &str) -> Result<Stage> {
        let folder = peers::kept("runs")?.join(name.replace(' ', "-"));
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder)?;
        Ok(Stage { folder })
    }
}

/// What has to be there for a case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Need {
    Device(Peer),
    CoapClient,
    /// Nothing but mosquitto, which every case needs.
    Nothing,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Device(peer) => peer.name(),
            Need::CoapClient => "coap-client",
            Need::Nothing => "nothing",
        }
    }

    /// Gets it, or says why it cannot be had.
    fn fetch(self) -> Result<()> {
        match self {
            Need::Device(peer) => peer.command().map(drop),
            Need::CoapClient => agent::coap_client().map(drop),
            Need::Nothing => Ok(()),
        }
    }
}

type Play = Box<dyn Fn(&Stage) -> Result<()>>;

struct Case {
    name: String,
    need: Need,
    play: Play,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, need: Need, play: Play| {
        cases.push(Case { name, need, play });
    };
    for peer in [Peer::Leshan2, Peer::Leshan1, Peer::Aiocoap] {
        for version in ["5", "3.1.1"] {
            let name = format!("life {} mqtt-{version}", peer.name());
            add(
                name,
                Need::Device(peer),
                Box::new(move |stage| device::life(stage, peer, version)),
            );
        }
    }
    let aiocoap = Need::Device(Peer::Aiocoap);
    add(
        "long-value aiocoap".into(),
        aiocoap,
        Box::new(|stage| device::long_value(stage, Peer::Aiocoap)),
    );
    add(
        "registration coap-client".into(),
        Need::CoapClient,
        Box::new(raw::registration),
    );
    add(
        "noise coap-client".into(),
        Need::CoapClient,
        Box::new(raw::noise),
    );
    add(
        "late-broker aiocoap".into(),
        aiocoap,
        Box::new(|stage| outage::late_broker(stage, Peer::Aiocoap)),
    );
    for (memory, version) in [
        (Memory::Lost, "5"),
        (Memory::Kept, "5"),
        (Memory::Lost, "3.1.1"),
        (Memory::Kept, "3.1.1"),
    ] {
        let name = format!("broker-killed {memory:?} mqtt-{version}").to_lowercase();
        add(
            name,
            aiocoap,
            Box::new(move |stage| outage::kill(stage, Peer::Aiocoap, memory, version)),
        );
    }
    for scheme in ["mqtts", "wss"] {
        add(
            format!("tls {scheme}"),
            Need::Nothing,
            Box::new(move |stage| tls::mosquitto(stage, scheme)),
        );
    }
    cases
}

fn main() -> ExitCode {
    match play() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Plays the wanted cases one after the other; true when all that ran passed, and at least one ran.
fn play() -> Result<bool> {
    // What `cargo test` passes through for its own harness is none of our words.
    let words: Vec<String> = env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    peers::essentials().context("install it, or let script/setup --interop do so")?;
    let mut had = BTreeMap::new();
    let (mut passed, mut failed, mut skipped) = (Vec::new(), Vec::new(), Vec::new());
    for case in cases() {
        if !words.is_empty() && !words.iter().any(|word| case.name.contains(word.as_str())) {
            continue;
        }
        println!("{}", case.name);
        let need = had
            .entry(case.need)
            .or_insert_with(|| case.need.fetch().map_err(|error| format!("{error:#}")));
        if let Err(reason) = need {
            println!("  not run: {} cannot be had: {reason}", case.need.name());
            skipped.push(case.name);
            continue;
        }
        let start = Instant::now();
        let stage = Stage::set(&case.name)?;
        match (case.play)(&stage) {
            Ok(()) => {
                println!("  passed in {:.1} s", start.elapsed().as_secs_f64());
                passed.push(case.name);
            }
            Err(error) => {
                println!("  FAILED: {error:#}");
                println!(
                    "  logs in {}; the agent's last lines:\n{}",
                    stage.folder.display(),
                    agent::last_lines(&stage.folder)
                );
                failed.push(case.name);
            }
        }
    }
    println!();
    for (what, names) in [("not run", &skipped), ("failed", &failed)] {
        if !names.is_empty() {
            println!("{what}: {}", names.join(", "));
        }
    }
    println!(
        "{} passed, {} failed, {} skipped",
        passed.len(),
        failed.len(),
        skipped.len()
    );
    Ok(failed.is_empty() && !passed.is_empty())
}
