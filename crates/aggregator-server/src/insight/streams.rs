//! What came of the events of each source in each topic, for the busiest of them.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};
use serde::{Deserialize, Serialize};

use super::lateness::Lateness;
use super::sequence::Sequence;

/// Counts of what was delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) stored: u64,
    /// Without conflicts.
    pub(super) duplicates: u64,
    pub(super) conflicts: u64,
    /// How late repeats and conflicts came.
    pub(super) lateness: Lateness,
    /// When the newest delivery came, in microseconds since 1970; 0 if none did.
    pub(super) last_at: i64,
}

impl Counts {
    pub(super) fn deliveries(&self) -> u64 {
        self.stored + self.duplicates + self.conflicts
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.stored += other.stored;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.lateness.add(&other.lateness);
        self.last_at = self.last_at.max(other.last_at);
    }
}

/// What one source delivers to one topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stream {
    pub(super) topic: Box<str>,
    pub(super) source: Box<str>,
    pub(super) counts: Counts,
    /// If its events have numbers.
    pub(super) sequence: Option<Box<Sequence>>,
    /// Deliveries, of which those of a minute ago count half: what is busy now stays.
    pub(super) heat: u64,
}

/// The busiest streams, and the sum of all others.
#[derive(Debug)]
pub(super) struct Streams {
    capacity: usize,
    streams: Vec<Stream>,
    /// Positions in `streams`, by topic and source.
    positions: HashTable<usize>,
    hasher: DefaultHashBuilder,
    /// What was delivered by streams that had to make room.
    pub(super) others: Counts,
}

impl Streams {
    /// Keeps between `capacity` of them and a quarter more.
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            streams: Vec::new(),
            positions: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            others: Counts::default(),
        }
    }

    pub(super) fn all(&self) -> &[Stream] {
        &self.streams
    }

    /// The stream of this topic and source. `hint` is where it may be.
    pub(super) fn position(&mut self, topic: &str, source: &str, hint: usize) -> usize {
        let is_it = |stream: &Stream| *stream.source == *source && *stream.topic == *topic;
        if self.streams.get(hint).is_some_and(is_it) {
            return hint;
        }
        let hash = self.hasher.hash_one((topic, source));
        if let Some(&position) = self.positions.find(hash, |&position| is_it(&self.streams[position])) {
            return position;
        }
        if self.streams.len() > self.capacity + self.capacity / 4 {
            self.make_room();
        }
        let (topic, source) = (topic.into(), source.into());
        self.push(Stream { topic, source, counts: Counts::default(), sequence: None, heat: 0 })
    }

    pub(super) fn at(&mut self, position: usize) -> &mut Stream {
        &mut self.streams[position]
    }

    /// Adds what another node has counted. `interrupted` says that the end of its counting is lost.
    pub(super) fn add(&mut self, other: &Stream, interrupted: bool) {
        let position = self.position(&other.topic, &other.source, 0);
        let stream = &mut self.streams[position];
        stream.counts.add(&other.counts);
        stream.heat += other.heat;
        match (&mut stream.sequence, &other.sequence) {
            (Some(own), Some(others)) => own.add(others),
            (own @ None, Some(others)) => *own = Some(others.clone()),
            (_, None) => {}
        }
        if interrupted && let Some(sequence) = &mut stream.sequence {
            sequence.interrupt();
        }
    }

    /// A minute has passed.
    pub(super) fn cool(&mut self) {
        self.streams.iter_mut().for_each(|stream| stream.heat /= 2);
    }

    fn push(&mut self, stream: Stream) -> usize {
        let position = self.streams.len();
        let hash = self.hash(&stream);
        self.streams.push(stream);
        let (hasher, streams) = (&self.hasher, &self.streams);
        let hash_at = |&position: &usize| {
            let Stream { topic, source, .. } = &streams[position];
            hasher.hash_one((&**topic, &**source))
        };
        self.positions.insert_unique(hash, position, hash_at);
        position
    }

    fn hash(&self, Stream { topic, source, .. }: &Stream) -> u64 {
        self.hasher.hash_one((&**topic, &**source))
    }

    /// Removes the coldest.
    fn make_room(&mut self) {
        let mut all = std::mem::take(&mut self.streams);
        all.sort_by_key(|stream| std::cmp::Reverse(stream.heat));
        for cold in all.drain(self.capacity.min(all.len())..) {
            self.others.add(&cold.counts);
        }
        self.positions.clear();
        for stream in all {
            self.push(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(streams: &mut Streams, topic: &str, count: u64) {
        let position = streams.position(topic, "s", 0);
        let stream = streams.at(position);
        stream.counts.stored += count;
        stream.heat += count;
    }

    #[test]
    fn the_busiest_stay_and_the_sum_is_exact() {
        let mut streams = Streams::new(10);
        for round in 0..100 {
            for busy in 0..5 {
                deliver(&mut streams, &format!("busy-{busy}"), 10);
            }
            for rare in 0..10 {
                deliver(&mut streams, &format!("rare-{round}-{rare}"), 1);
            }
            assert!(streams.all().len() <= 13);
        }
        let kept = |busy| streams.all().iter().find(|stream| *stream.topic == format!("busy-{busy}"));
        assert!((0..5).all(|busy| kept(busy).is_some_and(|stream| stream.counts.stored == 1_000)));
        let sum: u64 = streams.all().iter().map(|stream| stream.counts.stored).sum();
        assert_eq!(sum + streams.others.stored, 100 * 60);
    }

    #[test]
    fn what_was_busy_once_makes_room_for_what_is_busy_now() {
        let mut streams = Streams::new(10);
        (0..10).for_each(|old| deliver(&mut streams, &format!("old-{old}"), 1_000));
        for minute in 0..15 {
            streams.cool();
            (0..10).for_each(|new| deliver(&mut streams, &format!("new-{new}"), 10));
            deliver(&mut streams, &format!("once-{minute}"), 1);
        }
        assert!((0..10).all(|new| streams.all().iter().any(|stream| *stream.topic == format!("new-{new}"))));
    }

    #[test]
    fn a_source_in_two_topics_is_two_streams() {
        let mut streams = Streams::new(10);
        let one = streams.position("a", "s", 0);
        assert_ne!(one, streams.position("b", "s", one));
        assert_eq!(one, streams.position("a", "s", 7));
        assert_ne!(one, streams.position("as", "", one));
    }
}
