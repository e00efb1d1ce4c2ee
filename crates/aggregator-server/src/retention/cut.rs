//! How far a topic has to be purged.

use std::time::Duration;

use aggregator_core::{DedupStore, Maintain, Query, Timestamp, TopicInfo};

use crate::config::RetentionRule;

use super::run::{RunError, Throttle};
use super::sizes::Sizes;

/// A page of a rare topic can be empty, and the topic go on behind it. No topic has so many such pages in a row: a store
/// of 10 billion other events has fewer.
const MAX_PAGES: usize = 1_000_000;

/// What a cut is worked out with.
pub(super) struct Cutter<'r> {
    pub(super) store: &'r dyn DedupStore,
    pub(super) maintain: &'r dyn Maintain,
    pub(super) now: Timestamp,
}

/// The time that is so long before `now`.
pub(super) fn before(now: Timestamp, span: Duration) -> Timestamp {
    let span = i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(now.as_micros().saturating_sub(span))
}

impl Cutter<'_> {
    /// The seq through which the topic has to be purged. Each limit holds for itself, so the one that takes most decides.
    pub(super) fn cut(
        &self,
        info: &TopicInfo,
        rule: &RetentionRule,
        sizes: &mut Sizes,
        throttle: &mut Throttle<'_>,
    ) -> Result<u64, RunError> {
        let mut through = info.purged_seq;
        if let Some(count) = rule.count {
            through = through.max(info.last_seq.saturating_sub(count.get()));
        }
        if let Some(age) = rule.age
            && through < info.last_seq
        {
            through = through.max(self.stored_before(info, before(self.now, age), throttle)?);
        }
        if let Some(bytes) = rule.bytes
            && through < info.last_seq
        {
            let mut sum_up = |first, last| throttle.work(|| self.maintain.bytes(&info.topic, first..=last));
            through = sizes.cut(info, through, bytes.get(), &mut sum_up)?;
        }
        Ok(through)
    }

    /// The seq of the topic's last event that was stored before `time`. Times never go back within a topic.
    fn stored_before(
        &self,
        info: &TopicInfo,
        time: Timestamp,
        throttle: &mut Throttle<'_>,
    ) -> Result<u64, RunError> {
        if info.first_processed_at.is_some_and(|first| first >= time) {
            return Ok(info.purged_seq);
        }
        let mut query = Query { since: Some(time), limit: 1, ..Query::topic(info.topic.clone()) };
        for _ in 0..MAX_PAGES {
            let page = throttle.work(|| self.store.read(&query))?;
            if let Some(event) = page.events.first() {
                return Ok(event.seq - 1);
            }
            if page.caught_up {
                break;
            }
            query.after = Some(page.next);
        }
        // Whatever came since `info` was read is younger.
        Ok(info.last_seq)
    }
}
