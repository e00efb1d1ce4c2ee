//! The outcome of each item of a request, from decoding to the reply.

use aggregator_core::{Outcome, Receipt};

use crate::http::problem::ItemError;

/// The outcome of one item.
pub(super) enum ItemOutcome {
    /// The item is the batch's event with this index. It was queued, or it has a receipt.
    Accepted(usize, Option<Receipt>),
    /// With everything that is wrong with the item.
    Rejected(Vec<ItemError>),
}

/// The outcomes of a request's items, in the order of the request.
pub(super) struct ItemOutcomes {
    items: Vec<ItemOutcome>,
    /// For each event of the batch, the position of its item in the request.
    positions: Vec<usize>,
    /// What is wrong with the request as a whole: the store named no item.
    of_request: Vec<ItemError>,
}

impl ItemOutcomes {
    /// For `received` items. The items with `errors` are not in the batch.
    pub(super) fn new(received: usize, errors: Vec<ItemError>) -> Self {
        let mut outcomes = Self {
            items: Vec::with_capacity(received),
            positions: Vec::with_capacity(received),
            of_request: Vec::new(),
        };
        let mut errors = errors.into_iter().peekable();
        for position in 0..received {
            let mut own = Vec::new();
            while let Some(error) = errors.next_if(|error| error.index == Some(position)) {
                own.push(error);
            }
            if own.is_empty() {
                outcomes.items.push(ItemOutcome::Accepted(outcomes.positions.len(), None));
                outcomes.positions.push(position);
            } else {
                outcomes.items.push(ItemOutcome::Rejected(own));
            }
        }
        outcomes
    }

    /// In the order of the request.
    pub(super) fn items(&self) -> &[ItemOutcome] {
        &self.items
    }

    /// These events of the batch have these receipts.
    pub(super) fn received(&mut self, indices: &[u32], receipts: &[Receipt]) {
        for (&index, &receipt) in indices.iter().zip(receipts) {
            let index = index as usize;
            self.items[self.positions[index]] = ItemOutcome::Accepted(index, Some(receipt));
        }
    }

    /// The store refused these events of the batch. An error that names no event is about the whole request.
    pub(super) fn refused(&mut self, errors: Vec<ItemError>) {
        for mut error in errors {
            let Some(index) = error.index else {
                self.of_request.push(error);
                continue;
            };
            let position = self.positions[index];
            error.index = Some(position);
            match &mut self.items[position] {
                ItemOutcome::Rejected(errors) => errors.push(error),
                outcome => *outcome = ItemOutcome::Rejected(vec![error]),
            }
        }
    }

    /// Everything that is wrong with the request: first what names no item, then the items in their order.
    pub(super) fn take_errors(&mut self) -> Vec<ItemError> {
        let errors = |outcome| match outcome {
            ItemOutcome::Rejected(errors) => errors,
            ItemOutcome::Accepted(..) => Vec::new(),
        };
        let of_items = std::mem::take(&mut self.items).into_iter().flat_map(errors);
        std::mem::take(&mut self.of_request).into_iter().chain(of_items).collect()
    }

    pub(super) fn rejected(&self) -> usize {
        self.items.iter().filter(|outcome| matches!(outcome, ItemOutcome::Rejected(_))).count()
    }

    pub(super) fn count(&self) -> ItemCounts {
        let mut counts = ItemCounts::default();
        for outcome in &self.items {
            match outcome {
                ItemOutcome::Rejected(_) => counts.rejected += 1,
                ItemOutcome::Accepted(_, None) => counts.queued += 1,
                ItemOutcome::Accepted(_, Some(receipt)) => match receipt.outcome {
                    Outcome::Stored => counts.stored += 1,
                    Outcome::Duplicate => counts.duplicates += 1,
                    Outcome::Conflict => counts.conflicts += 1,
                },
            }
        }
        counts
    }
}

/// How many items had each outcome.
#[derive(Default)]
pub(super) struct ItemCounts {
    pub(super) stored: usize,
    pub(super) duplicates: usize,
    pub(super) conflicts: usize,
    pub(super) rejected: usize,
    pub(super) queued: usize,
}
