//! The life of a session: begun, driven, established, moved, ended.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;

use crate::dtls::hello::CookieMark;
use crate::dtls::mux::bounds::Source;
use crate::dtls::mux::session::{Handshake, Index, Live, Role, Session, Stage};
use crate::dtls::mux::{Here, Mux, Output};
use crate::dtls::record::{Cid, Record, content, records};
use crate::dtls::{DtlsSession, Event, Fatal, PeerIdentity};
use crate::route::Route;
use crate::time::{Instant, Now};

/// How exactly the order of idleness is kept: it is a tree, and not to be touched a datagram.
const PLACE_EVERY: Duration = Duration::from_secs(60);

/// A handshake that is to begin.
pub(super) struct Opening {
    pub(super) route: Route,
    pub(super) role: Role,
    pub(super) dtls: Box<dyn DtlsSession>,
    /// What the peer is to send.
    pub(super) cid: Option<Cid>,
    /// What the client has proven; none in the client's role.
    pub(super) cookie: Option<CookieMark>,
    pub(super) costly: bool,
}

/// How a record came in.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    route: Route,
    number: u64,
    by_cid: bool,
}

impl Mux {
    /// Takes a new handshake into the tables. `None` when these are full.
    pub(super) fn begin(&mut self, now: Now, opening: Opening) -> Option<Index> {
        let began = now.instant;
        let serial = self.next_serial;
        self.next_serial += 1;
        let (route, role, cid) = (opening.route, opening.role, opening.cid);
        let index = self.sessions.insert(Session {
            dtls: Some(opening.dtls),
            route,
            cid,
            role,
            timed: false,
            cookie: opening.cookie,
            stage: Stage::Handshake(Box::new(Handshake {
                began,
                serial,
                costly: opening.costly,
                queued: None,
                timeout_due: false,
                waiting: VecDeque::new(),
                waiting_bytes: 0,
            })),
        })?;
        if let Some(cid) = cid {
            self.cids.insert(cid, index);
        }
        self.routes.entry(route).or_default().unfinished = Some(index);
        let source = Source::of(route.address.ip());
        match role {
            Role::Server => self.unfinished.insert(began, serial, source, index),
            Role::Client => self.connecting.insert(began, serial, source, index),
        }
        self.counters.handshakes_started += 1;
        Some(index)
    }

    /// A connection ID that no session has, and nobody can guess.
    pub(super) fn fresh_cid(&mut self) -> Cid {
        loop {
            let cid = self.rng.random();
            if !self.cids.contains_key(&cid) {
                return cid;
            }
        }
    }

    /// Gives all records of a datagram to a session: see [`offer`](Self::offer).
    pub(super) fn offer_datagram(
        &mut self,
        now: Now,
        index: Index,
        route: Route,
        datagram: &[u8],
    ) -> bool {
        let handshake = self.sessions.at_mut(index).and_then(Session::handshake_mut);
        if handshake.is_some() {
            return self.advance(now, index, datagram);
        }
        let mut acted = false;
        for record in records(datagram) {
            acted |= self.offer(now, index, route, &record);
        }
        acted
    }

    /// Gives a record to a session, if it can be for it: nothing of epoch 0 for an established
    /// one, no application data for a handshake. Returns whether it had any effect.
    pub(super) fn offer(
        &mut self,
        now: Now,
        index: Index,
        route: Route,
        record: &Record<'_>,
    ) -> bool {
        let Some(session) = self.sessions.at_mut(index) else {
            return false;
        };
        let addressed = match record.cid {
            Some(_) => record.cid == session.cid && route.listener == session.route.listener,
            None => route == session.route,
        };
        if !addressed {
            return false;
        }
        if session.handshake_mut().is_some() {
            // It would be of the session that stands beside this handshake, or ahead of its time.
            return record.content != content::APPLICATION_DATA
                && self.advance(now, index, record.whole);
        }
        if record.epoch() == 0 {
            // Anybody can have written it.
            self.counters.passed_over += 1;
            return false;
        }
        let arrival = Arrival {
            route,
            number: record.number,
            by_cid: record.cid.is_some(),
        };
        let acted = self.drive(now, index, Some(arrival), |dtls| {
            dtls.datagram(now, record.whole)
        });
        if !acted {
            self.counters.passed_over += 1;
        }
        acted
    }

    /// Gives a datagram to a handshake. Returns whether it had any effect now.
    pub(super) fn advance(&mut self, now: Now, index: Index, datagram: &[u8]) -> bool {
        let handshake = self.sessions.at_mut(index).and_then(Session::handshake_mut);
        if handshake.is_some_and(|handshake| handshake.costly) {
            self.wait_for_work(now, index, datagram);
            return true;
        }
        self.drive(now, index, None, |dtls| dtls.datagram(now, datagram))
    }

