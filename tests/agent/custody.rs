//! What a device is told to be safe arrives, whatever becomes of the broker and of the agent: 500
//! numbers a second, each acknowledged, each a sample of a history.
//!
//! `LWM2MQTT_OUTAGE` says for how many seconds the broker is away (5), `LWM2MQTT_KILLS` how often the
//! agent is killed (10), `LWM2MQTT_SEED` with which choices.

mod door;
mod fleet;
mod mosquitto;
mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value as Json;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Broker, Subscriber};
use crate::home::{Agent, Home};
use door::Door;
use fleet::{FIRST, Fleet, Said};
use witness::{Seen, Witness};

const DEVICES: u32 = 50;
/// Together 500 a second.
const EVERY: Duration = Duration::from_millis(100);

/// What a live value may be late by, once the broker is back.
const LATE: Duration = Duration::from_secs(1);

const MAPPING: &str = "schema = 1\n[profile]\nid = \"numbers\"\n[match]\nendpoint = \"dev*\"\n\
    [[signal]]\nname = \"temperature\"\npath = \"/3303/*/5700\"\nhistory = true\n";

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// An agent that reaches its broker through this port, with a mapping that wants a history.
fn home(name: &str, port: u16) -> Home {
    let home = Home::new(name, port, "join = \"open\"");
    home.set("level = \"trace\"", "level = \"info\"");
    let mapping = home.folder.join("numbers.toml");
    fs::write(&mapping, MAPPING).unwrap();
    let paths = format!("[mappings]\npaths = [{mapping:?}]");
    home.set("[mappings]\npaths = []", &paths);
    home
}

