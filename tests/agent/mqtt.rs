//! Outbox and link together, against brokers that die, lie, refuse and fall silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lwm2mqtt::agent::mqtt::{
    Address, Event, Link, Settings, Subscription, Version, VersionChoice, connect,
};
use lwm2mqtt::gateway::outbox::{Limits, Outbox};
use lwm2mqtt::gateway::publish::{Message, Properties, Publish, Qos};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::{Instant, sleep, timeout};

use crate::broker::{Broker, Subscriber, free_port};
use crate::scripted::{Act, Scripted};

fn settings(port: u16) -> Settings {
    let address: Address = format!("mqtt://127.0.0.1:{port}").parse().unwrap();
    Settings::new(address, "gateway")
}

/// The two as the agent runs them.
pub(crate) struct Uplink {
    pub(crate) outbox: Outbox,
    link: Link,
    pub(crate) connections: usize,
}

impl Uplink {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            outbox: Outbox::new(Limits::default(), &mut StdRng::seed_from_u64(1)),
            link: connect(settings),
            connections: 0,
        }
    }

    /// One event, and what it permits to be sent.
    async fn turn(&mut self) -> Event {
        self.send();
        let event = self.link.event().await;
        match &event {
            Event::Connected { session, .. } => {
                self.connections += 1;
                self.outbox.connected(*session);
            }
            Event::Disconnected { .. } => self.outbox.disconnected(),
            Event::Delivered(ticket) => {
                self.outbox.delivered(*ticket).expect("a known ticket");
            }
            Event::Refused { ticket, code } => {
                self.outbox.refused(*ticket, *code).expect("a known ticket");
            }
            _ => {}
        }
        event
    }

    fn send(&mut self) {
        while self.link.has_room() {
            let Some(outgoing) = self.outbox.poll() else {
                return;
            };
            self.link.publish(&outgoing);
        }
    }

    /// Turns for a while.
    async fn run(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        while tokio::time::timeout_at(end, self.turn()).await.is_ok() {}
    }

    /// Turns until the outbox is empty.
    pub(crate) async fn drain(&mut self) {
        let end = Instant::now() + Duration::from_secs(30);
        while !self.outbox.depth().is_empty() {
            let turn = tokio::time::timeout_at(end, self.turn()).await;
            turn.unwrap_or_else(|_| panic!("not drained: {:?}", self.outbox.depth()));
        }
    }

    /// Turns until `wanted` says so.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(Event) -> Option<T>) -> T {
        timeout(Duration::from_secs(20), async {
            loop {
                if let Some(found) = wanted(self.turn().await) {
                    return found;
                }
            }
        })
        .await
        .expect("the event within 20 s")
    }
}

pub(crate) fn connected(event: Event) -> Option<Version> {
    match event {
        Event::Connected { version, .. } => Some(version),
        _ => None,
    }
}

pub(crate) fn disconnected(event: Event) -> Option<String> {
    match event {
        Event::Disconnected { reason, .. } => Some(reason),
        _ => None,
    }
}

pub(crate) fn message(event: Event) -> Option<Message> {
    match event {
        Event::Message(message) => Some(message),
        _ => None,
    }
}

/// Traffic on twenty retained topics and one of events, and what a consumer must end up with.
#[derive(Default)]
struct Traffic {
    number: u64,
    newest: BTreeMap<String, String>,
    events: Vec<String>,
}

impl Traffic {
    fn push(&mut self, outbox: &mut Outbox, rng: &mut StdRng) {
        self.number += 1;
        let payload = self.number.to_string();
        if rng.random_bool(0.3) {
            let event = Publish::event("test/e".into(), payload.clone().into());
            outbox.push(event).unwrap();
            self.events.push(payload);
        } else {
            let topic = format!("test/v/{}", rng.random_range(0..20));
            let state = Publish::state(topic.as_str().into(), payload.clone().into());
            outbox.push(state).unwrap();
            self.newest.insert(topic, payload);
        }
    }
}

