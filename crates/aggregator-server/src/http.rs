//! HTTP: the parts of requests and answers that several rooms use. It knows none of these rooms.

pub(crate) mod authority;
pub(crate) mod body;
pub(crate) mod body_room;
pub(crate) mod connection_place;
mod content_encoding;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub(crate) mod identities;
pub(crate) mod link;
pub(crate) mod params;
pub(crate) mod problem;
pub(crate) mod request_id;
pub(crate) mod response;
