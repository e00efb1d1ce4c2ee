//! The small parts of an event.

use std::fmt;

use super::Topic;
use crate::InvalidField;

/// The longest event id, in bytes.
pub const MAX_EVENT_ID_BYTES: usize = 256;

/// The longest source, in bytes.
pub const MAX_SOURCE_BYTES: usize = 1024;

/// The publisher's id of an event: 1 to [`MAX_EVENT_ID_BYTES`] bytes of UTF-8 without control
/// characters, byte-exact and never trimmed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId(Box<str>);

impl EventId {
    /// Checks `id`.
    ///
    /// # Errors
    /// Names the rule of the type's description that `id` breaks.
    pub fn new(id: impl Into<String>) -> Result<Self, InvalidField> {
        let id = id.into();
        check_event_id(&id)?;
        Ok(Self(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who published an event: 1 to [`MAX_SOURCE_BYTES`] bytes of UTF-8 without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(Box<str>);

impl Source {
    /// Checks `source`.
    ///
    /// # Errors
    /// Names the rule of the type's description that `source` breaks.
    pub fn new(source: impl Into<String>) -> Result<Self, InvalidField> {
        let source = source.into();
        check_source(&source)?;
        Ok(Self(source.into()))
    }

    /// The source.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn check_event_id(id: &str) -> Result<(), InvalidField> {
    check_text("event_id", id, MAX_EVENT_ID_BYTES)
}

pub(super) fn check_source(source: &str) -> Result<(), InvalidField> {
    check_text("source", source, MAX_SOURCE_BYTES)
}

pub(super) fn check_text(field: &'static str, text: &str, max_bytes: usize) -> Result<(), InvalidField> {
    if text.is_empty() {
        return Err(InvalidField::new(field, "must not be empty"));
    }
    if text.len() > max_bytes {
        return Err(InvalidField::new(
            field,
            format!("has {} bytes, at most {max_bytes} are allowed", text.len()),
        ));
    }
    // Printable ASCII is the common case and needs no decoding. Many bytes at once, so it does not stop at the first.
    if text.bytes().fold(true, |printable, byte| printable & (0x20..0x7F).contains(&byte)) {
        return Ok(());
    }
    match text.char_indices().find(|(_, char)| char.is_control()) {
        Some((at, char)) => Err(InvalidField::new(
            field,
            format!("has the control character {} at byte {at}", char.escape_unicode()),
        )),
        None => Ok(()),
    }
}

/// What, besides the event id, makes two events of a topic the same. Fixed when the topic is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Scope {
    /// The event id alone: the rule for native topics.
    #[default]
    Topic,
    /// The event id and the source together, as CloudEvents has it.
    Source,
}

/// What stands in place of the source in the key of an identity whose topic has [`Scope::Topic`]. No [`Source`] is
/// empty, so the two scopes cannot be mistaken for each other.
const TOPIC_SCOPE_SOURCE: &str = "";

impl Scope {
    /// `topic` or `source`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Source => "source",
        }
    }

    /// What an identity's key holds in the source's place.
    pub fn key(self, source: &str) -> &str {
        match self {
            Self::Topic => TOPIC_SCOPE_SOURCE,
            Self::Source => source,
        }
    }
}

/// What makes two events the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The topic.
    pub topic: Topic,
    /// The publisher's id.
    pub event_id: EventId,
    /// The source. It counts only in topics of [`Scope::Source`]. If missing in such a topic, the source `unknown` is
    /// used, as for an event without a source.
    pub source: Option<Source>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_ids_are_byte_exact_and_free_of_control_characters() {
        for good in ["1", " a ", "ä/ß?#%", "😀", &"x".repeat(256)] {
            let id = EventId::new(good).unwrap();
            assert_eq!((id.as_str(), id.to_string().as_str()), (good, good));
        }
        for bad in ["", "a\nb", "\0", "\u{7f}", "a\u{85}", &"x".repeat(257), &"ä".repeat(129)] {
            assert!(EventId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_source_and_a_scope_are_shown_as_they_are_written() {
        let source = Source::new("shop ä").unwrap();
        assert_eq!((source.as_str(), source.to_string().as_str()), ("shop ä", "shop ä"));
        assert_eq!([Scope::Topic, Scope::Source].map(Scope::as_str), ["topic", "source"]);
    }
}
