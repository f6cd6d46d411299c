//! From datagrams to sessions and back: which session a datagram is for, who may begin one, and
//! when one ends.
//!
//! What is *absent* here: sockets, clocks, cryptography (an [`Engine`] has that) and what the
//! datagrams mean. What must hold whatever strangers send:
//!
//! * Nothing is remembered of a client before it has proven its address (`hello`).
//! * A live session ends by what its peer authenticated, by silence, by [`Limits::sessions`], or
//!   by a newer handshake that was completed from the same address (RFC 6347 §4.2.8); by nothing
//!   else. That handshake does not end the session of *another* peer that is found by connection
//!   ID: a NAT has given its port away.
//! * Everything that a peer can make grow has a bound in [`Limits`], and a right key is served
//!   whatever others do: new handshakes make old ones give way.
//!
//! Records are given to an established session one by one, so it is known which of them
//! authenticated; those of epoch 0 never reach one, because anybody can write them.

mod bounds;
mod lifecycle;
mod saved;
mod session;
#[cfg(test)]
pub(crate) mod tests;
mod work;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::dtls::hello::{self, ClientHello, Cookies};
use crate::dtls::limits::{Counters, Limits};
use crate::dtls::mux::bounds::{Source, Told, Unfinished};
use crate::dtls::mux::lifecycle::Opening;
use crate::dtls::mux::session::{Index, Role, Session, Sessions};
use crate::dtls::record::{self, Cid, Record, records};
use crate::dtls::{Accept, Connect, Credential, Engine, Fatal, Keys, PeerIdentity};
use crate::keyed::{self, HashKey, KeyedMap};
use crate::route::Route;
use crate::time::{Instant, Now};
use crate::timers::Timers;

pub use crate::dtls::mux::saved::{Malformed, Saved};
pub use crate::dtls::mux::session::SessionId;
pub use crate::dtls::mux::work::Work;

/// While a session has been heard of so recently, the hello that it began with is one that comes
/// late. After that it is a client that restarted, with random numbers that repeat themselves.
const LATE: Duration = Duration::from_secs(10);

/// All sessions of a process. Bytes go in by [`receive`](Self::receive) and [`send`](Self::send),
/// time by [`timeout`](Self::timeout); drain [`poll`](Self::poll) after each call.
pub struct Mux {
    engine: Box<dyn Engine>,
    limits: Limits,
    rng: StdRng,
    listeners: BTreeMap<u16, Arc<dyn Keys>>,
    cookies: Cookies,
    sessions: Sessions,
    routes: KeyedMap<Route, Here>,
    cids: KeyedMap<Cid, Index>,
    unfinished: Unfinished,
    /// Our own handshakes in the client's role: as many as we begin.
    connecting: Unfinished,
    next_serial: u64,
    /// Established sessions by when they were last heard of, to the minute.
    idle: BTreeSet<(Instant, Index)>,
    timers: Timers<Index>,
    work: work::Queue,
    told: Told,
    outputs: VecDeque<Output>,
    counters: Counters,
    /// The last time that we were told.
    latest: Now,
}

/// Who stands at a route.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Here {
    /// The session that records without connection ID are for.
    live: Option<Index>,
    /// The handshake beside it.
    unfinished: Option<Index>,
}

/// What comes out of [`Mux::poll`].
#[derive(Debug)]
pub enum Output {
    /// Send this datagram.
    Datagram {
        /// To whom, and from which listener.
        route: Route,
        /// The UDP payload.
        bytes: Vec<u8>,
    },
    /// The peer of a session sent this, and nobody changed it.
    App {
        /// Which session.
        session: SessionId,
        /// What was inside of one record.
        bytes: Vec<u8>,
    },
    /// A handshake is done. If it took the place of an older session, that one's
    /// [`Closed`](Self::Closed) came right before.
    Established {
        /// From now on a session.
        session: SessionId,
        /// Who is at the other end.
        identity: Arc<PeerIdentity>,
        /// The suite's IANA name.
        suite: &'static str,
    },
    /// The peer of a session is at another address now (RFC 9146 §6): [`Mux::route`] knows which.
    Moved {
        /// Which session.
        session: SessionId,
        /// Where it was before.
        from: Route,
    },
    /// A session is over: its peer closed it, was silent too long, sent a fatal alert, gave way to
    /// others, or began anew from the same address.
    Closed {
        /// Which session; the id is void.
        session: SessionId,
    },
    /// A handshake came to nothing. A few an interval and source are told in the server's role
    /// ([`Limits::failure_interval`]), and every one in the client's.
    Failed {
        /// With whom.
        route: Route,
        /// Why.
        reason: Fatal,
    },
    /// A step that takes long: run it elsewhere, and give it to [`Mux::worked`].
    Work(Work),
}

