//! Page after page.

use super::DedupStore;
use crate::{Page, Query, StoreError};

/// Reads what a query asks for, a page at a time, until nothing is left. See
/// [`DedupStoreExt::pages`](super::DedupStoreExt::pages).
///
/// * The last page is the one that is caught up; there is always one, which may be empty. Its [`Page::next`] is where to
///   go on later. A page before it can be empty, too: see [`Page::caught_up`].
/// * Events that are stored meanwhile are read as well, so a reader who is slower than the writers does not end.
/// * After an error there is nothing more. [`Self::query`] is the one that failed, with the cursor behind the last page
///   that was read: `store.pages(pages.into_query())` tries it again. [`StoreError::Expired`] has the cursor with which
///   to go on.
pub struct Pages<'s, S: ?Sized> {
    store: &'s S,
    query: Query,
    ended: bool,
}

impl<'s, S: DedupStore + ?Sized> Pages<'s, S> {
    pub(super) fn new(store: &'s S, query: Query) -> Self {
        Self { store, query, ended: false }
    }
}

impl<S: ?Sized> Pages<'_, S> {
    /// The query of the next page.
    pub fn query(&self) -> &Query {
        &self.query
    }

    /// The query of the next page, to go on with later.
    pub fn into_query(self) -> Query {
        self.query
    }
}

impl<S: DedupStore + ?Sized> Iterator for Pages<'_, S> {
    type Item = Result<Page, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let page = self.store.read(&self.query);
        self.ended = page.as_ref().map_or(true, |page| page.caught_up);
        if let Ok(page) = &page {
            self.query.after = Some(page.next.clone());
        }
        Some(page)
    }
}

impl<S: DedupStore + ?Sized> std::iter::FusedIterator for Pages<'_, S> {}

#[cfg(test)]
mod tests {
    use crate::{DedupStoreExt, Event, MemoryStore, Query, StoreError, Topic};

    fn append(store: &MemoryStore, numbers: std::ops::Range<u32>) {
        for n in numbers {
            store.append_one(&Event::new("t", n.to_string()).unwrap()).unwrap();
        }
    }

    fn by_threes() -> Query {
        Query { limit: 3, ..Query::topic(Topic::new("t").unwrap()) }
    }

    #[test]
    fn pages_end_with_the_one_that_is_caught_up() {
        let store = MemoryStore::default();
        for (events, sizes) in [(0, vec![0]), (2, vec![2]), (3, vec![3]), (7, vec![3, 3, 1])] {
            append(&store, 0..events);
            let pages: Vec<_> = store.pages(by_threes()).map(Result::unwrap).collect();
            assert_eq!(pages.iter().map(|page| page.events.len()).collect::<Vec<_>>(), sizes);
            let (last, others) = pages.split_last().unwrap();
            assert!(last.caught_up && others.iter().all(|page| !page.caught_up));
        }
    }

    #[test]
    fn pages_end_after_an_error_and_can_be_gone_on_with() {
        let store = MemoryStore::default();
        append(&store, 0..9);
        let mut pages = store.pages(by_threes());
        assert_eq!(pages.next().unwrap().unwrap().events.len(), 3);
        store.purge(&Topic::new("t").unwrap(), 5).unwrap();
        let Some(Err(StoreError::Expired { oldest })) = pages.next() else { panic!("it was purged beyond") };
        assert!(pages.next().is_none());
        // The same again is the same error; the cursor that came with it goes on.
        let query = pages.into_query();
        assert!(matches!(store.pages(query.clone()).next(), Some(Err(StoreError::Expired { .. }))));
        let rest = store.pages(Query { after: Some(oldest), ..query });
        let seqs: Vec<_> = rest.flat_map(|page| page.unwrap().events).map(|event| event.seq).collect();
        assert_eq!(seqs, [6, 7, 8, 9]);
    }
}
