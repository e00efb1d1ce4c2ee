//! The text form of cursors until November 2026, which readers may still hold. It had no fingerprint: such a cursor is
//! taken without a look at the rows it stands at.

use xxhash_rust::xxh3::xxh3_64;

use super::{Cursor, Position};
use crate::Partition;
use crate::event::SLOTS;
use crate::query::Order;
use crate::store::StoreId;

pub(super) const VERSION: u8 = 1;
const POSITION_BYTES: usize = 2 + 8 + 8;
const CHECKSUM_BYTES: usize = 8;

pub(super) fn parse(bytes: &[u8]) -> Option<Cursor> {
    let (body, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>()?;
    if xxh3_64(body).to_be_bytes() != *checksum {
        return None;
    }
    let ([VERSION, order], rest) = body.split_first_chunk()? else { return None };
    let order = match order {
        0 => Order::Ascending,
        1 => Order::Descending,
        _ => return None,
    };
    let (store, rest) = rest.split_first_chunk::<16>()?;
    // The half that cursors have kept.
    let ([_, _, _, _, filter @ ..], rest) = rest.split_first_chunk::<8>()?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    let count = u16::from_be_bytes(*count);
    if count > SLOTS || rest.len() != usize::from(count) * POSITION_BYTES {
        return None;
    }
    let positions = rest.chunks_exact(POSITION_BYTES).map(|chunk| {
        let (partition, rest) = chunk.split_first_chunk::<2>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (horizon, _) = rest.split_first_chunk::<8>()?;
        let mut position = Position {
            offset: u64::from_be_bytes(*offset),
            horizon: u64::from_be_bytes(*horizon),
            ..Position::start(Partition(u16::from_be_bytes(*partition)), order)
        };
        if !position.is_descending_start() {
            // A descending reader needs what is below.
            position.anchor.offset = position.offset.saturating_sub(u64::from(order == Order::Descending));
        }
        Some(position.without_what_follows(order))
    });
    let positions: Vec<_> = positions.collect::<Option<_>>()?;
    if !positions.is_sorted_by_key(|position| position.partition) {
        return None;
    }
    Some(Cursor {
        store: StoreId::from_u128(u128::from_be_bytes(*store)).hash(),
        order,
        filter: u32::from_be_bytes(*filter),
        fingerprint: None,
        positions,
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::super::{Anchor, Fingerprint};
    use super::*;
    use crate::{Query, TopicSelector};

    /// Made by the program of before, of a store with three partitions: after four of five events, and before three.
    const ASCENDING: &str = "AQABoib5liL7KlOQ0i1Hp43DhIvSQslgx5AAAwAAAAAAAAAAAAEAAAAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAAACAAAAAAAAAAIAAAAAAAAAAKMU4TCTpnLl";
    const DESCENDING: &str = "AQEBoib5liL7KlOQ0i1Hp43DhIvSQslgx5AAAwAAAAAAAAAAAAIAAAAAAAAAAAABAAAAAAAAAAEAAAAAAAAAAAACAAAAAAAAAAMAAAAAAAAAANEPoNHk_PLW";

    #[test]
    fn cursors_of_before_are_still_understood() {
        let golden = [
            (ASCENDING, Order::Ascending, [(1, 1), (1, 1), (2, 2)]),
            (DESCENDING, Order::Descending, [(2, 1), (1, 0), (3, 2)]),
        ];
        for (text, order, offsets) in golden {
            let cursor: Cursor = text.parse().unwrap();
            let positions = (0..).zip(offsets).map(|(n, (offset, anchor))| Position {
                partition: Partition(n),
                offset,
                horizon: 0,
                anchor: Anchor { offset: anchor, fingerprint: Fingerprint::default() },
                newest: Anchor::NONE,
            });
            let store = StoreId::from_u128(0x01a2_26f9_9622_fb2a_5390_d22d_47a7_8dc3);
            let expected = Cursor::new(store, order, cursor.filter, &positions.collect::<Vec<_>>());
            assert_eq!(cursor, Cursor { fingerprint: None, ..expected });
            assert_eq!(
                cursor.to_string().parse::<Cursor>().unwrap(),
                cursor,
                "and given back in the format of today"
            );
            assert_eq!(cursor.filter, Query::of(TopicSelector::All).filter_hash());
        }
    }

    /// With a checksum, which whoever makes a cursor up can write as well.
    fn made_up(order: u8, positions: &[(u16, u64, u64)]) -> Option<Cursor> {
        let count = u16::try_from(positions.len()).unwrap();
        let mut bytes = [&[VERSION, order][..], &[0; 24], &count.to_be_bytes()].concat();
        for (partition, offset, horizon) in positions {
            bytes.extend(partition.to_be_bytes());
            bytes.extend([offset.to_be_bytes(), horizon.to_be_bytes()].concat());
        }
        let checksum = xxh3_64(&bytes).to_be_bytes();
        parse(&[&bytes[..], &checksum].concat())
    }

    /// Today's format has the distances between partitions.
    #[test]
    fn partitions_out_of_order_and_too_many_are_no_cursor() {
        assert!(made_up(0, &[(0, 1, 0), (1, 1, 0)]).is_some());
        assert_eq!(made_up(0, &[(1, 1, 0), (0, 1, 0)]), None);
        let many: Vec<_> = (0..=SLOTS).map(|partition| (partition, 0, 0)).collect();
        assert!(made_up(0, &many[1..]).is_some());
        assert_eq!(made_up(0, &many), None);
    }

    #[test]
    fn the_largest_offset_stands_at_no_row_as_in_the_format_of_today() {
        for order in [0, 1] {
            let cursor = made_up(order, &[(0, u64::MAX, 0)]).unwrap();
            assert_eq!(cursor.positions[0].anchor, Anchor::NONE);
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
    }

    #[test]
    fn what_is_damaged_is_no_cursor() {
        let sound = URL_SAFE_NO_PAD.decode(ASCENDING).unwrap();
        assert!(parse(&sound).is_some());
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            assert!(parse(&damaged).is_none());
        }
        for wrong in [&[VERSION][..], &sound[..sound.len() - 1], &[VERSION; 30]] {
            assert!(parse(wrong).is_none());
        }
    }
}
