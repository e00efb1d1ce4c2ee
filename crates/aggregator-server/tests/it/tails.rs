//! Readers that wait at the end of the stream.

pub(crate) mod event_source;
mod lines;
mod long_poll;
mod resuming;
mod stream;
