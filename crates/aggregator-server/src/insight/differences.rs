//! Where a conflicting event differs from the stored one with its identity.

use std::collections::BTreeMap;

use aggregator_core::StoredEvent;
use serde::Serialize;
use serde_json::value::RawValue;

use super::latest::Repeat;

/// The most fields of a payload that are named.
const MAX_FIELDS: usize = 20;

/// The most characters of a value that are shown.
const MAX_VALUE_CHARS: usize = 120;

/// How deep payloads are compared; what is deeper is one value.
const MAX_DEPTH: usize = 8;

/// A field that differs, such as `payload.order.amount`, and the text of both values, cut after some characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Difference {
    field: String,
    /// `null` where the stored event has no such field.
    stored: Option<String>,
    /// `null` where the one that was sent has none.
    sent: Option<String>,
}

/// The fields that differ, at most [`MAX_FIELDS`]. Values are compared as they are written: `1.0` and `1` differ.
pub(super) fn find(stored: &StoredEvent, sent: &Repeat, payload: &str) -> Vec<Difference> {
    let mut found = of_payloads(&stored.payload, payload);
    for (field, stored, sent) in
        [("source", &*stored.source, &*sent.source), ("timestamp", &*stored.timestamp, &*sent.timestamp)]
    {
        if stored != sent {
            found.push(Difference {
                field: field.to_owned(),
                stored: Some(cut(stored)),
                sent: Some(cut(sent)),
            });
        }
    }
    found
}

fn of_payloads(stored: &str, sent: &str) -> Vec<Difference> {
    let mut found = Vec::new();
    compare("payload", Some(stored), Some(sent), 0, &mut found);
    found
}

type Object<'a> = BTreeMap<String, &'a RawValue>;

fn compare(field: &str, stored: Option<&str>, sent: Option<&str>, depth: usize, found: &mut Vec<Difference>) {
    if stored == sent || found.len() == MAX_FIELDS {
        return;
    }
    if depth < MAX_DEPTH
        && let (Some(stored), Some(sent)) = (stored, sent)
        && let (Some(stored), Some(sent)) = (object_of(stored), object_of(sent))
    {
        let mut names: Vec<_> = stored.keys().chain(sent.keys()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            let (stored, sent) = (stored.get(name), sent.get(name));
            let (stored, sent) = (stored.map(|value| value.get()), sent.map(|value| value.get()));
            compare(&format!("{field}.{name}"), stored, sent, depth + 1, found);
        }
        return;
    }
    found.push(Difference { field: cut(field), stored: stored.map(cut), sent: sent.map(cut) });
}

fn object_of(text: &str) -> Option<Object<'_>> {
    serde_json::from_str(text).ok()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(MAX_VALUE_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(stored: &str, sent: &str) -> Vec<(String, Option<String>, Option<String>)> {
        of_payloads(stored, sent).into_iter().map(|of| (of.field, of.stored, of.sent)).collect()
    }

    #[test]
    fn the_fields_that_differ_are_named_with_both_values() {
        let stored = r#"{"amount":10.00,"lines":[1,2],"to":{"name":"a","city":"b"},"gone":null}"#;
        let sent = r#"{"amount":10.0,"lines":[1,3],"to":{"name":"a","city":"c"},"new":9007199254740993}"#;
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(
            found(stored, sent),
            [
                ("payload.amount".into(), some("10.00"), some("10.0")),
                ("payload.gone".into(), some("null"), None),
                ("payload.lines".into(), some("[1,2]"), some("[1,3]")),
                ("payload.new".into(), None, some("9007199254740993")),
                ("payload.to.city".into(), some(r#""b""#), some(r#""c""#)),
            ]
        );
        assert_eq!(found("1e400", "{}"), [("payload".into(), some("1e400"), some("{}"))]);
        assert_eq!(found("{}", "{}"), []);
    }

    #[test]
    fn large_payloads_make_small_answers() {
        let many = |value: &str| {
            let fields: Vec<_> = (0..1_000).map(|n| format!(r#""{n}":"{}""#, value.repeat(500))).collect();
            format!("{{{}}}", fields.join(","))
        };
        let found = of_payloads(&many("a"), &many("ü"));
        assert_eq!(found.len(), MAX_FIELDS);
        assert!(found.iter().all(|of| of.sent.as_ref().unwrap().chars().count() == MAX_VALUE_CHARS + 1));
        let deep = |value| format!("{}{value}{}", r#"{"a":"#.repeat(100), "}".repeat(100));
        assert_eq!(of_payloads(&deep(1), &deep(2))[0].field, format!("payload{}", ".a".repeat(MAX_DEPTH)));
    }
}
