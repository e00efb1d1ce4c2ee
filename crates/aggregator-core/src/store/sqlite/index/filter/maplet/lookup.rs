//! Looks up many fingerprints at a time in maplets, so that their reads from memory are under way together.

use std::hint::black_box;

use super::{HEAD, LINE_BITS, Maplet, cell, occupied};

/// The most slots of one lookup.
pub(crate) const MAX_SLOTS: usize = 64;

/// The slot of a fingerprint in a maplet, which has the remainders of the fingerprint if there are any.
#[derive(Clone, Copy)]
pub(crate) struct SlotRef<'m> {
    maplet: &'m Maplet,
    line: usize,
    /// The head of the line.
    head: &'m [u8; HEAD],
    slot: u32,
    /// The remainder with tag 0.
    remainder: u8,
}

impl Maplet {
    /// The slot of a fingerprint. To look up many fingerprints, first make the slots of all of them, then pass these to
    /// [`SlotRef::lookup`].
    #[inline]
    pub(crate) fn slot(&self, fraction: u64) -> SlotRef<'_> {
        let position = cell(fraction, self.lines, self.tag_bits) << self.tag_bits;
        let line = (position >> LINE_BITS) as usize;
        SlotRef {
            maplet: self,
            line,
            head: self.head(line),
            slot: (position >> 8 & 63) as u32,
            remainder: (position & 0xff) as u8,
        }
    }
}

impl<'m> SlotRef<'m> {
    /// Calls `found` for each fingerprint that a run may have, with the tags of these runs, a bit each.
    ///
    /// Loops that do nothing else read what is far away in memory. A processor has more than twenty reads of such a short
    /// loop under way at a time, because no branch depends on the values.
    #[inline]
    pub(crate) fn lookup<T: Copy>(slots: &[(T, Self)], mut found: impl FnMut(T, u32)) {
        debug_assert!(slots.len() <= MAX_SLOTS);
        black_box(slots.iter().fold(0, |all, (_, slot)| all ^ occupied(slot.head)));
        let mut occupied = [0_u8; MAX_SLOTS];
        let mut count = 0;
        for (n, (_, slot)) in (0..).zip(slots) {
            occupied[count] = n;
            count += usize::from(slot.is_occupied());
        }
        if count == 0 {
            return;
        }
        let mut lines = [(&[][..], [&0, &0]); MAX_SLOTS];
        for (&n, line) in occupied[..count].iter().zip(&mut lines) {
            let (_, Self { maplet, line: number, .. }) = slots[usize::from(n)];
            let bytes = maplet.line(number);
            *line = (bytes, [bytes.first().unwrap_or(&0), bytes.last().unwrap_or(&0)]);
        }
        let lines = &lines[..count];
        black_box(lines.iter().fold(0, |all, (_, [first, last])| all ^ **first ^ **last));
        for (&n, (line, _)) in occupied.iter().zip(lines) {
            let (key, slot) = slots[usize::from(n)];
            let runs = slot.runs(line);
            if runs != 0 {
                found(key, runs);
            }
        }
    }

    #[inline]
    fn is_occupied(self) -> bool {
        occupied(self.head) >> self.slot & 1 == 1
    }

    /// The tags of the runs that may have the fingerprint, a bit each. Its slot has to be occupied.
    #[inline]
    fn runs(self, line: &[u8]) -> u32 {
        let (firsts, remainders) = split_line(line);
        let slots_before = (occupied(self.head) & !(!0 << self.slot)).count_ones();
        if self.has_none(remainders.len(), slots_before) {
            0
        } else {
            self.runs_of(firsts, remainders, slots_before)
        }
    }

