//! A gateway, scripted devices and a scripted broker in virtual time.

mod broker;
mod device;
mod run;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use lwm2mqtt::gateway::firmware::image::Digest;
use lwm2mqtt::gateway::outbox::{Session, Ticket};
use lwm2mqtt::gateway::{
    AdminAccess, Event, Gateway, Input, MappingCause, MappingsRead, Message, Replies, Retained,
    Settings, Setup,
};
use lwm2mqtt::kept::Changes;
use lwm2mqtt::lwm2m::model::Models;
use lwm2mqtt::mapping::{Compiled, Plan, Source};
use lwm2mqtt::server::bootstrap::Profiles;
use lwm2mqtt::server::credentials::{Change, Policy};
use lwm2mqtt::server::{self, Join, Listener, Purpose};
use lwm2mqtt::time::{Instant, Now, UnixTime};
use serde_json::Value as Json;

use crate::tap::Tap;

pub use broker::Broker;
pub use device::{Device, MUTE_SEND, SENSOR, content};
use run::Datagram;
pub use run::Weather;

/// When a run begins: 2026-11-22T15:19:20Z, a second after the clock's origin.
const START: Now = Now {
    instant: Instant::from_micros(1_000_000),
    unix: UnixTime::from_millis(1_795_360_760_000),
};

/// The listener where the bootstrap server is in clear; the other one is 0.
pub const BOOTSTRAP: u16 = 1;

/// How long the store collects what is not urgent.
const FLUSH: Duration = Duration::from_secs(10);

/// One hop of the network.
const DELAY: Duration = Duration::from_millis(10);

/// A gateway with all that surrounds it.
pub struct Rig {
    pub gateway: Gateway,
    pub now: Now,
    pub devices: Vec<Device>,
    pub broker: Broker,
    pub events: Vec<Event>,
    /// What was answered to requests of the machine itself.
    pub replies: BTreeMap<u64, Vec<Json>>,
    /// What was to be stored of credentials.
    pub stored: Vec<Change>,
    /// All that is stored.
    pub kept: Changes,
    /// What is to be stored in a while, and when.
    pending: Changes,
    flush_due: Option<Instant>,
    /// Whether no agent runs.
    away: bool,
    /// Whether nothing urgent can be stored.
    pub disk_full: bool,
    /// Datagrams that the gateway sent.
    pub sent: u32,
    /// The images that the store holds.
    pub images: BTreeMap<Digest, Bytes>,
    /// What the network does to what is sent.
    pub weather: Option<Weather>,
    /// What is served by HTTP, by token.
    pub served: BTreeMap<String, Digest>,
    /// Steps of handshakes that were to be run elsewhere.
    pub works: u32,
    /// How often the mapping files were to be read.
    pub readings: u32,
    /// What was found that the broker retains, and the gateway was not told.
    pub audited: Option<Retained>,
    /// After so many more things that the gateway wants done it is killed.
    pub doomed: Option<u32>,
    /// Who listens to what is said between devices and gateway.
    pub tap: Option<Tap>,
    timeout: Option<Instant>,
    wire: VecDeque<(Instant, Datagram)>,
    /// What the broker has acknowledged, and the gateway has not heard yet.
    acknowledged: VecDeque<Ticket>,
}

impl Rig {
    /// A gateway that everybody may join, with the broker there.
    pub fn new() -> Self {
        Self::with_plan(Plan::unmapped("lwm2mqtt"))
    }

    /// A gateway that may be joined as `policy` says.
    pub fn with_policy(policy: Policy) -> Self {
        Self::with(Plan::unmapped("lwm2mqtt"), |settings| {
            settings.server.policy = policy;
        })
    }

    /// A gateway that everybody may join, with mappings.
    pub fn with_plan(plan: Plan) -> Self {
        Self::with_setup(plan, |_| {})
    }

    /// The same with a bootstrap server at [`BOOTSTRAP`].
    pub fn with_bootstrap(plan: Plan, profiles: Arc<Profiles>) -> Self {
        Self::with_setup(plan, |setup| {
            setup.settings.server.bootstrap_profiles = profiles;
        })
    }

    /// The same with what is said about where replies may go.
    pub fn with_replies(plan: Plan, replies: Replies) -> Self {
        Self::with_setup(plan, |setup| setup.settings.replies = replies)
    }

    /// The same, changed by `decide`.
    pub fn with(plan: Plan, decide: impl FnOnce(&mut Settings)) -> Self {
        Self::with_setup(plan, |setup| decide(&mut setup.settings))
    }

    /// A gateway that everybody may join, with one mapping file for every device.
    pub fn with_mapping(text: &str) -> Self {
        Self::with_plan(Self::plan(text))
    }

    /// One mapping file for every device.
    pub fn plan(text: &str) -> Plan {
        let compiled = Self::compile(text);
        let plan = compiled.plan;
        plan.unwrap_or_else(|| panic!("{:?}", compiled.diagnostics))
    }

    /// The mapping files are read again, which are one for every device.
    pub fn read_mapping(&mut self, cause: MappingCause, text: &str) {
        let Compiled { plan, diagnostics } = Self::compile(text);
        self.input(Input::Mappings(MappingsRead {
            cause,
            files: 1,
            plan,
            diagnostics,
        }));
    }

    fn compile(text: &str) -> Compiled {
        let source = Source {
            file: "test.toml".into(),
            text: format!(
                "schema = 1\n[profile]\nid = \"test\"\n[match]\nendpoint = \"*\"\n{text}"
            ),
        };
        Plan::compile(&[source], &Models::builtin(), "lwm2mqtt")
    }

