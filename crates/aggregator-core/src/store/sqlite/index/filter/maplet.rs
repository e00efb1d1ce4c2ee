//! "Which of these runs may have this fingerprint?": a filter that says whose fingerprint it is, of a section of one
//! run, or of half a section of two, or a quarter of four.
//!
//! It is a quotient filter, of which a lookup reads one line, however many runs it is of. A fingerprint, as a fraction
//! of the section, comes to a **cell** of a grid that all runs of about the same size share; of the fingerprints that a
//! run does not have, one in 300 comes to a cell that it has marked. Cell and **tag**, the run's number, make a
//! **position**. All positions are kept, in order: their first bits choose a line, six more a slot in it, and the last
//! eight are written down.
//!
//! ```text
//!  head of a line: where it starts 4 │ slots that have marks, a bit each 8
//!  line: which marks are the first of their slot, a bit each │ marks, a byte each
//! ```
//!
//! The heads come first. For a fingerprint that is not there, half of the time a head says so.
//!
//! It is made in one pass, since a section's entries are sorted. Two that are put together become two again, each of a
//! half of the section and of all the runs: their tags have one bit more, of a cell one bit less is written down, and a
//! mark takes a byte still. So all are of about the same size, and what one leaves in memory is room for another.

pub(crate) mod look;

use std::sync::Arc;

use self::look::parts;
pub(crate) use self::look::{Spot, TOGETHER};

/// Clones share what takes memory: 1.4 bytes a fingerprint, of a grid for as many as there are.
#[derive(Clone)]
pub(crate) struct Maplet {
    /// The bits of a tag.
    tag_bits: u32,
    lines: u32,
    /// In one piece: the heads of the lines, another one that says where the last line ends, and the lines.
    bytes: Arc<[u8]>,
}

/// How many fingerprints come to a line, at most but for chance.
const LOAD: usize = 54;

/// What the head of a line takes, in bytes.
const HEAD: usize = 12;

/// Of a position, in a line: a slot and a mark.
const LINE_BITS: u32 = 14;

/// Of as many runs, at most. Eight would be asked a little less, and half of the work would be for a merge that begins
/// at once to take them apart.
pub(crate) const MAX_RUNS: u32 = 4;

impl Maplet {
    /// Of one run's section, whose fingerprints come as fractions of it, in order; there will be about so many in each
    /// of its sections.
    pub(crate) fn of(fractions: impl ExactSizeIterator<Item = u64>, usual: u64) -> Self {
        let lines = grid(usual);
        let mut writer = Writer::new(lines, fractions.len());
        let mut line = Vec::with_capacity(2 * LOAD);
        let mut positions = fractions.map(|fraction| cell(fraction, lines, 0)).peekable();
        for number in 0..u64::from(lines) {
            line.clear();
            while let Some(position) = positions.next_if(|position| position >> LINE_BITS == number) {
                let place = in_line(position);
                if line.last() != Some(&place) {
                    line.push(place);
                }
            }
            writer.write(&line);
        }
        writer.finish(0)
    }

