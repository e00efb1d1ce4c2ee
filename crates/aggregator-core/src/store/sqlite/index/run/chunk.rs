//! A chunk: one row of entries, sorted by fingerprint. An entry is the distance of its fingerprint from the one before
//! and the distance of its offset from the least offset. It takes about 8 bytes.
//!
//! ```text
//!  checksum 8 │ first fingerprint 8 │ least offset 8 │ count 2 │ widths 1 + 1 │ (distance, offset) … │ 0 8
//! ```
//!
//! The zeros let every number be read as eight bytes; a mask removes the bytes behind the number.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::store::sqlite::index::IndexEntry;

const HEADER: usize = 28;

const PADDING: usize = 8;

/// Two chunks fit a page of the file, with SQLite's own bytes for the rows. A lookup reads and checks a whole chunk.
const MAX_BYTES: usize = 4_060;

/// How many bytes the numbers of a chunk's entries take.
#[derive(Clone, Copy)]
pub(crate) struct Widths {
    distance: u8,
    offset: u8,
}

impl Widths {
    /// Wide enough for all of these sorted entries.
    pub(crate) fn of(entries: &[IndexEntry]) -> Self {
        let distances = entries.windows(2).map(|pair| pair[1].fingerprint - pair[0].fingerprint);
        let offsets = entries.iter().map(|entry| entry.offset);
        let spread = offsets.clone().max().unwrap_or(0) - offsets.min().unwrap_or(0);
        Self { distance: bytes_of(distances.max().unwrap_or(0)), offset: bytes_of(spread) }
    }

    /// The most entries of a chunk.
    pub(crate) fn capacity(self) -> usize {
        (MAX_BYTES - HEADER - PADDING) / usize::from(self.distance + self.offset)
    }

    /// The bytes that the chunks of so many entries take together.
    pub(crate) fn bytes(self, entries: usize) -> usize {
        entries.div_ceil(self.capacity()) * MAX_BYTES
    }
}

fn bytes_of(number: u64) -> u8 {
    (1..8).find(|bytes| number >> (8 * bytes) == 0).unwrap_or(8)
}

