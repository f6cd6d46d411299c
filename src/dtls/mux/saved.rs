//! Sessions that outlive the process: taken out at an orderly restart, taken in by the next one.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::dtls::mux::session::{Live, Role, Session, Stage};
use crate::dtls::mux::{Mux, Output};
use crate::dtls::record::{Cid, Reader};
use crate::dtls::{Keys, PeerIdentity};
use crate::route::Route;
use crate::secret::Secret;
use crate::time::{Instant, Now};

/// An established session between two processes. It has the session's keys in it: what
/// [`to_bytes`](Self::to_bytes) gives is to be sealed, and to be used once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub(super) route: Route,
    role: Role,
    pub(super) cid: Option<Cid>,
    newest: u64,
    pub(super) identity: PeerIdentity,
    /// The SHA-256 of the key that a client came in with, so that its session does not outlive that
    /// key while no process is there to end it. Empty where there is none.
    key: Secret,
    /// The engine's part.
    engine: Secret,
}

/// These bytes are not what [`Saved::to_bytes`] gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a saved session of this version")]
pub struct Malformed;

/// The layout below. Another one gets another number.
const VERSION: u8 = 2;

/// Most certificates, or names in one, that are read.
const MOST_PARTS: u64 = 1024;

impl Saved {
    /// Where the session was.
    pub fn route(&self) -> Route {
        self.route
    }

    /// Who is at the other end.
    pub fn identity(&self) -> &PeerIdentity {
        &self.identity
    }

    /// The session as bytes. Numbers are in network order, and what varies in length stands behind
    /// its length (four bytes).
    pub fn to_bytes(&self) -> Secret {
        // Room for all, so that growing leaves no copy of the keys behind.
        let mut to = Vec::with_capacity(256 + weight(&self.identity) + self.engine.expose().len());
        to.push(VERSION);
        to.push(u8::from(self.role == Role::Client));
        to.extend(self.route.listener.to_be_bytes());
        match self.route.address {
            SocketAddr::V4(address) => {
                to.push(4);
                to.extend(address.ip().octets());
            }
            SocketAddr::V6(address) => {
                to.push(6);
                to.extend(address.ip().octets());
                to.extend(address.flowinfo().to_be_bytes());
                to.extend(address.scope_id().to_be_bytes());
            }
        }
        to.extend(self.route.address.port().to_be_bytes());
        put(&mut to, self.cid.as_ref().map_or(&[], Cid::as_slice));
        to.extend(self.newest.to_be_bytes());
        match &self.identity {
            PeerIdentity::Psk(identity) => {
                to.push(0);
                put(&mut to, identity);
            }
            PeerIdentity::X509 {
                leaf,
                chain,
                names,
                authority,
            } => {
                to.push(1);
                put(&mut to, leaf);
                to.extend((chain.len() as u32).to_be_bytes());
                chain
                    .iter()
                    .for_each(|certificate| put(&mut to, certificate));
                to.extend((names.len() as u32).to_be_bytes());
                names.iter().for_each(|name| put(&mut to, name.as_bytes()));
                put(
                    &mut to,
                    authority.as_ref().map_or(&[], <[u8; 32]>::as_slice),
                );
            }
            PeerIdentity::RawPublicKey(key) => {
                to.push(2);
                put(&mut to, key);
            }
        }
        put(&mut to, self.key.expose());
        put(&mut to, self.engine.expose());
        Secret::new(to)
    }

    /// Reads what [`to_bytes`](Self::to_bytes) gave, and nothing else. That the engine's part is
    /// genuine cannot be seen here: whoever stores the bytes has to seal them.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        match parse(&mut reader) {
            Some(saved) if reader.0.is_empty() => Ok(saved),
            _ => Err(Malformed),
        }
    }
}

/// Bytes behind their length.
fn put(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend((bytes.len() as u32).to_be_bytes());
    to.extend(bytes);
}

/// The bytes of an identity in the layout, or a few more.
fn weight(identity: &PeerIdentity) -> usize {
    match identity {
        PeerIdentity::Psk(bytes) | PeerIdentity::RawPublicKey(bytes) => bytes.len(),
        PeerIdentity::X509 {
            leaf, chain, names, ..
        } => {
            let chain: usize = chain.iter().map(|certificate| certificate.len() + 4).sum();
            let names: usize = names.iter().map(|name| name.len() + 4).sum();
            leaf.len() + chain + names
        }
    }
}