async fn killed_under_traffic(choice: VersionChoice) {
    let mut broker = Broker::start();
    let port = match choice {
        VersionChoice::V311 => broker.v311_port,
        _ => broker.port,
    };
    let mut uplink = Uplink::new(Settings {
        version: choice,
        ..settings(port)
    });
    let mut rng = StdRng::seed_from_u64(3);
    let mut traffic = Traffic::default();
    for _ in 0..3 {
        for _ in 0..40 {
            for _ in 0..25 {
                traffic.push(&mut uplink.outbox, &mut rng);
            }
            uplink.run(Duration::from_millis(1)).await;
        }
        broker.kill();
        for _ in 0..200 {
            traffic.push(&mut uplink.outbox, &mut rng);
        }
        uplink.run(Duration::from_millis(50)).await;
        assert!(uplink.outbox.depth().states <= 20, "values coalesce");
        broker.restart();
        uplink.until(connected).await;
    }
    // rumqttd has forgotten what it retained before it was killed. Filling that up again is the
    // gateway's work; here each topic moves once more.
    for topic in 0..20 {
        let topic = format!("test/v/{topic}");
        let publish = Publish::state(topic.as_str().into(), "last".into());
        uplink.outbox.push(publish).unwrap();
        traffic.newest.insert(topic, "last".into());
    }
    uplink.drain().await;

    let counters = uplink.outbox.counters();
    assert_eq!(
        counters.accepted,
        counters.delivered + counters.coalesced,
        "all that was accepted was delivered or replaced: {counters:?}"
    );
    assert_eq!(uplink.connections, 4);
    let mut retained = BTreeMap::new();
    let mut consumer = Subscriber::connect(broker.port, "test/v/#").await;
    while retained.len() < 20 {
        let received = consumer.next().await.expect("twenty retained values");
        assert!(received.retain);
        retained.insert(received.topic, received.payload);
    }
    assert_eq!(retained, traffic.newest);
}

#[tokio::test]
async fn a_broker_killed_under_traffic_ends_with_the_newest_values_over_mqtt_5() {
    killed_under_traffic(VersionChoice::V5).await;
}

#[tokio::test]
async fn a_broker_killed_under_traffic_ends_with_the_newest_values_over_mqtt_3_1_1() {
    killed_under_traffic(VersionChoice::V311).await;
}

/// The library-choice test: the link breaks mid-window, again and again, and the broker never
/// knows a session afterwards. rumqttc's own event loop loses most of the messages here.
async fn broken_mid_window(choice: VersionChoice, act: fn() -> Act) {
    let script = (0..4).map(|n| Act {
        acknowledge: 20 + 9 * n,
        drop_after: 70 + 11 * n,
        ..act()
    });
    let broker = Scripted::start(script.chain([act()])).await;
    let mut uplink = Uplink::new(Settings {
        version: choice,
        ..settings(broker.port)
    });
    let mut rng = StdRng::seed_from_u64(5);
    let mut traffic = Traffic::default();
    for _ in 0..100 {
        for _ in 0..10 {
            traffic.push(&mut uplink.outbox, &mut rng);
        }
        uplink.run(Duration::from_millis(1)).await;
    }
    uplink.drain().await;

    let record = broker.record.lock().unwrap();
    let mut last = BTreeMap::new();
    let mut events = Vec::new();
    for seen in record.publishes.iter().filter(|seen| seen.acknowledged) {
        if seen.topic == "test/e" {
            if !events.contains(&seen.payload) {
                events.push(seen.payload.clone());
            }
        } else {
            last.insert(seen.topic.clone(), seen.payload.clone());
        }
    }
    assert_eq!(events, traffic.events, "every event, in order");
    assert_eq!(last, traffic.newest, "every topic at its newest value");
    assert!(
        uplink.connections == 5,
        "{} connections",
        uplink.connections
    );
}

#[tokio::test]
async fn links_that_break_mid_window_lose_nothing_over_mqtt_5() {
    broken_mid_window(VersionChoice::V5, || Act::v5(false)).await;
}

#[tokio::test]
async fn links_that_break_mid_window_lose_nothing_over_mqtt_3_1_1() {
    broken_mid_window(VersionChoice::V311, Act::v311).await;
}

