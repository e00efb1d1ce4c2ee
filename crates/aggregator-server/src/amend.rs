//! Taking events back: erasing their payloads, and releasing their identities so that they can come again.
//!
//! Both are audited (`auth/audit.rs`). What the process has in memory of the payloads of erased events goes with them, also on
//! the other nodes of a store ([`follow`]).

mod erase;
mod follow;
mod release;
mod request;

use std::ops::ControlFlow;

use aggregator_core::store::{EraseProgress, Erased};
use aggregator_core::{DedupStore, DedupStoreExt as _, Identity, Seen, StoreError};

pub(crate) use self::erase::{Line, erase};
pub(crate) use self::follow::follow;
pub(crate) use self::release::{ReleaseBody, Released, release};
pub(crate) use self::request::check_reason;

use crate::auth::audit::{Amending, Begun};

/// What is to be erased or released.
#[derive(Debug, Clone)]
pub(crate) struct Amendment {
    pub(crate) ids: Vec<Identity>,
    pub(crate) reason: Option<String>,
}

impl Amendment {
    /// Erases the payloads. `by` is who does, for the audit.
    pub(crate) fn erase(
        &self,
        store: &dyn DedupStore,
        by: &str,
        on_progress: &mut dyn FnMut(EraseProgress) -> ControlFlow<()>,
    ) -> Result<Vec<Erased>, StoreError> {
        let amend = store.amend().ok_or_else(|| store.unsupported("erase events"))?;
        let begun = Begun::new(store, Amending::Erase, &self.ids, self.reason.as_deref(), by)?;
        let erased = amend.erase(&self.ids, on_progress);
        let found = erased.as_ref().map(|erased| erased.iter().filter(|of| !of.seqs.is_empty()).count());
        let is_told = begun.end(store, found);
        // Other nodes would go on with what they have in memory.
        if erased.is_ok() && !is_told && store.info().shared {
            return Err(StoreError::unavailable(
                "the payloads are erased, but the other nodes cannot be told: erase them again",
            ));
        }
        erased
    }

    /// Releases the identities.
    pub(crate) fn release(&self, store: &dyn DedupStore, by: &str) -> Result<Vec<Option<Seen>>, StoreError> {
        let amend = store.amend().ok_or_else(|| store.unsupported("release identities"))?;
        let begun = Begun::new(store, Amending::Release, &self.ids, self.reason.as_deref(), by)?;
        let released = amend.release(&self.ids);
        begun.end(store, released.as_ref().map(|released| released.iter().flatten().count()));
        released
    }
}
