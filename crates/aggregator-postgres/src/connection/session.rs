//! Sessions: how a connection is made, set up and checked, and how its notices and notifications are handled.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aggregator_core::StoreError;
use futures_util::future::try_join_all;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OnceCell;
use tokio::sync::mpsc::Sender;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Row, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::{debug, trace, warn};

use crate::citus;
use crate::columns::get;
use crate::connection::engine::Engine;
use crate::fault::{Failure, Result, unavailable};
use crate::schema::statements::{
    DELETE_BY_KEY, DELETE_IN_PLACE, ForgetWrites, ForgottenReads, RecordReads, RecordWrites, Statements,
};
use crate::{PostgresOptions, PostgresUrl};

/// What a session is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Needs a server that takes writes.
    Append,
    /// Reads from the server that takes writes, because a standby may show commits in another order. In a read-only
    /// store, reads from any server.
    Read,
    /// Sends commits to other nodes and receives theirs. Also opens a read-only store.
    Relay,
    /// Creates the tables.
    Migrate,
}

/// Every ordered query has an index in that order. On tables that were never analyzed, the planner would rather sort a
/// whole partition.
const NO_SORT: (&str, &str) = ("enable_sort", "off");

const MAY_BE_IDLE: &str = "SET LOCAL idle_in_transaction_session_timeout = 0";

/// Makes sessions.
pub(crate) struct Connector {
    hosts: Vec<Config>,
    tls: MakeRustlsConnect,
    connect_timeout: Duration,
    read_only: bool,
    schema: String,
    settings: Vec<(&'static str, String)>,
    statement_timeout: Duration,
    read_timeout: Duration,
    /// Known from the first connection on.
    engine: OnceCell<Engine>,
}

/// A connection that is set up.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) engine: Engine,
    /// The statements that begin a transaction, for writing and for reading.
    begin: Vec<String>,
    begin_snapshot: Vec<String>,
    pub(crate) statements: Statements,
    /// Prepared at the first use: most sessions never use records, and some stores have none.
    record_writes: OnceCell<RecordWrites>,
    record_reads: OnceCell<RecordReads>,
    /// Prepared at the first use: most stores never forget anything.
    forget_writes: OnceCell<ForgetWrites>,
    delete_oldest: OnceCell<Statement>,
    forgotten_reads: OnceCell<ForgottenReads>,
    /// Whether the server has sent a warning.
    warned: Arc<AtomicBool>,
}

/// Receives the payloads of notifications.
pub(crate) type Notifications = Sender<String>;

