//! HTTP: connections, the layers that every request passes, the table of routes, and the parts of requests and answers
//! that several routes use. The handlers are in the rooms that the routes are about.

pub(crate) mod body;
pub(crate) mod connections;
mod host;
pub(crate) mod layers;
pub(crate) mod link;
mod not_found;
pub(crate) mod params;
pub(crate) mod problem;
mod request_id;
pub(crate) mod response;
mod response_room;
mod routes;
