//! Serving: connections, the layers that every request passes, and the table of routes with the handlers in their rooms.
//!
//! Only `run` uses this room. The rooms with the handlers use `http/`, and never this one.

mod compression;
pub(crate) mod connections;
mod framing;
mod host;
pub(crate) mod layers;
mod not_found;
mod probes;
mod response_room;
mod routes;
