//! Reads a page of events in one snapshot.
//!
//! The first statements find where the page's events are, partition by partition. The next ones fetch the bodies. So
//! only payloads of the page are transferred.

use std::collections::HashMap;

use aggregator_core::store::StoreInfo;
use aggregator_core::store::backend::{Anchor, Ends, Merged, Position, check_positions, merge_entries};
use aggregator_core::{Page, Partition, Query, StoredEvent, Timestamp, TopicSelector};
use tokio_postgres::Row;

use crate::columns::{get, get_u64, partition, partition_number, sequence, signed};
use crate::connection::engine::Engine;
use crate::connection::pipeline::{pipelined, pipelined_all, pipelined3};
use crate::connection::session::Session;
use crate::fault::{Failure, Result};
use crate::read::rows;
use crate::read::scan::{EventPosition, ExactTopic, scan};

/// Reads the page from these positions of the query on. After an error the session may be inside a transaction.
pub(crate) async fn read(
    session: &Session,
    info: &StoreInfo,
    query: &Query,
    mut positions: Vec<Position>,
    has_forgotten: bool,
) -> Result<Page> {
    let (ends, topic) = begin(session, info, query, &positions, has_forgotten).await?;
    check_positions(query, info, &mut positions, |position| {
        Ok(ends.get(&position.partition).copied().unwrap_or_default())
    })?;
    let last_offset = |partition| ends.get(&partition).map_or(0, |ends| ends.newest.offset);
    let scans = positions
        .into_iter()
        .map(|from| scan(session, query, topic.as_ref(), from, last_offset(from.partition)));
    let merged = merge_entries(query, info, pipelined_all(scans).await?);
    let (events, ()) = pipelined(bodies(session, &merged), session.run("COMMIT")).await?;
    Ok(Page::new((merged.start, merged.end), events, merged.next, merged.caught_up))
}

type AllEnds = HashMap<Partition, Ends>;

async fn begin(
    session: &Session,
    info: &StoreInfo,
    query: &Query,
    positions: &[Position],
    has_forgotten: bool,
) -> Result<(AllEnds, Option<ExactTopic>)> {
    let exact = async {
        let Some(name) = query.topics.exact() else { return Ok(None) };
        let partition = i32::from(info.partitions.of(name.as_str()).0);
        let rows = session.query(&session.statements.read().topic, &[&partition, &name.as_str()]).await?;
        let topic =
            |row: &Row| Ok::<_, Failure>(ExactTopic { id: get(row, 0)?, purged_offset: get_u64(row, 1)? });
        rows.first().map(topic).transpose()
    };
    let state = async {
        // One statement for all partitions is cheaper where they are in one place.
        match positions {
            several if several.len() > 1 && session.engine != Engine::Citus => {
                state_of_several(session, query, several).await
            }
            each => state_of_each(session, query, each).await,
        }
    };
    let ((), (topic, state)) = pipelined(session.begin_snapshot(), pipelined(exact, state)).await?;
    let State { last_offsets, purged, anchors } = state;
    let (ends, missing) = all_ends(positions, &last_offsets, &purged, anchors)?;
    if !missing.is_empty() {
        rows::check_forgotten(session, &missing, has_forgotten).await?;
    }
    Ok((ends, topic))
}

/// What the first statements find out about the partitions of a page.
#[derive(Default)]
struct State {
    last_offsets: Vec<Row>,
    /// Up to where topics of the query were purged.
    purged: Vec<Row>,
    anchors: Vec<AnchorRow>,
}

async fn state_of_several(session: &Session, query: &Query, positions: &[Position]) -> Result<State> {
    let statements = session.statements.read();
    let purged = async {
        if query.topics == TopicSelector::All {
            return session.query(&statements.purged_at_all, &[]).await;
        }
        let (low, high) = names(query);
        session.query(&statements.purged, &[&low, &high]).await
    };
    let anchors = async {
        let (partitions, places): (Vec<_>, Vec<_>) = positions.iter().flat_map(places_of).unzip();
        session.query(&statements.anchors, &[&partitions, &places]).await
    };
    let (last_offsets, purged, anchors) =
        pipelined3(session.query(&statements.ends, &[]), purged, anchors).await?;
    let anchors = anchors.iter().map(anchor).collect::<Result<_>>()?;
    Ok(State { last_offsets, purged, anchors })
}

/// Asks each partition for itself.
async fn state_of_each(session: &Session, query: &Query, positions: &[Position]) -> Result<State> {
    let statements = session.statements.read();
    let (low, high) = &names(query);
    let states = positions.iter().map(|position| async move {
        let partition = &partition_number(position.partition);
        let purged = async {
            if query.topics == TopicSelector::All {
                return session.query(&statements.purged_in_partition, &[partition]).await;
            }
            session.query(&statements.purged_of, &[partition, low, high]).await
        };
        let places: Vec<_> = places_of(position).map(|(_, place)| place).collect();
        let end = async { session.query(&statements.end_of, &[partition]).await };
        let anchors = async { session.query(&statements.anchors_of, &[partition, &places]).await };
        pipelined3(end, purged, anchors).await
    });
    let mut all = State::default();
    for (last_offsets, purged, anchors) in pipelined_all(states).await? {
        all.last_offsets.extend(last_offsets);
        all.purged.extend(purged);
        all.anchors.extend(anchors.iter().map(anchor).collect::<Result<Vec<_>>>()?);
    }
    Ok(all)
}

