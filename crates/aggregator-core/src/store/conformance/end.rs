//! Readers at the end of the stream: where it is, and how they follow it by pages of a broader query.

use super::{Backend, Case, CaseOptions, append, cases, event, ids, query, read_all};
use crate::store::DedupStoreExt as _;
use crate::{DedupStore, Event, Page, Progress, Query, Source, StoredEvent};

pub(super) const CASES: &[Case] = cases![
    the_end_is_behind_everything_that_is_stored,
    a_page_at_the_end_leaves_nothing_to_be_looked_at_again,
    a_reader_follows_by_pages_that_others_read_as_well,
];

fn numbered(numbers: std::ops::Range<u32>) -> Vec<Event> {
    let numbered = |n: u32| {
        let topic = ["a", "a.b", "c", "c.d.e", "f"][n as usize % 5];
        let source = ["x", "y", "z"][n as usize % 3];
        event(topic, &n.to_string()).with_source(source).expect("the case names a good source")
    };
    numbers.map(numbered).collect()
}

fn queries() -> Vec<Query> {
    let of = |source: &str| Some(Source::new(source).expect("the case names a good source"));
    vec![
        query("*"),
        query("a"),
        query("a.*"),
        query("c.*"),
        query("nobody"),
        query("nobody.*"),
        Query { source: of("x"), ..query("*") },
        Query { source: of("y"), ..query("c") },
        Query { source: of("nobody"), ..query("*") },
    ]
}

fn read(store: &dyn DedupStore, query: &Query) -> Page {
    store.read(query).expect("a healthy store reads")
}

fn the_end_is_behind_everything_that_is_stored(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for round in 0..3 {
        let (before, after) =
            (numbered(round * 20..round * 20 + 10), numbered(round * 20 + 10..round * 20 + 20));
        append(&*store, &before);
        let ends: Vec<_> = queries()
            .into_iter()
            .map(|query| (store.end(&query).expect("a healthy store reads"), query))
            .collect();
        let next = |query: &Query| read_all(&*store, query.clone()).len();
        let had: Vec<_> = ends.iter().map(|(_, query)| next(query)).collect();
        append(&*store, &after);
        for ((end, query), had) in ends.into_iter().zip(had) {
            let all = read_all(&*store, query.clone());
            let rest = read_all(&*store, Query { after: Some(end), ..query.clone() });
            assert_eq!(ids(&rest), ids(&all[had..]), "{query:?}");
        }
    }
}

/// Otherwise a reader of rare events would look at the same others again, each time it asks.
fn a_page_at_the_end_leaves_nothing_to_be_looked_at_again(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered(0..50));
    for query in queries() {
        let query = Query { limit: Query::MAX_LIMIT, ..query };
        let page = read(&*store, &query);
        assert!(page.caught_up);
        assert_eq!(page.next, store.end(&query).expect("a healthy store reads"), "{query:?}");
        // And so does a page that has nothing to show.
        let empty = read(&*store, &Query { after: Some(page.next.clone()), ..query.clone() });
        assert_eq!((empty.events.len(), &empty.next), (0, &page.next), "{query:?}");
    }
}

/// A reader that takes from such pages what it has not read yet.
struct Follower {
    query: Query,
    progress: Progress,
    read: Vec<StoredEvent>,
}

impl Follower {
    fn take(&mut self, page: &Page) {
        for event in &page.events {
            let is_mine = self.query.topics.matches(&event.topic)
                && self.query.admits(&event.event_id, &event.source, event.processed_at);
            if is_mine && !self.progress.is_past(event) {
                self.progress.advance(event);
                self.read.push(event.clone());
            }
        }
        let (_, behind) = page.progress();
        self.progress.advance_to(&behind);
        assert!(self.progress.covers(&behind));
    }
}

fn a_reader_follows_by_pages_that_others_read_as_well(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append(&*store, &numbered(0..20));
    let mut everything = Query { limit: 7, ..query("*") };
    // Each reader has come as far as its own page leads. The pages of all begin before that, and end behind.
    let mut followers: Vec<_> = queries()
        .into_iter()
        .map(|query| {
            let page = read(&*store, &Query { limit: 5, ..query.clone() });
            let (before, progress) = page.progress();
            assert!(progress.covers(&before) && (before == progress || !before.covers(&progress)));
            Follower { query, progress, read: page.events }
        })
        .collect();
    append(&*store, &numbered(20..60));
    loop {
        let page = read(&*store, &everything);
        for follower in &mut followers {
            follower.take(&page);
            // It can go on by pages of its own from anywhere.
            let cursor = follower.progress.cursor(&follower.query, store.info());
            let rest = read_all(&*store, Query { after: Some(cursor), ..follower.query.clone() });
            let all = read_all(&*store, follower.query.clone());
            let mut come = ids(&follower.read);
            come.extend(ids(&rest));
            // Events of several partitions come in another order than on pages.
            come.sort_unstable();
            let mut wanted = ids(&all);
            wanted.sort_unstable();
            assert_eq!(come, wanted, "{:?}", follower.query);
        }
        everything.after = Some(page.next);
        if page.caught_up {
            break;
        }
    }
}
