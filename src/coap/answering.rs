//! What peers ask of us: requests, answered once however often they come.

use bytes::Bytes;

use crate::coap::block::Block;
use crate::coap::dedup::{Fate, Identity, Waiting, lifetime};
use crate::coap::endpoint::{Endpoint, Event, IncomingId, Timer};
use crate::coap::message::{Kind, Message};
use crate::coap::option::{OptionFault, Options, Tag};
use crate::coap::transfer::{Reply, Subject, Taken};
use crate::coap::types::{Code, Observe, Peer, Response, Token};
use crate::time::Instant;

impl Endpoint {
    /// Answers a peer's request. Unknown ids (answered, or timed out) are ignored.
    pub fn respond(&mut self, now: Instant, incoming: IncomingId, response: Response) {
        self.now = now;
        let Some(&mut waiting) = self.seen.waiting(incoming) else {
            return;
        };
        self.timers.cancel(&Timer::Acknowledge(incoming));
        let number = self.accept_observer(&waiting, &response);
        let mut reply = self.first_reply(waiting.key(), waiting.block2, response);
        reply.options.observe = number;
        reply.options.block1 = waiting.block1;
        let fate = self.answer(&waiting, reply);
        self.seen.settle(incoming, fate);
    }

    /// Answers a GET with a body that others hold, too, and that stays what it is as long as it goes
    /// by `etag`: only the block that was asked for is cut out of it. Nothing is kept for the
    /// request for the next one, which comes as an [`Event::Request`] of its own, nor for a
    /// repetition of this one. Returns how many bytes of the body the peer has asked for so far.
    pub fn respond_with(
        &mut self,
        now: Instant,
        incoming: IncomingId,
        response: &Response,
        body: &Bytes,
        etag: u64,
    ) -> Option<usize> {
        self.now = now;
        let waiting = *self.seen.waiting(incoming)?;
        self.timers.cancel(&Timer::Acknowledge(incoming));
        let asked = waiting.block2;
        let size = asked.map_or(self.block_size, |block| block.size.min(self.block_size));
        let offset = asked.map_or(0, Block::offset);
        let cut = Block::cut(body, offset, size);
        let reply = match cut {
            None => Reply::new(Code::BAD_REQUEST),
            Some((block, piece)) => {
                let mut options = Options::of_response(response);
                options.etag = Tag::new(&etag.to_be_bytes());
                options.block2 = (asked.is_some() || block.more).then_some(block);
                if block.number == 0 {
                    options.size2 = u32::try_from(body.len()).ok();
                }
                Reply {
                    code: response.code,
                    options,
                    payload: piece.to_vec(),
                }
            }
        };
        let fate = self.answer(&waiting, reply);
        let can_be_said_again = matches!(fate, Fate::Answered(_));
        if can_be_said_again {
            self.seen.forget(incoming);
        } else {
            self.seen.settle(incoming, fate);
        }
        cut.map(|(_, piece)| offset + piece.len())
    }

    /// Token and Message ID of a request that waits for its answer.
    pub fn identity_of(&mut self, incoming: IncomingId) -> Option<(Token, u16)> {
        let waiting = self.seen.waiting(incoming)?;
        Some((waiting.token, waiting.message_id))
    }

    /// A request that arrived.
    pub(super) fn on_request(&mut self, peer: Peer, message: Message, fault: Option<OptionFault>) {
        let identity = self.identify(peer, &message);
        if self.is_repetition(identity) {
            return;
        }
        let confirmable = message.kind == Kind::Confirmable;
        let mut waiting = Waiting {
            peer,
            message_id: message.id,
            confirmable,
            acknowledged: false,
            token: message.token,
            subject: Subject::of(self.subject_key, message.code, &message.options),
            observe: None,
            block1: None,
            block2: message.options.block2,
        };
        if let Some(fault) = fault {
            self.counters.bad_options += 1;
            // One that is not confirmable is rejected in silence (RFC 7252 §5.4.1).
            if confirmable {
                let mut refusal = Reply::new(fault.code());
                refusal.payload = fault.to_string().into_bytes();
                self.answer(&waiting, refusal);
            }
            return;
        }
        if !(Code::GET..=Code::IPATCH).contains(&message.code) {
            self.answer(&waiting, Reply::new(Code::METHOD_NOT_ALLOWED));
            return;
        }
        // Replies that are the same each time need not be remembered.
        if let Some(reply) = self.further_reply(&message, &waiting) {
            self.answer(&waiting, reply);
            return;
        }
        let method = message.code;
        let Some((options, payload)) = self.take_block(identity, message, &mut waiting) else {
            return;
        };
        let request = options.into_request(method, payload);
        waiting.observe = request.observe;
        if request.observe == Some(Observe::Deregister)
            && let Some(slot) = self.links.slot(peer)
        {
            self.remove_observer(slot, waiting.token);
            self.links.close_if_idle(self.now, slot);
        }
        let token = waiting.token;
        let fate = Fate::Waiting(Box::new(waiting));
        let incoming = self.remember(identity, lifetime(confirmable), fate);
        if confirmable {
            let late = self.now + self.parameters.separate_after;
            self.timers.set(Timer::Acknowledge(incoming), late);
        }
        self.emit(Event::Request {
            peer,
            incoming,
            token,
            request,
        });
    }

