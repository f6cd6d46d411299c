//! `read`, `write`, `execute` …: one operation on a device, answered in the terminal; `observe` and
//! `watch`, which go on until they are ended.
//!
//! Everything is asked of the running agent: operations become commands there, like those from MQTT.

mod show;
mod target;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde_json::{Map, Value as Json, json};

use self::target::{Assignments, Target};
use crate::agent::admin::{Conversation, Line};
use crate::agent::config::Config;

/// How long the agent has for its first word.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one wants to wait.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Do not wait for a device that sleeps: its answer goes to its reply topic on MQTT
    #[arg(long)]
    no_wait: bool,
    /// Give up what has not been sent by then, "24h"
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,
}

/// Read values: of resources, instances or whole objects
///
/// PATH is a path such as /3/0/9, or the name of a signal such as device-0/battery-level. Several are read in
/// one message where the device can do that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt read meter-7 /3/0/9
  lwm2mqtt read meter-7 device-0/battery-level
  lwm2mqtt read meter-7 /3/0/9 /3303/0 --json")]
pub struct Read {
    /// The device's name, or its endpoint name
    device: String,
    /// What to read
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<Target>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Write values
///
/// VALUE is JSON: 21.5, true, \"text\"; what is not JSON is text. Several below one instance go in one
/// message, and those of several instances where the device can do that.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt write meter-7 /1/0/1=300
  lwm2mqtt write meter-7 /1/0/2=10 /1/0/3=60
  lwm2mqtt write meter-7 /3311/0/5850 true
  lwm2mqtt write meter-7 light-control-0/dimmer=55
  lwm2mqtt write meter-7 /16/0/0/1='\"42\"'
      the text 42: a number would be refused there")]
pub struct Write {
    /// The device's name, or its endpoint name
    device: String,
    /// PATH=VALUE, or PATH and VALUE apart
    #[arg(required = true, value_name = "PATH=VALUE")]
    values: Vec<String>,
    /// Replace the instance: what is not written is dropped
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    waiting: Waiting,
}

/// Execute a resource
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt execute meter-7 /3/0/4
  lwm2mqtt execute meter-7 device-0/reboot
  lwm2mqtt execute meter-7 /5/0/2 \"0='1'\"")]
