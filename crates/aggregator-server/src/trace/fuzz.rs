//! Checks of the parser of `traceparent`: see [`crate::fuzz`].

use super::context::TraceParent;

/// The value of a header `traceparent`.
pub fn trace_parent(data: &[u8]) {
    let Some(parent) = TraceParent::parse(data) else { return };
    let text = parent.context.to_string();
    assert!(text.as_bytes()[3..53] == data[3..53], "the ids are others: {text}");
    let again = TraceParent::parse(text.as_bytes());
    assert!(again.is_some_and(|again| again.context == parent.context && again.is_sampled));
    assert!(!data.starts_with(b"ff"));
    assert!(data.len() == 55 || !data.starts_with(b"00"));
}
