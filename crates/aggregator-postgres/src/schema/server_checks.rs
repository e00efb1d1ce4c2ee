//! Checks of the server and the database when a store is opened. Some faults are refused, others only warned of.

use aggregator_core::StoreError;

use crate::columns::get;
use crate::connection::session::Session;
use crate::fault::{Result, unavailable};

/// Refuses a database whose encoding is not UTF-8. It cannot hold every text, and a text can have another length in
/// bytes, by which payloads are compared.
pub(super) async fn check_encoding(session: &Session) -> Result<()> {
    let row = session.client.query_one("SELECT current_setting('server_encoding', true)", &[]).await?;
    match get::<Option<&str>>(&row, 0)? {
        Some(encoding) if !encoding.eq_ignore_ascii_case("UTF8") => {
            let reason = format!("is {encoding}: use a database that was created with ENCODING 'UTF8'");
            Err(StoreError::invalid("server_encoding", reason).into())
        }
        // An engine that does not show its encoding has only UTF-8.
        _ => Ok(()),
    }
}

/// Warns of settings that the engine does not show, and of one that the operator may not have intended. Settings that
/// lose acknowledged events are refused by every new session.
pub(super) async fn check_settings(session: &Session, warnings: &mut Vec<String>) -> Result<()> {
    for name in ["fsync", "full_page_writes"] {
        if setting(session, name).await?.is_none() {
            warnings.push(format!("the engine does not show {name}: make sure that commits are durable"));
        }
    }
    // Rows have no checksums of their own, unlike those of the SQLite store.
    if setting(session, "data_checksums").await?.as_deref() == Some("off") {
        let what = "data_checksums is off on the server: it will not notice if the disk changes stored data";
        warnings.push(what.to_owned());
    }
    Ok(())
}

/// The value of a setting; `None` if the engine does not show it.
async fn setting(session: &Session, name: &str) -> Result<Option<String>> {
    get(&session.client.query_one("SELECT current_setting($1, true)", &[&name]).await?, 0)
}

pub(super) async fn check_standby(session: &Session) -> Result<()> {
    let row = session
        .client
        .query_one(
            "SELECT current_setting('synchronous_standby_names'),
                    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum')),
                    (SELECT count(*) FROM pg_stat_replication WHERE sync_state IS NULL)",
            &[],
        )
        .await?;
    let (names, synchronous, hidden): (&str, i64, i64) = (get(&row, 0)?, get(&row, 1)?, get(&row, 2)?);
    if names.is_empty() {
        let reason = "a synchronous standby is required, but synchronous_standby_names is empty";
        return Err(unavailable(reason).into());
    }
    if synchronous == 0 && hidden > 0 {
        let reason = "a synchronous standby is required, but the role may not see one: grant it pg_monitor";
        return Err(unavailable(reason).into());
    }
    if synchronous == 0 {
        let reason = "a synchronous standby is required, but none is connected";
        return Err(unavailable(reason).into());
    }
    Ok(())
}
