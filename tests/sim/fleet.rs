//! A fleet over a bad network: devices of every version, some in queue mode, while datagrams are lost,
//! doubled and overtaken, addresses change, devices restart, the broker goes and forgets, and the
//! gateway stops or is killed. One seed is one run.
//!
//! `LWM2MQTT_SEEDS` says how many runs, `LWM2MQTT_SEED` the first of them, `LWM2MQTT_FLEET` how many
//! devices each has and `LWM2MQTT_SEED_SECONDS` after how many seconds no further one is begun. A run
//! that fails prints what repeats it.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use lwm2mqtt::lwm2m::{Path, Value, Version};
use lwm2mqtt::mapping::Plan;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};

use crate::rig::{Rig, Weather};

const SECOND: Duration = Duration::from_secs(1);
/// How long the weather is bad, and how long everything may take to come right afterwards: the
/// lifetime of 300 s, its grace, and the longest back-off of a client that was refused.
const BAD: Duration = Duration::from_secs(900);
const GOOD: Duration = Duration::from_secs(1_800);
/// What moves, and what is written.
const MOVES: Path = Path::resource(3311, 0, 5851);
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
    let mut played = 0;
    for seed in first..first + seeds {
        if begun.elapsed() > limit {
            break;
        }
        let run = catch_unwind(AssertUnwindSafe(|| Fleet::new(seed, devices).play()));
        if let Err(cause) = run {
            eprintln!(
                "again: LWM2MQTT_SEED={seed} LWM2MQTT_SEEDS=1 LWM2MQTT_FLEET={devices} cargo test --test sim fleet"
            );
            resume_unwind(cause);
        }
        played += 1;
    }
    eprintln!("{played} seeds from {first}, {devices} devices each");
    assert!(played > 0);
}

struct Fleet {
    rig: Rig,
    rng: StdRng,
    versions: Vec<Version>,
    /// The newest value of each device; it begins above what a new one has by itself.
    newest: Vec<i64>,
    /// Commands by id: the device, and the value written.
    commands: BTreeMap<String, (usize, i64)>,
    /// Whether the gateway was killed: what had not been acknowledged by the broker may be said late.
    killed: bool,
    /// Devices that left for good.
    gone: BTreeSet<usize>,
}

fn plan() -> Plan {
    Plan::unmapped("lwm2mqtt")
}

impl Fleet {
    fn new(seed: u64, devices: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut rig = Rig::new();
        rig.weather = Some(Weather {
            rng: StdRng::seed_from_u64(rng.random()),
            loss: f64::from(rng.random_range(0..=30u8)) / 100.0,
            doubled: f64::from(rng.random_range(0..=5u8)) / 100.0,
            late: f64::from(rng.random_range(0..=10u8)) / 100.0,
        });
        let versions: Vec<Version> = (0..devices)
            .map(|index| [Version::V1_1, Version::V1_0, Version::V1_2][index % 3])
            .collect();
        for (index, version) in versions.iter().enumerate() {
            let sleeps = (index % 4 == 3).then_some(20 * SECOND);
            rig.add_client_of(&name(index), *version, sleeps);
        }
        Self {
            rig,
            rng,
            versions,
            newest: vec![100; devices],
            commands: BTreeMap::new(),
            killed: false,
            gone: BTreeSet::new(),
        }
    }

    fn play(mut self) {
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
        for device in 0..self.versions.len() {
            self.set_next(device);
        }
        self.rig.run(120 * SECOND);
        self.check();
    }

    fn any(&mut self) -> usize {
        self.rng.random_range(0..self.versions.len())
    }