    /// Whether no remainder of the slot is that of the fingerprint. `false` where this short way cannot tell: if the line
    /// has more than 64 remainders, or the slot more than 8.
    ///
    /// Without a branch, because the processor cannot predict where the remainders of a slot are and how many.
    #[inline]
    fn has_none(self, remainders: usize, slots_before: u32) -> bool {
        let Maplet { bytes, tag_bits, .. } = self.maplet;
        let eight = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (Some(firsts), 1..=64) = (eight(self.maplet.start(self.line)), remainders) else { return false };
        let firsts = firsts & !0 >> (64 - remainders);
        let first = select(firsts, slots_before) as usize;
        let all = eight(self.maplet.start(self.line + 1) - remainders + first);
        let (Some(all), 1..) = (all, remainders.saturating_sub(first)) else { return false };
        let of_slot = ((firsts >> first >> 1).trailing_zeros() as usize + 1).min(remainders - first);
        let tags = u64::from(!(u8::MAX << tag_bits)) * ONES;
        let differ = (all ^ (u64::from(self.remainder) * ONES)) & !tags;
        let same = !(((differ & !HIGHS) + !HIGHS) | differ) & HIGHS;
        of_slot <= 8 && same & !0 >> (64 - 8 * of_slot) == 0
    }

    #[cold]
    fn runs_of(self, firsts: &[u8], remainders: &[u8], slots_before: u32) -> u32 {
        let is_first = |n: &usize| firsts[n / 8] >> (n % 8) & 1 == 1;
        let mut starts = (0..remainders.len()).filter(is_first).skip(slots_before as usize);
        let start = starts.next().unwrap_or(remainders.len());
        let end = starts.next().unwrap_or(remainders.len());
        let tags = remainders[start..end].iter().map(|remainder| remainder.wrapping_sub(self.remainder));
        let of_runs = tags.filter(|tag| tag >> self.maplet.tag_bits == 0);
        of_runs.fold(0, |runs, tag| runs | 1 << tag)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// The index of the set bit that has `before` set bits below it. There has to be such a bit.
#[inline]
fn select(word: u64, before: u32) -> u32 {
    let before = u64::from(before);
    // For each byte, how many bits are set up to its end.
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let sums = ((fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(ONES);
    let bytes = at_most(sums, before);
    let before = before - ((sums << 8).unbounded_shr(8 * bytes) & 0xff);
    // The same within the byte that was found, with one byte for each bit.
    let byte = word.unbounded_shr(8 * bytes) & 0xff;
    let bits = (byte * ONES) & 0x8040_2010_0804_0201;
    let sums = ((bits + 0x0040_6070_787c_7e7f) & HIGHS) >> 7;
    8 * bytes + at_most(sums.wrapping_mul(ONES), before)
}

/// How many of the eight bytes are at most `most`. The bytes do not decrease; they and `most` are below 128.
#[inline]
fn at_most(bytes: u64, most: u64) -> u32 {
    let are = (((most * ONES) | HIGHS) - bytes) & HIGHS;
    ((are >> 7).wrapping_mul(ONES) >> 56) as u32
}

/// Splits a line into the bits that say which remainders are the first of their slot, and the remainders.
pub(crate) fn split_line(line: &[u8]) -> (&[u8], &[u8]) {
    let remainders = line.len() * 8 / 9;
    line.split_at(line.len() - remainders)
}

#[cfg(test)]
impl Maplet {
    pub(crate) fn runs(&self, fraction: u64) -> u32 {
        let slot = self.slot(fraction);
        if slot.is_occupied() { slot.runs(self.line(slot.line)) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_bit_of_a_word_is_selected_by_how_many_are_below_it() {
        let spread = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let words =
            (1..500).flat_map(|n| [spread(n), spread(n) & spread(n + 500), spread(n) | spread(n + 500)]);
        for word in words.chain([1, 1 << 63, u64::MAX]) {
            let set = (0..64).filter(|bit| word >> bit & 1 == 1);
            for (before, bit) in (0..).zip(set) {
                assert_eq!(select(word, before), bit, "{before} of {word:#x}");
            }
        }
    }
}
