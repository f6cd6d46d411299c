//! Time, the network, and what the gateway wants done.

use std::time::Duration;

use lwm2mqtt::client;
use lwm2mqtt::gateway::publish::Qos;
use lwm2mqtt::gateway::{Input, Output, Retained};
use lwm2mqtt::kept::{self, Urgency};
use lwm2mqtt::route::Route;
use lwm2mqtt::time::Instant;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::broker::assert_acceptable;
use super::device::gateway_peer;
use super::{DELAY, FLUSH, Rig};

/// A network that is not kind. Each number is the share of datagrams, 0 to 1.
pub struct Weather {
    pub rng: StdRng,
    /// Never arrive.
    pub loss: f64,
    /// Arrive twice.
    pub doubled: f64,
    /// Arrive up to two seconds late, behind others.
    pub late: f64,
}

#[derive(Clone)]
pub(super) enum Datagram {
    ToGateway(Route, Vec<u8>),
    ToDevice(Route, Vec<u8>),
}

impl Rig {
    /// Gives an input to the gateway and does what it wants done.
    pub fn input(&mut self, input: Input<'_>) {
        if self.away {
            return;
        }
        self.gateway.handle(self.now, input);
        self.drain();
    }

    /// Lets time pass.
    pub fn run(&mut self, duration: Duration) {
        let end = self.now.instant + duration;
        // A test may have done something to any of them.
        (0..self.devices.len()).for_each(|device| self.flush(device));
        while let Some(at) = self.next().filter(|at| *at <= end) {
            self.advance(at);
            if self.timeout.is_some_and(|timeout| timeout <= at) {
                self.input(Input::Timeout);
            }
            while self.wire.front().is_some_and(|(due, _)| *due <= at) {
                let Some((_, datagram)) = self.wire.pop_front() else {
                    break;
                };
                if !self.arrives(&datagram) {
                    continue;
                }
                match datagram {
                    Datagram::ToGateway(route, bytes) => self.input(Input::Datagram {
                        route,
                        bytes: &bytes,
                    }),
                    Datagram::ToDevice(route, bytes) => self.deliver(route, &bytes),
                }
            }
            for device in 0..self.devices.len() {
                if self.devices[device].wakes.is_some_and(|wakes| wakes <= at) {
                    self.devices[device].timeout(self.now);
                    self.flush(device);
                }
            }
        }
        self.advance(end);
    }

    /// Whether a datagram arrives now.
    fn arrives(&mut self, datagram: &Datagram) -> bool {
        let Some(weather) = &mut self.weather else {
            return true;
        };
        let rng = &mut weather.rng;
        if rng.random_bool(weather.loss) {
            return false;
        }
        let late = rng.random_bool(weather.late);
        if late || rng.random_bool(weather.doubled) {
            let at = self.now.instant + Duration::from_millis(rng.random_range(1..2_000));
            let place = self.wire.partition_point(|(due, _)| *due <= at);
            self.wire.insert(place, (at, datagram.clone()));
        }
        !late
    }

    fn next(&self) -> Option<Instant> {
        let devices = self.devices.iter().filter_map(|device| device.wakes);
        let wire = self.wire.front().map(|(at, _)| *at);
        devices
            .chain(self.timeout)
            .chain(wire)
            .min()
            .map(|at| at.max(self.now.instant))
    }

    fn advance(&mut self, to: Instant) {
        self.now = self.now + to.since(self.now.instant);
    }

    fn drain(&mut self) {
        self.drain_once();
        while let Some(ticket) = self.acknowledged.pop_front() {
            if self.away {
                self.acknowledged.clear();
                return;
            }
            self.gateway.handle(self.now, Input::Delivered(ticket));
            self.drain_once();
        }
    }

