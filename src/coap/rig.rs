//! Test rigs: one endpoint against hand-made messages, and two endpoints over a bad link, both in
//! virtual time.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::coap::message::{Kind, Message};
use crate::coap::option::Options;
use crate::coap::{Code, Endpoint, Event, Limits, Output, Parameters, Peer, Token};
use crate::route::Route;
use crate::time::Instant;

/// Limits small enough to be reached in a test.
pub(super) fn limits() -> Limits {
    Limits {
        queue_per_peer: 4,
        deduplication: 1000,
        observations: 16,
        body: 64 * 1024,
        transfers: 16,
        transfer_bytes: 256 * 1024,
    }
}

pub(super) fn peer(port: u16) -> Peer {
    Peer::Route(Route {
        listener: 0,
        address: ([127, 0, 0, 1], port).into(),
    })
}

pub(super) fn token(bytes: &[u8]) -> Token {
    Token::new(bytes).unwrap()
}

/// A message without options and payload.
pub(super) fn message(kind: Kind, code: Code, id: u16, bytes: &[u8]) -> Message {
    Message {
        kind,
        code,
        id,
        token: token(bytes),
        options: Options::default(),
        payload: Vec::new(),
    }
}

/// One endpoint; the test is the peer.
pub(super) struct Alone {
    pub(super) endpoint: Endpoint,
    pub(super) now: Instant,
    events: VecDeque<Event>,
    sent: VecDeque<Message>,
}

impl Alone {
    pub(super) fn new() -> Self {
        Self::with(Parameters::default(), limits())
    }

    pub(super) fn with(parameters: Parameters, limits: Limits) -> Self {
        Self {
            endpoint: Endpoint::new(parameters, limits, [5; 32]),
            now: Instant::ZERO + Duration::from_secs(1000),
            events: VecDeque::new(),
            sent: VecDeque::new(),
        }
    }

    /// The peer at port 1 sends a message.
    pub(super) fn receive(&mut self, message: &Message) {
        self.endpoint
            .receive(self.now, peer(1), &message.clone().encode());
        self.drain();
    }

    /// The peer at port 1 sends bytes.
    pub(super) fn receive_bytes(&mut self, datagram: &[u8]) {
        self.endpoint.receive(self.now, peer(1), datagram);
        self.drain();
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(next) = self.endpoint.next_timeout().filter(|next| *next <= end) {
            assert!(next >= self.now, "a deadline in the past");
            self.now = next;
            self.endpoint.timeout(next);
            self.drain();
        }
        self.now = end;
    }

    fn drain(&mut self) {
        while let Some(output) = self.endpoint.poll() {
            match output {
                Output::Datagram { bytes, .. } => {
                    self.sent.push_back(Message::parse(&bytes).unwrap().message);
                }
                Output::Event(event) => self.events.push_back(event),
            }
        }
    }

    /// The next message that it sent, or nothing.
    pub(super) fn sent(&mut self) -> Option<Message> {
        self.drain();
        self.sent.pop_front()
    }

    /// The next event, or nothing.
    pub(super) fn event(&mut self) -> Option<Event> {
        self.drain();
        self.events.pop_front()
    }

    /// Nothing was sent and nothing happened.
    pub(super) fn assert_quiet(&mut self) {
        self.drain();
        assert_eq!(self.sent.front(), None);
        assert!(self.events.is_empty(), "{:?}", self.events);
    }
}

/// What the link between two endpoints does to datagrams.
#[derive(Clone, Copy)]
pub(super) struct Quality {
    pub(super) loss: f64,
    pub(super) duplication: f64,
    /// Each datagram takes between the two, so they overtake each other.
    pub(super) delay: (Duration, Duration),
}

impl Quality {
    pub(super) const GOOD: Self = Self {
        loss: 0.0,
        duplication: 0.0,
        delay: (Duration::from_millis(20), Duration::from_millis(20)),
    };
}

/// Two endpoints, 0 and 1, and the link between them.
pub(super) struct Pair {
    pub(super) ends: [Endpoint; 2],
    pub(super) now: Instant,
    pub(super) quality: Quality,
    /// How many datagrams each sent.
    pub(super) sent: [usize; 2],
    rng: StdRng,
    under_way: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    events: VecDeque<(usize, Event)>,
    serial: u64,
}

impl Pair {
    pub(super) fn new(seed: u8, quality: Quality, parameters: Parameters, limits: Limits) -> Self {
        let end = |which| Endpoint::new(parameters.clone(), limits.clone(), [seed ^ which; 32]);
        Self {
            ends: [end(0), end(0x80)],
            now: Instant::ZERO,
            quality,
            sent: [0; 2],
            rng: StdRng::from_seed([seed; 32]),
            under_way: BTreeMap::new(),
            events: VecDeque::new(),
            serial: 0,
        }
    }

    /// How endpoint `end` is seen by the other.
    pub(super) fn peer(end: usize) -> Peer {
        peer(end as u16)
    }

    /// Runs until something happens, and says at which end; `None` when nothing will any more, or
    /// not before `until`.
    pub(super) fn event(&mut self, until: Instant) -> Option<(usize, Event)> {
        loop {
            self.transmit();
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let timeouts = [0, 1].map(|end| self.ends[end].next_timeout());
            let next = timeouts.into_iter().chain([arrival]).flatten().min()?;
            if next > until {
                self.now = until;
                return None;
            }
            assert!(next >= self.now, "a deadline in the past");
            self.now = next;
            if arrival == Some(next) {
                if let Some((_, (to, bytes))) = self.under_way.pop_first() {
                    self.ends[to].receive(next, Self::peer(1 - to), &bytes);
                }
            } else {
                for end in &mut self.ends {
                    end.timeout(next);
                }
            }
        }
    }

    fn transmit(&mut self) {
        for from in [0, 1] {
            while let Some(output) = self.ends[from].poll() {
                match output {
                    Output::Event(event) => self.events.push_back((from, event)),
                    Output::Datagram { peer, bytes } => {
                        assert_eq!(peer, Self::peer(1 - from));
                        self.sent[from] += 1;
                        let copies = 1 + u8::from(self.rng.random_bool(self.quality.duplication));
                        for _ in 0..copies {
                            if !self.rng.random_bool(self.quality.loss) {
                                let (least, most) = self.quality.delay;
                                let delay = self.rng.random_range(least..=most);
                                self.serial += 1;
                                self.under_way.insert(
                                    (self.now + delay, self.serial),
                                    (1 - from, bytes.clone()),
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
