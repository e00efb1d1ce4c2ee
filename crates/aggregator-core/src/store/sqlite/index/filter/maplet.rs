//! "Which of these runs may have this fingerprint?": a filter over one section of one run, or over half a section of two
//! runs, or a quarter of a section of four.
//!
//! It is a quotient filter (M. A. Bender et al., "Don't Thrash: How to Cache Your Hash on Flash", PVLDB 5(11), 2012) whose
//! slots carry a value, which makes it a maplet (A. Conway et al., "SplinterDB and Maplets", SIGMOD 2023). A lookup
//! reads one line, whatever the number of runs.
//!
//! A fingerprint, as a fraction of the section, falls into a **cell** of a grid. All runs of about the same size share the
//! grid. Of the fingerprints that a run does not have, one in 300 falls into a cell that the run has marked. The cell and
//! the **tag**, which is the number of the run in the filter, form a **position**. The filter keeps all positions, sorted.
//! The first bits of a position choose a line, the next six bits a slot of the line, and the last eight bits are stored:
//! the **remainder**.
//!
//! ```text
//!  head of a line: where it starts 4 │ occupied slots, a bit each 8
//!  line: which remainders are the first of their slot, a bit each │ remainders, a byte each
//! ```
//!
//! The heads come first. For a fingerprint that is not in the filter, half of the heads say so.
//!
//! A maplet is built in one pass, because the entries of a section are sorted. Two maplets are united into two again:
//! each covers half of the section and all runs of both. The tag has one bit more, and one bit less of the cell is
//! stored, so a remainder still takes a byte. All maplets therefore have about the same size, and one fits into the
//! memory that another one left.

mod lookup;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::lookup::split_line;
pub(crate) use self::lookup::{MAX_SLOTS, SlotRef};

/// Clones share the memory: 1.4 bytes a fingerprint if the grid is made for as many fingerprints as there are.
#[derive(Clone)]
pub(crate) struct Maplet {
    /// The bits of a tag.
    tag_bits: u32,
    lines: u32,
    /// In one piece: the heads of the lines, one more head that says where the last line ends, and the lines.
    bytes: Arc<[u8]>,
}

/// How many fingerprints fall on a line, on average at most.
const LINE_LOAD: usize = 54;

/// The bytes of a line's head.
const HEAD: usize = 12;

/// The bits of a position within its line: a slot and a remainder.
const LINE_BITS: u32 = 14;

/// The most runs of a maplet. With eight, lookups would be a little cheaper, but half of the uniting would be for a merge
/// that begins at once and takes the runs apart again.
pub(crate) const MAX_RUNS: u32 = 4;

impl Maplet {
    /// The maplet of one run's section. Its fingerprints come as fractions of the section, sorted. The sections of the run
    /// have about `expected` fingerprints each.
    pub(crate) fn of(fractions: impl ExactSizeIterator<Item = u64>, expected: u64) -> Self {
        let lines = line_count(expected);
        let mut builder = MapletBuilder::new(lines, fractions.len());
        let mut line = Vec::with_capacity(2 * LINE_LOAD);
        let mut positions = fractions.map(|fraction| cell(fraction, lines, 0)).peekable();
        for number in 0..u64::from(lines) {
            line.clear();
            while let Some(position) = positions.next_if(|position| position >> LINE_BITS == number) {
                let position = position_in_line(position);
                if line.last() != Some(&position) {
                    line.push(position);
                }
            }
            builder.push_line(&line);
        }
        builder.finish(0)
    }

    /// Whether [`Self::unite`] takes these two.
    pub(crate) fn can_unite(&self, other: &Self) -> bool {
        (self.tag_bits, self.lines) == (other.tag_bits, other.lines) && 2 << self.tag_bits <= MAX_RUNS
    }

    /// Unites two maplets that [allow it](Self::can_unite): the first result covers the first half of their range, the
    /// second result the second half. The tags of `self` come first.
    pub(crate) fn unite(&self, other: &Self) -> [Self; 2] {
        let lines = self.lines as usize;
        let (mut ours, mut theirs, mut both) = (Vec::new(), Vec::new(), Vec::new());
        // The tag has a bit more, so one line becomes two. The two lines of a middle line become the last line of the
        // first half and the first line of the second half.
        let capacity = Self::remainders_of_half(self, other) + lines;
        let mut halves = [(); 2].map(|()| MapletBuilder::new(self.lines, capacity));
        for line in 0..lines {
            self.positions(line, 0, &mut ours);
            other.positions(line, 1, &mut theirs);
            merge_sorted(&ours, &theirs, &mut both);
            let second = both.partition_point(|position| position >> LINE_BITS == 0);
            both.iter_mut().for_each(|position| *position = position_in_line((*position).into()));
            halves[2 * line / lines].push_line(&both[..second]);
            halves[(2 * line + 1) / lines].push_line(&both[second..]);
        }
        halves.map(|half| half.finish(self.tag_bits + 1))
    }

    /// About how many remainders each half has when these two are united.
    fn remainders_of_half(ours: &Self, theirs: &Self) -> usize {
        let of = |maplet: &Self| (maplet.start(maplet.lines as usize) - maplet.start(0)) * 8 / 9;
        (of(ours) + of(theirs)) / 2
    }

    fn line(&self, line: usize) -> &[u8] {
        &self.bytes[self.start(line)..self.start(line + 1)]
    }

    /// Where the line starts, which is where the line before it ends.
    #[inline]
    fn start(&self, line: usize) -> usize {
        start(self.head(line))
    }

