//! `firmware …`: images in the agent's store, and updates of devices with them.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::{Args, Subcommand};
use serde_json::{Value as Json, json};
use sha2::{Digest as _, Sha256};

use crate::agent::admin::{Asked, ask};
use crate::agent::cli::EXIT_FAILURE;
use crate::agent::config::Config;
use crate::agent::device::show;
use crate::gateway::firmware::image::Digest;

/// How much of an image goes into one request.
const PIECE: usize = 40 * 1024;
/// How often the agent is asked how an update stands.
const INTERVAL: Duration = Duration::from_millis(500);
/// Characters of the progress bar.
const BAR: usize = 30;

/// Update devices, and keep the images for it
///
/// Works on the running agent. An update goes on when this command ends.
#[derive(Debug, Args)]
pub struct Firmware {
    #[command(subcommand)]
    command: FirmwareCommand,
}

#[derive(Debug, Subcommand)]
enum FirmwareCommand {
    /// Update a device in the way that it offers: push, if it takes that
    #[command(after_help = "Example:\n  lwm2mqtt firmware update meter-7 meter-2.1.bin")]
    Update(Update),
    /// Update a device: the gateway sends it the image, block by block
    #[command(after_help = "Example:\n  lwm2mqtt firmware push meter-7 meter-2.1.bin")]
    Push(Update),
    /// Update a device: it fetches the image from the gateway, or from elsewhere
    #[command(
        after_help = "Examples:\n  lwm2mqtt firmware pull meter-7 meter-2.1.bin\n  lwm2mqtt firmware pull meter-7 --uri https://images.example.net/meter-2.1.bin"
    )]
    Pull {
        #[command(flatten)]
        update: PullUpdate,
    },
    /// Show how updates stand
    Status {
        /// The device's name; without it, all
        device: Option<String>,
    },
    /// Give up an update that the device is not installing yet
    Cancel {
        /// The device's name
        device: String,
    },
    /// List the images in the store
    List,
    /// Bring an image into the store
    Add {
        /// The image
        file: PathBuf,
    },
    /// Remove an image from the store
    Remove {
        /// Its name, or its SHA-256
        file: String,
    },
}

