//! Reading the store: a file for each route, and the bounded `pool` of threads that they read on.

pub(crate) mod events;
pub(crate) mod lookup;
pub(crate) mod pool;
pub(crate) mod stats;
pub(crate) mod topics;
