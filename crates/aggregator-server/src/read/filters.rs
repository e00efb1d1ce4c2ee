//! The filters of a read of events, as its query parameters say them.

use aggregator_core::{Cursor, EventId, Query, Source, Timestamp, TopicSelector, Topics};

use crate::http::params::{FromParam, Params};
use crate::http::problem::Problem;

/// Takes the filters: a query from the start, oldest first.
pub(super) fn take(params: &mut Params) -> Result<Query, Problem> {
    let topics = topics(params)?;
    Ok(Query {
        event_id: params.take::<EventId>("event_id")?,
        source: params.take::<Source>("source")?,
        since: params.take::<Timestamp>("since")?,
        until: params.take::<Timestamp>("until")?,
        ..Query::of(topics)
    })
}

/// Takes the topics: all, unless some are named.
pub(super) fn topics(params: &mut Params) -> Result<Topics, Problem> {
    let mut topics = params.take_all::<TopicSelector>("topic")?;
    if topics.is_empty() {
        topics.push(TopicSelector::All);
    }
    Topics::new(topics).map_err(|error| Problem::parameter("topic", error.reason))
}

/// Where a reader begins, as the parameter `after` says it.
pub(super) enum After {
    /// Where another page or stream ended.
    Cursor(Cursor),
    /// Behind everything that is stored.
    Latest,
}

impl FromParam for After {
    fn from_param(text: &str) -> Result<Self, String> {
        if text == "latest" { Ok(Self::Latest) } else { Cursor::from_param(text).map(Self::Cursor) }
    }
}
