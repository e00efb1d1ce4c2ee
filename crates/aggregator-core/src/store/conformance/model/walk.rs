//! A reader that goes through a query page by page, however much happens between two of them.

use std::collections::BTreeMap;

use proptest::test_runner::TestCaseError;
use proptest::{prop_assert, prop_assert_eq};

use super::operation::Filters;
use super::reference::Reference;
use crate::{DedupStore, Order, Page, Partition, Query, StoreError, StoredEvent};

pub(super) struct Walk {
    filters: Filters,
    /// As text: what a reader is given.
    cursor: Option<String>,
    places: BTreeMap<Partition, Place>,
}

/// What is known of where a walk stands in one partition.
#[derive(Default)]
struct Place {
    /// The offset of the last event it was given; the cursor is not before it.
    given: Option<u64>,
    /// Ascending: the cursor is not beyond this. Between the two lies only what the filters leave out.
    looked_at: u64,
    /// It knows of the purges up to this offset.
    horizon: u64,
    /// The newest offset when the walk began.
    began_at: u64,
}

impl Walk {
    /// At the beginning.
    pub(super) fn new(filters: Filters) -> Self {
        Self { filters, cursor: None, places: BTreeMap::new() }
    }

    /// Reads a page and compares it with the reference. Returns whether the page was caught up.
    pub(super) fn read(
        &mut self,
        store: &dyn DedupStore,
        reference: &Reference,
        limit: usize,
    ) -> Result<bool, TestCaseError> {
        if self.cursor.is_none() {
            self.begin(store, reference);
        }
        let after = self.cursor.as_ref().map(|text| text.parse().unwrap());
        let query = Query { limit, after, ..self.filters.query() };
        let mut answer = store.read(&query);
        if let Err(StoreError::Expired { oldest }) = &answer {
            prop_assert!(self.may_expire(reference), "expired without a purge beyond the cursor");
            self.know_purges(reference);
            let text = oldest.to_string();
            answer = store.read(&Query { after: Some(text.parse().unwrap()), ..query });
            self.cursor = Some(text);
        }
        prop_assert!(!self.must_expire(reference), "events were removed without a word: {answer:?}");
        match answer {
            Ok(page) => self.judge(&page, reference, limit),
            Err(error) => Err(TestCaseError::fail(format!("a read failed: {error}"))),
        }
    }

    fn begin(&mut self, store: &dyn DedupStore, reference: &Reference) {
        let partitions = store.partitions();
        for partition in partitions.iter() {
            let mut selectors = self.filters.topics.split(',');
            if selectors.any(|selector| selector.ends_with('*') || partitions.of(selector) == partition) {
                let began_at = reference.last_offset(partition);
                self.places.insert(partition, Place { began_at, ..Place::default() });
            }
        }
        // A reader that starts anew has lost nothing.
        self.know_purges(reference);
    }

    fn know_purges(&mut self, reference: &Reference) {
        for (&partition, place) in &mut self.places {
            place.horizon = reference.purged_offset(self.filters.topics, partition);
        }
    }

    fn must_expire(&self, reference: &Reference) -> bool {
        self.was_purged_beyond(reference, |place| place.looked_at)
    }

    fn may_expire(&self, reference: &Reference) -> bool {
        self.was_purged_beyond(reference, |place| place.given.unwrap_or(0))
    }

    fn was_purged_beyond(&self, reference: &Reference, cursor: impl Fn(&Place) -> u64) -> bool {
        // A reader that reads backwards ends at the removal.
        self.filters.order == Order::Ascending
            && self.places.iter().any(|(&partition, place)| {
                let purged = reference.purged_offset(self.filters.topics, partition);
                purged > place.horizon.max(cursor(place))
            })
    }

    /// Returns whether nothing is left.
    fn judge(&mut self, page: &Page, reference: &Reference, limit: usize) -> Result<bool, TestCaseError> {
        let unread = self.unread(reference);
        let count = limit.min(unread.len());
        prop_assert_eq!(&page.events, &unread[..count]);
        prop_assert!(!page.caught_up || count == unread.len(), "caught up before {:?}", unread[count]);
        prop_assert!(page.caught_up || page.events.len() == limit, "a page ends for no reason");

        // A reader whose limit is even goes on from the middle of its page.
        let stops = limit.is_multiple_of(2) && count > 0;
        let count = if stops { count.div_ceil(2) } else { count };
        let middle = page.cursor_after(count.saturating_sub(1)).filter(|_| stops);
        self.cursor = Some(middle.unwrap_or_else(|| page.next.clone()).to_string());
        for event in &page.events[..count] {
            self.places.entry(event.partition).or_default().given = Some(event.offset);
        }
        for (&partition, place) in &mut self.places {
            let next = unread[count..].iter().find(|event| event.partition == partition);
            place.looked_at = next.map_or(reference.last_offset(partition), |event| event.offset - 1);
        }
        self.know_purges(reference);
        Ok(page.caught_up && !stops)
    }

    /// What is still to be read, in the order of the query.
    fn unread(&self, reference: &Reference) -> Vec<StoredEvent> {
        let unread = reference.passing(&self.filters).into_iter().filter(|event| {
            let place = &self.places[&event.partition];
            match self.filters.order {
                Order::Ascending => place.given.is_none_or(|given| event.offset > given),
                // What came since the walk began lies before its beginning.
                Order::Descending => {
                    event.offset <= place.began_at && place.given.is_none_or(|given| event.offset < given)
                }
            }
        });
        unread.cloned().collect()
    }
}