impl Mux {
    /// No session yet, and no listener. Cookies and connection IDs come from `rng`, so it has to
    /// be seeded with what nobody can guess.
    pub fn new(engine: Box<dyn Engine>, limits: Limits, rng: &mut StdRng) -> Self {
        let mut rng = StdRng::from_rng(rng);
        let limits = limits.within(session::MOST_PLACES);
        Self {
            engine,
            listeners: BTreeMap::new(),
            cookies: Cookies::new(limits.cookie_period, &mut rng),
            limits,
            sessions: Sessions::default(),
            routes: keyed::map(&mut rng),
            cids: keyed::map(&mut rng),
            unfinished: Unfinished::default(),
            connecting: Unfinished::default(),
            next_serial: 0,
            idle: BTreeSet::new(),
            timers: Timers::new(HashKey::generate(&mut rng)),
            work: work::Queue::default(),
            told: Told::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            latest: Now::default(),
            rng,
        }
    }

    /// Makes new sessions with this engine from now on; those that are there go on.
    pub fn set_engine(&mut self, engine: Box<dyn Engine>) {
        self.engine = engine;
    }

    /// Serves clients on this listener, which come in with these keys. In the client's role a
    /// listener need not be served.
    pub fn serve(&mut self, listener: u16, keys: Arc<dyn Keys>) {
        self.listeners.insert(listener, keys);
    }

    /// A datagram came.
    pub fn receive(&mut self, now: Now, route: Route, datagram: &[u8]) {
        self.latest = now;
        if datagram.len() < record::HEADER {
            self.counters.short_datagrams += 1;
            return;
        }
        let Some(first) = records(datagram).next() else {
            self.counters.malformed_datagrams += 1;
            return;
        };
        match first.cid {
            Some(cid) => self.receive_by_cid(now, route, cid, datagram),
            None if hello::is_client_hello(&first) => self.receive_hello(now, route, &first),
            None => self.receive_by_route(now, route, &first, datagram),
        }
    }

    /// Records that say themselves which session they are for. Where they come from matters only
    /// after they have authenticated.
    fn receive_by_cid(&mut self, now: Now, route: Route, cid: Cid, datagram: &[u8]) {
        let Some(index) = self.cids.get(&cid).copied() else {
            self.counters.unknown_cids += 1;
            return;
        };
        let Some(session) = self.sessions.at(index) else {
            return;
        };
        if session.route.listener != route.listener {
            self.counters.unknown_cids += 1;
        } else if session.live().is_none() && session.route != route {
            // A handshake does not move.
            self.counters.strays += 1;
        } else {
            self.offer_datagram(now, index, route, datagram);
        }
    }

    /// Records for whoever stands at the route. What is protected is for the session, and what
    /// has no effect on it for the handshake beside; what is not, for the handshake alone.
    fn receive_by_route(&mut self, now: Now, route: Route, first: &Record<'_>, datagram: &[u8]) {
        let Some(here) = self.routes.get(&route).copied() else {
            if self.listeners.contains_key(&route.listener) {
                self.counters.strays += 1;
            } else {
                self.counters.unserved_datagrams += 1;
            }
            return;
        };
        if first.epoch() == 0
            && let Some(index) = here.unfinished
        {
            // A whole flight, maybe with a protected Finished at its end.
            self.offer_datagram(now, index, route, datagram);
            return;
        }
        for record in records(datagram) {
            let acted = here
                .live
                .is_some_and(|index| self.offer(now, index, route, &record));
            if !acted && let Some(index) = here.unfinished {
                self.offer(now, index, route, &record);
            }
        }
    }

