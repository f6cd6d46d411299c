//! The whole, still without IO: uplink from the devices to MQTT, downlink back.
//!
//! [`Gateway::handle`] takes one [`Input`]; after it, [`Gateway::poll`] is drained until it says
//! [`Output::Timeout`]. What is *absent* here: sockets, clocks, the MQTT client's types.

mod account;
pub mod admin;
mod answered;
mod audit;
mod awaiting;
mod birth;
mod bootstrap;
mod broker;
mod cleared;
mod command;
mod custody;
pub mod device;
mod downlink;
mod event;
pub mod firmware;
pub mod json;
mod keeping;
mod live;
mod naming;
pub mod outbox;
mod presence;
mod problems;
mod progress;
pub mod publish;
mod queue;
mod reconcile;
mod registering;
mod replan;
mod reply;
mod script;
mod supervision;
mod topics;
mod understand;
mod units;
mod uplink;
mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap;
use crate::dtls::{Engine, Saved, Work};
use crate::gateway::answered::Answered;
use crate::gateway::audit::Audit;
use crate::gateway::broker::Broker;
use crate::gateway::cleared::Cleared;
use crate::gateway::command::{Command, CommandId};
use crate::gateway::custody::Custody;
use crate::gateway::device::Device;
use crate::gateway::event::Complaints;
use crate::gateway::firmware::Firmware;
use crate::gateway::firmware::image::Digest;
use crate::gateway::keeping::Keeping;
use crate::gateway::live::Live;
use crate::gateway::outbox::{Outbox, Outgoing, Session, Ticket};
use crate::gateway::publish::Publish;
use crate::gateway::replan::Reload;
use crate::gateway::topics::Topics;
use crate::kept::Change;
use crate::keyed::{self, KeyedMap};
use crate::lwm2m::Path;
use crate::lwm2m::model::Models;
use crate::mapping::Plan;
use crate::route::Route;
use crate::server::credentials::Authority;
use crate::server::{self, DeviceId, OperationId, Server};
use crate::time::{Instant, Now};

pub use admin::{AdminAccess, AdminError};
pub use audit::Retained;
pub use broker::Subscriptions;
pub use event::{Event, Severity};
pub use publish::Message;
pub use replan::{MappingCause, MappingsRead};
pub use topics::Replies;

/// What the operator decides, as far as the core is concerned.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The gateway's name.
    pub id: String,
    /// The first levels of every topic.
    pub base_topic: String,
    /// How often `last_seen` of a device that only notifies is published.
    pub last_seen_interval: std::time::Duration,
    /// The longest lifetime that a device may have; a longer one is brought down by a write.
    pub lifetime_max: Option<std::time::Duration>,
    /// Where answers may go that are asked for elsewhere than on the default topic.
    pub replies: Replies,
    /// The server's part.
    pub server: server::Settings,
    /// Which administration is possible over MQTT.
    pub admin: AdminAccess,
    /// Whether the shell keeps what [`Output::Store`] says.
    pub has_store: bool,
    /// Whether the shell does [`Output::ReadMappings`].
    pub has_mappings: bool,
    /// How updates of devices are done.
    pub firmware: firmware::Settings,
}

impl Default for Settings {
    /// What the configuration's defaults are, without a store.
    fn default() -> Self {
        Self {
            id: "lwm2mqtt".into(),
            base_topic: "lwm2mqtt".into(),
            last_seen_interval: std::time::Duration::from_secs(600),
            lifetime_max: None,
            replies: Replies::default(),
            server: server::Settings::default(),
            admin: AdminAccess::default(),
            has_store: false,
            has_mappings: false,
            firmware: firmware::Settings::default(),
        }
    }
}

/// Caps on what devices and MQTT clients can make grow.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// The server's.
    pub server: server::Limits,
    /// What waits for the broker.
    pub outbox: outbox::Limits,
    /// Commands and signals.
    pub gateway: GatewayLimits,
}

