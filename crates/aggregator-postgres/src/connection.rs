//! The way to the database: where it is, how connections are made, shared and given up, and what is tried again.

pub(crate) mod backoff;
pub(crate) mod options;
pub(crate) mod pipeline;
pub(crate) mod pool;
pub(crate) mod retry;
pub(crate) mod session;
mod tls;
pub(crate) mod url;
