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

    /// The same, to go on with.
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
