//! [`PostgresStore`]: opens the store and dispatches its calls.

mod capabilities;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use aggregator_core::store::backend::check_partition;
use aggregator_core::store::{
    Amend, AppendAcross, Forget, Maintain, Records, StoreInfo, StoreStats, TopicInfo, Transfer, Watch,
};
use aggregator_core::{
    AttemptId, DedupStore, Durability, EventRef, Identity, Outage, Page, Partition, Query, Receipt, Seen,
    StoreError, TopicQuery,
};
use tokio::runtime::Runtime;

use crate::append::Append;
use crate::append::topic_ids::TopicIds;
use crate::citus::{self, Cluster};
use crate::commit_notifier::{CommitAnnouncer, CommitRelay};
use crate::connection::pool::Pool;
use crate::connection::retry;
use crate::connection::session::{Connector, Role, Session};
use crate::read::{catalog, lookup, pages};
use crate::schema::migrate;
use crate::{PostgresOptions, PostgresUrl, fault};

const KIND: &str = "postgres";

/// A [`DedupStore`] in a PostgreSQL database.
///
/// An append is one transaction. If its connection is lost while it commits, the transaction is run again under the
/// same [`AttemptId`], and events that the first run stored are reported as stored. If the database is gone, starting,
/// full or too slow, the error is [`StoreError::Unavailable`] (or `NoSpace`), and the next call reconnects. The error
/// is [`StoreError::Corrupt`] if the database reports damage, or if its tables contradict themselves.
pub struct PostgresStore {
    info: StoreInfo,
    /// Whether one commit can take events of several partitions.
    commits_across: bool,
    options: PostgresOptions,
    warnings: Vec<String>,
    /// Where the partitions are, if they are on several servers.
    cluster: Option<Arc<Cluster>>,
    /// Whether the tables of records exist. They do not if no role could create them yet.
    has_records: bool,
    /// The same of the table of forgotten identities.
    has_forgotten: bool,
    appenders: Pool,
    readers: Arc<Pool>,
    announcer: Arc<CommitAnnouncer>,
    /// How many bytes the tables had when they were measured last.
    bytes: AtomicU64,
    topics: TopicIds,
    /// `None` only while the store is dropped.
    runtime: Option<Runtime>,
}

