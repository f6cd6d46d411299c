//! A fleet over a bad network: devices of every version, some in queue mode, while datagrams are lost,
//! doubled and overtaken, addresses change, devices restart, the broker goes and forgets, and the
//! gateway stops or is killed. One seed is one run.
//!
//! `LWM2MQTT_SEEDS` says how many runs, `LWM2MQTT_SEED` the first of them, `LWM2MQTT_FLEET` how many
//! devices each has and `LWM2MQTT_SEED_SECONDS` after how many seconds no further one is begun, unless
//! there were fewer than `LWM2MQTT_SEEDS_LEAST`. A run that fails prints what repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, available_parallelism};
use std::time::Duration;

use lwm2mqtt::lwm2m::{Path, Value, Version};
use lwm2mqtt::mapping::Plan;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, Weather};
use crate::tap::Tap;

const SECOND: Duration = Duration::from_secs(1);
/// How long the weather is bad, and how long everything may take to come right afterwards: the
/// lifetime of 300 s, its grace, and the longest back-off of a client that was refused.
const BAD: Duration = Duration::from_secs(900);
const GOOD: Duration = Duration::from_secs(1_800);
/// What moves, and what is written.
const MOVES: Path = Path::resource(3311, 0, 5851);
const SENTINEL: &str = "lwm2mqtt/bridge/sentinel";
const WRITTEN: Path = Path::resource(3, 0, 14);

fn number(name: &str, default: u64) -> u64 {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => default,
    }
}

#[test]
fn whatever_happens_to_a_fleet_in_the_end_all_is_true() {
    let first = number("LWM2MQTT_SEED", 1);
    let seeds = number("LWM2MQTT_SEEDS", 2);
    let devices = number("LWM2MQTT_FLEET", 25) as usize;
    let limit = Duration::from_secs(number("LWM2MQTT_SEED_SECONDS", 3_600));
    #[allow(
        clippy::disallowed_methods,
        reason = "the box of a long run is of real time"
    )]
    let begun = std::time::Instant::now();
    let least = number("LWM2MQTT_SEEDS_LEAST", 1);
    let (begun_runs, played) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = AtomicBool::new(false);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let run = begun_runs.fetch_add(1, Ordering::Relaxed);
            if run >= seeds || run >= least && begun.elapsed() > limit {
                break;
            }
            let seed = first + run;
            if let Err(cause) = catch_unwind(|| Fleet::new(seed, devices).play()) {
                failed.store(true, Ordering::Relaxed);
                eprintln!(
                    "again: LWM2MQTT_SEED={seed} LWM2MQTT_SEEDS=1 LWM2MQTT_FLEET={devices} cargo test --test sim fleet"
                );
                resume_unwind(cause);
            }
            played.fetch_add(1, Ordering::Relaxed);
        }
    };
    let threads = available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let played = played.into_inner();
    eprintln!("{played} seeds from {first}, {devices} devices each");
    assert!(played > 0);
}

#[test]
fn a_seed_plays_the_same_twice() {
    for seed in [1, 2] {
        let transcript = || {
            let mut fleet = Fleet::new(seed, 12);
            fleet.play();
            fleet.rig.broker.log.clone()
        };
        assert!(transcript() == transcript(), "seed {seed}");
    }
}

struct Fleet {
    rig: Rig,
    rng: StdRng,
    /// Whether every sample is published, so that each one that is safe has to be found.
    history: bool,
    nodes: Vec<Node>,
    /// Commands by id: the device, and the value written.
    commands: BTreeMap<String, (usize, i64)>,
    /// Names given so far.
    names: u32,
    /// Whether the gateway was killed: what the broker had not acknowledged is said again.
    killed: bool,
    /// Whether the broker lost what it had retained, or came back with what it had earlier.
    forgot: bool,
    /// What the broker had earlier.
    earlier: BTreeMap<String, Vec<u8>>,
}

/// What is known of a device.
struct Node {
    version: Version,
    /// The newest value; it begins above what a new device has by itself.
    newest: i64,
    /// All names in topics that it had, the last one that of now.
    names: Vec<String>,
    /// Whether the operator has entered it.
    entered: bool,
    /// Whether it left for good.
    gone: bool,
}

impl Node {
    fn name(&self) -> &str {
        self.names.last().unwrap()
    }
}

/// A device gives an observation up when a confirmable notification is not acknowledged for 45 s (RFC
/// 7641 §4.5); with a `pmax` that is noticed.
const HISTORY: &str = r#"
[[signal]]
name = "dimmer"
path = "/3311/*/5851"
history = true
observe = { con = true, pmax = 300 }
"#;

