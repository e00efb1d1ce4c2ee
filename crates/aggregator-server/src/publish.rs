//! The way of an event, from the body of a request to a commit and back to a reply.
//!
//! `handler` reads the options (`options`), takes room in the queue (`admission`) and decodes the body (`decode`). `submit` sends
//! a `job` per partition to the `queue`. A thread of `worker` takes the jobs that wait, commits them as one group
//! (`commit_group`), counts the outcomes (`outcome_counters`), and answers each job. `outcomes` holds the outcome of each item,
//! which `reply` writes.

pub(crate) mod admission;
mod commit_group;
pub(crate) mod decode;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod handler;
mod injected_bug;
mod job;
mod options;
mod outcome_counters;
mod outcomes;
mod queue;
mod reply;
#[cfg(all(test, shuttle))]
mod shuttle_tests;
mod submit;
pub(crate) mod worker;