    /// The reply to a request for a block after the first, out of the response that was kept for
    /// it. `None` when the layer above is to be asked.
    fn further_reply(&mut self, message: &Message, waiting: &Waiting) -> Option<Reply> {
        let block = message.options.block2.filter(|block| block.number > 0)?;
        if message.options.block1.is_some() {
            return None;
        }
        let size = block.size.min(self.block_size);
        let kept = self
            .transfers
            .further(self.now, waiting.key(), block.offset(), size);
        match kept {
            Some(Some(reply)) => Some(reply),
            Some(None) => Some(Reply::new(Code::BAD_REQUEST)),
            // Asked again, the layer above answers as a whole, and the block is cut out of that.
            None if matches!(message.code, Code::GET | Code::FETCH) => None,
            // What changes something is not done again.
            None => Some(Reply::new(Code::REQUEST_ENTITY_INCOMPLETE)),
        }
    }

    /// Takes in the block of a request body, if the body comes in blocks; returns the request's
    /// options and body once it is whole (RFC 7959 §2.5).
    fn take_block(
        &mut self,
        identity: Identity,
        message: Message,
        waiting: &mut Waiting,
    ) -> Option<(Options, Vec<u8>)> {
        let Some(block) = message.options.block1 else {
            return Some((message.options, message.payload));
        };
        let observe = message.options.observe;
        let taken = self.transfers.take(
            self.now,
            waiting.key(),
            block,
            message.options,
            message.payload,
            &mut self.budget,
        );
        self.watch_transfers();
        // The size that we would rather have (RFC 7959 §2.3).
        waiting.block1 = Some(Block {
            size: block.size.min(self.block_size),
            ..block
        });
        let code = match taken {
            Taken::Whole(mut options, body) => {
                options.observe = options.observe.or(observe);
                options.block1 = None;
                return Some((options, body));
            }
            Taken::Next => Code::CONTINUE,
            Taken::Gap => Code::REQUEST_ENTITY_INCOMPLETE,
            Taken::WrongLength => Code::BAD_REQUEST,
            Taken::TooLarge => Code::REQUEST_ENTITY_TOO_LARGE,
            Taken::NoRoom => Code::SERVICE_UNAVAILABLE,
        };
        let mut reply = Reply::new(code);
        match code {
            Code::CONTINUE => reply.options.block1 = waiting.block1,
            Code::REQUEST_ENTITY_TOO_LARGE => {
                reply.options.size1 = u32::try_from(self.limits.body).ok();
                self.counters.refused_transfers += 1;
            }
            Code::SERVICE_UNAVAILABLE => self.counters.refused_transfers += 1,
            _ => {}
        }
        let fate = self.answer(waiting, reply);
        self.remember(identity, lifetime(waiting.confirmable), fate);
        None
    }

    /// What to send first of a response: all of it, or the block that was asked for.
    pub(super) fn first_reply(
        &mut self,
        key: (Peer, Subject),
        asked: Option<Block>,
        response: Response,
    ) -> Reply {
        let size = asked.map_or(self.block_size, |block| block.size.min(self.block_size));
        let offset = asked.map_or(0, Block::offset);
        if response.payload.len() <= size.bytes() && offset == 0 {
            self.transfers.drop_representation(key, &mut self.budget);
            let mut options = Options::of_response(&response);
            options.block2 = asked.and_then(|_| Block::at(0, false, size));
            return Reply {
                code: response.code,
                options,
                payload: response.payload,
            };
        }
        let (now, budget) = (self.now, &mut self.budget);
        let reply = self
            .transfers
            .keep(now, key, response, offset, size, budget);
        self.watch_transfers();
        reply.unwrap_or_else(|| Reply::new(Code::BAD_REQUEST))
    }

    /// Sends a reply in the kind of message that is left to it, and says what a repetition of the
    /// request is to get.
    fn answer(&mut self, waiting: &Waiting, reply: Reply) -> Fate {
        let peer = waiting.peer;
        let mut message = Message {
            kind: Kind::Acknowledgement,
            code: reply.code,
            id: waiting.message_id,
            token: waiting.token,
            options: reply.options,
            payload: reply.payload,
        };
        if waiting.confirmable && !waiting.acknowledged {
            let datagram = message.encode();
            self.send(peer, datagram.clone());
            return Fate::Answered(datagram.into());
        }
        if waiting.confirmable {
            message.kind = Kind::Confirmable;
            let slot = self.open_link(peer);
            self.send_now(slot, message, None);
            return Fate::Acknowledged;
        }
        message.kind = Kind::NonConfirmable;
        match self.links.slot(peer) {
            Some(slot) => {
                self.send_now(slot, message, None);
            }
            // A stranger shall cost nothing, so it gets its own Message ID back: it numbers its
            // messages no less uniquely than we would.
            None => self.send(peer, message.encode()),
        }
        Fate::Silence
    }

    /// The request was not answered in time to piggyback.
    pub(super) fn on_answer_late(&mut self, incoming: IncomingId) {
        if let Some(waiting) = self.seen.waiting(incoming) {
            waiting.acknowledged = true;
            let (peer, message_id) = (waiting.peer, waiting.message_id);
            self.send_empty(peer, Kind::Acknowledgement, message_id);
        }
    }
}
