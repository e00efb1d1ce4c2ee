//! Everything random in a run comes from one seed.
//!
//! Each purpose draws from a stream of its own, and each event or batch from its own place in that
//! stream. So what event 17 looks like does not depend on who asks first, how batches are cut or how
//! many connections there are, and switching a fault on does not change the events.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, SeedableRng};

/// The generator behind every draw. Its algorithm is fixed by name, so a seed means the same events in
/// every release and on every machine.
pub type SimRng = Xoshiro256PlusPlus;

/// The number of bits of a random seed: few enough for every JSON reader, and for people who type it again.
const RANDOM_SEED_BITS: u32 = 48;

/// What a random number is drawn for.
#[derive(Debug, Clone, Copy)]
pub enum Stream {
    /// Which deliveries repeat an earlier one, and which one.
    Plan,
    /// In which order deliveries leave when they are reordered.
    Order,
    /// Topic, source and event_id of an event.
    Identity,
    /// The payload of an event.
    Payload,
    /// The other payload under the same identity, sent to provoke a conflict.
    AlteredPayload,
    /// When the events of the run say they happened.
    Clock,
    /// The faults of a batch.
    Faults,
    /// The waits between attempts.
    Backoff,
    /// The numbers that are lost before an event.
    Losses,
    /// Whether an event is late, and how late.
    Lateness,
}

const STREAMS: usize = 10;

/// The starting points of all streams of one run.
#[derive(Debug, Clone)]
pub struct Streams {
    bases: [u64; STREAMS],
}

impl Streams {
    /// Derives the streams from the seed.
    ///
    /// The payload size goes in too: with another size the same seed makes other identities, instead of
    /// the same ones with other payloads, which a server that has seen the first run calls conflicts.
    #[must_use]
    pub fn new(seed: u64, payload_bytes: u32) -> Self {
        let mut root = SimRng::seed_from_u64(seed ^ (u64::from(payload_bytes) << RANDOM_SEED_BITS));
        Self { bases: std::array::from_fn(|_| root.next_u64()) }
    }

    /// The generator for one place (event index, batch number) of a stream.
    #[must_use]
    pub fn rng(&self, stream: Stream, place: u64) -> SimRng {
        // Seeding expands through SplitMix64, made for seeds that only differ by one.
        SimRng::seed_from_u64(self.bases[stream as usize].wrapping_add(place))
    }
}

/// A seed for a run that was given none.
#[must_use]
pub fn random_seed() -> u64 {
    rand::random::<u64>() >> (u64::BITS - RANDOM_SEED_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_in_a_stream_always_draws_the_same_and_no_other_place_does() {
        let streams = Streams::new(42, 100);
        let draw = |stream, place| streams.rng(stream, place).next_u64();
        assert_eq!(draw(Stream::Identity, 7), draw(Stream::Identity, 7));
        assert_ne!(draw(Stream::Identity, 7), draw(Stream::Identity, 8));
        assert_ne!(draw(Stream::Identity, 7), draw(Stream::Payload, 7));
        assert_ne!(draw(Stream::Identity, 7), Streams::new(43, 100).rng(Stream::Identity, 7).next_u64());
        assert_ne!(draw(Stream::Identity, 7), Streams::new(42, 101).rng(Stream::Identity, 7).next_u64());
    }

    #[test]
    fn a_random_seed_survives_a_json_reader_that_only_knows_doubles() {
        for _ in 0..1000 {
            assert!(random_seed() < 1 << 53);
        }
    }
}
