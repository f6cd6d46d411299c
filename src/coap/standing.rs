//! Observations that outlive the process.

use crate::coap::endpoint::{Endpoint, ObservationId};
use crate::coap::link::{insert_tight, slot_of};
use crate::coap::observe::Observation;
use crate::coap::types::{Peer, Token};
use crate::time::Instant;

/// An observation of ours between two processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The token of its notifications.
    pub token: Token,
    /// The request that began it, as a datagram.
    pub request: Box<[u8]>,
    /// The number of the newest notification that the peer does not say again, and when one came last; `None`: the next one counts as
    /// newer.
    pub newest: Option<(u32, Instant)>,
}

/// Numbers of notifications have 24 bits (RFC 7641 §2).
const NUMBERS: u32 = (1 << 24) - 1;

/// How far the Message IDs of a new process are from those that the peer may remember of ours: as
/// far as can be.
const APART: u16 = 1 << 15;

impl Endpoint {
    /// What it takes to go on with an observation of ours.
    pub fn standing(&mut self, observation: ObservationId) -> Option<Standing> {
        let link = self.links.link(slot_of(observation))?;
        let mut observations = link.observations.iter();
        let found = observations.find(|found| found.id == observation)?;
        // What was not acknowledged, the peer says again, and then it has to count.
        let mut open = link.receipts.iter().filter_map(|open| open.number);
        let open = open.find(|(of, _)| *of == observation);
        let newest = found.newest().map(|(newest, arrival)| {
            let number = open.map_or(newest, |(_, number)| number.wrapping_sub(1) & NUMBERS);
            (number, arrival)
        });
        Some(Standing {
            token: found.token,
            request: found.request.clone(),
            newest,
        })
    }

    /// The token of an observation of ours that stands.
    pub fn token(&mut self, observation: ObservationId) -> Option<Token> {
        let link = self.links.link(slot_of(observation))?;
        let mut observations = link.observations.iter();
        Some(observations.find(|found| found.id == observation)?.token)
    }

    /// Goes on with an observation that an earlier process began: its notifications are taken, and
    /// the peer is asked nothing. `None` when there are too many, or the token stands for another
    /// one.
    pub fn stand(&mut self, now: Instant, peer: Peer, standing: Standing) -> Option<ObservationId> {
        self.now = now;
        if self.observations >= self.limits.observations {
            self.counters.refused_observations += 1;
            return None;
        }
        let slot = self.open_link(peer);
        let id = self.links.issue(slot);
        let link = self.links.link(slot)?;
        let Err(place) = link.observation(standing.token) else {
            return None;
        };
        let observation = Observation::standing(id, standing);
        insert_tight(&mut link.observations, place, observation);
        self.observations += 1;
        Some(id)
    }

    /// The Message ID that our next message to a peer would have, if anything is kept for it.
    pub fn message_id(&mut self, peer: Peer) -> Option<u16> {
        let slot = self.links.slot(peer)?;
        Some(self.links.link(slot)?.next_message_id)
    }

    /// Numbers the messages to a peer, for which something [`stand`](Self::stand)s, so that it
    /// takes none for a repetition of one of an earlier process, whose next would have been this.
    pub fn number_apart(&mut self, peer: Peer, next: u16) {
        if let Some(slot) = self.links.slot(peer)
            && let Some(link) = self.links.link(slot)
        {
            link.next_message_id = next.wrapping_add(APART);
        }
    }
}
