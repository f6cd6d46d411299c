//! The run loop: one task that moves bytes and time between the outside and the core.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{sleep_until, timeout};
use tracing::{info, warn};

use crate::agent::dtls::Engines;
use crate::agent::local::{self, Local};
use crate::agent::mqtt::{self, Link, Subscription};
use crate::agent::retained::Finder;
use crate::agent::serving::{self, Serving};
use crate::agent::socket::{DATAGRAM_MAX, Sockets};
use crate::agent::store::Unstored;
use crate::agent::takeover::Takeover;
use crate::agent::worker::Worker;
use crate::gateway::firmware::Places;
use crate::gateway::{Event, Gateway, Input, Output, Setup, Severity, Subscriptions};
use crate::kept::Change;
use crate::route::Route;
use crate::server::{Listener, Purpose};
use crate::time::{Instant, Now, UnixTime};

/// Datagrams, or messages of the broker, taken at a time before the others get their turn.
const BURST: usize = 64;

/// How long a stopping agent waits for the broker to take the last messages.
const STOP_WAIT: Duration = Duration::from_secs(5);

/// When the process begins, as an instant of the core: ten years after its origin, so that what
/// happened in an earlier process has an instant as well.
const ORIGIN: Instant = Instant::from_micros(10 * 365 * 86_400 * 1_000_000);

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
            instant: ORIGIN + self.origin.elapsed(),
            unix: UnixTime::from_millis(since_epoch.as_millis() as i64),
        }
    }

    /// The runtime's name for an instant of the core.
    pub fn at(&self, instant: Instant) -> tokio::time::Instant {
        self.origin + instant.since(ORIGIN)
    }
}

/// All that an agent is started with.
pub struct Options {
    /// Where devices reach us.
    pub listeners: Vec<Listen>,
    /// Store, admin socket and files of devices.
    pub local: local::Settings,
    /// The core's part. Its listeners are filled in from the above.
    pub gateway: Setup,
    /// The broker. Will and subscriptions are filled in from the core.
    pub mqtt: mqtt::Settings,
    /// What secures the listeners that are to be secure; `None` when none is.
    pub engines: Option<Engines>,
    /// Where images are served to devices that fetch them.
    pub serving: serving::Settings,
    /// Where secure sessions are left over a restart; `None` for nowhere.
    pub takeover: Option<Takeover>,
}

/// A socket to be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Port 0 is a free one.
    pub address: SocketAddr,
    /// Whether what comes there is DTLS.
    pub secure: bool,
    /// What is served there.
    pub purpose: Purpose,
}

/// The agent, bound and ready to serve.
pub struct Agent {
    clock: Clock,
    sockets: Sockets,
    gateway: Gateway,
    link: Link,
    finder: Finder,
    worker: Worker,
    engines: Option<Engines>,
    /// Which generation of authorities the engine trusts.
    trusted: u64,
    takeover: Option<Takeover>,
    local: Local,
    serving: Serving,
}

