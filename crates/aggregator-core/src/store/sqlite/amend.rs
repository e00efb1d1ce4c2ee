//! Erasing and releasing.

use std::ops::ControlFlow;

use super::SqliteStore;
use super::write::Writer;
use crate::store::amend::check_amended;
use crate::store::{Amend, EraseProgress, Erased, Seen};
use crate::{Identity, StoreError};

impl Amend for SqliteStore {
    fn erase(
        &self,
        ids: &[Identity],
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        check_amended(ids)?;
        // Not beside a copy, which would have pages from before.
        let _noting = self.note_changed_pages()?;
        let erased = self.amend_if_there_is_room(|writer| writer.erase(ids))?;
        // Also if all of it was erased before: that call may have failed before the traces were removed.
        if erased.iter().any(|erased| !erased.seqs.is_empty()) {
            self.remove_traces(on_progress)?;
        }
        Ok(erased)
    }

    fn release(&self, ids: &[Identity]) -> Result<Vec<Option<Seen>>, StoreError> {
        check_amended(ids)?;
        self.amend_if_there_is_room(|writer| writer.release(ids))
    }
}

impl SqliteStore {
    fn amend_if_there_is_room<T>(
        &self,
        amend: impl Fn(&mut Writer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut writer = self.writer()?;
        match amend(&mut writer) {
            // The log may be all that has no room to grow.
            Err(StoreError::NoSpace { .. }) if self.room.can_try_again(true) => {
                writer.begin_log_anew()?;
                amend(&mut writer)
            }
            amended => amended,
        }
    }
}
