//! Supervision: observations that fall silent are healed, and values that get no successor are
//! marked as stale (MQTT contract §4, §6).
//!
//! Each device has one deadline at most. A notification does not move it: when it comes, what is
//! really due is looked at, and the next one is set.

use std::time::Duration;

use crate::gateway::Gateway;
use crate::gateway::device::{Device, State, Tracked};
use crate::gateway::json::Quality;
use crate::gateway::publish::Publish;
use crate::gateway::uplink::Arrival;
use crate::gateway::watch::{Watch, Watching};
use crate::lwm2m::codec::Problem;
use crate::lwm2m::{Path, Record, Target};
use crate::mapping::{Destination, Format, OnOffline, Signal, StaleAfter};
use crate::server::DeviceId;
use crate::time::{Instant, Now};

impl Gateway {
    /// Looks after every device whose deadline has come.
    pub(super) fn supervise(&mut self, now: Now) {
        while let Some((due, id)) = self
            .supervised
            .first()
            .copied()
            .filter(|(due, _)| *due <= now.instant)
        {
            self.supervised.remove(&(due, id));
            if let Some(device) = self.device_mut(id) {
                device.supervised = None;
            }
            self.tend_device(now, id);
            self.continue_setup(now, id);
        }
    }

    /// Sees to it that a device is looked after at `due`, if not before.
    pub(super) fn supervise_by(&mut self, id: DeviceId, due: Instant) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        if device.supervised.is_some_and(|before| before <= due) {
            return;
        }
        if let Some(before) = device.supervised.replace(due) {
            self.supervised.remove(&(before, id));
        }
        self.supervised.insert((due, id));
    }

    /// Ends the supervision of a device whose registration is over.
    pub(super) fn dismiss(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        device.setup.clear();
        device.setup_running = None;
        device.watches.clear();
        if let Some(due) = device.supervised.take() {
            self.supervised.remove(&(due, id));
        }
    }

    /// Puts what is due at a device into its setup, marks what is stale, and sets the next
    /// deadline. A device that does not listen is asked when it is heard of next.
    pub(super) fn tend_device(&mut self, now: Now, id: DeviceId) {
        if self.server.registration(id).is_none() {
            return;
        }
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let listens = device.availability.state == State::Online;
        let mut next: Option<Instant> = None;
        let mut by = |due: Instant| next = Some(next.map_or(due, |next| next.min(due)));
        let mut given_up = Vec::new();
        for watch in &mut device.watches {
            let Some(due) = watch.due() else {
                continue;
            };
            if due > now.instant {
                by(due);
            } else if listens {
                let was = watch.state;
                device.setup.extend(watch.next_steps());
                self.counters.observations_lost += u64::from(was == Watching::Observed);
                if watch.state != was {
                    given_up.push(watch.target.clone());
                }
            }
        }
        // What is being asked for may be fresh in a moment.
        let asking = listens && !(device.setup.is_empty() && device.setup_running.is_none());
        let Device {
            signals, watches, ..
        } = device;
        let mut stale = Vec::new();
        for tracked in signals {
            let Some(signal) = tracked.retained() else {
                continue;
            };
            let freshness = Freshness::of(signal, watches);
            tracked.fresh_for = freshness.seconds;
            let Some(due) = tracked.stale_at(freshness.since) else {
                continue;
            };
            if due > now.instant {
                by(due);
            } else if !asking {
                stale.extend(tracked.go_stale(id));
            }
        }
        self.counters.stale += stale.len() as u64;
        for publish in stale {
            self.publish(publish);
        }
        if let Some(next) = next {
            self.supervise_by(id, next);
        }
        for target in given_up {
            let detail = "no notification came within one and a half times pmax, again and again; \
                          it is read instead";
            self.report_problem(now, id, "observe", &target, detail.to_owned());
        }
    }

    /// A notification came.
    pub(super) fn on_observation_heard(&mut self, now: Now, id: DeviceId, target: &Target) {
        let Some(device) = self.device_mut(id) else {
            return;
        };
        let Some(watch) = device.watch_mut(target) else {
            return;
        };
        let healed = watch.state != Watching::Observed;
        watch.notified(now.instant);
        if healed {
            self.problem_over(now, id, "observe", target);
        }
    }

    /// A device leaves, or is given up: what the mapping wants of its values then.
    pub(super) fn leave_values(&mut self, id: DeviceId) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let mut publishes = Vec::new();
        for tracked in &mut device.signals {
            let Some(signal) = tracked.retained() else {
                continue;
            };
            match signal.on_offline {
                OnOffline::Keep => {}
                OnOffline::Stale => publishes.extend(tracked.go_stale(id)),
                OnOffline::Clear => {
                    let deletion = Publish::deletion(signal.topic.clone());
                    if tracked.last.take().is_some() {
                        publishes.push(deletion);
                    }
                }
            }
        }
        for publish in publishes {
            self.publish(publish);
        }
    }

    /// Takes the values of a payload that says all there is at and below `nodes`, and takes back
    /// what stands of resources that are not in it: the device has them no longer.
    ///
    /// Nothing is taken back for a payload that came late, that has parts which could not be read,
    /// or that holds samples of different times: what is not in it may be there all the same. Nor
    /// for an empty one, which some devices send for want of anything better.
    pub(super) fn take_all_values(
        &mut self,
        arrival: Arrival,
        nodes: &Target,
        records: Vec<Record>,
        problems: Vec<Problem>,
    ) {
        let is_whole = !arrival.overtaken
            && problems.is_empty()
            && !records.is_empty()
            && records
                .iter()
                .is_sorted_by(|one, other| one.time == other.time);
        let mut said: Vec<Path> = records.iter().map(|record| record.path).collect();
        self.take_values(arrival, records, problems);
        if !is_whole {
            return;
        }
        said.sort_unstable();
        let is_gone = |path: &Path| nodes.contains(path) && said.binary_search(path).is_err();
        let device = self.devices.get_mut(arrival.device.0 as usize);
        let gone: Vec<_> = device
            .into_iter()
            .flat_map(|device| device.signals.extract_if(.., |it| is_gone(&it.path)))
            .collect();
        if !gone.is_empty() {
            self.clear_signals(arrival.device, gone);
            self.birth_later(arrival.now, arrival.device);
        }
    }

    /// Marks the values at and below nodes as stale: the device says that they are gone.
    pub(super) fn mark_stale(&mut self, id: DeviceId, nodes: &Target) {
        let Some(device) = self.devices.get_mut(id.0 as usize) else {
            return;
        };
        let stale: Vec<_> = device
            .signals
            .iter_mut()
            .filter(|tracked| nodes.contains(&tracked.path))
            .filter_map(|tracked| tracked.go_stale(id))
            .collect();
        self.counters.stale += stale.len() as u64;
        for publish in stale {
            self.publish(publish);
        }
    }
}

