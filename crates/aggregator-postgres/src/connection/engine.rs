//! Which engine speaks the protocol.

use tokio_postgres::Client;

use crate::columns::get;
use crate::fault::Result;

/// The engine, as far as it matters for how statements are planned and committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    /// PostgreSQL itself, with all partitions in one place.
    Postgres,
    /// PostgreSQL with the extension Citus. The server is the coordinator, and the partitions may be on others.
    Citus,
    /// Another one.
    Other,
}

impl Engine {
    pub(crate) async fn of(client: &Client) -> Result<Self> {
        let row = client.query_one("SELECT version()", &[]).await?;
        let version: &str = get(&row, 0)?;
        // YugabyteDB says `PostgreSQL 15.2-YB-…`, Greenplum `PostgreSQL 12.12 (Greenplum Database …`, and CockroachDB its
        // own name.
        if !version.starts_with("PostgreSQL ")
            || ["-YB-", "Greenplum"].iter().any(|name| version.contains(name))
        {
            return Ok(Self::Other);
        }
        match client.query("SELECT FROM pg_extension WHERE extname = 'citus'", &[]).await {
            Ok(citus) if citus.is_empty() => Ok(Self::Postgres),
            Ok(_) => Ok(Self::Citus),
            // An engine without extensions is not PostgreSQL.
            Err(error) if error.as_db_error().is_some() => Ok(Self::Other),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the engine is PostgreSQL itself, with all partitions in one place. An engine that distributes them would
    /// commit in two phases. It cannot lock rows of several partitions at once, or not in a given order.
    pub(crate) fn is_one_server(self) -> bool {
        self == Self::Postgres
    }
}
