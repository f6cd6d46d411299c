//! What we ask of peers: requests and pings, until they are answered.

use bytes::Bytes;
use rand::Rng;

use crate::coap::dedup::{EXCHANGE_LIFETIME, Fate, Identity};
use crate::coap::endpoint::{Endpoint, Event, ExchangeId, Failure, Overload, Position, Timer};
use crate::coap::exchange::{Exchange, Phase, Purpose, Step};
use crate::coap::link::{insert_tight, remove_tight, slot_of};
use crate::coap::message::{Kind, Message};
use crate::coap::option::OptionFault;
use crate::coap::types::{Code, Observe, Peer, Request, Response, Token};
use crate::time::Instant;

impl Endpoint {
    /// Sends a confirmable request, or queues it behind NSTART.
    pub fn request(
        &mut self,
        now: Instant,
        peer: Peer,
        request: Request,
    ) -> Result<ExchangeId, Overload> {
        self.ask(now, peer, request, Purpose::Request, None)
    }

    /// As [`request`](Self::request), with a body that others hold, too, and that may be long:
    /// [`Event::Progress`] tells of each block that the peer has, and between two blocks the
    /// requests that wait for this peer have their turn.
    ///
    /// The body goes out from `from` on, which is where an earlier attempt came to. A peer that has
    /// not kept what was before answers 4.08, and the whole begins anew (RFC 7959 §2.9.2).
    pub fn upload(
        &mut self,
        now: Instant,
        peer: Peer,
        request: Request,
        body: Bytes,
        from: Position,
    ) -> Result<ExchangeId, Overload> {
        let from = Position {
            block_size: from.block_size.min(self.parameters.block_size),
            ..from
        };
        self.ask(now, peer, request, Purpose::Upload, Some((body, from)))
    }

    /// Checks that a peer lives: CoAP ping, an empty confirmable message (RFC 7252 §4.3). The
    /// answer is a `Response` event with [`Failure::Reset`] (alive) or [`Failure::Timeout`].
    pub fn ping(&mut self, now: Instant, peer: Peer) -> Result<ExchangeId, Overload> {
        let empty = Request::new(Code::EMPTY, [""; 0]);
        self.ask(now, peer, empty, Purpose::Ping, None)
    }

    /// Gives up a request; its `Response` event says [`Failure::Abandoned`].
    pub fn abandon(&mut self, exchange: ExchangeId) {
        let slot = slot_of(exchange);
        let found = self.links.link(slot).and_then(|link| {
            let at = link.exchange(exchange)?;
            let is_ours = !matches!(link.exchanges.get(at)?.purpose, Purpose::Rest { .. });
            is_ours.then_some(at)
        });
        if let Some(at) = found {
            self.finish(slot, at, Err(Failure::Abandoned));
        }
    }

    fn ask(
        &mut self,
        now: Instant,
        peer: Peer,
        request: Request,
        purpose: Purpose,
        body: Option<(Bytes, Position)>,
    ) -> Result<ExchangeId, Overload> {
        self.now = now;
        let slot = self.open_link(peer);
        let waiting = self.links.link(slot).map_or(0, |link| link.exchanges.len());
        if waiting >= self.parameters.nstart.max(1) + self.limits.queue_per_peer {
            self.counters.overloads += 1;
            return Err(Overload);
        }
        let id = self.links.issue(slot);
        let token = self.fresh_token(slot);
        let mut exchange = Exchange::new(id, token, request, purpose, self.block_size);
        if let Some((body, from)) = body {
            exchange = exchange.with_body(body, from);
        }
        if let Some(link) = self.links.link(slot) {
            insert_tight(&mut link.exchanges, waiting, exchange);
        }
        self.start(slot);
        Ok(id)
    }

    /// 8 random bytes that no exchange or observation of the peer uses.
    pub(super) fn fresh_token(&mut self, slot: u32) -> Token {
        loop {
            let mut bytes = [0; 8];
            self.rng.fill_bytes(&mut bytes);
            let token = Token::new(&bytes).unwrap_or_default();
            let link = self.links.link(slot);
            if link.is_none_or(|link| !link.uses_token(token)) {
                return token;
            }
        }
    }

