//! Cursors: behind every event of a page, and of another history.

use super::{Backend, Case, CaseOptions, append, cases, event, ids, purge_if_able, query, read_all};
use crate::cursor::Fingerprint;
use crate::{Cursor, DedupStore, Event, Order, Query, Source, StoreError, StoredEvent, WrongCursor};

pub(super) const CASES: &[Case] = cases![
    reading_goes_on_after_any_event_of_a_page,
    a_cursor_of_another_history_is_refused_with_a_way_on,
    a_cursor_behind_all_rows_is_refused_with_a_way_on,
    a_cursor_without_a_fingerprint_is_good,
];

/// Several topics in several partitions, some events of which were purged.
fn fill(store: &dyn DedupStore) {
    let numbered = |n: u32| {
        let topic = ["a", "a.b", "a.c", "b.d"][n as usize % 4];
        event(topic, &n.to_string())
            .with_source(["x", "y"][n as usize / 4 % 2])
            .expect("the case names a good source")
    };
    for n in 0..8 {
        append(store, &(n * 4..n * 4 + 4).map(numbered).collect::<Vec<Event>>());
    }
    purge_if_able(store, "a.b", 3);
    purge_if_able(store, "b.d", 1);
}

/// In both orders.
fn queries() -> impl Iterator<Item = Query> {
    let of_x = || Some(Source::new("x").expect("the case names a good source"));
    let kinds = [
        query("*"),
        query("a"),
        query("a.b"),
        query("a.*"),
        query("nobody"),
        query("a,b.*,a.c"),
        Query { source: of_x(), ..query("*") },
    ];
    kinds
        .into_iter()
        .flat_map(|query| [Order::Ascending, Order::Descending].map(|order| Query { order, ..query.clone() }))
}

/// What a reader with this cursor reads, which was given the text of it.
fn rest(store: &dyn DedupStore, query: &Query, after: &Cursor) -> Vec<StoredEvent> {
    let after: Cursor = after.to_string().parse().expect("a cursor is understood");
    read_all(store, Query { after: Some(after), limit: Query::MAX_LIMIT, ..query.clone() })
}

fn reading_goes_on_after_any_event_of_a_page(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    fill(&*store);
    for query in queries() {
        let all = read_all(&*store, query.clone());
        for limit in [1, 4, 100] {
            let mut unread = &all[..];
            let mut after = None;
            loop {
                let page =
                    store.read(&Query { limit, after, ..query.clone() }).expect("a healthy store reads");
                assert_eq!(rest(&*store, &query, &page.start()), unread, "{query:?}");
                assert_eq!(page.cursors().len(), page.events.len());
                for (index, cursor) in page.cursors().enumerate() {
                    assert_eq!(page.events[index], unread[index]);
                    assert_eq!(
                        rest(&*store, &query, &cursor),
                        unread[index + 1..],
                        "{query:?}, event {index}"
                    );
                    assert_eq!(page.cursor_after(index), Some(cursor));
                }
                assert_eq!(page.cursor_after(page.events.len()), None);
                unread = &unread[page.events.len()..];
                assert_eq!(rest(&*store, &query, &page.next), unread, "{query:?}");
                if page.caught_up {
                    break;
                }
                after = Some(page.next);
            }
            assert_eq!(unread, [], "{query:?}");
        }
    }
}

/// The store says where to begin anew, and there is everything that it has.
fn assert_way_on(store: &dyn DedupStore, query: &Query, oldest: &Cursor) {
    let anew = read_all(store, query.clone());
    assert_eq!(ids(&rest(store, query, oldest)), ids(&anew), "{query:?}");
}

fn a_cursor_of_another_history_is_refused_with_a_way_on(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    fill(&*store);
    for query in queries() {
        let page = store.read(&Query { limit: 4, ..query.clone() }).expect("a healthy store reads");
        for mut cursor in page.cursors().chain([page.start(), page.next.clone()]) {
            cursor.fingerprint.as_mut().expect("a store gives one").toggle(Fingerprint::from_bits(1 << 20));
            let error = store.read(&Query { after: Some(cursor), ..query.clone() }).unwrap_err();
            let StoreError::WrongCursor(WrongCursor::OtherHistory { oldest }) = error else {
                panic!("{query:?}: {error}")
            };
            assert_way_on(&*store, &query, &oldest);
        }
    }
}

fn a_cursor_behind_all_rows_is_refused_with_a_way_on(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    fill(&*store);
    for query in queries() {
        let page = store.read(&Query { limit: 4, ..query.clone() }).expect("a healthy store reads");
        let mut cursor = page.next;
        let position = cursor.positions.last_mut().expect("a query is about a partition at least");
        // One behind the last row, which is at most at 32.
        position.offset = 33;
        position.anchor.offset = 33;
        let error = store.read(&Query { after: Some(cursor), ..query.clone() }).unwrap_err();
        let StoreError::WrongCursor(WrongCursor::AheadOfStore { oldest }) = error else {
            panic!("{query:?}: {error}")
        };
        assert_way_on(&*store, &query, &oldest);
    }
}

/// One of the format of before.
fn a_cursor_without_a_fingerprint_is_good(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    fill(&*store);
    for query in queries() {
        let page = store.read(&Query { limit: 4, ..query.clone() }).expect("a healthy store reads");
        let old = Cursor { fingerprint: None, ..page.next.clone() };
        assert_eq!(rest(&*store, &query, &old), rest(&*store, &query, &page.next), "{query:?}");
    }
}