/// Appends a chunk of at least one and at most [`Widths::capacity`] entries to `chunks`.
pub(crate) fn encode(key: i64, entries: &[IndexEntry], widths: Widths, chunks: &mut Vec<u8>) {
    let least = entries.iter().map(|entry| entry.offset).min().unwrap_or(0);
    let mut last = entries.first().map_or(0, |entry| entry.fingerprint);
    let count = u16::try_from(entries.len()).expect("a page holds fewer entries");
    let start = chunks.len();
    chunks.extend([0; 8]);
    chunks.extend(last.to_le_bytes());
    chunks.extend(least.to_le_bytes());
    chunks.extend(count.to_le_bytes());
    chunks.extend([widths.distance, widths.offset]);
    for entry in entries {
        chunks.extend(&(entry.fingerprint - last).to_le_bytes()[..usize::from(widths.distance)]);
        chunks.extend(&(entry.offset - least).to_le_bytes()[..usize::from(widths.offset)]);
        last = entry.fingerprint;
    }
    chunks.extend([0; PADDING]);
    let checksum = xxh3_64_with_seed(&chunks[start + 8..], key.cast_unsigned());
    chunks[start..start + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// The entries of a chunk that [`encode`] wrote under this key. `None` if the bytes are anything else.
pub(crate) fn decode(key: i64, chunk: &[u8]) -> Option<impl Iterator<Item = IndexEntry>> {
    let (checksum, content) = chunk.split_first_chunk()?;
    if xxh3_64_with_seed(content, key.cast_unsigned()) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let (first, content) = content.split_first_chunk()?;
    let (least, content) = content.split_first_chunk()?;
    let (count, content) = content.split_first_chunk()?;
    let ([distance, offset], content) = content.split_first_chunk::<2>()?;
    let (distance, offset) = (usize::from(*distance), usize::from(*offset));
    let count = usize::from(u16::from_le_bytes(*count));
    let fits = count > 0 && (1..=8).contains(&distance) && (1..=8).contains(&offset);
    if !fits || content.len() != count * (distance + offset) + PADDING {
        return None;
    }
    let (mut fingerprint, least) = (u64::from_le_bytes(*first), u64::from_le_bytes(*least));
    Some((0..count).map(move |n| {
        let at = n * (distance + offset);
        fingerprint = fingerprint.wrapping_add(number(content, at, distance));
        IndexEntry { fingerprint, offset: least.wrapping_add(number(content, at + distance, offset)) }
    }))
}

/// The number of `width` bytes, 1 to 8, at `at`.
fn number(content: &[u8], at: usize, width: usize) -> u64 {
    let eight = content[at..].first_chunk().expect("there are eight bytes behind the last number");
    u64::from_le_bytes(*eight) & (!0 >> (64 - 8 * width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(key: i64, entries: &[IndexEntry], widths: Widths) -> Vec<u8> {
        let mut chunk = Vec::new();
        super::encode(key, entries, widths, &mut chunk);
        chunk
    }

    fn entries(count: u64) -> Vec<IndexEntry> {
        let mut entries: Vec<_> = (0..count)
            .map(|n| IndexEntry { fingerprint: n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16, offset: 7 + n })
            .collect();
        entries.sort_unstable();
        entries
    }

    #[test]
    fn a_chunk_comes_back_as_it_was_and_fits_a_page() {
        for entries in [
            entries(1),
            entries(300),
            vec![
                IndexEntry { fingerprint: 0, offset: 1 },
                IndexEntry { fingerprint: (1 << 48) - 1, offset: u64::MAX / 2 },
            ],
            vec![IndexEntry { fingerprint: 5, offset: 9 }, IndexEntry { fingerprint: 5, offset: 3 }],
        ] {
            let widths = Widths::of(&entries);
            let chunk = encode(42, &entries, widths);
            assert!(decode(42, &chunk).unwrap().eq(entries.iter().copied()));
            assert!(decode(43, &chunk).is_none(), "a chunk in another's place is taken for it");
        }
        let many = entries(100_000);
        let widths = Widths::of(&many);
        let chunk = encode(1, &many[..widths.capacity()], widths);
        assert!((MAX_BYTES - 20..=MAX_BYTES).contains(&chunk.len()), "{}", chunk.len());
    }

    #[test]
    fn no_flipped_bit_and_no_cut_goes_unnoticed() {
        let chunk = encode(42, &entries(50), Widths::of(&entries(50)));
        for bit in 0..chunk.len() * 8 {
            let mut flipped = chunk.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(42, &flipped).is_none(), "bit {bit}");
        }
        for length in 0..chunk.len() {
            assert!(decode(42, &chunk[..length]).is_none(), "cut to {length} bytes");
        }
        assert!(decode(42, &[0; 8_000]).is_none());
    }

    /// Whatever wrote it: it would not be read as it was meant.
    #[test]
    fn widths_that_no_number_has_are_refused_even_with_the_right_checksum() {
        let entries = entries(50);
        let widths = Widths::of(&entries);
        let chunk = encode(42, &entries, widths);
        let sum = widths.distance + widths.offset;
        for (distance, offset) in [(0, sum), (sum, 0), (9, 1), (1, 9), (widths.distance, widths.offset + 1)] {
            let mut other = chunk.clone();
            other[HEADER - 2..HEADER].copy_from_slice(&[distance, offset]);
            other.resize(HEADER + 50 * usize::from(distance + offset) + PADDING, 0);
            if distance == widths.distance {
                other.push(0);
            }
            let checksum = xxh3_64_with_seed(&other[8..], 42);
            other[..8].copy_from_slice(&checksum.to_le_bytes());
            assert!(decode(42, &other).is_none(), "{distance} and {offset}");
        }
    }

    /// Whatever wrote it: its fence would be the first fingerprint of nothing.
    #[test]
    fn a_chunk_without_entries_is_refused_even_with_the_right_checksum() {
        let chunk = encode(42, &[], Widths { distance: 1, offset: 1 });
        assert!(decode(42, &chunk).is_none());
    }

    #[test]
    fn numbers_take_no_more_bytes_than_their_distances_need() {
        let (fingerprint, offset) = (1 << 47, 1 << 40);
        let next = IndexEntry { fingerprint: fingerprint + 255, offset: offset + 256 };
        let Widths { distance, offset } = Widths::of(&[IndexEntry { fingerprint, offset }, next]);
        assert_eq!((distance, offset), (1, 2));
    }
}
