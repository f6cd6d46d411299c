//! Notifying the peers that observe something here (RFC 7641 §4), and confirmable messages of ours
//! that are no requests.

use crate::coap::block::Block;
use crate::coap::dedup::Waiting;
use crate::coap::endpoint::{Endpoint, Event, Timer};
use crate::coap::link::{Outgoing, insert_tight, remove_tight};
use crate::coap::message::{Kind, Message};
use crate::coap::observe::Observer;
use crate::coap::types::{Observe, Peer, Response, Token};
use crate::time::Instant;

/// Observe numbers have 24 bits (RFC 7641 §2).
const OBSERVE_NUMBERS: u32 = 1 << 24;

impl Endpoint {
    /// Sends a notification to an observer (a peer whose request with Observe = 0 we accepted); an
    /// unknown one is ignored. An error code ends the observation (RFC 7641 §4.2).
    ///
    /// While a confirmable notification waits for its ACK, the next one waits too, and the newest
    /// replaces what waits (RFC 7641 §4.5.2). At least once in 24 hours one is sent confirmable
    /// (RFC 7641 §4.5).
    pub fn notify(
        &mut self,
        now: Instant,
        peer: Peer,
        token: Token,
        response: Response,
        confirmable: bool,
    ) {
        self.now = now;
        let Some(slot) = self.links.slot(peer) else {
            return;
        };
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let Ok(at) = link.observer(token) else {
            return;
        };
        let Some(observer) = link.observers.get(at) else {
            return;
        };
        let confirmable = confirmable || observer.is_confirmable_due(now);
        let asked = Block::at(0, false, observer.block_size);
        let subject = observer.subject;
        let is_last = !response.code.is_success();
        let number = self.next_observe_number();
        let mut reply = self.first_reply((peer, subject), asked, response);
        reply.options.observe = (!is_last).then_some(number);
        let message = Message {
            kind: if confirmable {
                Kind::Confirmable
            } else {
                Kind::NonConfirmable
            },
            code: reply.code,
            id: 0,
            token,
            options: reply.options,
            payload: reply.payload,
        };
        if !is_last {
            return self.send_notification(slot, message);
        }
        // The last one overtakes what waits, and waits for nothing.
        self.remove_observer(slot, token);
        self.send_now(slot, message, None);
        self.links.close_if_idle(now, slot);
    }

    pub(super) fn on_outgoing_timeout(&mut self, slot: u32, message_id: u16) {
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let peer = link.peer;
        let Some(at) = link.outgoing_sent(message_id) else {
            return;
        };
        let Some(outgoing) = link.outgoing.get_mut(at) else {
            return;
        };
        let observer = outgoing.observer;
        let transmission = &mut outgoing.transmission;
        let Some(wait) = transmission.repeat(self.parameters.max_retransmit) else {
            self.counters.unacknowledged += 1;
            self.take_outgoing(slot, message_id);
            if let Some(token) = observer {
                self.on_observer_gone(slot, token);
            }
            self.links.close_if_idle(self.now, slot);
            return;
        };
        let datagram = transmission.datagram.clone();
        self.counters.retransmissions += 1;
        let timer = Timer::Outgoing(slot, message_id);
        // What changed meanwhile is told in place of what was (RFC 7641 §4.5.2): another message,
        // but no new patience.
        let newer = observer.and_then(|token| self.take_waiting(slot, token));
        let Some(mut newer) = newer else {
            self.timers.set(timer, self.now + wait);
            self.send(peer, datagram);
            return;
        };
        newer.id = self.next_message_id(slot);
        let message_id = newer.id;
        let datagram = newer.encode();
        if let Some(link) = self.links.link(slot)
            && let Some(outgoing) = link.outgoing.get_mut(at)
        {
            outgoing.transmission.message_id = message_id;
            outgoing.transmission.datagram.clone_from(&datagram);
        }
        self.timers.cancel(&timer);
        self.timers
            .set(Timer::Outgoing(slot, message_id), self.now + wait);
        self.send(peer, datagram);
    }

    /// An ACK; says whether it belongs to a notification or separate response.
    pub(super) fn on_outgoing_acknowledged(&mut self, slot: u32, message_id: u16) -> bool {
        let Some(outgoing) = self.take_outgoing(slot, message_id) else {
            return false;
        };
        if let Some(token) = outgoing.observer
            && let Some(message) = self.take_waiting(slot, token)
        {
            self.send_notification(slot, message);
        }
        self.links.close_if_idle(self.now, slot);
        true
    }

    /// A Reset; says whether it belongs to a notification or separate response.
    pub(super) fn on_outgoing_reset(&mut self, slot: u32, message_id: u16) -> bool {
        let observer = match self.take_outgoing(slot, message_id) {
            Some(outgoing) => outgoing.observer,
            // Or to a notification that was not confirmable.
            None => {
                let link = self.links.link(slot);
                let observer = link.and_then(|link| {
                    let mut observers = link.observers.iter();
                    observers.find(|observer| observer.last_id == Some(message_id))
                });
                match observer {
                    Some(observer) => Some(observer.token),
                    None => return false,
                }
            }
        };
        if let Some(token) = observer {
            self.on_observer_gone(slot, token);
        }
        self.links.close_if_idle(self.now, slot);
        true
    }

