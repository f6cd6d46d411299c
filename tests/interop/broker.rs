//! mosquitto, and what a consumer of it sees.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::peers::program;
use crate::process::{PATIENCE, Process, eventually, run};

/// A free TCP port of the loopback. Nobody holds it: another program may be faster, which has not been seen.
pub fn free_tcp_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whether the broker keeps retained messages and sessions over a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    Lost,
    Kept,
}

/// A mosquitto of this test's own.
pub struct Broker {
    pub port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl Broker {
    pub fn start(folder: PathBuf, memory: Memory) -> Result<Broker> {
        let broker = Broker::prepared(folder, memory)?;
        broker.started()
    }

    /// Chooses the port and writes the configuration, and starts nothing.
    pub fn prepared(folder: PathBuf, memory: Memory) -> Result<Broker> {
        let port = free_tcp_port()?;
        let persistence = match memory {
            Memory::Lost => "persistence false\n".to_owned(),
            // Written at every change, so that a kill loses nothing of it.
            Memory::Kept => format!(
                "persistence true\npersistence_location {}/\nautosave_on_changes true\nautosave_interval 1\n",
                folder.display()
            ),
        };
        let user = if is_root()? { "user root\n" } else { "" };
        let configuration =
            format!("listener {port} 127.0.0.1\nallow_anonymous true\n{user}{persistence}");
        fs::write(folder.join("mosquitto.conf"), configuration)?;
        Ok(Broker {
            port,
            folder,
            process: None,
        })
    }

    pub fn started(mut self) -> Result<Broker> {
        self.restart()?;
        Ok(self)
    }

    /// Starts it again, on the same port.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(program(&["mosquitto"])?);
        command.arg("-c").arg(self.folder.join("mosquitto.conf"));
        self.process = Some(Process::start(
            "mosquitto",
            &mut command,
            &self.folder.join("mosquitto.log"),
        )?);
        eventually("mosquitto", || {
            Ok(std::net::TcpStream::connect(("127.0.0.1", self.port)).ok())
        })?;
        Ok(())
    }

    /// Ends it as a power cut does.
    pub fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            process.kill();
        }
    }

    fn client(&self, name: &str) -> Result<Command> {
        let mut command = Command::new(program(&[name])?);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        Ok(command)
    }

    /// The retained message of a topic, as a client that comes now gets it.
    pub fn retained(&self, topic: &str) -> Result<Option<Value>> {
        self.retained_by(self.client("mosquitto_sub")?, topic)
    }

    /// The same as a user of this name gets it.
    pub fn retained_for(&self, user: &str, topic: &str) -> Result<Option<Value>> {
        let mut command = self.client("mosquitto_sub")?;
        command.args(["-u", user]);
        self.retained_by(command, topic)
    }

    fn retained_by(&self, mut command: Command, topic: &str) -> Result<Option<Value>> {
        command.args(["-t", topic, "-C", "1", "-W", "1", "-F", "%r %p"]);
        let (_, output) = run(&mut command, PATIENCE)?;
        let payload = output
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("1 "));
        Ok(payload.map(json))
    }

    /// Waits until the retained message of `topic` is as wanted.
    pub fn retained_is(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut last = None;
        let found = eventually("the wanted message", || {
            last = self.retained(topic)?;
            Ok(last.clone().filter(&wanted))
        });
        found.with_context(|| match &last {
            Some(other) => format!("{topic} stands at {other}"),
            None => format!("nothing is retained on {topic}"),
        })
    }

    pub fn publish(&self, version: &str, topic: &str, payload: &str) -> Result<()> {
        let mut command = self.client("mosquitto_pub")?;
        command.args([
            "-V",
            client_version(version),
            "-q",
            "1",
            "-t",
            topic,
            "-m",
            payload,
        ]);
        let (code, output) = run(&mut command, PATIENCE)?;
        ensure!(code == 0, "mosquitto_pub: {output}");
        Ok(())
    }

    /// Publishes with the retain flag, which a command must not have.
    pub fn publish_retained(&self, topic: &str, payload: &str) -> Result<()> {
        retain(self.client("mosquitto_pub")?, topic, payload)
    }

    /// Publishes with the retain flag as a user of this name.
    pub fn publish_as(&self, user: &str, topic: &str, payload: &str) -> Result<()> {
        let mut command = self.client("mosquitto_pub")?;
        command.args(["-u", user]);
        retain(command, topic, payload)
    }

    /// Publishes a request of MQTT 5 with a response topic and correlation data.
    pub fn request(
        &self,
        topic: &str,
        payload: &str,
        answer: &str,
        correlation: &str,
    ) -> Result<()> {
        let mut command = self.client("mosquitto_pub")?;
        command.args(["-V", "5", "-q", "1", "-t", topic, "-m", payload]);
        command.args(["-D", "publish", "response-topic", answer]);
        command.args(["-D", "publish", "correlation-data", correlation]);
        let (code, output) = run(&mut command, PATIENCE)?;
        ensure!(code == 0, "mosquitto_pub: {output}");
        Ok(())
    }

    /// Writes down everything published from now on.
    pub fn watch(&self, version: &str) -> Result<Watch> {
        let mut command = self.client("mosquitto_sub")?;
        command.args([
            "-V",
            client_version(version),
            "-q",
            "1",
            "-t",
            "#",
            "-F",
            r"%t\t%D\t%p",
        ]);
        // Something of our own tells when the subscription stands.
        command.args(["-i", "interop-watch"]);
        let process = Process::start(
            "mosquitto_sub",
            &mut command,
            &self.folder.join("watch.log"),
        )?;
        let watch = Watch::over(process);
        eventually("the subscription", || {
            self.publish(version, "interop/mark", "{}")?;
            Ok((watch.count("interop/mark", |_| true) > 0).then_some(()))
        })?;
        Ok(watch)
    }
}

