//! Event model and deduplicating stores.
