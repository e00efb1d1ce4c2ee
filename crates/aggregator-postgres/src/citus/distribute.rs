//! Distributes new tables over the servers of a Citus cluster.

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
