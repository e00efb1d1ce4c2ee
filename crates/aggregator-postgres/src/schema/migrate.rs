//! Opens the store's tables: creates them if there are none, adds those that older programs did not know, and reads
//! which store they hold.

use std::collections::HashMap;
use std::time::Duration;

use aggregator_core::{Partitions, StoreError, StoreId};

use tokio_postgres::error::SqlState;
use tracing::{debug, info};

use crate::PostgresOptions;
use crate::citus::{self, Cluster, distribute};
use crate::columns::get;
use crate::connection::session::{Connector, Role, Session};
use crate::fault::{Failure, Result, unavailable};
use crate::records::BUCKETS;
use crate::schema::server_checks::{check_encoding, check_settings, check_standby};
use crate::schema::tables::{
    CREATE, CREATE_FORGOTTEN, CREATE_RECORDS, FORGOTTEN_SINCE, HASH_VERSION, RECORDS_SINCE, TABLES_VERSION,
    VERSION,
};

/// How often creating the tables is tried while other nodes create them too.
const ATTEMPTS: u32 = 10;
/// How many partitions a new store gets by default: as many as a node has workers by default, and enough for one
/// server.
const DEFAULT_PARTITIONS: u16 = 4;

/// The store that the database holds.
pub(crate) struct Opened {
    pub(crate) id: StoreId,
    pub(crate) partitions: Partitions,
    /// Whether a commit to several partitions costs no more than a commit to one.
    pub(crate) commits_across: bool,
    /// Where the partitions are, if they are on several servers.
    pub(crate) cluster: Option<Cluster>,
    /// Whether the tables of records exist.
    pub(crate) has_records: bool,
    /// Whether the table of forgotten identities exists.
    pub(crate) has_forgotten: bool,
    /// The last offset of each partition.
    pub(crate) last_offsets: Vec<u64>,
    /// See [`crate::PostgresStore::warnings`].
    pub(crate) warnings: Vec<String>,
}

/// Creates the tables if they do not exist, and reads which store they hold.
pub(crate) async fn open(connector: &Connector, options: &PostgresOptions) -> Result<Opened> {
    // The role `Read` would prepare statements, which fails if the tables do not exist.
    let role = if options.read_only { Role::Relay } else { Role::Migrate };
    let session = connector.connect(role, None).await?;
    check_encoding(&session).await?;
    distribute::check_version(&session).await?;
    let mut warnings = Vec::new();
    if !options.read_only {
        create_tables(&session, connector.schema(), options, &mut warnings).await?;
    }
    let Some(meta) = meta(&session).await? else {
        let schema = connector.schema();
        let reason = format!("schema {schema} holds no store, or the role may not use it");
        return Err(unavailable(reason).into());
    };
    let (id, partitions) = check_meta(&meta, options)?;
    let mut cluster = None;
    if distribute::is_distributed(&session).await? {
        let found = Cluster::new(partitions);
        citus::look(&session, &found).await?;
        warnings.extend(found.outages().iter().map(|outage| outage.reason.clone()));
        cluster = Some(found);
    }
    let last_offsets = match &cluster {
        Some(cluster) => cluster.last_offsets(&session).await?,
        None => last_offsets(&session, partitions).await?,
    };
    if !options.read_only {
        check_settings(&session, &mut warnings).await?;
        if options.require_sync_standby {
            check_standby(&session).await?;
        }
    }
    let commits_across = session.engine.is_one_server();
    let version = tables_version(&meta)?;
    let (has_records, has_forgotten) = (version >= RECORDS_SINCE, version >= FORGOTTEN_SINCE);
    Ok(Opened { id, partitions, commits_across, cluster, has_records, has_forgotten, last_offsets, warnings })
}

/// The last offset of each partition.
async fn last_offsets(session: &Session, partitions: Partitions) -> Result<Vec<u64>> {
    let mut last_offsets = vec![0; usize::from(partitions.count())];
    for row in session.client.query("SELECT partition, last_offset FROM partitions", &[]).await? {
        let (partition, offset): (i32, i64) = (get(&row, 0)?, get(&row, 1)?);
        let at = usize::try_from(partition).ok().and_then(|at| last_offsets.get_mut(at));
        let at = at.ok_or_else(|| Failure::corrupt(format!("{partition} is no partition of the store")))?;
        *at = u64::try_from(offset).unwrap_or(0);
    }
    Ok(last_offsets)
}

