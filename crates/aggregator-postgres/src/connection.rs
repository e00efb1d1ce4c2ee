//! Connections to the database: where it is, how they are made, shared and closed, and which calls are retried.

pub(crate) mod backoff;
pub(crate) mod engine;
pub(crate) mod options;
pub(crate) mod pipeline;
pub(crate) mod pool;
pub(crate) mod retry;
pub(crate) mod session;
mod tls;
pub(crate) mod url;
