//! Checks of the parsers of outside bytes: each function hands an input, whatever it is, to a parser, and panics if the
//! parser breaks a promise. The fuzz targets in `fuzz/` call them, and so does a test with every stored input.
//!
//! A checksum keeps a fuzzer out of what lies behind it. So where an input has one, the input is tried a second time with
//! the checksum that fits.

#[cfg(feature = "sqlite")]
mod index;

use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

#[cfg(feature = "sqlite")]
pub use self::index::{index_chunk, index_manifest, index_section};
use crate::event::SLOTS;
use crate::{
    Cursor, DedupStore as _, DedupStoreExt as _, Event, InvalidField, MemoryStore, Partitions, Query,
    StoreError, Timestamp, TopicSelector, Topics,
};

#[cfg(test)]
fuzz_corpus::corpus_tests!(cursor_text, payload, timestamp, topics);

/// The text form of a cursor, as a reader hands it back; and the bytes of one, with the checksum that fits.
pub fn cursor_text(data: &[u8]) {
    if let Ok(text) = str::from_utf8(data) {
        check_cursor(text);
    }
    let checksum = xxh3_64(data).to_be_bytes();
    // Format 1 has all of it.
    let checksum = if data.first() == Some(&1) { &checksum[..] } else { &checksum[4..] };
    check_cursor(&URL_SAFE_NO_PAD.encode([data, checksum].concat()));
}

fn check_cursor(text: &str) {
    let cursor: Cursor = match text.parse() {
        Ok(cursor) => cursor,
        Err(error) => return check_fault(&error, "after"),
    };
    let shown = cursor.to_string();
    assert!(shown.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)), "{shown}");
    assert_eq!(shown.parse().as_ref(), Ok(&cursor), "it is not read as it is written");
    let positions = &cursor.positions;
    assert!(positions.len() <= usize::from(SLOTS), "a store has at most {SLOTS} partitions");
    assert!(positions.is_sorted_by_key(|position| position.partition), "{cursor:?}");
    let is_short = positions
        .iter()
        .zip(0..16)
        .all(|(position, n)| (position.partition.0, position.horizon) == (n, 0) && position.offset < 1 << 28);
    assert!(!is_short || positions.len() > 16 || shown.len() <= 128, "{shown} is longer than promised");
    check_read_after(cursor);
}

/// Whoever knows a store's id and a query can make a cursor up: it leads to a page or an error, and to nothing else.
fn check_read_after(mut cursor: Cursor) {
    static STORE: LazyLock<MemoryStore> = LazyLock::new(|| {
        let store = MemoryStore::new(Partitions::new(2).expect("it is between 1 and 1,024"));
        for n in 0..4 {
            let event = Event::new(format!("t{n}"), "id").expect("they are good names");
            store.append_one(&event).expect("the memory has room");
        }
        store
    });
    let mut query = Query { order: cursor.order, ..Query::of(TopicSelector::All) };
    cursor.store = STORE.info().id.hash();
    cursor.filter = query.filter_hash();
    query.after = Some(cursor);
    let next = match STORE.read(&query) {
        Ok(page) => page.next,
        Err(StoreError::Expired { oldest }) => oldest,
        Err(StoreError::WrongCursor(wrong)) => return assert!(!wrong.to_string().is_empty()),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(next.to_string().parse(), Ok(next));
}

/// Topics and patterns, with commas between them.
pub fn topics(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let topics: Topics = match text.parse() {
        Ok(topics) => topics,
        Err(error) => return check_fault(&error, "topic"),
    };
    assert_eq!(topics.to_string().parse().as_ref(), Ok(&topics), "it is not read as it is written");
    let selectors = topics.selectors();
    assert!((1..=Topics::MAX).contains(&selectors.len()));
    for (n, selector) in selectors.iter().enumerate() {
        let others = selectors[..n].iter().chain(&selectors[n + 1..]);
        assert!(
            !others.into_iter().any(|other| other.includes(selector)),
            "{selector} is in twice: {topics}"
        );
        let named = match selector {
            TopicSelector::All => "any".to_owned(),
            TopicSelector::Exact(topic) => topic.to_string(),
            TopicSelector::Below(topic) => format!("{topic}.below"),
        };
        assert!(topics.matches(&named), "{topics} leaves {named} out");
        let (low, high) = selector.names();
        assert!(
            (low.as_str()..high.as_str()).contains(&named.as_str()),
            "{named} is not in the range of names"
        );
    }
}

/// RFC 3339.
pub fn timestamp(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let at: Timestamp = match text.parse() {
        Ok(at) => at,
        Err(error) => return check_fault(&error, "timestamp"),
    };
    assert!(text.len() <= 64, "it is longer than 64 bytes");
    let shown = at.to_string();
    assert_eq!(shown.len(), "2026-01-01T00:00:00.000001Z".len(), "{shown}");
    assert_eq!(shown.parse(), Ok(at));
    assert_eq!(Timestamp::from_micros(at.as_micros()), at);
    Event::new("t", "1").and_then(|event| event.with_timestamp(text)).expect("an event takes it as well");
}

/// The payload of an event: any JSON.
pub fn payload(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let event = || Event::new("t", "1").expect("they are good names");
    let compact = match event().with_payload(text) {
        Ok(event) => event.view().payload().to_owned(),
        Err(error) => return check_fault(&error, "payload"),
    };
    assert!(compact.len() <= text.len());
    let again = event().with_payload(&compact).expect("what was taken is taken again");
    assert_eq!(again.view().payload(), compact, "it is not compact");
    assert!(!has_white_space(&compact), "white space is left: {compact}");
    // Another parser, which also refuses some JSON, such as numbers that are too large.
    if let Ok(value) = serde_json::from_str::<serde_json::Value>(text) {
        assert_eq!(serde_json::from_str(&compact).ok(), Some(value), "{compact} says something else");
    }
}

/// Whether there is white space outside of the strings of some JSON.
fn has_white_space(json: &str) -> bool {
    let (mut is_string, mut is_escaped) = (false, false);
    json.bytes().any(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => is_string = !is_string,
            _ => return !is_string && byte.is_ascii_whitespace(),
        }
        false
    })
}

fn check_fault(error: &InvalidField, field: &str) {
    assert_eq!(error.field, field);
    assert!(!error.reason.is_empty());
}
