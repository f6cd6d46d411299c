//! Strangers: whatever they send, nothing panics and nothing grows beyond its limit.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::block;
use crate::coap::message::{Kind, Message};
use crate::coap::rig::{limits, message, peer};
use crate::coap::{
    Cancel, Code, Endpoint, Event, Limits, Observe, Output, Parameters, Request, Response,
};
use crate::time::Instant;

fn tight() -> Limits {
    Limits {
        queue_per_peer: 2,
        deduplication: 200,
        observations: 20,
        body: 4096,
        transfers: 12,
        transfer_bytes: 16 * 1024,
    }
}

/// A message such as a peer may send, right or wrong, often under a token that is in use.
fn any_message(rng: &mut StdRng, recent: &[Message]) -> Vec<u8> {
    let kind = [
        Kind::Confirmable,
        Kind::NonConfirmable,
        Kind::Acknowledgement,
        Kind::Reset,
    ][rng.random_range(0..4)];
    let codes = [
        Code::EMPTY,
        Code::GET,
        Code::POST,
        Code::FETCH,
        Code::CONTENT,
        Code::CONTENT,
        Code::CHANGED,
        Code::CONTINUE,
        Code::NOT_FOUND,
        Code::REQUEST_ENTITY_INCOMPLETE,
        Code::REQUEST_ENTITY_TOO_LARGE,
    ];
    let code = codes[rng.random_range(0..codes.len())];
    let mut any = message(kind, code, rng.random_range(0..300), &[]);
    if code != Code::EMPTY {
        any.options.uri_path = (0..rng.random_range(0..3))
            .map(|n: u32| n.to_string())
            .collect();
        any.options.observe = rng.random_bool(0.4).then(|| rng.random_range(0..40));
        any.options.size1 = rng.random_bool(0.1).then(|| rng.random());
        any.options.size2 = rng.random_bool(0.1).then(|| rng.random());
        let size = 16 << rng.random_range(0..7_u32);
        for option in [&mut any.options.block1, &mut any.options.block2] {
            if rng.random_bool(0.3) {
                *option = block(rng.random_range(0..4), rng.random_bool(0.6), size);
            }
        }
        let length = [0, size, rng.random_range(0..1200)][rng.random_range(0..3)];
        any.payload = vec![rng.random(); length];
    }
    if !recent.is_empty() && rng.random_bool(0.8) {
        let seen = &recent[rng.random_range(0..recent.len())];
        if code != Code::EMPTY {
            any.token = seen.token;
        }
        if rng.random_bool(0.7) {
            any.id = seen.id;
        }
    }
    let mut datagram = any.encode();
    if rng.random_bool(0.2) {
        for _ in 0..3 {
            let at = rng.random_range(0..datagram.len());
            datagram[at] = rng.random();
        }
    }
    if rng.random_bool(0.05) {
        datagram = vec![0; rng.random_range(0..40)];
        rng.fill_bytes(&mut datagram);
    }
    datagram
}