impl Connector {
    pub(crate) fn new(url: &PostgresUrl, options: &PostgresOptions) -> std::result::Result<Self, StoreError> {
        let millis = |time: Duration| time.as_millis().to_string();
        let seconds = |time: Duration| time.as_secs().max(1).to_string();
        let dead = options.dead_peer_timeout;
        let settings = vec![
            // If the server refuses a setting, the session does without. Only this one is read back: see `check`.
            ("synchronous_commit", "on".into()),
            ("search_path", options.schema.clone()),
            ("lock_timeout", millis(options.lock_timeout)),
            ("idle_in_transaction_session_timeout", millis(options.idle_in_transaction_timeout)),
            // So that a statement that waits for a lock notices that its client is gone.
            ("client_connection_check_interval", millis(dead / 4)),
            ("tcp_user_timeout", millis(dead)),
            ("tcp_keepalives_idle", seconds(dead / 2)),
            ("tcp_keepalives_interval", seconds(dead / 6)),
            ("tcp_keepalives_count", "3".into()),
            // Every query has an index. A planner that saw the table empty would choose a scan.
            ("enable_seqscan", "off".into()),
            ("jit", "off".into()),
            // Citus: what a transaction sets is set on the other servers as well, and these are given up as soon as this one.
            ("citus.propagate_set_commands", "local".into()),
            ("citus.node_connection_timeout", millis(options.connect_timeout)),
            // One connection to each server, so that all statements of a snapshot see the same state of it.
            ("citus.max_adaptive_executor_pool_size", "1".into()),
        ];
        Ok(Self {
            hosts: url.hosts(options),
            tls: url.tls().connector()?,
            connect_timeout: options.connect_timeout,
            read_only: options.read_only,
            schema: options.schema.clone(),
            settings,
            statement_timeout: options.statement_timeout,
            read_timeout: options.read_timeout,
            engine: OnceCell::new(),
        })
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// Connects to the first host that is suitable.
    pub(crate) async fn connect(&self, role: Role, notifications: Option<Notifications>) -> Result<Session> {
        let mut refusal = None;
        for host in &self.hosts {
            let connecting = self.connect_to(host, role, notifications.clone());
            match tokio::time::timeout(self.connect_timeout, connecting).await {
                Ok(Ok(session)) => return Ok(session),
                Ok(Err(failure)) => refusal = Some(failure.into_store_error("connecting")),
                Err(_) => {
                    let reason = format!("no connection within {:?}", self.connect_timeout);
                    refusal = Some(unavailable(reason));
                }
            }
        }
        Err(Failure::NoConnection(refusal.unwrap_or_else(|| unavailable("there is no host to connect to"))))
    }

    async fn connect_to(
        &self,
        host: &Config,
        role: Role,
        notifications: Option<Notifications>,
    ) -> Result<Session> {
        let (client, connection) = host.connect(self.tls.clone()).await?;
        let warned = Arc::new(AtomicBool::new(false));
        tokio::spawn(drive(connection, Arc::clone(&warned), notifications));
        let engine = *self.engine.get_or_try_init(|| Engine::of(&client)).await?;
        self.set_up(&client, role, engine).await?;
        self.check(&client, role).await?;
        let statements = Statements::prepare(&client, role, engine).await?;
        Ok(Session {
            client,
            engine,
            begin: self.begin("READ COMMITTED", engine),
            begin_snapshot: self.begin_snapshot(engine),
            statements,
            record_writes: OnceCell::new(),
            record_reads: OnceCell::new(),
            forget_writes: OnceCell::new(),
            delete_oldest: OnceCell::new(),
            forgotten_reads: OnceCell::new(),
            warned,
        })
    }

    async fn set_up(&self, client: &Client, role: Role, engine: Engine) -> Result<()> {
        // An append's statements are planned once, and join by index whatever the lengths of the arrays. The best plan
        // of a read depends on its parameters, so each read is planned. Citus has to see the partition when it plans.
        let once = if engine == Engine::Citus { "auto" } else { "force_generic_plan" };
        let nested =
            [("plan_cache_mode", once), ("enable_hashjoin", "off"), ("enable_mergejoin", "off"), NO_SORT];
        let custom = [("plan_cache_mode", "force_custom_plan"), NO_SORT];
        let mut further = if role == Role::Append { nested.to_vec() } else { custom.to_vec() };
        if engine == Engine::Citus && matches!(role, Role::Append | Role::Migrate) {
            // A warning that another server gives at its commit comes as this: see `is_warning`.
            further.push(("client_min_messages", "debug1"));
        }
        let timeout = if role == Role::Read { self.read_timeout } else { self.statement_timeout };
        let timeout = timeout.as_millis().to_string();
        let settings = self.settings.iter().map(|(name, value)| (*name, value.as_str()));
        let settings = settings.chain([("statement_timeout", timeout.as_str())]);
        try_join_all(settings.chain(further).map(|(name, value)| async move {
            match client.simple_query(&format!("SET {name} = '{value}'")).await {
                Ok(_) => Ok(()),
                // The engine does not know the setting, or the role may not change it.
                Err(error) if error.as_db_error().is_some() => {
                    debug!(setting = name, %error, "not set");
                    Ok(())
                }
                Err(error) => Err(Failure::from(error)),
            }
        }))
        .await?;
        Ok(())
    }

    /// The statements that begin a transaction. The settings of a session of Citus are those of the coordinator alone, so
    /// its transactions take theirs along: each in a message of its own, whose whole text goes to the other servers.
    fn begin(&self, isolation: &str, engine: Engine) -> Vec<String> {
        let mut begin = vec![format!("BEGIN ISOLATION LEVEL {isolation}")];
        if engine == Engine::Citus {
            let settings = self.settings.iter().map(|(name, value)| (*name, value.as_str()));
            let taken = settings.chain([NO_SORT]).filter(|(name, _)| citus::IN_TRANSACTIONS.contains(name));
            begin.extend(taken.map(|(name, value)| format!("SET LOCAL {name} = '{value}'")));
        }
        begin
    }

    /// A snapshot is not ended for being idle on one server of a cluster, which waits for the others. It holds no lock that
    /// anybody waits for.
    fn begin_snapshot(&self, engine: Engine) -> Vec<String> {
        let mut begin = self.begin("REPEATABLE READ READ ONLY", engine);
        if engine == Engine::Citus {
            begin.push(MAY_BE_IDLE.to_owned());
        }
        begin
    }

    /// Refuses a server that is not suitable for the role.
    async fn check(&self, client: &Client, role: Role) -> Result<()> {
        let row = client
            .query_one(
                "SELECT current_setting('synchronous_commit'), current_setting('transaction_read_only'),
                        current_setting('fsync', true), current_setting('full_page_writes', true)",
                &[],
            )
            .await?;
        let setting = |column| get::<Option<&str>>(&row, column);
        if self.read_only {
            return Ok(());
        }
        let is_standby = match client.query_one("SELECT pg_is_in_recovery()", &[]).await {
            Ok(row) => get(&row, 0)?,
            // An engine without standbys.
            Err(error) if error.as_db_error().is_some() => false,
            Err(error) => return Err(error.into()),
        };
        if is_standby {
            return Err(unavailable("the server is a standby and takes no writes").into());
        }
        if !matches!(role, Role::Append | Role::Migrate) {
            return Ok(());
        }
        if setting(0)? != Some("on") {
            return Err(unavailable("the server does not set synchronous_commit to on").into());
        }
        if setting(1)? == Some("on") {
            return Err(unavailable("the database is read-only (default_transaction_read_only)").into());
        }
        for (column, name) in [(2, "fsync"), (3, "full_page_writes")] {
            if setting(column)? == Some("off") {
                let reason =
                    format!("is off on the server, so it can lose acknowledged events: turn {name} on");
                return Err(StoreError::invalid(name, reason).into());
            }
        }
        Ok(())
    }
}

/// Runs a connection until its client is dropped or the server ends it.
async fn drive<S, T>(
    mut connection: Connection<S, T>,
    warned: Arc<AtomicBool>,
    notifications: Option<Notifications>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            Ok(AsyncMessage::Notice(notice)) => {
                if is_warning(&notice) {
                    let (code, message) = (notice.code().code(), notice.message());
                    // The ROLLBACK of a failed transaction gets this warning: the COMMIT sent along has ended it
                    // already.
                    if notice.code() == &SqlState::NO_ACTIVE_SQL_TRANSACTION {
                        debug!(code, message, "the database server warns");
                    } else {
                        warn!(code, message, "the database server warns");
                    }
                    warned.store(true, Ordering::SeqCst);
                } else {
                    trace!(note = notice.message(), detail = notice.detail(), "the database server notes");
                }
            }
            Ok(AsyncMessage::Notification(notification)) => {
                if let Some(notifications) = &notifications {
                    // If the channel is full, the notification is dropped: polling finds the commit.
                    let _ = notifications.try_send(notification.payload().to_owned());
                }
            }
            Ok(_) => {}
            Err(error) => {
                debug!(%error, "a connection ended");
                return;
            }
        }
    }
}

