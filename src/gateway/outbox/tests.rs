use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;

fn outbox(limits: Limits) -> Outbox {
    Outbox::new(limits, &mut StdRng::seed_from_u64(1))
}

fn state(topic: &str, value: &str) -> Publish {
    Publish::state(topic.into(), value.into())
}

fn event(value: &str) -> Publish {
    Publish::event("e".into(), value.into())
}

fn sample(value: &str) -> Publish {
    Publish {
        class: Class::Sample,
        ..Publish::event("t".into(), value.into())
    }
}

fn at_most_once(publish: Publish) -> Publish {
    Publish {
        qos: Qos::AtMostOnce,
        ..publish
    }
}

/// Polls until nothing comes, and shows `topic=payload` of each.
fn drain(outbox: &mut Outbox) -> Vec<(Ticket, String)> {
    let mut sent = Vec::new();
    while let Some(outgoing) = outbox.poll() {
        let payload = String::from_utf8_lossy(&outgoing.publish.payload);
        sent.push((
            outgoing.ticket,
            format!("{}={payload}", outgoing.publish.topic),
        ));
    }
    sent
}

fn texts(outbox: &mut Outbox) -> Vec<String> {
    drain(outbox).into_iter().map(|(_, text)| text).collect()
}

#[test]
fn nothing_is_sent_while_the_broker_is_away() {
    let mut outbox = outbox(Limits::default());
    outbox.push(state("a", "1")).unwrap();
    assert!(outbox.poll().is_none());
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["a=1"]);
}

#[test]
fn a_newer_value_takes_the_place_of_the_waiting_one() {
    let mut outbox = outbox(Limits::default());
    let first = outbox.push(state("a", "1")).unwrap();
    outbox.push(event("x")).unwrap();
    outbox.push(state("b", "1")).unwrap();
    assert_eq!(outbox.push(state("a", "2")), Ok(first));
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["a=2", "e=x", "b=1"]);
    assert_eq!(outbox.counters().coalesced, 1);
}

#[test]
fn a_deletion_replaces_the_waiting_value() {
    let mut outbox = outbox(Limits::default());
    outbox.push(state("a", "1")).unwrap();
    outbox.push(Publish::deletion("a".into())).unwrap();
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["a="]);
}

#[test]
fn a_value_in_flight_is_followed_and_not_replaced() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    outbox.push(state("a", "1")).unwrap();
    assert_eq!(texts(&mut outbox), ["a=1"]);
    outbox.push(state("a", "2")).unwrap();
    assert_eq!(texts(&mut outbox), ["a=2"]);
    assert_eq!(outbox.counters().coalesced, 0);
    assert_eq!(outbox.depth().in_flight, 2);
}

#[test]
fn the_window_is_the_smaller_of_ours_and_the_brokers() {
    let mut outbox = outbox(Limits {
        window: 3,
        ..Limits::default()
    });
    for value in ["1", "2", "3", "4", "5"] {
        outbox.push(event(value)).unwrap();
    }
    outbox.connected(Session::default());
    let sent = drain(&mut outbox);
    assert_eq!(sent.len(), 3);
    outbox.delivered(sent[0].0).unwrap();
    assert_eq!(texts(&mut outbox), ["e=4"]);

    outbox.disconnected();
    outbox.connected(Session {
        receive_maximum: 2,
        ..Session::default()
    });
    assert_eq!(texts(&mut outbox), ["e=2", "e=3"]);
}

#[test]
fn what_was_unacknowledged_goes_first_and_gives_way_to_newer_values() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    outbox.push(state("a", "1")).unwrap();
    outbox.push(event("x")).unwrap();
    outbox.push(state("b", "1")).unwrap();
    let sent = drain(&mut outbox);
    outbox.disconnected();
    outbox.push(event("y")).unwrap();
    outbox.push(state("a", "2")).unwrap();

    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["e=x", "b=1", "e=y", "a=2"]);
    assert_eq!(outbox.counters().coalesced, 1);
    assert!(
        outbox.delivered(sent[0].0).is_none(),
        "the replaced value's ticket is void"
    );
}

