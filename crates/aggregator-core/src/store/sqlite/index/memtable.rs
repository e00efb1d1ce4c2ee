//! The entries that are in no run yet.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::{BuildHasherDefault, Hasher};

use super::Entry;

/// Offsets by fingerprint.
#[derive(Default)]
pub(crate) struct Memtable {
    first: HashMap<u64, u64, BuildHasherDefault<Spread>>,
    /// Whatever shares its fingerprint with an entry of `first`: next to none.
    others: Vec<Entry>,
}

impl Memtable {
    pub(crate) fn with_capacity(entries: usize) -> Self {
        Self {
            first: HashMap::with_capacity_and_hasher(entries, BuildHasherDefault::default()),
            others: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.others.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(crate) fn insert(&mut self, entry: Entry) {
        match self.first.entry(entry.fingerprint) {
            hash_map::Entry::Vacant(place) => drop(place.insert(entry.offset)),
            hash_map::Entry::Occupied(_) => self.others.push(entry),
        }
    }

    /// The offsets of the rows that have the fingerprint.
    pub(crate) fn offsets(&self, fingerprint: u64) -> impl Iterator<Item = u64> {
        let first = self.first.get(&fingerprint).copied();
        let others = if first.is_some() { self.others.as_slice() } else { &[] };
        let others = others.iter().filter(move |entry| entry.fingerprint == fingerprint);
        first.into_iter().chain(others.map(|entry| entry.offset))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = Entry> {
        let first = self.first.iter().map(|(&fingerprint, &offset)| Entry { fingerprint, offset });
        first.chain(self.others.iter().copied())
    }

    /// Takes everything out of `other`.
    pub(crate) fn take(&mut self, other: &mut Self) {
        for (fingerprint, offset) in other.first.drain() {
            self.insert(Entry { fingerprint, offset });
        }
        for entry in other.others.drain(..) {
            self.insert(entry);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first.clear();
        self.others.clear();
    }
}

/// For fingerprints, which are hashes already and only have to fill all 64 bits, and for numbers that nobody
/// outside chooses.
#[derive(Default)]
pub(crate) struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        // An odd number near 2^64 divided by the golden ratio.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    /// Otherwise lookups walk through long chains: nothing would be wrong, but all of it slow.
    #[test]
    fn numbers_are_spread_over_the_first_and_the_last_bits() {
        let hash = |number: u64| BuildHasherDefault::<Spread>::default().hash_one(number);
        let distinct =
            |bits: &dyn Fn(u64) -> u64| (0..1_000).map(|n| bits(hash(n))).collect::<HashSet<_>>().len();
        assert_eq!(distinct(&|hash| hash), 1_000);
        assert_eq!(distinct(&|hash| hash >> 57), 128);
        assert_eq!(distinct(&|hash| hash & 0x3ff), 1_000);
    }
}
