//! Follows the stream for all readers at its end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aggregator_core::store::CommitListener;
use aggregator_core::{DedupStore, DedupStoreExt as _, Query, TopicSelector};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::debug;

use super::Tails;
use super::ring::Segment;
use crate::app::App;
use crate::fair::Flow;
use crate::read_pool::ReadError;

/// The least time between two reads. What is stored meanwhile comes with the next one.
const LEAST_PAUSE: Duration = Duration::from_millis(4);
/// The most of it.
const MOST_PAUSE: Duration = Duration::from_millis(25);
/// What a reader who is woken takes of a processor, about: the pause is as long as all that were woken need.
const PER_READER: Duration = Duration::from_micros(20);
/// How often the store is asked although it told of nothing. Where it cannot tell, this is the delay of a tail.
const POLL: Duration = Duration::from_millis(500);
/// The pause after a read that failed.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// Reads what is stored for as long as anybody waits for it. Ends when readers have to end.
pub(crate) async fn follow(app: Arc<App>) {
    let committed = Arc::new(Notify::new());
    // Registered before anything is read: what a read does not find is told of.
    let _listener = listen(&*app.store, &committed);
    let mut closed = app.tails.closed.subscribe();
    tokio::select! {
        _ = closed.wait_for(|closed| *closed) => {}
        () = follow_while_wanted(&app, &committed) => {}
    }
    app.tails.lose_track();
}

fn listen(store: &dyn DedupStore, committed: &Arc<Notify>) -> Option<CommitListener> {
    let committed = Arc::clone(committed);
    store.watch().map(|watch| watch.on_commit(Box::new(move |_, _| committed.notify_one())))
}

async fn follow_while_wanted(app: &Arc<App>, committed: &Notify) {
    let tails = &app.tails;
    loop {
        if !is_wanted(tails) {
            tails.lose_track();
            tails.waiting.changed.notified().await;
            continue;
        }
        if let Err(error) = follow_from_end(app, committed).await {
            // Readers go on with pages of their own meanwhile, and are told of the error there.
            debug!(%error, "the end of the stream cannot be followed");
            tails.lose_track();
            sleep(AFTER_ERROR).await;
        }
    }
}

fn is_wanted(tails: &Tails) -> bool {
    tails.waiting.readers.load(Ordering::SeqCst) > 0
}

/// Reads from the end on, until nobody waits any more.
async fn follow_from_end(app: &Arc<App>, committed: &Notify) -> Result<(), ReadError> {
    let tails = &app.tails;
    let mut query = Query { limit: Query::MAX_LIMIT, ..Query::of(TopicSelector::All) };
    let everything = query.clone();
    query.after = Some(app.reads.run(Flow::EVERYBODY, move |store| store.end(&everything)).await?);
    let Read { segment, forgotten, .. } = read(app, &mut query).await?;
    tails.begin(segment, forgotten);
    // Readers that wait for the ring.
    tails.wakeups.wake_all();
    while is_wanted(tails) {
        let told = async {
            tokio::select! {
                () = committed.notified() => {}
                () = tails.waiting.changed.notified() => {}
            }
        };
        let _ = timeout(POLL, told).await;
        let mut pause = LEAST_PAUSE;
        let began = Instant::now();
        loop {
            let read = read(app, &mut query).await?;
            pause = pause.max(hand_out(tails, read.segment, read.forgotten));
            if read.caught_up {
                break;
            }
        }
        sleep_until(began + pause).await;
    }
    Ok(())
}

/// Some of the stream, and whether there was nothing more.
struct Read {
    segment: Segment,
    caught_up: bool,
    /// How often events had been forgotten before.
    forgotten: u64,
}

async fn read(app: &App, query: &mut Query) -> Result<Read, ReadError> {
    let asked = query.clone();
    let forgotten = app.tails.forgotten.load(Ordering::SeqCst);
    let page = app.reads.run(Flow::EVERYBODY, move |store| store.read(&asked)).await?;
    query.after = Some(page.next.clone());
    Ok(Read { caught_up: page.caught_up, forgotten, segment: Segment::of_page(page) })
}

/// Hands a segment out, and says how long to leave the processor to those who were woken.
fn hand_out(tails: &Tails, segment: Segment, forgotten: u64) -> Duration {
    if !segment.moves() {
        return Duration::ZERO;
    }
    let woken = u32::try_from(tails.hand_out(segment, forgotten)).unwrap_or(u32::MAX);
    (PER_READER.saturating_mul(woken)).min(MOST_PAUSE)
}
