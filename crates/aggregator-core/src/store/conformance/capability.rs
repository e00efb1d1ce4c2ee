//! What a store may lack, and whether it has what its backend says.

use super::{Backend, Case, CaseOptions, cases};
use crate::DedupStore;

/// What a store may lack: one for each method of [`DedupStore`] that hands out a trait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Capability {
    /// [`DedupStore::across`].
    Across,
    /// [`DedupStore::maintain`].
    Maintain,
    /// [`DedupStore::amend`].
    Amend,
    /// [`DedupStore::forget`].
    Forget,
    /// [`DedupStore::transfer`].
    Transfer,
    /// [`DedupStore::records`].
    Records,
    /// [`DedupStore::watch`].
    Watch,
}

impl Capability {
    const ALL: [Self; 7] =
        [Self::Across, Self::Maintain, Self::Amend, Self::Forget, Self::Transfer, Self::Records, Self::Watch];

    fn is_in(self, store: &dyn DedupStore) -> bool {
        match self {
            Self::Across => store.across().is_some(),
            Self::Maintain => store.maintain().is_some(),
            Self::Amend => store.amend().is_some(),
            Self::Forget => store.forget().is_some(),
            Self::Transfer => store.transfer().is_some(),
            Self::Records => store.records().is_some(),
            Self::Watch => store.watch().is_some(),
        }
    }
}

pub(super) const CASES: &[Case] = cases![a_store_has_every_capability_but_those_its_backend_lacks];

fn a_store_has_every_capability_but_those_its_backend_lacks(backend: &dyn Backend) {
    let store = backend.open(CaseOptions::default());
    for capability in Capability::ALL {
        let declared = !backend.lacks().contains(&capability);
        assert_eq!(
            capability.is_in(&*store),
            declared,
            "{capability:?}: what the store hands out is not what `Backend::lacks` says"
        );
    }
}