/// What an endpoint in full use and its peers do, at random.
fn riot(seed: u8) {
    let mut rng = StdRng::from_seed([seed; 32]);
    let limits = tight();
    let mut endpoint = Endpoint::new(Parameters::default(), limits.clone(), [seed; 32]);
    let mut now = Instant::ZERO;
    let mut sent: Vec<Message> = Vec::new();
    let mut asked = 0_u32;
    let mut answered = 0_u32;
    let (mut receipts, mut incoming, mut observers) = (Vec::new(), Vec::new(), Vec::new());
    let mut observations = Vec::new();
    for _ in 0..3000 {
        let who = peer(rng.random_range(1..4));
        match rng.random_range(0..20) {
            0 | 1 => {
                let mut request = Request::new(Code::FETCH, ["3"]);
                request.observe = rng.random_bool(0.5).then_some(Observe::Register);
                request.payload = vec![1; [0, 100, 3000][rng.random_range(0..3)]];
                asked += u32::from(endpoint.request(now, who, request).is_ok());
            }
            2 => {
                now += Duration::from_millis(rng.random_range(0..20_000));
                endpoint.timeout(now);
            }
            3 => {
                if let Some(receipt) = receipts.pop() {
                    endpoint.acknowledge(receipt);
                }
            }
            4 | 5 => {
                if let Some(id) = incoming.pop() {
                    let mut response = Response::new(Code::CONTENT);
                    response.observe = Some(0);
                    response.payload = vec![2; [0, 100, 3000][rng.random_range(0..3)]];
                    endpoint.respond(now, id, response);
                }
            }
            6 => {
                if let Some((peer, token)) = observers.pop() {
                    let mut response = Response::new(Code::CONTENT);
                    response.payload = vec![3; [0, 2000][rng.random_range(0..2)]];
                    endpoint.notify(now, peer, token, response, rng.random());
                    observers.push((peer, token));
                }
            }
            7 => {
                if let Some(id) = observations.pop() {
                    let how = [Cancel::Forget, Cancel::Request][rng.random_range(0..2)];
                    asked += u32::from(endpoint.cancel(now, id, how).is_some());
                }
            }
            8 if rng.random_bool(0.05) => endpoint.forget_peer(now, who),
            9 => asked += u32::from(endpoint.ping(now, who).is_ok()),
            _ => {
                let datagram = any_message(&mut rng, &sent);
                endpoint.receive(now, who, &datagram);
            }
        }
        while let Some(output) = endpoint.poll() {
            match output {
                Output::Datagram { bytes, .. } => {
                    let parsed = Message::parse(&bytes).expect("what we send is right");
                    assert_eq!(parsed.fault, None);
                    assert!(bytes.len() < 1280);
                    sent.push(parsed.message);
                    if sent.len() > 30 {
                        sent.remove(0);
                    }
                }
                Output::Event(Event::Response { exchange, result }) => {
                    answered += 1;
                    if result.is_ok_and(|response| response.observe.is_some()) {
                        observations.push(exchange);
                    }
                }
                Output::Event(Event::Notification {
                    response, receipt, ..
                }) => {
                    assert!(response.payload.len() <= limits.body);
                    receipts.extend(receipt);
                }
                Output::Event(Event::Request {
                    peer,
                    incoming: id,
                    token,
                    request,
                }) => {
                    assert!(request.payload.len() <= limits.body);
                    incoming.push(id);
                    observers.push((peer, token));
                }
                Output::Event(Event::ObserverGone { .. } | Event::Progress { .. }) => {}
            }
        }
        let (transfers, bytes) = endpoint.budget.used();
        assert!(transfers <= limits.transfers && bytes <= limits.transfer_bytes);
        assert!(endpoint.observations <= limits.observations);
        assert!(endpoint.seen.len() <= limits.deduplication);
        assert!(endpoint.links.len() <= 3);
    }
    // When all is ended, one way or the other, nothing is left.
    if seed.is_multiple_of(2) {
        for port in 1..4 {
            endpoint.forget_peer(now, peer(port));
        }
    } else {
        for id in observations {
            endpoint.cancel(now, id, Cancel::Forget);
        }
        for receipt in receipts {
            endpoint.acknowledge(receipt);
        }
        for (peer, token) in observers {
            let last = Response::new(Code::NOT_FOUND);
            endpoint.notify(now, peer, token, last, true);
        }
    }
    loop {
        while let Some(output) = endpoint.poll() {
            match output {
                Output::Event(Event::Response { exchange, result }) => {
                    answered += 1;
                    if result.is_ok_and(|response| response.observe.is_some()) {
                        endpoint.cancel(now, exchange, Cancel::Forget);
                    }
                }
                Output::Event(Event::Notification {
                    receipt: Some(receipt),
                    ..
                }) => {
                    endpoint.acknowledge(receipt);
                }
                _ => {}
            }
        }
        match endpoint.next_timeout() {
            Some(next) => now = next,
            None => break,
        }
        endpoint.timeout(now);
    }
    assert_eq!(answered, asked, "each request ends once");
    assert_eq!(endpoint.budget.used(), (0, 0));
    assert_eq!(
        (
            endpoint.observations,
            endpoint.links.len(),
            endpoint.seen.len()
        ),
        (0, 0, 0)
    );
}

#[test]
fn a_riot_of_peers_breaks_nothing_and_fills_nothing() {
    for seed in 0..60 {
        riot(seed);
    }
}

#[test]
fn strangers_that_send_once_cost_nothing_but_deduplication() {
    let mut endpoint = Endpoint::new(Parameters::default(), limits(), [1; 32]);
    let now = Instant::ZERO;
    for port in 0..20_000 {
        for (kind, code) in [
            (Kind::NonConfirmable, Code::GET),
            (Kind::NonConfirmable, Code::CONTENT),
            (Kind::Confirmable, Code::CONTENT),
            (Kind::Confirmable, Code(9)),
            (Kind::Confirmable, Code::EMPTY),
        ] {
            let stray = message(kind, code, code.0.into(), &[]);
            endpoint.receive(now, peer(port), &stray.encode());
        }
        while let Some(output) = endpoint.poll() {
            if let Output::Event(Event::Request { incoming, .. }) = output {
                endpoint.respond(now, incoming, Response::new(Code::NOT_FOUND));
            }
        }
    }
    assert_eq!(endpoint.links.len(), 0);
    assert_eq!(endpoint.seen.len(), limits().deduplication);
    assert_eq!(endpoint.timers.len(), 1);
}

#[test]
fn the_same_seed_and_the_same_calls_give_the_same_datagrams() {
    let run = |seed| {
        let mut endpoint = Endpoint::new(Parameters::default(), limits(), [seed; 32]);
        let mut now = Instant::ZERO;
        let mut bytes = Vec::new();
        for port in 0..20 {
            let request = Request::new(Code::GET, ["3", "0"]);
            endpoint.request(now, peer(port), request).unwrap();
        }
        while let Some(next) = endpoint.next_timeout() {
            now = next;
            endpoint.timeout(now);
            while let Some(output) = endpoint.poll() {
                if let Output::Datagram {
                    bytes: datagram, ..
                } = output
                {
                    bytes.push((now, datagram));
                }
            }
        }
        bytes
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