pub struct Execute {
    /// The device's name, or its endpoint name
    device: String,
    /// The resource, or a command of the mapping
    #[arg(value_name = "PATH")]
    path: String,
    /// Arguments, as in LwM2M Core 6.3.5
    arguments: Option<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Show what a node holds and which attributes are attached
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt discover meter-7 /3
  lwm2mqtt discover meter-7 /3303 --depth 1")]
pub struct Discover {
    /// The device's name, or its endpoint name
    device: String,
    /// An object, instance or resource
    #[arg(value_name = "PATH")]
    path: Target,
    /// How many levels below it, 0 to 3; LwM2M 1.2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    depth: Option<u8>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Create an instance of an object
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt create meter-7 /3311/1 5850=true
  lwm2mqtt create meter-7 /3311 5850=true
      the device chooses the number of the instance")]
pub struct Create {
    /// The device's name, or its endpoint name
    device: String,
    /// The object, or the instance that is to be
    #[arg(value_name = "PATH")]
    path: Target,
    /// RESOURCE=VALUE, with the number of the resource
    #[arg(value_name = "RESOURCE=VALUE")]
    values: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Delete an instance
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lwm2mqtt delete meter-7 /3311/1")]
pub struct Delete {
    /// The device's name, or its endpoint name
    device: String,
    /// The instance
    #[arg(value_name = "PATH")]
    path: Target,
    #[command(flatten)]
    waiting: Waiting,
}

/// Attach notification attributes to a node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt attributes meter-7 /3303/0/5700 pmin=10 pmax=600 st=0.5
  lwm2mqtt attributes meter-7 /3303/0/5700 st=
      takes an attribute away")]
pub struct Attributes {
    /// The device's name, or its endpoint name
    device: String,
    /// The node
    #[arg(value_name = "PATH")]
    path: Target,
    /// NAME=VALUE: pmin, pmax, gt, lt, st, epmin, epmax, edge, con, hqmax
    #[arg(required = true, value_name = "NAME=VALUE")]
    attributes: Vec<String>,
    #[command(flatten)]
    waiting: Waiting,
}

/// Show the values of a node as they come, until Ctrl-C
///
/// The observation that it begins ends with it; one that stood before stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt observe meter-7 /3303/0/5700
  lwm2mqtt observe meter-7 temperature-0/sensor-value --for 10m --json")]
pub struct Observe {
    /// The device's name, or its endpoint name
    device: String,
    /// The node
    #[arg(value_name = "PATH")]
    path: Target,
    /// How long, "10m"
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// Show what goes by, live: LwM2M on the left, MQTT on the right
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lwm2mqtt watch\n  lwm2mqtt watch meter-7 --for 1m\n  lwm2mqtt watch --json"
)]
pub struct Watch {
    /// Only this device
    device: Option<String>,
    /// How long, "10m"
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// A request for a device, as MQTT has them: what follows the device's topic, and the payload.
struct Command<'a> {
    device: &'a str,
    request: String,
    body: Json,
    waiting: &'a Waiting,
}

/// Runs `read`.
///
/// # Errors
///
/// Here and in the functions below: when no agent runs, or it cannot be asked.
pub fn read(config: &Config, args: &Read, json: bool) -> anyhow::Result<ExitCode> {
    let (request, body) = match &args.paths[..] {
        [Target::Path(path)] => ("lwm2m/read".to_owned(), json!({ "path": path.to_string() })),
        [Target::Name(name)] => (format!("get/{name}"), json!({})),
        several => {
            let paths: Vec<_> = several.iter().map(ToString::to_string).collect();
            ("lwm2m/read-composite".to_owned(), json!({ "paths": paths }))
        }
    };
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request,
            body,
            waiting,
        },
    )
}

/// Runs `write`.
pub fn write(config: &Config, args: &Write, json: bool) -> anyhow::Result<ExitCode> {
    let assignments = match Assignments::parse(&args.values) {
        Ok(assignments) => assignments,
        Err(why) => return Ok(show::usage(&why)),
    };
    let (request, body) = match assignments.request(args.replace) {
        Ok(request) => request,
        Err(why) => return Ok(show::usage(&why)),
    };
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request,
            body,
            waiting,
        },
    )
}

/// Runs `execute`.
pub fn execute(config: &Config, args: &Execute, json: bool) -> anyhow::Result<ExitCode> {
    let mut body = Map::new();
    let request = match args.path.parse() {
        Ok(Target::Path(path)) => {
            body.insert("path".into(), path.to_string().into());
            "lwm2m/execute".to_owned()
        }
        // A command of the mapping has one word.
        _ => format!("do/{}", args.path),
    };
    if let Some(arguments) = &args.arguments {
        body.insert("args".into(), arguments.as_str().into());
    }
    let (body, waiting) = (body.into(), &args.waiting);
    run(
        config,
        json,
        Command {
            device: &args.device,
            request,
            body,
            waiting,
        },
    )
}

/// Runs `discover`.
pub fn discover(config: &Config, args: &Discover, json: bool) -> anyhow::Result<ExitCode> {
    let mut body = json!({ "path": args.path.to_string() });
    if let Some(depth) = args.depth {
        body["depth"] = depth.into();
    }
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request: "lwm2m/discover".into(),
            body,
            waiting,
        },
    )
}

/// Runs `create`.
pub fn create(config: &Config, args: &Create, json: bool) -> anyhow::Result<ExitCode> {
    let values = match target::values(&args.values) {
        Ok(values) => values,
        Err(why) => return Ok(show::usage(&why)),
    };
    let body = json!({ "path": args.path.to_string(), "values": values });
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request: "lwm2m/create".into(),
            body,
            waiting,
        },
    )
}