/// The ranges of names of the query's topics.
fn names(query: &Query) -> (Vec<String>, Vec<String>) {
    query.topics.selectors().iter().map(TopicSelector::names).unzip()
}

/// Places where a row has to be, but is not.
type Missing = Vec<(Partition, u64)>;

/// Combines the answers of the first statements into the ends of each partition, and says which rows are missing: one that
/// a position is at, or the newest one of a partition. A mark of forgotten rows that was imported can be the newest.
fn all_ends(
    positions: &[Position],
    last_offsets: &[Row],
    purged: &[Row],
    anchors: Vec<AnchorRow>,
) -> Result<(AllEnds, Missing)> {
    let mut ends = AllEnds::new();
    for row in purged {
        ends.entry(partition(row, 0)?).or_default().purged_offset = get_u64(row, 1)?;
    }
    let last_offset = |row: &Row| Ok((partition(row, 0)?, get_u64(row, 1)?));
    let last_offsets = last_offsets.iter().map(last_offset).collect::<Result<HashMap<_, _>>>()?;
    let mut found = HashMap::new();
    for AnchorRow { partition, is_newest, anchor } in anchors {
        match is_newest {
            true => ends.entry(partition).or_default().newest = anchor,
            false => _ = found.insert(partition, anchor),
        }
    }
    let mut missing = Missing::new();
    for position in positions {
        let ends = ends.entry(position.partition).or_default();
        let last_offset = last_offsets.get(&position.partition).copied().unwrap_or(0);
        if ends.newest.offset > last_offset {
            return Err(Failure::corrupt(format!(
                "partition {} ends at offset {last_offset}, but its newest row is at {}",
                position.partition.0, ends.newest.offset
            )));
        }
        let mut newest = Some(ends.newest);
        if ends.newest.offset < last_offset {
            missing.push((position.partition, last_offset));
            (newest, ends.newest) = (None, Anchor { offset: last_offset, ..Anchor::NONE });
        }
        let Some(offset) = position.anchor_offset(last_offset) else { continue };
        // The page begins at the newest row, or goes on at one of before.
        let anchor = match position.anchor_offset(u64::MAX) {
            Some(u64::MAX) => newest,
            _ => found.get(&position.partition).copied().filter(|anchor| anchor.offset == offset),
        };
        ends.anchor = anchor.map(|anchor| anchor.fingerprint);
        if anchor.is_none() {
            missing.push((position.partition, offset));
        }
    }
    Ok((ends, missing))
}

/// The row that a position is at, or the newest one of its partition.
struct AnchorRow {
    partition: Partition,
    is_newest: bool,
    anchor: Anchor,
}

/// Stands for the newest row. The last offset is not known yet, but an offset above all rows finds it.
const NEWEST: i64 = i64::MAX;

/// Where rows are looked for: the newest one of the partition, and the one that the position is at.
fn places_of(position: &Position) -> impl Iterator<Item = (i32, i64)> + use<> {
    let partition = partition_number(position.partition);
    let at = position.anchor_offset(u64::MAX).filter(|offset| *offset != u64::MAX).map(signed);
    [Some(NEWEST), at].into_iter().flatten().map(move |place| (partition, place))
}

fn anchor(row: &Row) -> Result<AnchorRow> {
    let partition = partition(row, 0)?;
    let seq = sequence(row, 3)?;
    let anchor = Anchor::new(partition, get_u64(row, 1)?, get(row, 2)?, seq, get(row, 4)?);
    Ok(AnchorRow { partition, is_newest: get::<i64>(row, 5)? == NEWEST, anchor })
}

/// The events of a page, in its order.
async fn bodies(session: &Session, page: &Merged<EventPosition>) -> Result<Vec<StoredEvent>> {
    let mut offsets: HashMap<Partition, Vec<i64>> = HashMap::new();
    for place in &page.entries {
        offsets.entry(place.partition).or_default().push(signed(place.offset));
    }
    let statement = &session.statements.read().bodies;
    let fetch = offsets.into_iter().map(|(partition, offsets)| async move {
        let rows = session.query(statement, &[&i32::from(partition.0), &offsets]).await?;
        rows.iter().map(|row| event(row, partition)).collect::<Result<Vec<_>>>()
    });
    let fetched = pipelined_all(fetch).await?.into_iter().flatten();
    let mut events: HashMap<_, _> = fetched.map(|event| ((event.partition, event.offset), event)).collect();
    let at = |place: &EventPosition| {
        let event = events.remove(&(place.partition, place.offset));
        event.ok_or_else(|| {
            Failure::corrupt(format!("the event at offset {} was found but cannot be read", place.offset))
        })
    };
    page.entries.iter().map(at).collect()
}

fn event(row: &Row, partition: Partition) -> Result<StoredEvent> {
    Ok(StoredEvent {
        offset: get_u64(row, 0)?,
        topic: get(row, 1)?,
        event_id: get(row, 2)?,
        timestamp: get(row, 3)?,
        source: get(row, 4)?,
        payload: get(row, 5)?,
        sequence: sequence(row, 6)?,
        content_type: get(row, 7)?,
        attributes: get(row, 8)?,
        seq: get_u64(row, 9)?,
        processed_at: Timestamp::from_micros(get(row, 10)?),
        partition,
    })
}
