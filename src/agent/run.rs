//! The run loop: one task that moves bytes and time between the outside and the core.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use crate::agent::local::{self, Local};
use crate::agent::mqtt::{self, Link, Subscription};
use crate::agent::socket::{DATAGRAM_MAX, Sockets};
use crate::gateway::{Event, Gateway, Input, Output, Setup, Severity};
use crate::route::Route;
use crate::time::{Instant, Now, UnixTime};

/// Datagrams taken at a time before MQTT gets its turn.
const BURST: usize = 64;

/// How long a stopping agent waits for the broker to take the last messages.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// Reads the clocks for the core.
#[derive(Clone, Copy)]
pub struct Clock {
    origin: tokio::time::Instant,
}

impl Clock {
    /// A clock whose origin is now.
    pub fn start() -> Self {
        Self {
            origin: tokio::time::Instant::now(),
        }
    }

    /// Both times of this moment.
    pub fn now(&self) -> Now {
        let since_epoch = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            instant: Instant::from_micros(self.origin.elapsed().as_micros() as u64),
            unix: UnixTime::from_millis(since_epoch.as_millis() as i64),
        }
    }

    /// The runtime's name for an instant of the core.
    pub fn at(&self, instant: Instant) -> tokio::time::Instant {
        self.origin + Duration::from_micros(instant.as_micros())
    }
}

/// All that an agent is started with.
pub struct Options {
    /// Where devices reach us without security; port 0 is a free one.
    pub listeners: Vec<SocketAddr>,
    /// Store, admin socket and files of devices.
    pub local: local::Settings,
    /// The core's part. Its listeners are filled in from the above.
    pub gateway: Setup,
    /// The broker. Will and subscriptions are filled in from the core.
    pub mqtt: mqtt::Settings,
}

/// The agent, bound and ready to serve.
pub struct Agent {
    clock: Clock,
    sockets: Sockets,
    gateway: Gateway,
    link: Link,
    local: Local,
}

impl Agent {
    /// Binds the sockets and begins to connect to the broker. Devices can be served when this
    /// returns; the broker may be away for as long as it likes.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let clock = Clock::start();
        // First of all: that another agent runs is the better explanation of an address in use.
        let (mut local, stored) = Local::open(options.local, clock)?;
        let sockets = Sockets::bind(&options.listeners)?;
        let addresses = sockets.addresses();
        let mut setup = options.gateway;
        setup.settings.listeners = addresses
            .iter()
            .map(|address| format!("coap://{address}"))
            .collect();
        setup.settings.has_store = local.has_store();
        let mut gateway = Gateway::new(clock.now(), setup);
        for refused in gateway.restore(clock.now(), stored) {
            warn!("{refused}");
        }
        local.take_files(clock.now(), &mut gateway);
        for address in &addresses {
            info!("devices reach us at coap://{address}");
        }
        let (requests, sentinel) = gateway.subscriptions();
        let link = mqtt::connect(mqtt::Settings {
            will: Some(gateway.will()),
            subscriptions: requests
                .into_iter()
                .map(Subscription::requests)
                .chain([Subscription::retained(sentinel)])
                .collect(),
            ..options.mqtt
        });
        Ok(Self {
            clock,
            sockets,
            gateway,
            link,
            local,
        })
    }

    /// The addresses that devices reach us at.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.addresses()
    }

    /// Serves until `stop` is ready, then says goodbye to the broker.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut buffer = vec![0; DATAGRAM_MAX];
        loop {
            let due = self.drain();
            let wake = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut stop => break,
                event = self.link.event() => self.on_link(event),
                event = self.local.event() => self.local.handle(self.clock.now(), event, &mut self.gateway),
                (route, length) = self.sockets.receive(&mut buffer) => {
                    self.receive(route, &buffer[..length]);
                    for _ in 1..BURST {
                        let Some((route, length)) = self.sockets.try_receive(&mut buffer) else { break };
                        self.drain();
                        self.receive(route, &buffer[..length]);
                    }
                }
                () = wake => self.gateway.handle(self.clock.now(), Input::Timeout),
            }
        }
        self.stop().await;
    }

    fn receive(&mut self, route: Route, bytes: &[u8]) {
        self.gateway
            .handle(self.clock.now(), Input::Datagram { route, bytes });
    }

    /// Does what the core wants done; until when it then can wait.
    fn drain(&mut self) -> Option<tokio::time::Instant> {
        loop {
            match self.gateway.poll() {
                Output::Datagram { route, bytes } => {
                    if let Err(error) = self.sockets.send(route, &bytes) {
                        tracing::debug!("datagram to {route} not sent: {error}");
                    }
                }
                Output::Store(change) => self.local.store(&change),
                Output::Admin { id, reply } => self.local.answer(id, reply),
                Output::Event(event) => log(&event),
                Output::Timeout(at) => {
                    self.publish();
                    return at.map(|at| self.clock.at(at));
                }
            }
        }
    }

    /// Hands messages to the connection as long as it has room.
    fn publish(&mut self) {
        while self.link.has_room()
            && let Some(outgoing) = self.gateway.next_publish()
        {
            self.link.publish(&outgoing);
        }
    }

    fn on_link(&mut self, event: mqtt::Event) {
        let input = match event {
            mqtt::Event::Connected { session, .. } => Input::Connected(session),
            mqtt::Event::Subscribed { refused } => {
                for refusal in refused {
                    warn!(
                        "the broker refused a subscription, so commands do not reach us: {refusal}"
                    );
                }
                Input::Subscribed
            }
            mqtt::Event::Disconnected { reason, .. } => Input::Disconnected(reason),
            mqtt::Event::Delivered(ticket) => Input::Delivered(ticket),
            mqtt::Event::Refused { ticket, code } => Input::Refused(ticket, code),
            mqtt::Event::Message(message) => Input::Message(message),
            mqtt::Event::Oversized { topic, size } => {
                return warn!("dropped a request of {size} bytes on {topic}: it is too large");
            }
            // There is nothing to tell: the next drain publishes on.
            mqtt::Event::Room => return,
        };
        self.gateway.handle(self.clock.now(), input);
    }

    /// Says on MQTT that we are gone, and lets what was accepted go out.
    async fn stop(mut self) {
        info!("stopping");
        self.gateway.handle(self.clock.now(), Input::Stop);
        let drained = async {
            loop {
                self.drain();
                if self.gateway.is_drained() {
                    break;
                }
                let event = self.link.event().await;
                self.on_link(event);
            }
        };
        if timeout(STOP_WAIT, drained).await.is_err() {
            warn!(
                "the broker did not take the last messages in {} s; they are lost",
                STOP_WAIT.as_secs()
            );
        }
        self.link.close(Duration::from_secs(1)).await;
    }
}

fn log(event: &Event) {
    match event.severity() {
        Severity::Info => info!("{event}"),
        Severity::Warning => warn!("{event}"),
    }
}

/// Ready at SIGTERM or SIGINT.
pub async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
