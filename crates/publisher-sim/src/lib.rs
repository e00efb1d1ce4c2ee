//! A publisher that delivers at least once.