#[test]
fn a_resumed_session_gets_the_same_packets_again() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    outbox.push(state("a", "1")).unwrap();
    outbox.push(event("x")).unwrap();
    let before = drain(&mut outbox);
    outbox.disconnected();
    outbox.push(state("b", "2")).unwrap();
    outbox.connected(Session {
        resumed: true,
        ..Session::default()
    });
    let after = drain(&mut outbox);
    assert_eq!(after[..2], before[..], "same tickets, same order");
    assert_eq!(after[2].1, "b=2");
    for (ticket, _) in after {
        outbox.delivered(ticket).unwrap();
    }
    assert!(outbox.depth().is_empty());
}

#[test]
fn a_value_never_goes_back_when_packets_are_sent_again() {
    for resumed in [true, false] {
        let mut outbox = outbox(Limits::default());
        outbox.connected(Session::default());
        for (topic, text) in [("a", "1"), ("b", "1"), ("a", "2"), ("c", "1")] {
            outbox.push(state(topic, text)).unwrap();
        }
        let cleared = Publish {
            retain: true,
            ..Publish::event("c".into(), Vec::new())
        };
        outbox.push(cleared).unwrap();
        drain(&mut outbox);
        outbox.disconnected();
        outbox.push(state("b", "2")).unwrap();
        outbox.connected(Session {
            resumed,
            ..Session::default()
        });
        assert_eq!(texts(&mut outbox), ["a=2", "c=", "b=2"]);
        assert_eq!(outbox.counters().coalesced, 3);
    }
}

#[test]
fn an_acknowledgement_of_an_earlier_connection_is_ignored() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    let ticket = outbox.push(event("x")).unwrap();
    drain(&mut outbox);
    outbox.disconnected();
    assert!(outbox.delivered(ticket).is_none());
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["e=x"]);
    assert!(outbox.delivered(ticket).is_some());
    assert!(outbox.delivered(ticket).is_none());
}

#[test]
fn qos_0_is_gone_when_handed_over() {
    let mut outbox = outbox(Limits {
        window: 1,
        ..Limits::default()
    });
    outbox.connected(Session::default());
    for value in ["1", "2", "3"] {
        outbox.push(at_most_once(sample(value))).unwrap();
    }
    assert_eq!(texts(&mut outbox).len(), 3, "no window at QoS 0");
    assert!(outbox.depth().is_empty());
}

#[test]
fn while_the_broker_is_away_qos_0_keeps_state_alone() {
    let mut outbox = outbox(Limits::default());
    assert_eq!(outbox.push(at_most_once(event("x"))), Err(Rejected::Away));
    outbox.push(at_most_once(state("a", "1"))).unwrap();
    outbox.push(at_most_once(state("a", "2"))).unwrap();
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["a=2"]);
    assert_eq!(outbox.counters().rejected_away, 1);
}

// wish: 26
#[test]
fn the_oldest_samples_give_way_and_events_do_not() {
    let mut outbox = outbox(Limits {
        queued: 3,
        ..Limits::default()
    });
    outbox.push(sample("1")).unwrap();
    outbox.push(event("x")).unwrap();
    outbox.push(sample("2")).unwrap();
    outbox.push(sample("3")).unwrap();
    outbox.push(event("y")).unwrap();
    outbox.push(event("z")).unwrap();
    assert_eq!(outbox.push(event("too many")), Err(Rejected::Full));
    assert_eq!(outbox.push(sample("4")), Err(Rejected::Full));
    outbox.push(state("a", "1")).unwrap();
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["e=x", "a=1", "e=y", "e=z"]);
    assert_eq!(outbox.counters().dropped_samples, 3);
    assert_eq!(outbox.counters().rejected_full, 2);
}

#[test]
fn bytes_are_limited_and_given_back() {
    let mut outbox = outbox(Limits {
        queued_bytes: 1000,
        ..Limits::default()
    });
    assert_eq!(outbox.push(event(&"x".repeat(1000))), Err(Rejected::Full));
    outbox.push(event(&"x".repeat(700))).unwrap();
    assert_eq!(outbox.push(event(&"x".repeat(700))), Err(Rejected::Full));
    outbox.connected(Session::default());
    drain(&mut outbox);
    assert_eq!(outbox.depth().bytes, 0);
    outbox.push(event(&"x".repeat(700))).unwrap();
}

