//! The bounds on what comes from outside: unfinished handshakes, and how often a source's failures
//! are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::dtls::limits::Limits;
use crate::dtls::mux::session::Index;
use crate::time::Instant;

/// Who is behind an address, as far as limits go: an IPv4 address, or the network of 64 bits that
/// whoever has one IPv6 address usually has all of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source(IpAddr);

impl Source {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = u128::from(address) & (u128::MAX << 64);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            address => address,
        })
    }
}

/// Handshakes under way, by age and by source.
#[derive(Default)]
pub(super) struct Unfinished {
    by_age: BTreeSet<(Instant, u64, Index)>,
    by_source: BTreeSet<(Source, u64, Index)>,
    counts: BTreeMap<Source, usize>,
}

impl Unfinished {
    /// `serial` grows from one to the next.
    pub(super) fn insert(&mut self, began: Instant, serial: u64, source: Source, index: Index) {
        if self.by_age.insert((began, serial, index)) {
            self.by_source.insert((source, serial, index));
            *self.counts.entry(source).or_default() += 1;
        }
    }

    /// Takes out what [`insert`](Self::insert) put in, with the same arguments.
    pub(super) fn remove(&mut self, began: Instant, serial: u64, source: Source, index: Index) {
        if self.by_age.remove(&(began, serial, index)) {
            self.by_source.remove(&(source, serial, index));
            if let Some(count) = self.counts.get_mut(&source) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&source);
                }
            }
        }
    }

    /// The oldest, and when it began.
    pub(super) fn oldest(&self) -> Option<(Instant, Index)> {
        let (began, _, index) = self.by_age.first()?;
        Some((*began, *index))
    }

    /// Who has to give way so that one more of this source is within the limits. Ask again after
    /// it is gone.
    pub(super) fn in_the_way(&self, source: Source, limits: &Limits) -> Option<Index> {
        let of_source = self.counts.get(&source).copied().unwrap_or(0);
        if of_source >= limits.handshakes_per_source.max(1) {
            let (_, _, index) = self.by_source.range((source, 0, Index::FIRST)..).next()?;
            return Some(*index);
        }
        if self.len() >= limits.handshakes.max(1) {
            return self.oldest().map(|(_, index)| index);
        }
        None
    }

    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }
}

/// Which sources had failures told in the last interval, and how many.
#[derive(Default)]
pub(super) struct Told {
    sources: BTreeMap<Source, u32>,
    order: VecDeque<(Instant, Source)>,
}

impl Told {
    /// Whether a failure of this source may be told now.
    pub(super) fn may_tell(&mut self, now: Instant, source: Source, limits: &Limits) -> bool {
        while let Some((at, old)) = self.order.front() {
            if now.since(*at) < limits.failure_interval {
                break;
            }
            self.sources.remove(old);
            self.order.pop_front();
        }
        if let Some(told) = self.sources.get_mut(&source) {
            let more = *told < limits.failures_per_source;
            *told += u32::from(more);
            return more;
        }
        let room = self.order.len() < limits.failure_sources && limits.failures_per_source > 0;
        if room {
            self.sources.insert(source, 1);
            self.order.push_back((now, source));
        }
        room
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn source(text: &str) -> Source {
        Source::of(text.parse().unwrap())
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_network() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn a_few_failures_are_told_an_interval_a_source_and_the_table_is_bounded() {
        let limits = Limits {
            failure_sources: 2,
            failures_per_source: 3,
            ..Limits::default()
        };
        let mut told = Told::default();
        let start = Instant::from_micros(5);
        let (a, b, c) = (source("10.0.0.1"), source("10.0.0.2"), source("10.0.0.3"));
        for _ in 0..3 {
            assert!(told.may_tell(start, a, &limits));
        }
        assert!(!told.may_tell(start, a, &limits));
        let later = start + Duration::from_secs(5);
        assert!(!told.may_tell(later, a, &limits));
        assert!(told.may_tell(later, b, &limits));
        assert!(!told.may_tell(later, c, &limits));
        assert_eq!(told.len(), 2);
        let later = start + Duration::from_secs(10);
        assert!(told.may_tell(later, a, &limits));
        assert!(told.may_tell(later, b, &limits));
        assert!(!told.may_tell(later, c, &limits));
    }
}
