//! The deliveries of a run: the identity of delivery number `n`, and the bytes of its event.
//!
//! Everything is computed from (seed, number). So a hundred million events cost no memory, a repeat is the same event
//! byte for byte, and the bench knows exactly how many of any deliveries must be stored.

use std::ops::Range;

use aggregator_core::{Event, InvalidField};

/// One delivery in this many repeats an earlier one: a share of 20 %.
const BLOCK: u64 = 5;

/// Where repeats come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeats {
    /// From the last identities, at most this many: like the retries of a publisher.
    Recent(u64),
    /// From all identities so far, each equally likely: the worst case for a dedup index.
    History,
}

/// Publishers commonly repeat events that are at most this far back.
pub(crate) const RECENT: Repeats = Repeats::Recent(50_000);

/// The deliveries of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Workload {
    seed: u64,
    repeats: Repeats,
    topics: u64,
}

impl Workload {
    pub(crate) fn new(seed: u64, repeats: Repeats, topics: impl Into<u64>) -> Self {
        Self { seed, repeats, topics: topics.into() }
    }

    /// The number of delivery `n`'s identity. Identities are numbered in the order of their first deliveries.
    pub(crate) fn identity(&self, n: u64) -> u64 {
        let (block, place) = (n / BLOCK, n % BLOCK);
        let repeat = self.repeat_in(block);
        let before = block * (BLOCK - 1) + place - u64::from(place > repeat);
        if place != repeat {
            return before;
        }
        let draw = mix(self.seed ^ mix(n));
        match self.repeats {
            Repeats::Recent(window) => before - 1 - draw % window.min(before),
            Repeats::History => draw % before,
        }
    }

    /// How many identities the first `deliveries` have. So many must be stored; the others are repeats.
    pub(crate) fn identities(&self, deliveries: u64) -> u64 {
        let (block, place) = (deliveries / BLOCK, deliveries % BLOCK);
        block * (BLOCK - 1) + place - u64::from(place > self.repeat_in(block))
    }

    /// Which delivery of a block is the repeat. It is never the very first delivery, which has nothing to repeat.
    fn repeat_in(&self, block: u64) -> u64 {
        if block == 0 { BLOCK - 1 } else { mix(self.seed.wrapping_add(block)) % BLOCK }
    }

    /// The index of an identity's topic.
    pub(crate) fn topic(&self, identity: u64) -> u64 {
        mix(self.seed ^ identity.rotate_left(32)) % self.topics
    }

    /// How many of the first `identities` are of `topic`.
    pub(crate) fn identities_of(&self, topic: u64, identities: u64) -> u64 {
        (0..identities).map(|identity| u64::from(self.topic(identity) == topic)).sum()
    }

    /// Writes the event of an identity over what [`TEMPLATE`] leaves open.
    pub(crate) fn render(&self, identity: u64, event: &mut [u8]) {
        write_digits(self.topic(identity), &mut event[TOPIC_NUMBER]);
        write_id(self.seed, identity, &mut event[EVENT_ID]);
        write_digits(identity % 1_000_000, &mut event[MICROSECONDS]);
        write_digits(identity, &mut event[ORDER]);
    }
}

/// A published event. All have the same length, so a body is rendered by writing a few bytes in place. The bytes that
/// vary depend only on the identity, because a repeat must be the same event.
pub(crate) const TEMPLATE: &[u8] = concat!(
    r#"{"topic":"bench.top-000000","event_id":"00000000-0000-4000-8000-000000000000","#,
    r#""timestamp":"2026-01-31T12:00:00.000000Z","source":"bench","#,
    r#""payload":{"order":1000000000000,"amount":129.50,"note":"a payload as long as most are, with words to fill it up."}}"#
)
.as_bytes();