// wish: 24
#[test]
fn what_is_too_large_for_the_broker_is_refused_and_blocks_nothing() {
    let mut outbox = outbox(Limits::default());
    outbox.push(state("a", &"x".repeat(100))).unwrap();
    outbox.push(state("b", "1")).unwrap();
    outbox.connected(Session {
        maximum_packet_size: Some(50),
        ..Session::default()
    });
    assert_eq!(texts(&mut outbox), ["b=1"]);
    let refusal = outbox.refusal().unwrap();
    assert_eq!(&*refusal.topic, "a");
    assert_eq!(
        refusal.reason.to_string(),
        "the packet has 108 bytes, and the broker takes 50; raise its packet limit"
    );
    assert_eq!(outbox.refusal(), None);
    assert_eq!(outbox.counters().refused_too_large, 1);
}

#[test]
fn what_the_broker_refuses_is_final() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    let ticket = outbox.push(state("a", "1")).unwrap();
    drain(&mut outbox);
    assert_eq!(outbox.refused(ticket, 0x87).unwrap(), state("a", "1"));
    outbox.disconnected();
    outbox.connected(Session::default());
    assert!(outbox.poll().is_none());
    assert_eq!(outbox.counters().refused_by_broker[&0x87], 1);
    assert_eq!(
        outbox.refusal().unwrap().reason.to_string(),
        "the broker refused it: not authorized; its access rules forbid this topic (0x87)"
    );
}

#[test]
fn a_broker_without_retain_or_qos_1_gets_what_it_takes() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session {
        retain_available: false,
        maximum_qos: Qos::AtMostOnce,
        ..Session::default()
    });
    outbox.push(state("a", "1")).unwrap();
    let outgoing = outbox.poll().unwrap();
    assert!(!outgoing.retain);
    assert_eq!(outgoing.qos, Qos::AtMostOnce);
    assert!(outbox.poll().is_none());
    assert!(outbox.depth().is_empty());
    assert_eq!(outbox.counters().unretained, 1);
    assert_eq!(outbox.counters().downgraded, 1);
}

#[test]
fn what_mqtt_cannot_express_is_rejected() {
    let mut outbox = outbox(Limits::default());
    let long = "x".repeat(65_536);
    for topic in ["", "a/+", "#", "nul\0", &long] {
        assert_eq!(outbox.push(state(topic, "1")), Err(Rejected::Malformed));
    }
    assert_eq!(outbox.counters().rejected_malformed, 5);
}

#[test]
fn what_is_put_first_goes_before_what_waits() {
    let mut outbox = outbox(Limits::default());
    outbox.push(event("x")).unwrap();
    outbox.push(state("a", "1")).unwrap();
    outbox.push_first(state("bridge", "online")).unwrap();
    outbox.push(state("a", "2")).unwrap();
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["bridge=online", "e=x", "a=2"]);
    outbox.disconnected();
    outbox.push_first(state("bridge", "back")).unwrap();
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["e=x", "a=2", "bridge=back"]);
}

#[test]
fn one_message_that_ends_every_connection_does_not_block_the_others() {
    let mut outbox = outbox(Limits::default());
    for value in ["1", "2", "poison", "3", "4"] {
        outbox.push(event(value)).unwrap();
    }
    let mut delivered = Vec::new();
    let mut connections = 0;
    while !outbox.depth().is_empty() {
        connections += 1;
        assert!(connections < 30, "still {:?}", outbox.depth());
        outbox.connected(Session::default());
        loop {
            let batch = drain(&mut outbox);
            // This broker reads all that came before it answers any.
            if batch.is_empty() || batch.iter().any(|(_, text)| text == "e=poison") {
                break;
            }
            for (ticket, text) in batch {
                outbox.delivered(ticket).unwrap();
                delivered.push(text);
            }
        }
        outbox.disconnected();
    }
    assert_eq!(delivered, ["e=1", "e=2", "e=3", "e=4"]);
    assert_eq!(outbox.refusal().unwrap().reason, Refused::Unanswered);
    assert_eq!(outbox.counters().refused_unanswered, 1);
}

