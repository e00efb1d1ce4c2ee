//! The offsets at which there is no row any more, because it was forgotten. At every other offset there has to be one, so a
//! row that a damaged file has lost is never taken for one that was forgotten.

use std::ops::ControlFlow::{self, Continue};

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::checksum::Checksum;
use crate::store::sqlite::fault::Corruption;
use crate::store::sqlite::schema;

/// Neighbouring offsets without rows: all from `first` to `last`. The next gap is not next to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) first: u64,
    pub(crate) last: u64,
}

/// The columns that [`Gap::read`] reads.
pub(crate) const GAP_COLUMNS: &str = "g.first_offset, g.last_offset, g.checksum";

impl Gap {
    /// Reads a row of [`GAP_COLUMNS`], and checks it.
    pub(crate) fn read(row: &Row<'_>) -> Result<Self> {
        let gap = Self { first: row.get(0)?, last: row.get(1)? };
        if gap.checksum() == row.get::<_, i64>(2)? {
            return Ok(gap);
        }
        let what = format!("the gap from offset {} on does not match its checksum", gap.first);
        Err(Corruption::error(what))
    }

    /// Whether the row at `offset` was forgotten.
    pub(crate) fn is_at(connection: &Connection, offset: u64) -> Result<bool> {
        if !schema::has_forgotten(connection)? {
            return Ok(false);
        }
        Ok(Self::beginning_up_to(connection, offset)?.is_some_and(|gap| gap.last >= offset))
    }

    /// The gaps that have offsets behind `after`, up to `to`, in their order.
    pub(crate) fn within(connection: &Connection, after: u64, to: u64) -> Result<Vec<Self>> {
        let mut gaps = Vec::new();
        Self::each_within(connection, after, to, |gap| {
            gaps.push(gap);
            Continue(())
        })?;
        Ok(gaps)
    }

    /// Hands `take` the gaps that have offsets behind `after`, up to `to`, in their order, until it breaks.
    pub(crate) fn each_within(
        connection: &Connection,
        after: u64,
        to: u64,
        mut take: impl FnMut(Self) -> ControlFlow<()>,
    ) -> Result<()> {
        if !schema::has_forgotten(connection)? {
            return Ok(());
        }
        let before = Self::beginning_up_to(connection, after)?.filter(|gap| gap.last > after);
        if before.is_some_and(|gap| take(gap).is_break()) {
            return Ok(());
        }
        let sql = format!(
            "SELECT {GAP_COLUMNS} FROM gaps g WHERE g.first_offset > ?1 AND g.first_offset <= ?2
             ORDER BY g.first_offset"
        );
        let mut select = connection.prepare_cached(&sql)?;
        let mut rows = select.query((after, to))?;
        while let Some(row) = rows.next()? {
            if take(Self::read(row)?).is_break() {
                break;
            }
        }
        Ok(())
    }

    /// How many offsets it has behind `after`, up to `to`.
    pub(crate) fn overlap(self, after: u64, to: u64) -> u64 {
        (self.last.min(to) + 1).saturating_sub(self.first.max(after + 1))
    }

    /// The last gap that begins at `offset` or before it. The table has to be there.
    fn beginning_up_to(connection: &Connection, offset: u64) -> Result<Option<Self>> {
        let sql = format!(
            "SELECT {GAP_COLUMNS} FROM gaps g WHERE g.first_offset <= ?1 ORDER BY g.first_offset DESC LIMIT 1"
        );
        connection.prepare_cached(&sql)?.query_row([offset], Self::read).optional()
    }

    /// Adds offsets whose rows are removed, and unites them with the gaps next to them.
    pub(crate) fn add(self, connection: &Connection) -> Result<()> {
        let mut gap = self;
        if let Some(before) = Self::beginning_up_to(connection, self.last)? {
            if before.last >= self.first {
                return Err(Corruption::error(format!("offset {} was forgotten already", self.first)));
            }
            if before.last + 1 == self.first {
                gap.first = before.first;
            }
        }
        let behind = Self::beginning_up_to(connection, self.last + 1)?;
        if let Some(behind) = behind.filter(|behind| behind.first == self.last + 1) {
            gap.last = behind.last;
            let mut delete = connection.prepare_cached("DELETE FROM gaps WHERE first_offset = ?1")?;
            delete.execute([behind.first])?;
        }
        connection
            .prepare_cached(
                "INSERT INTO gaps (first_offset, last_offset, checksum) VALUES (?1, ?2, ?3)
                 ON CONFLICT (first_offset) DO UPDATE SET last_offset = excluded.last_offset,
                     checksum = excluded.checksum",
            )?
            .execute((gap.first, gap.last, gap.checksum()))
            .map(drop)
    }

    fn checksum(self) -> i64 {
        let mut sum = Checksum::default();
        sum.number(self.first);
        sum.number(self.last);
        sum.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(connection: &Connection) -> Vec<(u64, u64)> {
        let gaps = Gap::within(connection, 0, 1_000).unwrap();
        gaps.into_iter().map(|gap| (gap.first, gap.last)).collect()
    }

    #[test]
    fn gaps_next_to_each_other_are_one() {
        let connection = Connection::open_in_memory().unwrap();
        assert!(!Gap::is_at(&connection, 1).unwrap(), "nothing was ever forgotten");
        connection.execute_batch(schema::CREATE_FORGOTTEN).unwrap();
        let add = |first, last| Gap { first, last }.add(&connection);
        for ((first, last), expected) in [
            ((10, 12), vec![(10, 12)]),
            ((20, 20), vec![(10, 12), (20, 20)]),
            ((13, 13), vec![(10, 13), (20, 20)]),
            ((18, 19), vec![(10, 13), (18, 20)]),
            ((15, 16), vec![(10, 13), (15, 16), (18, 20)]),
            ((14, 14), vec![(10, 16), (18, 20)]),
            ((17, 17), vec![(10, 20)]),
            ((1, 8), vec![(1, 8), (10, 20)]),
        ] {
            add(first, last).unwrap();
            assert_eq!(gaps(&connection), expected);
        }
        assert!([1, 8, 10, 20].iter().all(|&offset| Gap::is_at(&connection, offset).unwrap()));
        assert!([0, 9, 21].iter().all(|&offset| !Gap::is_at(&connection, offset).unwrap()));
        assert!(add(8, 9).is_err() && add(15, 15).is_err() && add(9, 10).is_err(), "a row is forgotten once");
    }

    #[test]
    fn what_gaps_have_of_a_range_is_counted() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(schema::CREATE_FORGOTTEN).unwrap();
        for (first, last) in [(3, 5), (8, 8), (11, 20)] {
            Gap { first, last }.add(&connection).unwrap();
        }
        for after in 0..22 {
            for to in after..24 {
                let expected = (after + 1..=to).filter(|&at| Gap::is_at(&connection, at).unwrap()).count();
                let gaps = Gap::within(&connection, after, to).unwrap();
                let counted: u64 = gaps.into_iter().map(|gap| gap.overlap(after, to)).sum();
                assert_eq!(counted, expected as u64, "{after}..={to}");
            }
        }
    }
}
