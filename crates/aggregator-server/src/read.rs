//! Reading the store: the routes that do, and the bounded pool of threads that they run on.

pub(crate) mod events;
pub(crate) mod lookup;
pub(crate) mod pool;
pub(crate) mod stats;
pub(crate) mod topics;
