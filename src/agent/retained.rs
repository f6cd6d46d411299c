//! What the broker retains: found out for the core, and `retained audit` and `clean` of the command
//! line.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::agent::admin::{Asked, ask};
use crate::agent::cli::EXIT_USAGE;
use crate::agent::config::Config;
use crate::agent::mqtt::{self, Subscription};
use crate::gateway::Retained;

/// How long no new topic may have come for all to have come. Brokers send what they retain at once.
const QUIET: Duration = Duration::from_secs(1);

/// How long it may take in all.
const PATIENCE: Duration = Duration::from_secs(20);

/// Topics that are taken; of a topic there are at most 64 KiB.
const TOPICS: usize = 200_000;
const BYTES: usize = 64 << 20;

/// What the broker retains, or why that cannot be said.
type Found = Result<Retained, String>;

/// Finds out what the broker retains, by connections of its own.
pub struct Finder {
    settings: mqtt::Settings,
    found: (mpsc::Sender<Found>, mpsc::Receiver<Found>),
}

impl Finder {
    /// One who connects as the gateway does, under another client id.
    pub fn new(settings: &mqtt::Settings) -> Self {
        let settings = mqtt::Settings {
            client_id: format!("{}-audit", settings.client_id),
            will: None,
            passing: true,
            ..settings.clone()
        };
        Self {
            settings,
            found: mpsc::channel(1),
        }
    }

    /// Begins to look.
    pub fn look(&self, filter: String, whose: Arc<str>) {
        let mut settings = self.settings.clone();
        settings.subscriptions = vec![Subscription::retained(filter)];
        let found = self.found.0.clone();
        tokio::spawn(async move {
            // It fails only when the agent has gone.
            _ = found.send(read(settings, &whose).await).await;
        });
    }

    /// What was found. Cancel-safe.
    pub async fn found(&mut self) -> Found {
        match self.found.1.recv().await {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }
}

/// Subscribes, and takes what comes until nothing new does.
async fn read(settings: mqtt::Settings, whose: &str) -> Found {
    let mut link = mqtt::connect(settings);
    let mut retained = Retained::default();
    let end = Instant::now() + PATIENCE;
    let mut quiet = end;
    let mut bytes = 0;
    let outcome = loop {
        let Ok(event) = timeout_at(quiet.min(end), link.event()).await else {
            retained.complete = quiet < end;
            break Ok(());
        };
        let (topic, is_deletion) = match event {
            mqtt::Event::Subscribed { refused } => {
                if let Some(refused) = refused.first() {
                    break Err(format!("the broker refused the subscription: {refused}"));
                }
                quiet = Instant::now() + QUIET;
                continue;
            }
            mqtt::Event::Disconnected { reason, .. } => break Err(reason),
            mqtt::Event::Message(message) if message.retain => {
                let is_deletion = message.payload.is_empty();
                if message.topic == whose {
                    retained.whose = Some(message.payload).filter(|_| !is_deletion);
                }
                (message.topic, is_deletion)
            }
            mqtt::Event::Oversized { topic, .. } => (topic, false),
            _ => continue,
        };
        if is_deletion {
            retained.topics.remove(&topic);
            continue;
        }
        let length = topic.len();
        if retained.topics.insert(topic) {
            bytes += length;
            quiet = quiet.max(Instant::now() + QUIET);
        }
        if retained.topics.len() >= TOPICS || bytes >= BYTES {
            break Ok(());
        }
    };
    link.close(Duration::from_secs(1)).await;
    outcome.map(|()| retained)
}

/// Topics below the base that the broker retains and the gateway does not answer for
///
/// Such topics are left when a store was lost, when two gateways had one base topic, or when somebody
/// published a request with the retain flag.
#[derive(Debug, Args)]
pub struct RetainedCommand {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show them
    #[command(
        after_help = "Examples:\n  lwm2mqtt retained audit\n  lwm2mqtt retained audit --json"
    )]
    Audit,
    /// Delete them, and nothing else
    #[command(after_help = "Examples:\n  lwm2mqtt retained clean\n  lwm2mqtt retained clean --yes")]
    Clean {
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Runs `retained …`.
///
/// # Errors
///
/// When no agent runs, or it cannot tell.
pub fn run(config: &Config, command: &RetainedCommand, json: bool) -> anyhow::Result<ExitCode> {
    if let Verb::Clean { yes: false } = command.command {
        if !std::io::stdin().is_terminal() {
            eprintln!(
                "lwm2mqtt: what is deleted cannot be had back: say --yes, or run it in a terminal"
            );
            return Ok(EXIT_USAGE.into());
        }
        let found = request(config, "retained/audit")?;
        show(&found, json);
        if found["count"] == 0 || !confirm()? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let (verb, is_deleted) = match command.command {
        Verb::Audit => ("retained/audit", false),
        Verb::Clean { .. } => ("retained/clean", true),
    };
    let found = request(config, verb)?;
    match (is_deleted, json) {
        (true, false) => println!("deleted: {}", found["count"]),
        _ => show(&found, json),
    }
    Ok(ExitCode::SUCCESS)
}

fn request(config: &Config, verb: &str) -> anyhow::Result<Json> {
    let socket = &config.admin.socket;
    match ask(socket, &json!({ "verb": verb }))? {
        Asked::Done(found) => Ok(found),
        Asked::Refused(why) => bail!(why),
        Asked::Nobody => bail!(
            "no agent answers at {}, and this needs one: start it with `lwm2mqtt run`",
            socket.display()
        ),
    }
}

fn show(found: &Json, json: bool) {
    if json {
        println!("{found}");
        return;
    }
    let topics = found["topics"].as_array().into_iter().flatten();
    let mut shown = 0;
    for topic in topics.filter_map(Json::as_str) {
        println!("{}", topic.escape_debug());
        shown += 1;
    }
    let count = found["count"].as_u64().unwrap_or_default();
    if count > shown {
        println!("and {} more", count - shown);
    }
    if count == 0 {
        eprintln!("the broker retains nothing that the gateway does not answer for");
    }
    if let Some(others) = found["of_other_gateways"].as_u64().filter(|it| *it > 0) {
        eprintln!("left alone, because another gateway has its base topic there: {others} topics");
    }
    if found["complete"] != true {
        eprintln!("the broker retains more than was read: run it again afterwards");
    }
}

fn confirm() -> anyhow::Result<bool> {
    eprint!("Delete them? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
