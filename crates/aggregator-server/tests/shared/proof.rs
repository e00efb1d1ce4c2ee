//! What the long proofs share: numbers from the environment, and rounds that come in shuffled decks.

use std::str::FromStr;

use publisher_sim::seed::SimRng;
use rand::seq::SliceRandom as _;

/// What a variable of the environment says; it has to make sense.
pub(crate) fn from_environment<T: FromStr>(name: &str, default: T) -> T {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text}")),
        Err(_) => default,
    }
}

/// Cards without end. All of them are dealt before any comes again, so that every kind has its turn.
pub(crate) struct Deck<T: 'static> {
    cards: &'static [T],
    left: Vec<T>,
}

impl<T: Copy> Deck<T> {
    pub(crate) fn of(cards: &'static [T]) -> Self {
        Self { cards, left: Vec::new() }
    }

    pub(crate) fn deal(&mut self, rng: &mut SimRng) -> T {
        if self.left.is_empty() {
            self.left = self.cards.to_vec();
            self.left.shuffle(rng);
        }
        self.left.pop().expect("there are cards in a deck")
    }
}
