//! Several topics and patterns at once.

use std::fmt;
use std::str::FromStr;

use super::{Topic, TopicSelector};
use crate::InvalidField;

/// The topics of a query: those that any of 1 to [`Topics::MAX`] selectors means.
///
/// The same however it is written: in any order, with repeats, with selectors that others include. Its text form is that of
/// its selectors, with a comma between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topics(Vec<TopicSelector>);

impl Topics {
    /// The most selectors.
    pub const MAX: usize = 100;

    /// What any of `selectors` means.
    ///
    /// # Errors
    /// Of the field `topic`, if there is none of them or there are more than [`Self::MAX`].
    pub fn new(selectors: impl IntoIterator<Item = TopicSelector>) -> Result<Self, InvalidField> {
        let all: Vec<_> = selectors.into_iter().take(Self::MAX + 1).collect();
        if all.is_empty() || all.len() > Self::MAX {
            return Err(InvalidField::new("topic", format!("must be given 1 to {} times", Self::MAX)));
        }
        let included = |one: &TopicSelector| all.iter().any(|other| other != one && other.includes(one));
        let mut selectors: Vec<_> = all.iter().filter(|one| !included(one)).cloned().collect();
        selectors.sort_by_cached_key(TopicSelector::names);
        selectors.dedup();
        Ok(Self(selectors))
    }

    /// Whether `topic` is selected.
    pub fn matches(&self, topic: &str) -> bool {
        self.0.iter().any(|selector| selector.matches(topic))
    }

    /// The selectors, in the order of the names that they mean. No topic is meant by two of them.
    pub fn selectors(&self) -> &[TopicSelector] {
        &self.0
    }

    /// The topic, if it is exactly one that is named.
    pub fn exact(&self) -> Option<&Topic> {
        match &self.0[..] {
            [TopicSelector::Exact(topic)] => Some(topic),
            _ => None,
        }
    }
}

impl From<TopicSelector> for Topics {
    fn from(selector: TopicSelector) -> Self {
        Self(vec![selector])
    }
}

impl PartialEq<TopicSelector> for Topics {
    fn eq(&self, other: &TopicSelector) -> bool {
        self.0 == std::slice::from_ref(other)
    }
}

impl FromStr for Topics {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        Self::new(text.split(',').map(str::parse).collect::<Result<Vec<_>, _>>()?)
    }
}

impl fmt::Display for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, selector) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            selector.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 9] = ["*", "a", "a.*", "a.b", "a.b.*", "a.b.c", "a-b", "ab", "b.*"];

    proptest! {
        #[test]
        fn topics_mean_what_any_of_their_selectors_means(
            selectors in prop::collection::vec(prop::sample::select(&NAMES), 1..6),
            topic in prop::sample::select(&NAMES[1..]),
        ) {
            let parsed: Vec<TopicSelector> = selectors.iter().map(|text| text.parse().unwrap()).collect();
            let topics = Topics::new(parsed.clone()).unwrap();
            let topic = topic.trim_end_matches(".*");
            let matching = parsed.iter().filter(|selector| selector.matches(topic)).count();
            prop_assert_eq!(topics.matches(topic), matching > 0);
            let ranges: Vec<_> = topics.selectors().iter().map(TopicSelector::names).collect();
            let in_ranges = ranges.iter().filter(|(low, high)| (low.as_str()..high).contains(&topic)).count();
            prop_assert_eq!(in_ranges, usize::from(matching > 0), "{:?}", ranges);
            // However it is written.
            prop_assert_eq!(&Topics::new(parsed.into_iter().rev()).unwrap(), &topics);
            prop_assert_eq!(&topics.to_string().parse::<Topics>().unwrap(), &topics);
        }
    }

    #[test]
    fn there_is_a_selector_at_least_and_not_too_many() {
        let selectors = |count: usize| Topics::new((0..count).map(|n| format!("t{n}").parse().unwrap()));
        assert!(selectors(0).is_err() && selectors(Topics::MAX + 1).is_err());
        assert_eq!(selectors(Topics::MAX).unwrap().selectors().len(), Topics::MAX);
        assert_eq!(selectors(1).unwrap().exact().unwrap().as_str(), "t0");
        assert_eq!("a,*,b.*".parse::<Topics>().unwrap(), TopicSelector::All);
    }
}
