//! One life of a server, and how it ends.

use std::collections::BTreeMap;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use aggregator_core::fail_point::FailPoint;
use publisher_sim::seed::SimRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::proof::Deck;
use crate::publishers::Publishers;
use crate::server::Site;

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;

/// How a server ends, apart from the details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// Killed in the middle of its work.
    Killed,
    /// Killed while it starts.
    KilledAtStart,
    /// Killed while it drains.
    KilledInDrain,
    /// Ended by itself at a fail point.
    At(FailPoint),
}

/// A round with all its details.
#[derive(Debug)]
pub(crate) struct Round {
    kind: Kind,
    /// Requests that are acknowledged before it is ended from outside.
    requests: u64,
    /// A little longer, for an instant that hangs together with nothing.
    later: Duration,
    /// What the environment says of the fail point.
    armed: Option<String>,
}

/// Rounds without end.
pub(crate) struct Rounds {
    rng: SimRng,
    deck: Deck<Kind>,
    /// Whether the last commit that a process ended before was held back.
    held: bool,
}

/// How the servers ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    rounds: u64,
    ends: BTreeMap<Kind, u64>,
}

/// The kinds in a deck.
const DECK: [Kind; 14] = [
    Kind::Killed,
    Kind::Killed,
    Kind::Killed,
    Kind::Killed,
    Kind::KilledAtStart,
    Kind::KilledInDrain,
    Kind::At(FailPoint::BeforeCommit),
    Kind::At(FailPoint::BeforeCommit),
    Kind::At(FailPoint::AfterCommit),
    Kind::At(FailPoint::BeforeReplies),
    Kind::At(FailPoint::Checkpoint),
    Kind::At(FailPoint::Checkpointed),
    Kind::At(FailPoint::Draining),
    Kind::At(FailPoint::Drained),
];

impl Rounds {
    pub(crate) const IN_A_DECK: usize = DECK.len();

    pub(crate) fn new(seed: u64) -> Self {
        Self { rng: SimRng::seed_from_u64(seed), deck: Deck::of(&DECK), held: false }
    }

    /// When a point is reached, and how long after it the process ends.
    fn arm(&mut self, point: FailPoint) -> String {
        let rng = &mut self.rng;
        let nth = match point {
            FailPoint::BeforeCommit | FailPoint::AfterCommit | FailPoint::BeforeReplies => {
                rng.random_range(1..=40)
            }
            _ => 1,
        };
        self.held ^= point == FailPoint::BeforeCommit;
        let end = match point {
            // An acknowledgement that came too early gets the time to arrive: it is what must not be.
            FailPoint::BeforeCommit if self.held => ":hold=30000".to_owned(),
            // While the transaction is written to the log.
            FailPoint::BeforeCommit => format!(":pass={}", rng.random_range(0..1_000)),
            // Half of the time right there, half of the time in the midst of what comes then.
            _ if rng.random() => String::new(),
            FailPoint::Checkpoint => format!(":pass={}", rng.random_range(0..10_000)),
            _ => format!(":pass={}", rng.random_range(0..3_000)),
        };
        format!("{}:{nth}{end}", point.name())
    }
}

impl Iterator for Rounds {
    type Item = Round;

    fn next(&mut self) -> Option<Round> {
        let kind = self.deck.deal(&mut self.rng);
        let armed = match kind {
            Kind::At(point) => Some(self.arm(point)),
            Kind::Killed | Kind::KilledAtStart | Kind::KilledInDrain => None,
        };
        let longest_micros = if kind == Kind::KilledAtStart { 60_000 } else { 3_000 };
        let later = Duration::from_micros(self.rng.random_range(0..longest_micros));
        Some(Round { kind, requests: self.rng.random_range(1..=100), later, armed })
    }
}

impl Round {
    /// Starts a server, lets it work, and sees to its end.
    pub(crate) fn run(&self, site: &Site, publishers: &Publishers, tally: &mut Tally) {
        let armed = self.armed.as_deref();
        let (status, expected) = match self.kind {
            Kind::Killed => {
                let server = site.start(armed);
                publishers.journal().wait_for(self.requests);
                self.wait_for_the_instant();
                (server.kill(), SIGKILL)
            }
            Kind::KilledAtStart => {
                let server = site.launch(armed);
                self.wait_for_the_instant();
                (server.kill(), SIGKILL)
            }
            Kind::KilledInDrain => {
                let server = site.start(armed);
                publishers.journal().wait_for(self.requests);
                server.terminate();
                self.wait_for_the_instant();
                (server.kill(), SIGKILL)
            }
            Kind::At(FailPoint::Draining | FailPoint::Drained) => {
                let mut server = site.start(armed);
                publishers.journal().wait_for(self.requests);
                server.terminate();
                (server.ended(), SIGABRT)
            }
            Kind::At(_) => (site.start(armed).ended(), SIGABRT),
        };
        let passed = self.armed.as_ref().is_some_and(|armed| armed.contains("pass"));
        // Some may be ahead of what was meant for them: at a port that is taken, or at the end of the drain.
        let ended_in_order = match self.kind {
            Kind::KilledAtStart => status.code() == Some(1),
            Kind::KilledInDrain => status.code() == Some(0),
            Kind::At(FailPoint::Draining | FailPoint::Drained) if passed => status.code() == Some(0),
            _ => false,
        };
        assert!(status.signal() == Some(expected) || ended_in_order, "{self:?}: {status}");
        tally.rounds += 1;
        *tally.ends.entry(self.kind).or_default() += 1;
    }

    /// Not to wait for something: the kill shall hit the server at any instant of its work, not only at
    /// those at which a reply has just arrived.
    fn wait_for_the_instant(&self) {
        std::thread::sleep(self.later);
    }
}

impl Tally {
    pub(crate) fn is_complete(&self) -> bool {
        DECK.iter().all(|kind| self.ends.contains_key(kind))
    }

    fn count(&self, which: impl Fn(Kind) -> bool) -> u64 {
        self.ends.iter().filter(|(kind, _)| which(**kind)).map(|(_, count)| count).sum()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_point = self.count(|kind| matches!(kind, Kind::At(_)));
        let (at_start, in_drain) =
            (self.count(|kind| kind == Kind::KilledAtStart), self.count(|kind| kind == Kind::KilledInDrain));
        let kills = self.rounds - by_point;
        write!(
            f,
            "rounds: {}, kills: {kills} ({at_start} at the start, {in_drain} in the drain)",
            self.rounds
        )?;
        write!(f, ", by fail point: {by_point}")?;
        let mut points = self.ends.iter().filter_map(|(kind, count)| match kind {
            Kind::At(point) => Some((point.name(), count)),
            _ => None,
        });
        if let Some((name, count)) = points.next() {
            write!(f, " ({name} {count}")?;
            points.try_for_each(|(name, count)| write!(f, ", {name} {count}"))?;
            write!(f, ")")?;
        }
        Ok(())
    }
}
