//! What the program does besides serving: looking after a store, and asking a server whether it is ready.

pub mod check;
pub mod healthcheck;
pub mod transfer;
