//! Observing: the notifications of peers, put in order, made whole, and acknowledged when the layer
//! above has them safe (RFC 7641, RFC 7959 §2.6).

use crate::coap::dedup::{EXCHANGE_LIFETIME, Fate, Identity};
use crate::coap::endpoint::{Cancel, Endpoint, Event, ExchangeId, Failure, ObservationId, Receipt};
use crate::coap::exchange::{Exchange, Purpose, Step};
use crate::coap::link::{OpenReceipt, insert_tight, remove_tight, slot_of};
use crate::coap::message::{Kind, Message};
use crate::coap::observe::{Observation, Order};
use crate::coap::option::{OptionFault, Options};
use crate::coap::types::{Code, Observe, Request, Response, Token};
use crate::time::Instant;

/// Confirmable notifications of one peer that may wait to be acknowledged at a time.
const MOST_RECEIPTS: usize = 64;

impl Endpoint {
    /// Ends an observation of ours. With [`Cancel::Request`] the id returned is the exchange of the
    /// cancelling request; it goes before the limit of the queue. `None` when there is no such
    /// observation, and with [`Cancel::Forget`].
    ///
    /// Notifications not yet acknowledged may still be.
    pub fn cancel(
        &mut self,
        now: Instant,
        observation: ObservationId,
        how: Cancel,
    ) -> Option<ExchangeId> {
        self.now = now;
        let slot = slot_of(observation);
        let ended = self.remove_observation(slot, observation)?;
        if let Some(receipt) = self.take_rest(slot, observation) {
            self.acknowledge(receipt);
        }
        let exchange = match how {
            Cancel::Forget => None,
            Cancel::Request => {
                unpack(&ended.request).and_then(|request| self.exchange_for(slot, request))
            }
        };
        let id = exchange.as_ref().map(|exchange| exchange.id);
        if let Some(mut exchange) = exchange
            && let Some(link) = self.links.link(slot)
        {
            exchange.request.observe = Some(Observe::Deregister);
            exchange.purpose = Purpose::Cancel;
            exchange.token = ended.token;
            let end = link.exchanges.len();
            insert_tight(&mut link.exchanges, end, exchange);
        }
        self.start(slot);
        self.links.close_if_idle(now, slot);
        id
    }

    /// Takes custody of a confirmable notification: sends its ACK. Until then repetitions are
    /// swallowed. A receipt that was taken before, or that is unknown, is ignored.
    pub fn acknowledge(&mut self, receipt: Receipt) {
        let Receipt { peer, message_id } = receipt;
        let Some(slot) = self.links.slot(peer) else {
            return;
        };
        if let Some(open) = self.close_receipt(slot, message_id) {
            self.send_empty(peer, Kind::Acknowledgement, message_id);
            if let Some(last) = open.last {
                self.remember(last, EXCHANGE_LIFETIME, Fate::Acknowledged);
            }
            self.links.close_if_idle(self.now, slot);
        }
    }

    /// Lets the observation stand that an exchange asked for; says whether there is room.
    pub(super) fn begin_observation(&mut self, slot: u32, at: usize, first: &Message) -> bool {
        if self.observations >= self.limits.observations {
            self.counters.refused_observations += 1;
            return false;
        }
        // What else the exchange asks goes under another token: this one is the observation's.
        let token = self.fresh_token(slot);
        let Some(link) = self.links.link(slot) else {
            return false;
        };
        let Some(exchange) = link.exchanges.get_mut(at) else {
            return false;
        };
        let mut observations = link.observations.iter();
        if observations.any(|observation| observation.id == exchange.id) {
            return true;
        }
        let observation = Observation::new(
            exchange.id,
            exchange.token,
            pack(exchange),
            first.options.observe.unwrap_or(0),
            self.now,
        );
        exchange.token = token;
        let (Ok(place) | Err(place)) = link.observation(observation.token);
        insert_tight(&mut link.observations, place, observation);
        self.observations += 1;
        true
    }

