//! How many bytes of data the events of a topic have.

use std::ops::RangeInclusive;

use aggregator_core::{Partition, Topic};

use crate::columns::{get, get_u64, signed};
use crate::connection::pipeline::pipelined;
use crate::connection::session::Session;
use crate::fault::Result;

/// A purge meanwhile makes the sum smaller, which is what it is by then.
pub(crate) async fn bytes(
    session: &Session,
    partition: Partition,
    topic: &Topic,
    seqs: &RangeInclusive<u64>,
) -> Result<u64> {
    let statements = session.statements.read();
    let number = i32::from(partition.0);
    let (topics, ends) = pipelined(
        session.query(&statements.topic, &[&number, &topic.as_str()]),
        session.query(&statements.end, &[&number]),
    )
    .await?;
    let (Some(topic), Some(end)) = (topics.first(), ends.first()) else { return Ok(0) };
    let (id, after): (i64, i64) = (get(topic, 0)?, get(topic, 1)?);
    let (first, last) = (signed(*seqs.start()), signed(*seqs.end()));
    let end: i64 = get(end, 0)?;
    let summed = session.query(&statements.bytes, &[&number, &id, &after, &end, &first, &last]).await?;
    summed.first().map_or(Ok(0), |sum| get_u64(sum, 0))
}