    #[inline]
    fn head(&self, line: usize) -> &[u8; HEAD] {
        self.bytes[HEAD * line..].first_chunk().expect("there are heads of all lines")
    }

    /// The positions of a line, sorted, with a tag that has one bit more: `tag`.
    fn positions(&self, line: usize, tag: u16, to: &mut Vec<u16>) {
        let mut occupied = occupied(self.head(line));
        let (firsts, remainders) = split_line(self.line(line));
        let of_tag = !(!0 << self.tag_bits);
        let tag = tag << self.tag_bits;
        to.clear();
        for (n, (remainders, &firsts)) in remainders.chunks(8).zip(firsts).enumerate() {
            // No slot comes before the first remainder of a line, so its bit moves on from none.
            let mut firsts = if n == 0 { firsts & !1 } else { firsts };
            to.extend(remainders.iter().map(|&remainder| {
                // Without a branch: the processor cannot predict which remainder is the first of a slot.
                occupied &= occupied.wrapping_sub(u64::from(firsts & 1));
                firsts >>= 1;
                let position = ((occupied.trailing_zeros() & 63) as u16) << 8 | u16::from(remainder);
                (position & !of_tag) << 1 | tag | position & of_tag
            }));
        }
    }

    /// Bytes of memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the maplet's bytes to `to`.
    pub(crate) fn encode(&self, to: &mut Vec<u8>) {
        debug_assert_eq!(self.tag_bits, 0, "in the file, there is one for each run");
        to.extend(self.lines.to_le_bytes());
        to.extend(&self.bytes[..self.start(self.lines as usize)]);
    }

    /// The maplet that [`Self::encode`] wrote. `None` if the bytes are anything else.
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
        is_sound.then(|| Self { tag_bits: 0, lines, bytes: padded(rest.to_vec()) })
    }
}

/// The memory of a maplet is a multiple of so many bytes, so that a new maplet fits where another one was.
const ALLOCATION_STEP: usize = 2048;

fn padded(mut bytes: Vec<u8>) -> Arc<[u8]> {
    bytes.resize(bytes.len().next_multiple_of(ALLOCATION_STEP), 0);
    bytes.into()
}

/// Where the line of this head starts.
#[inline]
fn start(head: &[u8; HEAD]) -> usize {
    let [start @ .., _, _, _, _, _, _, _, _] = *head;
    u32::from_le_bytes(start) as usize
}

/// The slots that have remainders, in the line of this head.
#[inline]
fn occupied(head: &[u8; HEAD]) -> u64 {
    let [_, _, _, _, occupied @ ..] = *head;
    u64::from_le_bytes(occupied)
}

/// How many lines a section of about `expected` fingerprints has. It is rounded, so that sections whose sizes differ by up
/// to a sixteenth have the same number.
fn line_count(expected: u64) -> u32 {
    let lines = u32::try_from(expected.div_ceil(LINE_LOAD as u64))
        .expect("a section has at most 2^20 entries, and a grid for four times as many")
        .max(1);
    let step = (lines.next_power_of_two() / 32).max(1);
    lines.next_multiple_of(step)
}

fn cell(fraction: u64, lines: u32, tag_bits: u32) -> u64 {
    let cell = (u128::from(fraction) * (u128::from(lines) << LINE_BITS >> tag_bits)) >> 64;
    cell as u64
}

/// The bits of a position that are left within its line.
fn position_in_line(position: u64) -> u16 {
    (position & !(!0 << LINE_BITS)) as u16
}

fn merge_sorted(a: &[u16], b: &[u16], to: &mut Vec<u16>) {
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

/// Writes a maplet line by line.
struct MapletBuilder {
    bytes: Vec<u8>,
    /// How many lines the maplet will have.
    lines: u32,
    /// How many heads are written.
    written: usize,
}

impl MapletBuilder {
    fn new(lines: u32, remainders: usize) -> Self {
        let heads = HEAD * (lines as usize + 1);
        // Each remainder has a bit that says whether it is the first of its slot; a line has whole bytes of these.
        let mut bytes = Vec::with_capacity(heads + remainders + remainders / 8 + lines as usize);
        bytes.resize(heads, 0);
        Self { bytes, lines, written: 0 }
    }

    fn write_head(&mut self, start: usize, occupied: u64) {
        let start = u32::try_from(start).expect("a section takes less than 4 GiB");
        let head = &mut self.bytes[HEAD * self.written..][..HEAD];
        head[..4].copy_from_slice(&start.to_le_bytes());
        head[4..].copy_from_slice(&occupied.to_le_bytes());
        self.written += 1;
    }

    /// Adds a line of these positions.
    fn push_line(&mut self, positions: &[u16]) {
        let start = self.bytes.len();
        self.bytes.resize(start + positions.len().div_ceil(8), 0);
        self.bytes.extend(positions.iter().map(|position| (position & 0xff) as u8));
        let mut occupied = 0_u64;
        for (positions, firsts) in positions.chunks(8).zip(&mut self.bytes[start..]) {
            for (n, position) in positions.iter().enumerate() {
                let slot = 1 << (position >> 8);
                *firsts |= u8::from(occupied & slot == 0) << n;
                occupied |= slot;
            }
        }
        self.write_head(start, occupied);
    }

    fn finish(mut self, tag_bits: u32) -> Maplet {
        self.write_head(self.bytes.len(), 0);
        Maplet { tag_bits, lines: self.lines, bytes: padded(self.bytes) }
    }
}