    /// A notification: the message that there are most of. `identity` if it is confirmable.
    pub(super) fn on_notification(
        &mut self,
        slot: u32,
        at: usize,
        message: Message,
        fault: Option<OptionFault>,
        identity: Option<Identity>,
    ) {
        let now = self.now;
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let peer = link.peer;
        let confirmable = message.kind == Kind::Confirmable;
        if fault.is_some() {
            self.counters.bad_options += 1;
            if confirmable {
                self.send_empty(peer, Kind::Reset, message.id);
            }
            return;
        }
        let Some(observation) = link.observations.get(at) else {
            return;
        };
        let id = observation.id;
        let first = link.exchange(id);
        if confirmable {
            link.receipts.retain(|open| open.expiry > now);
            if link.is_receipt_open(now, message.id)
                // The first representation has to come first.
                || first.is_some()
                || link.receipts.len() >= MOST_RECEIPTS
            {
                self.counters.withheld_notifications += 1;
                return;
            }
        }
        let number = message
            .options
            .observe
            .filter(|_| message.code.is_success());
        let order = match (number, link.observations.get_mut(at)) {
            (Some(number), Some(observation)) => observation.place(number, now),
            _ => Order::Newest,
        };
        if order != Order::Newest {
            self.counters.stale_notifications += 1;
            // What a device stored says itself when it was; the rest of a body of which this is
            // the first block is gone.
            let whole = !message.options.block2.is_some_and(|block| block.more);
            let of_use = order == Order::Overtaken && whole && first.is_none();
            if !of_use {
                if confirmable {
                    self.send_empty(peer, Kind::Acknowledgement, message.id);
                }
                return;
            }
        }
        if let Some(at) = first {
            return self.replace_first(slot, at, message);
        }
        let ended = number.is_none();
        let receipt = confirmable.then_some(Receipt {
            peer,
            message_id: message.id,
        });
        if confirmable {
            link.receipts.push(OpenReceipt {
                message_id: message.id,
                number: number.map(|number| (id, number)),
                expiry: now + EXCHANGE_LIFETIME,
                last: identity.filter(|_| ended),
            });
        }
        if order == Order::Overtaken {
            return self.emit(Event::Notification {
                observation: id,
                response: message.options.into_response(message.code, message.payload),
                ended: false,
                overtaken: true,
                receipt,
            });
        }
        self.deliver(slot, at, id, message, ended, receipt);
    }

    /// Hands a notification on, or begins to fetch the rest of it.
    fn deliver(
        &mut self,
        slot: u32,
        at: usize,
        id: ObservationId,
        message: Message,
        ended: bool,
        receipt: Option<Receipt>,
    ) {
        // A newer one takes the place of one that is still being fetched. If the newer one has no
        // receipt, it takes over that of the older, so that what the device counts as taken is.
        let overtaken = self.take_rest(slot, id);
        let receipt = match (receipt, overtaken) {
            (Some(newer), Some(older)) => {
                self.acknowledge(older);
                Some(newer)
            }
            (newer, older) => newer.or(older),
        };
        let has_more = message.options.block2.is_some_and(|block| block.more);
        let rest = if has_more && message.code.is_success() {
            let link = self.links.link(slot);
            let observation = link.and_then(|link| link.observations.get(at));
            let request = observation.and_then(|observation| unpack(&observation.request));
            request.and_then(|request| self.exchange_for(slot, request))
        } else {
            None
        };
        if ended {
            self.remove_observation(slot, id);
        }
        match rest {
            None => {
                let response = message.options.into_response(message.code, message.payload);
                self.emit(Event::Notification {
                    observation: id,
                    response,
                    ended,
                    overtaken: false,
                    receipt,
                });
            }
            Some(mut exchange) => {
                exchange.purpose = Purpose::Rest {
                    observation: id,
                    receipt,
                    ended,
                };
                match exchange.begin_again(message, &mut self.budget) {
                    Step::Done(result) => self.conclude(exchange, result),
                    Step::Next | Step::Repetition => self.enqueue_first(slot, exchange),
                }
            }
        }
        self.start(slot);
        self.links.close_if_idle(self.now, slot);
    }

    /// A notification that overtakes the first representation while that is still being fetched:
    /// it becomes the response that the exchange waits for.
    fn replace_first(&mut self, slot: u32, at: usize, message: Message) {
        let token = self.fresh_token(slot);
        let Some(exchange) = self.links.exchange(slot, at) else {
            return;
        };
        exchange.token = token;
        match exchange.begin_again(message, &mut self.budget) {
            Step::Done(result) => self.finish(slot, at, result),
            Step::Next | Step::Repetition => self.transmit(slot, at),
        }
    }

