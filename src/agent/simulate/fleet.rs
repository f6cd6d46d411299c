//! Many simulated devices on real sockets: one task and one socket a device, so that each is a
//! peer of its own to the server.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::security::Security;
use super::wire::{News, Wire};
use crate::agent::run::Clock;
use crate::agent::{dtls, entropy};
use crate::client::simulated::{Profile, Simulated};
use crate::client::{
    Account, Client, Config, Counters, Event, Formats, Input, Limits, Output, Reason, Retry,
};
use crate::coap::{self, Peer};
use crate::dtls::{Limits as DtlsLimits, Mux};
use crate::lwm2m::{ContentFormat, Version};
use crate::route::Route;
use crate::time::{Instant, Now, UnixTime};

/// Devices started a second: a server should see a wave, not a wall.
const STARTED_PER_SECOND: u32 = 250;
/// How long a device may take to de-register before it is switched off.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Descriptors that the process needs beside one a device.
const OTHER_DESCRIPTORS: u64 = 64;

/// What the devices are like and whom they register with.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Fleet {
    pub(in crate::agent) server: SocketAddr,
    /// How the devices secure what they send; `None` for not at all.
    pub(in crate::agent) security: Option<Security>,
    pub(in crate::agent) devices: u32,
    pub(in crate::agent) names: Names,
    /// In seconds.
    pub(in crate::agent) lifetime: u32,
    /// Between two values of a sensor, on average.
    pub(in crate::agent) interval: Duration,
    /// The newest version offered.
    pub(in crate::agent) version: Version,
    /// The only structured format the devices know; `None` for all.
    pub(in crate::agent) format: Option<ContentFormat>,
    /// How long the devices listen after each message, if they sleep in between.
    pub(in crate::agent) queue_mode: Option<Duration>,
    /// How long a message waits for its answer before it is repeated the first time.
    pub(in crate::agent) ack_timeout: Duration,
    /// The same seed gives the same values.
    pub(in crate::agent) seed: u64,
}

/// The devices' endpoint names.
#[derive(Clone, Debug)]
pub(in crate::agent) enum Names {
    /// This and a number.
    Numbered(String),
    /// This, for one device.
    Exact(String),
}

/// Something a device saw.
#[derive(Debug)]
pub(in crate::agent) struct Report {
    pub(in crate::agent) device: u32,
    pub(in crate::agent) at: UnixTime,
    pub(in crate::agent) seen: Seen,
}

/// What it was.
#[derive(Debug)]
pub(in crate::agent) enum Seen {
    /// Something of LwM2M.
    Client(Event),
    /// A secure session stands, with this cipher suite.
    Secured(&'static str),
    /// A secure session came to nothing, or to its end; a sentence.
    NotSecured(String),
}

/// What all devices did together, counted while they run.
#[derive(Debug, Default)]
pub(in crate::agent) struct Totals {
    pub(in crate::agent) notifications: AtomicU64,
    pub(in crate::agent) requests: AtomicU64,
    pub(in crate::agent) refused: AtomicU64,
    /// Times the server's host said that nothing listens there (ICMP).
    pub(in crate::agent) unreachable: AtomicU64,
}

impl Fleet {
    /// The endpoint name of a device, with as many digits as the last one needs.
    pub(in crate::agent) fn endpoint_name(&self, device: u32) -> String {
        match &self.names {
            Names::Exact(name) => name.clone(),
            Names::Numbered(prefix) => {
                let width = self.devices.saturating_sub(1).to_string().len();
                format!("{prefix}{device:0width$}")
            }
        }
    }

    /// Runs the devices until `stop` turns true and they have de-registered.
    ///
    /// # Errors
    /// The system refuses a socket.
    pub(in crate::agent) async fn run(
        self,
        reports: mpsc::Sender<Report>,
        totals: Arc<Totals>,
        mut stop: watch::Receiver<bool>,
    ) -> anyhow::Result<()> {
        allow_sockets(self.devices)?;
        let clock = Clock::start();
        let mut tasks = JoinSet::new();
        let pace = Duration::from_secs(1) / STARTED_PER_SECOND;
        let mut started = tokio::time::interval(pace);
        started.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        for index in 0..self.devices {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                _ = started.tick() => {}
            }
            let socket = connect(self.server)
                .await
                .with_context(|| format!("no socket for device {}", self.endpoint_name(index)))?;
            let device = Device {
                index,
                wire: self.wire(index, socket)?,
                server: self.peer(),
                client: self.client(index, clock.now()),
                clock,
                reports: reports.clone(),
                totals: totals.clone(),
                counted: Counters::default(),
                unreachable: 0,
            };
            tasks.spawn(device.run(stop.clone()));
        }
        drop(reports);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }

    /// The server as the device's messages know it; what secures them is the wire's business.
    fn peer(&self) -> Peer {
        Peer::Route(Route {
            listener: 0,
            address: self.server,
        })
    }

    fn wire(&self, index: u32, socket: UdpSocket) -> anyhow::Result<Wire> {
        let Some(security) = &self.security else {
            return Ok(Wire::new(socket));
        };
        let mut rng = StdRng::from_seed(entropy::seed()?);
        let connect = security.connect(&self.endpoint_name(index), rng.random());
        let mux = Mux::new(dtls::client_engine()?, DtlsLimits::default(), &mut rng);
        Ok(Wire::secured(socket, self.server, mux, connect))
    }

