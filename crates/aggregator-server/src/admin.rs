//! The commands of the program besides serving. Each has a file with its options and its errors.

pub mod amend;
pub mod backup;
pub mod check;
pub mod healthcheck;
pub mod key;
mod place;
mod progress;
pub mod restore;
mod socket;
pub mod transfer;
pub mod upgrade;
