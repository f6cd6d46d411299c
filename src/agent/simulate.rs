//! `lwm2mqtt simulate`: devices that speak real LwM2M to any server, without hardware.

pub(in crate::agent) mod fleet;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use crate::agent::entropy;
use crate::client::{Arguments, Event};
use crate::lwm2m::{ContentFormat, Value, Version};
use fleet::{Fleet, Report, Totals};

/// Port of `coap` (RFC 7252 §6.1).
const COAP_PORT: u16 = 5683;
/// With more devices than this, what each of them goes through is counted instead of told.
const TOLD_ONE_BY_ONE: u32 = 10;
/// Reports that may wait for the terminal.
const REPORTS: usize = 1024;

/// Run simulated devices against any LwM2M server
///
/// Each device registers from a socket of its own and has a thermometer (/3303), a hygrometer
/// (/3304), a dimmable light (/3311), a switch (/3342) and what the Device object (/3) tells; some
/// have a second probe or a barometer (/3315). Values move every few seconds, the light can be
/// written, Reboot (/3/0/4) executed. Ctrl-C de-registers all devices.
#[derive(clap::Args, Clone, Debug)]
#[command(disable_version_flag = true)]
#[command(after_help = "Examples:
  lwm2mqtt simulate --server coap://127.0.0.1 --devices 3
  lwm2mqtt simulate --server coap://leshan.eclipseprojects.io --version 1.1 --format tlv
  lwm2mqtt simulate --server coap://[::1]:5683 --devices 2000 --lifetime 5m --for 1m --quiet")]
pub struct Args {
    /// The server to register with: coap://HOST[:PORT]
    #[arg(long, value_name = "URI", value_parser = Server::parse)]
    pub server: Server,

    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub devices: u32,

    /// What endpoint names begin with; a number follows
    #[arg(long, value_name = "PREFIX", default_value = "sim-")]
    pub endpoint_prefix: String,

    /// How long a registration lasts without an update
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = humantime::parse_duration)]
    pub lifetime: Duration,

    /// Time between two values of a sensor, on average
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub interval: Duration,

    /// The newest LwM2M version that the devices offer: 1.0, 1.1 or 1.2
    #[arg(long, value_name = "VERSION", default_value = "1.1", value_parser = parse_version)]
    pub version: Version,

    /// The only structured format that the devices know [default: all of them]
    #[arg(long, value_name = "FORMAT")]
    pub format: Option<Format>,

    /// Sleep in between: listen only so long after each message (queue mode)
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub awake: Option<Duration>,

    /// Stop after this time [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,

    /// The same seed gives the same values [default: another one each time]
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,

    /// Print failures and the summary only
    #[arg(long, short)]
    pub quiet: bool,
}

/// A server's address, as it was written.
#[derive(Clone, Debug)]
pub struct Server {
    uri: String,
    host: String,
    port: u16,
}

impl Server {
    /// Reads `coap://HOST[:PORT]`, with brackets around an IPv6 address.
    fn parse(uri: &str) -> Result<Self, String> {
        if uri.starts_with("coaps:") {
            return Err("simulated devices have no keys yet; use coap://".into());
        }
        let authority = uri
            .strip_prefix("coap://")
            .ok_or("a server is written coap://HOST[:PORT]")?;
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => rest
                .split_once(']')
                .ok_or("']' is missing after the address")?,
            None => match authority.find(':') {
                Some(at) => authority.split_at(at),
                None => (authority, ""),
            },
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => COAP_PORT,
            Some(port) => port
                .parse()
                .map_err(|_| "the port is a number up to 65535")?,
            None => return Err("what follows ']' is a colon and the port".into()),
        };
        if host.is_empty() || host.contains(['/', '?', '@']) {
            return Err("a server is written coap://HOST[:PORT], without a path".into());
        }
        Ok(Self {
            uri: uri.into(),
            host: host.into(),
            port,
        })
    }

    async fn resolve(&self) -> anyhow::Result<SocketAddr> {
        let mut addresses = tokio::net::lookup_host((self.host.as_str(), self.port))
            .await
            .with_context(|| format!("cannot find the host {}", self.host))?;
        addresses
            .next()
            .with_context(|| format!("the host {} has no address", self.host))
    }
}

/// A structured payload format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// OMA TLV
    Tlv,
    /// SenML JSON
    SenmlJson,
    /// SenML CBOR
    SenmlCbor,
}

