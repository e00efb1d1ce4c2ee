//! Filters in memory that say which runs may have a fingerprint.
//!
//! * [`bloom`]: one filter for all runs of the two lowest levels. It tells most new identities at once.
//! * [`bloom_backfill`]: adds the runs that a start found to that filter, a section at a time.
//! * [`maplet`]: a filter for each section of a run that also says which run has the fingerprint.
//! * [`maplet_union`]: joins the maplets of two runs into one, so that one look answers for both.
//! * [`filter_group`]: which filters are asked together, and for which runs.

pub(crate) mod bloom;
pub(crate) mod bloom_backfill;
pub(crate) mod filter_group;
pub(crate) mod maplet;
pub(crate) mod maplet_union;
