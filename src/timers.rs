//! Deadlines, at most one a key.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::keyed::{HashKey, KeyedMap};
use crate::time::Instant;

/// A set of deadlines, each under a key of its own.
///
/// Setting, cancelling and taking are O(log n). The heap is cancelled lazily: what is cancelled or
/// brought forward leaves an entry behind, and what is put off keeps the one it has, which is put
/// back when it comes up. Left-over entries never outnumber the live ones by more than a constant.
pub(crate) struct Timers<K> {
    heap: BinaryHeap<Reverse<(Instant, K)>>,
    live: KeyedMap<K, Timer>,
}

/// What counts for a key.
struct Timer {
    /// When it is due.
    deadline: Instant,
    /// The one heap entry that stands for it, never later than the deadline.
    entry: Instant,
}

/// Left-over entries that are not worth a compaction.
const SLACK: usize = 64;

impl<K: Clone + Eq + Hash + Ord> Timers<K> {
    /// No deadlines.
    pub(crate) fn new(key: HashKey) -> Self {
        Self {
            heap: BinaryHeap::new(),
            live: KeyedMap::with_hasher(key),
        }
    }

    /// Sets the deadline of `key`, in place of the one it may have.
    pub(crate) fn set(&mut self, key: K, deadline: Instant) {
        match self.live.entry(key.clone()) {
            Entry::Occupied(timer) => {
                let timer = timer.into_mut();
                timer.deadline = deadline;
                if deadline >= timer.entry {
                    // The entry comes up early and is put back then.
                    self.settle();
                    return;
                }
                timer.entry = deadline;
            }
            Entry::Vacant(vacant) => {
                vacant.insert(Timer {
                    deadline,
                    entry: deadline,
                });
            }
        }
        self.heap.push(Reverse((deadline, key)));
        self.settle();
    }

    /// Forgets the deadline of `key`, if it has one.
    pub(crate) fn cancel(&mut self, key: &K) {
        if self.live.remove(key).is_some() {
            self.settle();
        }
    }

    /// Takes a key that is due at `now`: the earliest first, equal ones in the order of their keys.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<K> {
        if self.next()? > now {
            return None;
        }
        let Reverse((_, key)) = self.heap.pop()?;
        self.live.remove(&key);
        self.settle();
        Some(key)
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        // `settle` keeps a true deadline on top.
        self.heap.peek().map(|Reverse((deadline, _))| *deadline)
    }

    /// Whether `key` has a deadline.
    pub(crate) fn is_set(&self, key: &K) -> bool {
        self.live.contains_key(key)
    }

    /// The number of deadlines.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Restores what holds between calls: the top of the heap is a true deadline, and the heap is
    /// not much larger than what is live.
    fn settle(&mut self) {
        while let Some(Reverse((at, key))) = self.heap.peek() {
            match self.live.get_mut(key) {
                Some(timer) if timer.entry == *at => {
                    if timer.deadline == *at {
                        break;
                    }
                    timer.entry = timer.deadline;
                    let put_back = Reverse((timer.deadline, key.clone()));
                    self.heap.pop();
                    self.heap.push(put_back);
                }
                _ => {
                    self.heap.pop();
                }
            }
        }
        if self.heap.len() > 2 * self.live.len() + SLACK {
            let live = &self.live;
            self.heap
                .retain(|Reverse((at, key))| live.get(key).is_some_and(|timer| timer.entry == *at));
        }
        // The memory of a burst is given back.
        if self.heap.capacity() > 8 * self.heap.len() + 1024 {
            self.heap.shrink_to(2 * self.heap.len());
            self.live.shrink_to(2 * self.live.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn timers() -> Timers<u32> {
        Timers::new(HashKey::generate(&mut StdRng::from_seed([1; 32])))
    }

    fn at(micros: u64) -> Instant {
        Instant::from_micros(micros)
    }

    #[test]
    fn timers_fire_in_order_and_once() {
        let mut timers = timers();
        timers.set(1, at(30));
        timers.set(2, at(10));
        timers.set(3, at(20));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.expire(at(9)), None);
        assert_eq!(timers.expire(at(20)), Some(2));
        assert_eq!(timers.expire(at(20)), Some(3));
        assert_eq!(timers.expire(at(20)), None);
        assert_eq!(timers.next(), Some(at(30)));
    }

    #[test]
    fn a_timer_put_off_or_brought_forward_fires_at_its_last_deadline() {
        let mut timers = timers();
        timers.set(1, at(10));
        timers.set(1, at(50));
        assert_eq!(timers.next(), Some(at(50)));
        timers.set(1, at(20));
        timers.set(1, at(40));
        assert_eq!(timers.next(), Some(at(40)));
        assert_eq!(timers.expire(at(39)), None);
        assert_eq!(timers.expire(at(60)), Some(1));
        assert_eq!(timers.expire(at(60)), None);
    }

    #[test]
    fn left_over_entries_stay_bounded() {
        let mut timers = timers();
        timers.set(0, at(1));
        for round in 1..100_000_u64 {
            timers.set(1, at(1_000_000 - round));
            timers.set(2, at(round));
            timers.cancel(&2);
        }
        assert_eq!(timers.len(), 2);
        assert!(timers.heap.len() <= 2 * 2 + SLACK);
    }

    #[test]
    fn the_memory_of_a_burst_is_given_back() {
        let mut timers = timers();
        for key in 0..100_000 {
            timers.set(key, at(1));
        }
        timers.set(100_000, at(2));
        while timers.expire(at(1)).is_some() {}
        assert_eq!(timers.len(), 1);
        assert!(timers.heap.capacity() + timers.live.capacity() < 4000);
    }

    #[test]
    fn any_sequence_agrees_with_a_plain_map() {
        let mut rng = StdRng::from_seed([7; 32]);
        let mut timers = timers();
        let mut model = BTreeMap::new();
        let mut now = 0;
        for _ in 0..50_000 {
            let key = rng.random_range(0..40_u32);
            match rng.random_range(0..4) {
                0 | 1 => {
                    let deadline = at(now + rng.random_range(0..100_u64));
                    timers.set(key, deadline);
                    model.insert(key, deadline);
                }
                2 => {
                    timers.cancel(&key);
                    model.remove(&key);
                }
                _ => {
                    now += rng.random_range(0..20_u64);
                    while let Some(key) = timers.expire(at(now)) {
                        let deadline = model.remove(&key).expect("fires only what was set");
                        assert!(deadline <= at(now));
                    }
                    assert!(model.values().all(|deadline| *deadline > at(now)));
                }
            }
            assert_eq!(timers.next(), model.values().min().copied());
        }
    }
}
