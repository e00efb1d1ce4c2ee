//! Reading the store: a file for each route. They read on the threads of `read_pool`.

mod event_json;
pub(crate) mod events;
mod filters;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod lookup;
mod ndjson;
pub(crate) mod stats;
pub(crate) mod tail;
pub(crate) mod topics;
