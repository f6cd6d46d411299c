//! `lwm2mqtt demo`: a broker, the gateway and simulated devices in one process, and what a
//! consumer sees of them.
//!
//! The three are real and know each other only through loopback sockets: the devices speak LwM2M
//! over UDP, the gateway and the consumer MQTT over TCP.

mod broker;
mod show;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use rumqttc::NetworkOptions;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::agent::config::{Config, Join};
use crate::agent::entropy;
use crate::agent::log;
use crate::agent::run::Agent;
use crate::agent::setup;
use crate::agent::simulate::fleet::{Fleet, Names, Totals};
use crate::agent::simulate::unless_unread;
use crate::lwm2m::model::Version;
use show::{Screen, Tally};

const BASE: &str = "lwm2mqtt";
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(5);
/// The command leaves this long after the light's first value, or this long after the start.
const COMMAND_AFTER_VALUE: Duration = Duration::from_secs(1);
const COMMAND_AFTER_START: Duration = Duration::from_secs(5);
/// What the gateway published last may still be on its way when it has stopped.
const LAST_PUBLISHES: Duration = Duration::from_millis(200);
const COMMAND_ID: &str = "demo-1";

/// Show a broker, the gateway and simulated devices at work, all in this process
///
/// Starts an MQTT broker, the gateway and simulated devices that speak real LwM2M over UDP, all on
/// free loopback ports, and prints every message that an MQTT client sees, live. One command is
/// sent and its answer shown. Needs no configuration, no privileges and no network.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = "Examples:
  lwm2mqtt demo
  lwm2mqtt demo --devices 20 --for 30s
  lwm2mqtt --json demo --for 10s | jq -r 'select(.topic) | .topic'")]
pub struct Args {
    /// How many devices
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub devices: u32,

    /// Stop after this time, with a summary [default: at Ctrl-C]
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub duration: Option<Duration>,
}

/// Runs the demo until Ctrl-C or the end of `--for`; `json` prints one object a line.
///
/// # Errors
/// One of the three does not start, nothing is published about a device, or the command is not
/// answered.
pub async fn run(args: Args, json: bool) -> anyhow::Result<()> {
    unless_unread(demonstrate(args, json).await)
}

async fn demonstrate(args: Args, json: bool) -> anyhow::Result<()> {
    if std::env::var_os("RUST_LOG").is_some() {
        log::start("info");
    }
    let screen = Screen::new(json);
    let broker = broker::start().await?;
    let mut consumer = Consumer::connect(broker).await?;
    let mut options = setup::options(&gateway(broker))?;
    // A demo leaves nothing behind, and touches nothing of an agent that runs here.
    options.local = crate::agent::local::Settings::default();
    let agent = Agent::start(options).context("the gateway does not start")?;
    let addresses = agent.addresses();
    let server = *addresses.first().context("the gateway listens nowhere")?;
    let fleet = Fleet {
        server,
        security: None,
        devices: args.devices,
        names: Names::Numbered("demo-".into()),
        lifetime: 60,
        interval: Duration::from_secs(2),
        version: Version::V1_1,
        format: None,
        queue_mode: None,
        ack_timeout: Duration::from_secs(2),
        seed: entropy::number()?,
    };
    let light = format!("d/{}/v/light-control-0/on-off", fleet.endpoint_name(0));
    let target = format!(
        "{BASE}/d/{}/set/light-control-0/on-off",
        fleet.endpoint_name(0)
    );
    banner(&screen, &args, broker, server)?;

    let started = Instant::now();
    let (stop_devices, devices_stopped) = watch::channel(false);
    let (stop_gateway, mut gateway_stopped) = watch::channel(false);
    let (reports, mut reported) = mpsc::channel(1024);
    let mut devices = pin!(fleet.run(reports, Arc::<Totals>::default(), devices_stopped));
    let mut gateway = pin!(agent.run(async move {
        _ = gateway_stopped.wait_for(|stop| *stop).await;
    }));
    let mut end = pin!(end(args.duration));
    let mut command_at = Some(started + COMMAND_AFTER_START);
    let mut devices_run = true;

    // the devices leave first, so that the gateway can tell; it goes when they are gone
    loop {
        tokio::select! {
            publish = consumer.next() => {
                let publish = publish?;
                if consumer.take(&screen, &publish)? == light {
                    let soon = Instant::now() + COMMAND_AFTER_VALUE;
                    command_at = command_at.map(|at| at.min(soon));
                }
            }
            Some(_) = reported.recv() => {}
            () = sleep_until(command_at.unwrap_or(started)), if command_at.is_some() => {
                command_at = None;
                consumer.command(&target).await?;
            }
            result = &mut devices, if devices_run => {
                result?;
                devices_run = false;
                stop_gateway.send_replace(true);
            }
            () = &mut gateway => break,
            result = &mut end, if !*stop_devices.borrow() => {
                result?;
                command_at = None;
                stop_devices.send_replace(true);
            }
        }
    }
    let after = started.elapsed();
    ensure!(*stop_gateway.borrow(), "the gateway stopped by itself");
    if let Ok(lost) = timeout(LAST_PUBLISHES, consumer.follow(&screen)).await {
        lost?;
    }
    consumer.conclude(&screen, after, args.devices)
}

