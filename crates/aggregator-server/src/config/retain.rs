//! What is kept of a topic's events.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::time::Duration;

use aggregator_core::{InvalidField, TopicSelector};

use super::ByteSize;

/// The most rules.
const MAX_RULES: usize = 100;

/// The longest age, in days. Longer ones are refused: whoever wants to keep events, or identities, for so long needs no limit.
const MAX_DAYS: u64 = 36_500;

/// A rule: `logs.*=age:30d,count:1000000,bytes:10GiB`. Each topic that the pattern means keeps at most that much, for itself.
/// With `identities:365d` identities go, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionRule {
    /// Its topics, unless a more specific pattern of another rule means them, too.
    pub pattern: TopicSelector,
    /// How long ago an event was stored at most, by the store's clock.
    pub age: Option<Duration>,
    /// How many events there are at most.
    pub count: Option<NonZeroU64>,
    /// How many bytes the event ids, the sources and the payloads of the events have at most.
    pub bytes: Option<NonZeroU64>,
    /// How long ago an event was stored at most, by the store's clock, whose identity is kept once its payload is gone. Kept
    /// for ever without it.
    pub identities: Option<Duration>,
}

impl FromStr for RetentionRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, limits) = text.split_once('=').ok_or_else(|| EXPECTED.to_owned())?;
        let pattern = pattern.trim().parse();
        let pattern =
            pattern.map_err(|error: InvalidField| format!("has a pattern that {}", error.reason))?;
        let mut rule = Self { pattern, age: None, count: None, bytes: None, identities: None };
        for limit in limits.split(',').map(str::trim) {
            rule.set(limit)?;
        }
        rule.check_identities()?;
        Ok(rule)
    }
}

const EXPECTED: &str = "must be a pattern and its limits, such as logs.*=age:30d,count:1000000,bytes:10GiB";

impl RetentionRule {
    /// Takes one limit, `NAME:VALUE`.
    fn set(&mut self, limit: &str) -> Result<(), String> {
        let Some((name, value)) = limit.split_once(':') else {
            return Err(match limit {
                "" => format!("lacks a limit: {EXPECTED}"),
                _ => format!("has the limit {limit:?} without a value: {EXPECTED}"),
            });
        };
        let (name, value) = (name.trim(), value.trim());
        let of_limit = |reason: String| format!("has {name}:{value}, which {reason}");
        let is_new = match name {
            "age" => self.age.replace(span(name, value).map_err(of_limit)?).is_none(),
            "count" => self.count.replace(count(value).map_err(of_limit)?).is_none(),
            "bytes" => self.bytes.replace(bytes(value).map_err(of_limit)?).is_none(),
            "identities" => self.identities.replace(span(name, value).map_err(of_limit)?).is_none(),
            _ => {
                return Err(format!(
                    "has the limit {name:?}, which is not known: the limits are age, count, bytes and identities"
                ));
            }
        };
        if is_new { Ok(()) } else { Err(format!("has {name} twice: give one value")) }
    }

    /// Refuses identities that would never be forgotten, or before their events.
    fn check_identities(&self) -> Result<(), String> {
        let Some(identities) = self.identities else { return Ok(()) };
        if self.age.is_none() && self.count.is_none() && self.bytes.is_none() {
            return Err(format!(
                "has identities:{} without age, count or bytes, so no payload ever goes and no identity after it: add one \
                 of them, or leave identities out",
                short(identities)
            ));
        }
        if let Some(age) = self.age.filter(|age| identities < *age) {
            return Err(format!(
                "has identities:{}, which is shorter than its age:{age}: an identity is kept for as long as its event, so \
                 give identities:{age} or more",
                short(identities),
                age = short(age)
            ));
        }
        Ok(())
    }

    /// The name of the topic that it means, or that all its topics are below. The longer, the more specific.
    fn base(&self) -> &str {
        match &self.pattern {
            TopicSelector::All => "",
            TopicSelector::Exact(topic) | TopicSelector::Below(topic) => topic.as_str(),
        }
    }
}

