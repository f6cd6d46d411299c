//! Costly handshakes, which are driven elsewhere: a signature takes milliseconds, and meanwhile
//! datagrams of all others would wait.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::dtls::mux::session::{Index, Session, SessionId};
use crate::dtls::mux::{Mux, Output};
use crate::dtls::{DtlsSession, Event, Fatal, PeerIdentity};
use crate::time::{Instant, Now};

/// A step of a handshake that takes long. [`run`](Self::run) it on another thread, then give it
/// to [`Mux::worked`]: always, because only so many are out at a time.
pub struct Work {
    session: SessionId,
    now: Now,
    dtls: Box<dyn DtlsSession>,
    timeout: bool,
    datagrams: VecDeque<Vec<u8>>,
    result: Result<(), Fatal>,
    came: Vec<Came>,
    wait: Option<Instant>,
}

/// What came out of the session meanwhile.
enum Came {
    Send(Vec<u8>),
    App(Vec<u8>),
    Established(PeerIdentity, &'static str),
    Closed,
}

impl Work {
    /// The session that this is for.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// Takes the step. May take milliseconds. Time stands still meanwhile: it is the time at which
    /// the work was given out.
    pub fn run(&mut self) {
        if std::mem::take(&mut self.timeout) {
            self.result = self.dtls.timeout(self.now);
            self.drain();
        }
        while self.result.is_ok()
            && let Some(datagram) = self.datagrams.pop_front()
        {
            self.result = self.dtls.datagram(self.now, &datagram);
            self.drain();
        }
    }

    fn drain(&mut self) {
        loop {
            self.came.push(match self.dtls.poll() {
                Event::Send(bytes) => Came::Send(bytes.to_vec()),
                Event::App(bytes) => Came::App(bytes.to_vec()),
                Event::Established(identity) => Came::Established(identity, self.dtls.suite()),
                Event::Closed => Came::Closed,
                Event::Wait(until) => {
                    self.wait = until;
                    return;
                }
            });
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Work")
            .field("session", &self.session)
            .field("datagrams", &self.datagrams.len())
            .finish_non_exhaustive()
    }
}

/// Handshakes that wait for a [`Work`], first come first served, and how many are out.
#[derive(Default)]
pub(super) struct Queue {
    waiting: BTreeMap<u64, Index>,
    next: u64,
    out: usize,
}

impl Queue {
    /// Forgets one that waits.
    pub(super) fn remove(&mut self, ticket: u64) {
        self.waiting.remove(&ticket);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.out
    }
}

impl Mux {
    /// Takes back a step that the shell has run. One of a handshake that was given up meanwhile
    /// has no effect.
    pub fn worked(&mut self, now: Now, work: Work) {
        self.latest = now;
        self.work.out = self.work.out.saturating_sub(1);
        if let Some(index) = self.sessions.find(work.session) {
            self.apply(now, index, work);
        }
        self.give_work(now);
    }

    fn apply(&mut self, now: Now, index: Index, work: Work) {
        // Datagrams that came meanwhile, for whatever this becomes.
        let handshake = self.sessions.at_mut(index).and_then(Session::handshake_mut);
        let mut later = handshake.map_or_else(VecDeque::new, |handshake| {
            handshake.waiting_bytes = 0;
            std::mem::take(&mut handshake.waiting)
        });
        let mut closed = false;
        for came in work.came {
            match came {
                Came::Send(bytes) => self.transmit(index, bytes),
                Came::App(bytes) => self.deliver(now, index, None, bytes),
                Came::Established(identity, suite) => self.establish(now, index, identity, suite),
                Came::Closed => closed = true,
            }
        }
        self.settle(now, index, work.dtls, work.result, closed, work.wait);
        let route = self.sessions.at(index).map(|session| session.route);
        if let Some(route) = route {
            while let Some(datagram) = later.pop_front() {
                self.offer_datagram(now, index, route, &datagram);
            }
        }
    }

    /// A datagram for a handshake that is driven by works: it waits for the next one.
    pub(super) fn wait_for_work(&mut self, now: Now, index: Index, datagram: &[u8]) {
        const OVERHEAD: usize = 64;
        let most = self.limits.waiting_bytes;
        let session = self.sessions.at_mut(index);
        let Some(handshake) = session.and_then(Session::handshake_mut) else {
            return;
        };
        let weight = datagram.len() + OVERHEAD;
        if handshake.waiting_bytes + weight > most {
            self.counters.waiting_dropped += 1;
            return;
        }
        handshake.waiting_bytes += weight;
        handshake.waiting.push_back(datagram.to_vec());
        self.queue(index);
        self.give_work(now);
    }

    /// The timer of a handshake that is driven by works ran out.
    pub(super) fn time_out_by_work(&mut self, now: Now, index: Index) {
        let session = self.sessions.at_mut(index);
        if let Some(handshake) = session.and_then(Session::handshake_mut) {
            handshake.timeout_due = true;
            self.queue(index);
            self.give_work(now);
        }
    }

    /// Puts a handshake into the queue, unless it is there or its work is out.
    fn queue(&mut self, index: Index) {
        let Some(session) = self.sessions.at_mut(index) else {
            return;
        };
        let at_home = session.dtls.is_some();
        if let Some(handshake) = session.handshake_mut()
            && at_home
            && handshake.queued.is_none()
        {
            let ticket = self.work.next;
            self.work.next += 1;
            handshake.queued = Some(ticket);
            self.work.waiting.insert(ticket, index);
        }
    }

    /// Gives out as many works as may be out.
    fn give_work(&mut self, now: Now) {
        while self.work.out < self.limits.work.max(1)
            && let Some((_, index)) = self.work.waiting.pop_first()
        {
            let id = self.sessions.id(index);
            let Some(session) = self.sessions.at_mut(index) else {
                continue;
            };
            let Some(dtls) = session.dtls.take() else {
                continue;
            };
            if std::mem::take(&mut session.timed) {
                self.timers.cancel(&index);
            }
            let Some(handshake) = session.handshake_mut() else {
                continue;
            };
            handshake.queued = None;
            handshake.waiting_bytes = 0;
            let work = Work {
                session: id,
                now,
                dtls,
                timeout: std::mem::take(&mut handshake.timeout_due),
                datagrams: std::mem::take(&mut handshake.waiting),
                result: Ok(()),
                came: Vec::new(),
                wait: None,
            };
            self.work.out += 1;
            self.outputs.push_back(Output::Work(work));
        }
    }
}
