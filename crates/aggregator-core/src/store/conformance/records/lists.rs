//! Lists: by prefix, in the order of bytes, page by page.

use super::super::{Backend, Case, CaseOptions, assert_sound, cases};
use super::{KIND, create, records, written};
use crate::DedupStore;
use crate::store::records::{
    MAX_RECORD_VALUE_BYTES, MAX_RECORDS_PER_CALL, MAX_VALUE_BYTES_PER_CALL, RecordWrite,
};

pub(in crate::store::conformance) const CASES: &[Case] = cases![
    a_list_is_in_the_order_of_bytes,
    a_prefix_is_text_and_not_a_pattern,
    a_list_goes_on_after_any_name,
    pages_of_any_size_give_the_same_list,
    a_list_ends_where_its_values_are_many_bytes,
];

/// In the order of their bytes, which is neither that of a language nor that of UTF-16.
const NAMES: [&str; 24] = [
    " ",
    "%",
    "%a",
    "A",
    "B",
    "Z",
    "_",
    "_a",
    "a",
    "a%",
    "a%b",
    "a_",
    "a_b",
    "aXb",
    "aa",
    "b",
    "b%",
    "e\u{301}",
    "z",
    "é",
    "ß",
    "日",
    "\u{ffff}",
    "\u{10000}",
];

fn filled(store: &dyn DedupStore) -> Vec<&'static str> {
    let mut names = NAMES.to_vec();
    names.sort_unstable();
    // In another order than the list has, and with neighbours of other kinds.
    let (later, earlier) = names.split_at(names.len() / 2);
    for name in earlier.iter().chain(later).rev() {
        let of = |kind: &str| RecordWrite::create(kind, *name, "");
        written(store, &[of("leas"), create(name, ""), of("leases"), of("lease-")]);
    }
    names
}

fn list(store: &dyn DedupStore, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
    let listed = records(store).list(KIND, prefix, after, limit).expect("a healthy store lists records");
    assert!(listed.iter().all(|record| record.kind == KIND));
    listed.into_iter().map(|record| record.name).collect()
}

fn expected<'n>(names: &[&'n str], prefix: &str, after: Option<&str>, limit: usize) -> Vec<&'n str> {
    let is_listed = |name: &&&str| name.starts_with(prefix) && after.is_none_or(|after| **name > after);
    names.iter().filter(is_listed).take(limit).copied().collect()
}

fn a_list_is_in_the_order_of_bytes(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    assert_eq!(list(&*store, "", None, 100), [""; 0]);
    let names = filled(&*store);
    assert_eq!(list(&*store, "", None, 100), names);
    assert_sound(&*store);
}

fn a_prefix_is_text_and_not_a_pattern(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let names = filled(&*store);
    let others = ["a%b%", "c", "e", "\u{301}", "\u{10ffff}", "a\0", "\0", "*", "a*", "?", "[a]", "\\", "'"];
    for prefix in names.iter().chain(&others) {
        assert_eq!(list(&*store, prefix, None, 100), expected(&names, prefix, None, 100), "{prefix:?}");
    }
    assert_eq!(list(&*store, "a%", None, 100), ["a%", "a%b"]);
    assert_eq!(list(&*store, "a_", None, 100), ["a_", "a_b"]);
    let long = "a".repeat(10_000);
    assert_eq!(list(&*store, &long, None, 100), [""; 0]);
}

fn a_list_goes_on_after_any_name(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let names = filled(&*store);
    let others = ["", "a\u{0}", "a%a", "aaa", "c", "\u{10ffff}"];
    for prefix in ["", "a", "a%", "b", "é"] {
        for after in names.iter().chain(&others) {
            for limit in [1, 2, 100] {
                assert_eq!(
                    list(&*store, prefix, Some(after), limit),
                    expected(&names, prefix, Some(after), limit),
                    "{prefix:?} after {after:?}"
                );
            }
        }
    }
}

fn pages_of_any_size_give_the_same_list(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let names = filled(&*store);
    for prefix in ["", "a", "z", "none"] {
        for limit in [1, 2, 5, 24, 1_000] {
            let mut listed: Vec<String> = Vec::new();
            loop {
                let page = list(&*store, prefix, listed.last().map(String::as_str), limit);
                assert!(page.len() <= limit);
                listed.extend(page.iter().cloned());
                if page.len() < limit {
                    break;
                }
            }
            assert_eq!(listed, expected(&names, prefix, None, usize::MAX), "{prefix:?} by {limit}");
        }
    }
}

fn a_list_ends_where_its_values_are_many_bytes(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    let at_once = MAX_VALUE_BYTES_PER_CALL / MAX_RECORD_VALUE_BYTES;
    let value = vec![b'x'; MAX_RECORD_VALUE_BYTES];
    let names: Vec<_> = (0..at_once + 2).map(|n| format!("{n:03}")).collect();
    for names in names.chunks(at_once) {
        let writes: Vec<_> =
            names.iter().map(|name| RecordWrite::create(KIND, name, value.clone())).collect();
        written(&*store, &writes);
    }
    let first = list(&*store, "", None, MAX_RECORDS_PER_CALL);
    assert_eq!(first, names[..at_once]);
    assert_eq!(list(&*store, "", Some(&first[at_once - 1]), MAX_RECORDS_PER_CALL), names[at_once..]);
    assert_eq!(list(&*store, "", Some(&names[at_once + 1]), MAX_RECORDS_PER_CALL), [""; 0]);
}
