//! A rumqttd for measurements: it costs little, so that a figure is the agent's. `bench-broker PORT4 PORT5` listens on the
//! loopback for MQTT 3.1.1 and 5 and prints, once a second, how many publishes it has had in all.

// A program of its own, outside the core's wall.
#![allow(clippy::disallowed_methods, clippy::print_stdout)]

use std::collections::HashMap;
use std::env;
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rumqttd::meters::MetersLink;
use rumqttd::{
    Broker, Config, ConnectionSettings, Meter, MetricSettings, MetricType, RouterConfig,
    ServerSettings,
};

fn main() -> Result<()> {
    let mut ports = env::args().skip(1).map(|word| word.parse::<u16>());
    let mut port = || {
        ports
            .next()
            .context("bench-broker PORT4 PORT5")?
            .context("no port")
    };
    let config = Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 1000,
            max_segment_size: 16 << 20,
            max_segment_count: 4,
            ..RouterConfig::default()
        },
        v4: Some(HashMap::from([("v4".into(), server("v4", port()?))])),
        v5: Some(HashMap::from([("v5".into(), server("v5", port()?))])),
        // Its timer panics unless both are there.
        metrics: Some(HashMap::from([
            (MetricType::Meters, every_second()?),
            (MetricType::Alerts, every_second()?),
        ])),
        ..Config::default()
    };
    let mut broker = Broker::new(config);
    let meters = broker.meters()?;
    thread::spawn(move || count(&meters));
    broker.start()?;
    Ok(())
}

/// The settings have no constructor, only a file format.
fn every_second() -> Result<MetricSettings> {
    Ok(serde_json::from_str(r#"{"push_interval":1}"#)?)
}

fn server(name: &str, port: u16) -> ServerSettings {
    ServerSettings {
        name: name.into(),
        listen: (Ipv4Addr::LOCALHOST, port).into(),
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: 1 << 20,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    }
}

/// rumqttd reports what came since its last report.
fn count(meters: &MetersLink) {
    let mut published = 0;
    loop {
        while let Ok(list) = meters.recv() {
            for meter in list {
                if let Meter::Router(_, router) = meter {
                    published += router.total_publishes;
                }
            }
        }
        println!("{published}");
        thread::sleep(Duration::from_secs(1));
    }
}
