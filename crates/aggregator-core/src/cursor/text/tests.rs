use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::cursor::Anchor;
use crate::store::StoreId;

fn position(partition: u16, offset: u64, order: Order) -> Position {
    let start = Position::start(Partition(partition), order);
    // No row is at the greatest offset: it is that of a walk that did not begin yet.
    let row = if offset == u64::MAX { start.anchor } else { Anchor { offset, ..start.anchor } };
    Position { anchor: row, offset, ..start }
}

fn cursor(order: Order, positions: &[Position]) -> Cursor {
    Cursor::new(StoreId::from_u128(7), order, 0x0BAD_CAFE, positions)
}

prop_compose! {
    fn positions(order: Order)(
        rows in prop::collection::btree_map(
            0..SLOTS, (prop_oneof![0..1_000_u64, any::<u64>(), Just(u64::MAX)], prop_oneof![Just(0), Just(9), any::<u64>()]), 0..20,
        ),
        listed: bool, below in any::<Index>(), fingerprint: u32,
    ) -> Vec<Position> {
        let mut positions: Vec<_> = rows.into_iter().zip(0..).map(|((partition, (offset, horizon)), n)| {
            Position { horizon, ..position(if listed { partition } else { n }, offset, order) }
        }).collect();
        if !positions.is_empty() {
            let at = below.index(positions.len());
            let position = &mut positions[at];
            position.anchor.fingerprint = Fingerprint::from_bits(fingerprint);
            if order == Order::Descending && !position.is_descending_start() {
                position.anchor.offset = position.offset.saturating_sub(1);
            }
        }
        positions
    }
}

proptest! {
    #[test]
    fn a_cursor_survives_its_text_form_and_no_damage_to_it(
        (order, positions) in prop::sample::select(&[Order::Ascending, Order::Descending])
            .prop_flat_map(|order| (Just(order), positions(order))),
        store: u128, filter: u32, of_format_1: bool, flip: Index,
    ) {
        let mut cursor = Cursor::new(StoreId::from_u128(store), order, filter, &positions);
        if of_format_1 {
            cursor.fingerprint = None;
        }
        let text = cursor.to_string();
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        prop_assert_eq!(&text.parse::<Cursor>().unwrap(), &cursor);

        let mut damaged = text.into_bytes();
        let at = flip.index(damaged.len());
        damaged[at] = if damaged[at] == b'A' { b'B' } else { b'A' };
        prop_assert!(String::from_utf8(damaged).unwrap().parse::<Cursor>().is_err());
    }

    /// Whatever it says behind a checksum that is right.
    #[test]
    fn no_bytes_are_too_much_for_the_parser(mut bytes in prop::collection::vec(any::<u8>(), 0..60), flags in 0..64_u8) {
        bytes.splice(0..0, [VERSION, flags]);
        bytes.extend(checksum(&bytes));
        if let Some(cursor) = parse(&bytes) {
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }
    }

    #[test]
    fn a_cursor_of_16_partitions_has_at_most_128_bytes(
        offsets in prop::collection::vec(1_u64..1 << 28, 16), descending: bool,
    ) {
        let order = if descending { Order::Descending } else { Order::Ascending };
        let positions = (0..).zip(offsets).map(|(n, offset)| {
            let horizon = if n == 0 { 1 << 28 } else { 0 };
            let mut position = Position { horizon, ..position(n, offset, order) };
            position.anchor.offset -= u64::from(descending);
            position
        });
        let text = cursor(order, &positions.collect::<Vec<_>>()).to_string();
        prop_assert!(text.len() <= 128, "{} bytes", text.len());
    }
}

/// With a checksum that is right.
#[test]
fn a_cursor_of_another_format_or_length_is_refused() {
    let text =
        cursor(Order::Ascending, &[position(3, 5, Order::Ascending), position(4, 5, Order::Ascending)]);
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = URL_SAFE_NO_PAD.decode(text.to_string()).unwrap();
        bytes.truncate(bytes.len() - 4);
        change(&mut bytes);
        bytes.extend(checksum(&bytes));
        URL_SAFE_NO_PAD.encode(bytes).parse::<Cursor>()
    };
    assert!(changed(&|_| {}).is_ok());
    assert!(changed(&|bytes| bytes[0] = VERSION + 1).is_err());
    assert!(changed(&|bytes| bytes[1] |= 1 << 5).is_err(), "a flag that is none");
    assert!(changed(&|bytes| bytes[14] += 1).is_err(), "positions that are not there");
    assert!(changed(&|bytes| bytes.truncate(bytes.len() - 1)).is_err());
    assert!(changed(&|bytes| bytes.push(0)).is_err());
}

/// Cursors that were handed out are good for ever.
#[test]
fn the_format_never_changes() {
    let row = |n: u16, offset| Anchor::new(Partition(n), offset, "t", Some(offset), "id");
    let at = |n, offset, order| Position { anchor: row(n, offset), ..position(n, offset, order) };
    let up = |n, offset| at(n, offset, Order::Ascending);
    let down = |n, offset| at(n, offset, Order::Descending);
    let below = Position { offset: 78, ..down(1, 77) };
    let golden = [
        (cursor(Order::Ascending, &[up(0, 300)]), "AgD94fM_I1V6kAutyv4BrAIADT7OvEzIKdM"),
        (
            cursor(Order::Ascending, &[up(0, 300), Position { horizon: 400, ..up(1, 0) }]),
            "AgT94fM_I1V6kAutyv4CAKwCAAKQA7R91Otdk6qq",
        ),
        (
            cursor(Order::Ascending, &[up(2, 1), up(900, 1 << 40)]),
            "AgL94fM_I1V6kAutyv4CAoIHAQD______x8E4_jWFK1t7A",
        ),
        (cursor(Order::Descending, &[down(0, 300), below]), "Agn94fM_I1V6kAutyv4CTt4BAALsx3Qby8ZM5g"),
    ];
    let texts = golden.each_ref().map(|(cursor, _)| cursor.to_string());
    assert_eq!(texts, golden.each_ref().map(|(_, text)| *text));
    for (cursor, text) in golden {
        assert_eq!(text.parse::<Cursor>().unwrap(), cursor);
    }
}

#[test]
fn what_is_no_cursor_is_refused() {
    for text in ["", "A", "hello", "AAAA", "Ag", "AQ", "=", "ä"] {
        assert!(text.parse::<Cursor>().is_err(), "{text:?}");
    }
}