    /// Whether [`Self::join`] can put them together.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        (self.tag_bits, self.lines) == (other.tag_bits, other.lines) && 2 << self.tag_bits <= MAX_RUNS
    }

    /// Of the runs of both, which [fit](Self::fits), first its own, then the other's: one of the first half of what they
    /// are of, one of the second.
    pub(crate) fn join(&self, other: &Self) -> [Self; 2] {
        let lines = self.lines as usize;
        let (mut ours, mut theirs, mut both) = (Vec::new(), Vec::new(), Vec::new());
        // With a bit more for the tag, one line becomes two. A middle one becomes the last of the first half and the
        // first of the second.
        let marks = |maplet: &Self| (maplet.start(lines) - maplet.start(0)) * 8 / 9;
        let mut halves = [(); 2].map(|()| Writer::new(self.lines, (marks(self) + marks(other)) / 2 + lines));
        for line in 0..lines {
            self.positions(line, 0, &mut ours);
            other.positions(line, 1, &mut theirs);
            merge(&ours, &theirs, &mut both);
            let second = both.partition_point(|position| position >> LINE_BITS == 0);
            both.iter_mut().for_each(|position| *position = in_line((*position).into()));
            halves[2 * line / lines].write(&both[..second]);
            halves[(2 * line + 1) / lines].write(&both[second..]);
        }
        halves.map(|half| half.finish(self.tag_bits + 1))
    }

    fn line(&self, line: usize) -> &[u8] {
        &self.bytes[self.start(line)..self.start(line + 1)]
    }

    /// Where the line starts, or where the one before it ends.
    #[inline]
    fn start(&self, line: usize) -> usize {
        start(self.head(line))
    }

    #[inline]
    fn head(&self, line: usize) -> &[u8; HEAD] {
        self.bytes[HEAD * line..].first_chunk().expect("there are heads of all lines")
    }

    /// What a line holds, in order, if tags had a bit more, and this one.
    fn positions(&self, line: usize, tag: u16, to: &mut Vec<u16>) {
        let mut taken = taken(self.head(line));
        let (firsts, marks) = parts(self.line(line));
        let of_tag = !(!0 << self.tag_bits);
        let tag = tag << self.tag_bits;
        to.clear();
        for (n, (marks, &firsts)) in marks.chunks(8).zip(firsts).enumerate() {
            // The first of a line leads on from no other.
            let mut firsts = if n == 0 { firsts & !1 } else { firsts };
            to.extend(marks.iter().map(|&mark| {
                // Without a branch: which is the first of a slot, nobody can foresee.
                taken &= taken.wrapping_sub(u64::from(firsts & 1));
                firsts >>= 1;
                let position = ((taken.trailing_zeros() & 63) as u16) << 8 | u16::from(mark);
                (position & !of_tag) << 1 | tag | position & of_tag
            }));
        }
    }

    /// Writes it behind what is there.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        debug_assert_eq!(self.tag_bits, 0, "in the file, there is one for each run");
        to.extend(self.lines.to_le_bytes());
        to.extend(&self.bytes[..self.start(self.lines as usize)]);
    }

    /// What [`Self::encode`] wrote, or `None` if it is something else.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let (lines, rest) = encoded.split_first_chunk()?;
        let lines = u32::from_le_bytes(*lines);
        let heads = rest.get(..usize::try_from(lines).ok()?.checked_add(1)?.checked_mul(HEAD)?)?;
        let mut end = heads.len();
        for (n, head) in heads.as_chunks::<HEAD>().0.iter().enumerate() {
            let start = start(head);
            if start < end || n == 0 && start > end {
                return None;
            }
            end = start;
        }
        let is_sound = lines > 0 && rest.len() == end;
        is_sound.then(|| Self { tag_bits: 0, lines, bytes: in_pieces(rest.to_vec()) })
    }
}

/// What a maplet takes of memory is a multiple of so many bytes, so that one fits where another was.
const PIECE: usize = 2048;

fn in_pieces(mut bytes: Vec<u8>) -> Arc<[u8]> {
    bytes.resize(bytes.len().next_multiple_of(PIECE), 0);
    bytes.into()
}

/// Where a line starts, by its head.
#[inline]
fn start(head: &[u8; HEAD]) -> usize {
    let [start @ .., _, _, _, _, _, _, _, _] = *head;
    u32::from_le_bytes(start) as usize
}

/// The slots of a line that have marks, by its head.
#[inline]
fn taken(head: &[u8; HEAD]) -> u64 {
    let [_, _, _, _, taken @ ..] = *head;
    u64::from_le_bytes(taken)
}

/// How many lines a section of about so many fingerprints has: of a sixteenth more or less, the same.
fn grid(usual: u64) -> u32 {
    let lines = u32::try_from(usual.div_ceil(LOAD as u64))
        .expect("a section has at most 2^20 entries, and a grid for four times as many")
        .max(1);
    let step = (lines.next_power_of_two() / 32).max(1);
    lines.next_multiple_of(step)
}

