//! The aggregator's store over PostgreSQL, and over engines that speak its protocol.
//!
//! Any number of processes (nodes) share one database, and keep nothing that matters outside of it: a node
//! may be killed, and another one started, at any time. Which partition a node appends to is not agreed on; the
//! row of the partition is locked for the length of an append, and so the commits of a partition are in the order
//! of their offsets.
//!
//! ```no_run
//! use aggregator_core::{DedupStoreExt, Event};
//! use aggregator_postgres::PostgresStore;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = PostgresStore::open("postgres://me@localhost/events")?;
//! store.append_one(&Event::new("orders.created", "order-1")?)?;
//! # Ok(())
//! # }
//! ```
//!
//! Inside is an asynchronous client on a runtime of its own, so that the statements of a transaction can be sent
//! without waiting for each other; every call blocks until it is done, as [`DedupStore`] has it.

mod append;
mod backoff;
mod details;
mod fault;
mod group;
mod herald;
mod import;
mod migrate;
mod options;
mod pipeline;
mod pool;
mod purge;
mod read;
mod retry;
mod rows;
mod schema;
mod session;
mod statements;
mod tail;
#[cfg(feature = "test-util")]
pub mod test_server;
mod tls;
mod topics;
mod url;
mod verify;

use std::path::Path;
use std::sync::Arc;

use aggregator_core::store::backend::check_partition;
use aggregator_core::store::{
    AppendAcross, Import, Imported, Maintain, RowLimit, StoreInfo, StoreStats, TopicInfo, Transfer,
    VerifyReport, Watch,
};
use aggregator_core::{
    AttemptId, CommitCallback, CommitListener, DedupStore, Durability, EventRef, Identity, Page, Partition,
    Query, Receipt, Seen, StoreError, StoredRow, Topic,
};
use tokio::runtime::Runtime;

pub use crate::options::PostgresOptions;
pub use crate::url::PostgresUrl;

use crate::append::Append;
use crate::herald::{Announcer, Herald};
use crate::pool::Pool;
use crate::session::{Connector, Role};
use crate::topics::TopicIds;

const KIND: &str = "postgres";

/// A [`DedupStore`] in a PostgreSQL database.
///
/// An append is one transaction. If its connection is lost while it commits, it is run again under the same
/// [`AttemptId`], and what the first one had stored is told as stored. A database that is gone, starting, full or
/// too slow is [`StoreError::Unavailable`] (or `NoSpace`), and the next call connects anew; only what the
/// database itself says to be damaged is [`StoreError::Corrupt`].
pub struct PostgresStore {
    info: StoreInfo,
    /// Whether one commit takes events of several partitions.
    commits_across: bool,
    options: PostgresOptions,
    warnings: Vec<String>,
    appenders: Pool,
    readers: Arc<Pool>,
    announcer: Arc<Announcer>,
    topics: TopicIds,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl PostgresStore {
    /// Opens the store in the database at `url` (see [`PostgresUrl`]) with the default options; creates its tables
    /// if there are none.
    ///
    /// # Errors
    /// As [`Self::open_with`], and [`StoreError::Invalid`] for what is no such URL.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let url = url.parse().map_err(|reason: String| StoreError::invalid("store", reason))?;
        Self::open_with(&url, PostgresOptions::default())
    }

    /// Opens the store in the database at `url`; creates its tables if there are none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if there is no connection to be had, or none with the rights or the standby it
    /// takes; [`StoreError::Invalid`] if the options, the server's settings (`fsync` or `full_page_writes` off) or
    /// the version of the tables do not go together.
    pub fn open_with(url: &PostgresUrl, options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Unavailable {
                reason: "the threads of its client cannot be started".into(),
                source: Some(error.into()),
            })?;
        let connector = Arc::new(Connector::new(url, &options)?);
        let opened = block_on(&runtime, async {
            let opened = tokio::time::timeout(options.deadline, migrate::open(&connector, &options)).await;
            let late = |_| fault::unavailable(format!("not opened within {:?}", options.deadline));
            opened.map_err(late)?.map_err(|failure| failure.told("opening"))
        });
        let opened = match opened {
            Ok(opened) => opened,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let durability =
            if options.require_sync_standby { Durability::Replicated } else { Durability::Fsync };
        let info = StoreInfo::new(KIND, opened.id, durability, opened.partitions);
        let announcer = Arc::new(Announcer::new(opened.last_offsets));
        let channel = format!("aggregator_{}", info.id.to_string().to_lowercase());
        let pool = |role, size| Pool::new(Arc::clone(&connector), role, size, options.connection_wait);
        let readers = Arc::new(pool(Role::Read, options.read_connections));
        let (herald_readers, told) = (Arc::clone(&readers), Arc::clone(&announcer));
        runtime.spawn(Herald::new(Arc::clone(&connector), herald_readers, told, channel, &options).run());
        Ok(Self {
            appenders: pool(Role::Append, options.append_connections),
            readers,
            info,
            commits_across: opened.commits_across,
            warnings: opened.warnings,
            announcer,
            topics: TopicIds::default(),
            runtime: Some(runtime),
            options,
        })
    }

