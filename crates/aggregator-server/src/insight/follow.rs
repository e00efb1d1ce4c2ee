//! The background of insight: looks at the counters each second, compares conflicts, and keeps what was counted.

use std::sync::Arc;
use std::time::Duration;

use aggregator_core::event::ERASED_PAYLOAD;
use aggregator_core::{DedupStore, EventId, Query, StoreError, Timestamp, Topic};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tracing::{info, warn};

use super::differences;
use super::lateness::Lateness;
use super::latest::Repeat;
use super::lock;
use super::records::{Keeper, Kept};
use super::series::{Latency, Sample};
use super::snapshot::Snapshot;
use crate::app::App;
use crate::fair::Flow;
use crate::health;
use crate::read_pool::ReadError;

/// A crash costs what was counted for so long.
const KEEP_EVERY_SECONDS: u64 = 10;

/// Reads what this node, or others that have ended, had counted. Called before the first request is answered.
pub(crate) async fn begin(app: &Arc<App>) {
    let begun = with_store(app, |app, store| {
        let capacity = app.config.insight_streams;
        let (Some(records), 1..) = (store.records(), capacity) else { return Ok(()) };
        // Nothing is kept meanwhile, even if nobody waits for this any more.
        let mut keeper = lock(&app.insight.keeper);
        let (begun, taken_over) = Keeper::begin(records, store.info().shared, capacity.into())?;
        app.insight.replace(&mut keeper, begun);
        if let Some(taken_over) = taken_over {
            lock(&app.insight.observed).add(&taken_over, false);
        }
        Ok(())
    });
    if let Err(error) = begun.await {
        warn!(%error, "what was counted for insight cannot be read: counting begins again");
    }
}

/// Follows until the sender of `stopped` is dropped.
pub(crate) async fn follow(app: Arc<App>, mut stopped: watch::Receiver<()>) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut fails = false;
    for second in 0_u64.. {
        tokio::select! {
            _ = stopped.changed() => return,
            _ = seconds.tick() => {}
        }
        sample(&app);
        compare_conflicts(&app).await;
        if second % 60 == 59 {
            lock(&app.insight.observed).streams.cool();
        }
        if second % KEEP_EVERY_SECONDS == KEEP_EVERY_SECONDS - 1 {
            let kept = keep(&app, false).await;
            note_failure(&mut fails, kept);
        }
    }
}

/// Keeps everything that was counted. Called when no worker appends any more.
pub(crate) async fn end(app: &Arc<App>, until: Instant) {
    if matches!(app.health.state(), health::State::Failed(_)) {
        return;
    }
    sample(app);
    match timeout_at(until, keep(app, true)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "what was counted for insight in the last seconds is lost"),
        Err(_) => {
            warn!("what was counted for insight in the last seconds is lost: there was no time to write it");
        }
    }
}

/// Adds what the counters of the process have counted since the last time.
pub(super) fn sample(app: &App) {
    let outcomes = app.workers.outcomes();
    let ages = app.workers.groups().duplicate_ages.counts();
    let now = Sample {
        stored: outcomes.stored,
        duplicates: outcomes.duplicates,
        conflicts: outcomes.conflicts,
        rejected: app.rejected() + outcomes.refused,
        lateness: Lateness::of_buckets(ages.buckets().map(|(_, count)| count)),
        latency: Latency::of(&app.requests.publish_durations()),
    };
    let mut sampled = lock(&app.insight.sampled);
    let happened = now.since(&sampled);
    *sampled = now;
    let seconds = Timestamp::now().as_micros().div_euclid(1_000_000);
    lock(&app.insight.observed).series.happened(seconds, &happened);
}

/// Finds out where new conflicts differ from what is stored.
async fn compare_conflicts(app: &Arc<App>) {
    let mut taken = lock(&app.insight.observed).latest.take_not_compared();
    if taken.conflicts.is_empty() {
        return;
    }
    // If it fails, they stay without differences.
    let compared = taken.conflicts.clone();
    let compared = with_store(app, move |_, store| {
        compared.into_iter().map(|conflict| compare(store, conflict)).collect()
    });
    if let Ok(compared) = compared.await {
        taken.conflicts = compared;
    }
    taken.conflicts.iter_mut().for_each(|conflict| conflict.payload = None);
    lock(&app.insight.observed).latest.put_back(taken);
}

