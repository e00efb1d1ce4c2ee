//! Filters: they stay in memory and say which runs may have a fingerprint.
//!
//! * [`bloom`]: one filter for all runs of the two lowest levels. It recognizes most new identities at once.
//! * [`bloom_backfill`]: adds the runs that a start found to that filter, one section at a time.
//! * [`maplet`]: a filter for each section of a run that also says which run has the fingerprint.
//! * [`maplet_union`]: unites the maplets of two filter groups, so that one lookup answers for all their runs.
//! * [`filter_group`]: which filters are looked up together, and for which runs.

pub(crate) mod bloom;
pub(crate) mod bloom_backfill;
pub(crate) mod filter_group;
pub(crate) mod maplet;
pub(crate) mod maplet_union;
