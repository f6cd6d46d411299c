//! `read`, `write`, `execute` …: one operation on a device, answered in the terminal; `observe` and
//! `watch`, which go on until they are ended.
//!
//! Everything is asked of the running agent: operations become commands there, like those from MQTT.

mod show;
mod target;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, Subcommand};
use serde_json::{Map, Value as Json, json};

use self::target::{Assignments, Target};
use crate::agent::admin::{Conversation, Line};
use crate::agent::config::Config;

/// How long the agent has for its first word.
const PATIENCE: Duration = Duration::from_secs(30);

/// One operation on one device, or what goes by.
#[derive(Debug, Subcommand)]
pub enum Operation {
    Read(Read),
    Write(Write),
    Execute(Execute),
    Observe(Observe),
    Discover(Discover),
    Create(Create),
    Delete(Delete),
    Attributes(Attributes),
    Watch(Watch),
}

/// Whom it is for, and how long one wants to wait.
#[derive(Debug, Args)]
pub struct Asked {
    /// The device's name, or its endpoint name
    device: String,
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
    #[command(flatten)]
    asked: Asked,
    /// What to read
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<Target>,
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
    #[command(flatten)]
    asked: Asked,
    /// PATH=VALUE, or PATH and VALUE apart
    #[arg(required = true, value_name = "PATH=VALUE")]
    values: Vec<String>,
    /// Replace the instance: what is not written is dropped
    #[arg(long)]
    replace: bool,
}

/// Execute a resource
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt execute meter-7 /3/0/4
  lwm2mqtt execute meter-7 device-0/reboot
  lwm2mqtt execute meter-7 /5/0/2 \"0='1'\"")]
pub struct Execute {
    #[command(flatten)]
    asked: Asked,
    /// The resource, or a command of the mapping
    #[arg(value_name = "PATH")]
    path: String,
    /// Arguments, as in LwM2M Core 6.3.5
    arguments: Option<String>,
}

/// Show what a node holds and which attributes are attached
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt discover meter-7 /3
  lwm2mqtt discover meter-7 /3303 --depth 1")]
pub struct Discover {
    #[command(flatten)]
    asked: Asked,
    /// An object, instance or resource
    #[arg(value_name = "PATH")]
    path: Target,
    /// How many levels below it, 0 to 3; LwM2M 1.2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=3))]
    depth: Option<u8>,
}

/// Create an instance of an object
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt create meter-7 /3311/1 5850=true
  lwm2mqtt create meter-7 /3311 5850=true
      the device chooses the number of the instance")]
pub struct Create {
    #[command(flatten)]
    asked: Asked,
    /// The object, or the instance that is to be
    #[arg(value_name = "PATH")]
    path: Target,
    /// RESOURCE=VALUE, with the number of the resource
    #[arg(value_name = "RESOURCE=VALUE")]
    values: Vec<String>,
}

/// Delete an instance
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  lwm2mqtt delete meter-7 /3311/1")]
pub struct Delete {
    #[command(flatten)]
    asked: Asked,
    /// The instance
    #[arg(value_name = "PATH")]
    path: Target,
}

/// Attach notification attributes to a node
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  lwm2mqtt attributes meter-7 /3303/0/5700 pmin=10 pmax=600 st=0.5
  lwm2mqtt attributes meter-7 /3303/0/5700 st=
      takes an attribute away")]
pub struct Attributes {
    #[command(flatten)]
    asked: Asked,
    /// The node
    #[arg(value_name = "PATH")]
    path: Target,
    /// NAME=VALUE: pmin, pmax, gt, lt, st, epmin, epmax, edge, con, hqmax
    #[arg(required = true, value_name = "NAME=VALUE")]
    attributes: Vec<String>,
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
    #[command(flatten)]
    lasting: Lasting,
}

/// Show what goes by, live: LwM2M on the left, MQTT on the right
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  lwm2mqtt watch\n  lwm2mqtt watch meter-7 --for 1m\n  lwm2mqtt watch --json"
)]
pub struct Watch {
    /// Only this device
    device: Option<String>,
    #[command(flatten)]
    lasting: Lasting,
}

/// For how long lines are shown.
#[derive(Debug, Args)]
pub struct Lasting {
    /// How long, "10m"
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    duration: Option<Duration>,
}

/// A request for a device, as MQTT has them: what follows the device's topic, and the payload; or a
/// sentence on why there is none.
type Request = Result<(String, Json), String>;

