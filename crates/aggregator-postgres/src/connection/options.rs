//! The options of a store, with their defaults and bounds.

use std::time::Duration;

use aggregator_core::store::backend::DEFAULT_MAX_TOPICS;
use aggregator_core::{Clock, Partitions, StoreError};

/// How a [`crate::PostgresStore`] is opened.
#[derive(Clone)]
pub struct PostgresOptions {
    /// The schema that holds all tables: `[a-z_][a-z0-9_]*`, at most 63 bytes. `aggregator`.
    pub schema: String,
    /// How many partitions the store gets when it is created; 4 if `None`. An existing store keeps its number, and is
    /// not opened with another one.
    pub partitions: Option<Partitions>,
    /// The most topics. There can be a few more if appends to several partitions create topics at the same moment,
    /// because they do not wait for each other to count.
    pub max_topics: u64,
    /// The clock that `processed_at` comes from; the database's if `None`.
    pub clock: Option<Clock>,
    /// Connections that append, at most. 4.
    pub append_connections: usize,
    /// Connections that read, at most. 4.
    pub read_connections: usize,
    /// How long a call waits for one of them before it is refused with [`StoreError::Unavailable`]. 5 s.
    pub connection_wait: Duration,
    /// How long one host may take to accept a connection and answer. 5 s.
    pub connect_timeout: Duration,
    /// How long an append may take, waits and retries included. 20 s.
    pub deadline: Duration,
    /// How long a read may take, waits and retries included, if its caller has no [`Deadline`] of its own. Also how
    /// long the server works on one statement of a read. 20 s.
    ///
    /// [`Deadline`]: aggregator_core::Deadline
    pub read_timeout: Duration,
    /// How long the server works on one statement of an append. 15 s.
    pub statement_timeout: Duration,
    /// How long an append waits for the lock of a partition. 5 s.
    pub lock_timeout: Duration,
    /// How long a transaction may be idle before the server ends it. A node that is gone holds its partitions no longer
    /// than that. 5 s.
    pub idle_in_transaction_timeout: Duration,
    /// How long the other side may leave packets unanswered before the connection counts as dead. 20 s.
    pub dead_peer_timeout: Duration,
    /// How long the store remembers which events an append stored. Until then, a repeat of the same attempt is told
    /// `stored` and not `duplicate`. At least twice the deadline. 10 min.
    pub attempts_kept: Duration,
    /// The least time between two notifications of other nodes. 20 ms.
    pub notify_interval: Duration,
    /// Whether to listen to the notifications of other nodes. Yes.
    pub listen: bool,
    /// How often to poll for commits of other nodes while there are no notifications. 250 ms.
    pub poll_interval: Duration,
    /// Whether to only read. Then a role that may only read suffices, and so does a standby. No.
    pub read_only: bool,
    /// Whether to append only while the server is configured to wait for a synchronous standby. No.
    pub require_sync_standby: bool,
    /// The name of the sessions in `pg_stat_activity`. `aggregator`.
    pub application_name: String,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            schema: "aggregator".into(),
            partitions: None,
            max_topics: DEFAULT_MAX_TOPICS,
            clock: None,
            append_connections: 4,
            read_connections: 4,
            connection_wait: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            deadline: Duration::from_secs(20),
            read_timeout: Duration::from_secs(20),
            statement_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(5),
            idle_in_transaction_timeout: Duration::from_secs(5),
            dead_peer_timeout: Duration::from_secs(20),
            attempts_kept: Duration::from_secs(10 * 60),
            notify_interval: Duration::from_millis(20),
            listen: true,
            poll_interval: Duration::from_millis(250),
            read_only: false,
            require_sync_standby: false,
            application_name: "aggregator".into(),
        }
    }
}

impl PostgresOptions {
    /// Refuses values outside their bounds.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
        let good = self.schema.len() <= 63
            && self.schema.bytes().next().is_some_and(letter)
            && self.schema.bytes().all(|byte| letter(byte) || byte.is_ascii_digit());
        if !good {
            let reason = "must be 1 to 63 of a-z, 0-9 and _, and not begin with a digit";
            return Err(StoreError::invalid("schema", reason));
        }
        for (name, number) in
            [("append_connections", self.append_connections), ("read_connections", self.read_connections)]
        {
            if !(1..=1024).contains(&number) {
                return Err(StoreError::invalid(name, "must be 1 to 1024"));
            }
        }
        for (name, time) in [
            ("connection_wait", self.connection_wait),
            ("connect_timeout", self.connect_timeout),
            ("deadline", self.deadline),
            ("read_timeout", self.read_timeout),
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("idle_in_transaction_timeout", self.idle_in_transaction_timeout),
            ("dead_peer_timeout", self.dead_peer_timeout),
            ("poll_interval", self.poll_interval),
        ] {
            // The server takes 0 for "no limit".
            if !(Duration::from_millis(1)..=Duration::from_secs(86_400)).contains(&time) {
                return Err(StoreError::invalid(name, "must be 1 ms to 1 day"));
            }
        }
        Ok(())
    }
}
