//! "Which of these runs may have this fingerprint?": a filter that says whose fingerprint it is, of one section of one
//! run, or of the same section of 2, 4 or 8 runs.
//!
//! It is a quotient filter, of which a lookup reads one place in memory, however many runs it is of. A fingerprint,
//! as a fraction of the section, comes to a **cell** of a grid that all runs of about the same size share; of such a
//! fingerprint that no run has, one in 300 comes to a cell that a run has marked. Cell and **tag**, the run's number,
//! make a **position**. All positions are kept, in order: their first bits choose a line, six more a slot in it, and the
//! last eight are written down.
//!
//! ```text
//!  line: slots that have marks, a bit each 8 │ which marks are the last of their slot, a bit each │ marks, a byte each
//! ```
//!
//! Twice the runs have twice the lines, and their tags one bit more: so of a cell one bit less is written down, and a mark
//! takes a byte still. It is made in one pass, since a section's entries are sorted, and two are put together in one.

use std::hint::black_box;
use std::iter::Peekable;
use std::sync::Arc;

/// Clones share what takes memory: 1.4 bytes a fingerprint.
#[derive(Clone)]
pub(super) struct Maplet {
    /// The bits of a tag.
    tag_bits: u32,
    /// For each run.
    lines: u32,
    /// Where each line starts, and where the last one ends.
    starts: Arc<[u32]>,
    bytes: Arc<[u8]>,
}

/// How many fingerprints come to a line, at most but for chance.
const LOAD: usize = 52;

/// Of a position, in a line: a slot and a mark.
const LINE_BITS: u32 = 14;

/// Of as many runs, at most.
pub(super) const MAX_RUNS: u32 = 8;

/// How many are looked for at a time.
pub(super) const TOGETHER: usize = 64;

/// Where the marks of a fingerprint are, if it has any.
#[derive(Clone, Copy)]
pub(super) struct Spot<'m> {
    maplet: &'m Maplet,
    line: usize,
    slot: u32,
    /// But for the tag.
    mark: u8,
}

impl Maplet {
    /// Of one run's section, whose fingerprints come as fractions of it, in order; there will be about so many in each
    /// of its sections.
    pub(super) fn of(fractions: impl ExactSizeIterator<Item = u64>, usual: u64) -> Self {
        let lines = grid(usual);
        let count = fractions.len();
        let mut cells: Vec<u64> = fractions.map(|fraction| cell(fraction, lines)).collect();
        cells.dedup();
        Self::of_positions(cells.into_iter(), count, 0, lines)
    }

    fn of_positions(positions: impl Iterator<Item = u64>, count: usize, tag_bits: u32, lines: u32) -> Self {
        let lines_of_all = (lines as usize) << tag_bits;
        let mut starts = Vec::with_capacity(lines_of_all + 1);
        // Two bits a mark come on top; a little more, for lines that are filled up to whole bytes.
        let mut bytes = Vec::with_capacity(count + count / 8 + 9 * lines_of_all);
        let mut positions = positions.peekable();
        let mut line = Vec::with_capacity(2 * LOAD);
        for number in 0..lines_of_all as u64 {
            starts.push(start(&bytes));
            line.clear();
            while let Some(position) = positions.next_if(|position| position >> LINE_BITS == number) {
                line.push((position & !(!0 << LINE_BITS)) as u16);
            }
            write_line(&line, &mut bytes);
        }
        starts.push(start(&bytes));
        Self { tag_bits, lines, starts: starts.into(), bytes: bytes.into() }
    }

    /// Whether [`Self::join`] can put them together.
    pub(super) fn fits(&self, other: &Self) -> bool {
        (self.tag_bits, self.lines) == (other.tag_bits, other.lines) && 2 << self.tag_bits <= MAX_RUNS
    }

    /// Of the runs of both, which [fit](Self::fits): first its own, then the other's.
    pub(super) fn join(&self, other: &Self) -> Self {
        let bits = self.tag_bits;
        let with_tag = |position: u64, more: u64| {
            let tag = position & !(!0 << bits) | more << bits;
            position >> bits << (bits + 1) | tag
        };
        let ours = self.positions().map(|position| with_tag(position, 0));
        let theirs = other.positions().map(|position| with_tag(position, 1));
        let count = self.bytes.len() + other.bytes.len();
        let merged = Merged { a: ours.peekable(), b: theirs.peekable() };
        Self::of_positions(merged, count, bits + 1, self.lines)
    }

