//! Devices that say one number after the other, each until it is acknowledged.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use crate::device::Device;

/// How often a device repeats what is not acknowledged, and how long it insists.
const REPEAT: Duration = Duration::from_millis(400);
const INSIST: Duration = Duration::from_secs(60);

/// The number that a device has before it notifies.
pub(super) const FIRST: u32 = 1;

/// What the devices have said.
#[derive(Default)]
pub(super) struct Said {
    /// When each number of each device was said first.
    pub(super) begun: BTreeMap<(u32, u32), Instant>,
    /// The newest number of each device that was acknowledged; all below it were.
    pub(super) acknowledged: BTreeMap<u32, u32>,
}

pub(super) struct Fleet {
    pub(super) said: Arc<Mutex<Said>>,
    stop: watch::Sender<bool>,
    devices: JoinSet<()>,
}

impl Fleet {
    /// So many devices are there, and begin to notify, each so often.
    pub(super) async fn start(server: SocketAddr, count: u32, every: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let said = Arc::<Mutex<Said>>::default();
        let mut all = Vec::new();
        for number in 0..count {
            all.push(Device::register(server, &format!("dev{number}"), FIRST).await);
        }
        let mut devices = JoinSet::new();
        for (number, device) in (0..).zip(all) {
            let (said, mut stopped) = (said.clone(), stopped.clone());
            // Not all at once.
            let first = Instant::now() + every * number / count;
            devices.spawn(async move {
                let mut turns = interval_at(first, every);
                turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for value in FIRST + 1.. {
                    tokio::select! {
                        _ = turns.tick() => {}
                        _ = stopped.wait_for(|stopped| *stopped) => break,
                    }
                    said.lock()
                        .unwrap()
                        .begun
                        .insert((number, value), Instant::now());
                    device.insist(value, REPEAT, INSIST).await;
                    said.lock().unwrap().acknowledged.insert(number, value);
                }
                assert_eq!(device.resets(), 0, "dev{number}");
            });
        }
        Self {
            said,
            stop,
            devices,
        }
    }

    /// How many numbers were acknowledged so far.
    pub(super) fn count(&self) -> u32 {
        let said = self.said.lock().unwrap();
        said.acknowledged.values().map(|value| value - FIRST).sum()
    }

    /// They say no more; what they said last is acknowledged.
    pub(super) async fn stop(self) -> Arc<Mutex<Said>> {
        self.stop.send(true).unwrap();
        self.devices.join_all().await;
        self.said
    }
}