    /// Calls the engine's part and does what comes out of it. Returns whether anything did.
    pub(super) fn drive(
        &mut self,
        now: Now,
        index: Index,
        arrival: Option<Arrival>,
        step: impl FnOnce(&mut dyn DtlsSession) -> Result<(), Fatal>,
    ) -> bool {
        let session = self.sessions.at_mut(index);
        let Some(mut dtls) = session.and_then(|session| session.dtls.take()) else {
            return false;
        };
        let result = step(&mut *dtls);
        let mut acted = result.is_err();
        let mut closed = false;
        let wait = loop {
            match dtls.poll() {
                Event::Send(bytes) => self.transmit(index, bytes.to_vec()),
                Event::App(bytes) => self.deliver(now, index, arrival, bytes.to_vec()),
                Event::Established(identity) => {
                    let suite = dtls.suite();
                    self.establish(now, index, identity, suite);
                }
                Event::Closed => closed = true,
                Event::Wait(until) => break until,
            }
            acted = true;
        };
        self.settle(now, index, dtls, result, closed, wait);
        acted
    }

    /// Puts the engine's part back, or ends what has ended.
    pub(super) fn settle(
        &mut self,
        now: Now,
        index: Index,
        mut dtls: Box<dyn DtlsSession>,
        result: Result<(), Fatal>,
        closed: bool,
        wait: Option<Instant>,
    ) {
        if let Err(reason) = result {
            self.fall(now, index, reason);
            return;
        }
        if closed {
            // Whoever is told close_notify says so too (RFC 5246 §7.2.1).
            self.say_goodbye(index, &mut *dtls);
            let live = self
                .sessions
                .at(index)
                .is_some_and(|at| at.live().is_some());
            if live {
                self.counters.sessions_closed += 1;
                self.end(index);
            } else {
                self.fall(now, index, Fatal::Alert(0));
            }
            return;
        }
        let Some(session) = self.sessions.at_mut(index) else {
            return;
        };
        session.dtls = Some(dtls);
        match wait {
            Some(until) => {
                session.timed = true;
                self.timers.set(index, until);
            }
            None if std::mem::take(&mut session.timed) => self.timers.cancel(&index),
            None => {}
        }
    }

    /// Sends a datagram of a session to where it is now.
    pub(super) fn transmit(&mut self, index: Index, bytes: Vec<u8>) {
        if let Some(session) = self.sessions.at(index) {
            let route = session.route;
            self.outputs.push_back(Output::Datagram { route, bytes });
        }
    }

    /// Gives application data up, and follows the peer to where it is now.
    pub(super) fn deliver(
        &mut self,
        now: Now,
        index: Index,
        arrival: Option<Arrival>,
        bytes: Vec<u8>,
    ) {
        let id = self.sessions.id(index);
        let Some(session) = self.sessions.at_mut(index) else {
            return;
        };
        let from = session.route;
        let mut to = from;
        if let Some(live) = session.live_mut() {
            live.active = now.instant;
            if now.instant.since(live.placed) >= PLACE_EVERY {
                self.idle.remove(&(live.placed, index));
                live.placed = now.instant;
                self.idle.insert((live.placed, index));
            }
            if let Some(arrival) = arrival {
                live.by_cid |= arrival.by_cid;
                // RFC 9146 §6: verified, and newer than the newest so far.
                if arrival.number > live.newest {
                    live.newest = arrival.number;
                    if arrival.by_cid {
                        to = arrival.route;
                    }
                }
            }
        }
        if to != from {
            session.route = to;
            self.unlink(from, index);
            // Who stands there already keeps what comes without connection ID: whoever says to be
            // there now has proven who it is, and not that it is there.
            self.routes.entry(to).or_default().live.get_or_insert(index);
            self.counters.moved += 1;
            let session = id;
            self.outputs.push_back(Output::Moved { session, from });
        }
        self.outputs.push_back(Output::App { session: id, bytes });
    }

    /// A handshake is done: it takes the place of the session that stood there (RFC 6347 §4.2.8).
    pub(super) fn establish(
        &mut self,
        now: Now,
        index: Index,
        identity: PeerIdentity,
        suite: &'static str,
    ) {
        let identity = Arc::new(identity);
        let Some(session) = self.sessions.at_mut(index) else {
            return;
        };
        let live = Stage::Live(Live {
            identity: identity.clone(),
            newest: 0,
            by_cid: false,
            active: now.instant,
            placed: now.instant,
            kept: Instant::ZERO,
        });
        let (route, role) = (session.route, session.role);
        match std::mem::replace(&mut session.stage, live) {
            Stage::Handshake(handshake) => self.finish(index, route, role, &handshake),
            Stage::Live(before) => {
                // An engine says so once.
                session.stage = Stage::Live(before);
                return;
            }
        }
        self.counters.handshakes_completed += 1;
        let here = self.routes.entry(route).or_default();
        if here.unfinished == Some(index) {
            here.unfinished = None;
        }
        if let Some(old) = here.live.replace(index)
            && !self.is_elsewhere(old, &identity)
        {
            self.counters.sessions_replaced += 1;
            self.end(old);
        }
        self.admit(now, index);
        self.outputs.push_back(Output::Established {
            session: self.sessions.id(index),
            identity,
            suite,
        });
    }

