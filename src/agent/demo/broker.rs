//! The demo's broker: rumqttd on a free loopback port.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rumqttd::{Broker, Config, ConnectionSettings, RouterConfig, ServerSettings};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// A port found free may be gone a moment later.
const ATTEMPTS: usize = 5;
const START_WITHIN: Duration = Duration::from_secs(5);
const MIB: usize = 1 << 20;

/// Starts a broker for MQTT 5 that lives as long as the process. It accepts connections when this
/// returns.
///
/// # Errors
/// No port is free, or it does not start in time.
pub(super) async fn start() -> anyhow::Result<SocketAddr> {
    for _ in 0..ATTEMPTS {
        let address = free_port()?;
        let mut broker = Broker::new(config(address));
        // it has threads and runtimes of its own, and returns when its listener cannot be had
        let running = thread::Builder::new()
            .name("broker".into())
            .spawn(move || broker.start().map_err(|error| error.to_string()))?;
        let accepts = async {
            while TcpStream::connect(address).await.is_err() {
                if running.is_finished() {
                    return;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(START_WITHIN, accepts)
            .await
            .context("the broker does not accept connections")?;
        if !running.is_finished() {
            return Ok(address);
        }
    }
    bail!("no free port for the broker")
}

/// rumqttd does not tell which port it got for port 0, so it is given one.
fn free_port() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

fn config(listen: SocketAddr) -> Config {
    let server = ServerSettings {
        name: "demo".into(),
        listen,
        tls: None,
        next_connection_delay_ms: 0,
        connections: ConnectionSettings {
            connection_timeout_ms: 5000,
            max_payload_size: MIB,
            max_inflight_count: 200,
            auth: None,
            external_auth: None,
            dynamic_filters: true,
        },
    };
    Config {
        router: RouterConfig {
            max_connections: 100,
            max_outgoing_packet_count: 200,
            max_segment_size: MIB,
            max_segment_count: 10,
            ..RouterConfig::default()
        },
        v5: Some(HashMap::from([("demo".to_owned(), server)])),
        ..Config::default()
    }
}
