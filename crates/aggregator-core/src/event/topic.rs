//! Topics, patterns over topics, and where a topic's events go.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use xxhash_rust::xxh3::xxh3_64;

use crate::InvalidField;

/// The longest topic, in bytes.
pub const MAX_TOPIC_BYTES: usize = 255;

/// The number of slots topics are hashed into. Part of every store's format.
pub const SLOTS: u16 = 1024;

/// A topic: segments of `[A-Za-z0-9_:/-]` joined by dots, 1 to [`MAX_TOPIC_BYTES`] bytes, byte-exact.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Box<str>);

impl Topic {
    /// Checks `name`.
    ///
    /// # Errors
    /// Names the rule of the type's description that `name` breaks.
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidField> {
        let name = name.into();
        check(&name)?;
        Ok(Self(name.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(super) fn check(name: &str) -> Result<(), InvalidField> {
    let fail = |reason: String| Err(InvalidField::new("topic", reason));
    if name.is_empty() {
        return fail("must not be empty".into());
    }
    if name.len() > MAX_TOPIC_BYTES {
        return fail(format!("has {} bytes, at most {MAX_TOPIC_BYTES} are allowed", name.len()));
    }
    let mut segment_bytes = 0;
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'.' if segment_bytes == 0 => return fail(format!("has an empty segment at byte {at}")),
            b'.' => segment_bytes = 0,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b':' | b'/' | b'-' => segment_bytes += 1,
            _ => {
                return fail(format!(
                    "has a character at byte {at} that is not allowed: use A-Z a-z 0-9 _ : / - and dots between segments"
                ));
            }
        }
    }
    if segment_bytes == 0 {
        return fail("must not end with a dot".into());
    }
    Ok(())
}

/// Which topics a query is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TopicSelector {
    /// Every topic: `*`.
    All,
    /// This one: `orders.eu`.
    Exact(Topic),
    /// Every topic below this one, not itself: `orders.*`.
    Below(Topic),
}

impl TopicSelector {
    /// Whether `topic` is selected.
    pub fn matches(&self, topic: &str) -> bool {
        match self {
            Self::All => true,
            Self::Exact(exact) => exact.as_str() == topic,
            Self::Below(parent) => {
                topic.strip_prefix(parent.as_str()).is_some_and(|rest| rest.starts_with('.'))
            }
        }
    }

    /// The names it means, as a range in the order of their bytes, without its end: all that a name may hold lies
    /// between a space and a tilde.
    pub fn names(&self) -> (String, String) {
        match self {
            Self::All => (String::new(), "~".into()),
            Self::Exact(topic) => (topic.to_string(), format!("{topic} ")),
            Self::Below(topic) => (format!("{topic}."), format!("{topic}/")),
        }
    }

    /// Whether all topics that `other` means are selected.
    pub fn includes(&self, other: &Self) -> bool {
        let ((low, high), (other_low, other_high)) = (self.names(), other.names());
        low <= other_low && other_high <= high
    }
}

impl FromStr for TopicSelector {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        if text == "*" {
            return Ok(Self::All);
        }
        let selector = match text.strip_suffix(".*") {
            Some(parent) => Topic::new(parent).map(Self::Below),
            None => Topic::new(text).map(Self::Exact),
        };
        selector.map_err(|fault| not_a_pattern(text).unwrap_or(fault))
    }
}

/// Explains how to write what was probably meant as a pattern, perhaps a pattern of another system.
fn not_a_pattern(text: &str) -> Option<InvalidField> {
    let parent = text.trim_end_matches(['*', '>', '#', '.']);
    let reason = if parent.len() < text.len() && check(parent).is_ok() {
        format!("is neither a topic nor a pattern: did you mean {parent}.*, every topic below {parent}?")
    } else if text.contains('*') {
        "is no pattern: a `*` comes last and behind a dot, as in orders.*, every topic below orders"
            .to_owned()
    } else {
        return None;
    };
    Some(InvalidField::new("topic", reason))
}

impl fmt::Display for TopicSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Exact(topic) => topic.fmt(f),
            Self::Below(topic) => write!(f, "{topic}.*"),
        }
    }
}

/// The slot of a topic: XXH3-64 of its bytes, modulo [`SLOTS`]. Never changes.
pub fn slot(topic: &str) -> u16 {
    u16::try_from(xxh3_64(topic.as_bytes()) % u64::from(SLOTS)).expect("a remainder of 1024 fits")
}

/// One append order with one writer at a time: a number below [`Partitions::count`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Partition(pub u16);

/// How many partitions a store has: 1 to [`SLOTS`], fixed when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitions(NonZeroU16);

impl Partitions {
    /// One partition.
    pub const ONE: Self = Self(NonZeroU16::MIN);

    /// `count` partitions, or nothing if that is not 1 to [`SLOTS`].
    pub fn new(count: u16) -> Option<Self> {
        NonZeroU16::new(count).filter(|count| count.get() <= SLOTS).map(Self)
    }

    /// How many there are.
    pub fn count(self) -> u16 {
        self.0.get()
    }

    /// The partition that holds `topic`.
    pub fn of(self, topic: &str) -> Partition {
        if self.count() == 1 { Partition(0) } else { Partition(slot(topic) % self.0) }
    }

    /// All of them, in order.
    pub fn iter(self) -> impl Iterator<Item = Partition> {
        (0..self.count()).map(Partition)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn topics_are_taken_or_refused_by_the_rules() {
        for good in ["a", "orders.eu.created", "a-b_c:d/e.F9", &"x".repeat(255)] {
            assert_eq!(Topic::new(good).unwrap().as_str(), good);
        }
        for bad in ["", ".", "a.", ".a", "a..b", "a b", "a\n", "ä", "a.*", "*", "a\0", &"x".repeat(256)] {
            assert!(Topic::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_pattern_means_everything_below() {
        let below: TopicSelector = "orders.*".parse().unwrap();
        assert!(below.matches("orders.eu") && below.matches("orders.eu.created"));
        assert!(!below.matches("orders") && !below.matches("orders2.eu") && !below.matches("ordersx"));
        assert!("*".parse::<TopicSelector>().unwrap().matches("anything"));
        for bad in ["", ".*", "a.*.b", "a*", "**"] {
            assert!(bad.parse::<TopicSelector>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn slots_never_change() {
        // Computed once with the reference implementation (xxhsum -H3); a store on disk depends on them.
        assert_eq!(xxh3_64(b""), 0x2D06_8005_38D3_94C2);
        assert_eq!(slot(""), 0x0C2);
    }

    #[test]
    fn whoever_means_a_pattern_is_told_how_to_write_it() {
        let reason = |text: &str| text.parse::<TopicSelector>().unwrap_err().to_string();
        for text in ["orders*", "orders.>", "orders.#", "orders.**"] {
            assert!(reason(text).contains("did you mean orders.*,"), "{}", reason(text));
        }
        for text in ["*.eu", "or*ers", "or*ers>"] {
            assert!(reason(text).contains("is no pattern"), "{}", reason(text));
        }
        assert!(!reason("or ders").contains("pattern"), "{}", reason("or ders"));
    }

    #[test]
    fn a_topic_is_in_the_partition_of_its_slot_and_all_partitions_are_used() {
        let four = Partitions::new(4).unwrap();
        assert_eq!(four.count(), 4);
        let mut used = BTreeSet::new();
        for topic in (0..100).map(|n| format!("t{n}")) {
            assert_eq!(four.of(&topic), Partition(slot(&topic) % 4));
            used.insert(four.of(&topic).0);
        }
        assert_eq!(used.len(), 4);
    }
}
