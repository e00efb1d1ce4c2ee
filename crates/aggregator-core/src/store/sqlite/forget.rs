//! Forgetting old identities.

use super::write::forget::{MAX_FORGOTTEN, Oldest};
use super::{SqliteStore, read};
use crate::store::Forget;
use crate::{StoreError, Timestamp, Topic};

impl Forget for SqliteStore {
    /// A slice at a time, so that appends get their turn in between.
    fn forget_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        let mut forgotten = 0;
        while forgotten < most {
            let slice = MAX_FORGOTTEN.min(most - forgotten);
            let done =
                self.change_if_there_is_room(|writer| writer.forget_slice(topic.as_str(), before, slice))?;
            forgotten += done;
            if done < slice {
                break;
            }
        }
        Ok(forgotten)
    }

    fn forgettable_identities(&self, topic: &Topic, before: Timestamp, most: u64) -> Result<u64, StoreError> {
        read::forgettable(&mut *self.reader("counting old identities")?, topic, |topic_id, last_offset| {
            Oldest { topic_id, before: before.as_micros(), last_offset, most }
        })
    }
}