#[derive(Debug, Args)]
struct Update {
    /// The device's name, or its endpoint name
    device: String,
    /// A file here, or the name or SHA-256 of an image in the store
    file: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct PullUpdate {
    /// The device's name, or its endpoint name
    device: String,
    /// A file here, or the name or SHA-256 of an image in the store
    #[arg(required_unless_present = "uri", conflicts_with = "uri")]
    file: Option<String>,
    /// Where the device is to fetch it from, if not from the gateway
    #[arg(long)]
    uri: Option<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    /// What takes the image: /5/0, or an instance of object 9
    #[arg(long, value_name = "PATH")]
    object: Option<String>,
    /// Do not wait for the end
    #[arg(long)]
    detach: bool,
}

/// Runs `firmware …`.
///
/// # Errors
///
/// When no agent runs, or it refuses.
pub fn run(config: &Config, command: &Firmware, json: bool) -> anyhow::Result<ExitCode> {
    match &command.command {
        FirmwareCommand::Update(update) => begin(config, update, "auto", json),
        FirmwareCommand::Push(update) => begin(config, update, "push", json),
        FirmwareCommand::Pull { update } => {
            let mut request = json!({ "name": update.device, "method": "pull" });
            match (&update.file, &update.uri) {
                (Some(file), _) => request["file"] = image(config, file)?,
                (None, uri) => request["uri"] = json!(uri),
            }
            start(config, request, &update.device, &update.how, json)
        }
        FirmwareCommand::Status { device } => {
            let request = device
                .as_ref()
                .map_or(json!({}), |name| json!({ "name": name }));
            let status = done(config, "firmware/status", request)?;
            match &status {
                _ if json => show::json(&status),
                Json::Array(all) if all.is_empty() => println!("no update was begun"),
                Json::Array(all) => all.iter().for_each(|one| println!("{}", line(one))),
                one => println!("{}", line(one)),
            }
            Ok(ExitCode::SUCCESS)
        }
        FirmwareCommand::Cancel { device } => {
            let told = done(config, "firmware/cancel", json!({ "name": device }))?;
            show::said(json, &told, || line(&told));
            Ok(ExitCode::SUCCESS)
        }
        FirmwareCommand::List => {
            let list = done(config, "firmware/list", json!({}))?;
            match &list {
                Json::Array(images) if !json => images.iter().for_each(|image| {
                    println!(
                        "{}  {}  {}",
                        show::text(&image["sha256"]),
                        size(&image["size"]),
                        show::text(&image["name"])
                    );
                }),
                list => show::json(list),
            }
            Ok(ExitCode::SUCCESS)
        }
        FirmwareCommand::Add { file } => {
            let added = add(config, file)?;
            show::said(json, &json!({ "sha256": added }), || format!("{added}"));
            Ok(ExitCode::SUCCESS)
        }
        FirmwareCommand::Remove { file } => {
            let removed = done(config, "firmware/remove", json!({ "file": file }))?;
            show::said(json, &removed, || {
                format!("removed {}", show::text(&removed["name"]))
            });
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn begin(config: &Config, update: &Update, method: &str, json: bool) -> anyhow::Result<ExitCode> {
    let file = image(config, &update.file)?;
    let request = json!({ "name": update.device, "file": file, "method": method });
    start(config, request, &update.device, &update.how, json)
}

fn start(
    config: &Config,
    mut request: Json,
    device: &str,
    how: &How,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if let Some(object) = &how.object {
        request["object"] = json!(object);
    }
    let begun = done(config, "firmware/start", request)?;
    if how.detach {
        show::said(json, &begun, || line(&begun));
        return Ok(ExitCode::SUCCESS);
    }
    follow(config, device, begun, json)
}

/// What the agent is told of a file: an image that is here is brought there first.
fn image(config: &Config, file: &str) -> anyhow::Result<Json> {
    let path = Path::new(file);
    if path.is_file() {
        return Ok(json!(add(config, path)?));
    }
    Ok(json!(file))
}

/// Brings an image into the store of the agent.
fn add(config: &Config, path: &Path) -> anyhow::Result<Digest> {
    let shown = || path.display().to_string();
    let mut hash = Sha256::new();
    let mut size = 0u64;
    pieces(path, |piece| {
        hash.update(piece);
        size += piece.len() as u64;
        Ok(true)
    })
    .with_context(shown)?;
    let digest = Digest(hash.finalize().into());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut offset = 0u64;
    pieces(path, |piece| {
        let request = json!({
            "sha256": digest, "name": name, "size": size, "offset": offset,
            "data": BASE64_STANDARD.encode(piece),
        });
        let answer = done(config, "firmware/put", request)?;
        offset += piece.len() as u64;
        // All of it when the agent had it already.
        Ok(answer["offset"].as_u64() == Some(offset) && offset < size)
    })?;
    Ok(digest)
}

/// Reads a file in pieces as long as `take` wants more.
fn pieces(path: &Path, mut take: impl FnMut(&[u8]) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut file = std::fs::File::open(path)?;
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        (&mut file).take(PIECE as u64).read_to_end(&mut piece)?;
        if piece.is_empty() || !take(&piece)? {
            return Ok(());
        }
    }
}

/// Shows how an update goes, until its end.
fn follow(config: &Config, device: &str, begun: Json, json: bool) -> anyhow::Result<ExitCode> {
    let bar = std::io::stderr().is_terminal() && !json;
    let mut told = begun;
    let mut before = String::new();
    loop {
        // Progress alone is worth a line of its own to a script, and to nobody else.
        let now = match (json, bar) {
            (true, _) => told.to_string(),
            (_, true) => progress(&told),
            (_, false) => line(&json!({
                "device": told["device"], "state": told["state"], "waiting": told["waiting"],
                "file": told["file"], "reason": told["reason"],
            })),
        };
        if now != before {
            if bar {
                eprint!("\r{now}\x1b[K");
                let _ = std::io::stderr().flush();
            } else {
                println!("{now}");
            }
            before = now;
        }
        match told["state"].as_str() {
            Some("done" | "failed" | "cancelled") => break,
            _ => std::thread::sleep(INTERVAL),
        }
        told = done(config, "firmware/status", json!({ "name": device }))?;
    }
    if bar {
        eprintln!();
        println!("{}", line(&told));
    }
    Ok(match told["state"].as_str() {
        Some("done") => ExitCode::SUCCESS,
        _ => EXIT_FAILURE.into(),
    })
}

/// One line about an update.
fn line(told: &Json) -> String {
    let mut line = format!(
        "{}: {}",
        show::text(&told["device"]),
        show::text(&told["state"])
    );
    if let (Some("downloading"), Some(percent)) = (told["state"].as_str(), told["percent"].as_u64())
    {
        line.push_str(&format!(" {percent} %"));
    }
    if let Some(waiting) = told["waiting"].as_str() {
        line.push_str(&format!(", {}", words(waiting)));
    }
    line.push_str(&format!(", {}", show::text(&told["file"])));
    if let Some(reason) = told["reason"].as_str() {
        line.push_str(&format!(": {}", show::plain(reason)));
    }
    line
}

/// The progress bar.
fn progress(told: &Json) -> String {
    let percent = told["percent"].as_u64().unwrap_or(0).min(100);
    let full = percent as usize * BAR / 100;
    let waiting = told["waiting"].as_str();
    format!(
        "[{}{}] {percent:3} % of {}  {}",
        "#".repeat(full),
        " ".repeat(BAR - full),
        size(&told["size"]),
        waiting.map_or_else(|| show::text(&told["state"]), |it| words(it).to_owned()),
    )
}

fn words(waiting: &str) -> &'static str {
    match waiting {
        "offline" => "waits for the device to register",
        "asleep" => "waits for the device to wake",
        "no_answer" => "waits for the device to answer",
        "turn" => "waits for its turn",
        "deferred" => "put off at the device",
        _ => "waits",
    }
}

fn size(bytes: &Json) -> String {
    match bytes.as_u64().unwrap_or(0) {
        bytes @ ..10_000 => format!("{bytes} B"),
        bytes @ ..10_000_000 => format!("{} kB", bytes / 1000),
        bytes => format!("{} MB", bytes / 1_000_000),
    }
}

/// Has the agent carry out a verb.
fn done(config: &Config, verb: &str, mut request: Json) -> anyhow::Result<Json> {
    request["verb"] = json!(verb);
    match ask(&config.admin.socket, &request)? {
        Asked::Done(result) => Ok(result),
        Asked::Refused(why) => bail!(why),
        Asked::Nobody => bail!(
            "no agent answers at {}, and this needs one: start it with `lwm2mqtt run`",
            config.admin.socket.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_and_a_bar_say_how_far_it_is_and_what_it_waits_for() {
        let told = json!({
            "device": "meter\n7", "state": "downloading", "file": "a.bin", "size": 1_000_000,
            "percent": 50,
        });
        assert_eq!(line(&told), "meter\\n7: downloading 50 %, a.bin");
        assert_eq!(
            progress(&told),
            "[###############               ]  50 % of 1000 kB  downloading"
        );
        let mut told = told;
        told["waiting"] = json!("turn");
        told["state"] = json!("queued");
        assert_eq!(line(&told), "meter\\n7: queued, waits for its turn, a.bin");
        told["waiting"] = Json::Null;
        told["state"] = json!("failed");
        told["reason"] = json!("integrity check failed");
        assert_eq!(
            line(&told),
            "meter\\n7: failed, a.bin: integrity check failed"
        );
    }
}
