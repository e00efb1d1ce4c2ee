//! The fates of a request's items, and how they are told.

use aggregator_core::{Batch, Outcome, Receipt, Timestamp};
use axum::response::Response;
use hyper::StatusCode;
use hyper::header::HeaderValue;
use serde::Serialize;

use crate::problem::ItemError;
use crate::routes::json_with;

/// What became of one item.
enum Fate {
    /// It is the batch's event with this index; it was queued, or has a receipt.
    Accepted(usize, Option<Receipt>),
    /// With everything that is wrong with it.
    Rejected(Vec<ItemError>),
}

/// What became of each item of a request, by its place in the request.
pub(super) struct Fates {
    items: Vec<Fate>,
    /// The place in the request of each event of the batch.
    places: Vec<usize>,
}

impl Fates {
    /// Of `received` items, of which those with `errors` did not get into the batch.
    pub(super) fn new(received: usize, errors: Vec<ItemError>) -> Self {
        let mut fates = Self { items: Vec::with_capacity(received), places: Vec::with_capacity(received) };
        let mut errors = errors.into_iter().peekable();
        for place in 0..received {
            let mut own = Vec::new();
            while let Some(error) = errors.next_if(|error| error.index == Some(place)) {
                own.push(error);
            }
            if own.is_empty() {
                fates.items.push(Fate::Accepted(fates.places.len(), None));
                fates.places.push(place);
            } else {
                fates.items.push(Fate::Rejected(own));
            }
        }
        fates
    }

    /// These events of the batch have these receipts.
    pub(super) fn decided(&mut self, indices: &[u32], receipts: &[Receipt]) {
        for (&index, &receipt) in indices.iter().zip(receipts) {
            let index = index as usize;
            self.items[self.places[index]] = Fate::Accepted(index, Some(receipt));
        }
    }

    /// The store refused these events of the batch.
    pub(super) fn refused(&mut self, errors: Vec<ItemError>) {
        for mut error in errors {
            let Some(index) = error.index else { continue };
            let place = self.places[index];
            error.index = Some(place);
            match &mut self.items[place] {
                Fate::Rejected(errors) => errors.push(error),
                fate => *fate = Fate::Rejected(vec![error]),
            }
        }
    }

    /// Everything that is wrong with the request's items, by their places.
    pub(super) fn take_errors(&mut self) -> Vec<ItemError> {
        let errors = |fate| match fate {
            Fate::Rejected(errors) => errors,
            Fate::Accepted(..) => Vec::new(),
        };
        std::mem::take(&mut self.items).into_iter().flat_map(errors).collect()
    }

    pub(super) fn rejected(&self) -> usize {
        self.items.iter().filter(|fate| matches!(fate, Fate::Rejected(_))).count()
    }

    fn count(&self, outcome: Outcome) -> usize {
        let is =
            |fate: &&Fate| matches!(fate, Fate::Accepted(_, Some(receipt)) if receipt.outcome == outcome);
        self.items.iter().filter(is).count()
    }
}

/// Everything a reply is made of.
pub(super) struct Reply<'a> {
    pub(super) fates: &'a Fates,
    pub(super) batch: &'a Batch,
    pub(super) single: bool,
    pub(super) received_at: Timestamp,
    pub(super) durability: &'static str,
    /// Whether it was answered before the commit.
    pub(super) queued: bool,
    pub(super) results: bool,
    pub(super) preference_applied: bool,
}

#[derive(Serialize)]
struct ReplyBody<'a> {
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    received: usize,
    stored: usize,
    duplicates: usize,
    conflicts: usize,
    rejected: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    queued: Option<usize>,
    durability: &'static str,
    received_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    results: Option<Vec<ResultBody<'a>>>,
}

#[derive(Serialize)]
struct ResultBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_id: Option<&'a str>,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    processed_at: Option<String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [ItemError],
}

pub(super) fn render(reply: &Reply<'_>) -> Response {
    let (batch, fates) = (reply.batch, reply.fates);
    let result = |fate| match fate {
        &Fate::Accepted(index, receipt) => ResultBody {
            topic: Some(batch.event(index).topic()),
            event_id: Some(batch.event(index).event_id()),
            outcome: receipt.map_or("queued", |receipt| word(receipt.outcome)),
            seq: receipt.and_then(|receipt| receipt.seq),
            processed_at: receipt.map(|receipt| receipt.processed_at.to_string()),
            errors: &[],
        },
        Fate::Rejected(errors) => ResultBody {
            topic: None,
            event_id: None,
            outcome: "rejected",
            seq: None,
            processed_at: None,
            errors,
        },
    };
    let body = ReplyBody {
        status: "accepted",
        event_id: match fates.items.as_slice() {
            [Fate::Accepted(index, _)] if reply.single => Some(batch.event(*index).event_id()),
            _ => None,
        },
        received: fates.items.len(),
        stored: fates.count(Outcome::Stored),
        duplicates: fates.count(Outcome::Duplicate),
        conflicts: fates.count(Outcome::Conflict),
        rejected: fates.rejected(),
        queued: reply.queued.then(|| fates.items.len() - fates.rejected()),
        durability: reply.durability,
        received_at: reply.received_at.to_string(),
        results: reply.results.then(|| fates.items.iter().map(result).collect()),
    };
    let mut response = json_with(StatusCode::ACCEPTED, &body);
    if reply.preference_applied {
        let applied = HeaderValue::from_static("respond-async");
        response.headers_mut().insert("preference-applied", applied);
    }
    response
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Stored => "stored",
        Outcome::Duplicate => "duplicate",
        Outcome::Conflict => "conflict",
    }
}
