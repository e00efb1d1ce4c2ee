//! Bringing near what lies far away in memory.

use std::hint::black_box;

/// What a processor reads at once.
const LINE_BYTES: usize = 64;

/// Reads a little of all these texts, in a loop that does nothing else: many of its reads are under way at a time.
/// Where each text is compared, hashed or copied before the next one is looked at, they are waited for one by one.
pub(super) fn fetch<'t>(texts: impl Iterator<Item = &'t [u8]>) {
    let lines = texts.flat_map(|text| text.iter().step_by(LINE_BYTES));
    black_box(lines.fold(0, |read, byte| read ^ byte));
}