    fn line(&self, line: usize) -> &[u8] {
        &self.bytes[self.starts[line] as usize..self.starts[line + 1] as usize]
    }

    fn positions(&self) -> impl Iterator<Item = u64> {
        (0..self.starts.len() - 1).flat_map(|number| {
            let (mut taken, last, marks) = parts(self.line(number));
            let mut slot = 0;
            let mut next = true;
            marks.iter().enumerate().map(move |(n, &mark)| {
                if next {
                    slot = taken.trailing_zeros() as u64;
                    taken &= taken.wrapping_sub(1);
                }
                next = last[n / 8] >> (n % 8) & 1 == 1;
                (number as u64) << LINE_BITS | slot << 8 | u64::from(mark)
            })
        })
    }

    /// Where to look for a fingerprint. Of many, the spots of all are looked for first, then all are
    /// [looked at](Spot::look).
    #[inline]
    pub(super) fn spot(&self, fraction: u64) -> Spot<'_> {
        let position = cell(fraction, self.lines) << self.tag_bits;
        Spot {
            maplet: self,
            line: (position >> LINE_BITS) as usize,
            slot: (position >> 8) as u32 % 64,
            mark: (position & 0xff) as u8,
        }
    }

    /// Writes it behind what is there.
    pub(super) fn encode(&self, to: &mut Vec<u8>) {
        debug_assert_eq!(self.tag_bits, 0, "in the file, there is one for each run");
        to.extend(self.lines.to_le_bytes());
        for ends in self.starts.windows(2) {
            to.extend(u16::try_from(ends[1] - ends[0]).expect("at most 64 slots of 256 marks").to_le_bytes());
        }
        to.extend(&*self.bytes);
    }

    /// What [`Self::encode`] wrote, or `None` if it is something else.
    pub(super) fn decode(encoded: &[u8]) -> Option<Self> {
        let (lines, rest) = encoded.split_first_chunk()?;
        let lines = u32::from_le_bytes(*lines);
        let (lengths, bytes) = rest.split_at_checked(usize::try_from(lines).ok()?.checked_mul(2)?)?;
        let mut starts = Vec::with_capacity(lines as usize + 1);
        let mut end = 0_u32;
        starts.push(0);
        for length in lengths.chunks_exact(2) {
            let length = u16::from_le_bytes([length[0], length[1]]);
            if length < 8 {
                return None;
            }
            end = end.checked_add(length.into())?;
            starts.push(end);
        }
        let is_sound = lines > 0 && bytes.len() == end as usize;
        is_sound.then(|| Self { tag_bits: 0, lines, starts: starts.into(), bytes: bytes.into() })
    }
}

/// How many lines a section of about so many fingerprints has: of an eighth more or less, the same.
fn grid(usual: u64) -> u32 {
    let lines = u32::try_from(usual.div_ceil(LOAD as u64)).expect("a section has at most 2^20 entries").max(1);
    let step = (lines.next_power_of_two() / 16).max(1);
    lines.next_multiple_of(step)
}

fn cell(fraction: u64, lines: u32) -> u64 {
    let cell = (u128::from(fraction) * (u128::from(lines) << LINE_BITS)) >> 64;
    cell as u64
}

fn start(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("eight sections take less than 4 GiB")
}

fn write_line(positions: &[u16], bytes: &mut Vec<u8>) {
    let first = bytes.len();
    let lasts = first + 8;
    bytes.resize(lasts + positions.len().div_ceil(8), 0);
    let mut taken = 0_u64;
    for (n, &position) in positions.iter().enumerate() {
        taken |= 1 << (position >> 8);
        bytes.push((position & 0xff) as u8);
        let is_last = positions.get(n + 1).is_none_or(|next| next >> 8 != position >> 8);
        bytes[lasts + n / 8] |= u8::from(is_last) << (n % 8);
    }
    bytes[first..lasts].copy_from_slice(&taken.to_le_bytes());
}

