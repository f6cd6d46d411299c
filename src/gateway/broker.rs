//! The gateway's own messages, and what a broker that comes and goes needs (MQTT contract §3, §6).

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::gateway::outbox::{Session, Ticket};
use crate::gateway::publish::{Class, Publish, Qos};
use crate::gateway::{AdminAccess, Event, Gateway};
use crate::kept::{self, Urgency};
use crate::mapping::Destination;
use crate::server::DeviceId;
use crate::time::{Instant, Now};

/// How often `bridge/health` is published.
pub(super) const HEALTH_INTERVAL: Duration = Duration::from_secs(60);

/// How long the sentinel may stand while anything retained changes: a broker that goes back to a
/// younger state than that is not noticed. The contract allows a minute; a message each ten seconds
/// costs nothing.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(10);

/// How long after the subscription was granted the retained sentinel may take to arrive. Brokers send
/// it at once; one that takes longer is sent everything again. An empty broker is waited for in vain,
/// and so are live values.
const SENTINEL_WAIT: Duration = Duration::from_millis(300);

/// Messages published again at a time when the broker lost them, and how often: 500 a second, so
/// that live values get through.
const REFILL_BATCH: usize = 50;
const REFILL_INTERVAL: Duration = Duration::from_millis(100);

/// What the gateway knows of the broker.
#[derive(Debug)]
pub(super) struct Broker {
    boot: String,
    /// Whose retained messages stand at the broker: the boot of the first process with this store.
    ledger: String,
    link: Link,
    /// Whether this run of the gateway has said what it is.
    announced: bool,
    /// The other gateway on our topics that was said last.
    other: String,
    /// Why the last connection or attempt ended, as it was said last.
    away_because: String,
    /// Whether anything was ever delivered, so that it could have been lost.
    met: bool,
    /// The sentinel that was published last, the ticket it went with, and the one that the broker
    /// is known to have.
    sentinel: u64,
    sentinel_ticket: Option<Ticket>,
    sentinel_kept: u64,
    /// Whether anything that the broker keeps has changed since the sentinel was raised.
    changed: bool,
    /// When it is raised because of that.
    raise_at: Option<Instant>,
    refill: Option<Refill>,
    /// Whether a process before ended while the broker may not have had all that it said of its
    /// devices; until that is said again.
    unsettled: bool,
    /// Whether this process has stopped, and the broker has everything.
    settled: bool,
}

/// The state of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is none.
    Away,
    /// It stands, and nothing is published before it is known what the broker kept.
    Asking { until: Option<Instant> },
    /// Messages flow.
    Live,
}

/// How far the retained messages have been published again, and when it goes on.
#[derive(Clone, Copy, Debug)]
struct Refill {
    pass: Pass,
    device: usize,
    signal: usize,
    due: Instant,
    /// The last one.
    until: Pass,
}

/// Who is there comes before what they measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    Availability,
    Birth,
    Values,
}

/// The filters of what the gateway hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscriptions {
    /// Of requests: what is retained is not wanted.
    pub requests: Vec<String>,
    /// Of what the broker has retained.
    pub retained: Vec<String>,
}

/// The content of `bridge/sentinel`.
#[derive(Serialize, Deserialize)]
struct Sentinel {
    boot: String,
    n: u64,
}

impl Broker {
    /// No connection yet. `boot` tells this run of the gateway from others.
    pub(super) fn new(boot: String) -> Self {
        Self {
            ledger: boot.clone(),
            boot,
            link: Link::Away,
            announced: false,
            other: String::new(),
            away_because: String::new(),
            met: false,
            sentinel: 0,
            sentinel_ticket: None,
            sentinel_kept: 0,
            changed: false,
            raise_at: None,
            refill: None,
            unsettled: false,
            settled: false,
        }
    }

    /// Goes on where an earlier process ended: it has met the broker, whose retained messages are
    /// ours.
    pub(super) fn restore(&mut self, kept: kept::Gateway) {
        self.ledger = kept.ledger;
        self.sentinel = kept.sentinel;
        self.sentinel_kept = kept.sentinel;
        self.unsettled = !kept.settled;
        self.met = true;
    }

