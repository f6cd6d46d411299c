//! Sessions and handshakes, and the table that owns them.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;

use crate::dtls::hello::CookieMark;
use crate::dtls::record::Cid;
use crate::dtls::{DtlsSession, PeerIdentity};
use crate::route::Route;
use crate::time::Instant;

/// A session, from its handshake on. Never used twice in a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Where a session stands in [`Sessions`], while it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Index(NonZeroU32);

/// Bits of a [`SessionId`] that are the index; the rest counts how often the place was taken.
const INDEX_BITS: u32 = 24;

/// Most places that the table can have.
pub(super) const MOST_PLACES: usize = (1 << INDEX_BITS) - 2;

/// One session or handshake.
pub(super) struct Session {
    /// The engine's part; away while it is driven, by a `Work` or in the call under way.
    pub(super) dtls: Option<Box<dyn DtlsSession>>,
    /// Where what we send goes.
    pub(super) route: Route,
    /// The connection ID that the peer may send.
    pub(super) cid: Option<Cid>,
    pub(super) role: Role,
    /// Whether `Timers` has an entry.
    pub(super) timed: bool,
    /// What tells the cookie that it began with from others; none in the client's role, and after
    /// a restart.
    pub(super) cookie: Option<CookieMark>,
    pub(super) stage: Stage,
}

/// Which end is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The peer said hello.
    Server,
    /// We did.
    Client,
}

pub(super) enum Stage {
    Handshake(Box<Handshake>),
    Live(Live),
}

/// A handshake under way.
pub(super) struct Handshake {
    /// When it began.
    pub(super) began: Instant,
    /// Which one it is, in the order of beginning.
    pub(super) serial: u64,
    /// Whether its steps are taken by `Work`s.
    pub(super) costly: bool,
    /// Its place in the queue for a `Work`.
    pub(super) queued: Option<u64>,
    /// Whether its timer ran out: a step of the next `Work`.
    pub(super) timeout_due: bool,
    /// Datagrams for the next `Work`.
    pub(super) waiting: VecDeque<Vec<u8>>,
    /// What these weigh.
    pub(super) waiting_bytes: usize,
}

/// An established session.
pub(super) struct Live {
    pub(super) identity: Arc<PeerIdentity>,
    /// The largest record number that gave application data.
    pub(super) newest: u64,
    /// Whether it has come by connection ID, and so is found wherever it is.
    pub(super) by_cid: bool,
    /// When the peer last authenticated something.
    pub(super) active: Instant,
    /// `active`, as the order of idleness has it: up to a minute older, or as late as `kept`.
    pub(super) placed: Instant,
    /// Counts for idleness as if the peer had been heard of then: see [`Mux::keep`].
    ///
    /// [`Mux::keep`]: super::Mux::keep
    pub(super) kept: Instant,
}

impl Session {
    /// The handshake that this still is.
    pub(super) fn handshake_mut(&mut self) -> Option<&mut Handshake> {
        match &mut self.stage {
            Stage::Handshake(handshake) => Some(handshake),
            Stage::Live(_) => None,
        }
    }

    /// The established session that this has become.
    pub(super) fn live(&self) -> Option<&Live> {
        match &self.stage {
            Stage::Handshake(_) => None,
            Stage::Live(live) => Some(live),
        }
    }

    /// The established session that this has become.
    pub(super) fn live_mut(&mut self) -> Option<&mut Live> {
        match &mut self.stage {
            Stage::Handshake(_) => None,
            Stage::Live(live) => Some(live),
        }
    }
}

/// All sessions and handshakes, each at a place of its own.
#[derive(Default)]
pub(super) struct Sessions {
    places: Vec<Place>,
    /// Places without a session, as numbers. Those left longest are taken first, which keeps the
    /// counts of all places low.
    free: VecDeque<u32>,
}

#[derive(Default)]
struct Place {
    /// How often it has been taken.
    taken: u64,
    session: Option<Box<Session>>,
}

impl Index {
    /// The least.
    pub(super) const FIRST: Self = Self(NonZeroU32::MIN);

    fn new(place: usize) -> Option<Self> {
        let number = u32::try_from(place).ok()?.checked_add(1)?;
        NonZeroU32::new(number).map(Self)
    }

    fn place(self) -> usize {
        self.0.get() as usize - 1
    }
}

impl Sessions {
    /// Takes a session in. `None`, and it is dropped, when the table has as many places as a
    /// [`SessionId`] can name.
    pub(super) fn insert(&mut self, session: Session) -> Option<Index> {
        let place = match self.free.pop_front() {
            Some(place) => place as usize,
            None if self.places.len() < MOST_PLACES => {
                self.places.push(Place::default());
                self.places.len() - 1
            }
            None => return None,
        };
        let index = Index::new(place)?;
        let place = self.places.get_mut(place)?;
        place.taken += 1;
        place.session = Some(Box::new(session));
        Some(index)
    }

    /// Gives a session out, and its place free.
    pub(super) fn remove(&mut self, index: Index) -> Option<Box<Session>> {
        let session = self.places.get_mut(index.place())?.session.take()?;
        self.free.push_back(index.0.get() - 1);
        Some(session)
    }

    pub(super) fn at(&self, index: Index) -> Option<&Session> {
        self.places.get(index.place())?.session.as_deref()
    }

    pub(super) fn at_mut(&mut self, index: Index) -> Option<&mut Session> {
        self.places.get_mut(index.place())?.session.as_deref_mut()
    }

    /// The name of the session that stands here now.
    pub(super) fn id(&self, index: Index) -> SessionId {
        let taken = self.places.get(index.place()).map_or(0, |at| at.taken);
        SessionId(taken << INDEX_BITS | u64::from(index.0.get()))
    }

    /// Where the session of this name stands, if it still does.
    pub(super) fn find(&self, id: SessionId) -> Option<Index> {
        let number = (id.0 & ((1 << INDEX_BITS) - 1)) as u32;
        let index = Index(NonZeroU32::new(number)?);
        let place = self.places.get(index.place())?;
        (place.session.is_some() && place.taken == id.0 >> INDEX_BITS).then_some(index)
    }

    /// All that stand there, in the order of their places.
    pub(super) fn indices(&self) -> Vec<Index> {
        self.places
            .iter()
            .enumerate()
            .filter(|(_, place)| place.session.is_some())
            .filter_map(|(number, _)| Index::new(number))
            .collect()
    }

    /// The bytes of the table itself.
    #[cfg(test)]
    pub(super) fn footprint(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
            + self.free.capacity() * 4
            + (self.places.len() - self.free.len()) * (size_of::<Session>() + 8)
    }
}