    /// Does what the gateway wants done, but for telling it what the broker has acknowledged.
    fn drain_once(&mut self) {
        let arrival = self.now.instant + DELAY;
        if self.flush_due.is_some_and(|due| due <= self.now.instant) {
            self.flush_due = None;
            self.pending.take().for_each(|change| self.kept.add(change));
        }
        let mut failed = false;
        loop {
            let output = self.gateway.poll();
            if !matches!(output, Output::Timeout(_)) && dies(&mut self.doomed) {
                self.crash();
                return;
            }
            match output {
                Output::Datagram { route, bytes } => {
                    self.sent += 1;
                    let place = self.wire.partition_point(|(due, _)| *due <= arrival);
                    self.wire
                        .insert(place, (arrival, Datagram::ToDevice(route, bytes)));
                }
                Output::Admin { id, reply, .. } => {
                    let line = serde_json::from_str(&reply).unwrap();
                    self.replies.entry(id).or_default().push(line);
                }
                Output::Store(change) => {
                    if self.disk_full && change.urgency() == Urgency::Now {
                        let why = "the disk is full".to_owned();
                        self.gateway
                            .handle(self.now, Input::Unstored { change, why });
                        failed = true;
                        continue;
                    }
                    if let kept::Change::Credential(change) = &change {
                        self.stored.push(change.clone());
                    }
                    if change.urgency() == Urgency::Now {
                        self.pending.supersede(&change);
                        self.kept.add(change);
                    } else {
                        self.pending.add(change);
                        self.flush_due.get_or_insert(self.now.instant + FLUSH);
                    }
                }
                Output::Commit(_) if failed => {}
                Output::Commit(batch) => {
                    self.gateway.handle(self.now, Input::Committed(batch));
                }
                Output::Event(event) => self.events.push(event),
                Output::LoadImage(digest) => {
                    let content = self.images.get(&digest).cloned();
                    let content = content.ok_or_else(|| "it is not there".to_owned());
                    self.gateway
                        .handle(self.now, Input::Image { digest, content });
                }
                Output::Serve { token, digest, .. } => {
                    self.served.insert(token.to_string(), digest);
                }
                Output::ReadMappings => self.readings += 1,
                Output::ReadRetained { filter, whose } => {
                    let prefix = filter.strip_suffix('#').unwrap();
                    let topics = self.broker.retained.keys();
                    let topics = topics.filter(|topic| topic.starts_with(prefix));
                    self.audited = Some(Retained {
                        topics: topics.cloned().collect(),
                        whose: self.broker.retained.get(&*whose).cloned(),
                        complete: true,
                    });
                }
                Output::Unserve(token) => {
                    self.served.remove(&*token);
                }
                Output::Work(mut work) => {
                    work.run();
                    self.works += 1;
                    self.gateway.handle(self.now, Input::Worked(work));
                }
                Output::Timeout(at) => {
                    self.timeout = at;
                    break;
                }
            }
        }
        // It may be killed when the broker has some of them, and before it hears that.
        while let Some(outgoing) = self.gateway.next_publish() {
            if dies(&mut self.doomed) {
                self.crash();
                return;
            }
            assert!(self.broker.connected, "published without a broker");
            assert_acceptable(outgoing.publish);
            let topic = outgoing.publish.topic.to_string();
            let payload = outgoing.publish.payload.clone();
            self.broker.log.push((topic.clone(), payload.clone()));
            if outgoing.retain {
                if payload.is_empty() {
                    self.broker.retained.remove(&topic);
                } else {
                    self.broker.retained.insert(topic, payload);
                }
            }
            if outgoing.qos == Qos::AtLeastOnce && !self.broker.silent {
                self.acknowledged.push_back(outgoing.ticket);
            }
        }
    }

    fn deliver(&mut self, route: Route, bytes: &[u8]) {
        let now = self.now.instant;
        let mut devices = self.devices.iter();
        let Some(index) = devices.position(|device| device.route == route && !device.dead) else {
            return;
        };
        if let Some(tap) = &mut self.tap {
            tap.arrives(index, bytes);
        }
        let device = &mut self.devices[index];
        match (&mut device.road, &mut device.client) {
            (Some(road), _) => road.receive(self.now, bytes),
            (None, Some(client)) => client.handle(
                self.now,
                client::Input::Datagram {
                    peer: gateway_peer(),
                    bytes,
                },
            ),
            (None, None) => {
                device.endpoint.receive(now, gateway_peer(), bytes);
            }
        }
        self.flush(index);
    }

    /// Lets a device answer what it got, and puts what it sends on the wire.
    pub(super) fn flush(&mut self, index: usize) {
        let arrival = self.now.instant + DELAY;
        let device = &mut self.devices[index];
        if device.dead {
            device.wakes = None;
            return;
        }
        let messages = device.messages(self.now);
        let datagrams = match &mut device.road {
            None => messages,
            Some(road) => {
                for message in messages {
                    road.send(self.now, message);
                }
                std::iter::from_fn(|| road.datagram()).collect()
            }
        };
        device.wakes = device.next_timeout();
        for bytes in datagrams {
            if let Some(tap) = &mut self.tap {
                tap.leaves(index, &bytes);
            }
            let datagram = Datagram::ToGateway(device.route, bytes);
            let place = self.wire.partition_point(|(due, _)| *due <= arrival);
            self.wire.insert(place, (arrival, datagram));
        }
    }
}

/// Whether the agent is killed instead of doing what it wants to do now.
fn dies(doomed: &mut Option<u32>) -> bool {
    let Some(left) = doomed else {
        return false;
    };
    let is_over = *left == 0;
    *left = left.saturating_sub(1);
    is_over
}