/// The caps of the gateway itself.
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// Commands that are not final yet, in all.
    pub commands: usize,
    /// Commands that are not final yet, of one device.
    pub commands_per_device: usize,
    /// Bytes of the requests of all commands that are not final yet.
    pub command_bytes: usize,
    /// Final replies that are remembered for requests that come again.
    pub answers: usize,
    /// Bytes of these replies.
    pub answer_bytes: usize,
    /// Signals of one device.
    pub signals_per_device: usize,
    /// Bytes of one request from MQTT.
    pub request: usize,
    /// Requests of the machine itself whose answer goes on.
    pub listeners: usize,
    /// Notifications and Sends that wait to be acknowledged.
    pub receipts: usize,
}

impl Default for GatewayLimits {
    fn default() -> Self {
        Self {
            commands: 10_000,
            commands_per_device: 64,
            command_bytes: 64 << 20,
            answers: 100_000,
            answer_bytes: 32 << 20,
            signals_per_device: 4_096,
            request: 1 << 20,
            listeners: 64,
            receipts: 100_000,
        }
    }
}

/// Everything that the core is given once.
pub struct Setup {
    /// What the operator decides.
    pub settings: Settings,
    /// Caps.
    pub limits: Limits,
    /// Timing of the CoAP message layer.
    pub parameters: coap::Parameters,
    /// Object definitions.
    pub models: Arc<Models>,
    /// The compiled mappings.
    pub plan: Plan,
    /// What secures the listeners that are to be secure; without it, nothing is served there.
    pub engine: Option<Box<dyn Engine>>,
    /// The source of all randomness.
    pub seed: [u8; 32],
}

impl Setup {
    /// What is common for all else: the built-in object definitions, and nothing secured.
    pub fn new(settings: Settings, plan: Plan, seed: [u8; 32]) -> Self {
        Self {
            settings,
            limits: Limits::default(),
            parameters: coap::Parameters::default(),
            models: Arc::new(Models::builtin()),
            plan,
            engine: None,
            seed,
        }
    }
}

/// What goes into [`Gateway::handle`].
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came.
    Datagram {
        /// From whom.
        route: Route,
        /// What.
        bytes: &'a [u8],
    },
    /// The instant of the last [`Output::Timeout`] has come.
    Timeout,
    /// An [`Output::Work`] has been run.
    Worked(Work),
    /// The broker accepted the connection, with these limits.
    Connected(Session),
    /// All subscriptions were granted.
    Subscribed,
    /// The connection to the broker is gone; the reason is for a person.
    Disconnected(String),
    /// The broker has a publish.
    Delivered(Ticket),
    /// The broker refused a publish for good, with this Reason Code (MQTT 5 §3.4.2.1).
    Refused(Ticket, u8),
    /// Somebody published on one of our subscriptions.
    Message(Message),
    /// Somebody on this machine asks for something.
    Admin {
        /// Which request: it comes back in [`Output::Admin`].
        id: u64,
        /// A JSON object.
        request: &'a [u8],
    },
    /// Nobody listens any more to the answer to an [`Input::Admin`].
    AdminLeft(u64),
    /// All is stored that came before this [`Output::Commit`].
    Committed(u64),
    /// An [`Output::Store`] could not be done.
    Unstored {
        /// What is lost at the next start.
        change: Change,
        /// Why, for a person.
        why: String,
    },
    /// What the broker retains was read, or why not: the answer to [`Output::ReadRetained`].
    Retained(Result<Retained, String>),
    /// The mapping files were read: at a change, or as the answer to [`Output::ReadMappings`].
    Mappings(MappingsRead),
    /// The content of an image, or why there is none: the answer to [`Output::LoadImage`].
    Image {
        /// Which.
        digest: Digest,
        /// The content.
        content: Result<bytes::Bytes, String>,
    },
    /// A device has fetched so much of what an [`Output::Serve`] is about.
    Fetched {
        /// Which.
        device: DeviceId,
        /// Bytes from the beginning.
        bytes: u64,
    },
    /// The agent stops: say so on MQTT.
    Stop,
}