/// A broker that acknowledges in order, some time after a message reached it, and drops connections
/// with messages on their way in both directions.
mod model {
    use std::collections::{BTreeMap, VecDeque};

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    #[derive(Default)]
    struct Broker {
        /// On the wire, not yet there.
        arriving: VecDeque<(Ticket, Publish)>,
        /// There, and the acknowledgement not yet back.
        acknowledging: VecDeque<Ticket>,
        retained: BTreeMap<String, u64>,
        /// Events and samples in the order of their first arrival, and the last one of all.
        first_seen: BTreeMap<&'static str, Vec<u64>>,
    }

    impl Broker {
        fn receive(&mut self, steps: usize) {
            for _ in 0..steps {
                let Some((ticket, publish)) = self.arriving.pop_front() else {
                    return;
                };
                let number = String::from_utf8(publish.payload).unwrap().parse().unwrap();
                match publish.class {
                    Class::State => {
                        let before = self.retained.insert(publish.topic.to_string(), number);
                        assert!(before <= Some(number), "{before:?} was newer than {number}");
                    }
                    class => {
                        let name = if class == Class::Event {
                            "event"
                        } else {
                            "sample"
                        };
                        let seen = self.first_seen.entry(name).or_default();
                        if !seen.contains(&number) {
                            seen.push(number);
                        }
                    }
                }
                if publish.qos == Qos::AtLeastOnce {
                    self.acknowledging.push_back(ticket);
                }
            }
        }
    }

    fn run(seed: u64) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut outbox = Outbox::new(
            Limits {
                window: rng.random_range(1..12),
                ..Limits::default()
            },
            &mut rng,
        );
        let mut broker = Broker::default();
        let mut connected = false;
        let mut newest = BTreeMap::new();
        let mut events = Vec::new();
        let mut samples = Vec::new();
        for number in 0..3000u64 {
            let payload = number.to_string().into_bytes();
            match rng.random_range(0..10) {
                0..=2 => {
                    let topic = format!("v/{}", rng.random_range(0..20));
                    outbox
                        .push(Publish::state(topic.as_str().into(), payload))
                        .unwrap();
                    newest.insert(topic, number);
                }
                3 => {
                    outbox.push(Publish::event("e".into(), payload)).unwrap();
                    events.push(number);
                }
                4 => {
                    let publish = Publish {
                        class: Class::Sample,
                        ..Publish::event("t".into(), payload)
                    };
                    outbox.push(publish).unwrap();
                    samples.push(number);
                }
                5 | 6 => broker.receive(rng.random_range(0..4)),
                7 | 8 => {
                    for _ in 0..rng.random_range(0..4) {
                        if let Some(ticket) = broker.acknowledging.pop_front() {
                            assert!(outbox.delivered(ticket).is_some());
                        }
                    }
                }
                _ if rng.random_bool(0.2) => {
                    connected = !connected;
                    // What is under way is lost with the connection, in both directions.
                    broker.receive(rng.random_range(0..5));
                    broker.arriving.clear();
                    broker.acknowledging.clear();
                    if connected {
                        outbox.connected(Session {
                            resumed: rng.random(),
                            receive_maximum: rng.random_range(1..20),
                            ..Session::default()
                        });
                    } else {
                        outbox.disconnected();
                    }
                }
                _ => {}
            }
            while let Some(outgoing) = outbox.poll() {
                broker
                    .arriving
                    .push_back((outgoing.ticket, outgoing.publish.clone()));
            }
            assert!(outbox.depth().states <= 20);
        }
        outbox.connected(Session::default());
        broker.arriving.clear();
        broker.acknowledging.clear();
        while !outbox.depth().is_empty() {
            while let Some(outgoing) = outbox.poll() {
                broker
                    .arriving
                    .push_back((outgoing.ticket, outgoing.publish.clone()));
            }
            broker.receive(usize::MAX);
            while let Some(ticket) = broker.acknowledging.pop_front() {
                outbox.delivered(ticket).unwrap();
            }
        }
        // Retained deletions aside, the broker shows what was accepted last.
        assert_eq!(broker.retained, newest, "seed {seed}");
        assert_eq!(broker.first_seen["event"], events, "seed {seed}");
        assert_eq!(broker.first_seen["sample"], samples, "seed {seed}");
        let counters = outbox.counters();
        assert_eq!(
            counters.accepted,
            counters.delivered + counters.coalesced + counters.refused_unanswered,
            "every accepted message is accounted for, seed {seed}"
        );
    }

    // wish: 26
    #[test]
    fn nothing_accepted_is_lost_however_connections_end() {
        for seed in 0..200 {
            run(seed);
        }
    }
}

