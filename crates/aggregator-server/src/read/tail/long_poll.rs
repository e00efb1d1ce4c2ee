//! Waits for an event for a request that found none.

use std::sync::Arc;

use aggregator_core::Query;
use tokio::time::{Instant, timeout_at};

use super::Woken;
use super::reader::{Reader, Step};
use crate::app::App;
use crate::auth::Principal;
use crate::http::problem::Problem;

/// Waits until `query`, which stands at the end of the stream, has an event, but no longer than `until`. Returns the
/// query to read: at a place before the event, or where the wait has come to.
pub(in crate::read) async fn until_event(
    app: &Arc<App>,
    principal: &Principal,
    query: Query,
    until: Instant,
) -> Result<Query, Problem> {
    let place = app.tails.enter(&query.topics).ok_or_else(Problem::too_many_tails)?;
    let mut reader = Reader::new(Arc::clone(app), place, principal.flow(), query.clone());
    loop {
        let before = reader.cursor();
        match reader.step(&mut |_, _| false).await? {
            // What retention removed, the read tells.
            Step::Events | Step::Gap => return Ok(Query { after: before, ..query }),
            Step::Looked => continue,
            Step::CaughtUp => {}
        }
        match timeout_at(until, reader.place().woken_or_closed()).await {
            Ok(Woken::Events) => principal.check()?,
            Ok(Woken::Closed) | Err(_) => return Ok(Query { after: reader.cursor(), ..query }),
        }
    }
}