impl Agent {
    /// Binds the sockets and begins to connect to the broker. Devices can be served when this
    /// returns; the broker may be away for as long as it likes.
    pub fn start(options: Options) -> anyhow::Result<Self> {
        let clock = Clock::start();
        // First of all: that another agent runs is the better explanation of an address in use.
        let mut local = Local::open(options.local, clock)?;
        let wanted: Vec<_> = options
            .listeners
            .iter()
            .map(|listen| listen.address)
            .collect();
        let sockets = Sockets::bind(&wanted)?;
        let mut setup = options.gateway;
        let listeners = &mut setup.settings.server.listeners;
        *listeners = options
            .listeners
            .iter()
            .zip(sockets.addresses())
            .map(|(listen, address)| listener(*listen, address))
            .collect();
        for listener in listeners.iter() {
            announce(listener);
        }
        let serving = Serving::start(&options.serving)?;
        let host = options.serving.host.as_deref();
        setup.settings.firmware.places =
            places(host, &options.listeners, &sockets.addresses(), &serving);
        setup.settings.has_store = local.has_store();
        setup.settings.has_mappings = local.has_mappings();
        if let Some(engines) = &options.engines {
            setup.engine = Some(engines.engine(&[])?);
        }
        let mut gateway = Gateway::new(clock.now(), setup);
        local.restore_credentials(clock.now(), &mut gateway)?;
        gateway.set_images(local.image_list());
        local.take_files(clock.now(), &mut gateway);
        if let Some(engines) = &options.engines {
            gateway.trust(clock.now(), engines.authorities());
            gateway.set_engine(engines.engine(gateway.authorities())?);
        }
        local.restore(clock.now(), &mut gateway)?;
        let trusted = gateway.trusted();
        if let Some(takeover) = &options.takeover {
            take_over(takeover, &mut gateway, clock.now());
        }
        let Subscriptions { requests, retained } = gateway.subscriptions();
        let requests = requests.into_iter().map(Subscription::requests);
        let retained = retained.into_iter().map(Subscription::retained);
        let finder = Finder::new(&options.mqtt);
        let link = mqtt::connect(mqtt::Settings {
            will: Some(gateway.will()),
            subscriptions: requests.chain(retained).collect(),
            ..options.mqtt
        });
        Ok(Self {
            clock,
            sockets,
            gateway,
            link,
            finder,
            worker: Worker::start()?,
            engines: options.engines,
            trusted,
            takeover: options.takeover,
            local,
            serving,
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
        let mut from_broker = 0;
        loop {
            let due = self.drain();
            let wake = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // In this order, so that what makes room goes first; datagrams are last, because
            // whoever likes can send them without end.
            tokio::select! {
                biased;
                () = &mut stop => break,
                event = self.link.event(), if from_broker < BURST => {
                    from_broker += 1;
                    self.on_link(event);
                    continue;
                }
                work = self.worker.done() => {
                    self.gateway.handle(self.clock.now(), Input::Worked(work));
                }
                event = self.local.event() => {
                    self.local.handle(self.clock.now(), event, &mut self.gateway);
                    self.renew_engine();
                }
                found = self.finder.found() => {
                    self.gateway.handle(self.clock.now(), Input::Retained(found));
                }
                fetched = self.serving.fetched() => {
                    let serving::Fetched { device, bytes } = fetched;
                    let input = Input::Fetched { device, bytes };
                    self.gateway.handle(self.clock.now(), input);
                }
                () = wake => self.on_wake(),
                (route, length) = self.sockets.receive(&mut buffer) => {
                    self.receive(route, &buffer[..length]);
                    for _ in 1..BURST {
                        let Some((route, length)) = self.sockets.try_receive(&mut buffer) else { break };
                        self.receive(route, &buffer[..length]);
                    }
                }
                () = ready(()), if from_broker == BURST => {}
            }
            from_broker = 0;
        }
        self.stop().await;
    }

    fn receive(&mut self, route: Route, bytes: &[u8]) {
        self.gateway
            .handle(self.clock.now(), Input::Datagram { route, bytes });
    }

    /// Has the engine trust the authorities that the gateway trusts now.
    fn renew_engine(&mut self) {
        let trusted = self.gateway.trusted();
        let Some(engines) = self.engines.as_ref().filter(|_| trusted != self.trusted) else {
            return;
        };
        self.trusted = trusted;
        match engines.engine(self.gateway.authorities()) {
            Ok(engine) => self.gateway.set_engine(engine),
            Err(error) => warn!("new authorities are not trusted yet: {error:#}"),
        }
    }

    /// Does what the core wants done; until when it then can wait.
    ///
    /// All that is to be stored is stored first, in one transaction, so that a burst of datagrams
    /// waits for the disk once.
    fn drain(&mut self) -> Option<tokio::time::Instant> {
        loop {
            let mut changes = Vec::new();
            let mut outputs = Vec::new();
            let mut committed = None;
            let due = loop {
                match self.gateway.poll() {
                    Output::Store(change) => changes.push(change),
                    Output::Commit(batch) => committed = Some(batch),
                    Output::Timeout(at) => break at,
                    output => outputs.push(output),
                }
            };
            let stored = self.store(changes);
            outputs
                .into_iter()
                .for_each(|output| self.carry_out(output));
            if let Some(batch) = committed.filter(|_| stored) {
                self.gateway
                    .handle(self.clock.now(), Input::Committed(batch));
                continue;
            }
            // What was not stored gave rise to more.
            if stored {
                self.publish();
                let due = [due, self.local.flush_due()].into_iter().flatten().min();
                return due.map(|at| self.clock.at(at));
            }
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Datagram { route, bytes } => {
                if let Err(error) = self.sockets.send(route, &bytes) {
                    tracing::debug!("datagram to {route} not sent: {error}");
                }
            }
            Output::Admin { id, reply, more } => self.local.answer(id, reply, more),
            Output::Event(event) => log(&event),
            Output::ReadRetained { filter, whose } => self.finder.look(filter, whose),
            Output::ReadMappings => self.local.read_mappings(),
            Output::LoadImage(digest) => self.local.load_image(digest),
            Output::Serve {
                token,
                digest,
                device,
            } => {
                if let Some(path) = self.local.image_path(digest) {
                    self.serving.serve(&token, path, digest, device);
                }
            }
            Output::Unserve(token) => self.serving.unserve(&token),
            Output::Work(work) => self.worker.run(work),
            Output::Store(_) | Output::Commit(_) | Output::Timeout(_) => {}
        }
    }

    /// Stores changes, and tells the core when that fails. Whether they are stored.
    fn store(&mut self, changes: Vec<Change>) -> bool {
        if changes.is_empty() {
            return true;
        }
        let now = self.clock.now();
        let Err(Unstored { changes, why }) = self.local.store(now.instant, changes) else {
            return true;
        };
        for change in changes {
            let why = why.clone();
            self.gateway.handle(now, Input::Unstored { change, why });
        }
        false
    }

    fn on_wake(&mut self) {
        let now = self.clock.now();
        if self.local.flush_due().is_some_and(|due| due <= now.instant) {
            self.local.flush();
        }
        self.gateway.handle(now, Input::Timeout);
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
                let topic = topic.escape_debug();
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
                "the broker did not take the last messages in {} s; {}",
                STOP_WAIT.as_secs(),
                if self.local.has_store() {
                    "they wait in the store for the next start"
                } else {
                    "they are lost"
                }
            );
        }
        self.local.flush();
        self.link.close(Duration::from_secs(1)).await;
        if let Some(takeover) = &self.takeover {
            let sessions = self.gateway.save_sessions();
            if let Err(error) = takeover.leave(&sessions) {
                warn!("secured devices will have to handshake again: {error:#}");
            }
        }
    }
}