    /// A ClientHello: answered without memory until its cookie is good.
    fn receive_hello(&mut self, now: Now, route: Route, first: &Record<'_>) {
        let Some(keys) = self.listeners.get(&route.listener).cloned() else {
            self.counters.unserved_datagrams += 1;
            return;
        };
        let Some(hello) = ClientHello::parse(first) else {
            self.counters.bad_hellos += 1;
            return;
        };
        self.cookies.rotate(now.instant, &mut self.rng);
        let Some(cookie) = self.cookies.prove(route, &hello) else {
            let cookie = self.cookies.make(route, &hello);
            let bytes = hello::verify_request(&hello, &cookie);
            self.counters.hello_verify_requests += 1;
            self.outputs.push_back(Output::Datagram { route, bytes });
            return;
        };
        let mark = hello::mark(&cookie);

        let here = self.routes.get(&route).copied().unwrap_or_default();
        let standing = |index: Option<Index>| index.and_then(|index| self.sessions.at(index));
        let (live, unfinished) = (standing(here.live), standing(here.unfinished));
        let is_client = |session: &&Session| session.role == Role::Client;
        if live
            .filter(is_client)
            .or(unfinished.filter(is_client))
            .is_some()
        {
            // We began with this one.
            self.counters.bad_hellos += 1;
            return;
        }
        let is_late = |session: &Session| {
            let active = session.live().map(|live| live.active);
            let is_recent = active.is_some_and(|active| now.instant.since(active) < LATE);
            session.cookie == mark && is_recent
        };
        if live.is_some_and(is_late) {
            self.counters.late_hellos += 1;
            return;
        }
        if let Some(index) = here.unfinished {
            if unfinished.is_some_and(|handshake| handshake.cookie == mark) {
                self.advance(now, index, first.whole);
                return;
            }
            self.counters.handshakes_replaced += 1;
            self.forget(index);
        }

        let source = Source::of(route.address.ip());
        while let Some(index) = self.unfinished.in_the_way(source, &self.limits) {
            self.counters.handshakes_evicted += 1;
            self.forget(index);
        }
        let cid = self.fresh_cid();
        let accept = Accept {
            cookie: &cookie,
            cid: &cid,
            keys,
        };
        let costly = self.engine.is_costly(hello.suites);
        let dtls = match self.engine.accept(now, accept) {
            Ok(dtls) => dtls,
            Err(reason) => {
                self.tell(now, route, Role::Server, reason);
                return;
            }
        };
        let opening = Opening {
            route,
            role: Role::Server,
            dtls,
            cid: Some(cid),
            cookie: mark,
            costly,
        };
        if let Some(index) = self.begin(now, opening) {
            self.advance(now, index, first.whole);
        }
    }

    /// Begins a session in the client's role. If [`Connect::cid`] is not empty, the mux puts a
    /// connection ID of its own in its place. On success [`Output::Established`] or
    /// [`Output::Failed`] follows.
    ///
    /// A session that stands at the route already goes on until the new one is established; a
    /// handshake there is forgotten.
    pub fn connect(
        &mut self,
        now: Now,
        route: Route,
        mut connect: Connect,
    ) -> Result<SessionId, Fatal> {
        self.latest = now;
        let cid = (!connect.cid.is_empty()).then(|| self.fresh_cid());
        if let Some(cid) = cid {
            connect.cid = cid.to_vec();
        }
        let costly = matches!(connect.credential, Credential::X509 { .. });
        let dtls = self.engine.connect(now, &connect)?;
        let here = self.routes.get(&route).copied().unwrap_or_default();
        if let Some(index) = here.unfinished {
            self.counters.handshakes_replaced += 1;
            self.forget(index);
        }
        let opening = Opening {
            route,
            role: Role::Client,
            dtls,
            cid,
            cookie: None,
            costly,
        };
        let index = self
            .begin(now, opening)
            .ok_or_else(|| Fatal::Unsupported("there are too many sessions".into()))?;
        let id = self.sessions.id(index);
        self.drive(now, index, None, |_| Ok(()));
        Ok(id)
    }

    /// Sends a datagram of the layer above. What is for a session that is not (any more)
    /// established, or too long for one record of it, is counted and dropped.
    pub fn send(&mut self, session: SessionId, datagram: &[u8]) {
        let live = self.sessions.find(session).filter(|index| {
            let session = self.sessions.at(*index);
            session.is_some_and(|session| session.live().is_some())
        });
        let Some(index) = live else {
            self.counters.unsendable += 1;
            return;
        };
        let mut refused = false;
        self.drive(self.latest, index, None, |dtls| match dtls.send(datagram) {
            // Too long for this peer, and no harm done.
            Err(Fatal::Unsupported(_)) => {
                refused = true;
                Ok(())
            }
            sent => sent,
        });
        self.counters.unsendable += u64::from(refused);
    }

