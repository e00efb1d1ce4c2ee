//! "May this fingerprint be in the section?": no for all but one in 256 of those that are not.
//!
//! A binary fuse filter. It is made by a library, and asked here, in two halves: of many fingerprints first all places
//! are computed and then all are read, so that the cache misses of a large filter do not wait for each other.
//! That takes two thirds of the time.

use std::sync::Arc;

use xorf::{BinaryFuse8, Descriptor};

/// Clones share what takes memory.
#[derive(Clone)]
pub(super) struct Filter {
    seed: u64,
    segment_length: u32,
    segment_count_length: u32,
    bytes: Arc<[u8]>,
}

/// Where a fingerprint has left its mark, if it is there.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    places: [u32; 3],
    mark: u8,
}

impl Filter {
    /// Of distinct fingerprints. `None` if there are none, or in the rare case that it cannot be made.
    pub(super) fn of(fingerprints: &[u64]) -> Option<Self> {
        if fingerprints.is_empty() {
            return None;
        }
        let BinaryFuse8 { descriptor, fingerprints: bytes } = BinaryFuse8::try_from(fingerprints).ok()?;
        let Descriptor { seed, segment_length, segment_count_length, .. } = descriptor;
        Some(Self { seed, segment_length, segment_count_length, bytes: bytes.into() })
    }

    /// Writes it behind what is there.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        to.extend(self.seed.to_le_bytes());
        to.extend(self.segment_length.to_le_bytes());
        to.extend((self.segment_length - 1).to_le_bytes());
        to.extend(self.segment_count_length.to_le_bytes());
        to.extend(&*self.bytes);
    }

    /// What [`Self::encode`] wrote, or `None` if it is something else.
    pub(super) fn decode(encoded: &[u8]) -> Option<Self> {
        let (seed, rest) = encoded.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (mask, rest) = rest.split_first_chunk()?;
        let (count_length, bytes) = rest.split_first_chunk()?;
        let (segment_length, segment_count_length) =
            (u32::from_le_bytes(*length), u32::from_le_bytes(*count_length));
        // A lookup does not look where it reads.
        let all = u64::from(segment_count_length) + 2 * u64::from(segment_length);
        let is_sound = bytes.len() as u64 == all
            && segment_length.is_power_of_two()
            && u32::from_le_bytes(*mask) == segment_length - 1;
        let seed = u64::from_le_bytes(*seed);
        is_sound.then(|| Self { seed, segment_length, segment_count_length, bytes: bytes.into() })
    }

    /// The first half of a lookup, which reads nothing of the large part.
    #[inline]
    pub(super) fn spot(&self, fingerprint: u64) -> Spot {
        let hash = mix(fingerprint.wrapping_add(self.seed));
        let first = (u128::from(hash) * u128::from(self.segment_count_length)) >> 64;
        let first = u32::try_from(first).expect("less than the number it was scaled to");
        let mask = self.segment_length - 1;
        let [middle, low, high] = [hash >> 18, hash, hash >> 32].map(|bits| (bits & 0xffff_ffff) as u32);
        let second = (first + self.segment_length) ^ (middle & mask);
        let third = (first + 2 * self.segment_length) ^ (low & mask);
        Spot { places: [first, second, third], mark: ((low ^ high) & 0xff) as u8 }
    }

    /// The second half.
    #[inline]
    pub(super) fn admits(&self, spot: Spot) -> bool {
        spot.places.iter().fold(spot.mark, |mark, &place| mark ^ self.bytes[place as usize]) == 0
    }
}

/// What the library hashes with.
#[inline]
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use xorf::Filter as _;

    use super::*;

    /// As a keyed hash spreads them.
    fn fingerprints(seed: u64, count: u64) -> Vec<u64> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed) >> 16;
        (0..count).map(hash).collect()
    }

    /// Of any size: what is in it is let through, also when it was read back, and of the rest what the library lets
    /// through.
    #[test]
    fn it_answers_as_the_library_does() {
        for count in (1..100).chain([1_000, 57_344]) {
            let held = fingerprints(1, count);
            let theirs = BinaryFuse8::try_from(&held).unwrap();
            let mut encoded = Vec::new();
            Filter::of(&held).unwrap().encode(&mut encoded);
            let ours = Filter::decode(&encoded).unwrap();
            let admits = |fingerprint: u64| ours.admits(ours.spot(fingerprint));
            assert!(held.iter().all(|&fingerprint| admits(fingerprint)), "one of {count} is missing");
            for stranger in fingerprints(2, 10_000) {
                assert_eq!(admits(stranger), theirs.contains(&stranger), "{stranger} of {count}");
            }
        }
    }

    #[test]
    fn no_other_bytes_make_a_lookup_panic() {
        let held = fingerprints(3, 500);
        let mut encoded = Vec::new();
        Filter::of(&held).unwrap().encode(&mut encoded);
        for bit in 0..20 * 8 {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Filter::decode(&flipped);
            assert!(read.is_none() || bit < 64, "bit {bit} was not missed");
            if let Some(filter) = read {
                let _ = held.iter().filter(|&&fingerprint| filter.admits(filter.spot(fingerprint))).count();
            }
        }
        assert!((0..encoded.len()).all(|length| Filter::decode(&encoded[..length]).is_none()));
    }
}
