//! Two endpoints over links that lose, repeat and reorder.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::rig::{Pair, Quality, limits};
use crate::coap::{
    Cancel, Code, Event, ExchangeId, Failure, IncomingId, Observe, Parameters, Receipt, Request,
    Response, Token,
};
use crate::time::Instant;

const BAD: Quality = Quality {
    loss: 0.2,
    duplication: 0.1,
    delay: (Duration::from_millis(5), Duration::from_millis(800)),
};

/// A body that tells its number and length.
fn body(number: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (number * 31 + at * 7 + at / 251) as u8)
        .collect()
}

/// Two applications that ask each other `lengths.len()` times with bodies of these lengths, and
/// answer after up to `patience` with bodies of the same lengths in reverse.
struct Conversation<'a> {
    pair: Pair,
    rng: StdRng,
    lengths: &'a [usize],
    expected: [BTreeMap<ExchangeId, Vec<u8>>; 2],
    handled: [BTreeMap<usize, u32>; 2],
    /// What is to be answered, by time, end and id.
    answers: BTreeMap<(Instant, usize, IncomingId), Response>,
    failed: usize,
}

impl<'a> Conversation<'a> {
    fn new(seed: u8, quality: Quality, parameters: Parameters, lengths: &'a [usize]) -> Self {
        Self {
            pair: Pair::new(seed, quality, parameters, limits()),
            rng: StdRng::from_seed([seed; 32]),
            lengths,
            expected: Default::default(),
            handled: Default::default(),
            answers: BTreeMap::new(),
            failed: 0,
        }
    }

    fn answer_to(&self, number: usize) -> Vec<u8> {
        body(number + 1, self.lengths[self.lengths.len() - 1 - number])
    }

    /// Returns how many requests got no answer.
    fn run(mut self, patience: Duration) -> usize {
        for end in [0, 1] {
            for (number, length) in self.lengths.iter().enumerate() {
                let mut request = Request::new(Code::POST, ["dp", &number.to_string()]);
                request.payload = body(number, *length);
                let peer = Pair::peer(1 - end);
                let id = self.pair.ends[end].request(self.pair.now, peer, request);
                let answer = self.answer_to(number);
                self.expected[end].insert(id.unwrap(), answer);
            }
        }
        loop {
            let next = self.answers.keys().next().copied();
            let until = next.map_or(Instant::ZERO + Duration::MAX, |(at, ..)| at);
            if let Some((end, event)) = self.pair.event(until) {
                self.on_event(end, event, patience);
            } else if let Some(((_, end, incoming), answer)) = self.answers.pop_first() {
                self.pair.ends[end].respond(self.pair.now, incoming, answer);
            } else {
                break;
            }
        }
        for end in [0, 1] {
            assert!(self.expected[end].is_empty(), "every request ends");
            let mut times = self.handled[end].values();
            assert!(times.all(|times| *times == 1), "nothing is handled twice");
            let end = &mut self.pair.ends[end];
            assert_eq!(end.next_timeout(), None, "nothing is left behind");
            assert_eq!(end.budget.used(), (0, 0));
            assert_eq!((end.links.len(), end.seen.len()), (0, 0));
        }
        self.failed
    }

