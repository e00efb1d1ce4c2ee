//! What a network does to an exchange.

use std::time::Duration;

use publisher_sim::seed::SimRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

/// The longest pause. Longer than an exchange takes, so that a retry can be first.
const MAX_PAUSE_MS: u64 = 6;

/// The kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    None,
    /// Request and reply are late.
    Delay,
    /// The connection breaks before anything of the request gets through.
    DropRequest,
    /// The connection breaks in the middle of the request.
    CutRequest,
    /// The request gets through; after a while without a reply the connection breaks on both sides.
    Stall,
    /// The reply is lost.
    DropReply,
    /// The connection breaks in the middle of the reply.
    CutReply,
    /// The request gets through twice, the second time after the first was answered. One reply arrives.
    TwiceInTurn,
    /// The request gets through twice at the same time. One reply arrives.
    TwiceAtOnce,
    /// The request gets through, and once more after the publisher has had its reply.
    AgainLater,
    /// The connection breaks, and the request gets through all the same, after its retry perhaps.
    Overtaken,
}

/// Every kind by its share: of 21 tries of a publisher, 9 fail.
const DECK: [Fault; 21] = [
    Fault::None,
    Fault::None,
    Fault::None,
    Fault::None,
    Fault::None,
    Fault::None,
    Fault::Delay,
    Fault::Delay,
    Fault::DropRequest,
    Fault::CutRequest,
    Fault::CutRequest,
    Fault::Stall,
    Fault::DropReply,
    Fault::DropReply,
    Fault::CutReply,
    Fault::CutReply,
    Fault::TwiceInTurn,
    Fault::TwiceAtOnce,
    Fault::TwiceAtOnce,
    Fault::AgainLater,
    Fault::Overtaken,
];

impl Fault {
    /// Every kind.
    pub(crate) fn kinds() -> impl Iterator<Item = Self> {
        let mut kinds = DECK.to_vec();
        kinds.dedup();
        kinds.into_iter()
    }
}

/// A fault, and how exactly it goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mishap {
    pub(crate) fault: Fault,
    /// How long what is late is late.
    pub(crate) pause: Duration,
    /// Which share of a message that is cut gets through.
    pub(crate) cut: f64,
    /// Which of two replies arrives.
    pub(crate) second: bool,
}

impl Mishap {
    pub(crate) const NONE: Self = Self { fault: Fault::None, pause: Duration::ZERO, cut: 0.5, second: false };

    /// Number `number` of a seed: a deck that holds every kind is shuffled, dealt to its end, shuffled
    /// again. So a run of any length has its share of each kind.
    pub(crate) fn dealt(seed: u64, number: usize) -> Self {
        let mut deck = DECK;
        deck.shuffle(&mut SimRng::seed_from_u64(seed ^ (number / DECK.len()) as u64));
        let mut rng = SimRng::seed_from_u64(!seed ^ number as u64);
        Self {
            fault: deck[number % DECK.len()],
            pause: Duration::from_millis(rng.random_range(1..=MAX_PAUSE_MS)),
            cut: rng.random(),
            second: rng.random(),
        }
    }

    /// What `mishap` says for the first exchange, and nothing for all others.
    pub(crate) fn only_first(mishap: Self) -> impl Fn(usize) -> Self + Send + Sync {
        move |number| if number == 0 { mishap } else { Self::NONE }
    }
}
