//! Who asks, and what that one may do. Handlers receive a [`Principal`] and ask it before they do anything.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use aggregator_core::{Cursor, InvalidField, Timestamp, Topics};
use axum::extract::FromRequestParts;
use hyper::http::request::Parts;

use super::cursor_seal::CursorSeal;
use super::jwt::Subject;
use super::keyring::Key;
use super::scope::{Grants, Scope};
use crate::fair::Flow;
use crate::http::problem::Problem;

/// Who asks.
#[derive(Debug, Clone)]
pub(crate) enum Principal {
    /// Nobody: may do nothing.
    Nobody,
    /// Somebody who reaches the port of a server that has no key; true once it has one.
    Anonymous(Arc<AtomicBool>),
    /// Whoever may open the admin socket, or the store itself.
    Operator,
    /// Whoever holds this key.
    Key(Arc<Key>),
    /// Whoever has a token that speaks for this subject.
    Subject(Arc<Subject>),
}

static NOTHING: LazyLock<Grants> = LazyLock::new(Grants::nothing);
static ANONYMOUS: LazyLock<Grants> = LazyLock::new(Grants::anonymous);
static EVERYTHING: LazyLock<Grants> = LazyLock::new(Grants::everything);

impl Principal {
    fn grants(&self) -> &Grants {
        match self {
            Self::Nobody => &NOTHING,
            Self::Anonymous(_) => &ANONYMOUS,
            Self::Operator => &EVERYTHING,
            Self::Key(key) => key.grants(),
            Self::Subject(subject) => subject.grants(),
        }
    }

    /// Whether it is still who it was when its request came: long answers ask again and again.
    pub(crate) fn check(&self) -> Result<(), Problem> {
        match self {
            Self::Nobody | Self::Operator => Ok(()),
            Self::Anonymous(is_over) if is_over.load(Ordering::Acquire) => {
                Err(Problem::no_credential("there is a key by now: send one"))
            }
            Self::Anonymous(_) => Ok(()),
            Self::Key(key) => key.check(Timestamp::now()),
            Self::Subject(subject) => subject.check(Timestamp::now()),
        }
    }

    /// How long that lasts; `None` if it does not end by itself.
    pub(crate) fn expires_in(&self) -> Option<Duration> {
        let end = match self {
            Self::Key(key) => key.expires_at()?,
            Self::Subject(subject) => subject.expires_at(),
            Self::Nobody | Self::Anonymous(_) | Self::Operator => return None,
        };
        let left = end.as_micros().saturating_sub(Timestamp::now().as_micros());
        Some(Duration::from_micros(u64::try_from(left).unwrap_or(0)))
    }

    /// Whether it may do what this scope allows.
    pub(crate) fn check_scope(&self, scope: &Scope) -> Result<(), Problem> {
        if self.grants().allows(scope) { Ok(()) } else { Err(Problem::missing_scope(scope)) }
    }

    /// The flow of its requests, where requests wait for each other.
    pub(crate) fn flow(&self) -> Flow {
        match self {
            Self::Nobody | Self::Anonymous(_) => Flow::EVERYBODY,
            Self::Operator => Flow::of("admin-socket"),
            Self::Key(key) => key.flow(),
            Self::Subject(subject) => subject.flow(),
        }
    }

    /// Refuses whoever may publish nothing, before anything is read of a request.
    pub(crate) fn check_publishes(&self) -> Result<(), Problem> {
        if self.grants().publishes() { Ok(()) } else { Err(Problem::missing_kind_of_scope("publish")) }
    }

    /// Refuses whoever may read nothing.
    pub(crate) fn check_reads(&self) -> Result<(), Problem> {
        if self.grants().readable().is_some() { Ok(()) } else { Err(Problem::missing_kind_of_scope("read")) }
    }

    /// Refuses a read of these topics unless all of them may be read.
    pub(crate) fn check_readable(&self, topics: &Topics) -> Result<(), Problem> {
        match self.grants().unreadable(topics) {
            None => Ok(()),
            Some(asked) => Err(Problem::missing_scope(&Scope::Read(asked.clone()))),
        }
    }

    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.grants().may_publish(topic)
    }

    /// Takes room for a body of so many bytes, if the publisher is limited.
    pub(crate) fn take_bytes(&self, count: usize) -> Result<(), Problem> {
        if let Self::Key(key) = self { key.buckets().take_bytes(count) } else { Ok(()) }
    }

    /// Takes room for so many events, if the publisher is limited.
    pub(crate) fn take_events(&self, count: usize) -> Result<(), Problem> {
        if let Self::Key(key) = self { key.buckets().take_events(count) } else { Ok(()) }
    }

    pub(crate) fn may_read(&self, topic: &str) -> bool {
        self.grants().may_read(topic)
    }

    /// The topics that may be read.
    pub(crate) fn readable(&self) -> Result<&Topics, Problem> {
        self.grants().readable().ok_or_else(|| Problem::missing_kind_of_scope("read"))
    }

    /// A cursor as it may see it.
    pub(crate) fn show_cursor(&self, cursor: &Cursor) -> String {
        match self.seal() {
            Some(seal) => seal.seal(cursor),
            None => cursor.to_string(),
        }
    }

    /// A cursor that it hands back. Whoever may not read everything hands back what was sealed for it: a plain one could be
    /// made up, by whoever knows the rows of its own topics, and the answers would tell of the offsets of others.
    ///
    /// # Errors
    /// Says what is wrong with it, without its name.
    pub(crate) fn parse_cursor(&self, text: &str) -> Result<Cursor, String> {
        match self.seal() {
            None => text.parse().map_err(|error: InvalidField| error.reason),
            Some(seal) => seal.open(text).ok_or_else(|| {
                "is not a cursor of this reader, who is limited to some topics: begin without it, or once with `after=latest`"
                    .to_owned()
            }),
        }
    }

    fn seal(&self) -> Option<&CursorSeal> {
        match self {
            Self::Key(key) => key.seal(),
            Self::Subject(subject) => subject.seal(),
            Self::Nobody | Self::Anonymous(_) | Self::Operator => None,
        }
    }
}

/// As logs and audit entries name it.
impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nobody => f.write_str("nobody"),
            Self::Anonymous(_) => f.write_str("anonymous"),
            Self::Operator => f.write_str("admin-socket"),
            Self::Key(key) => write!(f, "key:{}", key.id()),
            Self::Subject(subject) => f.write_str(subject.name()),
        }
    }
}

/// The one who asks, as `serve/routes.rs` has noted it in the request. A request without a note is nobody's, who may
/// do nothing.
impl<S: Sync> FromRequestParts<S> for Principal {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get().cloned().unwrap_or(Self::Nobody))
    }
}