fn cell(fraction: u64, lines: u32, tag_bits: u32) -> u64 {
    let cell = (u128::from(fraction) * (u128::from(lines) << LINE_BITS >> tag_bits)) >> 64;
    cell as u64
}

/// A position in its line.
fn in_line(position: u64) -> u16 {
    (position & !(!0 << LINE_BITS)) as u16
}

fn merge(a: &[u16], b: &[u16], to: &mut Vec<u16>) {
    to.clear();
    to.resize(a.len() + b.len(), 0);
    let (mut of_a, mut of_b) = (0, 0);
    while of_a < a.len() && of_b < b.len() {
        let (next_a, next_b) = (a[of_a], b[of_b]);
        to[of_a + of_b] = next_a.min(next_b);
        of_a += usize::from(next_a <= next_b);
        of_b += usize::from(next_a > next_b);
    }
    let merged = of_a + of_b;
    to[merged..].copy_from_slice(if of_a < a.len() { &a[of_a..] } else { &b[of_b..] });
}

/// Writes the lines of a maplet.
struct Writer {
    bytes: Vec<u8>,
    /// How many there will be, and are.
    lines: u32,
    written: usize,
}

impl Writer {
    fn new(lines: u32, marks: usize) -> Self {
        let heads = HEAD * (lines as usize + 1);
        // Beside a mark a bit says whether it is the first, in whole bytes for each line.
        let mut bytes = Vec::with_capacity(heads + marks + marks / 8 + lines as usize);
        bytes.resize(heads, 0);
        Self { bytes, lines, written: 0 }
    }

    fn head(&mut self, start: usize, taken: u64) {
        let start = u32::try_from(start).expect("a section takes less than 4 GiB");
        let head = &mut self.bytes[HEAD * self.written..][..HEAD];
        head[..4].copy_from_slice(&start.to_le_bytes());
        head[4..].copy_from_slice(&taken.to_le_bytes());
        self.written += 1;
    }

    /// Adds a line of these positions.
    fn write(&mut self, positions: &[u16]) {
        let start = self.bytes.len();
        self.bytes.resize(start + positions.len().div_ceil(8), 0);
        self.bytes.extend(positions.iter().map(|position| (position & 0xff) as u8));
        let mut taken = 0_u64;
        for (positions, firsts) in positions.chunks(8).zip(&mut self.bytes[start..]) {
            for (n, position) in positions.iter().enumerate() {
                let slot = 1 << (position >> 8);
                *firsts |= u8::from(taken & slot == 0) << n;
                taken |= slot;
            }
        }
        self.head(start, taken);
    }

