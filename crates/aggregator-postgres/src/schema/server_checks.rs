//! Checks of the server and the database when a store is opened: what is refused, and what is warned of.

use aggregator_core::StoreError;

use crate::columns::get;
use crate::connection::session::Session;
use crate::fault::{Result, unavailable};

/// Refuses a database that keeps text in another encoding: not all that is sent can be kept there, and what can has
/// another length, by which payloads are compared.
pub(super) async fn check_encoding(session: &Session) -> Result<()> {
    let row = session.client.query_one("SELECT current_setting('server_encoding', true)", &[]).await?;
    match get::<Option<&str>>(&row, 0)? {
        Some(encoding) if !encoding.eq_ignore_ascii_case("UTF8") => {
            let reason = format!("is {encoding}: use a database that was created with ENCODING 'UTF8'");
            Err(StoreError::invalid("server_encoding", reason).into())
        }
        // Or it does not say: other engines know no other.
        _ => Ok(()),
    }
}

/// Whether it is PostgreSQL itself, with all partitions in one place. An engine that spreads them would commit in two
/// phases, and cannot lock rows of several of them at once, or not in an order.
pub(super) async fn is_one_server(session: &Session) -> Result<bool> {
    let row = session.client.query_one("SELECT version()", &[]).await?;
    let version: &str = get(&row, 0)?;
    // YugabyteDB says `PostgreSQL 15.2-YB-…`, Greenplum `PostgreSQL 12.12 (Greenplum Database …`, and CockroachDB its
    // own name.
    if !version.starts_with("PostgreSQL ") || ["-YB-", "Greenplum"].iter().any(|name| version.contains(name))
    {
        return Ok(false);
    }
    match session.client.query("SELECT FROM pg_extension WHERE extname = 'citus'", &[]).await {
        Ok(citus) => Ok(citus.is_empty()),
        // Without extensions it is something else.
        Err(error) if error.as_db_error().is_some() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Every new session refuses settings that lose what was acknowledged; here is said what does not show, and what the
/// operator may not have meant.
pub(super) async fn check_settings(session: &Session, warnings: &mut Vec<String>) -> Result<()> {
    for name in ["fsync", "full_page_writes"] {
        if setting(session, name).await?.is_none() {
            warnings.push(format!("the engine does not show {name}: see to it that commits are durable"));
        }
    }
    // Rows have no sums of their own, as they have over SQLite.
    if setting(session, "data_checksums").await?.as_deref() == Some("off") {
        let what =
            "data_checksums is off on the server: it will not notice if the disk changes what was stored";
        warnings.push(what.to_owned());
    }
    Ok(())
}

/// None if the engine does not show it.
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
        let reason = "a synchronous standby is required, and synchronous_standby_names is empty";
        return Err(unavailable(reason).into());
    }
    if synchronous == 0 && hidden > 0 {
        let reason = "a synchronous standby is required, and the role may not see one: grant it pg_monitor";
        return Err(unavailable(reason).into());
    }
    if synchronous == 0 {
        let reason = "a synchronous standby is required, and none is connected";
        return Err(unavailable(reason).into());
    }
    Ok(())
}