/// Runs `delete`.
pub fn delete(config: &Config, args: &Delete, json: bool) -> anyhow::Result<ExitCode> {
    let body = json!({ "path": args.path.to_string() });
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request: "lwm2m/delete".into(),
            body,
            waiting,
        },
    )
}

/// Runs `attributes`.
pub fn attributes(config: &Config, args: &Attributes, json: bool) -> anyhow::Result<ExitCode> {
    let attributes = match target::values(&args.attributes) {
        Ok(attributes) => attributes,
        Err(why) => return Ok(show::usage(&why)),
    };
    let body = json!({ "path": args.path.to_string(), "attributes": attributes });
    let waiting = &args.waiting;
    run(
        config,
        json,
        Command {
            device: &args.device,
            request: "lwm2m/write-attributes".into(),
            body,
            waiting,
        },
    )
}

/// Has the agent carry out a command, and shows what becomes of it. Failure is the exit code; what
/// was not waited for is none.
fn run(config: &Config, as_json: bool, command: Command<'_>) -> anyhow::Result<ExitCode> {
    let Command {
        device,
        request,
        mut body,
        waiting,
    } = command;
    if let Some(ttl) = waiting.ttl {
        body["ttl"] = ttl.as_secs().max(1).into();
    }
    let request = json!({ "verb": "command", "device": device, "request": request, "body": body });
    let mut conversation = begin(config, &request)?;
    let mut patience = Some(PATIENCE);
    loop {
        match conversation.next(patience)? {
            Some(Line::Said(reply)) => {
                patience = None;
                let queued = reply["status"] == "queued";
                if reply["final"] == true || (queued && waiting.no_wait) {
                    return Ok(show::outcome(as_json, &reply));
                }
                if queued {
                    show::queued(&reply);
                }
            }
            Some(Line::Refused(why)) => bail!(why),
            Some(Line::Lost(_)) => {}
            None => bail!("the agent went before the answer came"),
        }
    }
}

/// Runs `observe`.
pub fn observe(config: &Config, args: &Observe, json: bool) -> anyhow::Result<ExitCode> {
    let (device, path) = (&args.device, args.path.to_string());
    let request = json!({ "verb": "observe", "device": device, "path": path });
    listen(config, &request, args.duration, |line| {
        show::value(json, line)
    })
}

/// Runs `watch`.
pub fn watch(config: &Config, args: &Watch, json: bool) -> anyhow::Result<ExitCode> {
    let mut request = json!({ "verb": "watch" });
    if let Some(device) = &args.device {
        request["device"] = device.as_str().into();
    }
    let mut screen = show::Screen::new(json);
    listen(config, &request, args.duration, |line| screen.line(line))
}

/// Shows line after line until the time is over, the reader of our output has enough, or the answer
/// ends.
fn listen(
    config: &Config,
    request: &Json,
    duration: Option<Duration>,
    mut show: impl FnMut(&Json) -> show::Shown,
) -> anyhow::Result<ExitCode> {
    let end = duration.map(|duration| Instant::now() + duration);
    let mut conversation = begin(config, request)?;
    loop {
        let left = end.map(|end| end.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return Ok(ExitCode::SUCCESS);
        }
        match conversation.next(left)? {
            Some(Line::Said(line)) => match show(&line) {
                show::Shown::Yes => {}
                show::Shown::Over(code) => return Ok(code),
            },
            Some(Line::Lost(lost)) => show::lost(lost),
            Some(Line::Refused(why)) => bail!(why),
            None if end.is_some_and(|end| Instant::now() >= end) => {
                return Ok(ExitCode::SUCCESS);
            }
            None => bail!("the agent has gone"),
        }
    }
}

fn begin(config: &Config, request: &Json) -> anyhow::Result<Conversation> {
    let socket = &config.admin.socket;
    match Conversation::begin(socket, request)? {
        Some(conversation) => Ok(conversation),
        None => bail!(
            "no agent answers at {}, and this needs one: start it with `lwm2mqtt run`",
            socket.display()
        ),
    }
}
