//! Reports as one HTML page each: the looks, the plots and the escaping that the programs share.
//!
//! A page needs nothing but itself: no network, no script, no font. Its own policy forbids them, so a text that got through
//! the escaping could load and run nothing. Plots are SVG in the page, with a title and a text for people who do not see
//! them. Light and dark follow the reader's system.
//!
//! Every method takes plain text and escapes it. Only [`Page::markup`] takes HTML.
//!
//! This crate knows nothing of what it shows, and depends on nothing.

pub mod chart;
pub mod escape;
pub mod file;
pub mod number;
mod page;

pub use chart::Chart;
pub use page::{Column, Figure, Page, Tone};