    /// What the next process has to know.
    pub(super) fn kept(&self) -> kept::Gateway {
        kept::Gateway {
            ledger: self.ledger.clone(),
            sentinel: self.sentinel_kept,
            settled: self.settled,
        }
    }

    /// A few characters of the boot id.
    pub(super) fn boot_tag(&self) -> &str {
        self.boot.get(..6).unwrap_or(&self.boot)
    }

    /// The `n` of the sentinel that was raised last.
    pub(super) fn sentinel(&self) -> u64 {
        self.sentinel
    }

    /// A retained message was accepted.
    pub(super) fn note_change(&mut self) {
        self.changed = true;
    }

    /// Sees to it that a change is followed by a sentinel.
    pub(super) fn follow_change(&mut self, now: Now) {
        if self.changed && self.raise_at.is_none() {
            self.raise_at = Some(now.instant + SENTINEL_INTERVAL);
        }
    }

    /// Whether messages may go out now.
    pub(super) fn may_publish(&self) -> bool {
        self.link == Link::Live
    }
}

impl Gateway {
    /// What to subscribe to.
    pub fn subscriptions(&self) -> Subscriptions {
        let mut requests = self.topics.request_filters();
        if self.settings.admin != AdminAccess::Off {
            requests.push(self.topics.admin_filter());
        }
        let retained = ["sentinel", "info"].map(|name| self.topics.bridge(name).to_string());
        Subscriptions {
            requests,
            retained: retained.to_vec(),
        }
    }

    /// What the broker publishes when it loses the gateway (MQTT 5 §3.1.2.5).
    pub fn will(&self) -> Publish {
        self.bridge_state("offline")
    }

    fn bridge_state(&self, state: &str) -> Publish {
        Publish::state(
            self.topics.bridge("state"),
            json!({ "state": state }).to_string().into_bytes(),
        )
    }

    pub(super) fn bridge_info(&self) -> Publish {
        let info = json!({
            "gateway": self.settings.id,
            "version": env!("CARGO_PKG_VERSION"),
            "boot": self.broker.boot,
            "mapping_hash": self.plan.hash(),
            "listeners": self.settings.server.listeners.iter().map(|listener| &listener.uri).collect::<Vec<_>>(),
        });
        Publish::state(self.topics.bridge("info"), info.to_string().into_bytes())
    }

    pub(super) fn on_connected(&mut self, now: Now, session: Session) {
        self.outbox.connected(session);
        if !std::mem::replace(&mut self.broker.announced, true) {
            self.publish(self.bridge_info());
        }
        // The will has been published, or is about to be: whatever waits, this comes first.
        if !self.stopping {
            self.publish_first(self.bridge_state("online"));
        }
        if self.broker.met {
            self.broker.link = Link::Asking { until: None };
        } else {
            self.broker.met = true;
            self.go_live(now, true);
        }
    }

    pub(super) fn on_subscribed(&mut self, now: Now) {
        if self.broker.link == (Link::Asking { until: None }) {
            self.broker.link = Link::Asking {
                until: Some(now.instant + SENTINEL_WAIT),
            };
        }
    }

    /// The broker's copy of the sentinel. Only what arrives while we wait for it counts; later
    /// ones are our own.
    pub(super) fn on_sentinel(&mut self, now: Now, payload: &[u8]) {
        if !matches!(self.broker.link, Link::Asking { .. }) {
            return;
        }
        let sentinel = serde_json::from_slice::<Sentinel>(payload).ok();
        let ours = sentinel.filter(|sentinel| sentinel.boot == self.broker.ledger);
        let kept = ours
            .as_ref()
            .is_some_and(|sentinel| sentinel.n >= self.broker.sentinel_kept);
        if let Some(Sentinel { n, .. }) = ours {
            // The process before us may have raised it after it was written down.
            self.broker.sentinel = self.broker.sentinel.max(n);
        }
        self.go_live(now, kept);
    }

    /// What a gateway says of itself on our topics: another one may be at work there (MQTT contract §3).
    pub(super) fn on_info(&mut self, now: Now, payload: &[u8]) {
        #[derive(Deserialize)]
        struct Info {
            gateway: String,
        }
        let Ok(Info { gateway }) = serde_json::from_slice(payload) else {
            return;
        };
        if gateway != self.settings.id && self.broker.other != gateway {
            self.broker.other.clone_from(&gateway);
            self.report(
                now,
                Event::OtherGateway {
                    gateway,
                    base_topic: self.settings.base_topic.clone(),
                },
            );
        }
    }