    /// A gateway that everybody may join, with all that `adjust` changes.
    pub fn with_setup(plan: Plan, adjust: impl FnOnce(&mut Setup)) -> Self {
        let mut setup = Self::setup(plan);
        adjust(&mut setup);
        let mut rig = Self {
            gateway: Gateway::new(START, setup),
            now: START,
            devices: Vec::new(),
            broker: Broker::default(),
            events: Vec::new(),
            replies: BTreeMap::new(),
            stored: Vec::new(),
            kept: Changes::default(),
            pending: Changes::default(),
            flush_due: None,
            away: false,
            disk_full: false,
            sent: 0,
            images: BTreeMap::new(),
            weather: None,
            served: BTreeMap::new(),
            works: 0,
            readings: 0,
            audited: None,
            doomed: None,
            tap: None,
            timeout: None,
            wire: VecDeque::new(),
            acknowledged: VecDeque::new(),
        };
        rig.gateway.restored(START);
        rig.connect();
        rig
    }

    /// A gateway that everybody may join.
    pub fn setup(plan: Plan) -> Setup {
        let policy = Policy {
            join: Join::Open,
            ..Policy::default()
        };
        let settings = Settings {
            id: "gw".into(),
            server: server::Settings {
                policy,
                listeners: listeners(),
                ..server::Settings::default()
            },
            admin: AdminAccess::All,
            has_store: true,
            has_mappings: true,
            ..Settings::default()
        };
        Setup::new(settings, plan, [7; 32])
    }

    /// The agent stops, which leaves nothing unsaid.
    pub fn stop(&mut self) {
        self.input(Input::Stop);
        self.pending.take().for_each(|change| self.kept.add(change));
        self.be_away();
    }

    fn be_away(&mut self) {
        self.broker.connected = false;
        self.away = true;
        self.timeout = None;
    }

    /// The agent ends without a word, and what was not urgent may be lost.
    pub fn crash(&mut self) {
        self.pending = Changes::default();
        self.doomed = None;
        self.be_away();
    }

    /// Whether no agent runs.
    pub fn is_away(&self) -> bool {
        self.away
    }

    /// Another agent begins with what is kept.
    pub fn start(&mut self, mut setup: Setup) {
        setup.seed = [8; 32];
        setup.seed[1] = self.now.instant.as_micros() as u8;
        self.flush_due = None;
        self.away = false;
        self.gateway = Gateway::new(self.now, setup);
        let refused = self.gateway.restore(self.now, self.kept.kept());
        assert!(refused.is_empty(), "{refused:?}");
        self.gateway.restored(self.now);
        self.connect();
    }

    /// The broker comes (back). It hands out its copy of the sentinel, as a subscription does.
    pub fn connect(&mut self) {
        self.broker.connected = true;
        self.input(Input::Connected(Session::default()));
        self.input(Input::Subscribed);
        for topic in self.gateway.subscriptions().retained {
            if let Some(payload) = self.broker.retained.get(&topic).cloned() {
                self.input(Input::Message(Message {
                    topic,
                    payload,
                    retain: true,
                    ..Message::default()
                }));
            }
        }
    }

    /// The broker goes.
    pub fn disconnect(&mut self) {
        self.broker.connected = false;
        self.input(Input::Disconnected("the link is down".into()));
    }

    /// Turns round the order of all datagrams that are under way.
    pub fn turn_wire(&mut self) {
        self.wire.make_contiguous().reverse();
        if let Some(last) = self.wire.iter().map(|(at, _)| *at).max() {
            self.wire.iter_mut().for_each(|(at, _)| *at = last);
        }
    }

    /// Publishes a request, as an MQTT client does.
    pub fn ask(&mut self, topic: &str, payload: &str) {
        self.input(Input::Message(Message {
            topic: topic.into(),
            payload: payload.into(),
            ..Message::default()
        }));
    }

    /// Asks as the command line does; the whole answer.
    pub fn administer(&mut self, request: &Json) -> Json {
        let id = self.begin_admin(request);
        self.replies[&id].last().unwrap().clone()
    }

    /// Asks as the command line does; the number under which the lines of the answer come.
    pub fn begin_admin(&mut self, request: &Json) -> u64 {
        let id = self.replies.len() as u64;
        self.replies.insert(id, Vec::new());
        let request = request.to_string();
        self.input(Input::Admin {
            id,
            request: request.as_bytes(),
        });
        id
    }
}

/// At the end of each test, whatever stands at the broker is in the ledger.
impl Drop for Rig {
    fn drop(&mut self) {
        let is_settled =
            self.broker.connected && !self.broker.silent && !self.away && self.gateway.is_drained();
        if std::thread::panicking() || !is_settled {
            return;
        }
        let ledger = self.gateway.ledger();
        let topics = self.broker.retained.keys();
        let unknown: Vec<_> = topics
            .filter(|topic| !ledger.contains(topic.as_str()))
            .collect();
        assert!(
            unknown.is_empty(),
            "retained, and not in the ledger: {unknown:?}"
        );
    }
}

/// Where the gateway is reached; the constants are the places here.
fn listeners() -> Vec<Listener> {
    [
        ("coap://10.0.0.254:5683", false, Purpose::Management),
        ("coap://10.0.0.254:5783", false, Purpose::Bootstrap),
        ("coaps://10.0.0.254:5684", true, Purpose::Management),
        ("coaps://10.0.0.254:5784", true, Purpose::Bootstrap),
    ]
    .map(|(uri, secure, purpose)| Listener {
        uri: uri.into(),
        secure,
        purpose,
    })
    .into()
}
