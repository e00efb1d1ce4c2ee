//! What event number `i` of a run looks like.
//!
//! An event is derived from the seed and its number whenever it is needed, and never kept: five million
//! events cost no memory, a retry or a repeat is the same event byte for byte, and the check at the end
//! knows what it must find.

use std::io::Write as _;

use rand::{Rng, RngExt};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

use crate::config::{Ratio, TopicPrefix};
use crate::ids::{IdParts, IdScheme};
use crate::seed::{SimRng, Stream, Streams};
use crate::sequences;

/// The smallest payload that has room for all its fields.
pub const MIN_PAYLOAD_BYTES: u32 = 80;

/// How many publishers the events claim to come from.
const SOURCES: u32 = 8;

/// 2024-01-01T00:00:00Z. A run starts up to [`CLOCK_SPAN_MS`] later, by its seed and not by the wall
/// clock: a run that is repeated must send the same timestamps and the same time-ordered ids.
const CLOCK_BASE_MS: u64 = 1_704_067_200_000;

/// One year, so that no event claims to come from the future.
const CLOCK_SPAN_MS: u64 = 365 * 24 * 3_600_000;

/// The 64 characters of the padding, none of which JSON escapes.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The events of one run.
#[derive(Debug)]
pub struct Workload {
    streams: Streams,
    topics: Vec<String>,
    sources: Vec<String>,
    ids: IdScheme,
    payload_bytes: usize,
    clock_base_ms: u64,
    /// The publisher's own number of each event; empty if events have none.
    sequences: Vec<u32>,
}

/// A topic and a source: what has numbers of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pair {
    /// Index into [`Workload::topics`].
    pub topic: usize,
    /// Index of the source.
    pub source: usize,
}

/// Everything of an event but its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Index into [`Workload::topics`].
    pub topic: usize,
    /// Index of the source the event claims to come from.
    pub source: usize,
    /// The event_id.
    pub event_id: String,
    /// When the event says it happened, in milliseconds since 1970.
    pub epoch_ms: u64,
}

impl Workload {
    /// The workload of a seed: `topics` topics named `<prefix>.topic-<n>`, payloads of exactly
    /// `payload_bytes` bytes (never below [`MIN_PAYLOAD_BYTES`]).
    #[must_use]
    pub fn new(
        streams: Streams,
        prefix: &TopicPrefix,
        topics: u32,
        ids: IdScheme,
        payload_bytes: u32,
    ) -> Self {
        Self {
            topics: (0..topics).map(|n| format!("{prefix}.topic-{n}")).collect(),
            sources: (0..SOURCES).map(|n| format!("sim-{n}")).collect(),
            ids,
            payload_bytes: payload_bytes.max(MIN_PAYLOAD_BYTES) as usize,
            clock_base_ms: CLOCK_BASE_MS + streams.rng(Stream::Clock, 0).random_range(0..CLOCK_SPAN_MS),
            sequences: Vec::new(),
            streams,
        }
    }

    /// Numbers the events of each topic and source, of which there are this many in the run. A share of the numbers is left
    /// out. It keeps four bytes for each event.
    #[must_use]
    pub fn numbered(mut self, identities: u32, drop: Ratio) -> Self {
        self.sequences =
            sequences::number((0..identities).map(|index| self.pair(index)), &self.streams, drop);
        self
    }

    /// The names of all topics.
    #[must_use]
    pub fn topics(&self) -> &[String] {
        &self.topics
    }

    /// The name of a source.
    #[must_use]
    pub fn source(&self, source: usize) -> &str {
        &self.sources[source]
    }

    /// The publisher's own number of event `index` (`sequence`), if events have one.
    #[must_use]
    pub fn sequence(&self, index: u32) -> Option<u64> {
        self.sequences.get(index as usize).map(|number| u64::from(*number))
    }

    /// Topic and source of event `index`.
    #[must_use]
    pub fn pair(&self, index: u32) -> Pair {
        self.draw_pair(&mut self.streams.rng(Stream::Identity, u64::from(index)))
    }

