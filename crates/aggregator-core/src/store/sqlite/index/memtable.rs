//! The memtable: the entries that are in no run yet, in a hash map.

use std::collections::HashMap;
use std::collections::hash_map;
use std::hash::{BuildHasherDefault, Hasher};

use super::IndexEntry;

/// Offsets by fingerprint.
#[derive(Default)]
pub(crate) struct Memtable {
    first: HashMap<u64, u64, BuildHasherDefault<FibonacciHasher>>,
    /// Entries that share their fingerprint with an entry of `first`: very few.
    collisions: Vec<IndexEntry>,
}

impl Memtable {
    pub(crate) fn with_capacity(entries: usize) -> Self {
        Self {
            first: HashMap::with_capacity_and_hasher(entries, BuildHasherDefault::default()),
            collisions: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.collisions.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(crate) fn insert(&mut self, entry: IndexEntry) {
        match self.first.entry(entry.fingerprint) {
            hash_map::Entry::Vacant(vacant) => drop(vacant.insert(entry.offset)),
            hash_map::Entry::Occupied(_) => self.collisions.push(entry),
        }
    }

    /// The offsets of the rows that have the fingerprint.
    pub(crate) fn offsets(&self, fingerprint: u64) -> impl Iterator<Item = u64> {
        let first = self.first.get(&fingerprint).copied();
        let collisions = if first.is_some() { self.collisions.as_slice() } else { &[] };
        let collisions = collisions.iter().filter(move |entry| entry.fingerprint == fingerprint);
        first.into_iter().chain(collisions.map(|entry| entry.offset))
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = IndexEntry> {
        let first = self.first.iter().map(|(&fingerprint, &offset)| IndexEntry { fingerprint, offset });
        first.chain(self.collisions.iter().copied())
    }

    /// Moves all entries of `other` here, and leaves `other` empty.
    pub(crate) fn append(&mut self, other: &mut Self) {
        for (fingerprint, offset) in other.first.drain() {
            self.insert(IndexEntry { fingerprint, offset });
        }
        for entry in other.collisions.drain(..) {
            self.insert(entry);
        }
    }

    pub(crate) fn clear(&mut self) {
        self.first.clear();
        self.collisions.clear();
    }
}

/// Multiplicative (Fibonacci) hashing: one multiplication spreads a number over all 64 bits. That is enough for
/// fingerprints, which are hashes already, and for numbers that no client chooses.
#[derive(Default)]
pub(crate) struct FibonacciHasher(u64);

impl Hasher for FibonacciHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio, rounded to an odd number.
        self.0 = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::BuildHasher as _;

    use super::*;

    #[test]
    fn all_rows_of_a_fingerprint_are_found_and_no_others() {
        let mut memtable = Memtable::default();
        for (fingerprint, offset) in [(7, 1), (8, 2), (7, 3), (9, 4), (8, 5), (7, 6)] {
            memtable.insert(IndexEntry { fingerprint, offset });
        }
        for (fingerprint, rows) in [(7, vec![1, 3, 6]), (8, vec![2, 5]), (9, vec![4]), (10, vec![])] {
            assert_eq!(memtable.offsets(fingerprint).collect::<Vec<_>>(), rows);
        }
    }

    /// Otherwise lookups walk through long chains: nothing would be wrong, but all of it slow.
    #[test]
    fn numbers_are_spread_over_the_first_and_the_last_bits() {
        let hash = |number: u64| BuildHasherDefault::<FibonacciHasher>::default().hash_one(number);
        let distinct =
            |bits: &dyn Fn(u64) -> u64| (0..1_000).map(|n| bits(hash(n))).collect::<HashSet<_>>().len();
        assert_eq!(distinct(&|hash| hash), 1_000);
        assert_eq!(distinct(&|hash| hash >> 57), 128);
        assert_eq!(distinct(&|hash| hash & 0x3ff), 1_000);
    }
}
