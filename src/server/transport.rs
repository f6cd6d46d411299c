//! By what road messages come and go: in clear, or through a DTLS session.
//!
//! The message layer knows peers, the network knows routes. Here the one is found from the other,
//! and a device that comes back by a new session is given what it had by its last one.

use super::*;

/// How long a session stands without a word, however long the registration lasts.
const KEPT_MOST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A socket that devices reach us at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listener {
    /// As a device writes it, `coaps://192.0.2.1:5684`.
    pub uri: String,
    /// Whether what comes there is DTLS.
    pub secure: bool,
    /// What is served there.
    pub purpose: Purpose,
}

impl Server {
    /// A datagram came.
    pub fn receive(&mut self, now: Now, route: Route, datagram: &[u8]) {
        match &mut self.mux {
            Some(mux) if self.settings.is_secure(route.listener) => {
                mux.receive(now, route, datagram);
            }
            _ if self.settings.is_secure(route.listener) => {}
            _ => self.take_datagram(now, route.into(), datagram),
        }
        self.pump(now);
    }

    /// The shell has run a step of a handshake.
    pub fn worked(&mut self, now: Now, work: dtls::Work) {
        if let Some(mux) = &mut self.mux {
            mux.worked(now, work);
        }
        self.pump(now);
    }

    /// Serves with another engine: our certificate or the authorities changed. Sessions that stand
    /// go on.
    pub fn set_engine(&mut self, engine: Box<dyn dtls::Engine>) {
        if let Some(mux) = &mut self.mux {
            mux.set_engine(engine);
        }
    }

    /// Every session that another process can go on with. They are of no use here afterwards.
    pub fn save_sessions(&mut self) -> Vec<dtls::Saved> {
        self.mux.as_mut().map(Mux::save).unwrap_or_default()
    }

    /// Goes on with the sessions of an earlier process; how many there were.
    pub fn restore_sessions(&mut self, now: Now, sessions: Vec<dtls::Saved>) -> usize {
        let restored = match &mut self.mux {
            Some(mux) => mux.restore(now, sessions),
            None => 0,
        };
        // What let them in may have been taken back meanwhile.
        self.judge_anew(now);
        self.pump(now);
        restored
    }

    /// What the secure transport dropped or refused.
    pub fn dtls_counters(&self) -> Option<dtls::Counters> {
        Some(self.mux.as_ref()?.counters())
    }

    /// How many secure sessions stand.
    pub fn sessions(&self) -> usize {
        self.mux.as_ref().map_or(0, Mux::len)
    }

    /// Where a peer is now.
    pub fn route(&self, peer: Peer) -> Option<Route> {
        match peer {
            Peer::Route(route) => Some(route),
            Peer::Session(number) => self.mux.as_ref()?.route(SessionId(number)),
        }
    }

    /// Who a peer has proven to be.
    pub fn identity(&self, peer: Peer) -> Option<&Arc<PeerIdentity>> {
        match peer {
            Peer::Route(_) => None,
            Peer::Session(number) => self.mux.as_ref()?.identity(SessionId(number)),
        }
    }

    /// What is served where a peer came in.
    pub(super) fn purpose(&self, peer: Peer) -> Purpose {
        self.route(peer)
            .and_then(|route| self.settings.listener(route.listener))
            .map_or(Purpose::Management, |listener| listener.purpose)
    }

    /// Takes all that the message layer and the secure transport have to say, until both are
    /// silent.
    pub(super) fn pump(&mut self, now: Now) {
        loop {
            if let Some(output) = self.endpoint.poll() {
                match output {
                    coap::Output::Datagram { peer, bytes } => self.transmit(peer, bytes),
                    coap::Output::Event(event) => self.on_coap(now, event),
                }
            } else if let Some(output) = self.mux.as_mut().and_then(Mux::poll) {
                self.on_dtls(now, output);
            } else if !self.serve_woken(now) {
                return;
            }
        }
    }

    fn take_datagram(&mut self, now: Now, peer: Peer, datagram: &[u8]) {
        if self.endpoint.receive(now.instant, peer, datagram) {
            self.hear(now, peer);
        }
    }

    fn transmit(&mut self, peer: Peer, bytes: Vec<u8>) {
        match (peer, &mut self.mux) {
            (Peer::Route(route), _) => self.outputs.push_back(Output::Datagram { route, bytes }),
            (Peer::Session(number), Some(mux)) => mux.send(SessionId(number), &bytes),
            (Peer::Session(_), None) => {}
        }
    }