/// The gateway's configuration: all defaults but for what makes it a demo.
fn gateway(broker: SocketAddr) -> Config {
    let mut config = Config::default();
    config.gateway.id = Some("demo".into());
    config.mqtt.url = format!("mqtt://{broker}");
    config.mqtt.base_topic = BASE.into();
    config.devices.coap = vec![SocketAddr::from(([127, 0, 0, 1], 0))];
    config.devices.coaps = Vec::new();
    config.devices.bootstrap.coaps = Vec::new();
    config.devices.join = Join::Open;
    config
}

fn banner(
    screen: &Screen,
    args: &Args,
    broker: SocketAddr,
    server: SocketAddr,
) -> std::io::Result<()> {
    let devices = match args.devices {
        1 => "1 simulated device speaks".to_owned(),
        many => format!("{many} simulated devices speak"),
    };
    screen.say(&format!(
        "{devices} LwM2M to the gateway at coap://{server}, which publishes to the broker at mqtt://{broker}."
    ))?;
    screen.say(&format!(
        "Each line is one message as any MQTT client sees it; look for yourself: mosquitto_sub -V 5 -p {} -v -t '{BASE}/#'\n",
        broker.port()
    ))
}

/// Ctrl-C, or the end of the time given.
async fn end(duration: Option<Duration>) -> std::io::Result<()> {
    match duration {
        Some(duration) => tokio::select! {
            () = sleep(duration) => Ok(()),
            result = tokio::signal::ctrl_c() => result,
        },
        None => tokio::signal::ctrl_c().await,
    }
}

/// An MQTT client like any other, subscribed to everything.
struct Consumer {
    client: AsyncClient,
    connection: EventLoop,
    tally: Tally,
    commanded: Option<Instant>,
    round_trip: Option<Duration>,
}

impl Consumer {
    async fn connect(broker: SocketAddr) -> anyhow::Result<Self> {
        let host = broker.ip().to_string();
        let mut options = MqttOptions::new("lwm2mqtt-demo-consumer", host, broker.port());
        options.set_keep_alive(Duration::from_secs(30));
        options.set_max_packet_size(Some(1 << 20));
        let mut network = NetworkOptions::new();
        network.set_tcp_nodelay(true);
        options.set_network_options(network);
        let (client, connection) = AsyncClient::new(options, 64);
        let mut consumer = Self {
            client,
            connection,
            tally: Tally::default(),
            commanded: None,
            round_trip: None,
        };
        consumer
            .client
            .subscribe(format!("{BASE}/#"), QoS::AtLeastOnce)
            .await?;
        let subscribed = async {
            loop {
                match consumer.connection.poll().await {
                    Ok(Event::Incoming(Packet::SubAck(_))) => return Ok(()),
                    Ok(_) => {}
                    Err(error) => bail!("the consumer lost the broker: {error}"),
                }
            }
        };
        timeout(SUBSCRIBED_WITHIN, subscribed)
            .await
            .context("the broker does not answer the consumer")??;
        Ok(consumer)
    }

