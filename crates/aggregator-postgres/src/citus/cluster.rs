//! What is known of the servers of a cluster: which one has which partition, and which ones do not answer.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aggregator_core::{Outage, Partition, Partitions, StoreError};
use tokio::sync::Notify;

use crate::columns::{get_u64, partition_number};
use crate::connection::session::Session;
use crate::fault::{Failure, Result, unavailable};

/// The servers of a store whose partitions are on several. It is told by [`look`](super::watch::look), and asks nobody
/// itself but for [`Self::last_offsets`].
pub(crate) struct Cluster {
    partitions: Partitions,
    state: Mutex<State>,
    /// Wakes the watch: somebody met a server that did not answer.
    pub(super) suspected: Notify,
}

#[derive(Default)]
struct State {
    /// By the number of the partition. Empty before the first look.
    servers: Vec<Server>,
    /// How many topics each partition had when its offset was read last, or after a commit of this node.
    topics: BTreeMap<Partition, u64>,
    bytes: u64,
}

/// The server that has a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) address: String,
    /// Why it can take no events; `None` if it can.
    pub(super) fault: Option<Fault>,
}

/// Why a server can take no events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// It does not answer: what the coordinator says of it.
    Silent(String),
    /// It can lose acknowledged events: which settings are off.
    NotDurable(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent(told) => f.write_str(told),
            Self::NotDurable(off) => {
                write!(f, "it can lose acknowledged events, because {off} is off: turn it on")
            }
        }
    }
}

impl Cluster {
    pub(crate) fn new(partitions: Partitions) -> Self {
        Self { partitions, state: Mutex::default(), suspected: Notify::new() }
    }

    pub(crate) fn partitions(&self) -> Partitions {
        self.partitions
    }

    /// Fails at once if the server of one of these partitions is known not to answer, or not to be durable.
    pub(crate) fn check(
        &self,
        partitions: impl IntoIterator<Item = Partition>,
    ) -> std::result::Result<(), StoreError> {
        let state = self.state();
        for partition in partitions {
            let server = state.servers.get(usize::from(partition.0));
            if let Some((server, fault)) = server.and_then(|server| Some((server, server.fault.as_ref()?))) {
                let address = &server.address;
                return Err(unavailable(format!("partition {} is on {address}: {fault}", partition.0)));
            }
        }
        Ok(())
    }

    pub(crate) fn is_well(&self, partition: Partition) -> bool {
        self.check([partition]).is_ok()
    }

    /// Whether this failure of a statement for one partition is that of its server: the coordinator is there, and told that
    /// the server was not, or not in time. Then the servers are looked at soon. Anything else, such as damage, is a failure
    /// of the call.
    pub(crate) fn is_told_by(&self, session: &Session, failure: &Failure) -> bool {
        let is_late = failure.code() == Some("57014");
        let is_told =
            (is_late || failure.code().is_some() && failure.leaves_outcome_unknown()) && !session.is_closed();
        if is_told {
            self.suspect();
        }
        is_told
    }

    /// Has the servers looked at soon, because one did not answer.
    pub(crate) fn suspect(&self) {
        self.suspected.notify_one();
    }

    /// Each server that can take no events, with its partitions.
    pub(crate) fn outages(&self) -> Vec<Outage> {
        let state = self.state();
        let mut outages: BTreeMap<&str, (Vec<Partition>, &Fault)> = BTreeMap::new();
        for (partition, server) in self.partitions.iter().zip(&state.servers) {
            if let Some(fault) = &server.fault {
                outages.entry(&server.address).or_insert_with(|| (Vec::new(), fault)).0.push(partition);
            }
        }
        let outage = |(address, (partitions, fault))| {
            Outage::new(partitions, format!("the server {address}: {fault}"))
        };
        outages.into_iter().map(outage).collect()
    }

    /// How many topics all other partitions have. Counting them under a partition's lock would ask every server, so this is
    /// what was known when the offsets were read last, and what this node has created.
    pub(crate) fn topics_beside(&self, partitions: &[i32]) -> u64 {
        let state = self.state();
        let beside =
            state.topics.iter().filter(|(partition, _)| !partitions.contains(&partition_number(**partition)));
        beside.map(|(_, topics)| topics).sum()
    }

