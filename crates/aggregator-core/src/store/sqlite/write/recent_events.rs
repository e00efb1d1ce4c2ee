//! The newest events, in memory. Most repeats follow their event soon, and then the file need not be read.

use std::collections::VecDeque;

use super::prefetch::prefetch;
use crate::event::ERASED_PAYLOAD;
use crate::store::sqlite::row::Key;

/// A ring buffer of the fields that repeats are compared with. It holds consecutive offsets up to the last commit.
pub(crate) struct RecentEvents {
    text: Box<[u8]>,
    /// The index in `text` where the next text begins.
    at: usize,
    rows: VecDeque<RecentRow>,
    /// The offset of the first of `rows`.
    first: u64,
}

/// The texts of a row lie in one piece: id, source, payload. This has their lengths.
struct RecentRow {
    topic_id: i64,
    seq: u64,
    processed_at: i64,
    start: usize,
    event_id: usize,
    source: usize,
    payload: usize,
}

impl RecentRow {
    fn end(&self) -> usize {
        self.start + self.event_id + self.source + self.payload
    }
}

/// An event of the ring buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RecentEvent<'a> {
    topic_id: i64,
    event_id: &'a [u8],
    source: &'a [u8],
    payload: &'a [u8],
    pub(crate) seq: u64,
    pub(crate) processed_at: i64,
}

impl RecentEvent<'_> {
    pub(crate) fn has_identity(&self, key: Key<'_>) -> bool {
        (self.topic_id, self.event_id, self.source)
            == (key.topic_id, key.event_id.as_bytes(), key.source.as_bytes())
    }

    /// See [`equals_payload`](crate::event::equals_payload).
    pub(crate) fn has_payload(&self, payload: &str) -> bool {
        self.payload == payload.as_bytes() || self.payload == ERASED_PAYLOAD.as_bytes()
    }
}

/// An event that the running append has stored.
#[derive(Clone, Copy)]
pub(crate) struct NewEvent<'e> {
    pub(crate) key: Key<'e>,
    pub(crate) payload: &'e str,
    pub(crate) seq: u64,
}

impl RecentEvents {
    /// There is at most one row for so many bytes of text, so that the rows take little memory beside the texts.
    const ROW_BYTES: usize = 256;

    /// A buffer for so many bytes of text. The system gives the memory when it is used.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { text: vec![0; bytes].into(), at: 0, rows: VecDeque::new(), first: 0 }
    }

    /// The event at `offset`, if the buffer still has it.
    pub(crate) fn get(&self, offset: u64) -> Option<RecentEvent<'_>> {
        let row = self.row(offset)?;
        let (event_id, rest) = self.text[row.start..row.end()].split_at(row.event_id);
        let (source, payload) = rest.split_at(row.source);
        let (seq, processed_at) = (row.seq, row.processed_at);
        Some(RecentEvent { topic_id: row.topic_id, event_id, source, payload, seq, processed_at })
    }

    fn row(&self, offset: u64) -> Option<&RecentRow> {
        self.rows.get(usize::try_from(offset.checked_sub(self.first)?).ok()?)
    }

    /// Prefetches these events, which are compared next.
    pub(crate) fn prefetch(&self, offsets: impl Iterator<Item = u64>) {
        // All rows first, because a row says where its text is.
        let places: Vec<_> =
            offsets.filter_map(|offset| self.row(offset).map(|row| row.start..row.end())).collect();
        prefetch(places.into_iter().map(|place| &self.text[place]));
    }

    /// Adds the event that was committed at `offset`; the oldest events make room for it.
    pub(crate) fn push(&mut self, offset: u64, processed_at: i64, event: &NewEvent<'_>) {
        if offset != self.first + self.rows.len() as u64 {
            self.clear();
            self.first = offset;
        }
        let parts = [event.key.event_id, event.key.source, event.payload];
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if length > self.text.len() {
            self.clear();
            return;
        }
        self.make_room(length);
        let start = self.at;
        for part in parts {
            self.text[self.at..self.at + part.len()].copy_from_slice(part.as_bytes());
            self.at += part.len();
        }
        self.rows.push_back(RecentRow {
            topic_id: event.key.topic_id,
            seq: event.seq,
            processed_at,
            start,
            event_id: parts[0].len(),
            source: parts[1].len(),
            payload: parts[2].len(),
        });
    }

    pub(crate) fn clear(&mut self) {
        self.rows.clear();
        self.at = 0;
    }

    /// Drops the oldest events until `length` bytes are free in one piece, from `at` on.
    fn make_room(&mut self, length: usize) {
        if self.at + length > self.text.len() {
            // The oldest texts lie between here and the end. Drop them, and go on at the beginning.
            self.drop_while(|row, at| row.start >= at);
            self.at = 0;
        }
        self.drop_while(|row, at| row.start >= at && row.start < at + length);
        if self.rows.len() >= (self.text.len() / Self::ROW_BYTES).max(1) {
            self.rows.pop_front();
            self.first += 1;
        }
    }

    fn drop_while(&mut self, is_dropped: impl Fn(&RecentRow, usize) -> bool) {
        while self.rows.front().is_some_and(|row| is_dropped(row, self.at)) {
            self.rows.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event<'a>(n: u64, event_id: &'a str, source: &'a str, payload: &'a str) -> NewEvent<'a> {
        NewEvent { key: Key { topic_id: n.cast_signed() % 3, event_id, source }, seq: n * 7, payload }
    }

    proptest! {
        /// The buffer holds events as they were added, the newest as far as there is room, and never more than its room.
        #[test]
        fn it_holds_the_newest_as_they_were(
            room in 1_usize..2_000,
            lengths in prop::collection::vec((1_usize..40, 0_usize..10, 2_usize..200), 1..200),
            gap in prop::option::of(1_u64..200),
        ) {
            let mut recent_events = RecentEvents::new(room);
            let mut all = Vec::new();
            let mut offset = 1;
            for (n, (event_id, source, payload)) in (1..).zip(lengths) {
                if gap == Some(n) {
                    offset += 5;
                    all.clear();
                }
                let text = |length| n.to_string().repeat(length)[..length].to_owned();
                all.push((offset, n, text(event_id), text(source), text(payload)));
                let (offset_now, n, event_id, source, payload) = all.last().unwrap();
                recent_events.push(*offset_now, n.cast_signed() * 11, &event(*n, event_id, source, payload));
                offset += 1;

                let mut bytes = 0;
                for (age, (offset, n, event_id, source, payload)) in all.iter().rev().enumerate() {
                    let length = event_id.len() + source.len() + payload.len();
                    bytes += length;
                    match recent_events.get(*offset) {
                        Some(found) => {
                            prop_assert!(found.has_identity(event(*n, event_id, source, payload).key));
                            prop_assert!(found.has_payload(payload));
                            prop_assert_eq!((found.seq, found.processed_at), (n * 7, n.cast_signed() * 11));
                        }
                        // A text that does not fit before the end of the buffer leaves that rest unused.
                        None => prop_assert!(bytes + 250 > room || age >= room / RecentEvents::ROW_BYTES),
                    }
                }
                prop_assert!(recent_events.rows.len() <= (room / RecentEvents::ROW_BYTES).max(1));
                prop_assert!(recent_events.get(offset).is_none());
                prop_assert!(recent_events.get(0).is_none());
            }
        }
    }
}
