//! Who may do what: keys and tokens, what they allow, and how a request becomes a [`Principal`].
//!
//! ```text
//! serve/layers ─ Guard::principal ─► Principal ─► handlers ask it before they read or store
//!                     │
//!                     ├─ Keyring ◄─ every 300 ms ─ registry (records of the store) ◄─ admin routes, `key` command
//!                     └─ Jwt ◄─ the issuer's keys (jwks/)
//! ```
//!
//! Rules:
//!
//! * Scopes only allow. A credential that is not good never makes its sender an anonymous one.
//! * As soon as there was a key, nobody is anonymous any more, also after the last key is revoked. Where tokens are taken
//!   nobody ever is.
//! * What a principal may not read it cannot learn from any answer: not from counts, cursors, or errors.

mod access;
pub(crate) mod audit;
mod browser;
mod cursor_seal;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod guard;
pub(crate) mod jwt;
mod keyring;
mod principal;
mod rate;
pub(crate) mod registry;
pub(crate) mod routes;
mod scope;
mod token;

pub(crate) use self::access::{Access, authorize};
pub(crate) use self::guard::{Anonymity, Entrance, Guard, begin, follow, note_uses_of};
pub(crate) use self::jwt::Jwt;
pub(crate) use self::principal::Principal;
pub(crate) use self::rate::RateLimits;
pub(crate) use self::scope::Scope;
