//! The tables: what they are, how they are created and opened, and the statements that use them.

pub(crate) mod migrate;
mod server_checks;
pub(crate) mod statements;
mod tables;
