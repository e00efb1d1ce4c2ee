//! Forgetting old identities.

use super::write::forget::MAX_FORGOTTEN;
use super::{SqliteStore, read};
use crate::store::Forget;
use crate::{StoreError, Timestamp, Topic};

impl Forget for SqliteStore {
    /// A slice at a time, so that appends get their turn in between. It leaves the room alone that is kept for purges.
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        // Where nothing is due, nothing waits and nothing is written.
        if self.forgettable_identities(topic, before, most.min(1))? == 0 {
            return Ok(0);
        }
        let mut forgotten = 0;
        while forgotten < most {
            let slice = MAX_FORGOTTEN.min(most - forgotten);
            let done = self.writer()?.forget_slice(topic.as_str(), before, slice)?;
            forgotten += done;
            if done < slice {
                break;
            }
        }
        Ok(forgotten)
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        read::forgettable(&mut *self.reader("counting old identities")?, topic, before, most)
    }
}