    /// Sends what NSTART has room for.
    pub(super) fn start(&mut self, slot: u32) {
        while let Some(link) = self.links.link(slot) {
            let first = link
                .exchanges
                .iter()
                .position(|exchange| exchange.is_queued());
            let under_way = link
                .exchanges
                .iter()
                .filter(|exchange| !exchange.is_queued());
            match first {
                Some(at) if under_way.count() < self.parameters.nstart.max(1) => {
                    self.transmit(slot, at);
                }
                _ => return,
            }
        }
    }

    /// Sends the next message of an exchange for the first time.
    pub(super) fn transmit(&mut self, slot: u32, at: usize) {
        let message_id = self.next_message_id(slot);
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let peer = link.peer;
        let Some(exchange) = link.exchanges.get(at) else {
            return;
        };
        let id = exchange.id;
        let datagram = if exchange.purpose == Purpose::Ping {
            Message::empty(Kind::Confirmable, message_id)
        } else {
            exchange.message(message_id).encode()
        };
        let sent = self.first_transmission(message_id, datagram.clone());
        self.timers
            .set(Timer::Exchange(id), self.now + sent.timeout);
        if let Some(exchange) = self.links.exchange(slot, at) {
            exchange.phase = Phase::Sent(sent);
        }
        self.send(peer, datagram);
    }

    pub(super) fn on_exchange_timeout(&mut self, slot: u32, id: ExchangeId) {
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let Some(at) = link.exchange(id) else {
            return;
        };
        let (peer, quiet) = (link.peer, link.quiet);
        let exchange = link.exchanges.get_mut(at);
        let failure = match exchange.map(|exchange| &mut exchange.phase) {
            Some(Phase::Sent(sent)) => {
                if let Some(wait) = sent.repeat(self.parameters.max_retransmit) {
                    if quiet {
                        sent.withheld = true;
                        self.timers.set(Timer::Exchange(id), self.now + wait);
                        return;
                    }
                    let datagram = sent.datagram.clone();
                    self.timers.set(Timer::Exchange(id), self.now + wait);
                    self.counters.retransmissions += 1;
                    self.send(peer, datagram);
                    return;
                }
                self.counters.unacknowledged += 1;
                Failure::Timeout
            }
            Some(Phase::Acknowledged) => Failure::NoResponse,
            Some(Phase::Queued) | None => return,
        };
        self.finish(slot, at, Err(failure));
    }

    /// An empty ACK; says whether it belongs to a request.
    pub(super) fn on_request_acknowledged(&mut self, slot: u32, message_id: u16) -> bool {
        let Some(link) = self.links.link(slot) else {
            return false;
        };
        let Some(at) = link.exchange_sent(message_id) else {
            return false;
        };
        let Some(exchange) = link.exchanges.get_mut(at) else {
            return false;
        };
        if exchange.purpose == Purpose::Ping {
            // Not what the RFC asks of a peer, but a sign of life all the same.
            self.finish(slot, at, Err(Failure::Reset));
        } else {
            exchange.phase = Phase::Acknowledged;
            let deadline = self.now + self.parameters.response_timeout;
            self.timers.set(Timer::Exchange(exchange.id), deadline);
        }
        true
    }

    /// A Reset; says whether it belongs to a request.
    pub(super) fn on_request_reset(&mut self, slot: u32, message_id: u16) -> bool {
        let link = self.links.link(slot);
        match link.and_then(|link| link.exchange_sent(message_id)) {
            Some(at) => {
                self.finish(slot, at, Err(Failure::Reset));
                true
            }
            None => false,
        }
    }

    /// A response in whatever kind of message, or a notification.
    pub(super) fn on_response(&mut self, peer: Peer, message: Message, fault: Option<OptionFault>) {
        let confirmable = message.kind == Kind::Confirmable;
        let identity = confirmable.then(|| self.identify(peer, &message));
        if identity.is_some_and(|identity| self.is_repetition(identity)) {
            return;
        }
        if let Some(slot) = self.links.slot(peer)
            && let Some(link) = self.links.link(slot)
        {
            if let Some(at) = link.exchange_asked(message.token) {
                return self.on_answer(slot, at, message, fault, identity);
            }
            if message.kind != Kind::Acknowledgement {
                if let Ok(at) = link.observation(message.token) {
                    return self.on_notification(slot, at, message, fault, identity);
                }
                if confirmable && link.is_receipt_open(self.now, message.id) {
                    self.counters.withheld_notifications += 1;
                    return;
                }
            }
        }
        if message.kind == Kind::Acknowledgement {
            self.counters.unmatched += 1;
        } else {
            self.counters.unknown_tokens += 1;
            self.send_empty(peer, Kind::Reset, message.id);
        }
    }

