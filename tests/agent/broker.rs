//! A broker that can really be killed: rumqttd in a process of its own.
//!
//! rumqttd cannot be stopped within a process, so the test binary starts itself again, with only
//! [`serve`] to run. rumqttd keeps nothing on disk: a killed one has lost what it retained. It
//! speaks MQTT 3.1.1 and MQTT 5 on separate ports, and closes a connection of the other version.
//! rumqttd 0.20 also closes the connection of a 3.1.1 subscriber to whom it should forward a message
//! with MQTT 5 properties: in a test, whoever publishes with properties has MQTT 5 subscribers.

use std::collections::VecDeque;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

const PORTS: &str = "LWM2MQTT_TEST_BROKER";

/// A running, or killed, rumqttd on loopback.
pub(crate) struct Broker {
    /// Speaks MQTT 3.1.1.
    pub(crate) v311_port: u16,
    /// Speaks MQTT 5.
    pub(crate) port: u16,
    child: Child,
}

impl Broker {
    /// A broker on free ports, ready to be connected to.
    pub(crate) fn start() -> Self {
        let (v311_port, port) = (free_port(), free_port());
        Self {
            v311_port,
            port,
            child: spawn(v311_port, port),
        }
    }

    /// Ends it as `kill -9` does. Its ports refuse connections until [`Broker::restart`].
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Kills it if it runs, and starts one that remembers nothing, on the same ports.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.v311_port, self.port);
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn spawn(v311_port: u16, port: u16) -> Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "broker::serve", "--nocapture"])
        .env(PORTS, format!("{v311_port} {port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let start = Instant::now();
    for port in [v311_port, port] {
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "no broker");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    child
}

/// Not a test, but what [`spawn`] runs in the child process.
#[test]
fn serve() {
    let Ok(ports) = std::env::var(PORTS) else {
        return;
    };
    // The parent's end closes when the parent dies, however it does.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let (v311_port, port) = ports.split_once(' ').unwrap();
    let server = |name: &str, port: &str| {
        format!(
            "name = '{name}'\nlisten = '127.0.0.1:{port}'\nnext_connection_delay_ms = 1\n\
             [{name}.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 1048576\n\
             max_inflight_count = 200\n"
        )
    };
    let config = format!(
        "id = 0\n[router]\nid = 0\nmax_connections = 1000\nmax_outgoing_packet_count = 200\n\
         max_segment_size = 10485760\nmax_segment_count = 10\n[v4.1]\n{}[v5.1]\n{}",
        server("v4", v311_port),
        server("v5", port),
    );
    rumqttd::Broker::new(toml::from_str(&config).unwrap())
        .start()
        .unwrap();
}

/// A consumer that prints nothing and keeps what it gets. MQTT 5.
pub(crate) struct Subscriber {
    client: AsyncClient,
    events: EventLoop,
    /// What came while something else was waited for.
    early: VecDeque<Received>,
}

/// What a [`Subscriber`] got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) retain: bool,
    pub(crate) content_type: Option<String>,
    pub(crate) correlation: Option<Vec<u8>>,
}

impl Subscriber {
    /// Connected and subscribed at QoS 1.
    pub(crate) async fn connect(port: u16, filter: &str) -> Self {
        let id = format!("subscriber-{}", rand_id());
        let mut options = MqttOptions::new(id, "127.0.0.1", port);
        options.set_clean_start(true);
        let (client, mut events) = AsyncClient::new(options, 100);
        client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            if let Event::Incoming(Packet::SubAck(_)) = events.poll().await.unwrap() {
                return Self {
                    client,
                    events,
                    early: VecDeque::new(),
                };
            }
        }
    }

    /// The next message, or nothing when the connection ends or ten seconds pass.
    pub(crate) async fn next(&mut self) -> Option<Received> {
        self.next_within(Duration::from_secs(10)).await
    }

    /// The next message, or nothing when the connection ends or so much time passes.
    pub(crate) async fn next_within(&mut self, patience: Duration) -> Option<Received> {
        if let Some(received) = self.early.pop_front() {
            return Some(received);
        }
        let wait = tokio::time::timeout(patience, async {
            loop {
                match self.events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        return Some(Received::from(publish));
                    }
                    Ok(_) => {}
                    Err(_) => return None,
                }
            }
        });
        wait.await.ok().flatten()
    }

    /// The next message for which `wanted` holds.
    pub(crate) async fn wait_for(&mut self, wanted: impl Fn(&Received) -> bool) -> Received {
        let wait = tokio::time::timeout(Duration::from_secs(30), async {
            loop {
                let received = self.next().await.expect("a message");
                if wanted(&received) {
                    return received;
                }
            }
        });
        wait.await.expect("the message within 30 s")
    }

    /// Publishes something for good, and sees it off.
    pub(crate) async fn retain(&mut self, topic: &str, payload: &str) {
        let payload = payload.as_bytes().to_vec();
        let sent = self.client.publish(topic, QoS::AtLeastOnce, true, payload);
        sent.await.unwrap();
        self.acknowledged().await;
    }

    /// Publishes a request, and sees it off. With a response topic or correlation data it also
    /// carries a Message Expiry Interval; without either, no property at all.
    pub(crate) async fn request(
        &mut self,
        topic: &str,
        payload: &str,
        response_topic: Option<&str>,
        correlation: Option<&[u8]>,
    ) {
        let payload = payload.as_bytes().to_vec();
        let qos = QoS::AtLeastOnce;
        let sent = if response_topic.is_none() && correlation.is_none() {
            self.client.publish(topic, qos, false, payload).await
        } else {
            let properties = PublishProperties {
                response_topic: response_topic.map(Into::into),
                correlation_data: correlation.map(|data| data.to_vec().into()),
                message_expiry_interval: Some(30),
                ..PublishProperties::default()
            };
            self.client
                .publish_with_properties(topic, qos, false, payload, properties)
                .await
        };
        sent.unwrap();
        self.acknowledged().await;
    }

    async fn acknowledged(&mut self) {
        loop {
            match self.events.poll().await.unwrap() {
                Event::Incoming(Packet::PubAck(_)) => return,
                Event::Incoming(Packet::Publish(publish)) => self.early.push_back(publish.into()),
                _ => {}
            }
        }
    }
}

impl From<Publish> for Received {
    fn from(publish: Publish) -> Self {
        let properties = publish.properties.unwrap_or_default();
        Self {
            topic: String::from_utf8(publish.topic.to_vec()).unwrap(),
            payload: String::from_utf8(publish.payload.to_vec()).unwrap(),
            retain: publish.retain,
            content_type: properties.content_type,
            correlation: properties.correlation_data.map(|data| data.to_vec()),
        }
    }
}

fn rand_id() -> u64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    RandomState::new().build_hasher().finish()
}