    /// The next publish.
    async fn next(&mut self) -> anyhow::Result<Publish> {
        loop {
            let event = self.connection.poll().await;
            if let Event::Incoming(Packet::Publish(publish)) =
                event.context("the consumer lost the broker")?
            {
                return Ok(publish);
            }
        }
    }

    /// Shows every publish until the broker is lost.
    async fn follow(&mut self, screen: &Screen) -> anyhow::Result<Infallible> {
        loop {
            let publish = self.next().await?;
            self.take(screen, &publish)?;
        }
    }

    /// Counts and shows a publish; returns its topic below the base.
    fn take(&mut self, screen: &Screen, publish: &Publish) -> anyhow::Result<String> {
        let topic = String::from_utf8_lossy(&publish.topic);
        let below = topic.strip_prefix(BASE).unwrap_or(&topic);
        let below = below.strip_prefix('/').unwrap_or(below).to_owned();
        self.tally.count(&below);
        if let Some(sent) = self.commanded
            && self.round_trip.is_none()
            && below.ends_with("/reply")
            && is_final(&publish.payload)
        {
            self.round_trip = Some(sent.elapsed());
        }
        let at = crate::time::UnixTime::from_millis(jiff::Timestamp::now().as_millisecond());
        screen.publish(&at.to_string(), &topic, &publish.payload, publish.retain)?;
        Ok(below)
    }

    /// Asks for the first device's light.
    async fn command(&mut self, topic: &str) -> anyhow::Result<()> {
        let payload = format!(r#"{{"value":true,"id":"{COMMAND_ID}"}}"#);
        self.commanded = Some(Instant::now());
        let sent = self
            .client
            .publish(topic, QoS::AtLeastOnce, false, payload)
            .await;
        sent.context("the command could not be sent")
    }

    fn conclude(&self, screen: &Screen, after: Duration, devices: u32) -> anyhow::Result<()> {
        screen.summary(after, devices, &self.tally, self.round_trip)?;
        ensure!(
            self.tally.about_devices() > 0,
            "nothing was published about a device; RUST_LOG=info shows what the gateway did"
        );
        ensure!(
            self.commanded.is_none() || self.round_trip.is_some(),
            "the command was not answered; RUST_LOG=info shows what the gateway did"
        );
        Ok(())
    }
}

/// Whether a reply is the last one to our command.
fn is_final(payload: &[u8]) -> bool {
    let reply: Option<serde_json::Value> = serde_json::from_slice(payload).ok();
    reply.is_some_and(|reply| reply["id"] == COMMAND_ID && reply["final"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_consumer_sees_what_is_published_on_the_broker() {
        let address = broker::start().await.unwrap();
        let mut consumer = Consumer::connect(address).await.unwrap();
        consumer.command("lwm2mqtt/d/demo-0/set/x/y").await.unwrap();
        let publish = consumer.next().await.unwrap();
        assert_eq!(publish.topic, "lwm2mqtt/d/demo-0/set/x/y");
        let screen = Screen::new(false);
        let below = consumer.take(&screen, &publish).unwrap();
        assert_eq!(below, "d/demo-0/set/x/y");
        let nothing = consumer.conclude(&screen, Duration::ZERO, 1).unwrap_err();
        assert!(
            nothing.to_string().contains("nothing was published"),
            "{nothing}"
        );
    }

    #[test]
    fn the_last_reply_to_our_command_is_recognised() {
        assert!(is_final(br#"{"id":"demo-1","status":"done","final":true}"#));
        assert!(!is_final(
            br#"{"id":"demo-1","status":"sent","final":false}"#
        ));
        assert!(!is_final(br#"{"id":"else","status":"done","final":true}"#));
        assert!(!is_final(b"not json"));
    }
}
