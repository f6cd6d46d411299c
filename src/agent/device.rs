//! `device …` and `status`: devices, their credentials and the join window, on the running agent or
//! on the store itself when none runs.

mod key;
pub(super) mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Map, Value as Json, json};

use crate::agent::admin::{Asked, ask};
use crate::agent::config::Config;
use crate::agent::devices::{fetch, read_files};
use crate::agent::entropy;
use crate::agent::run::Clock;
use crate::agent::store::{Sqlite, Store as _};
use crate::gateway::AdminError;
use crate::gateway::admin::book;
use crate::kept;
use crate::server::credentials::{self, Book, Policy, certificates, fingerprint};

/// Devices, their credentials, and the join window
///
/// Works on the running agent, or on its store when none runs.
#[derive(Debug, Args)]
pub struct Device {
    #[command(subcommand)]
    command: DeviceCommand,
}

#[derive(Debug, Subcommand)]
enum DeviceCommand {
    /// Let a device in with a credential: a key or a certificate
    #[command(after_help = "\
Examples:
  lwm2mqtt device add meter-7 --psk-generate --qr
      a new key, shown once: as text, and as a QR code to scan
  lwm2mqtt device add meter-7 --endpoint urn:dev:os:4711 --psk-identity m7 --psk-key-file m7.key
  lwm2mqtt device add meter-7 --psk-identity m7 - < m7.key
  lwm2mqtt device add meter-7 --psk-generate --bootstrap
      a key for the bootstrap server, which then gives the device its key for the LwM2M server
  lwm2mqtt device add meter-7 --cert meter-7.pem")]
    Add(Add),
    /// Remove a device with its credentials; its registration and sessions end, its topics are cleared
    #[command(after_help = "Example:\n  lwm2mqtt device remove meter-7")]
    Remove {
        /// The device's name, or its endpoint name
        name: String,
    },
    /// Call a device something else; its topics move, with their values
    #[command(after_help = "Example:\n  lwm2mqtt device rename meter-7 cellar-meter")]
    Rename {
        /// The device's name, or its endpoint name
        name: String,
        /// What to call it
        to: String,
    },
    /// List all devices; no key is shown
    #[command(after_help = "Examples:\n  lwm2mqtt device list\n  lwm2mqtt device list --json")]
    List,
    /// Show one device; no key is shown
    #[command(after_help = "Example:\n  lwm2mqtt device show meter-7")]
    Show {
        /// The device's name, or its endpoint name
        name: String,
    },
    /// Let a device in without security, from the `coap` addresses
    #[command(after_help = "Example:\n  lwm2mqtt device approve urn:dev:os:4711 --name meter-7")]
    Approve {
        /// The endpoint name that the device registers with
        endpoint: String,
        /// What to call it; without this, its endpoint name
        #[arg(long)]
        name: Option<String>,
    },
    /// Open the join window: with join = "window", unknown devices that come meanwhile are approved for good
    #[command(
        after_help = "Examples:\n  lwm2mqtt device join --for 2m\n  lwm2mqtt device join --close"
    )]
    Join {
        /// How long, "2m"; at most a day
        #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration, required_unless_present = "close")]
        duration: Option<Duration>,
        /// Close it
        #[arg(long, conflicts_with = "duration")]
        close: bool,
    },
    /// Make a device bootstrap again
    #[command(after_help = "Example:\n  lwm2mqtt device bootstrap meter-7")]
    Bootstrap {
        /// The device's name, or its endpoint name
        #[arg(value_name = "DEV")]
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("credential").required(true).args(["psk_key", "psk_key_file", "stdin", "psk_generate", "cert"]))]
struct Add {
    /// What to call the device
    name: String,
    /// The endpoint name that it registers with; without this, NAME
    #[arg(long, value_name = "EP")]
    endpoint: Option<String>,
    /// Its PSK identity; with --psk-generate the endpoint name if not given
    #[arg(long, value_name = "ID", conflicts_with = "cert")]
    psk_identity: Option<String>,
    /// Its key in hexadecimal, or `-` for standard input; an argument stands in `ps` and the history of the shell
    #[arg(long, value_name = "HEX", requires = "psk_identity")]
    psk_key: Option<String>,
    /// A file with its key in hexadecimal, or `-` for standard input
    #[arg(long, value_name = "FILE", requires = "psk_identity")]
    psk_key_file: Option<PathBuf>,
    /// `-`: its key in hexadecimal comes on standard input
    #[arg(value_name = "-", value_parser = ["-"], requires = "psk_identity")]
    stdin: Option<String>,
    /// Make a new key of 16 random bytes, and show it once
    #[arg(long)]
    psk_generate: bool,
    /// Its certificate, PEM or DER; its SHA-256 is stored
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Show endpoint, identity, key and server as a QR code
    #[arg(long, conflicts_with = "cert")]
    qr: bool,
    /// The key is for the bootstrap server, which gives the device its key for the LwM2M server
    #[arg(long, conflicts_with = "cert")]
    bootstrap: bool,
}

