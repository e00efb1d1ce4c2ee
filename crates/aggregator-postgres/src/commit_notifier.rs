//! Announces the commits of all nodes to the listeners of this node.
//!
//! [`CommitAnnouncer`] announces this node's own commits at once. [`CommitRelay`] sends them to the other nodes with
//! `NOTIFY`, and receives theirs with `LISTEN`. It limits how often it sends, because `NOTIFY` takes a lock that all
//! databases of the server share. It also polls the offsets, because a notification can be lost.

mod connection_health;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aggregator_core::store::backend::CommitNotifier;
use aggregator_core::{CommitCallback, CommitListener, Partition};

use tokio::sync::Notify;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Instant, timeout};
use tracing::debug;

use crate::PostgresOptions;
use crate::citus::Cluster;
use crate::columns::{get, get_u64};
use crate::commit_notifier::connection_health::{ConnectionHealth, LONGEST_PAUSE};
use crate::connection::pool::Pool;
use crate::connection::session::{Connector, Role, Session};
use crate::fault::{Result, unavailable};

/// Announces commits to this node's listeners, and collects the offsets to send to other nodes.
pub(crate) struct CommitAnnouncer {
    listeners: CommitNotifier,
    /// For each partition, the newest offset that has not been sent to other nodes.
    news: Mutex<BTreeMap<u16, u64>>,
    has_news: Notify,
}

impl CommitAnnouncer {
    pub(crate) fn new(last_offsets: Vec<u64>) -> Self {
        Self { listeners: CommitNotifier::new(last_offsets), news: Mutex::default(), has_news: Notify::new() }
    }

    pub(crate) fn listen(&self, callback: CommitCallback) -> CommitListener {
        self.listeners.listen(callback)
    }

    /// Announces a commit of this node.
    pub(crate) fn committed(&self, partition: Partition, last_offset: u64) {
        self.add_news(partition.0, last_offset);
        self.listeners.announce(partition, last_offset);
    }

    fn add_news(&self, partition: u16, last_offset: u64) {
        let mut news = self.news();
        let known = news.entry(partition).or_default();
        *known = last_offset.max(*known);
        drop(news);
        self.has_news.notify_one();
    }

    fn news(&self) -> MutexGuard<'_, BTreeMap<u16, u64>> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces an offset that the database reported. It belongs to a commit of another node, or to one of this node,
    /// which was announced already.
    fn heard(&self, partition: u16, last_offset: u64) {
        let partition = Partition(partition);
        if self.listeners.is_news(partition, last_offset) {
            // A callback may call the store, and so wait for tasks of this runtime. `block_in_place` moves these to
            // another thread.
            tokio::task::block_in_place(|| self.listeners.announce(partition, last_offset));
        }
    }
}

/// Carries offsets between this node and the others, over a connection of its own.
pub(crate) struct CommitRelay {
    connector: Arc<Connector>,
    /// While the relay has no connection of its own, it polls over one of these.
    readers: Arc<Pool>,
    announcer: Arc<CommitAnnouncer>,
    channel: String,
    listen: bool,
    notify_interval: Duration,
    poll_interval: Duration,
    /// How long a poll over a reader's connection may take.
    deadline: Duration,
    /// Where the partitions are, if they are on several servers.
    cluster: Option<Arc<Cluster>>,
}

/// The most bytes of one notification. PostgreSQL takes fewer than 8000.
const MAX_NOTIFICATION_BYTES: usize = 7_900;
/// How many received notifications can wait to be handled.
const MAX_WAITING: usize = 1_024;
/// With notifications, polls are this many times rarer. They find the commits whose notification was lost.
const POLL_LESS: u32 = 20;

impl CommitRelay {
    pub(crate) fn new(
        connector: Arc<Connector>,
        readers: Arc<Pool>,
        announcer: Arc<CommitAnnouncer>,
        channel: String,
        options: &PostgresOptions,
    ) -> Self {
        let &PostgresOptions { listen, notify_interval, poll_interval, deadline, .. } = options;
        Self {
            connector,
            readers,
            announcer,
            channel,
            listen,
            notify_interval,
            poll_interval,
            deadline,
            cluster: None,
        }
    }

    /// For a store whose partitions are on several servers.
    pub(crate) fn over(self, cluster: Option<Arc<Cluster>>) -> Self {
        Self { cluster, ..self }
    }

    /// Runs until the runtime ends. Reconnects after a pause whenever the connection fails.
    pub(crate) async fn run(self) {
        let mut health = ConnectionHealth::new();
        loop {
            let (session, notifications) = tokio::select! {
                connected = self.connect(&mut health) => connected,
                never = self.poll_without_connection() => match never {},
            };
            let Err(failure) = self.serve(&session, notifications, &mut health).await;
            health.failed(&failure.into_store_error("relaying commits"));
        }
    }

    async fn connect(&self, health: &mut ConnectionHealth) -> (Session, Receiver<String>) {
        loop {
            tokio::time::sleep(health.pause()).await;
            let (sender, notifications) = channel(MAX_WAITING);
            match self.connector.connect(Role::Relay, Some(sender)).await {
                Ok(session) => return (session, notifications),
                Err(failure) => health.failed(&failure.into_store_error("relaying commits")),
            }
        }
    }