fn compare(store: &dyn DedupStore, mut conflict: Repeat) -> Result<Repeat, StoreError> {
    let (Ok(topic), Ok(event_id)) = (Topic::new(&*conflict.topic), EventId::new(&*conflict.event_id)) else {
        return Ok(conflict);
    };
    let page = store.read(&Query { event_id: Some(event_id), ..Query::topic(topic) })?;
    let stored = page.events.into_iter().find(|event| Some(event.seq) == conflict.seq);
    if let (Some(stored), Some(sent)) = (stored, conflict.payload.take())
        // The values that were sent may be what was erased.
        && &*stored.payload != ERASED_PAYLOAD
    {
        conflict.differences = Some(differences::find(&stored, &conflict, &sent));
    }
    Ok(conflict)
}

async fn keep(app: &Arc<App>, ended: bool) -> Result<(), ReadError> {
    with_store(app, move |app, store| {
        let Some(records) = store.records() else { return Ok(()) };
        // If the store is stuck, so is the thread that wrote last. No other one joins it.
        let Ok(mut keeper) = app.insight.keeper.try_lock() else {
            return Err(StoreError::unavailable("the write before has not ended"));
        };
        let snapshot = lock(&app.insight.observed).snapshot();
        if !snapshot.is_empty()
            && keeper.keep(records, store.info().shared, snapshot, ended)? == Kept::TakenOver
        {
            info!("another node has taken over what this one had counted for insight");
            app.insight.replace(&mut keeper, Keeper::new());
            let mut observed = lock(&app.insight.observed);
            *observed = observed.emptied();
        }
        Ok(())
    })
    .await
}

/// What the other nodes of the store have counted, as of some seconds ago.
pub(super) fn others(app: &App, store: &dyn DedupStore) -> Result<Arc<Vec<Snapshot>>, StoreError> {
    const FRESH: Duration = Duration::from_secs(5);
    let (true, Some(records)) = (store.info().shared, store.records()) else { return Ok(Arc::default()) };
    let mut others = lock(&app.insight.others);
    if others.read_at.is_none_or(|read_at| read_at.elapsed() > FRESH) {
        let node = lock(&app.insight.node).clone();
        others.snapshots = Arc::new(Keeper::others(&node, records)?);
        others.read_at = Some(std::time::Instant::now());
    }
    Ok(Arc::clone(&others.snapshots))
}

/// Uses the store on a thread for reads, which are counted.
async fn with_store<T: Send + 'static>(
    app: &Arc<App>,
    act: impl FnOnce(&App, &dyn DedupStore) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, ReadError> {
    let shared = Arc::clone(app);
    app.reads.run(Flow::EVERYBODY, move |store| act(&shared, store)).await
}

/// Logs that it fails, and that it works again.
fn note_failure(fails: &mut bool, kept: Result<(), ReadError>) {
    match (kept, *fails) {
        (Ok(()), true) => info!("what is counted for insight is kept again"),
        (Err(error), false) => warn!(%error, "what is counted for insight cannot be kept now"),
        (kept, _) => {
            *fails = kept.is_err();
            return;
        }
    }
    *fails = !*fails;
}

#[cfg(test)]
mod tests {
    use aggregator_core::{DedupStoreExt as _, Event, Identity, MemoryStore};

    use super::*;

    #[test]
    fn a_conflict_is_not_compared_with_an_event_that_was_erased() {
        let store = MemoryStore::default();
        let event = Event::new("t", "1").unwrap().with_payload(r#"{"a":1}"#).unwrap();
        let stored = store.append_one(&event).unwrap();
        let conflict = Repeat {
            topic: "t".into(),
            event_id: "1".into(),
            source: "s".into(),
            timestamp: "2026-01-01T00:00:00Z".into(),
            is_conflict: true,
            at: 0,
            first_at: 0,
            seq: stored.seq,
            payload: Some(r#"{"a":2}"#.into()),
            differences: None,
        };
        assert!(compare(&store, conflict.clone()).unwrap().differences.is_some());
        let id =
            Identity { topic: Topic::new("t").unwrap(), event_id: EventId::new("1").unwrap(), source: None };
        store.erase(&[id]).unwrap();
        let compared = compare(&store, conflict).unwrap();
        assert_eq!((compared.payload, compared.differences), (None, None));
    }
}
