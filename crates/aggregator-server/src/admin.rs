//! The commands of the program besides serving. Each has a file with its options and its errors.

pub mod check;
pub mod healthcheck;
pub mod key;
pub mod transfer;
