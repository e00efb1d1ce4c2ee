//! One store made of several, each of which fails alone.
//!
//! [`Sharded`] makes one [`DedupStore`] of N stores of one kind, in a fixed order: several SQLite files, with a writer each,
//! or several PostgreSQL databases. A topic lives in one shard, so everything that the contract promises of a topic is
//! the shard's promise. What the whole adds is the way there (`routing`), one stream of what the shards hold
//! (`read`, `catalog`), and the bounds of a failure (`shard`, `writes`, `breaker`). It stores nothing but a record in each
//! shard, which says which one it is (`membership`).
//!
//! * **No commit is of two shards.** A batch of topics of several shards is several commits, as it is with several partitions.
//! * **N is fixed** when the shards are made, and so are their order and their partitions.
//! * **All shards have to be there when the store is opened.** Later, what a shard cannot do is
//!   [`StoreError::Unavailable`] for its partitions, whatever its error was, and the other partitions go on. If only some of a
//!   shard's partitions fail, it is for these alone. A shard that has stopped, or answers nobody, is out as a whole.
//!   [`DedupStore::outages`] says which ones those are. A call that needs all shards, such as a page of all topics, fails while
//!   one is out. [`stats`](DedupStore::stats) leaves it out and says so.
//! * **Records are in shard 0**, because a write of them is all or nothing. Whatever needs them stands still while shard 0 is
//!   out.
//! * **The most topics** are a limit of each shard, as its memory is: how many there are in others, a shard cannot know.

mod breaker;
mod capabilities;
mod catalog;
mod gauges;
mod maintain;
mod membership;
mod read;
mod routing;
mod shard;
mod writes;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

pub use self::membership::{Membership, name_shard, refuse_lone_shard};

use self::breaker::Cause;
use self::membership::{check_partitions, join, refuse};
use self::routing::Routing;
use self::shard::{Condition, Shard};
use super::{
    Amend, AttemptId, CommitListener, CommitNotifier, DedupStore, Durability, Forget, Maintain, Outage,
    Receipt, Records, Seen, StoreGauges, StoreInfo, StoreStats, TopicInfo, Transfer, Watch, check_partition,
};
use crate::{Batch, Deadline, EventRef, Identity, Page, Partition, Query, StoreError, TopicQuery};

/// How long a check may take that tries whether shards answer again, for all of them together.
const PROBES: Duration = Duration::from_secs(2);

/// A store that is to be a shard.
#[derive(Clone)]
pub struct NamedStore {
    /// Where it is, as errors show it: without a password.
    pub name: String,
    /// The store.
    pub store: Arc<dyn DedupStore>,
}

impl NamedStore {
    /// The store at this place.
    pub fn new(name: impl Into<String>, store: Arc<dyn DedupStore>) -> Self {
        Self { name: name.into(), store }
    }
}

/// One store made of several. See the [module](self).
pub struct Sharded {
    info: StoreInfo,
    routing: Routing,
    shards: Vec<Shard>,
    /// Of the whole: the shards announce to it.
    commits: Arc<CommitNotifier>,
    _listeners: Vec<CommitListener>,
}

impl Sharded {
    /// Makes one store of these, in this order. New ones become its shards for good.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] if they are not the shards of one store, all of them and in their order, or if a store took
    /// events before it became a shard. The error says which one it is. Otherwise whatever a shard meets.
    pub fn open(shards: Vec<NamedStore>) -> Result<Self, StoreError> {
        let [first, ..] = &shards[..] else {
            return Err(StoreError::invalid("store", "has no shards: name one at least"));
        };
        check_alike(&shards)?;
        let (kind, each) = (first.store.info().kind, first.store.partitions());
        let Some(routing) = Routing::new(shards.len(), each) else {
            let reason = format!(
                "would have {} shards of {} partitions, and at most 1024 partitions are there to have",
                shards.len(),
                each.count()
            );
            return Err(StoreError::invalid("store", reason));
        };
        let id = join(&shards, each)?;
        let durable = |durability| shards.iter().any(|shard| shard.store.info().durability == durability);
        // Of the whole, no more is certain than of the weakest.
        let durability = [Durability::Volatile, Durability::Fsync].into_iter().find(|&weak| durable(weak));
        let durability = durability.unwrap_or(Durability::Replicated);
        let mut info = StoreInfo::new(kind, id, durability, routing.whole()).of_shards(routing.shards());
        info.shared = shards.iter().any(|shard| shard.store.info().shared);
        let commits = Arc::new(CommitNotifier::new(routing.whole().iter().map(|_| 0)));
        let listeners = listen(&shards, routing, &commits);
        let shards = (0..).zip(shards).map(|(index, NamedStore { name, store }): (usize, _)| {
            Shard::new(store, format!("shard {index} ({name})"))
        });
        Ok(Self { info, routing, shards: shards.collect(), commits, _listeners: listeners })
    }

    fn shard_of(&self, topic: &str) -> &Shard {
        &self.shards[self.routing.shard_of(topic)]
    }

    /// The shard of a partition, and the partition's number there.
    fn locate(&self, partition: Partition) -> Result<(&Shard, Partition), StoreError> {
        let (shard, local) = self.routing.locate(partition);
        let shard = self.shards.get(shard).ok_or_else(|| {
            StoreError::invalid("partition", format!("must be below {}", self.info.partitions.count()))
        })?;
        Ok((shard, local))
    }

    /// Whether all shards have a capability.
    fn all_have(&self, capability: impl Fn(&dyn DedupStore) -> bool) -> bool {
        self.shards.iter().all(|shard| capability(shard.store()))
    }
}