/// Runs an operation.
///
/// # Errors
///
/// When no agent runs, or it cannot be asked.
pub fn run(config: &Config, operation: &Operation, json: bool) -> anyhow::Result<ExitCode> {
    let (asked, request) = match operation {
        Operation::Read(args) => (&args.asked, args.request()),
        Operation::Write(args) => (&args.asked, args.request()),
        Operation::Execute(args) => (&args.asked, args.request()),
        Operation::Discover(args) => (&args.asked, args.request()),
        Operation::Create(args) => (&args.asked, args.request()),
        Operation::Delete(args) => (&args.asked, args.request()),
        Operation::Attributes(args) => (&args.asked, args.request()),
        Operation::Observe(args) => return observe(config, args, json),
        Operation::Watch(args) => return watch(config, args, json),
    };
    match request {
        Ok((request, body)) => carry_out(config, json, asked, &request, body),
        Err(why) => Ok(show::usage(&why)),
    }
}

impl Read {
    fn request(&self) -> Request {
        Ok(match &self.paths[..] {
            [Target::Path(path)] => ("lwm2m/read".into(), json!({ "path": path.to_string() })),
            [Target::Name(name)] => (format!("get/{name}"), json!({})),
            several => {
                let paths: Vec<_> = several.iter().map(ToString::to_string).collect();
                ("lwm2m/read-composite".into(), json!({ "paths": paths }))
            }
        })
    }
}

impl Write {
    fn request(&self) -> Request {
        Assignments::parse(&self.values)?.request(self.replace)
    }
}

impl Execute {
    fn request(&self) -> Request {
        let mut body = Map::new();
        let request = match self.path.parse() {
            Ok(Target::Path(path)) => {
                body.insert("path".into(), path.to_string().into());
                "lwm2m/execute".to_owned()
            }
            // A command of the mapping has one word.
            _ => format!("do/{}", self.path),
        };
        if let Some(arguments) = &self.arguments {
            body.insert("args".into(), arguments.as_str().into());
        }
        Ok((request, body.into()))
    }
}

impl Discover {
    fn request(&self) -> Request {
        let mut body = json!({ "path": self.path.to_string() });
        if let Some(depth) = self.depth {
            body["depth"] = depth.into();
        }
        Ok(("lwm2m/discover".into(), body))
    }
}

impl Create {
    fn request(&self) -> Request {
        let values = target::values(&self.values)?;
        let body = json!({ "path": self.path.to_string(), "values": values });
        Ok(("lwm2m/create".into(), body))
    }
}

impl Delete {
    fn request(&self) -> Request {
        let body = json!({ "path": self.path.to_string() });
        Ok(("lwm2m/delete".into(), body))
    }
}

impl Attributes {
    fn request(&self) -> Request {
        let attributes = target::values(&self.attributes)?;
        let body = json!({ "path": self.path.to_string(), "attributes": attributes });
        Ok(("lwm2m/write-attributes".into(), body))
    }
}

/// Has the agent carry out a command, and shows what becomes of it. Failure is the exit code; what
/// was not waited for is none.
fn carry_out(
    config: &Config,
    as_json: bool,
    asked: &Asked,
    request: &str,
    mut body: Json,
) -> anyhow::Result<ExitCode> {
    if let Some(ttl) = asked.ttl {
        body["ttl"] = ttl.as_secs().max(1).into();
    }
    let device = &asked.device;
    let request = json!({ "verb": "command", "device": device, "request": request, "body": body });
    let mut conversation = begin(config, &request)?;
    let mut patience = Some(PATIENCE);
    loop {
        match conversation.next(patience)? {
            Some(Line::Said(reply)) => {
                patience = None;
                let queued = reply["status"] == "queued";
                if reply["final"] == true || (queued && asked.no_wait) {
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

fn observe(config: &Config, args: &Observe, json: bool) -> anyhow::Result<ExitCode> {
    let (device, path) = (&args.device, args.path.to_string());
    let request = json!({ "verb": "observe", "device": device, "path": path });
    listen(config, &request, args.lasting.duration, |line| {
        show::value(json, line)
    })
}

fn watch(config: &Config, args: &Watch, json: bool) -> anyhow::Result<ExitCode> {
    let mut request = json!({ "verb": "watch" });
    if let Some(device) = &args.device {
        request["device"] = device.as_str().into();
    }
    let mut screen = show::Screen::new(json);
    listen(config, &request, args.lasting.duration, |line| {
        screen.line(line)
    })
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