    /// Lets messages flow, and publishes the retained ones again if the broker has lost them. After
    /// an end without order it may lack what was said of devices last; values see to themselves
    /// ([`crate::gateway::custody`]).
    fn go_live(&mut self, now: Now, kept: bool) {
        self.broker.link = Link::Live;
        self.write_all_again();
        self.say(Event::BrokerConnected { kept });
        if !kept {
            self.publish(self.bridge_info());
        }
        let until = match kept {
            true if !self.broker.unsettled => return self.raise_sentinel(),
            true => Pass::Birth,
            false => Pass::Values,
        };
        // The sentinel follows, so that an end in between is no end of it. One that waits, or was not
        // acknowledged by the broker before, would be ahead.
        self.broker.sentinel_ticket = None;
        if !kept {
            let none = Publish::deletion(self.topics.bridge("sentinel"));
            let _ = self.outbox.push(none);
            self.clear_again();
        }
        self.broker.refill = Some(Refill {
            pass: Pass::Availability,
            device: 0,
            signal: 0,
            due: now.instant,
            until,
        });
    }

    pub(super) fn on_disconnected(&mut self, reason: String) {
        self.outbox.disconnected();
        // Why an attempt failed is said once, not at each retry.
        if self.broker.link != Link::Away || self.broker.away_because != reason {
            self.say(Event::BrokerDisconnected {
                detail: reason.clone(),
            });
        }
        self.broker.away_because = reason;
        self.broker.link = Link::Away;
        self.broker.refill = None;
    }

    pub(super) fn on_delivered(&mut self, ticket: Ticket) {
        if let Some(publish) = self.outbox.delivered(ticket) {
            self.value_left(&publish);
            self.cleared_left(&publish);
        }
        if self.broker.sentinel_ticket == Some(ticket) {
            self.broker.sentinel_ticket = None;
            self.broker.sentinel_kept = self.broker.sentinel;
            // At once, so that after a kill a broker that went back is not taken for one that did not.
            self.keep_gateway(Urgency::Now);
        }
    }

    pub(super) fn on_refused(&mut self, ticket: Ticket, code: u8) {
        if let Some(publish) = self.outbox.refused(ticket, code) {
            self.value_left(&publish);
            self.cleared_left(&publish);
        }
    }

    /// Says which messages the outbox will never deliver.
    pub(super) fn report_refusals(&mut self) {
        while let Some(refusal) = self.outbox.refusal() {
            self.say(Event::PublishRefused {
                topic: refusal.topic.to_string(),
                detail: refusal.reason.to_string(),
            });
        }
    }

    pub(super) fn on_stop(&mut self, now: Now) {
        self.stopping = true;
        self.keep_all();
        self.keep_updates(now);
        self.publish(self.bridge_state("offline"));
        self.spool_all(now);
    }

    fn raise_sentinel(&mut self) {
        self.broker.sentinel += 1;
        self.broker.changed = false;
        let sentinel = Sentinel {
            boot: self.broker.ledger.clone(),
            n: self.broker.sentinel,
        };
        let payload = serde_json::to_vec(&sentinel).unwrap_or_default();
        self.broker.sentinel_ticket = self
            .outbox
            .push(Publish::state(self.topics.bridge("sentinel"), payload))
            .ok();
    }

    /// What is due by the clock.
    pub(super) fn tend_broker(&mut self, now: Now) {
        if let Link::Asking { until: Some(until) } = self.broker.link
            && until <= now.instant
        {
            self.go_live(now, false);
        }
        if self
            .broker
            .refill
            .is_some_and(|refill| refill.due <= now.instant)
        {
            self.refill(now);
        }
        if self.health_due <= now.instant {
            self.health_due = now.instant + HEALTH_INTERVAL;
            self.publish_health();
        }
        if self.broker.raise_at.is_some_and(|at| at <= now.instant) {
            self.broker.raise_at = None;
            // Else it follows the refill, or the next connection.
            if self.broker.may_publish() && self.broker.refill.is_none() && self.broker.changed {
                self.raise_sentinel();
            }
        }
    }