/// What comes out of [`Gateway::poll`].
#[derive(Debug)]
pub enum Output {
    /// Send this datagram.
    Datagram {
        /// To whom.
        route: Route,
        /// What.
        bytes: Vec<u8>,
    },
    /// Store this: before anything that follows is done, if its urgency is
    /// [`Now`](crate::kept::Urgency::Now).
    Store(Change),
    /// Give this back as [`Input::Committed`] when all is stored that came before it, and not at all
    /// if that failed.
    Commit(u64),
    /// One line of JSON of the answer to an [`Input::Admin`].
    Admin {
        /// Which request.
        id: u64,
        /// What is answered.
        reply: String,
        /// Whether other lines follow.
        more: bool,
    },
    /// Something for the log.
    Event(Event),
    /// Find out, by a connection of its own, what the broker retains below a topic filter, and give
    /// it back as [`Input::Retained`].
    ReadRetained {
        /// Which topics.
        filter: String,
        /// The one whose payload is wanted as well.
        whose: Arc<str>,
    },
    /// Read the mapping files, and give them back as [`Input::Mappings`].
    ReadMappings,
    /// Load an image, and give it back as [`Input::Image`].
    LoadImage(Digest),
    /// Serve an image by HTTP at `/fw/TOKEN`, and tell of it by [`Input::Fetched`].
    Serve {
        /// What only the device knows.
        token: Arc<str>,
        /// Which image.
        digest: Digest,
        /// Who fetches it.
        device: DeviceId,
    },
    /// Serve it no more.
    Unserve(Arc<str>),
    /// A step of a handshake that takes milliseconds: run it on a thread of its own, and give it
    /// back as [`Input::Worked`].
    Work(Work),
    /// Nothing more; wait for input, or until this instant.
    Timeout(Option<Instant>),
}

/// What was dropped or passed over, by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counters {
    /// Values that were published.
    pub values: u64,
    /// Samples that were published as history.
    pub samples: u64,
    /// Values older than the one that stands, of signals without history.
    pub older: u64,
    /// Values that a notification of more than them repeated.
    pub unchanged: u64,
    /// Values that no signal of the mapping names, and that it wants counted.
    pub unmapped: u64,
    /// Values that the mapping drops.
    pub dropped: u64,
    /// Paths whose topic is the gateway's or another device's; their values are dropped.
    pub topics_refused: u64,
    /// Values of objects that hold keys.
    pub secrets: u64,
    /// Values of the wrong type, and frames too short for the mapping's layout.
    pub undecodable: u64,
    /// Values clipped to the mapping's bounds.
    pub clipped: u64,
    /// Values for which the mapping's expression gives nothing.
    pub uncalculated: u64,
    /// Sends refused, each with all its values.
    pub sends_refused: u64,
    /// Values beyond the number of signals that a device may have.
    pub signals_full: u64,
    /// Observations that fell silent: no notification within one and a half times their pmax.
    pub observations_lost: u64,
    /// Values that were marked as stale.
    pub stale: u64,
    /// Registrations and bootstraps refused.
    pub refused: u64,
    /// Events about what a peer did wrong that were neither said nor published, because too many
    /// came at once.
    pub events_suppressed: u64,
    /// Commands that came to their end.
    pub commands: u64,
    /// Notifications and Sends that were not acknowledged: too many waited, or nothing was left to
    /// give way to them.
    pub withheld: u64,
    /// Final replies that were remembered for less than a day, for want of room.
    pub answers_forgotten: u64,
}

/// The gateway.
pub struct Gateway {
    settings: Settings,
    limits: GatewayLimits,
    topics: Topics,
    models: Arc<Models>,
    plan: Plan,
    reload: Reload,
    audit: Audit,
    server: Server,
    /// Indexed by [`DeviceId`].
    devices: Vec<Device>,
    by_name: KeyedMap<Arc<str>, DeviceId>,
    /// Topics of values outside the devices' own trees, and whose they are: the first one's.
    holders: KeyedMap<Arc<str>, (DeviceId, Path)>,
    commands: BTreeMap<CommandId, Command>,
    command_count: u64,
    /// Bytes of the requests of all of them.
    command_bytes: usize,
    answered: Answered,
    cleared: Cleared,
    /// Commands that end by themselves, by when.
    command_deadlines: BTreeSet<(Instant, CommandId)>,
    /// Commands that wait for a value, by when they are looked after next.
    awaits: BTreeSet<(Instant, CommandId)>,
    /// What each operation under way is for.
    purposes: KeyedMap<OperationId, Purpose>,
    /// Births that wait for more news of the same device.
    births: BTreeSet<(Instant, DeviceId)>,
    /// When each device is looked after next of which something can be due.
    supervised: BTreeSet<(Instant, DeviceId)>,
    broker: Broker,
    keeping: Keeping,
    outbox: Outbox,
    custody: Custody,
    counters: Counters,
    complaints: Complaints,
    live: Live,
    health_due: Instant,
    started: Now,
    outputs: VecDeque<Output>,
    stopping: bool,
    firmware: Firmware,
}