/// A line's slots that have marks, which marks are the last of their slot, and the marks.
fn parts(line: &[u8]) -> (u64, &[u8], &[u8]) {
    let (taken, rest) = line.split_first_chunk().expect("a line has at least its slots");
    let marks = rest.len() * 8 / 9;
    let (last, marks) = rest.split_at(rest.len() - marks);
    (u64::from_le_bytes(*taken), last, marks)
}

/// Two sorted iterators as one.
struct Merged<A: Iterator, B: Iterator> {
    a: Peekable<A>,
    b: Peekable<B>,
}

impl<A: Iterator<Item = u64>, B: Iterator<Item = u64>> Iterator for Merged<A, B> {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        match (self.a.peek(), self.b.peek()) {
            (Some(a), Some(b)) if a <= b => self.a.next(),
            (_, Some(_)) => self.b.next(),
            (_, None) => self.a.next(),
        }
    }
}

impl<'m> Spot<'m> {
    /// Tells `found` which of the runs may have the fingerprints, a bit for each, where any may.
    #[inline]
    pub(super) fn look<T: Copy>(spots: &[(T, Self)], mut found: impl FnMut(T, u32)) {
        // Step by step for all of them, and without a branch in between, so that the misses do not wait for each other.
        let starts = spots.iter().fold(0, |all, (_, spot)| all ^ spot.maplet.starts[spot.line]);
        black_box(starts);
        let lines = spots.iter().fold(0, |all, (_, spot)| {
            let (start, end) = (spot.maplet.starts[spot.line], spot.maplet.starts[spot.line + 1]);
            all ^ spot.maplet.bytes[start as usize] ^ spot.maplet.bytes[end as usize - 1]
        });
        black_box(lines);
        for &(of, spot) in spots {
            let runs = spot.runs();
            if runs != 0 {
                found(of, runs);
            }
        }
    }

    #[inline]
    fn runs(self) -> u32 {
        let (taken, last, marks) = parts(self.maplet.line(self.line));
        if taken >> self.slot & 1 == 0 {
            return 0;
        }
        let slots_before = (taken & !(!0 << self.slot)).count_ones();
        let mut runs = 0;
        for n in after(last, slots_before)..marks.len() {
            let tag = marks[n].wrapping_sub(self.mark);
            if tag >> self.maplet.tag_bits == 0 {
                runs |= 1 << tag;
            }
            if last[n / 8] >> (n % 8) & 1 == 1 {
                break;
            }
        }
        runs
    }
}

/// Behind which bit so many are set.
#[inline]
fn after(bits: &[u8], mut set: u32) -> usize {
    if set == 0 {
        return 0;
    }
    for (n, bytes) in bits.chunks(8).enumerate() {
        let word = match bytes.first_chunk() {
            Some(word) => u64::from_le_bytes(*word),
            None => bytes.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)),
        };
        let sums = sums(word);
        let of_word = (sums >> 56) as u32;
        if set <= of_word {
            return 64 * n + select(word, sums, set - 1) as usize + 1;
        }
        set -= of_word;
    }
    8 * bits.len()
}

const ONES: u64 = 0x0101_0101_0101_0101;