fn retain(mut command: Command, topic: &str, payload: &str) -> Result<()> {
    command.args(["-V", "5", "-q", "1", "-r", "-t", topic, "-m", payload]);
    let (code, output) = run(&mut command, PATIENCE)?;
    ensure!(code == 0, "mosquitto_pub: {output}");
    Ok(())
}

fn client_version(version: &str) -> &str {
    if version == "3.1.1" { "311" } else { version }
}

fn is_root() -> Result<bool> {
    Ok(run(Command::new("id").arg("-u"), PATIENCE)?.1.trim() == "0")
}

fn json(payload: &str) -> Value {
    serde_json::from_str(payload).unwrap_or_else(|_| Value::String(payload.to_owned()))
}

/// A publish as the subscriber got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub topic: String,
    pub correlation: String,
    pub payload: Value,
}

/// Everything that a subscriber saw, oldest first.
pub struct Watch {
    seen: Arc<(Mutex<Vec<Seen>>, Condvar)>,
    _process: Arc<Mutex<Process>>,
}

impl Watch {
    fn over(process: Process) -> Watch {
        let seen = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let process = Arc::new(Mutex::new(process));
        let (inbox, source) = (Arc::downgrade(&seen), Arc::downgrade(&process));
        thread::spawn(move || {
            loop {
                let Some(process) = source.upgrade() else {
                    break;
                };
                let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
                let line = process.line(Duration::from_millis(20));
                drop(process);
                let Some(inbox) = inbox.upgrade() else { break };
                let Some(line) = line else {
                    thread::sleep(Duration::from_millis(2));
                    continue;
                };
                let mut parts = line.splitn(3, '\t');
                if let (Some(topic), Some(correlation), Some(payload)) =
                    (parts.next(), parts.next(), parts.next())
                {
                    let mut list = inbox.0.lock().unwrap_or_else(PoisonError::into_inner);
                    list.push(Seen {
                        topic: topic.to_owned(),
                        correlation: correlation.to_owned(),
                        payload: json(payload),
                    });
                    inbox.1.notify_all();
                }
            }
        });
        Watch {
            seen,
            _process: process,
        }
    }

    /// Waits for a publish on `topic` that is as wanted, past or to come.
    pub fn sees(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let until = Instant::now() + PATIENCE;
        let mut list = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(found) = list
                .iter()
                .find(|seen| seen.topic == topic && wanted(&seen.payload))
            {
                return Ok(found.payload.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let same: Vec<String> = list
                    .iter()
                    .filter(|seen| seen.topic == topic)
                    .map(|seen| seen.payload.to_string())
                    .collect();
                bail!("no such publish on {topic} within {PATIENCE:?}; there were {same:?}");
            }
            list = self
                .seen
                .1
                .wait_timeout(list, left)
                .map_or_else(|poisoned| poisoned.into_inner().0, |pair| pair.0);
        }
    }

    /// How many publishes on `topic` are as wanted so far.
    pub fn count(&self, topic: &str, wanted: impl Fn(&Value) -> bool) -> usize {
        let list = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter()
            .filter(|seen| seen.topic == topic && wanted(&seen.payload))
            .count()
    }

    /// The payloads of `topic` that came with this correlation data.
    pub fn correlated(&self, topic: &str, correlation: &str) -> Vec<Value> {
        let list = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = list
            .iter()
            .filter(|seen| seen.topic == topic && seen.correlation == correlation);
        mine.map(|seen| seen.payload.clone()).collect()
    }

    /// Every payload of `topic`, oldest first.
    pub fn values(&self, topic: &str) -> Vec<Value> {
        let list = self.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter()
            .filter(|seen| seen.topic == topic)
            .map(|seen| seen.payload.clone())
            .collect()
    }
}
