//! Watches the servers of a cluster, so that a partition whose server is down is refused at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::{Partitions, StoreError};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::cluster::{Cluster, Fault, Server};
use crate::columns::{get, get_u64};
use crate::connection::session::{Connector, Role, Session};
use crate::fault::{Failure, Result, unavailable};
use crate::schema::statements::UNSAFE_SETTINGS;

/// How often the servers are looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// How long after a look the next one may begin at the earliest, if somebody asks for it.
const LEAST: Duration = Duration::from_millis(200);
/// How long one look may take, with servers that do not answer.
const LONGEST: Duration = Duration::from_secs(20);
/// Sizes are asked at each look of this many.
const SIZES_ONCE_IN: u32 = 15;

/// Looks at the servers over a connection of its own.
pub(crate) struct Watch {
    pub(crate) connector: Arc<Connector>,
    pub(crate) cluster: Arc<Cluster>,
}

impl Watch {
    /// Runs until the runtime ends.
    pub(crate) async fn run(self) {
        loop {
            let error = match self.connector.connect(Role::Relay, None).await {
                Ok(session) => {
                    let Err(failure) = self.watch(&session).await;
                    failure.into_store_error("watching the servers")
                }
                Err(failure) => failure.into_store_error("watching the servers"),
            };
            // Without the coordinator, appends say so themselves.
            debug!(%error, "the servers are not watched");
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn watch(&self, session: &Session) -> Result<Infallible> {
        let late = |_| Failure::from(unavailable(format!("no answer within {LONGEST:?}")));
        let mut looks = 0_u32;
        loop {
            let began = Instant::now();
            let seen = see(session, self.cluster.partitions());
            self.cluster.saw(timeout(LONGEST, seen).await.map_err(late)??);
            if looks.is_multiple_of(SIZES_ONCE_IN) {
                measure(session, &self.cluster).await;
            }
            looks = looks.wrapping_add(1);
            tokio::select! {
                () = self.cluster.suspected.notified() => sleep_until(began + LEAST).await,
                () = sleep_until(began + INTERVAL) => {}
            }
        }
    }
}

/// Looks at all servers before the store is used. A server that does not answer takes its partitions with it.
///
/// # Errors
/// [`StoreError::Invalid`] if a server that answers can lose acknowledged events.
pub(crate) async fn look(session: &Session, cluster: &Cluster) -> Result<()> {
    let servers = see(session, cluster.partitions()).await?;
    for Server { address, fault } in &servers {
        if let Some(fault @ Fault::NotDurable(_)) = fault {
            return Err(StoreError::invalid("store", format!("the server {address}: {fault}")).into());
        }
    }
    cluster.saw(servers);
    measure(session, cluster).await;
    Ok(())
}

/// Asks each server, and finds out which one has which partition. Returns the server of each.
async fn see(session: &Session, partitions: Partitions) -> Result<Vec<Server>> {
    // Also those that are to have no shards any more, as long as they have some. No two have the same name and port.
    const SERVERS: &str =
        "SELECT nodename, nodeport FROM pg_dist_node n WHERE isactive AND noderole = 'primary'
                           AND EXISTS (SELECT FROM pg_dist_placement p WHERE p.groupid = n.groupid)";
    const ASK: &str = "SELECT node_name, node_port, success, result
                       FROM master_run_on_worker($1::text[], $2::integer[],
                                                 array_fill($3::text, ARRAY[cardinality($1)]), true)";
    const PLACES: &str = "SELECT n.nodename, n.nodeport FROM generate_series(0, $1::integer - 1) AS k(partition)
         LEFT JOIN pg_dist_placement p ON p.shardid = get_shard_id_for_distribution_column('partitions', k.partition)
         LEFT JOIN pg_dist_node n ON n.groupid = p.groupid AND n.noderole = 'primary'
         ORDER BY k.partition";
    let (mut names, mut ports) = (Vec::new(), Vec::new());
    for row in session.client.query(SERVERS, &[]).await? {
        names.push(get::<String>(&row, 0)?);
        ports.push(get::<i32>(&row, 1)?);
    }
    let mut faults: BTreeMap<(String, i32), Option<Fault>> = BTreeMap::new();
    let question = format!("SELECT {UNSAFE_SETTINGS}");
    for row in session.client.query(ASK, &[&names, &ports, &question]).await? {
        let answer = get::<Option<String>>(&row, 3)?.unwrap_or_default();
        let fault = match (get::<bool>(&row, 2)?, answer) {
            (true, off) if off.is_empty() => None,
            (true, off) => Some(Fault::NotDurable(off)),
            (false, told) => Some(Fault::Silent(told.trim_end().replace('\n', " "))),
        };
        faults.insert((get(&row, 0)?, get(&row, 1)?), fault);
    }
    let count = i32::from(partitions.count());
    let mut servers = Vec::new();
    for row in session.client.query(PLACES, &[&count]).await? {
        let (Some(name), Some(port)) = (get::<Option<String>>(&row, 0)?, get::<Option<i32>>(&row, 1)?) else {
            return Err(Failure::corrupt(format!("partition {} is on no server", servers.len())));
        };
        let address = format!("{name}:{port}");
        let fault = faults.get(&(name, port)).cloned();
        let inactive = || Some(Fault::Silent("it is not active".into()));
        servers.push(Server { address, fault: fault.unwrap_or_else(inactive) });
    }
    if servers.len() != usize::from(partitions.count()) {
        let reason = "has a partition on more than one server: use a replication factor of 1";
        return Err(StoreError::invalid("store", reason).into());
    }
    Ok(servers)
}

/// Measures the distributed tables on all servers, if all of them answer: the sum of some would mean nothing. Where a table
/// is locked, as by `VACUUM FULL`, what was measured before stays.
async fn measure(session: &Session, cluster: &Cluster) {
    if !cluster.outages().is_empty() {
        return;
    }
    match sizes(session).await {
        Ok(bytes) => cluster.measured(bytes),
        Err(failure) => {
            let error = failure.into_store_error("measuring");
            debug!(%error, "the sizes are not known");
        }
    }
    if let Err(failure) = session.run("ROLLBACK").await {
        debug!(error = %failure.into_store_error("measuring"), "the session ended");
    }
}

/// The bytes of the distributed tables on all servers. The session is inside a transaction then. No wait for a table may
/// keep anybody from noticing that a server is gone.
async fn sizes(session: &Session) -> Result<u64> {
    tokio::try_join!(biased; session.run("BEGIN"), session.run("SET LOCAL statement_timeout = '2s'"))?;
    let sql = "SELECT coalesce(sum(citus_total_relation_size(d.logicalrelid)), 0)::bigint
               FROM pg_dist_partition d JOIN pg_class c ON c.oid = d.logicalrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()";
    get_u64(&session.client.query_one(sql, &[]).await?, 0)
}