    fn take_outgoing(&mut self, slot: u32, message_id: u16) -> Option<Outgoing> {
        let link = self.links.link(slot)?;
        let at = link.outgoing_sent(message_id)?;
        self.timers.cancel(&Timer::Outgoing(slot, message_id));
        Some(remove_tight(&mut link.outgoing, at))
    }

    /// Registers the observer if the request asked for it, the response accepts it, and there is
    /// room; returns the number of its first notification, which is the response.
    pub(super) fn accept_observer(
        &mut self,
        waiting: &Waiting,
        response: &Response,
    ) -> Option<u32> {
        if waiting.observe != Some(Observe::Register)
            || response.observe.is_none()
            || !response.code.is_success()
            // Only the first block speaks of observing (RFC 7959 §2.6).
            || waiting.block2.is_some_and(|block| block.number > 0)
        {
            return None;
        }
        let slot = self.open_link(waiting.peer);
        let now = self.now;
        let number = self.next_observe_number();
        let block_size = waiting.block2.map_or(self.block_size, |block| block.size);
        let link = self.links.link(slot)?;
        match link.observer(waiting.token) {
            // It asks once more, under the same token (RFC 7641 §4.1).
            Ok(at) => {
                let observer = link.observers.get_mut(at)?;
                observer.subject = waiting.subject;
                observer.block_size = block_size;
            }
            Err(_) if self.observations >= self.limits.observations => {
                self.counters.refused_observations += 1;
                self.links.close_if_idle(now, slot);
                return None;
            }
            Err(at) => {
                let observer = Observer {
                    token: waiting.token,
                    subject: waiting.subject,
                    block_size,
                    last_id: None,
                    waiting: None,
                    last_confirmable: now,
                };
                insert_tight(&mut link.observers, at, observer);
                self.observations += 1;
            }
        }
        Some(number)
    }

    fn next_observe_number(&mut self) -> u32 {
        self.observe_number = (self.observe_number + 1) % OBSERVE_NUMBERS;
        self.observe_number
    }

    /// Sends a notification, or lets it wait for the one before it.
    fn send_notification(&mut self, slot: u32, mut message: Message) {
        let token = message.token;
        let Some(link) = self.links.link(slot) else {
            return;
        };
        let mut outgoing = link.outgoing.iter();
        let is_one_out = outgoing.any(|outgoing| outgoing.observer == Some(token));
        let at = link.observer(token);
        let Some(observer) = at.ok().and_then(|at| link.observers.get_mut(at)) else {
            return;
        };
        if is_one_out {
            // It takes the place of what it overtakes, so it is as important.
            message.kind = Kind::Confirmable;
            observer.waiting = Some(Box::new(message));
            return;
        }
        let confirmable = message.kind == Kind::Confirmable;
        if confirmable {
            observer.last_confirmable = self.now;
        }
        let message_id = self.send_now(slot, message, Some(token));
        if !confirmable
            && let Some(link) = self.links.link(slot)
            && let Ok(at) = link.observer(token)
            && let Some(observer) = link.observers.get_mut(at)
        {
            observer.last_id = Some(message_id);
        }
    }

    /// Sends a message of our own under a new Message ID, which it returns, and watches over it if
    /// it is confirmable.
    pub(super) fn send_now(
        &mut self,
        slot: u32,
        mut message: Message,
        observer: Option<Token>,
    ) -> u16 {
        let message_id = self.next_message_id(slot);
        message.id = message_id;
        let confirmable = message.kind == Kind::Confirmable;
        let datagram = message.encode();
        let watched = confirmable.then(|| self.first_transmission(message_id, datagram.clone()));
        let Some(link) = self.links.link(slot) else {
            return message_id;
        };
        let peer = link.peer;
        if let Some(transmission) = watched {
            let deadline = self.now + transmission.timeout;
            link.outgoing.push(Outgoing {
                transmission,
                observer,
            });
            self.timers.set(Timer::Outgoing(slot, message_id), deadline);
        }
        self.send(peer, datagram);
        message_id
    }

    /// Takes the notification that waits for the one before it.
    fn take_waiting(&mut self, slot: u32, token: Token) -> Option<Message> {
        let link = self.links.link(slot)?;
        let at = link.observer(token).ok()?;
        let waiting = link.observers.get_mut(at)?.waiting.take()?;
        Some(*waiting)
    }

    fn on_observer_gone(&mut self, slot: u32, token: Token) {
        if let Some(peer) = self.remove_observer(slot, token) {
            self.emit(Event::ObserverGone { peer, token });
        }
    }

    pub(super) fn remove_observer(&mut self, slot: u32, token: Token) -> Option<Peer> {
        let link = self.links.link(slot)?;
        let at = link.observer(token).ok()?;
        remove_tight(&mut link.observers, at);
        self.observations -= 1;
        Some(link.peer)
    }
}
