//! Which topics to list.

use crate::{Topic, TopicSelector, Topics};

/// Which topics to list, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicQuery {
    /// These.
    pub topics: Topics,
    /// Those behind this name; from the first one if it is missing. There need be no such topic.
    pub after: Option<Topic>,
    /// How many at most.
    pub limit: usize,
    /// Whether to look for the times of their events, which costs a few more reads per topic.
    pub times: bool,
}

impl TopicQuery {
    /// How many topics a page has unless its reader says otherwise.
    pub const DEFAULT_LIMIT: usize = 100;

    /// The first ones that `topics` selects, without times.
    pub fn of(topics: impl Into<Topics>) -> Self {
        Self { topics: topics.into(), after: None, limit: Self::DEFAULT_LIMIT, times: false }
    }

    /// Where the names are that are left behind [`Self::after`]: a range for each selector that has any, in the order of
    /// the names and without its end, as [`TopicSelector::names`] says. For backends.
    pub fn ranges(&self) -> impl Iterator<Item = (&TopicSelector, (String, String))> {
        // No name lies between one and the same with a space behind it.
        let behind = self.after.as_ref().map_or_else(String::new, |after| format!("{after} "));
        let left = move |selector| {
            let (low, high) = TopicSelector::names(selector);
            (selector, (low.max(behind.clone()), high))
        };
        self.topics.selectors().iter().map(left).filter(|(_, (low, high))| low < high)
    }
}

/// All topics.
impl Default for TopicQuery {
    fn default() -> Self {
        Self::of(TopicSelector::All)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMES: [&str; 7] = ["a", "a-b", "a.b", "a.b.c", "a/b", "ab", "b.c"];

    proptest! {
        #[test]
        fn ranges_hold_the_selected_names_behind_a_name_in_order(
            selectors in prop::sample::subsequence(vec!["a", "a.*", "a.b.*", "a/b", "b.*", "*"], 1..4),
            after in prop::option::of(prop::sample::select(&NAMES)),
        ) {
            let topics: Topics = selectors.join(",").parse().unwrap();
            let after = after.map(|name| Topic::new(name).unwrap());
            let query = TopicQuery { after: after.clone(), ..TopicQuery::of(topics.clone()) };
            let within = |(low, high): (String, String)| {
                NAMES.into_iter().filter(move |name| (low.as_str()..high.as_str()).contains(name)).collect::<Vec<_>>()
            };
            let found: Vec<_> = query.ranges().flat_map(|(_, range)| within(range)).collect();
            let behind = |name: &&str| after.as_ref().is_none_or(|after| *name > after.as_str());
            let expected: Vec<_> = NAMES.into_iter().filter(|name| topics.matches(name)).filter(behind).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