    /// A response under the token of an exchange; `identity` if it is confirmable.
    fn on_answer(
        &mut self,
        slot: u32,
        at: usize,
        mut message: Message,
        fault: Option<OptionFault>,
        identity: Option<Identity>,
    ) {
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let peer = link.peer;
        let Some(exchange) = link.exchanges.get_mut(at) else {
            return;
        };
        let piggybacked = message.kind == Kind::Acknowledgement;
        let awaited = matches!(&exchange.phase, Phase::Sent(sent) if sent.message_id == message.id);
        if piggybacked && !awaited {
            self.counters.unmatched += 1;
            return;
        }
        if fault.is_some() {
            self.counters.bad_options += 1;
            if message.kind == Kind::Confirmable {
                self.send_empty(peer, Kind::Reset, message.id);
            }
            return;
        }
        let cancels = exchange.purpose == Purpose::Cancel;
        let begins = exchange.asks_to_observe()
            && message.code.is_success()
            && message.code != Code::CONTINUE
            && message.options.observe.is_some();
        if let Some(identity) = identity {
            self.remember(identity, EXCHANGE_LIFETIME, Fate::Acknowledged);
            self.send_empty(peer, Kind::Acknowledgement, message.id);
        }
        if cancels && !piggybacked && message.options.observe.is_some() {
            // Sent before the peer knew that the observation is over.
            self.counters.stale_notifications += 1;
            return;
        }
        if begins && !self.begin_observation(slot, at, &message) {
            message.options.observe = None;
        }
        let Some(exchange) = self.links.exchange(slot, at) else {
            return;
        };
        match exchange.advance(message, &mut self.budget) {
            Step::Next if exchange.purpose == Purpose::Upload => self.yield_turn(slot, at),
            Step::Next => self.transmit(slot, at),
            // An ACK is no repetition: the peer does not go on.
            Step::Repetition if piggybacked => self.finish(slot, at, Err(Failure::Blockwise)),
            Step::Repetition => {}
            Step::Done(result) => self.finish(slot, at, result),
        }
    }

    /// Tells how far a body has come, and lets the requests that wait go before its next block.
    fn yield_turn(&mut self, slot: u32, at: usize) {
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let mut exchange = link.exchanges.remove(at);
        exchange.phase = Phase::Queued;
        self.timers.cancel(&Timer::Exchange(exchange.id));
        let progress = exchange.position().map(|position| Event::Progress {
            exchange: exchange.id,
            position,
        });
        link.exchanges.push(exchange);
        if let Some(progress) = progress {
            self.emit(progress);
        }
        self.start(slot);
    }

    /// Ends an exchange and begins the next.
    pub(super) fn finish(&mut self, slot: u32, at: usize, result: Result<Response, Failure>) {
        if let Some(link) = self.links.link(slot) {
            let exchange = remove_tight(&mut link.exchanges, at);
            self.conclude(exchange, result);
            self.start(slot);
            self.links.close_if_idle(self.now, slot);
        }
    }

    /// Tells the end of an exchange that is in no list any more.
    pub(super) fn conclude(&mut self, mut exchange: Exchange, result: Result<Response, Failure>) {
        self.discard(&mut exchange);
        let id = exchange.id;
        if let Purpose::Rest {
            observation,
            receipt,
            ended,
        } = exchange.purpose
        {
            return self.conclude_rest(observation, receipt, ended, result);
        }
        let stands = result
            .as_ref()
            .is_ok_and(|response| response.code.is_success() && response.observe.is_some());
        if exchange.request.observe == Some(Observe::Register) && !stands {
            self.remove_observation(slot_of(id), id);
        }
        self.emit(Event::Response {
            exchange: id,
            result,
        });
    }

    /// Gives back what an exchange holds, without a word.
    pub(super) fn discard(&mut self, exchange: &mut Exchange) {
        self.timers.cancel(&Timer::Exchange(exchange.id));
        exchange.release(&mut self.budget);
    }
}