    fn happen(&mut self) {
        let device = self.any();
        match self.rng.random_range(0..100u8) {
            0..60 => self.set_next(device),
            60..80 => self.command(device),
            80..85 => self.rig.rebind(device),
            85..89 => self.restart_device(device),
            89..91 if self.gone.len() * 10 < self.versions.len() => {
                self.rig.devices[device].dead = true;
                self.gone.insert(device);
            }
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
        if self.gone.contains(&device) {
            return;
        }
        self.newest[device] += 1;
        let value = Value::Integer(self.newest[device]);
        self.rig.set(device, &MOVES, value);
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
    }

    fn ask(&mut self, id: &str, ttl: &str) {
        let (device, value) = self.commands[id];
        let topic = format!("lwm2mqtt/d/{}/lwm2m/write", name(device));
        let request = json!({ "id": id, "path": WRITTEN.to_string(), "value": format!("+{value:02}:00"), "ttl": ttl });
        self.rig.ask(&topic, &request.to_string());
    }

    fn restart_device(&mut self, device: usize) {
        if self.gone.contains(&device) {
            return;
        }
        let version = self.versions[device];
        let sleeps = (device % 4 == 3).then_some(20 * SECOND);
        self.rig
            .replace_client(device, &name(device), version, sleeps);
        let value = Value::Integer(self.newest[device]);
        self.rig.set(device, &MOVES, value);
    }

    fn broker(&mut self) {
        if self.rig.broker.connected {
            self.rig.disconnect();
            return;
        }
        // Now and then it has forgotten everything.
        if self.rng.random_bool(0.3) {
            self.rig.broker.retained.clear();
        }
        self.rig.connect();
    }

    fn restart_gateway(&mut self, kill: bool) {
        if !self.rig.broker.connected {
            self.rig.connect();
        }
        if kill {
            self.killed = true;
            self.rig.crash();
        } else {
            self.rig.stop();
        }
        let away = self.rng.random_range(0..30);
        self.rig.run(away * SECOND);
        self.rig.start(Rig::setup(plan()));
    }

    /// What has to hold when nothing disturbs any more.
    fn check(&mut self) {
        self.check_commands();
        self.check_devices();
        self.check_order();
        self.check_growth();
        self.check_ledger();
    }

    fn finals(&self, id: &str) -> Vec<Json> {
        let (device, _) = self.commands[id];
        let replies = self
            .rig
            .broker
            .messages(&format!("lwm2mqtt/d/{}/reply", name(device)));
        let of_it = |reply: &Json| reply["id"] == id && reply["final"] == true;
        replies.into_iter().filter(of_it).collect()
    }

    fn check_commands(&mut self) {
        let ids: Vec<String> = self.commands.keys().cloned().collect();
        for id in ids {
            let mut finals = self.finals(&id);
            if finals.is_empty() {
                // Killed before the broker had the answer, or before the request was taken: whoever asks again gets it.
                assert!(self.killed, "{id} was never answered");
                self.ask(&id, "5m");
                self.rig.run(400 * SECOND);
                finals = self.finals(&id);
            }
            let states: BTreeSet<String> =
                finals.iter().map(|it| it["status"].to_string()).collect();
            assert_eq!(states.len(), 1, "{id} ended as {finals:?}");
            assert!(
                finals.len() == 1 || self.killed,
                "{id} ended more than once: {finals:?}"
            );
        }
    }

    fn check_devices(&self) {
        for device in 0..self.versions.len() {
            let availability = self
                .rig
                .broker
                .retained
                .get(&format!("lwm2mqtt/d/{}/availability", name(device)));
            if self.gone.contains(&device) {
                // It may have died before it was known.
                let state = availability.map(|it| serde_json::from_slice::<Json>(it).unwrap());
                assert!(
                    state
                        .as_ref()
                        .is_none_or(|state| state["state"] == "offline"),
                    "{} is gone, and {state:?}",
                    name(device)
                );
                continue;
            }
            let state = self
                .rig
                .broker
                .json(&format!("lwm2mqtt/d/{}/availability", name(device)));
            assert!(
                ["online", "asleep"].contains(&state["state"].as_str().unwrap()),
                "{} lives, and {state}",
                name(device)
            );
            let value = self.rig.broker.json(&topic(device));
            assert_eq!(
                value["value"],
                self.newest[device],
                "{} holds {}, and {value} stands",
                name(device),
                self.newest[device]
            );
        }
    }

    /// No value of a device is followed by an older one of it. After a kill what stood last on the disk
    /// may be said once more.
    fn check_order(&self) {
        if self.killed {
            return;
        }
        for device in 0..self.versions.len() {
            let values = self.rig.broker.messages(&topic(device));
            let values: Vec<i64> = values
                .iter()
                .filter_map(|it| it["value"].as_i64())
                .collect();
            assert!(
                values.is_sorted(),
                "values of {} went back: {values:?}",
                name(device)
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
        assert!(
            self.rig.gateway.is_drained(),
            "something waits for the broker"
        );
        let count = |state: &str| health["devices"][state].as_u64().unwrap_or(0) as usize;
        let living = self.versions.len() - self.gone.len();
        assert_eq!(count("online") + count("asleep"), living, "{health}");
    }

    /// What is retained of the devices is what is written down of it, no more and no less.
    fn check_ledger(&mut self) {
        let mut retained: BTreeSet<String> = self.rig.broker.retained.keys().cloned().collect();
        retained.retain(|topic| topic.contains("/v/") || topic.contains("/target/"));
        self.rig.stop();
        let kept = self.rig.kept.kept();
        let written: BTreeSet<String> = kept
            .devices
            .iter()
            .flat_map(|device| &device.signals)
            .filter(|signal| signal.retained && signal.last.is_some())
            .map(|signal| signal.topic.to_string())
            .collect();
        let unknown: Vec<_> = retained.difference(&written).collect();
        let mut missing: Vec<_> = written.difference(&retained).collect();
        if self.killed {
            // There is no disk behind the outbox: what waited for the broker at a kill is written down,
            // and is said when it changes next.
            missing.clear();
        }
        assert!(
            unknown.is_empty() && missing.is_empty(),
            "retained and not written down: {unknown:?}; written down and not retained: {missing:?}; gone: {:?}",
            self.gone
        );
    }
}

fn name(device: usize) -> String {
    format!("dev{device}")
}

fn topic(device: usize) -> String {
    format!("lwm2mqtt/d/{}/v/light-control-0/dimmer", name(device))
}