/// A time of the limit `name`.
fn span(name: &str, value: &str) -> Result<Duration, String> {
    let span: humantime::Duration =
        value.parse().map_err(|_| "must be a number with a unit, such as 12h or 30d".to_owned())?;
    let span = Duration::from(span);
    if span.is_zero() {
        return Err(NO_ZERO.to_owned());
    }
    if span > Duration::from_secs(MAX_DAYS * 86_400) {
        return Err(format!("must be at most {MAX_DAYS}d: leave {name} out"));
    }
    Ok(span)
}

/// A time in days and what is left: `humantime` makes months and years of it, which have hours and minutes.
fn short(span: Duration) -> String {
    const DAY: u64 = 86_400;
    let days = span.as_secs() / DAY;
    let rest = span - Duration::from_secs(days * DAY);
    let rest = humantime::format_duration(rest).to_string().replace(' ', "");
    match days {
        0 => rest,
        _ if span.as_nanos().is_multiple_of(u128::from(DAY) * 1_000_000_000) => format!("{days}d"),
        _ => format!("{days}d{rest}"),
    }
}

fn count(value: &str) -> Result<NonZeroU64, String> {
    let count: u64 =
        value.parse().map_err(|_| "must be a whole number of events, such as 1000000".to_owned())?;
    NonZeroU64::new(count).ok_or_else(|| NO_ZERO.to_owned())
}

fn bytes(value: &str) -> Result<NonZeroU64, String> {
    let size: ByteSize = value.parse()?;
    NonZeroU64::new(size.0 as u64).ok_or_else(|| NO_ZERO.to_owned())
}

const NO_ZERO: &str = "would keep nothing: it must be more than zero";

impl fmt::Display for RetentionRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.pattern)?;
        let limits = [
            self.age.map(|age| format!("age:{}", short(age))),
            self.count.map(|count| format!("count:{count}")),
            self.bytes.map(|bytes| {
                let size = usize::try_from(bytes.get()).map(ByteSize);
                size.map_or_else(|_| format!("bytes:{bytes}"), |size| format!("bytes:{size}"))
            }),
            self.identities.map(|identities| format!("identities:{}", short(identities))),
        ];
        f.write_str(&limits.into_iter().flatten().collect::<Vec<_>>().join(","))
    }
}

/// Refuses too many rules, two for one pattern, and limits that contradict each other.
///
/// # Errors
/// Names the option and the pattern.
pub(super) fn check(rules: &[RetentionRule]) -> Result<(), String> {
    if rules.len() > MAX_RULES {
        return Err(format!(
            "--retain is given {} times: at most {MAX_RULES} rules are allowed",
            rules.len()
        ));
    }
    for (index, rule) in rules.iter().enumerate() {
        if rules[..index].iter().any(|other| other.pattern == rule.pattern) {
            return Err(format!("--retain has two rules for {}: give its limits in one", rule.pattern));
        }
        rule.check_identities().map_err(|reason| format!("--retain {rule} {reason}"))?;
    }
    Ok(())
}

