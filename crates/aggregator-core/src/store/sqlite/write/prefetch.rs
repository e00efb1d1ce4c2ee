//! Bringing near what lies far away in memory.

use std::hint::black_box;

/// What a processor reads at once.
const LINE_BYTES: usize = 64;

/// How much of a text is fetched: what fetched all of long ones would drop what it fetched first.
const MOST_BYTES: usize = 2048;

/// Reads a little of all these texts, in a loop that does nothing else: many of its reads are under way at a time.
/// Where each text is compared, hashed or copied before the next one is looked at, they are waited for one by one.
pub(crate) fn prefetch<'t>(texts: impl Iterator<Item = &'t [u8]>) {
    let lines = texts.flat_map(|text| text.iter().take(MOST_BYTES).step_by(LINE_BYTES));
    black_box(lines.fold(0, |read, byte| read ^ byte));
}