const TOPIC: Range<usize> = after(br#"{"topic":""#, 16);
const TOPIC_NUMBER: Range<usize> = TOPIC.end - 6..TOPIC.end;
const EVENT_ID: Range<usize> = after(br#""event_id":""#, 36);
const TIMESTAMP: Range<usize> = after(br#""timestamp":""#, 27);
const MICROSECONDS: Range<usize> = TIMESTAMP.end - 7..TIMESTAMP.end - 1;
const PAYLOAD: Range<usize> = {
    let start = after(br#""payload":"#, 0).start;
    start..TEMPLATE.len() - 1
};
/// After the leading 1, because no JSON number begins with 0.
const ORDER: Range<usize> = {
    let start = after(br#""order":1"#, 0).start;
    start..start + 12
};

/// Where the first `length` bytes after `mark` stand in the template.
const fn after(mark: &[u8], length: usize) -> Range<usize> {
    let mut at = 0;
    loop {
        let mut matched = 0;
        while matched < mark.len() && TEMPLATE[at + matched] == mark[matched] {
            matched += 1;
        }
        if matched == mark.len() {
            return at + matched..at + matched + length;
        }
        at += 1;
    }
}

/// The fields of a rendered event, for stores that take rows and not JSON.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) topic: &'a str,
    pub(crate) event_id: &'a str,
    pub(crate) timestamp: &'a str,
    pub(crate) source: &'a str,
    pub(crate) payload: &'a str,
}

impl<'a> Row<'a> {
    pub(crate) fn of(event: &'a [u8]) -> Self {
        let text = |range: Range<usize>| std::str::from_utf8(&event[range]).expect("events are ASCII");
        Self {
            topic: text(TOPIC),
            event_id: text(EVENT_ID),
            timestamp: text(TIMESTAMP),
            source: "bench",
            payload: text(PAYLOAD),
        }
    }

    /// The event as a type of the core.
    pub(crate) fn event(&self) -> Result<Event, InvalidField> {
        Event::new(self.topic, self.event_id)?
            .with_timestamp(self.timestamp)?
            .with_source(self.source)?
            .with_payload(self.payload)
    }
}

/// The name of a topic.
pub(crate) fn topic_name(topic: u64) -> String {
    format!("bench.top-{topic:06}")
}

/// The finalizer of SplitMix64: a bijection that maps neighbours far apart.
pub(crate) fn mix(n: u64) -> u64 {
    let n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// A random UUID, version 4: 122 bits of a hash of (seed, identity).
fn write_id(seed: u64, identity: u64, text: &mut [u8]) {
    let high = mix(seed ^ mix(identity));
    let low = mix(high ^ identity);
    let high = hex((high & !0xf000) | 0x4000);
    let low = hex((low & !(0b11 << 62)) | (0b10 << 62));
    // The hyphens stand there.
    text[..8].copy_from_slice(&high[..8]);
    text[9..13].copy_from_slice(&high[8..12]);
    text[14..18].copy_from_slice(&high[12..]);
    text[19..23].copy_from_slice(&low[..4]);
    text[24..].copy_from_slice(&low[4..]);
}

/// Writes two digits at a time: time that the load generator takes is lost to the server.
fn hex(word: u64) -> [u8; 16] {
    const PAIRS: [[u8; 2]; 256] = pairs(16);
    let mut text = [0; 16];
    for (pair, byte) in text.as_chunks_mut().0.iter_mut().zip(word.to_be_bytes()) {
        *pair = PAIRS[usize::from(byte)];
    }
    text
}

/// `text` has an even number of digits.
fn write_digits(mut number: u64, text: &mut [u8]) {
    const PAIRS: [[u8; 2]; 100] = pairs(10);
    for pair in text.as_chunks_mut().0.iter_mut().rev() {
        *pair = PAIRS[(number % 100) as usize];
        number /= 100;
    }
}

/// The numbers of two digits in this base.
const fn pairs<const COUNT: usize>(base: usize) -> [[u8; 2]; COUNT] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut pairs = [[0; 2]; COUNT];
    let mut number = 0;
    while number < COUNT {
        pairs[number] = [DIGITS[number / base], DIGITS[number % base]];
        number += 1;
    }
    pairs
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_number_of_identities_is_known_after_every_delivery() {
        for repeats in [Repeats::Recent(100), Repeats::History] {
            let workload = Workload::new(7, repeats, 4_u16);
            let mut seen = HashSet::new();
            for n in 0..20_000 {
                let identity = workload.identity(n);
                assert!(identity <= seen.len() as u64, "new identities come in order");
                if let Repeats::Recent(window) = repeats {
                    assert!(identity + window >= seen.len() as u64);
                }
                seen.insert(identity);
                assert_eq!(workload.identities(n + 1), seen.len() as u64, "after delivery {n}");
            }
            assert_eq!(seen.len(), 16_000);
        }
    }

    #[test]
    fn an_event_is_json_with_an_id_of_its_own_and_known_fields() {
        let workload = Workload::new(7, RECENT, 4_u16);
        let mut ids = HashSet::new();
        for identity in 0..10_000 {
            let mut event = TEMPLATE.to_vec();
            workload.render(identity, &mut event);
            let parsed: serde_json::Value = serde_json::from_slice(&event).unwrap();
            let row = Row::of(&event);
            assert_eq!(parsed["topic"], row.topic);
            assert_eq!(row.topic, topic_name(workload.topic(identity)));
            assert_eq!(parsed["event_id"], row.event_id);
            assert_eq!(parsed["timestamp"], row.timestamp);
            assert_eq!(parsed["source"], row.source);
            assert_eq!(serde_json::from_str::<serde_json::Value>(row.payload).unwrap(), parsed["payload"]);
            assert_eq!(parsed["payload"]["order"], 1_000_000_000_000 + identity);
            let id: uuid::Uuid = row.event_id.parse().unwrap();
            assert_eq!((id.get_version_num(), id.get_variant()), (4, uuid::Variant::RFC4122));
            assert!(ids.insert(id));
        }
    }
}
