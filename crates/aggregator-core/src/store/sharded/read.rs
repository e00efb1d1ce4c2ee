//! Reading: a page of the whole is merged from pages of the shards.
//!
//! A cursor of the whole has the positions of all partitions, by their numbers in the whole, and one fingerprint of all
//! anchors. A shard makes the fingerprints of its rows with its own numbers of partitions. To be read, each shard gets a
//! cursor of its own, without a fingerprint. Its page tells the fingerprints of the rows that it stands at, and those of all
//! shards together have to be the cursor's.
//!
//! Each shard is asked for its share of the page. One whose share was too small is asked for more, so that what is read of
//! all shards is little more than what the page has.

use std::collections::VecDeque;

use super::Sharded;
use crate::cursor::{Fingerprint, Position};
use crate::query::{Order, Page, Query, StoredEvent};
use crate::{Cursor, Partition, StoreError, WrongCursor};

/// How many times a shard may say that the cursor has expired, before the reader has to come again.
const EXPIRED_TRIES: usize = 16;

/// What a shard is asked for.
struct Part {
    shard: usize,
    /// With its own numbers of partitions.
    query: Query,
    /// Where it goes on, with the numbers of the whole.
    from: Vec<Position>,
}

/// What a shard has for a page.
struct Source {
    part: Part,
    /// Where its first page begins, and where its last one ends. Both have the numbers of the whole.
    start: Vec<Position>,
    end: Vec<Position>,
    /// Behind the events that were taken.
    taken: Vec<Position>,
    events: VecDeque<StoredEvent>,
    caught_up: bool,
    /// Whether its last page ended because it had all that was asked for. Only then are there certainly events behind it
    /// that come before others.
    is_full: bool,
    partitions_per_shard: u16,
}

impl Sharded {
    pub(super) fn read_page(&self, query: &Query) -> Result<Page, StoreError> {
        let mut sources = self.begin(query)?;
        let mut events: Vec<StoredEvent> = Vec::new();
        let mut payload_bytes = 0;
        while events.len() < query.limit && !query.is_full_of(payload_bytes) {
            for source in sources.iter_mut().filter(|source| source.events.is_empty() && source.is_full) {
                let bytes_left = query.payload_bytes.saturating_sub(payload_bytes).max(1);
                self.refill(source, query.limit - events.len(), bytes_left)?;
            }
            let Some(event) = take_next(&mut sources, query.order) else { break };
            payload_bytes += event.payload.len();
            events.push(event);
        }
        let caught_up = sources.iter().all(|source| source.caught_up && source.events.is_empty());
        let (mut start, mut end) = (Vec::new(), Vec::new());
        let mut partitions_per_shard = self.routing.per_shard();
        for source in sources {
            partitions_per_shard = partitions_per_shard.min(source.partitions_per_shard);
            end.extend(source.stands_at());
            start.extend(source.start);
        }
        let next = query.cursor(&self.info, &end);
        Ok(Page::new((start, end), events, next, caught_up).of_shards(partitions_per_shard))
    }

    /// The first page of each shard that the query is about.
    fn begin(&self, query: &Query) -> Result<Vec<Source>, StoreError> {
        let parts = self.parts(query)?;
        let share = |of: usize| of.div_ceil(parts.len().max(1)).max(1);
        let (limit, payload_bytes) = (share(query.limit), share(query.payload_bytes));
        let (mut sources, mut is_ahead, mut expired) = (Vec::new(), false, false);
        for mut part in parts {
            (part.query.limit, part.query.payload_bytes) = (limit, payload_bytes);
            // The other shards still have to say whether the cursor is one of this store's history.
            let page = match self.read_unexpired(&mut part, &mut expired) {
                Err(StoreError::WrongCursor(
                    WrongCursor::AheadOfStore { .. } | WrongCursor::OtherHistory { .. },
                )) => {
                    is_ahead = true;
                    continue;
                }
                page => page?,
            };
            sources.push(self.source(part, page));
        }
        if is_ahead {
            let oldest = self.oldest(query)?;
            return Err(StoreError::WrongCursor(WrongCursor::AheadOfStore { oldest }));
        }
        if !agrees(query.after.as_ref(), &sources) {
            let oldest = self.oldest(query)?;
            return Err(StoreError::WrongCursor(WrongCursor::OtherHistory { oldest }));
        }
        if expired {
            let starts: Vec<_> = sources.into_iter().flat_map(|source| source.start).collect();
            return Err(StoreError::Expired { oldest: query.cursor(&self.info, &starts) });
        }
        Ok(sources)
    }

    /// What to ask of each shard that the query is about.
    fn parts(&self, query: &Query) -> Result<Vec<Part>, StoreError> {
        let positions = query.positions(&self.info)?;
        let asked = self.routing.split_topics(&query.topics);
        let goes_on = query.after.is_some();
        let part = |(shard, topics)| {
            let is_here = |position: &Position| self.routing.locate(position.partition).0 == shard;
            let from: Vec<_> = positions.iter().copied().filter(is_here).collect();
            let mut query = Query { topics, after: None, ..query.clone() };
            if goes_on {
                query.after = Some(self.cursor_of_shard(shard, &query, &from));
            }
            Part { shard, query, from }
        };
        Ok(asked.into_iter().map(part).collect())
    }

    /// A cursor without a fingerprint: only all shards together can tell whether it is right.
    fn cursor_of_shard(&self, shard: usize, query: &Query, positions: &[Position]) -> Cursor {
        let local = |position: &Position| Position {
            partition: self.routing.locate(position.partition).1,
            ..*position
        };
        let local: Vec<_> = positions.iter().map(local).collect();
        Cursor { fingerprint: None, ..query.cursor(self.shards[shard].store().info(), &local) }
    }