/// Refuses stores that differ in what has to be alike, and one that is named twice.
fn check_alike(shards: &[NamedStore]) -> Result<(), StoreError> {
    let mut ids = HashSet::new();
    let [first, ..] = shards else { return Ok(()) };
    let kind = first.store.info().kind;
    for (index, shard) in shards.iter().enumerate() {
        let info = shard.store.info();
        if info.kind != kind {
            return Err(refuse(
                index,
                shard,
                &format!("is a {} store, and shard 0 a {kind} store", info.kind),
            ));
        }
        if !ids.insert(info.id) {
            return Err(refuse(index, shard, "is the same store as another shard: name each of them once"));
        }
    }
    check_partitions(shards)
}

/// Announces the commits of the shards to the listeners of the whole.
fn listen(shards: &[NamedStore], routing: Routing, commits: &Arc<CommitNotifier>) -> Vec<CommitListener> {
    let of_shard = |(index, shard): (usize, &NamedStore)| {
        let commits = Arc::clone(commits);
        let tell = move |partition, offset| commits.announce(routing.in_whole(index, partition), offset);
        shard.store.watch().map(|watch| watch.on_commit(Box::new(tell)))
    };
    shards.iter().enumerate().filter_map(of_shard).collect()
}

impl DedupStore for Sharded {
    fn info(&self) -> &StoreInfo {
        &self.info
    }

    fn append(
        &self,
        partition: Partition,
        attempt: AttemptId,
        events: &[EventRef<'_>],
    ) -> Result<Vec<Receipt>, StoreError> {
        // A shard cannot see that a topic belongs to the partition of the same number of another shard.
        check_partition(self.info.partitions, partition, events.iter().map(EventRef::topic))?;
        let (shard, partition) = self.locate(partition)?;
        shard.append(partition, |store| {
            let receipts = store.append(partition, attempt, events)?;
            if receipts.len() != events.len() {
                let reason = format!("it gave {} receipts for {} events", receipts.len(), events.len());
                return Err(StoreError::Poisoned { reason });
            }
            Ok(receipts)
        })
    }

    fn prepare(&self, batch: &mut Batch) {
        let mut hints = vec![None; batch.len()];
        for shard in &self.shards {
            shard.store().prepare(batch);
            // A store has hints for topics that it knows: no two shards have the same.
            for (hint, event) in hints.iter_mut().zip(batch.iter()) {
                *hint = hint.or(event.hint());
            }
            batch.set_hints(Vec::new());
        }
        batch.set_hints(hints);
    }

    fn read(&self, query: &Query) -> Result<Page, StoreError> {
        self.read_page(query)
    }

    fn lookup(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        self.look_up(ids)
    }

    fn topics(&self, query: &TopicQuery) -> Result<Vec<TopicInfo>, StoreError> {
        self.list_topics(query)
    }

    fn stats(&self) -> Result<StoreStats, StoreError> {
        self.sum_stats()
    }

    /// Fails only if no shard takes events: what one of them lacks is in [`outages`](Self::outages).
    fn check_health(&self) -> Result<(), StoreError> {
        let (mut shards, out): (Vec<_>, Vec<_>) =
            self.shards.iter().partition(|shard| shard.outage().is_none());
        // What has taken one of them may have taken others, and nobody may be asking these.
        if !out.is_empty() {
            shards.iter().for_each(|shard| shard.suspect());
        }
        // What is known to be out is asked last: it may use up the time.
        shards.extend(out);
        let probes = Deadline::after(PROBES);
        let conditions: Vec<_> = shards.into_iter().map(|shard| shard.check(probes)).collect();
        let mut reasons = Vec::new();
        let mut causes = Vec::new();
        for condition in conditions {
            match condition {
                Condition::Well => return Ok(()),
                Condition::Ill(cause, reason) => {
                    causes.push(cause);
                    reasons.push(reason);
                }
            }
        }
        let reason = reasons.join("; ");
        if causes.iter().all(|cause| *cause == Cause::Stopped) {
            Err(StoreError::Poisoned { reason })
        } else if causes.contains(&Cause::Unavailable) {
            Err(StoreError::unavailable(reason))
        } else {
            Err(StoreError::NoSpace { reason, source: None })
        }
    }

    /// Of a shard that is out, all its partitions. Of others, those that took no event, and what a shard says itself.
    fn outages(&self) -> Vec<Outage> {
        let of_shard = |(index, shard): (usize, &Shard)| {
            let in_whole = |outage: Outage| {
                let partitions = outage.partitions.iter().map(|it| self.routing.in_whole(index, *it));
                Outage::new(partitions.collect(), outage.reason)
            };
            shard.outages().into_iter().map(in_whole).collect::<Vec<_>>()
        };
        self.shards.iter().enumerate().flat_map(of_shard).collect()
    }

    fn gauges(&self) -> Option<StoreGauges> {
        gauges::sum(self.shards.iter().map(Shard::store))
    }

    fn maintain(&self) -> Option<&dyn Maintain> {
        self.all_have(|store| store.maintain().is_some()).then_some(self as _)
    }

    fn amend(&self) -> Option<&dyn Amend> {
        self.all_have(|store| store.amend().is_some()).then_some(self as _)
    }

    fn forget(&self) -> Option<&dyn Forget> {
        self.all_have(|store| store.forget().is_some()).then_some(self as _)
    }

    fn transfer(&self) -> Option<&dyn Transfer> {
        self.all_have(|store| store.transfer().is_some()).then_some(self as _)
    }

    fn records(&self) -> Option<&dyn Records> {
        // All have them, or there were no shards.
        Some(self)
    }

    fn watch(&self) -> Option<&dyn Watch> {
        self.all_have(|store| store.watch().is_some()).then_some(self as _)
    }
}
