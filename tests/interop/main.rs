//! The interop tier: the agent's binary between devices that others wrote and mosquitto.
//!
//! `just interop [WORD…]` runs the cases whose names contain a word, all without one, and prints what each did. A peer
//! that cannot be had is said and counted as skipped; one that ran and failed fails. What is fetched and every log stay
//! under `target/interop`. With `--table` what worked with whom is written into docs/interop.md.

// The core's wall is about the core; this tier is nothing but the outside.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::print_stdout
)]
// `pub` says here what a module offers to the others.
#![allow(unreachable_pub)]

mod acl;
mod agent;
mod broker;
mod device;
mod firmware;
mod nat;
mod network;
mod operations;
mod outage;
mod peers;
mod process;
mod raw;
mod relay;
mod secure;
mod table;
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
use crate::process::PATIENCE;
use crate::table::{Cell, Outcome, Table, What, Who};

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
pub(crate) enum Need {
    Device(Peer),
    CoapClient,
    LeshanServer,
    NodeDtlsClient,
    Program(&'static str),
    /// Leshan 2 in a network namespace.
    OwnNetwork,
    /// Nothing but mosquitto, which every case needs.
    Nothing,
}

impl Need {
    fn name(self) -> &'static str {
        match self {
            Need::Device(peer) => peer.name(),
            Need::CoapClient => "coap-client",
            Need::LeshanServer => "leshan-2's server",
            Need::NodeDtlsClient => "node-dtls-client",
            Need::Program(name) => name,
            Need::OwnNetwork => "leshan-2 in a network of its own",
            Need::Nothing => "nothing",
        }
    }

    /// Gets it, or says why it cannot be had.
    fn fetch(self) -> Result<()> {
        match self {
            Need::Device(peer) => peer.command().map(drop),
            Need::CoapClient => agent::coap_client().map(drop),
            Need::LeshanServer => peers::leshan_server().map(drop),
            Need::NodeDtlsClient => peers::node_dtls_client().map(drop),
            Need::Program(name) => peers::program(&[name]).map(drop),
            Need::OwnNetwork => {
                network::available()?;
                Peer::Leshan2.command().map(drop)
            }
            Need::Nothing => Ok(()),
        }
    }
}

type Play = Box<dyn Fn(&Stage) -> Result<()>>;

pub(crate) struct Case {
    name: String,
    need: Need,
    /// What of docs/interop.md it proves.
    cells: Vec<Cell>,
    play: Play,
}

impl Case {
    pub(crate) fn new(
        name: impl Into<String>,
        need: Need,
        cells: &[Cell],
        play: impl Fn(&Stage) -> Result<()> + 'static,
    ) -> Case {
        Case {
            name: name.into(),
            need,
            cells: cells.to_vec(),
            play: Box::new(play),
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: String, need: Need, play: Play| {
        let cells = match need {
            Need::Device(Peer::Leshan2) => vec![(Who::LeshanDevice, What::NoSec)],
            Need::Device(Peer::Leshan1) => vec![(Who::Leshan1Device, What::NoSec)],
            Need::Device(Peer::Aiocoap) => vec![(Who::AiocoapDevice, What::NoSec)],
            _ => vec![],
        };
        cases.push(Case {
            name,
            need,
            cells,
            play,
        });
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
    let leshan = Need::Device(Peer::Leshan2);
    add(
        "operations leshan-2".into(),
        leshan,
        Box::new(operations::all),
    );
    add(
        "queue-mode leshan-2".into(),
        leshan,
        Box::new(operations::queue),
    );
    if network::is_inside() {
        let name = "firmware-push leshan-2 inside";
        add(name.into(), leshan, Box::new(firmware::push));
    } else {
        let name = "firmware-push leshan-2";
        add(
            name.into(),
            Need::OwnNetwork,
            Box::new(|_| firmware::outside()),
        );
    }
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
    add(
        "acl mosquitto".into(),
        Need::Nothing,
        Box::new(acl::mosquitto),
    );
    cases.extend(secure::cases());
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
    // What else `cargo test` passes through for its own harness is none of our words.
    let (options, words): (Vec<String>, Vec<String>) =
        env::args().skip(1).partition(|word| word.starts_with('-'));
    let with_table = options.iter().any(|option| option == "--table");
    anyhow::ensure!(
        !with_table || words.is_empty(),
        "the table is made of all cases, so --table takes no words"
    );
    peers::essentials().context("install it, or let script/setup --interop do so")?;
    let mut had = BTreeMap::new();
    let mut table = Table::default();
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
            table.note(&case.cells, Outcome::NotRun);
            skipped.push(case.name);
            continue;
        }
        let start = Instant::now();
        let stage = Stage::set(&case.name)?;
        match (case.play)(&stage) {
            Ok(()) => {
                println!("  passed in {:.1} s", start.elapsed().as_secs_f64());
                table.note(&case.cells, Outcome::Worked);
                passed.push(case.name);
            }
            Err(error) => {
                println!("  FAILED: {error:#}");
                table.note(&case.cells, Outcome::Failed);
                println!(
                    "  logs in {}; the agent's last lines:\n{}",
                    stage.folder.display(),
                    agent::last_lines(&stage.folder)
                );
                failed.push(case.name);
            }
        }
    }
    if with_table {
        println!("\nwritten: {}", table.write()?.display());
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