/// Why an operation was begun.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// To bring a device to what the plan wants of it.
    Setup,
    /// Somebody asked for it on MQTT.
    Command(CommandId),
    /// To see whether the value that a command waits for is there.
    Poll(CommandId),
    /// To see whether a device of an earlier process is still there.
    Confirm,
    /// To make the device bootstrap.
    Bootstrap,
    /// To update it.
    Update,
}

impl Gateway {
    /// A gateway without devices and without a broker.
    pub fn new(now: Now, setup: Setup) -> Self {
        let Setup {
            settings,
            limits,
            parameters,
            models,
            plan,
            engine,
            seed,
        } = setup;
        let mut rng = StdRng::from_seed(seed);
        let server = Server::new(
            settings.server.clone(),
            limits.server,
            parameters,
            models.clone(),
            engine,
            rng.random(),
        );
        let topics = Topics::new(&settings.base_topic, settings.replies.clone());
        let broker = Broker::new(format!("{:016x}", rng.random::<u64>()));
        Self {
            limits: limits.gateway,
            models,
            plan,
            reload: Reload::default(),
            audit: Audit::default(),
            server,
            devices: Vec::new(),
            by_name: keyed::map(&mut rng),
            holders: keyed::map(&mut rng),
            commands: BTreeMap::new(),
            command_count: 0,
            command_bytes: 0,
            answered: Answered::new(keyed::map(&mut rng)),
            cleared: Cleared::new(keyed::map(&mut rng)),
            command_deadlines: BTreeSet::new(),
            awaits: BTreeSet::new(),
            purposes: keyed::map(&mut rng),
            births: BTreeSet::new(),
            supervised: BTreeSet::new(),
            broker,
            keeping: Keeping::default(),
            outbox: Outbox::new(limits.outbox, &mut rng),
            custody: Custody::default(),
            counters: Counters::default(),
            complaints: Complaints::new(now.instant, &mut rng),
            live: Live::default(),
            health_due: now.instant + broker::HEALTH_INTERVAL,
            started: now,
            outputs: VecDeque::new(),
            stopping: false,
            topics,
            settings,
            firmware: Firmware::new(&mut rng),
        }
    }

    /// Takes one input. Never fails: what is malformed or hostile is counted and said.
    pub fn handle(&mut self, now: Now, input: Input<'_>) {
        self.live.tick(now);
        match input {
            Input::Datagram { route, bytes } => self.server.receive(now, route, bytes),
            Input::Timeout => self.on_timeout(now),
            Input::Worked(work) => self.server.worked(now, work),
            Input::Connected(session) => self.on_connected(now, session),
            Input::Subscribed => self.on_subscribed(now),
            Input::Disconnected(reason) => self.on_disconnected(reason),
            Input::Delivered(ticket) => self.on_delivered(ticket),
            Input::Refused(ticket, code) => self.on_refused(ticket, code),
            Input::Message(message) => self.on_message(now, message),
            Input::Admin { id, request } => self.on_admin(now, id, request),
            Input::AdminLeft(id) => self.on_admin_left(now, id),
            Input::Committed(batch) => self.on_committed(now, batch),
            Input::Unstored { change, why } => {
                self.on_unspooled(now, &change, &why);
                self.server.unstored(now, &change, &why);
            }
            Input::Retained(read) => self.on_retained(now, read),
            Input::Mappings(read) => self.on_mappings(now, read),
            Input::Image { digest, content } => self.on_image(now, digest, content),
            Input::Fetched { device, bytes } => self.on_fetched(now, device, bytes),
            Input::Stop => self.on_stop(now),
        }
        self.pump(now);
        self.settle(now);
        self.broker.follow_change(now);
        self.report_refusals();
        self.say_kept();
    }