    /// What could not be made sure of when it was opened, a sentence each: settings that the engine does not
    /// show.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        block_on(self.runtime.as_ref().expect("it is there until the store is dropped"), call)
    }

    /// Appends events that belong where they are appended to.
    fn append_sound(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let append = Append::new(&self.options, &self.topics, self.info.partitions, attempt, events);
        let appended =
            self.block_on(retry::writing(&self.appenders, &self.options, "appending", async |session| {
                append.transact(session).await
            }))?;
        for (partition, last_offset) in appended.stored {
            self.announcer.committed(partition, last_offset);
        }
        Ok(appended.receipts)
    }

    fn check_writable(&self, operation: &'static str) -> Result<(), StoreError> {
        if self.options.read_only {
            return Err(StoreError::Unsupported { kind: "read-only postgres", operation });
        }
        Ok(())
    }
}

/// Waits for `call` on this thread, which may belong to another runtime: so not by [`Runtime::block_on`], which
/// panics there.
fn block_on<T>(runtime: &Runtime, call: impl Future<Output = T>) -> T {
    let _inside = runtime.enter();
    pollster::block_on(call)
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Without waiting, which is not allowed everywhere. Nothing is under way: no call is.
            runtime.shutdown_background();
        }
    }
}

impl DedupStore for PostgresStore {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        self.check_writable("append")?;
        check_partition(self.info.partitions, partition, events.iter().map(EventRef::topic))?;
        self.append_sound(attempt, events)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.block_on(retry::reading(&self.readers, &self.options, "reading events", async |session| {
            read::read(session, &self.info, query).await
        }))
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.block_on(retry::reading(
            &self.readers,
            &self.options,
            "looking identities up",
            async |session| read::lookup(session, &self.info, ids).await,
        ))
    }

    fn topics(&self, after: Option<&Topic>, limit: usize) -> Result<Vec<TopicInfo>, StoreError> {
        self.block_on(retry::reading(&self.readers, &self.options, "listing topics", async |session| {
            read::topics(session, after, limit).await
        }))
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.block_on(retry::reading(&self.readers, &self.options, "counting", async |session| {
            read::stats(session, &self.options.schema).await
        }))
    }

    fn across(&self) -> Option<&dyn AppendAcross> {
        self.commits_across.then_some(self as &dyn AppendAcross)
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        Some(self)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }
}

impl AppendAcross for PostgresStore {
    fn append_across(&self, attempt: AttemptId, events: &[EventRef<'_>]) -> Result<Vec<Receipt>, StoreError> {
        self.check_writable("append")?;
        self.append_sound(attempt, events)
    }
}

impl Maintain for PostgresStore {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.check_writable("purge")?;
        let partition = self.info.partitions.of(topic.as_str()).0;
        let mut purged = 0;
        loop {
            // A slice at a time, so that appends get their turn in between.
            let slice = retry::writing(&self.appenders, &self.options, "purging", async |session| {
                purge::purge_slice(session, partition, topic.as_str(), through_seq).await
            });
            match self.block_on(slice)? {
                0 => return Ok(purged),
                slice => purged += slice,
            }
        }
    }

    fn verify(&self) -> Result<VerifyReport, StoreError> {
        self.block_on(retry::verifying(&self.readers, async |session| {
            verify::verify(session, &self.info).await
        }))
    }

    /// Not here: `pg_dump` makes a copy of the schema that is consistent, while appends go on.
    fn backup(&self, _path: &Path) -> Result<(), StoreError> {
        Err(StoreError::Unsupported { kind: KIND, operation: "be backed up from here: use pg_dump" })
    }
}

impl Transfer for PostgresStore {
    fn rows(
        &self,
        partition: Partition,
        after: u64,
        limit: RowLimit,
    ) -> Result<Vec<(u64, StoredRow)>, StoreError> {
        check_partition(self.info.partitions, partition, std::iter::empty())?;
        self.block_on(retry::reading(&self.readers, &self.options, "reading rows", async |session| {
            rows::rows(session, partition, after, limit).await
        }))
    }

    fn import(&self, partition: Partition, import: Import<'_>) -> Result<Imported, StoreError> {
        self.check_writable("import rows")?;
        check_partition(self.info.partitions, partition, import.topic_names())?;
        let importing = import::Importing::new(&self.options, partition, import);
        let (imported, last_offset) =
            self.block_on(retry::writing(&self.appenders, &self.options, "importing", async |session| {
                importing.transact(session).await
            }))?;
        // Also one that found its rows: it may have stored them itself, and lost the answer.
        self.announcer.committed(partition, last_offset);
        Ok(imported)
    }
}

impl Watch for PostgresStore {
    fn on_commit(&self, callback: CommitCallback) -> CommitListener {
        self.announcer.listen(callback)
    }
}