    fn on_event(&mut self, end: usize, event: Event, patience: Duration) {
        match event {
            Event::Request {
                incoming, request, ..
            } => {
                let number: usize = request.path[1].parse().unwrap();
                assert_eq!(request.payload, body(number, self.lengths[number]));
                *self.handled[end].entry(number).or_insert(0) += 1;
                let mut answer = Response::new(Code::CHANGED);
                answer.payload = self.answer_to(number);
                let at = self.pair.now + self.rng.random_range(Duration::ZERO..=patience);
                self.answers.insert((at, end, incoming), answer);
            }
            Event::Response { exchange, result } => {
                let expected = self.expected[end].remove(&exchange).expect("ends once");
                match result {
                    Ok(response) if response.code == Code::CHANGED => {
                        assert_eq!(response.payload, expected);
                    }
                    // Five losses in a row happen.
                    Err(Failure::Timeout | Failure::NoResponse) => self.failed += 1,
                    other => panic!("{other:?}"),
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn small_requests_end_once_each_over_a_bad_link() {
    let mut failed = 0;
    for seed in 0..200 {
        // Half of the answers come too late to be piggybacked.
        let patience = Duration::from_millis(u64::from(seed % 2) * 4000);
        let parameters = Parameters::default();
        failed += Conversation::new(seed, BAD, parameters, &[0, 10, 100, 1]).run(patience);
    }
    // Of 1600 requests; one fails when all of its five attempts do.
    assert!(failed < 80, "{failed}");
}

#[test]
fn nothing_fails_over_a_good_link() {
    let lengths = [0, 1024, 1025, 20_000, 5];
    for patience in [0, 5] {
        let conversation = Conversation::new(1, Quality::GOOD, Parameters::default(), &lengths);
        assert_eq!(conversation.run(Duration::from_secs(patience)), 0);
    }
}

#[test]
fn bodies_in_blocks_arrive_whole_over_a_bad_link() {
    let (mut asked, mut failed) = (0, 0);
    for seed in 0..200_u8 {
        let parameters = Parameters {
            block_size: [64, 256, 512, 1024][usize::from(seed % 4)],
            ..Parameters::default()
        };
        let scale = usize::from(parameters.block_size);
        let lengths = [
            usize::from(seed) * 100,
            scale * usize::from(seed % 8),
            scale * 3 + 1,
        ];
        asked += 2 * lengths.len();
        failed += Conversation::new(seed, BAD, parameters, &lengths).run(Duration::ZERO);
    }
    // The largest take some 600 messages, each of which may be lost five times.
    assert!(failed * 5 < asked, "{failed} of {asked}");
}

/// End 0 observes a state of end 1 that changes `changes` times, with bodies of up to `most` bytes.
/// Whatever the link does, the states come out in order, an acknowledged one has come out, and the
/// last to come out is the last there was.
fn observe(seed: u8, changes: usize, most: usize) {
    let parameters = Parameters {
        block_size: 64,
        ..Parameters::default()
    };
    let mut pair = Pair::new(seed, BAD, parameters, limits());
    let mut rng = StdRng::from_seed([seed; 32]);
    let mut state = 0;
    let mut next_change = Instant::ZERO + Duration::from_secs(30);
    let mut observer: Option<Token> = None;
    let mut observation: Option<ExchangeId> = None;
    let mut receipts: BTreeMap<Instant, Receipt> = BTreeMap::new();
    let mut newest = None;
    let lengths: Vec<usize> = (0..=changes).map(|_| rng.random_range(8..most)).collect();
    let content = |state: usize| {
        let mut content = Response::new(Code::CONTENT);
        content.observe = Some(0);
        content.payload = body(state, lengths[state]);
        content.payload[..8].copy_from_slice(&state.to_be_bytes());
        content
    };
    let number = |payload: &[u8]| usize::from_be_bytes(payload[..8].try_into().unwrap());
    let ask = |pair: &mut Pair| {
        let mut request = Request::new(Code::GET, ["3303"]);
        request.observe = Some(Observe::Register);
        pair.ends[0]
            .request(pair.now, Pair::peer(1), request)
            .unwrap();
    };
    ask(&mut pair);
    loop {
        let change = (state < changes).then_some(next_change);
        let acknowledgement = receipts.keys().next().copied();
        let until = change.into_iter().chain(acknowledgement).min();
        let Some((_, event)) = pair.event(until.unwrap_or(Instant::ZERO + Duration::MAX)) else {
            if until.is_none() {
                break;
            }
            if acknowledgement == until {
                let (_, receipt) = receipts.pop_first().unwrap();
                pair.ends[0].acknowledge(receipt);
            } else {
                state += 1;
                next_change = pair.now + Duration::from_millis(rng.random_range(10..20_000));
                if let Some(token) = observer {
                    // The last has to arrive; before it some may be lost.
                    let confirmable = state == changes || rng.random();
                    let response = content(state);
                    pair.ends[1].notify(pair.now, Pair::peer(0), token, response, confirmable);
                }
            }
            continue;
        };
        match event {
            Event::Request {
                incoming,
                token,
                request,
                ..
            } => {
                assert_eq!(request.path, ["3303"]);
                if request.observe == Some(Observe::Register) {
                    observer = Some(token);
                }
                pair.ends[1].respond(pair.now, incoming, content(state));
            }
            Event::Response { exchange, result } => match result {
                Ok(response) if response.code == Code::CONTENT => {
                    assert_eq!(response.payload, content(number(&response.payload)).payload);
                    newest = newest.max(Some(number(&response.payload)));
                    observation = Some(exchange);
                }
                // It may be that the other end counts us as an observer all the same.
                _ => ask(&mut pair),
            },
            Event::Notification {
                receipt,
                overtaken: true,
                ..
            } => {
                if let Some(receipt) = receipt {
                    pair.ends[0].acknowledge(receipt);
                }
            }
            Event::Notification {
                response,
                receipt,
                ended,
                ..
            } => {
                assert!(!ended);
                let state = number(&response.payload);
                assert_eq!(
                    response.payload,
                    content(state).payload,
                    "whole and of one state"
                );
                assert!(newest.is_none_or(|newest| newest <= state), "in order");
                newest = Some(state);
                if let Some(receipt) = receipt {
                    let at = pair.now + rng.random_range(Duration::ZERO..Duration::from_secs(3));
                    receipts.insert(at, receipt);
                }
            }
            Event::Progress { .. } => panic!("nobody uploads"),
            Event::ObserverGone { token, .. } => {
                // A device would register again, and be observed again.
                if observer.take_if(|observer| *observer == token).is_some() {
                    if let Some(observation) = observation.take() {
                        pair.ends[0].cancel(pair.now, observation, Cancel::Forget);
                    }
                    ask(&mut pair);
                }
            }
        }
    }
    assert_eq!(newest, Some(changes), "seed {seed}");
    assert_eq!(pair.ends[0].budget.used(), (0, 0));
}

#[test]
fn an_observation_over_a_bad_link_ends_at_the_newest_state() {
    for seed in 0..100 {
        observe(seed, 30, 60);
    }
}

#[test]
fn notifications_in_blocks_over_a_bad_link_are_whole_and_end_at_the_newest_state() {
    for seed in 0..100 {
        observe(seed, 30, 300);
    }
}
