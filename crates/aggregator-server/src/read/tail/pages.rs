//! Pages of the store for readers that are behind the ring: one read for all who stand at the same place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use aggregator_core::Query;
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore};

use super::ring::Segment;
use crate::app::App;
use crate::fair::Flow;
use crate::read_pool::ReadError;

/// The most events in a page of a tail: it stays in memory until its reader has taken it.
pub(super) const PAGE_EVENTS: usize = 256;
/// Room that is reserved for a page before it is read, in KiB.
const PAGE_KIB: usize = 64;

/// A page of a reader's own query.
struct TailPage {
    segment: Segment,
    caught_up: bool,
    /// Part of `--response-bytes`, for as long as the page is in memory.
    _room: Vec<OwnedSemaphorePermit>,
}

/// A page that a reader holds, perhaps together with others. It has been read.
pub(super) struct HeldPage(Arc<OnceCell<TailPage>>);

impl HeldPage {
    fn page(&self) -> &TailPage {
        self.0.get().expect("only a page that was read is handed out")
    }

    pub(super) fn segment(&self) -> &Segment {
        &self.page().segment
    }

    pub(super) fn caught_up(&self) -> bool {
        self.page().caught_up
    }
}

/// The pages that readers hold at the moment, by their query.
#[derive(Default)]
pub(super) struct SharedPages(Mutex<Cells>);

type Cells = HashMap<String, Weak<OnceCell<TailPage>>>;

impl SharedPages {
    /// The page of this query: the one that another reader holds or waits for, or a new one. More may be stored by now
    /// than when a page was read that is held. Its reader finds that behind the page. `flow` is that of whoever asks first.
    pub(super) async fn read(&self, app: &App, flow: Flow, query: &Query) -> Result<HeldPage, ReadError> {
        let key = format!("{query:?}");
        let cell = self.cell(&key);
        cell.get_or_try_init(|| read(app, flow, query)).await?;
        Ok(HeldPage(cell))
    }

    /// From now on nobody is given a page that was read before.
    pub(super) fn forget(&self) {
        self.lock().clear();
    }

    fn cell(&self, key: &str) -> Arc<OnceCell<TailPage>> {
        let mut cells = self.lock();
        if let Some(cell) = cells.get(key).and_then(Weak::upgrade) {
            return cell;
        }
        // Pages that nobody holds any more go whenever the map would grow, so it stays about as small as it can be.
        if cells.len() == cells.capacity() {
            cells.retain(|_, cell| cell.strong_count() > 0);
        }
        let cell = Arc::default();
        cells.insert(key.to_owned(), Arc::downgrade(&cell));
        cell
    }

    fn lock(&self) -> MutexGuard<'_, Cells> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn read(app: &App, flow: Flow, query: &Query) -> Result<TailPage, ReadError> {
    let all = app.config.response_bytes.kib();
    let mut room = vec![reserve(app, PAGE_KIB.min(all)).await?];
    let asked = query.clone();
    let page = app.reads.run(flow, move |store| store.read(&asked)).await?;
    let caught_up = page.caught_up;
    let segment = Segment::of_page(page);
    let more = segment.bytes().div_ceil(1024).saturating_sub(PAGE_KIB);
    if more > 0 {
        let permits = u32::try_from(more).unwrap_or(u32::MAX);
        let more = Semaphore::try_acquire_many_owned(Arc::clone(&app.responses), permits);
        room.push(more.map_err(|_| ReadError::NoRoom)?);
    }
    Ok(TailPage { segment, caught_up, _room: room })
}

/// Waits for room, in KiB. Pages and other large responses have it until their clients have taken them.
async fn reserve(app: &App, kib: usize) -> Result<OwnedSemaphorePermit, ReadError> {
    let permits = u32::try_from(kib).unwrap_or(u32::MAX);
    let room = Arc::clone(&app.responses).acquire_many_owned(permits);
    let room = tokio::time::timeout(app.config.read_timeout, room).await;
    room.map_err(|_| ReadError::NoRoom)?.map_err(|_| ReadError::Internal("the room for responses is closed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_was_read_before_it_was_forgotten_is_given_to_nobody_else() {
        let pages = SharedPages::default();
        let held = pages.cell("a query");
        assert!(Arc::ptr_eq(&held, &pages.cell("a query")));
        pages.forget();
        assert!(!Arc::ptr_eq(&held, &pages.cell("a query")));
    }
}
