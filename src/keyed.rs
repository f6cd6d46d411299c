//! Hash maps whose keys strangers choose.
//!
//! SipHash keyed from the core's own seeded generator: collisions cannot be prepared from outside,
//! and a run with the same seed is the same run. Such maps are looked up, never iterated over.

use std::collections::HashMap;
use std::hash::BuildHasher;

use rand::{Rng, RngExt};
use siphasher::sip::SipHasher13;

/// A map for keys chosen by peers. Build it with [`map`].
pub type KeyedMap<K, V> = HashMap<K, V, HashKey>;

/// The key of a [`KeyedMap`]'s hash function.
#[derive(Clone, Copy)]
pub struct HashKey(u64, u64);

impl HashKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(rng.random(), rng.random())
    }
}

impl BuildHasher for HashKey {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0, self.1)
    }
}

/// An empty map with a key of its own.
pub fn map<K, V>(rng: &mut impl Rng) -> KeyedMap<K, V> {
    HashMap::with_hasher(HashKey::generate(rng))
}
