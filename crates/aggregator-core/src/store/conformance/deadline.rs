//! Reads whose caller waits only so long.

use std::time::Duration;

use super::{Backend, Case, CaseOptions, append_one, cases, event, identity, query};
use crate::store::DedupStore;
use crate::{Deadline, Outcome, StoreError, TopicQuery};

pub(super) const CASES: &[Case] = cases![
    a_read_that_begins_after_its_deadline_is_refused_and_the_next_one_is_served,
    a_read_before_its_deadline_is_served,
    an_append_takes_no_notice_of_a_deadline,
];

/// Every kind of read there is.
fn reads(store: &dyn DedupStore) -> [(&'static str, Result<(), StoreError>); 5] {
    [
        ("a page of all", store.read(&query("*")).map(drop)),
        ("a page of a topic", store.read(&query("t")).map(drop)),
        ("lookup", store.lookup(&[identity("t", "1")]).map(drop)),
        ("topics", store.topics(&TopicQuery::default()).map(drop)),
        ("stats", store.stats().map(drop)),
    ]
}

fn a_read_that_begins_after_its_deadline_is_refused_and_the_next_one_is_served(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &event("t", "1"));
    // More often than there are connections: a refused read gives its connection back.
    for _ in 0..10 {
        for (what, read) in Deadline::after(Duration::ZERO).scope(|| reads(&*store)) {
            let error = read.expect_err(what);
            assert!(error.is_retryable() && error.to_string().contains("deadline"), "{what}: {error}");
        }
    }
    for (what, read) in reads(&*store) {
        read.expect(what);
    }
}

fn a_read_before_its_deadline_is_served(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    append_one(&*store, &event("t", "1"));
    for time in [Duration::from_secs(600), Duration::MAX] {
        for (what, read) in Deadline::after(time).scope(|| reads(&*store)) {
            read.expect(what);
        }
    }
}

fn an_append_takes_no_notice_of_a_deadline(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let receipt = Deadline::after(Duration::ZERO).scope(|| append_one(&*store, &event("t", "1")));
    assert_eq!(receipt.outcome, Outcome::Stored);
}