impl From<Format> for ContentFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Tlv => Self::TLV,
            Format::SenmlJson => Self::SENML_JSON,
            Format::SenmlCbor => Self::SENML_CBOR,
        }
    }
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text.parse() {
        Ok(version @ (Version::V1_0 | Version::V1_1 | Version::V1_2)) => Ok(version),
        _ => Err("the versions of LwM2M are 1.0, 1.1 and 1.2".into()),
    }
}

/// Runs the devices until Ctrl-C or the end of `--for`; `json` prints one object a line.
///
/// # Errors
/// The server cannot be found, the system refuses a socket, or no device could register.
pub async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    unless_unread(simulate(args, json).await)
}

/// Who reads our lines may leave before we do (`| head`): no failure of ours.
pub(in crate::agent) fn unless_unread(result: anyhow::Result<()>) -> anyhow::Result<()> {
    let unread = |error: &anyhow::Error| {
        let io = error.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if unread(&error) => Ok(()),
        result => result,
    }
}

async fn simulate(args: Args, json: bool) -> anyhow::Result<()> {
    let fleet = Fleet {
        server: args.server.resolve().await?,
        devices: args.devices,
        prefix: args.endpoint_prefix.clone(),
        lifetime: u32::try_from(args.lifetime.as_secs()).unwrap_or(u32::MAX),
        interval: args.interval,
        version: args.version,
        format: args.format.map(ContentFormat::from),
        queue_mode: args.awake,
        seed: args.seed.map_or_else(entropy::number, Ok)?,
    };
    let totals = Arc::new(Totals::default());
    let (reports, mut reported) = mpsc::channel(REPORTS);
    let (stop, stopped) = watch::channel(false);
    let mut teller = Teller::new(&args, &fleet, totals.clone(), json);
    teller.begin(&args.server.uri)?;

    let devices = tokio::spawn(fleet.run(reports, totals, stopped));
    let end = end(args.duration);
    tokio::pin!(end);
    let mut progress = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            report = reported.recv() => match report {
                Some(report) => teller.tell(&report)?,
                None => break,
            },
            _ = progress.tick() => teller.progress()?,
            result = &mut end, if !*stop.borrow() => {
                result?;
                stop.send_replace(true);
            }
        }
    }
    devices.await.context("the devices' task ended")??;
    teller.end()?;
    ensure!(
        teller.ever_registered > 0,
        "no device could register with {}: {}",
        args.server.uri,
        teller.obstacle()
    );
    Ok(())
}

/// Ctrl-C, or the end of the time given.
async fn end(duration: Option<Duration>) -> io::Result<()> {
    match duration {
        Some(duration) => tokio::select! {
            () = tokio::time::sleep(duration) => Ok(()),
            result = tokio::signal::ctrl_c() => result,
        },
        None => tokio::signal::ctrl_c().await,
    }
}

/// Says what the devices see.
struct Teller {
    fleet: Fleet,
    totals: Arc<Totals>,
    json: bool,
    quiet: bool,
    one_by_one: bool,
    live: bool,
    /// Devices with a registration.
    registered: BTreeSet<u32>,
    ever_registered: u32,
    failed: u64,
    written: u64,
    executed: u64,
    last_failure: Option<String>,
    shown: String,
}

impl Teller {
    fn new(args: &Args, fleet: &Fleet, totals: Arc<Totals>, json: bool) -> Self {
        Self {
            fleet: fleet.clone(),
            totals,
            json,
            quiet: args.quiet,
            one_by_one: fleet.devices <= TOLD_ONE_BY_ONE || json,
            live: io::stderr().is_terminal() && !json,
            registered: BTreeSet::new(),
            ever_registered: 0,
            failed: 0,
            written: 0,
            executed: 0,
            last_failure: None,
            shown: String::new(),
        }
    }

    fn begin(&self, uri: &str) -> io::Result<()> {
        if self.quiet || self.json {
            return Ok(());
        }
        let Fleet { devices, .. } = self.fleet;
        let last = self.fleet.endpoint_name(devices - 1);
        let names = match devices {
            1 => last,
            _ => format!("{} to {last}", self.fleet.endpoint_name(0)),
        };
        writeln!(
            io::stdout(),
            "{devices} simulated {} ({names}), LwM2M {}, registering with {uri}. Ctrl-C stops.",
            plural(devices.into(), "device", "devices"),
            self.fleet.version,
        )
    }

    /// Why nobody registered, as far as we know.
    fn obstacle(&self) -> &str {
        match &self.last_failure {
            _ if self.totals.unreachable.load(Ordering::Relaxed) > 0 => "nothing listens there",
            Some(failure) => failure,
            None => "no answer yet",
        }
    }

