//! Watches the servers of a cluster, so that a partition whose server is down is refused at once.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::StoreError;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::cluster::{Cluster, Server};
use crate::columns::{get, get_u64};
use crate::connection::session::{Connector, Role, Session};
use crate::fault::{Failure, Result};
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
        for number in 0_u32.. {
            let began = Instant::now();
            let with_sizes = number.is_multiple_of(SIZES_ONCE_IN);
            let late = |_| Failure::from(crate::fault::unavailable(format!("no answer within {LONGEST:?}")));
            for server in timeout(LONGEST, see(session, &self.cluster, with_sizes)).await.map_err(late)?? {
                let address = server.address;
                match server.fault {
                    Some(fault) => debug!(server = address, fault, "a server of the cluster takes no events"),
                    None => debug!(server = address, "a server of the cluster takes events again"),
                }
            }
            tokio::select! {
                () = self.cluster.suspected.notified() => sleep_until(began + LEAST).await,
                () = sleep_until(began + INTERVAL) => {}
            }
        }
        unreachable!("the numbers do not end before the process does")
    }
}

/// Looks at all servers before the store is used. A server that does not answer takes its partitions with it.
///
/// # Errors
/// [`StoreError::Invalid`] if a server that answers can lose acknowledged events.
pub(crate) async fn look(session: &Session, cluster: &Cluster) -> Result<()> {
    for server in see(session, cluster, true).await? {
        if let Some(fault) = server.fault.filter(|fault| fault.starts_with(UNSAFE)) {
            return Err(
                StoreError::invalid("store", format!("the server {}: {fault}", server.address)).into()
            );
        }
    }
    Ok(())
}

/// How a fault begins that an operator has to mend.
const UNSAFE: &str = "it can lose acknowledged events";

/// Asks each server, and finds out which one has which partition. Returns the servers whose state has changed.
async fn see(session: &Session, cluster: &Cluster, with_sizes: bool) -> Result<Vec<Server>> {
    // No two have the same name and port.
    const SERVERS: &str = "SELECT nodename, nodeport FROM pg_dist_node WHERE isactive AND noderole = 'primary' AND shouldhaveshards";
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
    let mut faults: BTreeMap<(String, i32), Option<String>> = BTreeMap::new();
    let question = format!("SELECT {UNSAFE_SETTINGS}");
    for row in session.client.query(ASK, &[&names, &ports, &question]).await? {
        let answer = get::<Option<String>>(&row, 3)?.unwrap_or_default();
        let fault = match (get::<bool>(&row, 2)?, answer) {
            (true, off) if off.is_empty() => None,
            (true, off) => Some(format!("{UNSAFE}, because {off} is off: turn it on")),
            (false, told) => Some(told.trim_end().replace('\n', " ")),
        };
        faults.insert((get(&row, 0)?, get(&row, 1)?), fault);
    }
    let count = i32::from(cluster.partitions().count());
    let mut servers = Vec::new();
    for row in session.client.query(PLACES, &[&count]).await? {
        let (Some(name), Some(port)) = (get::<Option<String>>(&row, 0)?, get::<Option<i32>>(&row, 1)?) else {
            return Err(Failure::corrupt(format!("partition {} is on no server", servers.len())));
        };
        let address = format!("{name}:{port}");
        let fault = faults.get(&(name, port)).cloned();
        servers.push(Server { address, fault: fault.unwrap_or_else(|| Some("it is not active".into())) });
    }
    if servers.len() != usize::from(cluster.partitions().count()) {
        return Err(Failure::corrupt(
            "a partition is on more than one server: use a replication factor of 1",
        ));
    }
    // While one does not answer, the others' sizes would come with warnings, and their sum would mean nothing.
    let all_answer = servers.iter().all(|server| server.fault.is_none());
    let bytes = if with_sizes && all_answer { Some(sizes(session).await?) } else { None };
    Ok(cluster.saw(servers, bytes))
}

/// The bytes of the distributed tables on all servers.
async fn sizes(session: &Session) -> Result<u64> {
    let sql = "SELECT coalesce(sum(citus_total_relation_size(d.logicalrelid, false)), 0)::bigint
               FROM pg_dist_partition d JOIN pg_class c ON c.oid = d.logicalrelid
               JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()";
    get_u64(&session.client.query_one(sql, &[]).await?, 0)
}