fn listener(listen: Listen, address: SocketAddr) -> Listener {
    let scheme = if listen.secure { "coaps" } else { "coap" };
    Listener {
        uri: format!("{scheme}://{address}"),
        secure: listen.secure,
        purpose: listen.purpose,
    }
}

/// What devices that fetch images are told of where we are.
fn places(
    host: Option<&str>,
    listeners: &[Listen],
    addresses: &[SocketAddr],
    serving: &Serving,
) -> Places {
    let place = |scheme: &str, address: SocketAddr| match (host, address.ip().is_unspecified()) {
        (Some(host), _) => Some(format!("{scheme}://{host}:{}", address.port())),
        (None, false) => Some(format!("{scheme}://{address}")),
        (None, true) => None,
    };
    let listens = |secure: bool, scheme: &str| {
        let mut all = listeners.iter().zip(addresses);
        all.find(|(listen, _)| listen.secure == secure && listen.purpose == Purpose::Management)
            .and_then(|(_, address)| place(scheme, *address))
    };
    Places {
        coap: listens(false, "coap"),
        coaps: listens(true, "coaps"),
        http: serving.http.and_then(|address| place("http", address)),
        https: serving.https.and_then(|address| place("https", address)),
    }
}

fn announce(listener: &Listener) {
    let Listener {
        uri,
        secure,
        purpose,
    } = listener;
    let whom = match purpose {
        Purpose::Management => "devices reach us",
        Purpose::Bootstrap => "devices are bootstrapped",
    };
    if *secure {
        info!("{whom} at {uri}");
    } else {
        warn!(
            "{whom} at {uri}, which is not secured: anyone who can send there can pretend to be a device"
        );
    }
}

/// Goes on with the sessions of the process before us.
fn take_over(takeover: &Takeover, gateway: &mut Gateway, now: Now) {
    match takeover.take() {
        Ok(sessions) if sessions.is_empty() => {}
        Ok(sessions) => {
            let left = sessions.len();
            let taken = gateway.restore_sessions(now, sessions);
            info!("{taken} of {left} secure sessions go on from before the restart");
        }
        Err(error) => warn!("secured devices have to handshake again: {error:#}"),
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
