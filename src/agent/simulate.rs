//! `lwm2mqtt simulate`: devices that speak real LwM2M to any server, without hardware.

pub(in crate::agent) mod fleet;
mod security;
mod tell;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use tokio::sync::{mpsc, watch};

use crate::agent::entropy;
use crate::lwm2m::{ContentFormat, Version};
use fleet::{Fleet, Names, Totals};
use tell::Teller;

/// Port of `coap` (RFC 7252 §6.1).
const COAP_PORT: u16 = 5683;
/// Port of `coaps` (RFC 7252 §6.2).
const COAPS_PORT: u16 = 5684;
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
  lwm2mqtt simulate --server coap://[::1]:5683 --devices 2000 --lifetime 5m --for 1m --quiet
  lwm2mqtt simulate --server coaps://127.0.0.1 --psk-key-file key.hex --endpoint meter-7")]
pub struct Args {
    /// The server to register with: coap://HOST[:PORT] or coaps://HOST[:PORT]
    #[arg(long, value_name = "URI", value_parser = Server::parse)]
    pub server: Server,

    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub devices: u32,

    #[command(flatten)]
    pub security: security::Credentials,

    /// What endpoint names begin with; a number follows
    #[arg(long, value_name = "PREFIX", default_value = "sim-")]
    pub endpoint_prefix: String,

    /// The endpoint name itself, of one device
    #[arg(long, value_name = "NAME", conflicts_with_all = ["endpoint_prefix", "devices"])]
    pub endpoint: Option<String>,

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

    /// Repeat a message that is not answered after this time, then after twice as long, and so on
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    pub ack_timeout: Duration,

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
    secure: bool,
    host: String,
    port: u16,
}

impl Server {
    /// Reads `coap[s]://HOST[:PORT]`, with brackets around an IPv6 address.
    fn parse(uri: &str) -> Result<Self, String> {
        let (secure, authority) = match uri.strip_prefix("coaps://") {
            Some(authority) => (true, Some(authority)),
            None => (false, uri.strip_prefix("coap://")),
        };
        let authority =
            authority.ok_or("a server is written coap://HOST[:PORT] or coaps://HOST[:PORT]")?;
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
            None if port.is_empty() && secure => COAPS_PORT,
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
            secure,
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
    /// LwM2M CBOR, since LwM2M 1.2
    Lwm2mCbor,
}

impl From<Format> for ContentFormat {
    fn from(format: Format) -> Self {
        match format {
            Format::Tlv => Self::TLV,
            Format::SenmlJson => Self::SENML_JSON,
            Format::SenmlCbor => Self::SENML_CBOR,
            Format::Lwm2mCbor => Self::LWM2M_CBOR,
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
    anyhow::ensure!(
        args.format != Some(Format::Lwm2mCbor) || args.version >= Version::V1_2,
        "LwM2M CBOR came with LwM2M 1.2: add --version 1.2"
    );
    let security = args.security.load(args.server.secure, &args.server.host)?;
    let fleet = Fleet {
        server: args.server.resolve().await?,
        security,
        devices: args.devices,
        names: match &args.endpoint {
            Some(name) => Names::Exact(name.clone()),
            None => Names::Numbered(args.endpoint_prefix.clone()),
        },
        lifetime: u32::try_from(args.lifetime.as_secs()).unwrap_or(u32::MAX),
        interval: args.interval,
        version: args.version,
        format: args.format.map(ContentFormat::from),
        queue_mode: args.awake,
        ack_timeout: args.ack_timeout,
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
            ("coaps://leshan.example", "leshan.example", 5684),
            ("coaps://[::1]:5700", "::1", 5700),
        ] {
            let server = Server::parse(uri).unwrap();
            assert_eq!((server.host.as_str(), server.port), (host, port), "{uri}");
        }
        for uri in [
            "127.0.0.1:5683",
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
}
