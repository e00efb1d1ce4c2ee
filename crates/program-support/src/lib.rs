//! What the programs share around their work: how options and their environment variables are read, and which signals
//! ask them to end.

pub mod environment;
pub mod signals;
pub mod values;
