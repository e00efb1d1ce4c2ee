//! The service over real sockets, and the program as a process.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod amend;
mod backup;
mod bad_input;
mod clock;
mod compressed;
mod config;
mod dashboard;
mod documents;
mod failure;
mod file_systems;
mod files;
mod full_disk;
mod guard;
mod http;
#[path = "../shared/http_client.rs"]
mod http_client;
mod insight;
mod let_go;
mod limits;
mod metrics;
mod nasty_bodies;
mod open_files;
mod opening;
#[cfg(feature = "postgres")]
mod operations;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod publish;
#[path = "../shared/publisher_sim.rs"]
mod publisher_sim;
mod raw;
mod read;
mod read_limits;
mod reference;
mod refusal;
mod request_id;
mod retention;
mod service_manager;
mod sharded;
#[path = "../shared/signal.rs"]
mod signal;
#[cfg(feature = "otlp")]
mod spans;
mod start;
mod stats;
mod streams;
mod support;
mod tails;
mod tls;
mod transfer;
#[cfg(feature = "postgres")]
mod upgrade;