/// How long the value of a signal is good.
struct Freshness {
    /// Without another one; 0 is for good.
    seconds: u32,
    /// Not counted from before this: what an observation does not repeat has not changed.
    since: Instant,
}

impl Freshness {
    fn of(signal: &Signal, watches: &[Watch]) -> Self {
        let (seconds, since) = match signal.stale_after {
            StaleAfter::Never => (0, Instant::ZERO),
            StaleAfter::Time(seconds) => (seconds, Instant::ZERO),
            StaleAfter::Periods(periods) => {
                let covering = watches
                    .iter()
                    .filter(|watch| watch.target.contains(&signal.path))
                    .filter_map(|watch| Some((watch.pmax()?, watch.heard)));
                let merged =
                    covering.reduce(|(pmax, heard), (other, at)| (pmax.min(other), heard.max(at)));
                let (pmax, since) = merged.unwrap_or_default();
                (pmax.mul_f32(periods).as_secs_f32().ceil() as u32, since)
            }
        };
        Self { seconds, since }
    }
}

impl Tracked {
    /// The signal, if its value stands retained.
    fn retained(&self) -> Option<&Signal> {
        match &self.destination {
            Destination::Signal(signal) => Some(signal).filter(|signal| signal.retain),
            _ => None,
        }
    }

    /// When the value that stands becomes stale.
    fn stale_at(&self, since: Instant) -> Option<Instant> {
        let fresh = self.fresh_for > 0 && !self.stale && self.last.is_some();
        fresh.then(|| self.heard.max(since) + Duration::from_secs(self.fresh_for.into()))
    }

    /// Marks the value that stands as stale, once; its time stays what it is. A bare value says
    /// nothing of its quality, so it is not published again.
    fn go_stale(&mut self, id: DeviceId) -> Option<Publish> {
        let signal = self.retained()?;
        let sample = self.last.as_ref().filter(|_| !self.stale)?;
        let publish = (signal.format == Format::Json).then(|| Publish {
            origin: Some((id, self.path)),
            ..self.publish_of(signal, sample, Quality::Stale)
        });
        self.stale = true;
        publish
    }
}
