//! The aggregator's program.
fn main() {}