    pub(super) fn broker_timeout(&self) -> Option<Instant> {
        let asking = match self.broker.link {
            Link::Asking { until } => until,
            _ => None,
        };
        [
            asking,
            self.broker.refill.map(|refill| refill.due),
            self.broker.raise_at,
            Some(self.health_due),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Publishes the next retained messages again. What waits in the outbox anyway is newer.
    fn refill(&mut self, now: Now) {
        let Some(mut refill) = self.broker.refill.take() else {
            return;
        };
        let mut batch = Vec::with_capacity(REFILL_BATCH);
        while batch.len() < REFILL_BATCH {
            let Some(device) = self.devices.get(refill.device) else {
                if refill.pass == refill.until {
                    break;
                }
                refill = match refill.pass {
                    Pass::Availability => Refill {
                        pass: Pass::Birth,
                        device: 0,
                        ..refill
                    },
                    Pass::Birth => Refill {
                        pass: Pass::Values,
                        device: 0,
                        ..refill
                    },
                    Pass::Values => break,
                };
                continue;
            };
            let id = DeviceId(refill.device as u32);
            match refill.pass {
                Pass::Availability => {
                    batch.extend(self.availability_of(now, id));
                    batch.extend(self.pending_of(id));
                }
                Pass::Birth => {
                    batch.extend(self.birth_of(id));
                    batch.extend(self.update_message(id));
                }
                Pass::Values => {
                    if let Some(tracked) = device.signals.get(refill.signal) {
                        refill.signal += 1;
                        if matches!(&tracked.destination, Destination::Signal(signal) if signal.retain)
                        {
                            let origin = Some((id, tracked.path));
                            let again = tracked.publish_again();
                            batch.extend(again.map(|publish| Publish { origin, ..publish }));
                        }
                        continue;
                    }
                    refill.signal = 0;
                }
            }
            refill.device += 1;
        }
        let finished = batch.len() < REFILL_BATCH;
        for publish in batch {
            if !self.outbox.is_waiting(&publish.topic) {
                self.publish(publish);
            }
        }
        // In the place of one that waits it would overtake what was published again.
        if finished && !self.outbox.is_waiting(&self.topics.bridge("sentinel")) {
            self.broker.unsettled = false;
            return self.raise_sentinel();
        }
        self.broker.refill = Some(Refill {
            due: now.instant + REFILL_INTERVAL,
            ..refill
        });
    }

    /// Writes down, once, that the broker had everything when the process stopped.
    pub(super) fn rest(&mut self) {
        let is_complete = self.broker.refill.is_none() && !self.broker.unsettled;
        if is_complete && !self.broker.settled && self.is_drained() {
            self.broker.settled = true;
            self.keep_gateway(Urgency::Now);
        }
    }

    fn publish_health(&mut self) {
        let depth = self.outbox.depth();
        let health = json!({
            "devices": self.by_state(),
            "commands": self.commands.len(),
            "outbox": { "values": depth.states, "events": depth.events, "samples": depth.samples, "in_flight": depth.in_flight },
            "spool": self.spool_health(),
            "counters": self.counters,
        });
        let topic = self.topics.bridge("health");
        self.publish(Publish {
            qos: Qos::AtMostOnce,
            class: Class::Sample,
            ..Publish::event(topic, health.to_string().into_bytes())
        });
    }

    /// Says an event in the log, and on `bridge/event`. Complaints about peers are said so often
    /// only, and counted beyond.
    pub(super) fn report(&mut self, now: Now, event: Event) {
        self.report_about(now, None, event);
    }

    /// The same about a peer at this address, which has a ration of its own.
    pub(super) fn report_about(&mut self, now: Now, source: Option<IpAddr>, event: Event) {
        #[derive(Serialize)]
        struct Payload<'a> {
            #[serde(flatten)]
            event: &'a Event,
            time: String,
        }
        if event.is_complaint() && !self.complaints.take(now.instant, source) {
            self.counters.events_suppressed += 1;
            return;
        }
        let payload = Payload {
            event: &event,
            time: now.unix.to_string(),
        };
        if event.is_public()
            && let Ok(payload) = serde_json::to_vec(&payload)
        {
            let topic: Arc<str> = self.topics.bridge("event");
            self.publish(Publish::event(topic, payload));
        }
        self.say(event);
    }
}