fn plan(history: bool) -> Plan {
    match history {
        true => Rig::plan(HISTORY),
        false => Plan::unmapped("lwm2mqtt"),
    }
}

impl Fleet {
    fn new(seed: u64, devices: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let history = seed % 2 == 1;
        let mut rig = Rig::with_plan(plan(history));
        rig.tap = Some(Tap::new(MOVES));
        rig.weather = Some(Weather {
            rng: StdRng::seed_from_u64(rng.random()),
            loss: f64::from(rng.random_range(0..=30u8)) / 100.0,
            doubled: f64::from(rng.random_range(0..=5u8)) / 100.0,
            late: f64::from(rng.random_range(0..=10u8)) / 100.0,
        });
        let node = |index: usize| Node {
            version: [Version::V1_1, Version::V1_0, Version::V1_2][index % 3],
            newest: 100,
            names: vec![endpoint(index)],
            entered: false,
            gone: false,
        };
        let nodes: Vec<Node> = (0..devices).map(node).collect();
        for (index, node) in nodes.iter().enumerate() {
            rig.add_client_of(&endpoint(index), node.version, sleep(index));
        }
        Self {
            earlier: rig.broker.retained.clone(),
            rig,
            rng,
            history,
            nodes,
            commands: BTreeMap::new(),
            names: 0,
            killed: false,
            forgot: false,
        }
    }

    fn play(&mut self) {
        let end = self.rig.now.instant + BAD;
        while self.rig.now.instant < end {
            let wait = Duration::from_millis(self.rng.random_range(50..4_000));
            self.rig.run(wait);
            self.happen();
        }
        self.rig.weather = None;
        if !self.rig.broker.connected {
            self.rig.connect();
        }
        self.rig.run(GOOD);
        // Everything is said once more, now that it arrives.
        for device in 0..self.nodes.len() {
            self.set_next(device);
        }
        self.rig.run(120 * SECOND);
        self.check();
    }

    fn happen(&mut self) {
        let device = self.rng.random_range(0..self.nodes.len());
        match self.rng.random_range(0..100u8) {
            0..45 => self.set_next(device),
            45..60 => self.send(device),
            60..78 => self.command(device),
            78..83 => self.rig.rebind(device),
            83..86 => self.restart_device(device),
            86..88 => self.leave(device),
            88..90 => self.rename(device),
            90..91 => self.remove(device),
            91..95 => self.broker(),
            95..97 => self.restart_gateway(false),
            97..99 => self.restart_gateway(true),
            _ => {
                let pause = self.rng.random_range(1..120);
                self.rig.run(pause * SECOND);
            }
        }
    }

    fn set_next(&mut self, device: usize) {
        let node = &mut self.nodes[device];
        if !node.gone {
            node.newest += 1;
            self.rig.set(device, &MOVES, Value::Integer(node.newest));
        }
    }

    fn send(&mut self, device: usize) {
        self.set_next(device);
        let node = &self.nodes[device];
        if !node.gone && node.version >= Version::V1_1 {
            self.rig.send(device, &[MOVES]);
        }
    }

    fn command(&mut self, device: usize) {
        let (id, value) = (
            format!("c{}", self.commands.len()),
            self.rng.random_range(0..=100),
        );
        // The broker would not hand over what is published while we are away.
        if !self.rig.broker.connected {
            return;
        }
        self.commands.insert(id.clone(), (device, value));
        self.ask(&id, "30m");
        // At QoS 1 a request may come twice.
        if self.rng.random_bool(0.1) {
            self.ask(&id, "30m");
        }
    }

    fn ask(&mut self, id: &str, ttl: &str) {
        let (device, value) = self.commands[id];
        let topic = format!("lwm2mqtt/d/{}/lwm2m/write", self.nodes[device].name());
        let request = json!({ "id": id, "path": WRITTEN.to_string(), "value": format!("+{value:02}:00"), "ttl": ttl });
        self.rig.ask(&topic, &request.to_string());
    }

    fn restart_device(&mut self, device: usize) {
        let node = &self.nodes[device];
        if node.gone {
            return;
        }
        let (name, version) = (endpoint(device), node.version);
        self.rig
            .replace_client(device, &name, version, sleep(device));
        let value = Value::Integer(node.newest);
        self.rig.set(device, &MOVES, value);
    }

    /// One in ten may leave for good.
    fn leave(&mut self, device: usize) {
        let gone = self.nodes.iter().filter(|node| node.gone).count();
        if gone * 10 < self.nodes.len() {
            self.rig.devices[device].dead = true;
            self.nodes[device].gone = true;
        }
    }