    /// The blocks of a notification are here, or will not come.
    pub(super) fn conclude_rest(
        &mut self,
        observation: ObservationId,
        receipt: Option<Receipt>,
        ended: bool,
        result: Result<Response, Failure>,
    ) {
        let response = match result {
            Ok(response) if response.code.is_success() => response,
            _ => {
                self.counters.lost_notifications += 1;
                if !ended {
                    self.on_notification_lost(observation, receipt);
                    return;
                }
                Response::new(Code::REQUEST_ENTITY_INCOMPLETE)
            }
        };
        self.emit(Event::Notification {
            observation,
            response,
            ended,
            overtaken: false,
            receipt,
        });
    }

    /// Without the rest the notification was not received: a repetition of it shall count as new.
    fn on_notification_lost(&mut self, id: ObservationId, receipt: Option<Receipt>) {
        let slot = slot_of(id);
        if let Some(receipt) = receipt {
            self.close_receipt(slot, receipt.message_id);
        }
        if let Some(link) = self.links.link(slot) {
            let mut observations = link.observations.iter_mut();
            if let Some(observation) = observations.find(|observation| observation.id == id) {
                observation.forget_order();
            }
        }
    }

    /// Puts an exchange before those behind NSTART: the value that it fetches ages.
    fn enqueue_first(&mut self, slot: u32, exchange: Exchange) {
        if let Some(link) = self.links.link(slot) {
            let mut exchanges = link.exchanges.iter();
            let place = exchanges.position(|exchange| exchange.is_queued());
            let place = place.unwrap_or(link.exchanges.len());
            insert_tight(&mut link.exchanges, place, exchange);
        }
    }

    /// A new exchange that asks once more what began an observation, now without observing.
    fn exchange_for(&mut self, slot: u32, mut request: Request) -> Option<Exchange> {
        self.links.link(slot)?;
        request.observe = None;
        let id = self.links.issue(slot);
        let token = self.fresh_token(slot);
        let size = self.block_size;
        Some(Exchange::new(id, token, request, Purpose::Request, size))
    }

    pub(super) fn remove_observation(
        &mut self,
        slot: u32,
        id: ObservationId,
    ) -> Option<Observation> {
        let observations = &mut self.links.link(slot)?.observations;
        let at = observations
            .iter()
            .position(|observation| observation.id == id)?;
        self.observations -= 1;
        Some(remove_tight(observations, at))
    }

    /// Takes back the exchange that fetches the rest of a notification, and returns the receipt
    /// that hung on it.
    fn take_rest(&mut self, slot: u32, id: ObservationId) -> Option<Receipt> {
        let exchanges = &mut self.links.link(slot)?.exchanges;
        let at = exchanges.iter().position(|exchange| {
            matches!(exchange.purpose, Purpose::Rest { observation, .. } if observation == id)
        })?;
        let mut exchange = remove_tight(exchanges, at);
        self.discard(&mut exchange);
        match exchange.purpose {
            Purpose::Rest { receipt, .. } => receipt,
            _ => None,
        }
    }

    fn close_receipt(&mut self, slot: u32, message_id: u16) -> Option<OpenReceipt> {
        let receipts = &mut self.links.link(slot)?.receipts;
        let at = receipts
            .iter()
            .position(|open| open.message_id == message_id)?;
        Some(remove_tight(receipts, at))
    }
}

/// A request in its smallest form.
fn pack(exchange: &Exchange) -> Box<[u8]> {
    let request = &exchange.request;
    Message {
        kind: Kind::Confirmable,
        code: request.method,
        id: 0,
        token: Token::default(),
        options: Options::of_request(request),
        payload: exchange.body.to_vec(),
    }
    .encode()
    .into()
}

/// The request back from its smallest form.
fn unpack(datagram: &[u8]) -> Option<Request> {
    let message = Message::parse(datagram).ok()?.message;
    Some(message.options.into_request(message.code, message.payload))
}