    fn finish(mut self, tag_bits: u32) -> Maplet {
        self.head(self.bytes.len(), 0);
        Maplet { tag_bits, lines: self.lines, bytes: in_pieces(self.bytes) }
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

    /// What becomes of 1, 2 or 4 of them, by the parts of the range.
    fn all_of(maplets: &[Maplet]) -> Vec<Maplet> {
        let (ours, theirs) = maplets.split_at(maplets.len() / 2);
        if ours.is_empty() {
            return theirs.to_vec();
        }
        let (ours, theirs) = (all_of(ours), all_of(theirs));
        ours.iter()
            .zip(&theirs)
            .flat_map(|(ours, theirs)| {
                assert!(ours.fits(theirs));
                ours.join(theirs)
            })
            .collect()
    }

    fn runs_of(parts: &[Maplet], fraction: u64) -> u32 {
        let bits = parts.len().trailing_zeros();
        let part = usize::try_from(fraction.unbounded_shr(64 - bits)).unwrap();
        parts[part].runs(fraction << bits)
    }

    fn of(fractions: &[u64], usual: u64) -> Maplet {
        Maplet::of(fractions.iter().copied(), usual)
    }

    /// Each run's fingerprints are found to be its own, however many runs were put together, and next to no others
    /// are.
    #[test]
    fn it_tells_the_runs_of_a_fingerprint() {
        for (count, runs) in [
            (0, 4),
            (1, 1),
            (3, 2),
            (47, 4),
            (100, 2),
            (150, 4),
            (1_000, 4),
            (5_000, 1),
            (57_344, 2),
            (50_000, 4),
        ] {
            let held: Vec<_> = (0..runs).map(|run| fractions(run, count - count * run / 100)).collect();
            let maplets: Vec<_> = held.iter().map(|held| of(held, count)).collect();
            assert!(!maplets[0].fits(&of(&fractions(9, 2 * count + 100), 2 * count + 100)));
            let parts = all_of(&maplets);
            let runs_of = |fraction| runs_of(&parts, fraction);
            for (run, held) in held.iter().enumerate() {
                let lost = held.iter().filter(|&&fraction| runs_of(fraction) >> run & 1 == 0).count();
                assert_eq!(lost, 0, "of run {run} of {runs} with {count} each");
            }
            let strangers = fractions(99, 100_000);
            let taken_for: u32 = strangers.iter().map(|&stranger| runs_of(stranger).count_ones()).sum();
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
                assert_eq!((maplet.runs(fraction), runs_of(&joined, fraction) & 1), (1, 1));
            }
            assert_eq!(runs_of(&joined, 7 << 30) & 2, 2);
        }
    }

    /// In slots of any length, beside others.
    #[test]
    fn no_mark_of_a_slot_is_passed_over() {
        // One line, a step for each mark, of which a slot has 256.
        let at = |slot: u64, mark: u64| slot << 58 | mark << 50;
        for marks in 1..70 {
            for before in [0, 1, 30] {
                let others = (0..before).map(|slot| at(slot, 7));
                let held =
                    others.chain((0..marks).map(|mark| at(40, 3 * mark))).chain([at(41, 3), at(63, 9)]);
                let maplet = of(&held.clone().collect::<Vec<_>>(), 1);
                for fraction in held {
                    assert_eq!(maplet.runs(fraction), 1, "of {marks} behind {before}");
                }
                let strangers = (0..marks).map(|mark| at(40, 3 * mark + 1)).chain([at(41, 4), at(62, 9)]);
                assert_eq!(strangers.map(|fraction| maplet.runs(fraction)).max(), Some(0));
            }
        }
    }

    /// Looking for many at once says what looking for each says.
    #[test]
    fn many_are_looked_for_at_once() {
        let [maplet, _] = of(&fractions(1, 1_000), 1_000).join(&of(&fractions(2, 1_000), 1_000));
        let asked: Vec<_> = (0..4).flat_map(|seed| fractions(seed, 300)).collect();
        let spots: Vec<_> = asked.iter().map(|&fraction| (fraction, maplet.spot(fraction))).collect();
        let mut found = Vec::new();
        for spots in spots.chunks(TOGETHER) {
            Spot::look(spots, |fraction, runs| found.push((fraction, runs)));
        }
        let one_by_one = asked.iter().map(|&fraction| (fraction, maplet.runs(fraction)));
        assert_eq!(found, one_by_one.filter(|(_, runs)| *runs != 0).collect::<Vec<_>>());
    }

    #[test]
    fn no_other_bytes_make_a_lookup_panic() {
        let held = fractions(3, 120);
        let mut encoded = Vec::new();
        of(&held, 120).encode(&mut encoded);
        assert!(Maplet::decode(&encoded).is_some());
        let asked = [&held[..], &fractions(4, 100)].concat();
        for bit in 0..encoded.len() * 8 {
            let mut flipped = encoded.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = Maplet::decode(&flipped);
            assert!(read.is_none() || bit >= 32, "bit {bit} was not missed");
            if let Some(maplet) = read {
                let _ = asked.iter().map(|&fraction| maplet.runs(fraction)).max();
                let _ = maplet.join(&maplet);
            }
        }
        assert!((0..encoded.len()).all(|length| Maplet::decode(&encoded[..length]).is_none()));
    }
}
