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
#[cfg(test)]
mod tests;

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
