//! Observations in both directions (RFC 7641).

use std::time::Duration;

use crate::coap::block::BlockSize;
use crate::coap::endpoint::ObservationId;
use crate::coap::message::Message;
use crate::coap::standing::Standing;
use crate::coap::transfer::Subject;
use crate::coap::types::Token;
use crate::time::Instant;

/// After this long any notification counts as newer (RFC 7641 §3.4).
const REORDERING: Duration = Duration::from_secs(128);
/// A confirmable notification has to go out at least this often (RFC 7641 §4.5).
const CONFIRMABLE_AT_LEAST_EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// An observation of ours at a peer.
pub(super) struct Observation {
    pub(super) id: ObservationId,
    pub(super) token: Token,
    /// The number of the newest notification.
    newest: u32,
    /// When it came; `None`: the next one counts as newer.
    arrival: Option<Instant>,
    /// The request that began it, as a datagram, which is its smallest form.
    pub(super) request: Box<[u8]>,
}

/// How a notification stands to those of its observation that came before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It is newer than all of them.
    Newest,
    /// It is the newest of them once more.
    Again,
    /// A newer one came first.
    Overtaken,
}

impl Observation {
    /// An observation whose first representation came with this number.
    pub(super) fn new(
        id: ObservationId,
        token: Token,
        request: Box<[u8]>,
        number: u32,
        now: Instant,
    ) -> Self {
        Self {
            id,
            token,
            newest: number,
            arrival: Some(now),
            request,
        }
    }

    /// How a notification stands to those before it (RFC 7641 §3.4). If it is newer, it is the
    /// newest from now on.
    pub(super) fn place(&mut self, number: u32, now: Instant) -> Order {
        let newer = self
            .arrival
            .is_none_or(|arrival| is_newer(self.newest, number) || now.since(arrival) > REORDERING);
        if newer {
            self.newest = number;
            self.arrival = Some(now);
            Order::Newest
        } else if number == self.newest {
            Order::Again
        } else {
            Order::Overtaken
        }
    }

    /// An observation of an earlier process.
    pub(super) fn standing(id: ObservationId, standing: Standing) -> Self {
        Self {
            id,
            token: standing.token,
            newest: standing.newest.map_or(0, |(number, _)| number),
            arrival: standing.newest.map(|(_, arrival)| arrival),
            request: standing.request,
        }
    }

    /// The number of the newest notification, and when it came.
    pub(super) fn newest(&self) -> Option<(u32, Instant)> {
        Some((self.newest, self.arrival?))
    }

    /// Lets the next notification count as newer, whatever its number: the newest was lost.
    pub(super) fn forget_order(&mut self) {
        self.arrival = None;
    }
}

/// Whether 24-bit number `second` comes after `first` (RFC 7641 §3.4).
fn is_newer(first: u32, second: u32) -> bool {
    const HALF: u32 = 1 << 23;
    first < second && second - first < HALF || first > second && first - second > HALF
}

/// A peer that observes something here.
pub(super) struct Observer {
    pub(super) token: Token,
    pub(super) subject: Subject,
    /// The largest block that it asked for.
    pub(super) block_size: BlockSize,
    /// The Message ID of the last non-confirmable notification, which a Reset would name.
    pub(super) last_id: Option<u16>,
    /// A notification that waits for the ACK of the one before it (RFC 7641 §4.5.2).
    pub(super) waiting: Option<Box<Message>>,
    pub(super) last_confirmable: Instant,
}

impl Observer {
    /// Whether it is time for a confirmable notification, whatever the resource prefers.
    pub(super) fn is_confirmable_due(&self, now: Instant) -> bool {
        now.since(self.last_confirmable) >= CONFIRMABLE_AT_LEAST_EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::endpoint::ExchangeId;

    #[test]
    fn notifications_are_ordered_by_their_24_bit_number() {
        let cases = [
            (1, 2, true),
            (2, 1, false),
            (5, 5, false),
            (0, (1 << 23) - 1, true),
            (0, 1 << 23, false),
            (0xff_ffff, 0, true),
            (0xff_fff0, 5, true),
            (5, 0xff_fff0, false),
            (1 << 23, 0, false),
            ((1 << 23) + 1, 0, true),
        ];
        for (first, second, newer) in cases {
            assert_eq!(is_newer(first, second), newer, "{first} then {second}");
        }
    }

    #[test]
    fn after_128_seconds_any_number_is_newer() {
        let at = |seconds| Instant::ZERO + Duration::from_secs(seconds);
        let mut observation =
            Observation::new(ExchangeId(1), Token::default(), Box::default(), 100, at(0));
        assert_eq!(observation.place(90, at(128)), Order::Overtaken);
        assert_eq!(observation.place(90, at(129)), Order::Newest);
        assert_eq!(observation.place(90, at(129)), Order::Again);
        assert_eq!(observation.place(89, at(200)), Order::Overtaken);
        observation.forget_order();
        assert_eq!(observation.place(89, at(200)), Order::Newest);
    }
}
