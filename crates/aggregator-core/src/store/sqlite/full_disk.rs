//! Appends and purges on a disk that is, or may be, full: see [`reserve`](super::file::reserve).

use super::SqliteStore;
use super::write::purge::MAX_PURGED;
use crate::store::Receipt;
use crate::{EventRef, StoreError, Topic};

/// What one transaction has purged.
struct Slice {
    purged: u64,
    /// The most it would have purged.
    most: u64,
}

impl Slice {
    /// Whether nothing is left to be purged.
    fn is_last(&self) -> bool {
        self.purged < self.most
    }
}

impl SqliteStore {
    /// The receipts and the last offset.
    pub(super) fn append_if_there_is_room(
        &self,
        events: &[EventRef<'_>],
    ) -> Result<(Vec<Receipt>, u64), StoreError> {
        let mut writer = self.writer()?;
        self.room.admit(|| self.free_bytes(&writer))?;
        match writer.append(events) {
            // The log may be all that has no room to grow.
            Err(StoreError::NoSpace { .. }) if self.room.can_try_again(false) => {
                writer.begin_log_anew()?;
                writer.append(events)
            }
            appended => appended,
        }
    }

    /// A slice at a time, so that appends get their turn in between. Returns how many events were purged.
    pub(super) fn purge_in_slices(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        let mut purged = 0;
        loop {
            let slice = self.purge_slice(topic, through_seq)?;
            purged += slice.purged;
            if slice.is_last() {
                return Ok(purged);
            }
        }
    }

    /// Purges in one transaction. On a full disk it purges fewer events, which needs less room.
    fn purge_slice(&self, topic: &Topic, through_seq: u64) -> Result<Slice, StoreError> {
        let mut writer = self.writer()?;
        let mut most = MAX_PURGED;
        let mut purged = writer.purge_slice(topic.as_str(), through_seq, most);
        while matches!(purged, Err(StoreError::NoSpace { .. })) && most > 10 && self.room.can_try_again(true)
        {
            most /= 10;
            // Where it finds no room either, a smaller slice may.
            let _ = writer.begin_log_anew();
            purged = writer.purge_slice(topic.as_str(), through_seq, most);
        }
        self.room.purged(|| self.free_bytes(&writer));
        purged.map(|purged| Slice { purged, most })
    }
}
