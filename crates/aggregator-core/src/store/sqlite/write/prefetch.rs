//! Reads texts into the processor's cache before they are used.

use std::hint::black_box;

/// The bytes that a processor reads from memory at once.
const CACHE_LINE: usize = 64;

/// The most bytes of a text that are prefetched. If long texts were prefetched whole, the cache would drop the first
/// ones.
const MAX_BYTES: usize = 2048;

/// Reads these texts in a loop that does nothing else, so that many reads are under way at a time. A loop that compares,
/// hashes or copies each text before the next one waits for each read.
pub(crate) fn prefetch<'t>(texts: impl Iterator<Item = &'t [u8]>) {
    let lines = texts.flat_map(|text| text.iter().take(MAX_BYTES).step_by(CACHE_LINE));
    black_box(lines.fold(0, |read, byte| read ^ byte));
}
