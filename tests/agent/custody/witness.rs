//! A consumer that remembers what came.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value as Json;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::broker::{Received, Subscriber};

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(600);

/// What came of the devices' numbers.
#[derive(Default)]
pub(super) struct Seen {
    /// For each number of each device on `t/`, the messages of the device that it came in.
    pub(super) samples: BTreeMap<(u32, u32), BTreeSet<String>>,
    /// Samples that came more than once.
    pub(super) copies: u32,
    /// The newest number of each device on `v/`, and when each number came there first.
    pub(super) newest: BTreeMap<u32, u32>,
    pub(super) came: BTreeMap<(u32, u32), Instant>,
    /// Whether the consumer lost its connection.
    pub(super) is_deaf: bool,
    /// What came on `v/` after something newer.
    pub(super) backwards: Vec<String>,
}

impl Seen {
    fn take(&mut self, got: &Received) {
        // What the broker had before anybody listened.
        if got.retain {
            return;
        }
        let levels: Vec<_> = got.topic.split('/').collect();
        let [
            "lwm2mqtt",
            "d",
            device,
            kind @ ("t" | "v"),
            _,
            "temperature",
        ] = levels[..]
        else {
            return;
        };
        let device = device.strip_prefix("dev").unwrap().parse().unwrap();
        let json: Json = serde_json::from_str(&got.payload).unwrap();
        let value = json["value"].as_f64().unwrap() as u32;
        if kind == "t" {
            let id = json["src_id"].as_str().unwrap_or("answer").to_owned();
            let ids = self.samples.entry((device, value)).or_default();
            self.copies += u32::from(!ids.is_empty());
            ids.insert(id);
            return;
        }
        self.came
            .entry((device, value))
            .or_insert_with(Instant::now);
        let newest = self.newest.entry(device).or_default();
        if value < *newest {
            let text = format!("{}: {} after {newest}", got.topic, got.payload);
            self.backwards.push(text);
        }
        *newest = value.max(*newest);
    }
}

/// One who listens until the broker goes.
pub(super) struct Witness {
    listening: JoinHandle<()>,
}

impl Witness {
    /// Subscribed; what comes is added to what was seen.
    pub(super) async fn listen(port: u16, seen: &Arc<Mutex<Seen>>) -> Self {
        let mut subscriber = Subscriber::connect(port, "lwm2mqtt/d/#").await;
        let seen = seen.clone();
        Self {
            listening: tokio::spawn(async move {
                while let Some(got) = subscriber.next_within(PATIENCE).await {
                    seen.lock().unwrap().take(&got);
                }
                seen.lock().unwrap().is_deaf = true;
            }),
        }
    }

    /// Goes.
    pub(super) fn leave(self) {
        self.listening.abort();
    }
}
