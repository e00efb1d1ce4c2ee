//! What a credential allows. Scopes only allow: nothing forbids what another scope allows.

use std::fmt;
use std::str::FromStr;

use aggregator_core::{TopicSelector, Topics};

/// The most scopes of a credential.
pub(crate) const MAX_SCOPES: usize = Topics::MAX;

/// One thing that is allowed. Its text form is `publish:orders.*`, `read:orders.eu`, `metrics` or `admin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scope {
    /// To publish events of these topics.
    Publish(TopicSelector),
    /// To read events of these topics, and whatever tells of them.
    Read(TopicSelector),
    /// To read the counters of the service.
    Metrics,
    /// To manage credentials.
    Admin,
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, pattern) = text.split_once(':').unwrap_or((text, ""));
        let topics = || {
            pattern.parse().map_err(|error: aggregator_core::InvalidField| {
                format!("{text:?}: the topic {}", error.reason)
            })
        };
        match (kind, pattern) {
            ("publish" | "read", "") => {
                Err(format!("{text:?} names no topics: write {kind}:orders.* or {kind}:* for all"))
            }
            ("publish", _) => topics().map(Self::Publish),
            ("read", _) => topics().map(Self::Read),
            ("metrics", "") => Ok(Self::Metrics),
            ("admin", "") => Ok(Self::Admin),
            _ => Err(format!(
                "{text:?} is no scope: write publish:TOPICS, read:TOPICS, metrics or admin; TOPICS is a topic, a \
                 pattern like orders.*, or * for all"
            )),
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(topics) => write!(f, "publish:{topics}"),
            Self::Read(topics) => write!(f, "read:{topics}"),
            Self::Metrics => f.write_str("metrics"),
            Self::Admin => f.write_str("admin"),
        }
    }
}

/// All that a credential allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grants {
    publish: Option<Topics>,
    read: Option<Topics>,
    metrics: bool,
    admin: bool,
}

impl Grants {
    /// What any of 1 to [`MAX_SCOPES`] scopes allows.
    ///
    /// # Errors
    /// If there are none or too many.
    pub(crate) fn of(scopes: &[Scope]) -> Result<Self, String> {
        if scopes.is_empty() || scopes.len() > MAX_SCOPES {
            return Err(format!("must be 1 to {MAX_SCOPES} scopes, like publish:orders.*"));
        }
        let topics = |of: fn(&Scope) -> Option<&TopicSelector>| {
            let selectors: Vec<_> = scopes.iter().filter_map(of).cloned().collect();
            // There is none, or as many as there may be.
            Topics::new(selectors).ok()
        };
        Ok(Self {
            publish: topics(|scope| if let Scope::Publish(topics) = scope { Some(topics) } else { None }),
            read: topics(|scope| if let Scope::Read(topics) = scope { Some(topics) } else { None }),
            metrics: scopes.contains(&Scope::Metrics),
            admin: scopes.contains(&Scope::Admin),
        })
    }

    /// Nothing.
    pub(crate) fn nothing() -> Self {
        Self { publish: None, read: None, metrics: false, admin: false }
    }

    /// Everything but `admin`: what whoever reaches the port may do while there are no credentials.
    pub(crate) fn anonymous() -> Self {
        let all = || Some(Topics::from(TopicSelector::All));
        Self { publish: all(), read: all(), metrics: true, admin: false }
    }

    /// Everything.
    pub(crate) fn everything() -> Self {
        Self { admin: true, ..Self::anonymous() }
    }

    /// Whether all that this scope allows is allowed.
    pub(crate) fn allows(&self, scope: &Scope) -> bool {
        match scope {
            Scope::Publish(topics) => covers(self.publish.as_ref(), topics),
            Scope::Read(topics) => covers(self.read.as_ref(), topics),
            Scope::Metrics => self.metrics,
            Scope::Admin => self.admin,
        }
    }

    /// Whether events of some topics may be published.
    pub(crate) fn publishes(&self) -> bool {
        self.publish.is_some()
    }

    pub(crate) fn may_publish(&self, topic: &str) -> bool {
        self.publish.as_ref().is_some_and(|granted| granted.matches(topic))
    }

    /// The topics that may be read, if there are any.
    pub(crate) fn readable(&self) -> Option<&Topics> {
        self.read.as_ref()
    }

    pub(crate) fn may_read(&self, topic: &str) -> bool {
        self.read.as_ref().is_some_and(|granted| granted.matches(topic))
    }

    /// Whether some topics may be read, and not all of them.
    pub(crate) fn reads_some_only(&self) -> bool {
        self.read.as_ref().is_some_and(|granted| *granted != TopicSelector::All)
    }

    /// The first of these that may not be read as a whole.
    pub(crate) fn unreadable<'t>(&self, topics: &'t Topics) -> Option<&'t TopicSelector> {
        topics.selectors().iter().find(|asked| !covers(self.read.as_ref(), asked))
    }
}

/// Whether one of the granted selectors means all that the other one means.
fn covers(granted: Option<&Topics>, asked: &TopicSelector) -> bool {
    granted.is_some_and(|granted| granted.selectors().iter().any(|granted| granted.includes(asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(scopes: &[&str]) -> Grants {
        Grants::of(&scopes.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_scope_is_read_as_it_is_written() {
        for text in ["publish:*", "publish:a.b", "read:orders.*", "metrics", "admin"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for (text, says) in [
            ("", "is no scope"),
            ("publish", "names no topics"),
            ("read:", "names no topics"),
            ("read:orders*", "orders.*"),
            ("publish:a b", "not allowed"),
            ("metrics:x", "is no scope"),
            ("Admin", "is no scope"),
            ("write:*", "is no scope"),
        ] {
            let error = text.parse::<Scope>().unwrap_err();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn segments_end_exactly_where_they_end() {
        let grants = grants(&["publish:a.*", "read:a.b.*", "read:c"]);
        for (topic, publishes, reads) in [
            ("a", false, false),
            ("ab", false, false),
            ("ab.c", false, false),
            ("a.b", true, false),
            ("a.b.c", true, true),
            ("a.bc", true, false),
            ("a.bc.d", true, false),
            ("c", false, true),
            ("c.d", false, false),
        ] {
            assert_eq!((grants.may_publish(topic), grants.may_read(topic)), (publishes, reads), "{topic}");
        }
    }

    #[test]
    fn topics_are_readable_if_one_scope_covers_each_of_them() {
        let grants = grants(&["read:a.*", "read:b.c", "read:b.d"]);
        for (asked, missing) in [
            ("a.b", None),
            ("a.b.*", None),
            ("a.*,b.c", None),
            ("a", Some("a")),
            ("*", Some("*")),
            ("b.*", Some("b.*")),
            ("a.x,b.e", Some("b.e")),
            ("ab.*", Some("ab.*")),
        ] {
            let asked: Topics = asked.parse().unwrap();
            assert_eq!(grants.unreadable(&asked).map(ToString::to_string).as_deref(), missing, "{asked}");
        }
        assert!(grants.reads_some_only() && !grants.publishes() && !grants.admin && !grants.metrics);
        assert!(!Grants::everything().reads_some_only() && Grants::everything().admin);
        assert!(!Grants::anonymous().admin);
    }

    #[test]
    fn there_is_a_scope_at_least_and_not_too_many() {
        let scopes = vec![Scope::Metrics; MAX_SCOPES + 1];
        assert!(Grants::of(&[]).is_err() && Grants::of(&scopes).is_err());
        Grants::of(&scopes[1..]).unwrap();
    }
}