    /// Reads the offsets over a reader's connection while the relay has none of its own: the server may refuse new
    /// connections and still keep the old ones.
    async fn poll_without_connection(&self) -> Infallible {
        loop {
            tokio::time::sleep(self.poll_interval).await;
            let Some(pooled) = self.readers.idle() else { continue };
            // A connection that fails or is too slow is not released, so it is closed.
            if let Ok(Ok(())) = timeout(self.deadline, self.read_offsets(pooled.session())).await {
                pooled.release();
            }
        }
    }

    /// Serves until the connection fails.
    async fn serve(
        &self,
        session: &Session,
        mut notifications: Receiver<String>,
        health: &mut ConnectionHealth,
    ) -> Result<Infallible> {
        let listens = self.listen && self.try_sql(session, &format!("LISTEN {}", self.channel)).await?;
        let interval = if listens { self.poll_interval * POLL_LESS } else { self.poll_interval };
        let mut polls = tokio::time::interval(interval);
        polls.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut notifies = self.listen;
        let mut next_notification = Instant::now();
        let (holds_at, mut has_held) = (Instant::now() + LONGEST_PAUSE, false);
        loop {
            tokio::select! {
                // The first tick comes at once: there may have been commits while there was no connection.
                _ = polls.tick() => self.read_offsets(session).await?,
                text = notifications.recv() => match text {
                    Some(text) => self.hear(&text),
                    None => return Err(unavailable("the connection has ended").into()),
                },
                () = self.announcer.has_news.notified(), if notifies => {
                    tokio::time::sleep_until(next_notification).await;
                    notifies = self.notify(session).await?;
                    next_notification = Instant::now() + self.notify_interval;
                }
                () = tokio::time::sleep_until(holds_at), if !has_held => {
                    health.held();
                    has_held = true;
                }
            }
        }
    }

    /// Runs this SQL, and returns whether the server accepted it.
    async fn try_sql(&self, session: &Session, sql: &str) -> Result<bool> {
        match session.run(sql).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.leaves_outcome_unknown() => Err(failure),
            Err(failure) => {
                debug!(error = %failure.into_store_error(sql), "the server refused the statement");
                Ok(false)
            }
        }
    }

    async fn read_offsets(&self, session: &Session) -> Result<()> {
        if let Some(cluster) = &self.cluster {
            let ends = cluster.read_ends(session).await?;
            ends.into_iter()
                .for_each(|(partition, last_offset)| self.announcer.heard(partition.0, last_offset));
            return Ok(());
        }
        for row in session.client.query("SELECT partition, last_offset FROM partitions", &[]).await? {
            let partition: i32 = get(&row, 0)?;
            if let Ok(partition) = u16::try_from(partition) {
                self.announcer.heard(partition, get_u64(&row, 1)?);
            }
        }
        Ok(())
    }

    /// Handles a text that [`Self::notify`] of a node wrote. Ignores what it cannot parse: the next poll finds the
    /// commit.
    fn hear(&self, text: &str) {
        for news in text.split(' ') {
            let news =
                news.split_once(':').and_then(|(p, offset)| Some((p.parse().ok()?, offset.parse().ok()?)));
            if let Some((partition, offset)) = news {
                self.announcer.heard(partition, offset);
            }
        }
    }

    /// Sends the collected offsets to the other nodes. Returns whether the server accepts notifications.
    async fn notify(&self, session: &Session) -> Result<bool> {
        let news = std::mem::take(&mut *self.announcer.news());
        for text in notifications(&news) {
            // The name and the text hold nothing that needs quoting.
            match self.try_sql(session, &format!("NOTIFY {}, '{text}'", self.channel)).await {
                Ok(true) => {}
                Ok(false) => return Ok(false),
                Err(failure) => {
                    // They are sent over the next connection.
                    news.into_iter()
                        .for_each(|(partition, offset)| self.announcer.add_news(partition, offset));
                    return Err(failure);
                }
            }
        }
        Ok(true)
    }
}

/// Pairs of `partition:offset`, separated by spaces, in texts that each fit into a notification.
fn notifications(news: &BTreeMap<u16, u64>) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for (partition, offset) in news {
        let item = format!("{partition}:{offset}");
        match texts.last_mut().filter(|text| text.len() + 1 + item.len() <= MAX_NOTIFICATION_BYTES) {
            Some(text) => {
                text.push(' ');
                text.push_str(&item);
            }
            None => texts.push(item),
        }
    }
    texts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news_of_all_partitions_fit_into_notifications() {
        // As many partitions and as large offsets as there can be.
        let news: BTreeMap<u16, u64> = (0..1024).map(|partition| (partition, u64::MAX - 1)).collect();
        let texts = notifications(&news);
        assert!(texts.iter().all(|text| text.len() < 8_000), "PostgreSQL takes 8000 bytes");
        let told: Vec<_> = texts.iter().flat_map(|text| text.split(' ')).collect();
        assert_eq!(told.len(), 1024);
        assert_eq!(told[1023], format!("1023:{}", u64::MAX - 1));
        assert_eq!(notifications(&BTreeMap::new()), [""; 0]);
    }
}