    fn on_dtls(&mut self, now: Now, output: dtls::Output) {
        match output {
            dtls::Output::Datagram { route, bytes } => {
                self.outputs.push_back(Output::Datagram { route, bytes });
            }
            dtls::Output::App { session, bytes } => {
                let peer = Peer::Session(session.0);
                self.take_datagram(now, peer, &bytes);
            }
            dtls::Output::Established {
                session, identity, ..
            } => {
                self.take_over(now, session, &identity);
            }
            dtls::Output::Moved { session, from } => self.on_moved(session, from),
            dtls::Output::Failed { route, reason } => {
                self.emit(Event::HandshakeFailed { route, reason });
            }
            // A registration outlives its session: the device may come back with another one.
            dtls::Output::Closed { .. } => {}
            dtls::Output::Work(work) => self.outputs.push_back(Output::Work(work)),
        }
    }

    /// The device of this identity has a new session, because it restarted, its address changed, or
    /// one of us forgot the old one: its registration and observations go on there, no Register
    /// demanded (LwM2M Transport 1.1 §6.4.1: the security context names the client). Where it names
    /// several, the device has to register.
    fn take_over(&mut self, now: Now, session: SessionId, identity: &Arc<PeerIdentity>) {
        let new = Peer::Session(session.0);
        if self.purpose(new) != Purpose::Management || self.book.may_be_several(identity) {
            return;
        }
        let Some(device) = self.by_identity.get(identity).copied() else {
            return;
        };
        self.follow(now, device, new);
    }

    /// A device has come by another way: what it has here goes on there. So does what others have
    /// that came with it by the old one, which ends.
    pub(super) fn follow(&mut self, now: Now, device: DeviceId, new: Peer) {
        let Some(old) = self
            .registration(device)
            .map(|registration| registration.peer)
        else {
            return;
        };
        let several = self
            .identity(new)
            .is_some_and(|identity| self.book.may_be_several(identity));
        let all = match several {
            false => vec![device],
            true => self.registered_at(old),
        };
        // Where another endpoint is already, what it has there stays, and the two are not mixed:
        // what came along is observed anew.
        let taken = several && self.by_peer.contains_key(&new);
        for &device in &all {
            if let Some(registration) = self.registration_mut(device) {
                registration.peer = new;
            }
            self.keep_session(now, device);
            if taken {
                self.void_observations(now, device);
                self.emit(Event::Amended(device));
            }
        }
        self.by_peer.remove(&old);
        self.by_peer.insert(new, device);
        if !taken {
            self.endpoint.rebind(now.instant, old, new);
        }
        if let (Peer::Session(number), Some(mux)) = (old, &mut self.mux) {
            mux.close(SessionId(number));
        }
    }

    fn registered_at(&self, peer: Peer) -> Vec<DeviceId> {
        let devices = self.devices.iter().enumerate();
        let at_peer = devices.filter(|(_, device)| {
            let registration = device.registration.as_ref();
            registration.is_some_and(|registration| registration.peer == peer)
        });
        at_peer.map(|(number, _)| DeviceId(number as u32)).collect()
    }

    /// Keeps the session of a registered device until its registration ends: a device that says
    /// something once in its long lifetime would find no session, and has no way to know before
    /// its retransmissions are over.
    pub(super) fn keep_session(&mut self, now: Now, device: DeviceId) {
        let Some(registration) = self.registration(device) else {
            return;
        };
        let most = now.instant + KEPT_MOST;
        let until = registration
            .deadline(self.settings.lifetime_grace)
            .map_or(most, |deadline| deadline.instant.min(most));
        if let (Peer::Session(number), Some(mux)) = (registration.peer, &mut self.mux) {
            mux.keep(SessionId(number), until);
        }
    }

    fn on_moved(&mut self, session: SessionId, from: Route) {
        let peer = Peer::Session(session.0);
        let Some(device) = self
            .identity(peer)
            .and_then(|identity| self.by_identity.get(identity))
            .copied()
            .filter(|device| {
                let registration = self.registration(*device);
                registration.is_some_and(|registration| registration.peer == peer)
            })
        else {
            return;
        };
        // It may be a session beside that of the registration, or with the bootstrap server.
        if self.registration(device).map(|at| at.peer) != Some(peer) {
            return;
        }
        self.emit(Event::Moved { device, from });
    }
}
