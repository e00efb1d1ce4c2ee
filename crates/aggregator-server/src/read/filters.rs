//! The filters of a read of events, as its query parameters say them.

use aggregator_core::{Cursor, EventId, Query, Source, Timestamp, TopicSelector, Topics};

use crate::auth::Principal;
use crate::http::params::Params;
use crate::http::problem::Problem;

/// Takes the filters: a query from the start, oldest first. The reader must be allowed to read all its topics.
pub(super) fn take(params: &mut Params, reader: &Principal) -> Result<Query, Problem> {
    let topics = topics(params)?.unwrap_or_else(|| TopicSelector::All.into());
    reader.check_readable(&topics)?;
    Ok(Query {
        event_id: params.take::<EventId>("event_id")?,
        source: params.take::<Source>("source")?,
        since: params.take::<Timestamp>("since")?,
        until: params.take::<Timestamp>("until")?,
        ..Query::of(topics)
    })
}

/// Takes the topics that are named, if some are.
pub(super) fn topics(params: &mut Params) -> Result<Option<Topics>, Problem> {
    let topics = params.take_all::<TopicSelector>("topic")?;
    if topics.is_empty() {
        return Ok(None);
    }
    Topics::new(topics).map(Some).map_err(|error| Problem::parameter("topic", error.reason))
}

/// Where a reader begins, as the parameter `after` says it.
pub(super) enum After {
    /// Where another page or stream ended.
    Cursor(Cursor),
    /// Behind everything that is stored.
    Latest,
}

/// Takes where this reader begins, if it says so.
pub(super) fn take_after(params: &mut Params, reader: &Principal) -> Result<Option<After>, Problem> {
    let Some(text) = params.take::<String>("after")? else { return Ok(None) };
    if text == "latest" {
        return Ok(Some(After::Latest));
    }
    let cursor = reader.parse_cursor(&text).map_err(|reason| Problem::parameter("after", reason))?;
    Ok(Some(After::Cursor(cursor)))
}
