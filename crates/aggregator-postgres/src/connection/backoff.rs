//! Pauses between tries, with exponential backoff and jitter.

use std::time::Duration;

/// Each pause is twice as long as the one before, up to a bound.
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause. It is shortened at random, by half at most: nodes that lost the same server must not return to
    /// it in step.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        rand::random_range(pause / 2..=pause)
    }

    /// Begins again with the first pause.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_are_shortened_by_half_at_most() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(50), ms(300));
        for _ in 0..100 {
            for full in [50, 100, 200, 300, 300] {
                let pause = backoff.pause();
                assert!((ms(full) / 2..=ms(full)).contains(&pause), "{pause:?} of {full} ms");
            }
            backoff.reset();
        }
    }

    #[test]
    fn pauses_of_two_nodes_differ() {
        let [mut one, mut other] =
            [(); 2].map(|()| Backoff::new(Duration::from_secs(1), Duration::from_secs(1)));
        assert!((0..100).any(|_| one.pause() != other.pause()));
    }
}
