//! Keys and their changes, for people.

use crate::auth::audit::{AmendedEvents, AuditEntry, State};
use crate::auth::registry::KeyInfo;

pub(super) fn keys(keys: &[KeyInfo]) -> String {
    if keys.is_empty() {
        return "there are no keys\n".into();
    }
    let row = |key: &KeyInfo| {
        vec![
            key.id.clone(),
            key.name.clone(),
            key.scopes.join(" "),
            short(Some(&key.created_at)),
            short(key.expires_at.as_ref()),
            short(key.last_used_at.as_ref()),
        ]
    };
    aligned(["ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED"], keys.iter().map(row))
}

pub(super) fn changes(changes: &[AuditEntry]) -> String {
    if changes.is_empty() {
        return "no key was ever made or revoked, and no event erased or released\n".into();
    }
    let row = |change: &AuditEntry| {
        let mut row = vec![change.at.clone(), change.action.clone(), change.by.clone()];
        row.extend(match (&change.key, &change.events) {
            (Some(key), _) => [key.id.clone(), key.name.clone(), key.scopes.join(" ")],
            (None, Some(events)) => {
                ["-".into(), events.reason.clone().unwrap_or_else(|| "-".into()), amended(events)]
            }
            (None, None) => ["-", "-", "-"].map(str::to_owned),
        });
        row
    };
    aligned(["AT", "CHANGE", "BY", "KEY", "NAME OR REASON", "SCOPES OR EVENTS"], changes.iter().map(row))
}

/// How it went, and what it was about: a few identities, as `--json` has all of them.
fn amended(events: &AmendedEvents) -> String {
    const NAMED: usize = 3;
    let count = events.count;
    let state = match (events.state, events.found) {
        (State::Begun, _) => "begun, not ended".into(),
        (State::Done, found) => format!("done, {} of {count} found", found.unwrap_or(0)),
        (State::Failed, _) => "failed".into(),
    };
    let named = events.identities.iter().take(NAMED).map(|id| match &id.source {
        Some(source) => {
            format!("{} {} of {}", id.topic, id.event_id.escape_debug(), source.escape_debug())
        }
        None => format!("{} {}", id.topic, id.event_id.escape_debug()),
    });
    let mut named: Vec<_> = named.collect();
    if count > named.len() {
        named.push(format!("{} more", count - named.len()));
    }
    format!("{state}: {}", named.join(", "))
}

/// A time to the minute; a dash if there is none.
fn short(time: Option<&String>) -> String {
    time.map_or("-".into(), |time| time.get(..16).map_or(time.clone(), |minute| format!("{minute}Z")))
}

/// Columns as wide as their widest cell.
fn aligned<const N: usize>(head: [&str; N], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = vec![head.map(str::to_owned).to_vec()];
    table.extend(rows);
    let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..N).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    table.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::RateLimits;
    use serde_json::json;

    fn key(id: &str, name: &str, expires_at: Option<&str>) -> KeyInfo {
        KeyInfo {
            id: id.into(),
            name: name.into(),
            scopes: vec!["publish:a.*".into(), "read:*".into()],
            created_at: "2026-01-02T03:04:05.000000Z".into(),
            expires_at: expires_at.map(str::to_owned),
            last_used_at: None,
            limits: RateLimits::default(),
        }
    }

    #[test]
    fn columns_are_aligned() {
        let shown = keys(&[
            key("0123456789ab", "füür", None),
            key("ab0123456789", "orders service", Some("2027-01-02T03:04:05Z")),
        ]);
        let wanted = "\
ID            NAME            SCOPES              CREATED            EXPIRES            LAST USED
0123456789ab  füür            publish:a.* read:*  2026-01-02T03:04Z  -                  -
ab0123456789  orders service  publish:a.* read:*  2026-01-02T03:04Z  2027-01-02T03:04Z  -
";
        assert_eq!(shown, wanted);
        assert_eq!(keys(&[]), "there are no keys\n");
    }

    #[test]
    fn a_change_says_who_made_it() {
        let change = AuditEntry {
            at: "2026-01-02T03:04:05.000000Z".into(),
            action: "key-revoked".into(),
            by: "admin-socket".into(),
            key: Some(key("0123456789ab", "x", None)),
            events: None,
        };
        let events = json!({
            "count": 5, "identities": [{"topic": "t", "event_id": "1", "source": "s"}, {"topic": "t", "event_id": "2"}],
            "not_named": 3, "reason": "a request", "state": "done", "found": 4
        });
        let erased = AuditEntry {
            action: "erase".into(),
            key: None,
            events: Some(serde_json::from_value(events).unwrap()),
            ..change.clone()
        };
        let shown = changes(&[change, erased]);
        assert!(
            shown.ends_with("-             a request       done, 4 of 5 found: t 1 of s, t 2, 3 more\n"),
            "{shown}"
        );
        assert!(
            shown.contains("2026-01-02T03:04:05.000000Z  key-revoked  admin-socket  0123456789ab  x "),
            "{shown}"
        );
    }
}