    /// Whether the session that stood where somebody is now established is another peer's, which
    /// is found by its connection ID: a NAT gave its port away, and it will be heard of from its
    /// next one.
    fn is_elsewhere(&self, old: Index, identity: &PeerIdentity) -> bool {
        let live = self.sessions.at(old).and_then(Session::live);
        live.is_some_and(|live| live.by_cid && *live.identity != *identity)
    }

    /// Counts an established session in. One too many, and the one that is idle longest goes.
    pub(super) fn admit(&mut self, now: Now, index: Index) {
        while self.idle.len() >= self.limits.sessions.max(1) {
            let Some((_, longest)) = self.idle.first().copied() else {
                break;
            };
            self.counters.sessions_evicted += 1;
            self.part(longest);
            self.end(longest);
        }
        self.idle.insert((now.instant, index));
    }

    /// Something fatal happened to a session.
    pub(super) fn fall(&mut self, now: Now, index: Index, reason: Fatal) {
        let Some(session) = self.sessions.at(index) else {
            return;
        };
        let (route, role) = (session.route, session.role);
        if session.live().is_some() {
            self.counters.sessions_failed += 1;
            self.end(index);
        } else {
            self.forget(index);
            self.tell(now, route, role, reason);
        }
    }

    /// Tells of a failed handshake, unless this source had one told a moment ago.
    pub(super) fn tell(&mut self, now: Now, route: Route, role: Role, reason: Fatal) {
        self.counters.handshakes_failed += 1;
        let source = Source::of(route.address.ip());
        if role == Role::Client || self.told.may_tell(now.instant, source, &self.limits) {
            self.outputs.push_back(Output::Failed { route, reason });
        } else {
            self.counters.failures_untold += 1;
        }
    }

    /// Says close_notify for a session that stands in the table.
    pub(super) fn part(&mut self, index: Index) {
        let session = self.sessions.at_mut(index);
        if let Some(mut dtls) = session.and_then(|session| session.dtls.take()) {
            self.say_goodbye(index, &mut *dtls);
        }
    }

    fn say_goodbye(&mut self, index: Index, dtls: &mut dyn DtlsSession) {
        dtls.close();
        loop {
            match dtls.poll() {
                Event::Send(bytes) => self.transmit(index, bytes.to_vec()),
                Event::Wait(_) => return,
                Event::App(_) | Event::Established(_) | Event::Closed => {}
            }
        }
    }

    /// Forgets an established session, and says so above.
    pub(super) fn end(&mut self, index: Index) {
        let session = self.sessions.id(index);
        if self.forget(index).is_some() {
            self.outputs.push_back(Output::Closed { session });
        }
    }

    /// Takes a session or handshake out of all tables.
    pub(super) fn forget(&mut self, index: Index) -> Option<Box<Session>> {
        let session = self.sessions.remove(index)?;
        self.unlink(session.route, index);
        if let Some(cid) = session.cid {
            self.cids.remove(&cid);
        }
        if session.timed {
            self.timers.cancel(&index);
        }
        match &session.stage {
            Stage::Handshake(handshake) => {
                self.finish(index, session.route, session.role, handshake);
            }
            Stage::Live(live) => {
                self.idle.remove(&(live.placed, index));
            }
        }
        Some(session)
    }

    /// Counts a handshake out.
    fn finish(&mut self, index: Index, route: Route, role: Role, handshake: &Handshake) {
        let (began, serial) = (handshake.began, handshake.serial);
        let source = Source::of(route.address.ip());
        match role {
            Role::Server => self.unfinished.remove(began, serial, source, index),
            Role::Client => self.connecting.remove(began, serial, source, index),
        }
        if let Some(ticket) = handshake.queued {
            self.work.remove(ticket);
        }
    }

    /// Takes a session from its route.
    fn unlink(&mut self, route: Route, index: Index) {
        let Some(here) = self.routes.get_mut(&route) else {
            return;
        };
        for standing in [&mut here.live, &mut here.unfinished] {
            if *standing == Some(index) {
                *standing = None;
            }
        }
        if *here == Here::default() {
            self.routes.remove(&route);
        }
    }
}
