//! Looking for fingerprints in a maplet: many at a time, for what is far away in memory is waited for together.

use std::hint::black_box;

use super::{HEAD, LINE_BITS, Maplet, cell, taken};

/// How many are looked for at a time.
pub(crate) const TOGETHER: usize = 64;

/// Where the marks of a fingerprint are, if it has any.
#[derive(Clone, Copy)]
pub(crate) struct Spot<'m> {
    maplet: &'m Maplet,
    line: usize,
    /// Of the line.
    head: &'m [u8; HEAD],
    slot: u32,
    /// But for the tag.
    mark: u8,
}

impl Maplet {
    /// Where to look for a fingerprint. Of many, the spots of all are looked for first, then all are
    /// [looked at](Spot::look).
    #[inline]
    pub(crate) fn spot(&self, fraction: u64) -> Spot<'_> {
        let position = cell(fraction, self.lines, self.tag_bits) << self.tag_bits;
        let line = (position >> LINE_BITS) as usize;
        Spot {
            maplet: self,
            line,
            head: self.head(line),
            slot: (position >> 8 & 63) as u32,
            mark: (position & 0xff) as u8,
        }
    }
}

impl<'m> Spot<'m> {
    /// Tells `found` which of the runs may have the fingerprints, a bit for each, where any may.
    ///
    /// What is far away is read by loops that do nothing else: of so few instructions, a processor has more than twenty
    /// reads under way at a time, and nothing decides yet what comes next.
    #[inline]
    pub(crate) fn look<T: Copy>(spots: &[(T, Self)], mut found: impl FnMut(T, u32)) {
        debug_assert!(spots.len() <= TOGETHER);
        black_box(spots.iter().fold(0, |all, (_, spot)| all ^ taken(spot.head)));
        let mut taken = [0_u8; TOGETHER];
        let mut count = 0;
        for (n, (_, spot)) in (0..).zip(spots) {
            taken[count] = n;
            count += usize::from(spot.is_taken());
        }
        if count == 0 {
            return;
        }
        let mut lines = [(&[][..], [&0, &0]); TOGETHER];
        for (&n, line) in taken[..count].iter().zip(&mut lines) {
            let (_, Self { maplet, line: number, .. }) = spots[usize::from(n)];
            let bytes = maplet.line(number);
            *line = (bytes, [bytes.first().unwrap_or(&0), bytes.last().unwrap_or(&0)]);
        }
        let lines = &lines[..count];
        black_box(lines.iter().fold(0, |all, (_, [first, last])| all ^ **first ^ **last));
        for (&n, (line, _)) in taken.iter().zip(lines) {
            let (of, spot) = spots[usize::from(n)];
            let runs = spot.runs(line);
            if runs != 0 {
                found(of, runs);
            }
        }
    }

    #[inline]
    fn is_taken(self) -> bool {
        taken(self.head) >> self.slot & 1 == 1
    }

    /// Which of the runs may have the fingerprint, whose slot is taken: a bit for each.
    #[inline]
    fn runs(self, line: &[u8]) -> u32 {
        let (firsts, marks) = parts(line);
        let slots_before = (taken(self.head) & !(!0 << self.slot)).count_ones();
        if self.has_none(marks.len(), slots_before) { 0 } else { self.runs_of(firsts, marks, slots_before) }
    }

    /// Whether none of the slot's marks is this one; false where that cannot be said at a glance.
    ///
    /// Without a branch, for nobody can foresee where a slot's marks are, and how many.
    #[inline]
    fn has_none(self, marks: usize, slots_before: u32) -> bool {
        let Maplet { bytes, tag_bits, .. } = self.maplet;
        let eight = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
        let (Some(firsts), 1..=64) = (eight(self.maplet.start(self.line)), marks) else { return false };
        let firsts = firsts & !0 >> (64 - marks);
        let first = select(firsts, slots_before) as usize;
        let all = eight(self.maplet.start(self.line + 1) - marks + first);
        let (Some(all), 1..) = (all, marks.saturating_sub(first)) else { return false };
        let of_slot = ((firsts >> first >> 1).trailing_zeros() as usize + 1).min(marks - first);
        let tags = u64::from(!(!0_u8 << tag_bits)) * ONES;
        let differ = (all ^ (u64::from(self.mark) * ONES)) & !tags;
        let same = !(((differ & !HIGHS) + !HIGHS) | differ) & HIGHS;
        of_slot <= 8 && same & !0 >> (64 - 8 * of_slot) == 0
    }

    #[cold]
    fn runs_of(self, firsts: &[u8], marks: &[u8], slots_before: u32) -> u32 {
        let is_first = |n: &usize| firsts[n / 8] >> (n % 8) & 1 == 1;
        let mut starts = (0..marks.len()).filter(is_first).skip(slots_before as usize);
        let start = starts.next().unwrap_or(marks.len());
        let end = starts.next().unwrap_or(marks.len());
        let tags = marks[start..end].iter().map(|mark| mark.wrapping_sub(self.mark));
        let of_runs = tags.filter(|tag| tag >> self.maplet.tag_bits == 0);
        of_runs.fold(0, |runs, tag| runs | 1 << tag)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = ONES << 7;

/// Which bit is set and has so many before it that are. There has to be one.
#[inline]
fn select(word: u64, before: u32) -> u32 {
    let before = u64::from(before);
    // How many bits are set up to each byte.
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let fours = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let sums = ((fours + (fours >> 4)) & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(ONES);
    let bytes = at_most(sums, before);
    let before = before - ((sums << 8).unbounded_shr(8 * bytes) & 0xff);
    // The same with a byte for each of the byte's bits.
    let byte = word.unbounded_shr(8 * bytes) & 0xff;
    let bits = (byte * ONES) & 0x8040_2010_0804_0201;
    let sums = ((bits + 0x0040_6070_787c_7e7f) & HIGHS) >> 7;
    8 * bytes + at_most(sums.wrapping_mul(ONES), before)
}

/// How many of the bytes, which do not decrease, are at most this; both less than 128.
#[inline]
fn at_most(bytes: u64, most: u64) -> u32 {
    let are = (((most * ONES) | HIGHS) - bytes) & HIGHS;
    ((are >> 7).wrapping_mul(ONES) >> 56) as u32
}

/// Which marks of a line are the first of their slot, and the marks.
pub(crate) fn parts(line: &[u8]) -> (&[u8], &[u8]) {
    let marks = line.len() * 8 / 9;
    line.split_at(line.len() - marks)
}

#[cfg(test)]
impl Maplet {
    pub(crate) fn runs(&self, fraction: u64) -> u32 {
        let spot = self.spot(fraction);
        if spot.is_taken() { spot.runs(self.line(spot.line)) } else { 0 }
    }
}