#[test]
fn a_live_value_is_not_late_for_the_sake_of_what_is_played_back() {
    let mut outbox = outbox(Limits {
        window: 2,
        ..Limits::default()
    });
    for number in 0..1_000 {
        outbox.push(sample(&number.to_string())).unwrap();
    }
    for number in 0..10 {
        outbox.push(event(&number.to_string())).unwrap();
    }
    outbox.connected(Session::default());
    let mut sent = Vec::new();
    for turn in 0..20 {
        outbox.push(state("a", &turn.to_string())).unwrap();
        for (ticket, text) in drain(&mut outbox) {
            sent.push(text);
            outbox.delivered(ticket).unwrap();
        }
    }
    // Two a turn: one of them is the live value.
    let live = sent.iter().filter(|text| text.starts_with("a=")).count();
    assert_eq!((sent.len(), live), (40, 20), "{sent:?}");
    let samples: Vec<_> = sent.iter().filter(|text| text.starts_with("t=")).collect();
    assert_eq!(samples.first().map(|text| text.as_str()), Some("t=0"));
    assert!(samples.is_sorted_by_key(|text| text[2..].parse::<u32>().unwrap()));
}

#[test]
fn who_waits_for_a_value_is_let_go_by_a_newer_one_of_its_topic() {
    let mut outbox = outbox(Limits::default());
    outbox.connected(Session::default());
    outbox.push_held(state("a", "1"), Hold(1)).unwrap();
    assert_eq!(texts(&mut outbox), ["a=1"]);
    outbox.push_held(state("a", "2"), Hold(2)).unwrap();
    outbox.push_held(state("a", "3"), Hold(3)).unwrap();
    outbox.disconnected();
    outbox.connected(Session::default());
    let sent = drain(&mut outbox);
    assert_eq!(sent.len(), 1, "the older one gave way");
    assert_eq!(outbox.released(), None);
    outbox.delivered(sent[0].0).unwrap();
    let mut released: Vec<_> = std::iter::from_fn(|| outbox.released()).collect();
    released.sort_unstable();
    assert_eq!(released, [Hold(1), Hold(2), Hold(3)]);
}

#[test]
fn what_is_spooled_is_given_once_and_counted_until_it_is_delivered() {
    let mut outbox = outbox(Limits::default());
    outbox.push_held(sample("1"), Hold(1)).unwrap();
    outbox.push(event("x")).unwrap();
    outbox.push(state("a", "1")).unwrap();
    outbox.push_held(state("b", "1"), Hold(1)).unwrap();
    let given = |outbox: &mut Outbox| {
        let (mut topics, newest) = (Vec::new(), outbox.newest());
        outbox.spool(newest, false, &mut |waiting| {
            topics.push((waiting.publish.topic.to_string(), waiting.holds.len()));
        });
        topics.sort();
        topics
    };
    let expected = [("b", 1), ("e", 0), ("t", 1)].map(|(topic, holds)| (topic.to_owned(), holds));
    assert_eq!(given(&mut outbox), expected);
    assert_eq!(given(&mut outbox), []);
    assert_eq!(outbox.depth().spooled, 2);
    assert_eq!(outbox.unspooled(), None);
    outbox.connected(Session::default());
    for (ticket, _) in drain(&mut outbox) {
        outbox.delivered(ticket).unwrap();
    }
    assert_eq!(outbox.depth().spooled, 0);
    let left = [outbox.unspooled(), outbox.unspooled(), outbox.unspooled()];
    let below = Ticket(5);
    assert_eq!(
        left,
        [
            Some((Class::Event, below)),
            Some((Class::Sample, below)),
            None
        ]
    );
}

#[test]
fn what_was_restored_keeps_its_numbers_and_comes_first() {
    let mut outbox = outbox(Limits::default());
    outbox.restore(7, sample("old"));
    outbox.restore(9, event("old"));
    let newer = outbox.push(sample("new")).unwrap();
    assert_eq!(newer, Ticket(10));
    outbox.connected(Session::default());
    assert_eq!(texts(&mut outbox), ["t=old", "e=old", "t=new"]);
}