    /// Says close_notify and forgets the session. No [`Output::Closed`] follows.
    pub fn close(&mut self, session: SessionId) {
        if let Some(index) = self.sessions.find(session) {
            if self
                .sessions
                .at(index)
                .is_some_and(|at| at.live().is_some())
            {
                self.part(index);
            }
            self.forget(index);
        }
    }

    /// Has a session stand until then although its peer is silent: the layer above expects to hear
    /// of it. [`Limits::sessions`] counts it all the same. A time that is over ends that.
    pub fn keep(&mut self, session: SessionId, until: Instant) {
        let idle = self.limits.idle;
        let Some(index) = self.sessions.find(session) else {
            return;
        };
        let Some(live) = self.sessions.at_mut(index).and_then(Session::live_mut) else {
            return;
        };
        live.kept = Instant::ZERO + until.since(Instant::ZERO + idle);
        self.idle.remove(&(live.placed, index));
        live.placed = live.active;
        self.idle.insert((live.placed, index));
    }

    /// [`close`](Self::close)s every session whose peer, on this listener, is one of those. Looks at
    /// all sessions.
    pub fn close_those(&mut self, are: impl Fn(&PeerIdentity, u16) -> bool) {
        let indices = self.sessions.indices();
        let theirs = indices.into_iter().filter(|index| {
            self.sessions.at(*index).is_some_and(|session| {
                let live = session.live();
                live.is_some_and(|live| are(&live.identity, session.route.listener))
            })
        });
        let theirs: Vec<_> = theirs.map(|index| self.sessions.id(index)).collect();
        for session in theirs {
            self.close(session);
        }
    }

    /// Does what was to be done by now.
    pub fn timeout(&mut self, now: Now) {
        self.latest = now;
        let mut due = Vec::new();
        while let Some(index) = self.timers.expire(now.instant) {
            due.push(index);
        }
        for index in due {
            let Some(session) = self.sessions.at_mut(index) else {
                continue;
            };
            session.timed = false;
            if session.handshake_mut().is_some_and(|at| at.costly) {
                self.time_out_by_work(now, index);
            } else {
                self.drive(now, index, None, |dtls| dtls.timeout(now));
            }
        }
        while let Some(index) = self.overdue(now) {
            self.fall(now, index, Fatal::TimedOut);
        }
        self.expire_idle(now);
    }

    /// A handshake that takes too long.
    fn overdue(&self, now: Now) -> Option<Index> {
        [self.unfinished.oldest(), self.connecting.oldest()]
            .into_iter()
            .flatten()
            .find(|(began, _)| *began + self.limits.handshake_lifetime <= now.instant)
            .map(|(_, index)| index)
    }

    /// Closes the sessions that were silent too long.
    fn expire_idle(&mut self, now: Now) {
        while let Some((placed, index)) = self.idle.first().copied()
            && placed + self.limits.idle <= now.instant
        {
            let session = self.sessions.at_mut(index);
            let Some(live) = session.and_then(Session::live_mut) else {
                self.idle.pop_first();
                continue;
            };
            let heard = live.active.max(live.kept);
            if heard > placed {
                // It has been heard of since, or is to be kept.
                live.placed = heard;
                let again = (live.placed, index);
                self.idle.pop_first();
                self.idle.insert(again);
                continue;
            }
            self.counters.sessions_expired += 1;
            self.part(index);
            self.end(index);
        }
    }

    /// When [`timeout`](Self::timeout) has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        let lifetime = self.limits.handshake_lifetime;
        let handshake = |unfinished: &Unfinished| Some(unfinished.oldest()?.0 + lifetime);
        [
            self.timers.next(),
            handshake(&self.unfinished),
            handshake(&self.connecting),
            self.idle
                .first()
                .map(|(placed, _)| *placed + self.limits.idle),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What to do next.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Who is at the other end of an established session.
    pub fn identity(&self, session: SessionId) -> Option<&Arc<PeerIdentity>> {
        let session = self.sessions.at(self.sessions.find(session)?)?;
        Some(&session.live()?.identity)
    }

    /// Where a session, or a handshake in the client's role, is now.
    pub fn route(&self, session: SessionId) -> Option<Route> {
        let session = self.sessions.at(self.sessions.find(session)?)?;
        Some(session.route)
    }

    /// What happened since the start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Established sessions.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether there is no established session.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Handshakes under way, in both roles.
    pub fn handshakes(&self) -> usize {
        self.unfinished.len() + self.connecting.len()
    }
}
