//! Opaque positions in the clean stream.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use crate::query::Order;
use crate::store::StoreId;
use crate::{InvalidField, Partition};

/// "Everything before this is read": a position in every partition a query is about.
///
/// Its text form, `[A-Za-z0-9_-]+`, is for handing back only. It is good for one store and for one
/// combination of filters and order; it survives restarts and backups, not an export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) store: StoreId,
    pub(crate) order: Order,
    /// [`crate::Query::filter_hash`] of the query it belongs to.
    pub(crate) filter: u64,
    pub(crate) positions: Vec<Position>,
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
}

impl Position {
    /// The place before everything.
    pub(crate) fn start(partition: Partition, order: Order) -> Self {
        let offset = match order {
            Order::Ascending => 0,
            Order::Descending => u64::MAX,
        };
        Self { partition, offset, horizon: 0 }
    }

    /// Whether what was read up to here, or is still to be read, holds an event beyond `offset`.
    pub(crate) fn is_beyond(self, offset: u64, order: Order) -> bool {
        match order {
            Order::Ascending => self.offset > offset,
            // A descending reader is done with its offset and what lies above. The start stands for no event.
            Order::Descending => self.offset > offset.saturating_add(1) && self.offset != u64::MAX,
        }
    }
}

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 1 + 16 + 8 + 2;
const POSITION_BYTES: usize = 2 + 8 + 8;
const CHECKSUM_BYTES: usize = 8;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes =
            Vec::with_capacity(HEADER_BYTES + self.positions.len() * POSITION_BYTES + CHECKSUM_BYTES);
        bytes.push(VERSION);
        bytes.push(match self.order {
            Order::Ascending => 0,
            Order::Descending => 1,
        });
        bytes.extend(self.store.as_u128().to_be_bytes());
        bytes.extend(self.filter.to_be_bytes());
        let count = u16::try_from(self.positions.len()).expect("there are at most 1024 partitions");
        bytes.extend(count.to_be_bytes());
        for position in &self.positions {
            bytes.extend(position.partition.0.to_be_bytes());
            bytes.extend(position.offset.to_be_bytes());
            bytes.extend(position.horizon.to_be_bytes());
        }
        bytes.extend(xxh3_64(&bytes).to_be_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        parse(text).ok_or_else(|| {
            InvalidField::new("after", "is not a cursor: hand back `next` of an earlier page unchanged")
        })
    }
}

fn parse(text: &str) -> Option<Cursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if xxh3_64(body).to_be_bytes() != *checksum {
        return None;
    }
    let (version, rest) = body.split_first()?;
    let (order, rest) = rest.split_first()?;
    let (store, rest) = rest.split_first_chunk::<16>()?;
    let (filter, rest) = rest.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    if *version != VERSION || rest.len() != usize::from(u16::from_be_bytes(*count)) * POSITION_BYTES {
        return None;
    }
    let positions = rest.chunks_exact(POSITION_BYTES).map(|chunk| {
        let (partition, rest) = chunk.split_first_chunk::<2>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (horizon, _) = rest.split_first_chunk::<8>()?;
        Some(Position {
            partition: Partition(u16::from_be_bytes(*partition)),
            offset: u64::from_be_bytes(*offset),
            horizon: u64::from_be_bytes(*horizon),
        })
    });
    Some(Cursor {
        store: StoreId::from_u128(u128::from_be_bytes(*store)),
        order: match order {
            0 => Order::Ascending,
            1 => Order::Descending,
            _ => return None,
        },
        filter: u64::from_be_bytes(*filter),
        positions: positions.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_survives_its_text_form_and_no_damage_to_it(
            store: u128, filter: u64, descending: bool,
            positions in prop::collection::vec((0_u16..1024, any::<u64>(), any::<u64>()), 0..5), flip: prop::sample::Index,
        ) {
            let cursor = Cursor {
                store: StoreId::from_u128(store), filter,
                order: if descending { Order::Descending } else { Order::Ascending },
                positions: positions.into_iter()
                    .map(|(partition, offset, horizon)| Position { partition: Partition(partition), offset, horizon })
                    .collect(),
            };
            let text = cursor.to_string();
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
            prop_assert_eq!(&text.parse::<Cursor>().unwrap(), &cursor);

            let mut damaged = text.into_bytes();
            let at = flip.index(damaged.len());
            damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
            prop_assert!(String::from_utf8(damaged).unwrap().parse::<Cursor>().is_err());
        }
    }

    /// With a checksum that is right.
    #[test]
    fn a_cursor_of_another_version_or_length_is_refused() {
        let position = Position { partition: Partition(3), offset: 5, horizon: 1 };
        let (store, order, filter) = (StoreId::from_u128(7), Order::Ascending, 9);
        let text = Cursor { store, order, filter, positions: vec![position; 2] }.to_string();
        let changed = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
            bytes.truncate(bytes.len() - CHECKSUM_BYTES);
            change(&mut bytes);
            bytes.extend(xxh3_64(&bytes).to_be_bytes());
            URL_SAFE_NO_PAD.encode(bytes).parse::<Cursor>()
        };
        assert!(changed(&|_| {}).is_ok());
        assert!(changed(&|bytes| bytes[0] = VERSION + 1).is_err());
        assert!(changed(&|bytes| bytes[1] = 2).is_err(), "an order that is none");
        assert!(changed(&|bytes| bytes[HEADER_BYTES - 1] += 1).is_err(), "positions that are not there");
        assert!(changed(&|bytes| bytes.truncate(HEADER_BYTES + POSITION_BYTES)).is_err());
        assert!(changed(&|bytes| bytes.push(0)).is_err());
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for text in ["", "A", "hello", "AAAA", "=", "ä"] {
            assert!(text.parse::<Cursor>().is_err(), "{text:?}");
        }
    }
}