/// Citus passes on the warnings of other servers, but not as warnings. Their code is left.
fn is_warning(notice: &DbError) -> bool {
    matches!(notice.parsed_severity(), Some(Severity::Warning)) || notice.code().code().starts_with("01")
}

impl Session {
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The statements that write records. Must not be called inside a transaction.
    pub(crate) async fn record_writes(&self) -> Result<&RecordWrites> {
        self.record_writes.get_or_try_init(|| RecordWrites::prepare(&self.client)).await
    }

    /// The statements that read records.
    pub(crate) async fn record_reads(&self) -> Result<&RecordReads> {
        self.record_reads.get_or_try_init(|| RecordReads::prepare(&self.client)).await
    }

    /// The statements that forget identities.
    pub(crate) async fn forget_writes(&self) -> Result<&ForgetWrites> {
        self.forget_writes.get_or_try_init(|| ForgetWrites::prepare(&self.client)).await
    }

    /// The statement that deletes the oldest rows of a topic.
    pub(crate) async fn delete_oldest(&self) -> Result<&Statement> {
        let sql = if self.engine.is_one_server() { DELETE_IN_PLACE } else { DELETE_BY_KEY };
        self.delete_oldest.get_or_try_init(async || Ok(self.client.prepare(sql).await?)).await
    }

    /// The statements that read marks of forgotten identities.
    pub(crate) async fn forgotten_reads(&self) -> Result<&ForgottenReads> {
        self.forgotten_reads.get_or_try_init(|| ForgottenReads::prepare(&self.client)).await
    }

    pub(crate) async fn query(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>> {
        Ok(self.client.query(statement, parameters).await?)
    }

    pub(crate) async fn execute(
        &self,
        statement: &Statement,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64> {
        Ok(self.client.execute(statement, parameters).await?)
    }

    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        Ok(self.client.batch_execute(sql).await?)
    }

    /// Begins a transaction that writes.
    pub(crate) async fn begin(&self) -> Result<()> {
        try_join_all(self.begin.iter().map(|sql| self.run(sql))).await.map(drop)
    }

    /// Begins a transaction in which all statements see the same state. With Citus, that is the state of each server.
    pub(crate) async fn begin_snapshot(&self) -> Result<()> {
        try_join_all(self.begin_snapshot.iter().map(|sql| self.run(sql))).await.map(drop)
    }

    /// Lets the transaction be idle for any time. Each server of a cluster is, while the slowest one works. To be sent along
    /// with its beginning.
    pub(crate) async fn allow_idle(&self) -> Result<()> {
        self.run(MAY_BE_IDLE).await
    }

    /// Forgets earlier warnings of the server, so that [`Self::check_warnings`] judges only the next commit.
    pub(crate) fn forget_warnings(&self) {
        self.warned.store(false, Ordering::SeqCst);
    }

    /// Refuses a commit that came with a warning. If the wait for a synchronous standby is cancelled
    /// (`pg_cancel_backend`), the server has committed on its own disk only. It says so with a warning, and then
    /// reports success as usual.
    pub(crate) fn check_warnings(&self) -> Result<()> {
        if self.warned.load(Ordering::SeqCst) { Err(Failure::UnconfirmedCommit) } else { Ok(()) }
    }
}
