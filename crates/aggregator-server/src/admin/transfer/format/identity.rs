//! The lines of a list of identities.

use aggregator_core::Timestamp;
use aggregator_core::event::{CheckedRow, Kept, StoredRow};
use serde::Deserialize;

use super::{fault_list, parse_scope, parse_time};

/// Reads a line of a list of identities. An identity without a time gets `now`.
pub(in crate::admin::transfer) fn read_identity(line: &[u8], now: Timestamp) -> Result<CheckedRow, String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Id {
        topic: String,
        event_id: String,
        scope: Option<String>,
        source: Option<String>,
        processed_at: Option<String>,
    }
    let id: Id = serde_json::from_slice(line).map_err(|error| {
        format!(
            "is not an identity: {error}. Say topic and event_id, and if need be source, scope, processed_at"
        )
    })?;
    let row = StoredRow {
        topic: id.topic,
        scope: id.scope.as_deref().map(parse_scope).transpose()?,
        event_id: id.event_id,
        source: id.source,
        processed_at: id.processed_at.as_deref().map_or(Ok(now), parse_time)?,
        released: false,
        kept: Kept::Identity,
    };
    row.check().map_err(|faults| fault_list(&faults))
}

#[cfg(test)]
mod tests {
    use aggregator_core::Scope;

    use super::*;

    #[test]
    fn what_a_list_of_identities_may_say() {
        let now = Timestamp::from_micros(5);
        let read = |line: &str| read_identity(line.as_bytes(), now);
        let id = read(r#"{"topic":"t","event_id":"1"}"#).unwrap();
        assert_eq!((id.processed_at, id.scope, id.seq()), (now, None, None));
        let line = r#"{"event_id":"1","topic":"t","source":"x","scope":"source","processed_at":"2026-01-01T01:00:00+01:00"}"#;
        let id = read(line).unwrap();
        assert_eq!((id.source(), id.scope), ("x", Some(Scope::Source)));
        assert_eq!(id.processed_at.to_string(), "2026-01-01T00:00:00.000000Z");
        for (line, part) in [
            ("", "is not an identity"),
            (r#"{"topic":"t"}"#, "event_id"),
            (r#"{"topic":"t","event_id":"1","payload":{}}"#, "payload"),
            (r#"{"topic":"t..","event_id":"1"}"#, "topic: "),
            (r#"{"topic":"t","event_id":"1","scope":"x"}"#, "scope: "),
            (r#"{"topic":"t","event_id":"1","processed_at":"x"}"#, "processed_at: "),
        ] {
            let refused = read(line).unwrap_err();
            assert!(refused.contains(part), "{line}: {refused}");
        }
    }
}
