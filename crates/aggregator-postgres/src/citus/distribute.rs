//! Distributes new tables over the servers of a Citus cluster.

use aggregator_core::StoreError;
use tracing::info;

use crate::columns::get;
use crate::connection::engine::Engine;
use crate::connection::session::Session;
use crate::fault::Result;

/// The tables whose keys begin with the partition. The first one is distributed first, and the others go along with it.
const TABLES: [&str; 5] = ["partitions", "topics", "events", "appends", "forgotten"];

/// How many partitions a new store gets by default. Shards get partitions by a hash, so there have to be several for each
/// server. Sixteen did better on three servers than sixty-four.
pub(crate) const DEFAULT_PARTITIONS: u16 = 16;

/// The first version whose servers begin a transaction with the isolation that the coordinator was told. Before it, a page
/// is not of one moment.
const FIRST_VERSION: (u32, u32) = (11, 2);

/// Refuses versions of the extension that are too old.
pub(crate) async fn check_version(session: &Session) -> Result<()> {
    if !has_catalog(session).await? {
        return Ok(());
    }
    let sql = "SELECT extversion FROM pg_extension WHERE extname = 'citus'";
    let row = session.client.query_one(sql, &[]).await?;
    check(get(&row, 0)?).map_err(Into::into)
}

fn check(version: &str) -> std::result::Result<(), StoreError> {
    let mut numbers = version.split(['.', '-']).map_while(|number| number.parse().ok());
    let found = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if found >= FIRST_VERSION {
        return Ok(());
    }
    let (major, minor) = FIRST_VERSION;
    Err(StoreError::invalid(
        "store",
        format!("is in Citus {version}, and {major}.{minor} is needed or a later one"),
    ))
}

/// Whether new tables are to be distributed: the extension is there, and so are servers that take shards.
pub(crate) async fn has_workers(session: &Session) -> Result<bool> {
    if !has_catalog(session).await? {
        return Ok(false);
    }
    let workers = "SELECT FROM pg_dist_node WHERE isactive AND shouldhaveshards AND noderole = 'primary' AND groupid <> 0";
    Ok(!session.client.query(workers, &[]).await?.is_empty())
}

/// Whether the store's tables are distributed.
pub(crate) async fn is_distributed(session: &Session) -> Result<bool> {
    if !has_catalog(session).await? {
        return Ok(false);
    }
    Ok(!distributed(session, TABLES[0]).await?.is_empty())
}

/// Distributes the tables that exist and are not yet distributed, in the transaction of the session. The number of shards
/// is the server's `citus.shard_count`.
pub(crate) async fn distribute(session: &Session) -> Result<()> {
    for table in TABLES {
        let exists = session.client.query_one("SELECT to_regclass($1::text) IS NOT NULL", &[&table]).await?;
        if !get::<bool>(&exists, 0)? || !distributed(session, table).await?.is_empty() {
            continue;
        }
        let with = if table == TABLES[0] { "none" } else { TABLES[0] };
        let sql =
            "SELECT create_distributed_table($1::text::regclass, 'partition', colocate_with => $2::text)";
        session.client.query(sql, &[&table, &with]).await?;
        info!(table, "distributed by partition");
    }
    Ok(())
}

/// Whether the extension is there with its tables, which older versions of it did not have.
async fn has_catalog(session: &Session) -> Result<bool> {
    if session.engine != Engine::Citus {
        return Ok(false);
    }
    let sql =
        "SELECT to_regclass('pg_dist_node') IS NOT NULL AND to_regclass('pg_dist_partition') IS NOT NULL";
    get(&session.client.query_one(sql, &[]).await?, 0)
}

async fn distributed(session: &Session, table: &str) -> Result<Vec<tokio_postgres::Row>> {
    let sql = "SELECT FROM pg_dist_partition WHERE logicalrelid = to_regclass($1::text)";
    Ok(session.client.query(sql, &[&table]).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_without_snapshots_are_refused() {
        for version in ["11.2-1", "11.3-1", "13.0-1", "14.0"] {
            assert!(check(version).is_ok(), "{version}");
        }
        for version in ["11.1-1", "10.2-5", "9.5", "unknown"] {
            let error = check(version).unwrap_err().to_string();
            assert!(error.contains(version) && error.contains("11.2"), "{error}");
        }
    }
}
