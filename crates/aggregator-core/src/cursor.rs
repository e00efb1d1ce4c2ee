//! Opaque positions in the clean stream.
//!
//! A cursor says where its reader stands in each partition. It also says which row it stands at there: its *anchor*. A
//! store that was put back to an older state gives its later offsets out again, to other events. Then the rows at the
//! anchors are others, and the store refuses the cursor, although it has as many offsets again.

mod anchor;
mod format_1;
mod text;

use crate::Partition;
use crate::query::Order;
use crate::store::StoreId;

pub use self::anchor::{Anchor, Fingerprint};

/// "Everything before this is read": a position in every partition a query is about.
///
/// Its text form, `[A-Za-z0-9_-]+`, is for handing back only. With 16 partitions it has at most 128 bytes, as long as
/// their offsets are below 2^28. It is good for one store and for one combination of filters and order; it survives
/// restarts and backups, not an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// [`StoreId::hash`] of the store that made it.
    pub(crate) store: u64,
    pub(crate) order: Order,
    /// [`crate::Query::filter_hash`] of the query it belongs to.
    pub(crate) filter: u32,
    /// That of all anchors together; `None` in a cursor of format 1, which had none.
    pub(crate) fingerprint: Option<Fingerprint>,
    /// In ascending order of their partitions, without the fingerprints of their anchors.
    pub(crate) positions: Vec<Position>,
}

impl Cursor {
    pub(crate) fn new(store: StoreId, order: Order, filter: u32, positions: &[Position]) -> Self {
        let mut cursor =
            Self { store: store.hash(), order, filter, fingerprint: None, positions: Vec::new() };
        cursor.put_to(positions);
        cursor
    }

    /// Whether it knows the rows it stands at. One that an earlier version wrote does not.
    pub fn has_fingerprint(&self) -> bool {
        self.fingerprint.is_some()
    }

    /// Puts it to these positions, whose anchors have their fingerprints.
    pub(crate) fn put_to(&mut self, positions: &[Position]) {
        let mut fingerprint = Fingerprint::default();
        self.positions.clear();
        for position in positions {
            fingerprint.toggle(position.anchor.fingerprint);
            self.positions.push(position.without_what_follows(self.order));
        }
        self.fingerprint = Some(fingerprint);
    }

    /// Moves one of its positions from where it is.
    pub(crate) fn go_on(&mut self, index: usize, from: Position, to: Position) {
        self.positions[index] = to.without_what_follows(self.order);
        if let Some(fingerprint) = &mut self.fingerprint {
            fingerprint.toggle(from.anchor.fingerprint);
            fingerprint.toggle(to.anchor.fingerprint);
        }
    }
}

/// A place in one partition's append order. For backends: readers have the [`Cursor`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Which one.
    pub partition: Partition,
    /// Ascending: the last offset that was read, 0 at the start. Descending: the same, `u64::MAX` at
    /// the start.
    pub offset: u64,
    /// Removals by retention up to this offset are known to the reader.
    pub horizon: u64,
    /// The row at `offset`. At the start of a descending walk, the newest row there is. [`check_positions`] fills in its
    /// fingerprint.
    ///
    /// [`check_positions`]: crate::store::backend::check_positions
    pub anchor: Anchor,
    /// The newest row of the partition, as of the snapshot that [`check_positions`] looked at. No part of a cursor.
    ///
    /// [`check_positions`]: crate::store::backend::check_positions
    pub newest: Anchor,
}

impl Position {
    /// The place before everything.
    pub(crate) fn start(partition: Partition, order: Order) -> Self {
        let offset = match order {
            Order::Ascending => 0,
            Order::Descending => u64::MAX,
        };
        Self { partition, offset, horizon: 0, anchor: Anchor::NONE, newest: Anchor::NONE }
    }

    /// The offset of the anchor in a partition whose newest offset is `last_offset`; `None` if no row is there.
    pub fn anchor_offset(&self, last_offset: u64) -> Option<u64> {
        let offset = if self.is_descending_start() { last_offset } else { self.anchor.offset };
        (1..=last_offset).contains(&offset).then_some(offset)
    }

    /// Whether it is the beginning of a descending walk that no store has seen yet.
    pub(crate) fn is_descending_start(&self) -> bool {
        self.offset == u64::MAX
    }

    /// Moves to a row that was looked at.
    pub(crate) fn move_to(&mut self, row: Anchor) {
        (self.offset, self.anchor) = (row.offset, row);
    }

    /// As a cursor keeps it. A horizon means nothing up to the offset of an ascending reader, nor to a descending one.
    fn without_what_follows(mut self, order: Order) -> Self {
        if order == Order::Descending || self.horizon <= self.offset {
            self.horizon = 0;
        }
        self.anchor.fingerprint = Fingerprint::default();
        self.newest = Anchor::NONE;
        self
    }
}
