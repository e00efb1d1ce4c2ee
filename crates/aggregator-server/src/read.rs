//! Reading the store: a file for each route. They read on the threads of `read_pool`.

pub(crate) mod events;
pub(crate) mod lookup;
pub(crate) mod stats;
pub(crate) mod topics;
