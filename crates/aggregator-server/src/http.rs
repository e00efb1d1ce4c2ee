//! HTTP: connections, the layers that every request passes, the table of routes, and what requests and answers are
//! made of.

pub(crate) mod body;
pub(crate) mod connections;
mod host;
pub(crate) mod link;
pub(crate) mod params;
mod paths;
pub(crate) mod problem;
pub(crate) mod response;
pub(crate) mod routes;