/// Starts the agent, and waits for nothing. All agents write into one log.
fn start(home: &Home) -> Agent {
    let mut options = fs::File::options();
    let log = options.create(true).append(true);
    let mut log = log.open(home.folder.join("log")).unwrap();
    writeln!(log, "--- another agent begins").unwrap();
    let mut command = home.command(&["run"]);
    Agent(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
}

async fn fleet(home: &Home) -> Fleet {
    let server = format!("127.0.0.1:{}", home.coap).parse().unwrap();
    Fleet::start(server, DEVICES, EVERY).await
}

/// Waits until every number that was acknowledged has come, and the newest of each device stands.
async fn complete(said: &Mutex<Said>, seen: &Mutex<Seen>, patience: Duration) {
    let begun = Instant::now();
    loop {
        let (missing, behind) = {
            let (said, seen) = (said.lock().unwrap(), seen.lock().unwrap());
            let numbers = said.acknowledged.iter();
            let numbers = numbers
                .flat_map(|(device, last)| (FIRST + 1..=*last).map(|value| (*device, value)));
            let missing: Vec<_> = numbers
                .filter(|number| !seen.samples.contains_key(number))
                .collect();
            let mut behind = said.acknowledged.clone();
            behind.retain(|device, last| seen.newest.get(device) != Some(last));
            (missing, behind)
        };
        if missing.is_empty() && behind.is_empty() {
            return;
        }
        assert!(
            begun.elapsed() < patience,
            "{} acknowledged samples (device, number) never came: {:?}; the newest value is not there of {behind:?}; the consumer is deaf: {}",
            missing.len(),
            &missing[..missing.len().min(20)],
            seen.lock().unwrap().is_deaf,
        );
        sleep(Duration::from_millis(100)).await;
    }
}

/// What else holds of all that came.
fn judge(seen: &Seen) {
    assert_eq!(seen.backwards, [""; 0], "older values after newer ones");
    let mixed = seen.samples.iter().filter(|(_, ids)| ids.len() > 1);
    let mixed: BTreeMap<_, _> = mixed.collect();
    assert!(mixed.is_empty(), "copies under different ids: {mixed:?}");
    let ids: Vec<_> = seen.samples.values().flatten().collect();
    let answers = ids.iter().filter(|id| **id == "answer").count();
    let distinct: BTreeSet<_> = ids.iter().collect();
    assert_eq!(
        distinct.len(),
        ids.len() - answers.saturating_sub(1),
        "ids of two numbers"
    );
}

/// What a broker retains below this filter. Of more than 100 topics rumqttd forgets some.
async fn retained(port: u16, filter: String) -> Vec<(String, Json)> {
    let mut late = Subscriber::connect(port, &filter).await;
    let mut stands = Vec::new();
    while let Ok(Some(got)) = timeout(Duration::from_secs(1), late.next()).await {
        if got.retain {
            stands.push((got.topic, serde_json::from_str(&got.payload).unwrap()));
        }
    }
    stands
}

/// At the broker stands what the gateway answers for, and nothing else.
async fn stands(home: &Home, port: u16, said: &Mutex<Said>) {
    let below = (0..DEVICES).map(|device| format!("lwm2mqtt/d/dev{device}/#"));
    let others = ["bridge", "d/ghost"].map(|name| format!("lwm2mqtt/{name}/#"));
    let below = below.chain(others);
    let asked: JoinSet<_> = below.map(|filter| retained(port, filter)).collect();
    let retained: BTreeMap<_, _> = asked.join_all().await.into_iter().flatten().collect();
    let mut expected: BTreeSet<String> = ["state", "info", "sentinel"]
        .iter()
        .map(|name| format!("lwm2mqtt/bridge/{name}"))
        .collect();
    for (device, last) in &said.lock().unwrap().acknowledged {
        let topic = format!("lwm2mqtt/d/dev{device}");
        let value = format!("{topic}/v/temperature-0/temperature");
        let number = retained.get(&value).and_then(|json| json["value"].as_f64());
        assert_eq!(
            number,
            Some(f64::from(*last)),
            "{value}: {:?}",
            retained.keys()
        );
        expected.extend([format!("{topic}/availability"), value, topic]);
    }
    assert_eq!(retained.keys().cloned().collect::<BTreeSet<_>>(), expected);
    // Meanwhile the door has to be held open.
    let mut command = home.command(&["retained", "audit", "--json"]);
    let audit = spawn_blocking(move || command.output().unwrap()).await;
    let audit = audit.unwrap();
    assert!(audit.status.success(), "{audit:?}");
    let audit: Json = serde_json::from_slice(&audit.stdout).unwrap();
    assert_eq!(
        (&audit["count"], &audit["complete"]),
        (&0.into(), &true.into())
    );
}

/// A broker that can be killed and comes back on the same port, with another memory or none.
trait Mortal {
    fn port(&self) -> u16;
    fn kill(&mut self);
    fn restart(&mut self);
}

impl Mortal for Broker {
    fn port(&self) -> u16 {
        self.port
    }

    fn kill(&mut self) {
        Self::kill(self);
    }

    fn restart(&mut self) {
        Self::restart(self);
    }
}

/// A broker that is to die, and all that is around it.
struct Stage<B> {
    broker: B,
    door: Door,
    home: Home,
    _agent: Agent,
    seen: Arc<Mutex<Seen>>,
    witness: Witness,
    fleet: Fleet,
}

impl<B: Mortal> Stage<B> {
    /// Everything is there, and the devices notify.
    async fn set(name: &str, broker: B) -> Self {
        let mut door = Door::to(broker.port());
        door.open().await;
        let home = home(name, door.port);
        let agent = start(&home);
        home.wait(|| home.run(&["status"]).status.success());
        let seen = Arc::<Mutex<Seen>>::default();
        let witness = Witness::listen(broker.port(), &seen).await;
        let fleet = fleet(&home).await;
        sleep(Duration::from_secs(2)).await;
        Self {
            broker,
            door,
            home,
            _agent: agent,
            seen,
            witness,
            fleet,
        }
    }

    /// The broker dies and comes back: nothing is lost, nothing is late, and it holds what it is to
    /// hold.
    async fn play(self) {
        let Self {
            mut broker,
            mut door,
            home,
            seen,
            witness,
            fleet,
            _agent,
        } = self;
        let outage = Duration::from_secs(number("LWM2MQTT_OUTAGE").unwrap_or(5));
        let port = broker.port();

        // What the broker acknowledged and gave to nobody is lost with it; the consumer is given the
        // time to get it.
        door.shut().await;
        sleep(Duration::from_millis(300)).await;
        witness.leave();
        let before = fleet.count();
        broker.kill();
        sleep(outage).await;
        let kept = fleet.count() - before;
        // Devices are acknowledged while nobody is there to take their values.
        let asked = outage.as_secs() as u32 * 1_000 / EVERY.as_millis() as u32 * DEVICES;
        assert!(
            kept > asked / 3,
            "{kept} of {asked} while the broker was away"
        );

        broker.restart();
        let witness = Witness::listen(port, &seen).await;
        door.open().await;
        let back = Instant::now();
        // The agent looks for its broker about twice a second.
        while seen.lock().unwrap().came.values().all(|came| *came < back) {
            assert!(back.elapsed() < Duration::from_secs(2), "{}", home.log());
            sleep(Duration::from_millis(10)).await;
        }
        let found = back.elapsed();
        let back = Instant::now();
        sleep(Duration::from_secs(3)).await;
        let said = fleet.stop().await;
        complete(&said, &seen, Duration::from_secs(30) + outage).await;
        witness.leave();
        let latest = {
            let (said, seen) = (said.lock().unwrap(), seen.lock().unwrap());
            judge(&seen);
            let live = said.begun.iter().filter(|(_, begun)| **begun > back);
            let late = live.filter_map(|(number, begun)| Some(*seen.came.get(number)? - *begun));
            late.max().unwrap()
        };
        assert!(latest < LATE, "a live value was {latest:?} late");
        stands(&home, port, &said).await;
        let waited = format!("found after {found:?}, live values at most {latest:?} late");
        println!("{kept} samples acknowledged without a broker, which was {waited}");
    }
}

// wish: 26
#[tokio::test]
async fn no_acknowledged_sample_is_lost_with_a_broker_that_dies_and_comes_back_empty() {
    Stage::set("custody-broker", Broker::start())
        .await
        .play()
        .await;
}

// wish: 26
#[tokio::test]
async fn no_acknowledged_sample_is_lost_however_often_the_agent_is_killed() {
    let kills = number("LWM2MQTT_KILLS").unwrap_or(10);
    let seed = number("LWM2MQTT_SEED").unwrap_or_else(|| rand::rng().random());
    println!("LWM2MQTT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let broker = Broker::start();
    // Over MQTT 5 rumqttd says nothing of what it retains to one who resumes a session, so each life
    // would begin with a second of waiting.
    let mut door = Door::to(broker.v311_port);
    door.open().await;
    let home = home("custody-killed", door.port);
    home.set("admin = \"all\"", "admin = \"all\"\nversion = \"3.1.1\"");
    let mut agent = start(&home);
    home.wait(|| home.run(&["status"]).status.success());
    let seen = Arc::<Mutex<Seen>>::default();
    let witness = Witness::listen(broker.port, &seen).await;
    let fleet = fleet(&home).await;
    let mut is_open = true;
    for kill in 1..=kills {
        // Some lives have no broker at all, some lose it, some get it back.
        let before = Duration::from_millis(rng.random_range(20..1_000));
        let after = Duration::from_millis(rng.random_range(20..700));
        sleep(before).await;
        let turns = rng.random_bool(if is_open { 0.3 } else { 0.7 });
        match (turns, is_open) {
            (true, true) => door.shut().await,
            (true, false) => door.open().await,
            (false, _) => {}
        }
        is_open ^= turns;
        sleep(after).await;
        let ended = agent.0.try_wait().unwrap();
        assert!(
            ended.is_none(),
            "kill {kill}: it ended by itself: {ended:?}"
        );
        agent.0.kill().unwrap();
        agent.0.wait().unwrap();
        agent = start(&home);
    }
    if !is_open {
        door.open().await;
    }
    home.wait(|| home.run(&["status"]).status.success());
    sleep(Duration::from_secs(1)).await;
    let said = fleet.stop().await;
    complete(&said, &seen, Duration::from_secs(60)).await;
    witness.leave();
    let copies = {
        let seen = seen.lock().unwrap();
        judge(&seen);
        seen.copies
    };
    stands(&home, broker.port, &said).await;
    let count: u32 = said.lock().unwrap().acknowledged.values().sum();
    println!("{kills} kills, {count} samples acknowledged, {copies} copies");
}