type Meta = HashMap<String, String>;

/// The entries of the table `meta`; `None` if there is no store.
async fn meta(session: &Session) -> Result<Option<Meta>> {
    let rows = match session.client.query("SELECT name, value FROM meta", &[]).await {
        Ok(rows) => rows,
        // No such table, no such schema.
        Err(error) if matches!(error.code().map(SqlState::code), Some("42P01" | "3F000")) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let meta = rows.iter().map(|row| Ok((get(row, 0)?, get(row, 1)?))).collect::<Result<Meta>>()?;
    Ok((!meta.is_empty()).then_some(meta))
}

fn check_meta(meta: &Meta, options: &PostgresOptions) -> Result<(StoreId, Partitions)> {
    let value = |name: &str| {
        let value = meta.get(name).map(String::as_str);
        value.ok_or_else(|| Failure::corrupt(format!("the table meta has no entry {name}")))
    };
    let unknown = |name: &str, value: &str| Failure::corrupt(format!("the store's {name} is {value}"));
    let version = value("schema_version")?;
    let version: u32 = version.parse().map_err(|_| unknown("schema_version", version))?;
    if version != VERSION {
        let way_out = if version > VERSION { "use a newer program" } else { "use the program that made it" };
        let store = "the store in this database".to_owned();
        return Err(StoreError::Format { store, found: version, known: VERSION, way_out }.into());
    }
    let hash = value("hash_version")?;
    if hash != HASH_VERSION {
        return Err(
            StoreError::invalid("store", format!("hashes topics by {hash}, not {HASH_VERSION}")).into()
        );
    }
    let count = value("partitions")?;
    let partitions =
        count.parse().ok().and_then(Partitions::new).ok_or_else(|| unknown("partitions", count))?;
    if let Some(asked) = options.partitions
        && asked != partitions
    {
        let (has, asked) = (partitions.count(), asked.count());
        let reason = format!("is {asked}, but the store was created with {has}, and that cannot change");
        return Err(StoreError::invalid("partitions", reason).into());
    }
    let id = value("store_id")?;
    let id = u128::from_str_radix(id, 16).map_err(|_| unknown("store_id", id))?;
    Ok((StoreId::from_u128(id), partitions))
}

/// The version of the tables. A store of version 1 has no entry for it.
fn tables_version(meta: &Meta) -> Result<u32> {
    let Some(version) = meta.get("tables_version") else { return Ok(1) };
    version.parse().map_err(|_| Failure::corrupt(format!("the store's tables_version is {version}")))
}

/// Creates the missing tables. If the role may not add tables to a store of an older version, that is only a warning:
/// events can be stored without them.
async fn create_tables(
    session: &Session,
    schema: &str,
    options: &PostgresOptions,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let found = meta(session).await?;
    let mut version = 0;
    if let Some(found) = &found {
        check_meta(found, options)?;
        version = tables_version(found)?;
        if version >= TABLES_VERSION {
            return Ok(());
        }
    }
    match create_with_retries(session, schema, options, found.is_none()).await {
        Err(failure) if found.is_some() && failure.code() == Some("42501") => {
            session.run("ROLLBACK").await?;
            let (tables, without) = match version < RECORDS_SINCE {
                true => ("tables of records and", "there are no records, and "),
                false => ("table", ""),
            };
            warnings.push(format!(
                "the role may not add the {tables} of forgotten identities to schema {schema}, so {without}identities \
                 cannot be forgotten: grant it CREATE there, or start a node once whose role owns the schema"
            ));
            Ok(())
        }
        result => result,
    }
}

async fn create_with_retries(
    session: &Session,
    schema: &str,
    options: &PostgresOptions,
    is_new: bool,
) -> Result<()> {
    let locks = has_advisory_locks(session).await?;
    for attempt in 1.. {
        match create_in_one_commit(session, schema, options, is_new, locks).await {
            Ok(()) => break,
            // Another node was creating the same tables at that moment.
            Err(failure)
                if attempt < ATTEMPTS
                    && (failure.is_collision()
                        || matches!(failure.code(), Some("23505" | "42P06" | "42P07" | "42710"))) =>
            {
                session.run("ROLLBACK").await?;
                let millis = rand::random_range(10..100 * u64::from(attempt));
                tokio::time::sleep(Duration::from_millis(millis)).await;
            }
            Err(failure) => return Err(failure),
        }
    }
    info!(schema, "the tables exist");
    Ok(())
}

/// Whether advisory locks work. Some engines have the function but refuse the call, and some roles may not call it.
async fn has_advisory_locks(session: &Session) -> Result<bool> {
    match session.client.query("SELECT pg_advisory_xact_lock(hashtext('aggregator'))", &[]).await {
        Ok(_) => Ok(true),
        Err(error) if error.as_db_error().is_some() => {
            debug!(%error, "there are no advisory locks");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Creates what is missing in one transaction, under an advisory lock if the engine has them.
async fn create_in_one_commit(
    session: &Session,
    schema: &str,
    options: &PostgresOptions,
    is_new: bool,
    locks: bool,
) -> Result<()> {
    tokio::try_join!(biased; session.begin(), session.allow_idle())?;
    if locks {
        // The lock's number stands for the schema. The lock ends with the transaction.
        let name = format!("aggregator {schema}");
        session.client.query_one("SELECT pg_advisory_xact_lock(hashtext($1))", &[&name]).await?;
    }
    if is_new {
        create_store(session, schema, options).await?;
    }
    create_records(session).await?;
    for sql in CREATE_FORGOTTEN {
        session.run(sql).await?;
    }
    if distribute::is_distributed(session).await? {
        distribute::distribute(session).await?;
    }
    let sql = "INSERT INTO meta (name, value) VALUES ('tables_version', $1)
               ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE meta.value::integer < excluded.value::integer";
    session.client.execute(sql, &[&TABLES_VERSION.to_string()]).await?;
    session.run("COMMIT").await
}

/// Creates the tables for events.
async fn create_store(session: &Session, schema: &str, options: &PostgresOptions) -> Result<()> {
    let client = &session.client;
    // Looking first lets a role that may not create schemas use one that was created for it.
    if client.query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[&schema]).await?.is_empty() {
        session.run(&format!("CREATE SCHEMA IF NOT EXISTS {schema}")).await?;
    }
    for sql in CREATE {
        session.run(sql).await?;
    }
    let mut by_default = DEFAULT_PARTITIONS;
    if distribute::has_workers(session).await? {
        // While they are empty: the rows are not moved then.
        distribute::distribute(session).await?;
        by_default = distribute::DEFAULT_PARTITIONS;
    }
    let count = options.partitions.map_or(by_default, Partitions::count);
    let entries = [
        ("store_id", format!("{:032x}", StoreId::new().as_u128())),
        ("partitions", count.to_string()),
        ("hash_version", HASH_VERSION.to_owned()),
        ("schema_version", VERSION.to_string()),
    ];
    for (name, value) in entries {
        insert_entry(session, name, &value).await?;
    }
    // The number comes from `meta`, because another node may have written it first.
    client
        .execute(
            "INSERT INTO partitions (partition, last_offset, last_processed_at, topics, stored, duplicates, conflicts)
             SELECT n, 0, $1, 0, 0, 0, 0
             FROM generate_series(0, (SELECT value::integer - 1 FROM meta WHERE name = 'partitions')) AS n
             ON CONFLICT (partition) DO NOTHING",
            &[&aggregator_core::Timestamp::MIN.as_micros()],
        )
        .await?;
    Ok(())
}

/// Creates the tables for records. It takes no lock that an append waits for.
async fn create_records(session: &Session) -> Result<()> {
    for sql in CREATE_RECORDS {
        session.run(sql).await?;
    }
    let buckets = "INSERT INTO record_versions (bucket, last_version, last_attempt)
                   SELECT n, 0, ''::bytea FROM generate_series(0, $1::integer - 1) AS n ON CONFLICT (bucket) DO NOTHING";
    session.client.execute(buckets, &[&BUCKETS]).await?;
    Ok(())
}

/// Adds an entry to the table `meta`, unless there is one with this name.
async fn insert_entry(session: &Session, name: &str, value: &str) -> Result<()> {
    let sql = "INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
    session.client.execute(sql, &[&name, &value]).await?;
    Ok(())
}
