//! What happens to a cluster while it works.

use std::collections::BTreeMap;
use std::fmt;

use publisher_sim::seed::SimRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::proof::Deck;

/// What goes down in a round, all of it at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    OneNode,
    TwoNodes,
    AllNodes,
    Database,
    DatabaseAndNode,
}

const DECK: [Kind; 5] =
    [Kind::OneNode, Kind::TwoNodes, Kind::AllNodes, Kind::Database, Kind::DatabaseAndNode];

/// A round with all its details.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    /// Which nodes are killed.
    pub(crate) nodes: Vec<usize>,
    pub(crate) database: bool,
    /// How much of the round's events is stored when it happens, in hundredths.
    pub(crate) percent: u64,
    /// What is published.
    pub(crate) seed: u64,
}

/// Rounds without end.
pub(crate) struct Rounds {
    rng: SimRng,
    deck: Deck<Kind>,
    number: u64,
}

/// How often each kind had its turn.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) kinds: BTreeMap<Kind, u64>,
    pub(crate) kills: u64,
    pub(crate) restarts: u64,
}

impl Rounds {
    pub(crate) const IN_A_DECK: usize = DECK.len();

    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: SimRng::seed_from_u64(seed), deck: Deck::of(&DECK), number: 0 }
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let kind = self.deck.deal(&mut self.rng);
        let (count, database) = match kind {
            Kind::OneNode => (1, false),
            Kind::TwoNodes => (2, false),
            Kind::AllNodes => (3, false),
            Kind::Database => (0, true),
            Kind::DatabaseAndNode => (1, true),
        };
        let nodes = [0, 1, 2].sample(&mut self.rng, count).copied().collect();
        self.number += 1;
        let (percent, seed) = (self.rng.random_range(5..60), self.rng.random());
        Some(Round { number: self.number, kind, nodes, database, percent, seed })
    }
}

impl Round {
    /// How many of so many events are stored when it happens.
    pub(crate) fn events(&self, unique: u64) -> u64 {
        unique * self.percent / 100
    }
}

impl Tally {
    pub(crate) fn add(&mut self, round: &Round) {
        *self.kinds.entry(round.kind).or_default() += 1;
        self.kills += round.nodes.len() as u64;
        self.restarts += u64::from(round.database);
    }

    pub(crate) fn is_complete(&self) -> bool {
        DECK.iter().all(|kind| self.kinds.contains_key(kind))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rounds: u64 = self.kinds.values().sum();
        write!(
            f,
            "rounds: {rounds}, nodes killed: {}, crashes of the database: {}",
            self.kills, self.restarts
        )
    }
}