#[tokio::test]
async fn a_resumed_session_gets_the_same_packets_again_marked_as_duplicates() {
    let first = Act {
        acknowledge: 2,
        drop_after: 5,
        ..Act::v5(false)
    };
    let broker = Scripted::start([first, Act::v5(true)]).await;
    let mut uplink = Uplink::new(settings(broker.port));
    for number in 1..=6 {
        let event = Publish::event("e".into(), number.to_string().into());
        uplink.outbox.push(event).unwrap();
    }
    uplink.drain().await;
    let record = broker.record.lock().unwrap();
    let (first, second): (Vec<_>, Vec<_>) = record
        .publishes
        .iter()
        .map(|seen| {
            (
                seen.connection,
                seen.payload.clone(),
                seen.id,
                seen.duplicate,
            )
        })
        .partition(|(connection, ..)| *connection == 0);
    let ids: BTreeMap<_, _> = first.iter().map(|(_, text, id, _)| (text, *id)).collect();
    let shown: Vec<_> = second.iter().map(|(_, text, ..)| text.as_str()).collect();
    assert_eq!(shown, ["3", "4", "5", "6"]);
    for (_, text, id, duplicate) in &second {
        assert!(duplicate, "{text}");
        if let Some(earlier) = ids.get(text) {
            assert_eq!(id, earlier, "{text}");
        }
    }
    let all: BTreeSet<_> = second.iter().map(|(_, _, id, _)| id).collect();
    assert_eq!(all.len(), 4, "no packet identifier twice");
}

#[tokio::test]
async fn a_broker_that_knows_no_mqtt_5_is_spoken_to_in_3_1_1() {
    let refusals: [&[u8]; 2] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]];
    for refusal in refusals {
        let broker = Scripted::start([Act::answer(refusal), Act::v311()]).await;
        let mut uplink = Uplink::new(settings(broker.port));
        assert_eq!(uplink.until(connected).await, Version::V311);
        assert_eq!(broker.versions(), [5, 4]);
    }
}

#[tokio::test]
async fn a_broker_that_closes_on_mqtt_5_is_spoken_to_in_3_1_1_and_so_it_stays() {
    let close = Act::answer(&[]);
    let once = Act {
        drop_after: 0,
        ..Act::v311()
    };
    let script = [close.clone(), close.clone(), once, close, Act::v311()];
    let broker = Scripted::start(script).await;
    let mut uplink = Uplink::new(settings(broker.port));
    assert_eq!(uplink.until(connected).await, Version::V311);
    uplink
        .outbox
        .push(Publish::event("e".into(), "1".into()))
        .unwrap();
    uplink.drain().await;
    assert_eq!(broker.versions(), [5, 5, 4, 4, 4]);
}

#[tokio::test]
async fn a_broker_that_restarts_is_not_taken_for_one_without_mqtt_5() {
    let close = Act::answer(&[]);
    let gone = Act {
        drop_after: 0,
        ..Act::v5(false)
    };
    let script = [gone, close.clone(), close.clone(), Act::v5(false)];
    let broker = Scripted::start(script).await;
    let mut uplink = Uplink::new(settings(broker.port));
    uplink
        .outbox
        .push(Publish::event("e".into(), "1".into()))
        .unwrap();
    uplink.drain().await;
    assert_eq!(broker.versions(), [5, 5, 5, 5]);
}

#[tokio::test]
async fn rumqttd_speaks_one_version_a_port_and_both_are_found() {
    let broker = Broker::start();
    for (port, version) in [
        (broker.port, Version::V5),
        (broker.v311_port, Version::V311),
    ] {
        let mut uplink = Uplink::new(settings(port));
        assert_eq!(uplink.until(connected).await, version);
    }
}

#[tokio::test]
async fn failures_are_said_in_words() {
    let mut uplink = Uplink::new(settings(free_port()));
    let reason = uplink.until(disconnected).await;
    assert!(reason.starts_with("connection refused: is the broker running at 127.0.0.1:"));

    for (answer, words) in [
        (
            &[0x20, 3, 0, 0x86, 0][..],
            "the broker refused user name or password",
        ),
        (
            &[0x20, 3, 0, 0x87, 0],
            "the broker wants user name and password",
        ),
        (
            &[0x20, 3, 0, 0x85, 0],
            "the broker refused the client id \"gateway\"",
        ),
        (
            &[0x20, 3, 0, 0x8A, 0],
            "the broker refused the connection: banned (0x8A)",
        ),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not an MQTT broker"),
        (&[0xD0, 0], "not an MQTT broker"),
        (&[], "the broker closed the connection before it answered"),
    ] {
        let broker = Scripted::start([Act::answer(answer)]).await;
        let mut uplink = Uplink::new(settings(broker.port));
        let reason = uplink.until(disconnected).await;
        assert!(reason.contains(words), "{reason}");
    }
}