    /// What to do next; drain it until [`Output::Timeout`].
    pub fn poll(&mut self) -> Output {
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        Output::Timeout(self.next_timeout())
    }

    /// The next message for the broker, if there is one and the broker may have it now.
    ///
    /// Apart from [`Gateway::poll`], because a connection takes only so much at a time: the shell
    /// asks as long as there is room. At QoS 1 it answers with [`Input::Delivered`] or
    /// [`Input::Refused`].
    pub fn next_publish(&mut self) -> Option<Outgoing<'_>> {
        if self.broker.may_publish() {
            self.outbox.poll()
        } else {
            None
        }
    }

    /// Serves secure sessions with another engine: our certificate or the authorities changed.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.server.set_engine(engine);
    }

    /// The authorities that the engine has to trust.
    pub fn authorities(&self) -> &[Authority] {
        self.server.book().authorities()
    }

    /// A number that is another one when [`Gateway::authorities`] are others.
    pub fn trusted(&self) -> u64 {
        self.server.book().generation()
    }

    /// Every secure session that another process can go on with, when this one stops for good.
    pub fn save_sessions(&mut self) -> Vec<Saved> {
        self.server.save_sessions()
    }

    /// Goes on with the sessions of an earlier process, each of which is given once; how many
    /// could be taken over.
    pub fn restore_sessions(&mut self, now: Now, sessions: Vec<Saved>) -> usize {
        self.server.restore_sessions(now, sessions)
    }

    /// What was dropped or passed over so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether everything that was accepted has been delivered.
    pub fn is_drained(&self) -> bool {
        self.outbox.depth().is_empty()
    }

    /// Takes all that the server has to say.
    fn pump(&mut self, now: Now) {
        while let Some(output) = self.server.poll() {
            match output {
                server::Output::Datagram { route, bytes } => {
                    self.outputs.push_back(Output::Datagram { route, bytes })
                }
                server::Output::Store(change) => self.outputs.push_back(Output::Store(change)),
                server::Output::Event(event) => self.on_server(now, event),
                server::Output::Work(work) => self.outputs.push_back(Output::Work(work)),
            }
        }
    }

    fn on_timeout(&mut self, now: Now) {
        self.server.timeout(now);
        self.pump(now);
        self.supervise(now);
        self.publish_due_births(now);
        self.tend_awaits(now);
        self.expire_commands(now);
        self.tend_broker(now);
        self.tend_updates(now);
        self.tend_kept(now);
        self.tend_custody(now);
        self.pump(now);
    }

    fn next_timeout(&self) -> Option<Instant> {
        let births = self.births.first().map(|(at, _)| *at);
        let supervised = self.supervised.first().map(|(at, _)| *at);
        let commands = self.command_deadlines.first().map(|(at, _)| *at);
        let awaits = self.awaits.first().map(|(at, _)| *at);
        [
            self.server.next_timeout(),
            births,
            supervised,
            commands,
            awaits,
            self.broker_timeout(),
            self.keeping_timeout(),
            self.custody.due,
            self.firmware.next_timeout(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn say(&mut self, event: Event) {
        self.show_event(&event);
        self.outputs.push_back(Output::Event(event));
    }

    fn device(&self, id: DeviceId) -> Option<&Device> {
        self.devices.get(id.0 as usize)
    }

    fn device_mut(&mut self, id: DeviceId) -> Option<&mut Device> {
        self.devices.get_mut(id.0 as usize)
    }

    /// Hands a message to the outbox, which counts what it cannot take.
    fn publish(&mut self, publish: Publish) {
        self.show_publish(&publish);
        if publish.retain {
            self.note_retained(&publish);
        }
        match self.custody.current() {
            Some(hold) => self.push_held(publish, hold),
            None => {
                let _ = self.outbox.push(publish);
            }
        }
    }

    /// As [`Gateway::publish`], ahead of what waits.
    fn publish_first(&mut self, publish: Publish) {
        self.show_publish(&publish);
        let _ = self.outbox.push_first(publish);
    }

    /// Tells this run of the gateway from others, in ids that it makes itself.
    fn boot_tag(&self) -> &str {
        self.broker.boot_tag()
    }
}