    /// Notes how many topics a partition has. There are never fewer than before, but a count can come late.
    pub(crate) fn counted(&self, partition: Partition, topics: u64) {
        let mut state = self.state();
        let known = state.topics.entry(partition).or_default();
        *known = topics.max(*known);
    }

    /// The server that has a partition.
    pub(crate) fn address(&self, partition: Partition) -> Option<String> {
        self.state().servers.get(usize::from(partition.0)).map(|server| server.address.clone())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.state().bytes
    }

    /// The last offset of each partition; 0 where its server does not answer.
    pub(crate) async fn last_offsets(&self, session: &Session) -> Result<Vec<u64>> {
        let mut last_offsets = vec![0; usize::from(self.partitions.count())];
        for (partition, last_offset) in self.read_ends(session).await? {
            last_offsets[usize::from(partition.0)] = last_offset;
        }
        Ok(last_offsets)
    }

    /// The last offsets of the partitions whose servers answer. Asks each server for its own, and also for how many topics
    /// the partitions have.
    pub(crate) async fn read_ends(&self, session: &Session) -> Result<Vec<(Partition, u64)>> {
        const END: &str = "SELECT last_offset, topics FROM partitions WHERE partition = $1";
        let statement = session.client.prepare(END).await?;
        let mut ends = Vec::new();
        // One that does not answer is waited for once, and not for each of its partitions.
        let mut silent = BTreeSet::new();
        for partition in self.partitions.iter().filter(|partition| self.is_well(*partition)) {
            let address = self.address(partition);
            if silent.contains(&address) {
                continue;
            }
            match session.query(&statement, &[&partition_number(partition)]).await {
                Ok(rows) => {
                    let Some(row) = rows.first() else { continue };
                    ends.push((partition, get_u64(row, 0)?));
                    self.counted(partition, get_u64(row, 1)?);
                }
                Err(failure) if self.is_told_by(session, &failure) => _ = silent.insert(address),
                Err(failure) => return Err(failure),
            }
        }
        Ok(ends)
    }

    /// Takes in what was seen of the servers, one for each partition.
    pub(super) fn saw(&self, servers: Vec<Server>) {
        self.state().servers = servers;
    }

    /// Takes in how many bytes all tables have.
    pub(super) fn measured(&self, bytes: u64) {
        self.state().bytes = bytes;
    }

    /// No code of others runs while it is held.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(address: &str, fault: Option<Fault>) -> Server {
        Server { address: address.into(), fault }
    }

    #[test]
    fn a_server_that_takes_no_events_takes_only_its_own_partitions_with_it() {
        let cluster = Cluster::new(Partitions::new(4).unwrap());
        assert!(cluster.outages().is_empty() && cluster.is_well(Partition(3)), "nothing is known yet");
        for (fault, told) in [
            (Fault::Silent("no connection".into()), "b:2: no connection"),
            (Fault::NotDurable("fsync".into()), "b:2: it can lose acknowledged events, because fsync is off"),
        ] {
            let (up, down) = (server("a:1", None), server("b:2", Some(fault)));
            cluster.saw(vec![up.clone(), down.clone(), up.clone(), down]);
            assert!(cluster.is_well(Partition(0)) && !cluster.is_well(Partition(1)));
            assert!(cluster.check([Partition(0), Partition(2)]).is_ok());
            let error = cluster.check([Partition(2), Partition(3)]).unwrap_err();
            assert!(error.is_retryable(), "{error}");
            assert!(error.to_string().contains(&format!("partition 3 is on {told}")), "{error}");
            let outages = cluster.outages();
            assert_eq!(outages.len(), 1, "one of the server");
            assert_eq!(outages[0].partitions, [Partition(1), Partition(3)]);
            assert!(outages[0].reason.contains(told), "{}", outages[0].reason);
            cluster.saw(vec![up.clone(), server("b:2", None), up, server("b:2", None)]);
            assert!(cluster.outages().is_empty());
        }
    }

    #[test]
    fn a_count_of_topics_that_comes_late_changes_nothing() {
        let cluster = Cluster::new(Partitions::new(4).unwrap());
        for (partition, topics) in [(0, 3), (1, 5), (1, 4), (2, 1)] {
            cluster.counted(Partition(partition), topics);
        }
        assert_eq!(cluster.topics_beside(&[0]), 6);
        assert_eq!(cluster.topics_beside(&[3]), 9);
    }
}