fn parse(from: &mut Reader<'_>) -> Option<Saved> {
    if from.uint(1)? != u64::from(VERSION) {
        return None;
    }
    let role = match from.uint(1)? {
        0 => Role::Server,
        1 => Role::Client,
        _ => return None,
    };
    let listener = from.uint(2)? as u16;
    let address = match from.uint(1)? {
        4 => {
            let address: [u8; 4] = from.array()?;
            SocketAddr::new(IpAddr::from(address), from.uint(2)? as u16)
        }
        6 => {
            let address: [u8; 16] = from.array()?;
            let (flow, scope) = (from.uint(4)? as u32, from.uint(4)? as u32);
            let port = from.uint(2)? as u16;
            SocketAddrV6::new(address.into(), port, flow, scope).into()
        }
        _ => return None,
    };
    let cid = from.vector(4)?;
    let cid = match cid.len() {
        0 => None,
        _ => Some(cid.try_into().ok()?),
    };
    let newest = from.uint(8)?;
    let identity = match from.uint(1)? {
        0 => PeerIdentity::Psk(from.vector(4)?.to_vec()),
        1 => {
            let leaf = from.vector(4)?.to_vec();
            let chain = parts(from)?.into_iter().map(<[u8]>::to_vec).collect();
            let names = parts(from)?
                .into_iter()
                .map(|name| String::from_utf8(name.to_vec()).ok())
                .collect::<Option<_>>()?;
            let authority = from.vector(4)?;
            let authority = match authority.len() {
                0 => None,
                _ => Some(authority.try_into().ok()?),
            };
            PeerIdentity::X509 {
                leaf,
                chain,
                names,
                authority,
            }
        }
        2 => PeerIdentity::RawPublicKey(from.vector(4)?.to_vec()),
        _ => return None,
    };
    let key = Secret::new(from.vector(4)?);
    Some(Saved {
        route: Route { listener, address },
        role,
        cid,
        newest,
        identity,
        key,
        engine: Secret::new(from.vector(4)?),
    })
}

/// What stands for the key of a client with a PSK; `None` when it has none any more.
fn key_of(keys: Option<&dyn Keys>, role: Role, identity: &PeerIdentity) -> Option<Secret> {
    match (role, identity) {
        (Role::Server, PeerIdentity::Psk(identity)) => {
            let key = keys?.psk(identity)?;
            Some(Secret::new(Sha256::digest(key.expose()).as_slice()))
        }
        _ => Some(Secret::new([])),
    }
}

/// A counted list.
fn parts<'a>(from: &mut Reader<'a>) -> Option<Vec<&'a [u8]>> {
    let count = from.uint(4)?;
    if count > MOST_PARTS {
        return None;
    }
    (0..count).map(|_| from.vector(4)).collect()
}

impl Mux {
    /// Takes every session out that another process can go on with, for an orderly restart.
    ///
    /// Nothing is left here afterwards: handshakes, and sessions that the engine cannot move, are
    /// forgotten without a word to their peers, and no [`Output::Closed`] follows.
    pub fn save(&mut self) -> Vec<Saved> {
        let indices = self.sessions.indices();
        let listeners = self.listeners.clone();
        let saved = |session: Session| {
            let Stage::Live(live) = session.stage else {
                return None;
            };
            let keys = listeners.get(&session.route.listener);
            Some(Saved {
                route: session.route,
                role: session.role,
                cid: session.cid,
                newest: live.newest,
                key: key_of(keys.map(|keys| &**keys), session.role, &live.identity)?,
                identity: Arc::unwrap_or_clone(live.identity),
                engine: session.dtls?.save()?,
            })
        };
        indices
            .into_iter()
            .filter_map(|index| self.forget(index))
            .filter_map(|session| saved(*session))
            .collect()
    }

    /// Goes on with sessions that [`save`](Self::save) took out of an earlier process; returns how
    /// many. An [`Output::Established`] follows for each, with its new id, and its idle time
    /// begins anew.
    ///
    /// Left out, and counted, are those of clients on listeners that are not served any more, or
    /// whose key is not the one any more that they came in with, those that the engine refuses, and
    /// those whose place is taken. So [`serve`](Self::serve) first, with keys that are there.
    pub fn restore(&mut self, now: Now, saved: Vec<Saved>) -> usize {
        self.latest = now;
        let all = saved.len();
        let restored = saved
            .into_iter()
            .filter_map(|saved| self.restore_one(now, saved))
            .count();
        self.counters.unrestored += (all - restored) as u64;
        restored
    }

    fn restore_one(&mut self, now: Now, saved: Saved) -> Option<()> {
        if saved.role == Role::Server {
            let keys = self.listeners.get(&saved.route.listener)?;
            if key_of(Some(&**keys), saved.role, &saved.identity)? != saved.key {
                return None;
            }
        }
        if saved.cid.is_some_and(|cid| self.cids.contains_key(&cid)) {
            return None;
        }
        let dtls = self.engine.restore(now, saved.engine.expose()).ok()?;
        let (route, cid) = (saved.route, saved.cid);
        let identity = Arc::new(saved.identity);
        let suite = dtls.suite();
        let index = self.sessions.insert(Session {
            dtls: Some(dtls),
            route,
            cid,
            role: saved.role,
            timed: false,
            cookie: None,
            stage: Stage::Live(Live {
                identity: identity.clone(),
                newest: saved.newest,
                by_cid: false,
                active: now.instant,
                placed: now.instant,
                kept: Instant::ZERO,
            }),
        })?;
        if let Some(cid) = cid {
            self.cids.insert(cid, index);
        }
        // Of two at one route, the second is to be found by its connection ID, as before.
        let here = self.routes.entry(route).or_default();
        here.live.get_or_insert(index);
        self.admit(now, index);
        self.outputs.push_back(Output::Established {
            session: self.sessions.id(index),
            identity,
            suite,
        });
        self.drive(now, index, None, |_| Ok(()));
        Some(())
    }
}
