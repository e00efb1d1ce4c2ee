//! The way of an event: from the body of a request to a commit, and back to a reply.

pub(crate) mod admission;
mod commit_group;
pub(crate) mod decode;
pub(crate) mod handler;
mod job;
mod mutation;
mod options;
mod outcome_counters;
mod outcomes;
mod queue;
mod reply;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod submit;
pub(crate) mod worker;