#[tokio::test]
async fn three_take_overs_in_a_row_make_it_step_back_for_a_minute() {
    let taken_over = Act {
        greeting: vec![0xE0, 1, 0x8E],
        ..Act::v5(false)
    };
    let broker = Scripted::start([taken_over]).await;
    let mut link = connect(settings(broker.port));
    let mut waits = Vec::new();
    while waits.len() < 3 {
        if let Event::Disconnected { reason, retry_in } = link.event().await {
            assert!(reason.contains("another client connected with the client id"));
            waits.push(retry_in);
        }
    }
    assert!(waits[1] < Duration::from_secs(3));
    assert_eq!(waits[2], Duration::from_secs(60));
}

#[tokio::test]
async fn requests_come_in_with_what_mqtt_5_says_about_them() {
    let broker = Broker::start();
    let mut uplink = Uplink::new(Settings {
        subscriptions: vec![
            Subscription::requests("test/d/+/set"),
            Subscription::retained("test/sentinel"),
        ],
        ..settings(broker.port)
    });
    let subscribed = |event| match event {
        Event::Subscribed { refused } => Some(refused),
        _ => None,
    };
    assert!(uplink.until(subscribed).await.is_empty());
    let mut consumer = Subscriber::connect(broker.port, "test/reply").await;
    consumer
        .request(
            "test/d/dev1/set",
            "{}",
            Some("test/reply"),
            Some(&[0, 0xFF]),
        )
        .await;
    let request = uplink.until(message).await;
    assert_eq!(
        request,
        Message {
            topic: "test/d/dev1/set".into(),
            payload: b"{}".to_vec(),
            response_topic: Some("test/reply".into()),
            correlation: Some(vec![0, 0xFF]),
            expiry: request.expiry,
            ..Message::default()
        }
    );
    assert!(request.expiry.is_some_and(|seconds| seconds <= 30));

    let reply = Publish {
        properties: Some(std::sync::Arc::new(Properties {
            content_type: Some("application/json"),
            correlation: request.correlation,
            ..Properties::default()
        })),
        ..Publish::event("test/reply".into(), "done".into())
    };
    uplink.outbox.push(reply).unwrap();
    uplink.drain().await;
    let reply = consumer.wait_for(|reply| reply.payload == "done").await;
    assert_eq!(reply.content_type.unwrap(), "application/json");
    assert_eq!(reply.correlation.unwrap(), [0, 0xFF]);
}

#[tokio::test]
async fn every_connection_subscribes_again_and_refusals_are_named() {
    let broken = Act {
        drop_after: 0,
        ..Act::v5(true)
    };
    let broker = Scripted::start([broken, Act::v5(true)]).await;
    let mut uplink = Uplink::new(Settings {
        subscriptions: vec![Subscription::requests("test/forbidden")],
        ..settings(broker.port)
    });
    uplink
        .outbox
        .push(Publish::event("e".into(), "1".into()))
        .unwrap();
    let refused = uplink
        .until(|event| match event {
            Event::Subscribed { refused } => Some(refused),
            _ => None,
        })
        .await;
    assert_eq!(refused, ["test/forbidden: not authorized (0x87)"]);
    uplink.drain().await;
    let subscribes = &broker.record.lock().unwrap().subscribes;
    assert_eq!(subscribes.len(), 2);
    // Retain Handling 2, Retain As Published, No Local, QoS 1 (MQTT 5 §3.8.3.1).
    assert_eq!(subscribes[1].last(), Some(&0b0010_1101));
}

#[tokio::test]
async fn the_will_is_published_when_the_link_breaks_and_not_when_it_is_closed() {
    let broker = Broker::start();
    let mut consumer = Subscriber::connect(broker.port, "test/state").await;
    let settings = Settings {
        will: Some(Publish::state("test/state".into(), "offline".into())),
        ..settings(broker.port)
    };
    for closed in [true, false] {
        let mut uplink = Uplink::new(settings.clone());
        uplink.until(connected).await;
        let last = Publish::state("test/state".into(), "bye".into());
        uplink.outbox.push(last).unwrap();
        uplink.send();
        if closed {
            assert_eq!(uplink.link.close(Duration::from_secs(5)).await, 0);
        } else {
            uplink.drain().await;
            drop(uplink.link);
        }
    }
    for payload in ["bye", "bye", "offline"] {
        assert_eq!(consumer.next().await.unwrap().payload, payload);
    }
}