    fn tell(&mut self, report: &Report) -> io::Result<()> {
        let failure = match &report.event {
            Event::Registered { .. } => {
                self.registered.insert(report.device);
                self.ever_registered += 1;
                false
            }
            Event::RegistrationLost { .. } => {
                self.registered.remove(&report.device);
                true
            }
            Event::Deregistered { .. } | Event::Restarting { .. } => {
                self.registered.remove(&report.device);
                false
            }
            Event::RegistrationFailed { reason, .. } => {
                self.failed += 1;
                self.last_failure = Some(reason.to_string());
                true
            }
            Event::Written { .. } => {
                self.written += 1;
                false
            }
            Event::Executed { .. } => {
                self.executed += 1;
                false
            }
            _ => false,
        };
        let caused_by_a_server =
            matches!(report.event, Event::Written { .. } | Event::Executed { .. });
        let worth_a_line = match self.quiet {
            true => failure && self.one_by_one,
            false => self.one_by_one || caused_by_a_server,
        };
        if !worth_a_line {
            return Ok(());
        }
        let endpoint = self.fleet.endpoint_name(report.device);
        let mut out = io::stdout().lock();
        if self.json {
            return writeln!(out, "{}", json_line(&endpoint, report));
        }
        if self.live && !self.shown.is_empty() {
            self.shown.clear();
            write!(io::stderr(), "\r\x1b[K")?;
        }
        let at = report.at.to_string();
        let time = at.get(11..23).unwrap_or(&at);
        writeln!(out, "{time}  {endpoint}  {}", sentence(&report.event))
    }

    /// One line that counts, renewed in place on a terminal; without one, only while the number of
    /// registrations moves.
    fn progress(&mut self) -> io::Result<()> {
        if self.quiet || self.json || self.one_by_one {
            return Ok(());
        }
        let registered = format!(
            "{} of {} registered",
            self.registered.len(),
            self.fleet.devices
        );
        let notifications = self.totals.notifications.load(Ordering::Relaxed);
        if self.live {
            self.shown = registered;
            let shown = &self.shown;
            write!(
                io::stderr(),
                "\r\x1b[K{shown}, {notifications} notifications sent"
            )
        } else if self.shown != registered {
            self.shown = registered;
            writeln!(io::stderr(), "{}", self.shown)
        } else {
            Ok(())
        }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.live && !self.shown.is_empty() {
            write!(io::stderr(), "\r\x1b[K")?;
        }
        let count = |total: &std::sync::atomic::AtomicU64| total.load(Ordering::Relaxed);
        let notifications = count(&self.totals.notifications);
        let (requests, refused) = (count(&self.totals.requests), count(&self.totals.refused));
        let mut out = io::stdout().lock();
        if self.json {
            let summary = json!({
                "event": "summary", "devices": self.fleet.devices, "registrations": self.ever_registered,
                "failed_registrations": self.failed, "notifications": notifications, "requests": requests,
                "refused": refused, "written": self.written, "executed": self.executed,
            });
            return writeln!(out, "{summary}");
        }
        writeln!(
            out,
            "{} {}: {} {} ({} failed), {notifications} notifications, {requests} requests answered \
             ({refused} refused), {} written, {} executed",
            self.fleet.devices,
            plural(self.fleet.devices.into(), "device", "devices"),
            self.ever_registered,
            plural(self.ever_registered.into(), "registration", "registrations"),
            self.failed,
            self.written,
            self.executed,
        )
    }
}

fn plural(count: u64, one: &'static str, many: &'static str) -> &'static str {
    if count == 1 { one } else { many }
}

fn sentence(event: &Event) -> String {
    match event {
        Event::Registered {
            version, location, ..
        } => format!("registered at {location}, LwM2M {version}"),
        Event::VersionRefused { version, .. } => format!("LwM2M {version} refused, stepping down"),
        Event::RegistrationFailed {
            reason, retry_in, ..
        } => format!(
            "could not register: {reason}; again in {:.1} s",
            retry_in.as_secs_f64()
        ),
        Event::Updated { .. } => "registration updated".into(),
        Event::RegistrationLost { reason, .. } => format!("registration lost: {reason}"),
        Event::Deregistered { .. } => "de-registered".into(),
        Event::Observed { path, .. } => format!("observed {path}"),
        Event::Written { path, value, .. } => match value {
            Some(value) => format!("written {path} = {}", text(value)),
            None => format!("written {path}"),
        },
        Event::Executed {
            path, arguments, ..
        } => match arguments.0.is_empty() {
            true => format!("executed {path}"),
            false => format!("executed {path} with {}", argument_text(arguments)),
        },
        Event::Restarting { back_in } => {
            format!("restarting, back in {:.1} s", back_in.as_secs_f64())
        }
        Event::Stopped => "stopped".into(),
    }
}