/// How many bits are set up to each byte.
#[inline]
fn sums(word: u64) -> u64 {
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    (fours + (fours >> 4) & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(ONES)
}

/// Which bit is the one with so many set before it.
#[inline]
fn select(word: u64, sums: u64, rank: u32) -> u32 {
    let rank = u64::from(rank);
    // The bytes up to which there are no more than those.
    let bytes = ((rank * ONES | ONES << 7) - sums) & ONES << 7;
    let place = ((bytes >> 7).wrapping_mul(ONES) >> 56) * 8;
    let mut left = rank - (sums << 8 >> place & 0xff);
    let mut byte = word >> place & 0xff;
    while left > 0 {
        byte &= byte - 1;
        left -= 1;
    }
    place as u32 + byte.trailing_zeros()
}

#[cfg(test)]
impl Maplet {
    pub(super) fn runs(&self, fraction: u64) -> u32 {
        self.spot(fraction).runs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a keyed hash spreads them, in order.
    fn fractions(seed: u64, count: u64) -> Vec<u64> {
        let hash = |n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&n.to_le_bytes(), seed);
        let mut fractions: Vec<_> = (0..count).map(hash).collect();
        fractions.sort_unstable();
        fractions
    }

    fn of(fractions: &[u64], usual: u64) -> Maplet {
        Maplet::of(fractions.iter().copied(), usual)
    }

    /// Each run's fingerprints are found to be its own, in whatever order and number runs were put together, and next to no
    /// others are.
    #[test]
    fn it_tells_the_runs_of_a_fingerprint() {
        for (count, runs) in [(0, 8), (1, 1), (3, 2), (47, 4), (100, 8), (5_000, 1), (57_344, 2), (50_000, 8)] {
            let held: Vec<_> = (0..runs).map(|run| fractions(run, count - count * run / 100)).collect();
            let mut maplets: Vec<_> = held.iter().map(|held| of(held, count)).collect();
            while maplets.len() > 1 {
                assert!(maplets.windows(2).all(|two| two[0].fits(&two[1])));
                maplets = maplets.chunks(2).map(|two| two[0].join(&two[1])).collect();
            }
            let maplet = &maplets[0];
            assert!(!maplet.fits(&of(&fractions(9, 2 * count + 100), 2 * count + 100)));
            for (run, held) in held.iter().enumerate() {
                let lost = held.iter().filter(|&&fraction| maplet.runs(fraction) >> run & 1 == 0).count();
                assert_eq!(lost, 0, "of run {run} of {runs} with {count} each");
            }
            let strangers = fractions(99, 100_000);
            let taken_for: u32 = strangers.iter().map(|&stranger| maplet.runs(stranger).count_ones()).sum();
            let most = 100_000 * runs / 280 + 30;
            assert!(u64::from(taken_for) < most, "{taken_for} of {runs} runs with {count} each");
        }
    }

    /// A test's fingerprints, of which there are few and the same again and again.
    #[test]
    fn fingerprints_may_be_as_unevenly_spread_as_can_be() {
        for held in [
            vec![0; 3],
            vec![u64::MAX; 2],
            (0..100_000).collect(),
            (0..100_000).map(|n| n << 40).collect(),
            (0..64_u64).map(|n| n << 58).collect(),
        ] {
            let maplet = of(&held, held.len() as u64);
            let joined = maplet.join(&of(&[7 << 30], held.len() as u64));
            for &fraction in &held {
                assert_eq!((maplet.runs(fraction), joined.runs(fraction) & 1), (1, 1));
            }
            assert_eq!(joined.runs(7 << 30) & 2, 2);
        }
    }

    /// Looking for many at once says what looking for each says.
    #[test]
    fn many_are_looked_for_at_once() {
        let maplet = of(&fractions(1, 1_000), 1_000).join(&of(&fractions(2, 1_000), 1_000));
        let asked: Vec<_> = (0..4).flat_map(|seed| fractions(seed, 300)).collect();
        let spots: Vec<_> = asked.iter().map(|&fraction| (fraction, maplet.spot(fraction))).collect();
        let mut found = Vec::new();
        Spot::look(&spots, |fraction, runs| found.push((fraction, runs)));
        let one_by_one = asked.iter().map(|&fraction| (fraction, maplet.runs(fraction)));
        assert_eq!(found, one_by_one.filter(|(_, runs)| *runs != 0).collect::<Vec<_>>());
    }

    #[test]
    fn no_other_bytes_make_a_lookup_panic() {
        let held = fractions(3, 200);
        let mut encoded = Vec::new();
        of(&held, 200).encode(&mut encoded);
        assert!(Maplet::decode(&encoded).is_some());
        let asked = [&held[..], &fractions(4, 200)].concat();
        for bit in 0..encoded.len() * 8 {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Maplet::decode(&flipped);
            assert!(read.is_none() || bit >= 32, "bit {bit} was not missed");
            if let Some(maplet) = read {
                let _ = asked.iter().map(|&fraction| maplet.runs(fraction)).max();
                let _ = maplet.positions().count();
            }
        }
        assert!((0..encoded.len()).all(|length| Maplet::decode(&encoded[..length]).is_none()));
    }
}