    fn client(&self, index: u32, now: Now) -> Client<Simulated> {
        let mut seed = StdRng::seed_from_u64(self.seed ^ u64::from(index).rotate_left(32));
        let profile = Profile {
            index,
            lifetime: self.lifetime,
            interval: self.interval,
        };
        let (behaviour, tree) = Simulated::device(now, &profile, seed.random());
        let peer = self.peer();
        let config = Config {
            endpoint: self.endpoint_name(index),
            accounts: vec![Account {
                instance: 0,
                peer,
                version: self.version,
                queue_mode: self.queue_mode,
                hold_off: Duration::ZERO,
            }],
            formats: self.format.map_or_else(Formats::default, Formats::only),
            // somebody sits in front of a simulation: sooner than the specification's minute
            retry: Retry {
                first: Duration::from_secs(2),
                longest: Duration::from_secs(60),
            },
            limits: Limits::default(),
            coap: coap::Parameters {
                ack_timeout: self.ack_timeout,
                ..coap::Parameters::default()
            },
            coap_limits: coap::Limits::default(),
        };
        // tokens and message ids must not repeat those of a run a moment ago
        let ids = seed.random::<[u8; 32]>();
        let ids =
            std::array::from_fn(|at| ids[at] ^ (now.unix.as_millis() >> (8 * (at % 8))) as u8);
        Client::new(now, config, tree, behaviour, ids)
    }
}

/// One device on its socket.
struct Device {
    index: u32,
    wire: Wire,
    server: Peer,
    client: Client<Simulated>,
    clock: Clock,
    reports: mpsc::Sender<Report>,
    totals: Arc<Totals>,
    counted: Counters,
    /// Of the wire's count, what stands in the totals.
    unreachable: u64,
}

impl Device {
    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut leave_by = None;
        self.client.handle(self.clock.now(), Input::Timeout);
        loop {
            let Some(next) = self.drain().await else {
                return;
            };
            let wake = [next, leave_by].into_iter().flatten().min();
            tokio::select! {
                readable = self.wire.readable() => {
                    if readable.is_ok() {
                        self.wire.receive(self.clock.now()).await;
                    }
                }
                () = sleep_until(self.clock, wake) => {
                    let now = self.clock.now();
                    if leave_by.is_some_and(|at| at <= now.instant) {
                        return;
                    }
                    self.wire.timeout(now).await;
                    self.client.handle(now, Input::Timeout);
                }
                () = is_true(&mut stop), if leave_by.is_none() => {
                    self.wire.note_error();
                    let now = self.clock.now();
                    leave_by = Some(now.instant + LEAVE_WITHIN);
                    self.client.handle(now, Input::Stop);
                }
            }
        }
    }

    /// Does all that client and wire want; `None` when the device is done for good, else when to
    /// wake it.
    async fn drain(&mut self) -> Option<Option<Instant>> {
        loop {
            while let Some(bytes) = self.wire.next() {
                let (peer, bytes) = (self.server, bytes.as_slice());
                self.client
                    .handle(self.clock.now(), Input::Datagram { peer, bytes });
            }
            while let Some(news) = self.wire.news() {
                let seen = match news {
                    News::Secured(suite) => Seen::Secured(suite),
                    News::Failed(reason) => Seen::NotSecured(reason.to_string()),
                    News::Closed => Seen::NotSecured("the server ended it".into()),
                };
                self.report(seen).await?;
            }
            match self.client.poll() {
                Output::Datagram { bytes, .. } => self.wire.send(self.clock.now(), &bytes).await,
                Output::Event(Event::Stopped) => {
                    self.wire.close(self.clock.now()).await;
                    return None;
                }
                Output::Event(event) => {
                    if is_unanswered(&event) {
                        self.wire.renew(self.clock.now()).await;
                    }
                    self.report(Seen::Client(event)).await?;
                }
                // What the wire sent may have brought something about.
                Output::Timeout(_) if self.wire.has_news() => {}
                Output::Timeout(next) => {
                    self.count();
                    return Some([next, self.wire.next_timeout()].into_iter().flatten().min());
                }
            }
        }
    }

    async fn report(&mut self, seen: Seen) -> Option<()> {
        let report = Report {
            device: self.index,
            at: self.clock.now().unix,
            seen,
        };
        self.reports.send(report).await.ok()
    }

    fn count(&mut self) {
        let counters = self.client.counters();
        let before = std::mem::replace(&mut self.counted, counters);
        let add = |total: &AtomicU64, after: u64, before: u64| {
            total.fetch_add(after - before, Ordering::Relaxed);
        };
        let totals = &self.totals;
        add(
            &totals.notifications,
            counters.notifications,
            before.notifications,
        );
        add(&totals.requests, counters.requests, before.requests);
        add(&totals.refused, counters.refused, before.refused);
        let unreachable = self.wire.unreachable;
        add(&totals.unreachable, unreachable, self.unreachable);
        self.unreachable = unreachable;
    }
}

/// Whether the server did not answer at all.
fn is_unanswered(event: &Event) -> bool {
    match event {
        Event::RegistrationFailed { reason, .. } | Event::RegistrationLost { reason, .. } => {
            *reason == Reason::Unanswered(coap::Failure::Timeout)
        }
        _ => false,
    }
}

/// Waits until it is true, or will never be.
async fn is_true(flag: &mut watch::Receiver<bool>) {
    _ = flag.wait_for(|flag| *flag).await;
}

/// Waits for an instant of the core; for ever if there is none.
async fn sleep_until(clock: Clock, instant: Option<Instant>) {
    match instant {
        Some(at) => tokio::time::sleep_until(clock.at(at)).await,
        None => std::future::pending().await,
    }
}

async fn connect(server: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    Ok(socket)
}

/// Raises the limit on open files to what so many devices need, as far as the system lets us.
fn allow_sockets(devices: u32) -> anyhow::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = u64::from(devices) + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(needed),
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).with_context(|| {
        format!(
            "{devices} devices need {needed} open files, and this shell allows fewer: \
             raise `ulimit -Hn` or simulate fewer devices"
        )
    })
}