/// A value as a person writes it.
fn text(value: &Value) -> String {
    match json_value(value) {
        serde_json::Value::String(text) if !matches!(value, Value::Opaque(_)) => {
            format!("{text:?}")
        }
        other => other.to_string(),
    }
}

fn json_value(value: &Value) -> serde_json::Value {
    match value {
        Value::String(text) | Value::CoreLink(text) => json!(text),
        Value::Integer(number) | Value::Time(number) => json!(number),
        Value::UnsignedInteger(number) => json!(number),
        Value::Float(number) => json!(number),
        Value::Boolean(value) => json!(value),
        Value::ObjectLink(link) => json!(link.to_string()),
        Value::Opaque(bytes) => {
            let hex = bytes.iter().fold(String::new(), |mut hex, byte| {
                _ = write!(hex, "{byte:02x}");
                hex
            });
            json!(hex)
        }
    }
}

fn argument_text(arguments: &Arguments) -> String {
    let arguments = arguments.0.iter().map(|(digit, value)| match value {
        Some(value) => format!("{digit}='{value}'"),
        None => digit.to_string(),
    });
    arguments.collect::<Vec<_>>().join(",")
}

fn json_line(endpoint: &str, report: &Report) -> serde_json::Value {
    let (name, more) = match &report.event {
        Event::Registered {
            version, location, ..
        } => (
            "registered",
            json!({ "location": location, "version": version.to_string() }),
        ),
        Event::VersionRefused { version, .. } => {
            ("version_refused", json!({ "version": version.to_string() }))
        }
        Event::RegistrationFailed {
            reason, retry_in, ..
        } => (
            "registration_failed",
            json!({ "reason": reason.to_string(), "retry_in": retry_in.as_secs_f64() }),
        ),
        Event::Updated { .. } => ("updated", json!({})),
        Event::RegistrationLost { reason, .. } => {
            ("registration_lost", json!({ "reason": reason.to_string() }))
        }
        Event::Deregistered { .. } => ("deregistered", json!({})),
        Event::Observed { path, .. } => ("observed", json!({ "path": path.to_string() })),
        Event::Written { path, value, .. } => (
            "written",
            json!({ "path": path.to_string(), "value": value.as_ref().map(json_value) }),
        ),
        Event::Executed {
            path, arguments, ..
        } => (
            "executed",
            json!({ "path": path.to_string(), "arguments": argument_text(arguments) }),
        ),
        Event::Restarting { back_in } => {
            ("restarting", json!({ "back_in": back_in.as_secs_f64() }))
        }
        Event::Stopped => ("stopped", json!({})),
    };
    let mut line = json!({ "time": report.at.to_string(), "endpoint": endpoint, "event": name });
    if let (Some(line), serde_json::Value::Object(more)) = (line.as_object_mut(), more) {
        line.extend(more);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_written_as_a_coap_uri() {
        for (uri, host, port) in [
            ("coap://127.0.0.1", "127.0.0.1", 5683),
            ("coap://127.0.0.1:5700", "127.0.0.1", 5700),
            ("coap://[::1]", "::1", 5683),
            ("coap://[::1]:5700/", "::1", 5700),
            ("coap://leshan.example", "leshan.example", 5683),
        ] {
            let server = Server::parse(uri).unwrap();
            assert_eq!((server.host.as_str(), server.port), (host, port), "{uri}");
        }
        for uri in [
            "127.0.0.1:5683",
            "coaps://127.0.0.1",
            "coap://",
            "coap://:5683",
            "coap://host:port",
            "coap://[::1",
            "coap://[::1]5683",
            "coap://host/rd",
        ] {
            assert!(Server::parse(uri).is_err(), "{uri}");
        }
    }

    #[test]
    fn what_a_device_sees_is_a_sentence_and_a_json_line() {
        let report = Report {
            device: 0,
            at: crate::time::UnixTime::from_millis(1_795_360_765_120),
            event: Event::Written {
                account: 0,
                path: "/3311/0/5850".parse().unwrap(),
                value: Some(Value::Boolean(true)),
            },
        };
        assert_eq!(sentence(&report.event), "written /3311/0/5850 = true");
        assert_eq!(
            json_line("sim-0", &report),
            json!({
                "time": "2026-11-22T15:19:25.120Z", "endpoint": "sim-0", "event": "written",
                "path": "/3311/0/5850", "value": true,
            })
        );
    }
}
