//! Keys and their changes, for people.

use crate::auth::registry::{AuditEntry, KeyInfo};

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
        return "no key was ever made or revoked\n".into();
    }
    let row = |change: &AuditEntry| {
        let key = &change.key;
        vec![
            change.at.clone(),
            change.action.clone(),
            change.by.clone(),
            key.id.clone(),
            key.name.clone(),
            key.scopes.join(" "),
        ]
    };
    aligned(["AT", "CHANGE", "BY", "ID", "NAME", "SCOPES"], changes.iter().map(row))
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
            key: key("0123456789ab", "x", None),
        };
        let shown = changes(&[change]);
        assert!(
            shown.contains("2026-01-02T03:04:05.000000Z  key-revoked  admin-socket  0123456789ab  x "),
            "{shown}"
        );
    }
}
