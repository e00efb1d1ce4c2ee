//! The rows that cursors stand at.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::Partition;

/// The row of a partition that a [`Position`](super::Position) stands at. For backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anchor {
    /// Its offset; 0 for no row.
    pub offset: u64,
    /// What tells it from a row of another history.
    pub fingerprint: Fingerprint,
}

impl Anchor {
    /// No row.
    pub const NONE: Self = Self { offset: 0, fingerprint: Fingerprint(0) };

    /// The row of these. `seq` is `None` for an identity that was imported alone.
    pub fn new(partition: Partition, offset: u64, topic: &str, seq: Option<u64>, event_id: &str) -> Self {
        Self { offset, fingerprint: Fingerprint::new(partition, offset, topic, seq, event_id) }
    }
}

/// 32 bits of a hash of a row's partition, offset, topic, seq and id. A purge leaves them as they are. Part of the
/// cursor's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Fingerprint(u32);

impl Fingerprint {
    /// That of a row. `seq` is `None` for an identity that was imported alone.
    pub fn new(partition: Partition, offset: u64, topic: &str, seq: Option<u64>, event_id: &str) -> Self {
        let mut place = [0; 18];
        place[..2].copy_from_slice(&partition.0.to_be_bytes());
        place[2..10].copy_from_slice(&offset.to_be_bytes());
        // No seq is 0.
        place[10..].copy_from_slice(&seq.unwrap_or(0).to_be_bytes());
        // Each hash is the seed of the next one, which keeps neighbours apart.
        let hash = xxh3_64_with_seed(topic.as_bytes(), xxh3_64_with_seed(&place, 0));
        let hash = xxh3_64_with_seed(event_id.as_bytes(), hash);
        Self(u32::try_from(hash >> 32).expect("half of the bits"))
    }

    pub(crate) fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(crate) fn bits(self) -> u32 {
        self.0
    }

    /// Adds the fingerprint of a row to that of some rows, or takes it out again.
    pub(crate) fn toggle(&mut self, row: Self) {
        self.0 ^= row.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_of_every_part_of_a_row_and_never_changes() {
        let of = |partition, offset, topic, seq, event_id| {
            Fingerprint::new(Partition(partition), offset, topic, seq, event_id).bits()
        };
        let row = of(1, 2, "t", Some(3), "id");
        assert_eq!(row, 0xD192_A8DA, "cursors that were handed out depend on it");
        for other in [
            of(2, 2, "t", Some(3), "id"),
            of(1, 3, "t", Some(3), "id"),
            of(1, 2, "u", Some(3), "id"),
            of(1, 2, "t", Some(4), "id"),
            of(1, 2, "t", None, "id"),
            of(1, 2, "t", Some(3), "ie"),
            of(1, 2, "ti", Some(3), "d"),
        ] {
            assert_ne!(row, other);
        }
    }
}