    /// The operator calls a device something else.
    fn rename(&mut self, device: usize) {
        let to = format!("n{}", self.names);
        let (node, endpoint) = (&mut self.nodes[device], endpoint(device));
        let request = match node.entered {
            false => json!({ "verb": "device/approve", "endpoint": endpoint, "name": to }),
            true => json!({ "verb": "device/rename", "name": node.name(), "to": to }),
        };
        let done = self.rig.administer(&request);
        assert_eq!(done["ok"], true, "{request}: {done}");
        self.names += 1;
        let node = &mut self.nodes[device];
        node.entered = true;
        node.names.push(to);
    }

    /// The operator removes a device, which comes back by itself if it lives.
    fn remove(&mut self, device: usize) {
        let node = &mut self.nodes[device];
        if node.entered {
            let request = json!({ "verb": "device/remove", "name": node.name() });
            let done = self.rig.administer(&request);
            assert_eq!(done["ok"], true, "{request}: {done}");
            node.entered = false;
            node.names.push(endpoint(device));
        }
    }

    fn broker(&mut self) {
        if self.rig.broker.connected {
            self.rig.disconnect();
            return;
        }
        // Now and then it has forgotten everything, or what is not on its disk.
        match self.rng.random_range(0..10u8) {
            0..3 => {
                self.rig.broker.retained.clear();
                self.forgot = true;
            }
            // That it went back by less than a minute is not noticed: its sentinel is the same.
            3..5 if self.earlier.get(SENTINEL) != self.rig.broker.retained.get(SENTINEL) => {
                self.rig.broker.retained.clone_from(&self.earlier);
                self.forgot = true;
            }
            _ => self.earlier.clone_from(&self.rig.broker.retained),
        }
        self.rig.connect();
    }

    fn restart_gateway(&mut self, kill: bool) {
        if !self.rig.broker.connected && self.rng.random_bool(0.5) {
            self.rig.connect();
        }
        if kill {
            self.killed = true;
            // In the middle of something, if anything comes to do.
            self.rig.doomed = Some(self.rng.random_range(0..30));
            self.rig.run(SECOND);
            if !self.rig.is_away() {
                self.rig.crash();
            }
        } else {
            self.rig.stop();
        }
        let away = self.rng.random_range(0..30);
        self.rig.run(away * SECOND);
        self.rig.start(Rig::setup(plan(self.history)));
    }

    /// What has to hold when nothing disturbs any more.
    fn check(&mut self) {
        self.check_commands();
        self.check_devices();
        self.check_values();
        self.check_growth();
        self.check_ledger();
    }

    /// The last words of all commands, each as often as it was said.
    fn finals(&self) -> BTreeMap<String, Vec<String>> {
        let mut finals = BTreeMap::<String, Vec<String>>::new();
        let replies = self.rig.broker.log.iter();
        for (_, payload) in replies.filter(|(topic, _)| topic.ends_with("/reply")) {
            let reply: Json = serde_json::from_slice(payload).unwrap();
            if reply["final"] == true {
                let id = reply["id"].as_str().unwrap().to_owned();
                finals.entry(id).or_default().push(reply.to_string());
            }
        }
        finals
    }

    /// Each command ends once. Its last word may be said again, as it was.
    fn check_commands(&mut self) {
        let finals = self.finals();
        let ids: Vec<String> = self.commands.keys().cloned().collect();
        let open: Vec<_> = ids.iter().filter(|id| !finals.contains_key(*id)).collect();
        if !open.is_empty() {
            // Killed before the broker had the answer, or before the request was taken: whoever asks
            // again gets it.
            assert!(self.killed, "{open:?} were never answered");
            for id in open {
                self.ask(id, "5m");
            }
            self.rig.run(400 * SECOND);
        }
        let finals = self.finals();
        for id in ids {
            let mut words = finals.get(&id).cloned().unwrap_or_default();
            words.sort_unstable();
            words.dedup();
            assert_eq!(words.len(), 1, "{id} ended as {words:?}");
        }
    }

    fn check_devices(&self) {
        for node in &self.nodes {
            let name = node.name();
            let availability = format!("lwm2mqtt/d/{name}/availability");
            let state = self.rig.broker.retained.get(&availability);
            let state = state.map(|it| serde_json::from_slice::<Json>(it).unwrap());
            let shown = state.as_ref().and_then(|state| state["state"].as_str());
            if node.gone {
                // It may have died before it was known.
                assert!(
                    [None, Some("offline")].contains(&shown),
                    "{name} is gone, and {state:?}"
                );
                continue;
            }
            assert!(
                [Some("online"), Some("asleep")].contains(&shown),
                "{name} lives, and {state:?}"
            );
            let value = self.rig.broker.json(&topic(name, "v"));
            assert_eq!(
                value["value"], node.newest,
                "{name} holds {}, and {value} stands",
                node.newest
            );
        }
    }