/// The rules with the most specific pattern first: of those that mean a topic, the first one is about it.
pub(crate) fn by_specificity(rules: &[RetentionRule]) -> Vec<RetentionRule> {
    let mut sorted = rules.to_vec();
    let rank = |rule: &RetentionRule| {
        let exact = matches!(rule.pattern, TopicSelector::Exact(_));
        (!exact, usize::MAX - rule.base().len(), rule.pattern.to_string())
    };
    sorted.sort_by_cached_key(rank);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> RetentionRule {
        text.parse().unwrap()
    }

    #[test]
    fn a_rule_has_a_pattern_and_one_to_four_limits() {
        let all = rule("logs.*=age:30d,count:1000000,identities:365d,bytes:10GiB");
        assert_eq!(all.pattern, "logs.*".parse().unwrap());
        assert_eq!(all.age, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!((all.count.unwrap().get(), all.bytes.unwrap().get()), (1_000_000, 10 << 30));
        assert_eq!(all.identities, Some(Duration::from_secs(365 * 86_400)));
        assert_eq!(all.to_string(), "logs.*=age:30d,count:1000000,bytes:10GiB,identities:365d");
        assert_eq!(rule("*=count:1").identities, None);
        for text in [
            "*=count:1",
            "a=age:500ms",
            "a.b:c=bytes:7",
            "a=age:1h30m,bytes:1KiB",
            "a=age:90d7ms",
            "a=age:1d,identities:1d",
            "a=identities:1s,count:3",
        ] {
            assert_eq!(rule(&rule(text).to_string()), rule(text), "{text}");
        }
        assert_eq!(rule(" a = count : 5 , age : 1d "), rule("a=age:1d,count:5"));
    }

    #[test]
    fn what_is_wrong_with_a_rule_is_named_with_the_way_out() {
        for (text, says) in [
            ("logs.*", "such as logs.*=age:30d"),
            ("", "such as logs.*=age:30d"),
            ("logs.*=", "lacks a limit"),
            ("logs.*=age:1d,", "lacks a limit"),
            ("logs.*=age", "\"age\" without a value"),
            (
                "logs.*=days:3",
                "\"days\", which is not known: the limits are age, count, bytes and identities",
            ),
            ("logs.*=identities:365d", "identities:365d without age, count or bytes"),
            ("logs.*=age:30d,identities:29d", "which is shorter than its age:30d"),
            ("logs.*=identities:29d,age:30d", "so give identities:30d or more"),
            ("logs.*=count:3,identities:0s", "identities:0s, which would keep nothing"),
            ("logs.*=count:3,identities:365", "identities:365, which must be a number with a unit"),
            ("logs.*=count:3,identities:36501d", "at most 36500d: leave identities out"),
            ("logs.*=count:3,identities:1d,identities:2d", "has identities twice"),
            ("logs.*=age:30", "age:30, which must be a number with a unit"),
            ("logs.*=age:0s", "age:0s, which would keep nothing"),
            ("logs.*=age:36501d", "at most 36500d"),
            ("logs.*=count:0", "count:0, which would keep nothing"),
            ("logs.*=count:1e6", "count:1e6, which must be a whole number"),
            ("logs.*=count:-1", "must be a whole number"),
            ("logs.*=bytes:0", "bytes:0, which must be at least 1 byte"),
            ("logs.*=bytes:10GB", "write 10GiB"),
            ("logs.*=count:1,count:2", "has count twice"),
            ("logs*=count:1", "did you mean logs.*"),
            ("=count:1", "must not be empty"),
        ] {
            let error = text.parse::<RetentionRule>().unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn two_rules_for_one_pattern_and_too_many_are_refused() {
        check(&[rule("a.*=count:1"), rule("a=count:1"), rule("*=count:1")]).unwrap();
        let error = check(&[rule("a.*=count:1"), rule("b=count:1"), rule("a.*=age:1d")]).unwrap_err();
        assert!(error.contains("two rules for a.*"), "{error}");
        let rules: Vec<_> = (0..=MAX_RULES).map(|n| rule(&format!("t{n}=count:1"))).collect();
        check(&rules[1..]).unwrap();
        assert!(check(&rules).unwrap_err().contains("at most 100 rules"));
        // A rule that is no text has other ways to contradict itself.
        let never = RetentionRule { count: None, ..rule("a=count:1,identities:1d") };
        let refused = check(&[rule("b=count:1"), never]).unwrap_err();
        assert!(refused.starts_with("--retain a=identities:1d has identities:1d without"), "{refused}");
    }

    #[test]
    fn the_most_specific_pattern_comes_first() {
        let rules =
            ["*", "a.*", "a.b.*", "a.b", "a.b.c", "z"].map(|pattern| rule(&format!("{pattern}=count:1")));
        let sorted: Vec<_> = by_specificity(&rules).iter().map(|rule| rule.pattern.to_string()).collect();
        assert_eq!(sorted, ["a.b.c", "a.b", "z", "a.b.*", "a.*", "*"]);
    }
}
