//! For the check of the index: its entries of forgotten rows stay until their runs are merged.

use std::ops::ControlFlow::Continue;

use rusqlite::Connection;

use crate::store::sqlite::row::gap::Gap;

/// At which offsets there is no row any more: a bit for each offset.
pub(super) struct ForgottenRows(Vec<u64>);

impl ForgottenRows {
    pub(super) fn read(connection: &Connection, covered: u64) -> rusqlite::Result<Self> {
        let mut bits = Vec::new();
        Gap::each_within(connection, 0, covered, |gap| {
            let words = usize::try_from(gap.last / 64 + 1).expect("memory has more bits than a file rows");
            bits.resize(words, 0);
            for offset in gap.first..=gap.last {
                bits[(offset / 64) as usize] |= 1 << (offset % 64);
            }
            Continue(())
        })?;
        Ok(Self(bits))
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.0.get((offset / 64) as usize).is_some_and(|word| word & (1 << (offset % 64)) != 0)
    }
}