#[tokio::test]
async fn closing_gives_up_on_a_broker_that_does_not_acknowledge() {
    let silent = Act {
        acknowledge: 0,
        ..Act::v5(false)
    };
    let broker = Scripted::start([silent]).await;
    let mut uplink = Uplink::new(settings(broker.port));
    uplink.until(connected).await;
    uplink
        .outbox
        .push(Publish::event("e".into(), "1".into()))
        .unwrap();
    uplink.send();
    assert_eq!(uplink.link.close(Duration::from_millis(50)).await, 1);
    sleep(Duration::from_millis(50)).await;
    assert_eq!(broker.record.lock().unwrap().disconnects, 1);
}

#[tokio::test]
async fn a_broker_that_does_not_read_makes_no_buffer_grow() {
    let deaf = Act {
        deaf: Duration::from_millis(500),
        ..Act::v5(false)
    };
    let broker = Scripted::start([deaf]).await;
    let mut uplink = Uplink::new(settings(broker.port));
    uplink.until(connected).await;
    // 20 MB at QoS 0 is more than the sockets take.
    for number in 0..20_000 {
        let mut payload = format!("{number} ").into_bytes();
        payload.resize(1000, b'x');
        let publish = Publish {
            qos: Qos::AtMostOnce,
            ..Publish::event("e".into(), payload)
        };
        uplink.outbox.push(publish).unwrap();
    }
    uplink.run(Duration::from_millis(100)).await;
    assert!(!uplink.link.has_room());
    assert!(uplink.outbox.depth().events > 1000, "the outbox holds them");
    uplink
        .until(|event| (event == Event::Room).then_some(()))
        .await;
    // At QoS 0 only the reader knows when the last one is there.
    let start = Instant::now();
    while broker.record.lock().unwrap().publishes.len() < 20_000 {
        assert!(start.elapsed() < Duration::from_secs(10));
        uplink.run(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed() {
    let silent = Act {
        deaf: Duration::from_secs(60),
        ..Act::v5(false)
    };
    let broker = Scripted::start([silent]).await;
    let mut uplink = Uplink::new(Settings {
        keep_alive: Duration::from_secs(1),
        ..settings(broker.port)
    });
    uplink.until(connected).await;
    let start = Instant::now();
    let reason = uplink.until(disconnected).await;
    assert_eq!(reason, "the broker has not answered a ping within 1 s");
    assert!(start.elapsed() < Duration::from_secs(4));
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let broker = Scripted::start([Act::v5(false)]).await;
    let mut uplink = Uplink::new(Settings {
        keep_alive: Duration::from_secs(1),
        ..settings(broker.port)
    });
    uplink.until(connected).await;
    let quiet = timeout(Duration::from_millis(3500), uplink.turn()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test]
async fn an_event_that_is_not_waited_for_is_not_lost() {
    let broker = Scripted::start([Act::v5(false)]).await;
    let mut uplink = Uplink::new(settings(broker.port));
    for number in 0..500 {
        let event = Publish::event("e".into(), number.to_string().into());
        uplink.outbox.push(event).unwrap();
    }
    let start = Instant::now();
    while !uplink.outbox.depth().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(20));
        // Dropped at its first pending await, most of the time.
        tokio::select! {
            biased;
            _ = uplink.turn() => {}
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(uplink.outbox.counters().delivered, 500);
    assert_eq!(broker.record.lock().unwrap().publishes.len(), 500);
}

#[tokio::test]
async fn requests_come_in_over_mqtt_3_1_1() {
    let broker = Broker::start();
    let mut uplink = Uplink::new(Settings {
        version: VersionChoice::V311,
        subscriptions: vec![
            Subscription::requests("test/d/+/set"),
            Subscription::requests("test/d/+/get/+/+"),
            Subscription::retained("test/sentinel"),
        ],
        ..settings(broker.v311_port)
    });
    let subscribed = |event| match event {
        Event::Subscribed { refused } => Some(refused),
        _ => None,
    };
    assert!(uplink.until(subscribed).await.is_empty());
    let mut consumer = Subscriber::connect(broker.port, "test/reply").await;
    for topic in ["test/d/dev1/set", "test/d/dev1/get/a/b"] {
        consumer.request(topic, "{}", None, None).await;
        let message = uplink
            .until(|event| match event {
                Event::Message(message) => Some(message),
                _ => None,
            })
            .await;
        assert_eq!(message.topic, topic);
    }
}