    /// The values of a device that were published, topic by topic, in order; and whether they say when
    /// they came. A Send says no time, and may come long after it was sent. After a kill a value that
    /// goes stale is that which was on the disk.
    fn values(&self, device: usize, kind: &str) -> BTreeMap<String, Vec<(i64, bool)>> {
        let topics = self.nodes[device].names.iter();
        let topics = topics.map(|name| (topic(name, kind), Vec::new()));
        let mut values: BTreeMap<_, Vec<_>> = topics.collect();
        for (topic, payload) in &self.rig.broker.log {
            if let Some(values) = values.get_mut(topic)
                && !payload.is_empty()
            {
                let message: Json = serde_json::from_slice(payload).unwrap();
                let value = message["value"].as_i64();
                let is_old = self.killed && message["quality"] == "stale";
                let is_timed = message["src"] != "send" && !is_old;
                values.extend(value.map(|value| (value, is_timed)));
            }
        }
        values
    }

    /// On no topic a value is followed by an older one, and what a device was told to be safe has
    /// arrived: as a sample, or as that value or a newer one.
    fn check_values(&self) {
        let safe = self.rig.tap.as_ref().map(|tap| &tap.safe).unwrap();
        assert!(!safe.is_empty(), "nothing was acknowledged");
        for device in 0..self.nodes.len() {
            let values = self.values(device, "v");
            for (topic, values) in &values {
                let timed = values.iter().filter(|(_, is_timed)| *is_timed);
                // What came shortly before a kill is with the broker alone, and that has forgotten it.
                assert!(
                    timed.is_sorted_by_key(|(value, _)| value) || self.killed && self.forgot,
                    "{topic} went back: {values:?}"
                );
            }
            let newest = values.values().flatten().map(|(value, _)| value).max();
            let samples = self.values(device, "t");
            let samples: BTreeSet<_> = samples.values().flatten().map(|(value, _)| value).collect();
            let of_it = safe.range((device, 0)..(device + 1, 0));
            let lost: Vec<_> = of_it
                .filter(|(_, value)| match self.history {
                    true => !samples.contains(value),
                    false => newest.is_none_or(|newest| newest < value),
                })
                .collect();
            assert!(
                lost.is_empty(),
                "acknowledged to {} and lost: {lost:?} of {samples:?}",
                endpoint(device)
            );
        }
    }

    fn check_growth(&self) {
        let health = self
            .rig
            .broker
            .messages("lwm2mqtt/bridge/health")
            .pop()
            .unwrap();
        assert_eq!(health["commands"], 0, "{health}");
        for waiting in ["messages", "bytes", "unacknowledged"] {
            assert_eq!(health["spool"][waiting], 0, "{health}");
        }
        assert!(
            self.rig.gateway.is_drained(),
            "something waits for the broker"
        );
        let count = |state: &str| health["devices"][state].as_u64().unwrap_or(0) as usize;
        let living = self.nodes.iter().filter(|node| !node.gone).count();
        assert_eq!(count("online") + count("asleep"), living, "{health}");
    }

    /// What is retained of the devices is what is written down of it, no more and no less.
    fn check_ledger(&mut self) {
        let mut retained: BTreeSet<String> = self.rig.broker.retained.keys().cloned().collect();
        retained.retain(|topic| topic.starts_with("lwm2mqtt/d/"));
        self.rig.stop();
        let kept = self.rig.kept.kept();
        assert_eq!(kept.spool, []);
        let written: BTreeSet<String> = kept
            .devices
            .iter()
            .filter_map(|device| Some((device, &device.descriptor.as_ref()?.name)))
            .flat_map(|(device, name)| {
                let signals = device.signals.iter();
                signals
                    .filter(|signal| signal.retained && signal.last.is_some())
                    .map(|signal| signal.topic.to_string())
                    .chain([
                        format!("lwm2mqtt/d/{name}"),
                        format!("lwm2mqtt/d/{name}/availability"),
                    ])
            })
            .collect();
        let unknown: Vec<_> = retained.difference(&written).collect();
        let missing: Vec<_> = written.difference(&retained).collect();
        assert!(
            unknown.is_empty() && missing.is_empty(),
            "retained and not written down: {unknown:?}; written down and not retained: {missing:?}"
        );
    }
}

fn endpoint(device: usize) -> String {
    format!("dev{device}")
}

/// How long a device listens that sleeps in between: every fourth does.
fn sleep(device: usize) -> Option<Duration> {
    (device % 4 == 3).then_some(20 * SECOND)
}

fn topic(name: &str, kind: &str) -> String {
    format!("lwm2mqtt/d/{name}/{kind}/light-control-0/dimmer")
}
