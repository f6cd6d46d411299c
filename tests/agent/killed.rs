//! The agent is killed, again and again, while 200 devices and a user keep it busy: whatever it said
//! before holds afterwards.
//!
//! `LWM2MQTT_KILLS` says how often (20), `LWM2MQTT_SEED` makes a run begin with the same choices as
//! the one that printed it. A run that fails keeps its folder: the log of all agents with the kills
//! in it, the store, the configuration.

mod node;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value as Json, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Broker, Received, Subscriber};
use crate::home::{Agent, Home};
use node::{Life, Node, Phase, Report, World};

const DEVICES: u32 = 200;

/// One in so many is in queue mode.
const SLEEPY: u32 = 4;

/// How long all devices may take to note that an agent has gone or come.
const NOTED: Duration = Duration::from_secs(60);

/// Lines of the log that a failure shows; the rest is in the folder that it names.
const TAIL: usize = 60;

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn log(home: &Home) -> std::fs::File {
    let mut options = std::fs::File::options();
    let file = options.create(true).append(true);
    file.open(home.folder.join("log")).unwrap()
}

/// Without waiting for anything: an agent may be killed while it begins. `life` is its number.
fn start(home: &Home, life: u32) -> Agent {
    let mut log = log(home);
    writeln!(log, "--- life {life} begins").unwrap();
    let mut command = home.command(&["run"]);
    Agent(command.stdin(Stdio::null()).stderr(log).spawn().unwrap())
}

/// Kills an agent, which must not have ended by itself.
fn kill_agent(home: &Home, agent: &mut Agent, life: u32, lived: Duration) {
    let ended = agent.0.try_wait().unwrap();
    assert!(
        ended.is_none(),
        "the agent of life {life} ended by itself: {ended:?}"
    );
    agent.0.kill().unwrap();
    agent.0.wait().unwrap();
    writeln!(log(home), "--- life {life} is killed after {lived:?}").unwrap();
}

/// Says at a failure how the run is repeated and how it went.
struct Account<'a> {
    home: &'a Home,
    seed: u64,
    kills: u64,
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { home, seed, kills } = self;
            let text = home.log();
            let lines: Vec<_> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL)..];
            eprintln!(
                "again: LWM2MQTT_SEED={seed} LWM2MQTT_KILLS={kills}\nthe end of {}, {} lines:\n{}",
                home.folder.join("log").display(),
                lines.len(),
                tail.join("\n")
            );
        }
    }
}

/// What became of the commands.
#[derive(Default)]
struct Commands {
    sent: u32,
    /// Those of which the gateway said that it has them, by id.
    accepted: BTreeSet<String>,
    /// The last words of each command. The same one again, to the millisecond of its time, is the stored answer
    /// that a request gets which the broker delivers again, or what the broker had not acknowledged at a kill.
    finals: BTreeMap<String, BTreeSet<String>>,
    /// All that was said of those that have no last word yet.
    said: BTreeMap<String, Vec<String>>,
}

impl Commands {
    fn take(&mut self, received: &Received) {
        let reply: Json = serde_json::from_str(&received.payload).unwrap();
        let id = reply["id"].as_str().unwrap().to_owned();
        self.accepted.insert(id.clone());
        if reply["final"] == true {
            self.said.remove(&id);
            self.finals.entry(id).or_default().insert(reply.to_string());
        } else {
            self.said.entry(id).or_default().push(reply.to_string());
        }
    }

    /// Those without a last word, with what was said of each.
    fn unfinished(&self) -> BTreeMap<String, &[String]> {
        let open = self.open().into_iter();
        open.map(|id| {
            let said = self.said.get(&id).map_or(&[][..], Vec::as_slice);
            (id, said)
        })
        .collect()
    }

    fn open(&self) -> Vec<String> {
        let open = self.accepted.iter();
        open.filter(|id| !self.finals.contains_key(*id))
            .cloned()
            .collect()
    }
}

/// Publishes a command; its id says for whom it is.
async fn command(user: &mut Subscriber, id: &str) {
    let device = id.split('-').next().unwrap();
    let topic = format!("lwm2mqtt/d/{device}/set/light-control-0/application-type");
    let payload = json!({ "id": id, "value": id }).to_string();
    user.request(&topic, &payload, None, None).await;
}

async fn replies(user: &mut Subscriber, commands: &mut Commands, time: Duration) {
    let end = Instant::now() + time;
    while let Ok(received) = timeout(end - Instant::now(), user.next()).await {
        commands.take(&received.expect("the broker is there"));
    }
}