    /// The first draws of an event's head.
    fn draw_pair(&self, rng: &mut SimRng) -> Pair {
        let topic = rng.random_range(0..self.topics.len());
        Pair { topic, source: rng.random_range(0..self.sources.len()) }
    }

    /// Topic, source, id and time of event `index`.
    #[must_use]
    pub fn head(&self, index: u32) -> Head {
        let mut rng = self.streams.rng(Stream::Identity, u64::from(index));
        let Pair { topic, source } = self.draw_pair(&mut rng);
        let random = u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64());
        let epoch_ms = self.clock_base_ms + u64::from(index);
        let mut event_id = String::with_capacity(48);
        let parts = IdParts { source: &self.sources[source], epoch_ms, counter: index, random };
        self.ids.write(parts, &mut event_id);
        Head { topic, source, event_id, epoch_ms }
    }

    /// Writes the payload of event `index`: compact JSON of exactly the configured size.
    ///
    /// It is made to be hard to keep: keys out of alphabetical order, a number with a trailing zero and a
    /// letter beyond ASCII all change when a store parses and prints the payload instead of keeping it.
    /// The `altered` payload differs from the original in every case.
    pub fn write_payload(&self, index: u32, altered: bool, out: &mut Vec<u8>) {
        let stream = if altered { Stream::AlteredPayload } else { Stream::Payload };
        let mut rng = self.streams.rng(stream, u64::from(index));
        let start = out.len();
        let (euros, tenths) = (rng.random_range(1..100_000_u32), rng.random_range(0..10_u32));
        let rev = u8::from(altered);
        write!(out, r#"{{"rev":{rev},"n":{index},"amount":{euros}.{tenths}0,"name":"Zoë","data":""#)
            .expect("a Vec takes all that is written to it");
        const END: &[u8] = b"\"}";
        let padding = self.payload_bytes.saturating_sub(out.len() - start + END.len());
        pad(&mut rng, padding, out);
        out.extend_from_slice(END);
    }

    /// Writes event `index` as it is published, and returns where its event_id stands in `out`.
    pub fn write_event(&self, index: u32, altered: bool, out: &mut Vec<u8>) -> std::ops::Range<usize> {
        let head = self.head(index);
        let (topic, source) = (&self.topics[head.topic], self.source(head.source));
        let timestamp = rfc3339(head.epoch_ms);
        // Written by hand: none of these strings holds a character that JSON escapes.
        out.extend_from_slice(b"{\"topic\":\"");
        out.extend_from_slice(topic.as_bytes());
        out.extend_from_slice(b"\",\"event_id\":\"");
        let id_start = out.len();
        out.extend_from_slice(head.event_id.as_bytes());
        let id_end = out.len();
        out.extend_from_slice(b"\",\"timestamp\":\"");
        out.extend_from_slice(timestamp.as_bytes());
        out.extend_from_slice(b"\",\"source\":\"");
        out.extend_from_slice(source.as_bytes());
        out.push(b'"');
        if let Some(sequence) = self.sequence(index) {
            write!(out, ",\"sequence\":{sequence}").expect("a Vec takes all that is written to it");
        }
        out.extend_from_slice(b",\"payload\":");
        self.write_payload(index, altered, out);
        out.push(b'}');
        id_start..id_end
    }
}

fn pad(rng: &mut SimRng, len: usize, out: &mut Vec<u8>) {
    const CHARACTERS_PER_DRAW: usize = 10;
    let end = out.len() + len;
    while out.len() < end {
        let mut bits = rng.next_u64();
        for _ in 0..CHARACTERS_PER_DRAW.min(end - out.len()) {
            out.push(ALPHABET[(bits & 63) as usize]);
            bits >>= 6;
        }
    }
}

fn rfc3339(epoch_ms: u64) -> String {
    let since_1970 = Duration::milliseconds(epoch_ms.try_into().unwrap_or(i64::MAX));
    OffsetDateTime::UNIX_EPOCH
        .checked_add(since_1970)
        .and_then(|at| at.format(&Rfc3339).ok())
        .expect("a run's clock starts in 2024 or 2025 and ticks one millisecond per event")
}