    fn read_part(&self, part: &Part) -> Result<Page, StoreError> {
        self.shards[part.shard].read(|store| store.read(&part.query))
    }

    /// Reads on from where the shard says, as long as the cursor has expired. More can be removed between two tries, and a
    /// cursor of the shard alone means nothing to the reader.
    fn read_unexpired(&self, part: &mut Part, expired: &mut bool) -> Result<Page, StoreError> {
        for _ in 0..EXPIRED_TRIES {
            match self.read_part(part) {
                Err(StoreError::Expired { oldest }) => {
                    *expired = true;
                    part.query.after = Some(oldest);
                }
                page => return page,
            }
        }
        let name = self.shards[part.shard].name();
        Err(StoreError::unavailable(format!("{name}: events are removed faster than they are read")))
    }

    fn source(&self, part: Part, page: Page) -> Source {
        let is_full = is_full(&part.query, &page);
        let caught_up = page.caught_up;
        let (events, start, end, within) = page.into_parts();
        let partitions_per_shard = within.min(self.routing.per_shard());
        let [start, end] = [start, end].map(|positions| self.in_whole(part.shard, positions));
        let mut source = Source {
            taken: start.clone(),
            start,
            end,
            events: VecDeque::new(),
            caught_up,
            is_full,
            partitions_per_shard,
            part,
        };
        self.add_events(&mut source, events);
        source
    }

    /// Asks a shard for what comes behind its last page.
    fn refill(&self, source: &mut Source, limit: usize, payload_bytes: usize) -> Result<(), StoreError> {
        let part = &mut source.part;
        part.query.after = Some(self.cursor_of_shard(part.shard, &part.query, &source.end));
        (part.query.limit, part.query.payload_bytes) = (limit, payload_bytes);
        let page = match self.read_part(part) {
            // Removed meanwhile. The reader is told with its next page, which begins there.
            Err(StoreError::Expired { .. }) => {
                (source.is_full, source.caught_up) = (false, false);
                return Ok(());
            }
            page => page?,
        };
        (source.is_full, source.caught_up) = (is_full(&part.query, &page), page.caught_up);
        let (events, start, end, _) = page.into_parts();
        source.taken = self.in_whole(source.part.shard, start);
        source.end = self.in_whole(source.part.shard, end);
        self.add_events(source, events);
        Ok(())
    }

    fn add_events(&self, source: &mut Source, events: Vec<StoredEvent>) {
        source.events.extend(events.into_iter().map(|event| StoredEvent {
            partition: self.routing.in_whole(source.part.shard, event.partition),
            ..event
        }));
    }

    fn in_whole(&self, shard: usize, positions: Vec<Position>) -> Vec<Position> {
        let in_whole = |position: Position| Position {
            partition: self.routing.in_whole(shard, position.partition),
            ..position
        };
        positions.into_iter().map(in_whole).collect()
    }

    /// The beginning of what all shards have. It knows of the removals of before.
    fn oldest(&self, query: &Query) -> Result<Cursor, StoreError> {
        let mut starts = Vec::new();
        for mut part in self.parts(&Query { after: None, limit: 1, ..query.clone() })? {
            part.query.payload_bytes = 1;
            let page = self.read_part(&part)?;
            starts.extend(self.source(part, page).start);
        }
        Ok(query.cursor(&self.info, &starts))
    }
}

impl Source {
    /// Behind what was taken. Where nothing is left of a partition, behind everything that was looked at.
    fn stands_at(&self) -> Vec<Position> {
        let is_left = |partition: Partition| self.events.iter().any(|event| event.partition == partition);
        let positions = self.taken.iter().zip(&self.end);
        positions.map(|(taken, end)| if is_left(end.partition) { *taken } else { *end }).collect()
    }
}

/// Takes the event that comes next, of whichever shard it is.
fn take_next(sources: &mut [Source], order: Order) -> Option<StoredEvent> {
    let place = |event: &StoredEvent| (event.processed_at, event.partition, event.offset);
    let heads = sources.iter().enumerate();
    let heads = heads.filter_map(|(at, source)| Some((place(source.events.front()?), at)));
    let (_, at) = match order {
        Order::Ascending => heads.min(),
        Order::Descending => heads.max(),
    }?;
    let source = &mut sources[at];
    let event = source.events.pop_front()?;
    if let Some(taken) = source.taken.iter_mut().find(|position| position.partition == event.partition) {
        taken.move_to(event.anchor_in_shard(source.partitions_per_shard));
    }
    Some(event)
}

fn is_full(query: &Query, page: &Page) -> bool {
    let payload_bytes = page.events.iter().map(|event| event.payload.len()).sum();
    !page.caught_up && (page.events.len() >= query.limit || query.is_full_of(payload_bytes))
}

/// Whether the shards stand at the rows that the cursor means, as far as that can be told.
fn agrees(cursor: Option<&Cursor>, sources: &[Source]) -> bool {
    let Some(expected) = cursor.and_then(|cursor| cursor.fingerprint) else { return true };
    let mut found = Fingerprint::default();
    for source in sources {
        // The beginning of a descending walk stands at no row yet.
        let begun =
            source.part.from.iter().zip(&source.start).filter(|(from, _)| !from.is_descending_start());
        for (_, start) in begun {
            if start.anchor.offset > 0 && start.anchor.fingerprint == Fingerprint::default() {
                // The row was forgotten: nobody can tell.
                return true;
            }
            found.toggle(start.anchor.fingerprint);
        }
    }
    found == expected
}