impl PostgresStore {
    /// Opens the store in the database at `url` (see [`PostgresUrl`]) with the default options. Creates its tables if
    /// there are none.
    ///
    /// # Errors
    /// As [`Self::open_with`], and [`StoreError::Invalid`] if `url` is no such URL.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let url = url.parse().map_err(|reason: String| StoreError::invalid("store", reason))?;
        Self::open_with(&url, PostgresOptions::default())
    }

    /// Opens the store in the database at `url`. Creates its tables if there are none.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no connection can be made, or if rights or the required standby are missing.
    /// [`StoreError::Invalid`] if an option is out of bounds or contradicts the store, if the database is not UTF-8, if
    /// `fsync` or `full_page_writes` is off on the server, or if the tables have a newer version.
    pub fn open_with(url: &PostgresUrl, options: PostgresOptions) -> Result<Self, StoreError> {
        options.check()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("postgres")
            .enable_all()
            .build()
            .map_err(|error| StoreError::Unavailable {
                reason: "the threads of the PostgreSQL client cannot be started".into(),
                source: Some(error.into()),
            })?;
        let connector = Arc::new(Connector::new(url, &options)?);
        let opened = block_on(&runtime, async {
            let opened = tokio::time::timeout(options.deadline, migrate::open(&connector, &options)).await;
            let late = |_| fault::unavailable(format!("not opened within {:?}", options.deadline));
            opened.map_err(late)?.map_err(|failure| failure.into_store_error("opening"))
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
        let info = StoreInfo::new(KIND, opened.id, durability, opened.partitions).shared();
        let announcer = Arc::new(CommitAnnouncer::new(opened.last_offsets));
        let channel = format!("aggregator_{}", info.id.to_string().to_lowercase());
        let pool = |role, size| Pool::new(Arc::clone(&connector), role, size, options.connection_wait);
        let readers = Arc::new(pool(Role::Read, options.read_connections));
        let cluster = opened.cluster.map(Arc::new);
        let (relay_readers, relay_announcer) = (Arc::clone(&readers), Arc::clone(&announcer));
        let relay =
            CommitRelay::new(Arc::clone(&connector), relay_readers, relay_announcer, channel, &options);
        runtime.spawn(relay.over(cluster.clone()).run());
        if let Some(cluster) = cluster.clone() {
            runtime.spawn(citus::Watch { connector: Arc::clone(&connector), cluster }.run());
        }
        Ok(Self {
            appenders: pool(Role::Append, options.append_connections),
            readers,
            info,
            commits_across: opened.commits_across,
            cluster,
            warnings: opened.warnings,
            has_records: opened.has_records,
            has_forgotten: opened.has_forgotten,
            announcer,
            bytes: AtomicU64::new(0),
            topics: TopicIds::default(),
            runtime: Some(runtime),
            options,
        })
    }

    /// Warnings from opening the store, one sentence each: durability settings that the engine does not show, checksums
    /// that are off, and rights that are missing for tables of newer programs.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn block_on<T>(&self, call: impl Future<Output = T>) -> T {
        block_on(self.runtime.as_ref().expect("the runtime is there until the store is dropped"), call)
    }

    /// Appends events after the checks of the arguments.
    fn append_checked(
        &self,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        let cluster = self.cluster.as_deref();
        let append = Append::new(&self.options, &self.topics, cluster, self.info.partitions, attempt, events);
        let appended =
            self.write_to(append.partitions(), "appending", async |session| append.transact(session).await)?;
        for (partition, last_offset) in appended.stored {
            self.announcer.committed(partition, last_offset);
        }
        Ok(appended.receipts)
    }

    /// Runs a transaction that writes to these partitions, until its outcome is known.
    pub(crate) fn write_to<T>(
        &self,
        partitions: &[Partition],
        doing: &str,
        transaction: impl AsyncFn(&Session) -> fault::Result<T>,
    ) -> Result<T, StoreError> {
        let check = || self.cluster.as_ref().map_or(Ok(()), |it| it.check(partitions.iter().copied()));
        let may_go_on = || {
            self.cluster.iter().for_each(|cluster| cluster.suspect());
            check()
        };
        check()?;
        self.block_on(retry::write(&self.appenders, &self.options, doing, may_go_on, transaction))
    }

    /// Reads from these partitions.
    pub(crate) fn read_from<T>(
        &self,
        partitions: impl IntoIterator<Item = Partition>,
        doing: &str,
        read: impl AsyncFn(&Session) -> fault::Result<T>,
    ) -> Result<T, StoreError> {
        let Some(cluster) = &self.cluster else {
            return self.block_on(retry::read(&self.readers, &self.options, doing, read));
        };
        cluster.check(partitions)?;
        let result = self.block_on(retry::read_of_cluster(&self.readers, &self.options, doing, read));
        if result.as_ref().is_err_and(StoreError::is_retryable) {
            cluster.suspect();
        }
        result
    }

    fn check_writable(&self, operation: &'static str) -> Result<(), StoreError> {
        if self.options.read_only {
            return Err(StoreError::Unsupported { kind: "read-only postgres", operation });
        }
        Ok(())
    }
}

/// Waits for `call` on this thread. The thread may belong to another runtime, where [`Runtime::block_on`] would panic.
fn block_on<T>(runtime: &Runtime, call: impl Future<Output = T>) -> T {
    let _inside = runtime.enter();
    pollster::block_on(call)
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // This does not wait, which would panic on a thread of another runtime. No call is running.
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
        self.append_checked(attempt, events)
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        let positions = query.positions(&self.info)?;
        let partitions = positions.iter().map(|position| position.partition);
        self.read_from(partitions, "reading events", async |session| {
            pages::read(session, &self.info, query, positions.clone(), self.has_forgotten).await
        })
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        let partitions = ids.iter().map(|id| self.info.partitions.of(id.topic.as_str()));
        self.read_from(partitions, "looking identities up", async |session| {
            lookup::lookup(session, &self.info, ids).await
        })
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        // On one server, it costs nothing to look in all partitions.
        let named = self.cluster.as_ref().and_then(|_| catalog::named(self.info.partitions, query));
        let partitions = match &named {
            Some(named) => named.keys().copied().collect(),
            None => self.info.partitions.iter().collect::<Vec<_>>(),
        };
        self.read_from(partitions, "listing topics", async |session| {
            catalog::topics(session, self.info.partitions, query, self.has_forgotten).await
        })
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.read_from([], "counting", async |session| {
            catalog::stats(session, &self.options.schema, self.cluster.as_deref(), &self.bytes).await
        })
    }

    fn outages(&self) -> Vec<Outage> {
        self.cluster.as_ref().map(|cluster| cluster.outages()).unwrap_or_default()
    }

    fn across(&self) -> Option<&dyn AppendAcross> {
        if self.commits_across { Some(self) } else { None }
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        Some(self)
    }

    fn amend(&self) -> Option<&dyn Amend> {
        Some(self)
    }

    fn forget(&self) -> Option<&dyn Forget> {
        if self.has_forgotten { Some(self) } else { None }
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        Some(self)
    }

    fn records(&self) -> Option<&dyn Records> {
        if self.has_records { Some(self) } else { None }
    }

    fn watch(&self) -> Option<&dyn Watch> {
        Some(self)
    }
}