#[cfg(test)]
pub(crate) mod tests {
    use std::collections::HashSet;

    use clap::ValueEnum as _;
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    pub(crate) fn workload(seed: u64, topics: u32, ids: IdScheme, payload_bytes: u32) -> Workload {
        let prefix = "sim".parse().unwrap();
        Workload::new(Streams::new(seed, payload_bytes), &prefix, topics, ids, payload_bytes)
    }

    #[test]
    fn an_event_is_valid_json_with_the_fields_of_its_head_and_an_exact_payload_size() {
        proptest!(|(seed: u64, index: u32, altered: bool, bytes in MIN_PAYLOAD_BYTES..2000)| {
            for ids in IdScheme::value_variants() {
                let workload = workload(seed, 3, *ids, bytes);
                let mut event = Vec::new();
                let id = workload.write_event(index, altered, &mut event);
                let parsed: Value = serde_json::from_slice(&event).unwrap();
                let head = workload.head(index);
                prop_assert_eq!(&parsed["topic"], &workload.topics()[head.topic]);
                prop_assert_eq!(&parsed["event_id"], &head.event_id);
                prop_assert_eq!(&event[id], head.event_id.as_bytes());
                prop_assert_eq!(&parsed["source"], workload.source(head.source));
                prop_assert!(OffsetDateTime::parse(parsed["timestamp"].as_str().unwrap(), &Rfc3339).is_ok());
                let mut payload = Vec::new();
                workload.write_payload(index, altered, &mut payload);
                prop_assert_eq!(payload.len(), bytes as usize);
                let payload: Value = serde_json::from_slice(&payload).unwrap();
                prop_assert_eq!(&parsed["payload"], &payload);
            }
        });
    }

    #[test]
    fn a_seed_means_the_same_bytes_in_every_release() {
        let mut event = Vec::new();
        workload(1, 4, IdScheme::Ulid, 100).write_event(0, false, &mut event);
        assert_eq!(String::from_utf8(event).unwrap(), GOLDEN);
    }

    const GOLDEN: &str = concat!(
        r#"{"topic":"sim.topic-0","event_id":"01JC6FPH8DJYXJFS625H9DYT6D","timestamp":"2024-11-08T18:13:34.093Z","#,
        r#""source":"sim-3","payload":{"rev":0,"n":0,"amount":17465.10,"name":"Zoë","#,
        r#""data":"TJnNhQCkwuoyVHLfa-phzY2TBWUcI_hTP7IlEZEZ6hx"}}"#
    );

    #[test]
    fn a_number_changes_nothing_else_of_an_event() {
        let (plain, numbered) = (workload(1, 4, IdScheme::Ulid, 100), workload(1, 4, IdScheme::Ulid, 100));
        let numbered = numbered.numbered(1, Ratio::ZERO);
        let event = |workload: &Workload, index| {
            let mut event = Vec::new();
            workload.write_event(index, false, &mut event);
            String::from_utf8(event).unwrap()
        };
        assert_eq!(event(&numbered, 0).replace(r#","sequence":1,"#, ","), GOLDEN);
        assert_eq!((plain.sequence(0), numbered.sequence(0)), (None, Some(1)));
        let Head { topic, source, .. } = plain.head(0);
        assert_eq!(plain.pair(0), Pair { topic, source });
    }

    #[test]
    fn no_two_events_share_an_identity() {
        for ids in IdScheme::value_variants() {
            let workload = workload(7, 4, *ids, 100);
            let ids: HashSet<_> = (0..20_000).map(|i| workload.head(i).event_id).collect();
            assert_eq!(ids.len(), 20_000);
        }
    }

    #[test]
    fn an_altered_payload_is_another_payload_of_the_same_identity() {
        let workload = workload(7, 4, IdScheme::Ulid, 100);
        for index in 0..100 {
            let (mut original, mut altered) = (Vec::new(), Vec::new());
            workload.write_payload(index, false, &mut original);
            workload.write_payload(index, true, &mut altered);
            assert_ne!(original, altered);
        }
    }
}
