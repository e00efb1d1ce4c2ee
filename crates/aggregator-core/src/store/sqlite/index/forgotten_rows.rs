//! For the check of the index: its entries of forgotten rows stay until their runs are merged.

use rusqlite::Connection;

use crate::store::sqlite::row::gap::Gap;

/// At which offsets there is no row any more: a bit for each offset.
pub(super) struct ForgottenRows(Vec<u64>);

impl ForgottenRows {
    pub(super) fn read(connection: &Connection, covered: u64) -> rusqlite::Result<Self> {
        let gaps = Gap::within(connection, 0, covered)?;
        let last = gaps.last().map_or(0, |gap| gap.last);
        let mut bits =
            vec![0; usize::try_from(last / 64 + 1).expect("memory has more bits than a file rows")];
        for offset in gaps.into_iter().flat_map(|gap| gap.first..=gap.last) {
            bits[(offset / 64) as usize] |= 1 << (offset % 64);
        }
        Ok(Self(bits))
    }

    pub(super) fn contains(&self, offset: u64) -> bool {
        self.0.get((offset / 64) as usize).is_some_and(|word| word & (1 << (offset % 64)) != 0)
    }
}