#[tokio::test]
async fn what_was_acknowledged_holds_however_often_the_agent_is_killed() {
    let kills = number("LWM2MQTT_KILLS").unwrap_or(20);
    let seed = number("LWM2MQTT_SEED").unwrap_or_else(|| rand::rng().random());
    println!("LWM2MQTT_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let broker = Broker::start();
    let home = Home::new(
        "killed",
        broker.port,
        "join = \"open\"\nawake_window = \"1s\"",
    );
    home.set("level = \"trace\"", "level = \"warn\"");
    let _account = Account {
        home: &home,
        seed,
        kills,
    };
    let mut user = Subscriber::connect(broker.port, "lwm2mqtt/d/+/reply").await;
    let mut commands = Commands::default();

    let server: SocketAddr = format!("127.0.0.1:{}", home.coap).parse().unwrap();
    let (life, lives) = watch::channel(Life::Of(0));
    let (phase, phases) = watch::channel(Phase::Busy);
    let world = World {
        lives,
        settled: Arc::default(),
        shown: Arc::default(),
    };
    let mut agent = start(&home, 0);
    let mut nodes = JoinSet::new();
    for index in 0..DEVICES {
        let sleepy = index % SLEEPY == 0;
        let node = Node::new(index, sleepy, server, world.clone(), rng.random()).await;
        nodes.spawn(node.run(phases.clone()));
    }
    for kill in 1..=kills as u32 {
        let lives_for = Duration::from_millis(rng.random_range(50..1_500));
        let end = Instant::now() + lives_for;
        while Instant::now() < end {
            let id = format!("k{}-{}", rng.random_range(0..DEVICES), commands.sent);
            commands.sent += 1;
            command(&mut user, &id).await;
            replies(&mut user, &mut commands, Duration::from_millis(20)).await;
        }
        kill_agent(&home, &mut agent, kill - 1, lives_for);
        // No device has run since.
        for (now, times) in [(Life::Between, 2 * kill - 1), (Life::Of(kill), 2 * kill)] {
            life.send(now).unwrap();
            let begun = Instant::now();
            while world.settled.load(Ordering::SeqCst) < times * DEVICES {
                let noted = world.settled.load(Ordering::SeqCst);
                assert!(
                    begun.elapsed() < NOTED,
                    "kill {kill}: {now:?} was noted {noted} times instead of {}",
                    times * DEVICES
                );
                sleep(Duration::from_millis(1)).await;
            }
        }
        agent = start(&home, kill);
    }

    // In peace, everybody shows what it still has.
    phase.send(Phase::Last).unwrap();
    let begun = Instant::now();
    // Restored devices are looked at five seconds after the start.
    let is_done = |begun: Instant| {
        world.shown.load(Ordering::SeqCst) == DEVICES && begun.elapsed() > Duration::from_secs(7)
    };
    while !is_done(begun) && begun.elapsed() < Duration::from_secs(30) {
        replies(&mut user, &mut commands, Duration::from_millis(500)).await;
    }
    for (id, words) in &commands.finals {
        assert_eq!(words.len(), 1, "{id} ended in more than one way: {words:?}");
    }
    // Of those whose last word was lost with a process: it is said again to who asks again.
    let open = commands.open();
    for id in &open {
        command(&mut user, id).await;
        replies(&mut user, &mut commands, Duration::from_millis(10)).await;
    }
    let begun = Instant::now();
    while !commands.open().is_empty() && begun.elapsed() < Duration::from_secs(20) {
        replies(&mut user, &mut commands, Duration::from_millis(500)).await;
    }
    let unfinished = commands.unfinished();
    assert!(
        unfinished.is_empty(),
        "commands without an end: {unfinished:#?}"
    );

    phase.send(Phase::Over).unwrap();
    let mut reports: Vec<Report> = nodes.join_all().await;
    reports.sort_by(|one, other| one.name.cmp(&other.name));
    let wrong: Vec<_> = reports.iter().flat_map(|report| &report.wrong).collect();
    assert!(wrong.is_empty(), "promises that were not held: {wrong:#?}");
    let silent: Vec<_> = reports.iter().filter(|report| !report.shown).collect();
    assert!(
        silent.is_empty(),
        "devices that could not show what they have: {silent:#?}"
    );
    let sum = |of: fn(&Report) -> u32| reports.iter().map(of).sum::<u32>();
    println!(
        "{kills} kills: {} registrations, {} updates and {} notifications acknowledged, {} observations begun; {} of {} commands taken, {} asked for again",
        sum(|report| report.registered),
        sum(|report| report.updated),
        sum(|report| report.notified),
        sum(|report| report.observed),
        commands.accepted.len(),
        commands.sent,
        open.len(),
    );
    drop(agent);
}