/// Runs `device …`.
///
/// # Errors
///
/// When the agent refuses or nothing can be asked.
pub fn run(config: &Config, command: &Device, json: bool) -> anyhow::Result<ExitCode> {
    match &command.command {
        DeviceCommand::Add(add) => self::add(config, add, json)?,
        DeviceCommand::Remove { name } => {
            let removed = done(config, "device/remove", json!({ "name": name }))?;
            show::said(json, &removed, || {
                format!("removed {}", show::text(&removed["endpoint"]))
            });
        }
        DeviceCommand::Rename { name, to } => {
            let renamed = done(config, "device/rename", json!({ "name": name, "to": to }))?;
            show::said(json, &renamed, || {
                let topics = renamed["topic_name"].as_str();
                match topics.filter(|topics| topics != to) {
                    None => format!("{} is {to} now", show::plain(name)),
                    Some(topics) => format!(
                        "{} is {to} now, and {topics} in topics, where another device is {to}",
                        show::plain(name)
                    ),
                }
            });
        }
        DeviceCommand::List => {
            let list = done(config, "device/list", json!({}))?;
            if json {
                show::json(&list);
            } else {
                show::list(&list);
            }
        }
        DeviceCommand::Show { name } => {
            let device = done(config, "device/show", json!({ "name": name }))?;
            if json {
                show::json(&device);
            } else {
                show::fields(&device);
            }
        }
        DeviceCommand::Approve { endpoint, name } => {
            let mut request = json!({ "endpoint": endpoint });
            if let Some(name) = name {
                request["name"] = json!(name);
            }
            let approved = done(config, "device/approve", request)?;
            show::said(json, &approved, || {
                format!(
                    "approved {}: it is let in without security",
                    show::text(&approved["endpoint"])
                )
            });
        }
        DeviceCommand::Join { duration, close } => {
            let duration = duration.filter(|_| !close).unwrap_or_default();
            if !close && duration.is_zero() {
                bail!("a join window is open for a second at least");
            }
            // Part of a second is a second: what is asked for is not less than what is given.
            let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
            let opened = done(config, "permit_join", json!({ "seconds": seconds }))?;
            show::said(json, &opened, || match seconds {
                0 => "the join window is closed".to_owned(),
                _ => format!(
                    "the join window is open for {}: unknown devices that come are approved for good",
                    humantime::format_duration(Duration::from_secs(seconds))
                ),
            });
        }
        DeviceCommand::Bootstrap { name } => {
            let begun = done(config, "device/bootstrap", json!({ "name": name }))?;
            show::said(json, &begun, || format!("{name} is told to bootstrap"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs `status`.
///
/// # Errors
///
/// When no agent runs, or it cannot be asked.
pub fn status(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status = done(config, "status", json!({}))?;
    if json {
        show::json(&status);
    } else {
        show::status(&status);
    }
    Ok(ExitCode::SUCCESS)
}

fn add(config: &Config, add: &Add, json: bool) -> anyhow::Result<()> {
    let endpoint = add.endpoint.as_ref().unwrap_or(&add.name);
    let mut request = json!({ "name": add.name, "endpoint": endpoint });
    if let Some(file) = &add.cert {
        request["cert_sha256"] = json!(certificate(file)?);
        let added = done(config, "device/add", request)?;
        show::said(json, &added, || show::added(&added));
        return Ok(());
    }
    let key = key::read(&key::Source {
        argument: add.psk_key.as_deref(),
        file: add.psk_key_file.as_deref(),
        stdin: add.stdin.is_some(),
    })?;
    let identity = add.psk_identity.as_ref().unwrap_or(endpoint);
    let field = if add.bootstrap {
        "bootstrap_psk"
    } else {
        "psk"
    };
    request[field] = json!({ "identity": identity, "key": key.hex() });
    let mut added = done(config, "device/add", request)?;
    let label = key::Label {
        endpoint,
        identity,
        server: &server(config, add.bootstrap),
        bootstrap: add.bootstrap,
    };
    let shows_key = add.psk_generate || add.qr;
    if json {
        if shows_key {
            added["key"] = json!(key.hex());
            added["server"] = json!(label.server);
        }
        show::json(&added);
        return Ok(());
    }
    println!("{}", show::added(&added));
    if add.psk_generate {
        println!("\n  server    {}", label.server);
        println!("  endpoint  {}", show::plain(endpoint));
        println!("  identity  {}", show::plain(identity));
        println!("  key       {}", key.hex());
    }
    if add.qr {
        println!("\n{}", key::qr_code(&label, &key)?);
    }
    if shows_key {
        println!("\nThe key is shown this once. Put it into the device now.");
    }
    Ok(())
}

/// The address that the device is to speak to, as far as it is known here.
fn server(config: &Config, bootstrap: bool) -> String {
    let listeners = if bootstrap {
        &config.devices.bootstrap.coaps
    } else {
        &config.devices.coaps
    };
    let Some(address) = listeners.first() else {
        return "(no coaps address is configured)".to_owned();
    };
    if address.ip().is_unspecified() {
        format!("coaps://{}:{}", config.gateway.name(), address.port())
    } else {
        format!("coaps://{address}")
    }
}

/// The SHA-256 of a certificate, in hexadecimal.
fn certificate(file: &std::path::Path) -> anyhow::Result<String> {
    let content = fetch(file).map_err(anyhow::Error::msg)?;
    let shown = file.display();
    let found = certificates(&content).map_err(|why| anyhow::anyhow!("{shown} {why}"))?;
    let leaf = found.first().context("no certificate")?;
    Ok(fingerprint(leaf)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Has the agent carry out a verb, or does it on the store when no agent runs.
fn done(config: &Config, verb: &str, mut request: Json) -> anyhow::Result<Json> {
    request["verb"] = json!(verb);
    match ask(&config.admin.socket, &request)? {
        Asked::Done(result) => Ok(result),
        Asked::Refused(why) => bail!(why),
        Asked::Nobody => {
            let Json::Object(mut arguments) = request else {
                bail!("a request is an object");
            };
            arguments.remove("verb");
            on_store(config, verb, &arguments)
        }
    }
}

/// Carries out a verb on the store, as the agent would.
fn on_store(config: &Config, verb: &str, arguments: &Map<String, Json>) -> anyhow::Result<Json> {
    let socket = config.admin.socket.display();
    if !verb.starts_with("device/") || verb == "device/bootstrap" {
        bail!("no agent answers at {socket}, and this needs one: start it with `lwm2mqtt run`");
    }
    let mut store = Sqlite::open(&config.store.path)?;
    let now = Clock::start().now();
    let mut rng = StdRng::from_seed(entropy::seed()?);
    let mut book = Book::new(Policy::default(), credentials::Limits::default(), &mut rng);
    for (name, why) in book.restore(now, store.credentials()?) {
        eprintln!(
            "lwm2mqtt: device \"{}\" of the store is left out: {why}",
            show::plain(&name)
        );
    }
    // What stands in files must not be entered twice. Their mistakes are `check`'s to tell.
    book.replace_files(read_files(&config.devices.files, now.unix).files);
    let result = match verb {
        "device/list" => Ok(json!(book::entries(&book))),
        "device/show" => find(&book, arguments),
        "device/add" => {
            book::add(&mut book, now, arguments, book::Keys::Accepted).map(|it| json!(it))
        }
        "device/remove" => book::remove(&mut book, arguments),
        "device/rename" => book::rename(&mut book, arguments).map(|it| json!(it)),
        "device/approve" => book::approve(&mut book, now, arguments).map(|it| json!(it)),
        _ => bail!("{verb} needs the running agent"),
    };
    let result = result?;
    while let Some(change) = book.poll_change() {
        store.apply(&kept::Change::Credential(change))?;
    }
    Ok(result)
}

fn find(book: &Book, arguments: &Map<String, Json>) -> Result<Json, AdminError> {
    let name = book::Arguments::new(arguments, &["name"])?.required("name")?;
    book::entries(book)
        .into_iter()
        .find(|entry| entry.name == name || entry.endpoint == name)
        .map(|entry| json!(entry))
        .ok_or_else(|| credentials::Refused::Unknown(name.to_owned()).into())
}
