//! The publisher's own numbers of one source in one topic: which are missing, and which came late.
//!
//! A source numbers its events by one: 1, 2, 3. A number that never comes was lost before it reached this server. How many
//! are missing is exact, because each number counts once: it is the span from the first to the highest one, without those
//! that came. Which ones are missing is known for the newest gaps.

use serde::{Deserialize, Serialize};

/// The newest gaps that are remembered one by one.
const MAX_GAPS: usize = 32;

/// A step in either direction that is larger begins a new numbering: nobody loses so many events in one go.
const MAX_STEP: u64 = 1_000_000;

/// So many numbers in a row that were there already begin a new numbering: the source counts from its start again.
const RESTART_AFTER: u64 = 8;

/// Numbers that have not come: from the first to the last.
type Gap = (u64, u64);

/// What came of the numbers of a source in a topic. Only events that were stored count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequence {
    pub(super) first: u64,
    pub(super) highest: u64,
    /// Different numbers from the first to the highest that came.
    received: u64,
    /// Those of them that came after a higher one.
    pub(super) reordered: u64,
    /// Events whose number another event had.
    pub(super) reused: u64,
    /// How often the numbering began again.
    pub(super) restarts: u64,
    /// What was missing in the numberings before this one.
    missing_before: u64,
    /// The newest gaps, ascending.
    gaps: Vec<Gap>,
    /// From this number on, all gaps are remembered.
    known_from: u64,
    /// How many numbers are missing in gaps before that.
    forgotten: u64,
    /// Numbers in a row that were there already, until now.
    row: Option<Row>,
    /// The counting was interrupted: nobody knows what came before the next number.
    interrupted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    first: u64,
    highest: u64,
    count: u64,
}

impl Sequence {
    /// Begins with the first number that came.
    pub(super) fn new(number: u64) -> Self {
        Self {
            first: number,
            highest: number,
            received: 1,
            reordered: 0,
            reused: 0,
            restarts: 0,
            missing_before: 0,
            gaps: Vec::new(),
            known_from: 0,
            forgotten: 0,
            row: None,
            interrupted: false,
        }
    }

    /// Counts the number of an event that was stored.
    pub(super) fn observe(&mut self, number: u64) {
        if std::mem::take(&mut self.interrupted) {
            self.skip_to(number.saturating_sub(1));
        }
        if number > self.highest {
            if number - self.highest > MAX_STEP {
                return self.restart(Row { first: number, highest: number, count: 1 });
            }
            self.add_gap(self.highest + 1, number - 1);
            self.highest = number;
        } else if number < self.first && self.first - number <= MAX_STEP {
            self.add_gap(number + 1, self.first - 1);
            self.first = number;
            self.reordered += 1;
        } else if number >= self.first && self.fill(number) {
            self.reordered += 1;
        } else {
            return self.reuse(number);
        }
        self.received += 1;
        self.row = None;
    }

    /// Numbers that never came, in all numberings.
    pub(super) fn missing(&self) -> u64 {
        self.missing_before + self.missing_now()
    }

    /// Numbers that came, of this numbering.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The newest gaps, ascending.
    pub(super) fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// Adds what another node has seen of the same numbers. Each event is stored once, so each number counts at one node.
    pub(super) fn add(&mut self, other: &Self) {
        self.reordered += other.reordered;
        self.reused += other.reused;
        self.restarts += other.restarts;
        self.missing_before += other.missing_before;
        self.interrupted |= other.interrupted;
        self.row = None;
        let between = self.first.saturating_sub(other.highest).max(other.first.saturating_sub(self.highest));
        if between > MAX_STEP {
            // Two numberings. The higher one goes on.
            self.restarts += 1;
            let (on, done) = if self.highest < other.highest { (other, &*self) } else { (&*self, other) };
            let missing_before = self.missing_before + done.missing_now();
            let sums = self.clone();
            let (reordered, reused, restarts) = (sums.reordered, sums.reused, sums.restarts);
            *self = Self { reordered, reused, restarts, missing_before, row: None, ..on.clone() };
            return;
        }
        let (first, highest) = (self.first.min(other.first), self.highest.max(other.highest));
        self.known_from = self.known_from.max(other.known_from);
        let gaps = in_both(&self.gaps_within(first, highest), &other.gaps_within(first, highest));
        self.gaps = gaps.into_iter().filter(|&(_, last)| last >= self.known_from).collect();
        let oldest = self.gaps.len().saturating_sub(MAX_GAPS);
        for gap in self.gaps.drain(..oldest) {
            self.known_from = gap.1 + 1;
        }
        (self.first, self.highest) = (first, highest);
        self.received = (self.received + other.received).min(highest - first + 1);
        self.forgotten = self.missing_now().saturating_sub(self.gaps.iter().map(length).sum());
    }

    /// Notes that some numbers may have come that were not counted.
    pub(super) fn interrupt(&mut self) {
        self.interrupted = true;
    }

    /// Takes all numbers up to this one as received.
    fn skip_to(&mut self, number: u64) {
        if let Some(step) = number.checked_sub(self.highest)
            && step <= MAX_STEP
        {
            self.highest = number;
            self.received += step;
        }
    }

    fn missing_now(&self) -> u64 {
        (self.highest - self.first + 1).saturating_sub(self.received)
    }

    fn add_gap(&mut self, from: u64, to: u64) {
        if from > to {
            return;
        }
        if to < self.known_from {
            self.forgotten += length(&(from, to));
            return;
        }
        let at = self.gaps.partition_point(|&(first, _)| first < from);
        self.gaps.insert(at, (from, to));
        if self.gaps.len() > MAX_GAPS {
            let oldest = self.gaps.remove(0);
            self.known_from = oldest.1 + 1;
            self.forgotten += length(&oldest);
        }
    }

    /// Takes a number out of its gap. False if it is in none.
    fn fill(&mut self, number: u64) -> bool {
        let at = self.gaps.partition_point(|&(_, last)| last < number);
        match self.gaps.get(at).copied() {
            Some((first, last)) if first <= number => {
                self.gaps.remove(at);
                if first < number {
                    self.add_gap(first, number - 1);
                }
                self.add_gap(number + 1, last);
                true
            }
            // It may have been in an older one.
            _ if self.forgotten > 0 && number < self.known_from => {
                self.forgotten -= 1;
                true
            }
            _ => false,
        }
    }

    fn reuse(&mut self, number: u64) {
        self.reused += 1;
        let row = self.row.get_or_insert(Row { first: number, highest: number, count: 0 });
        *row = Row { first: row.first.min(number), highest: row.highest.max(number), count: row.count + 1 };
        if row.count == RESTART_AFTER {
            let row = *row;
            self.reused -= RESTART_AFTER;
            self.restart(row);
        }
    }

    fn restart(&mut self, row: Row) {
        let Row { first, highest, count } = row;
        // A number that is there twice in the row counts once.
        let received = count.min(highest - first + 1);
        *self = Self {
            first,
            highest,
            received,
            restarts: self.restarts + 1,
            missing_before: self.missing(),
            gaps: Vec::new(),
            known_from: highest,
            forgotten: highest - first + 1 - received,
            row: None,
            ..*self
        };
    }

    /// The gaps within a wider span: what is outside its own is missing here, too.
    fn gaps_within(&self, first: u64, highest: u64) -> Vec<Gap> {
        let before = (first < self.first).then(|| (first, self.first - 1));
        let behind = (self.highest < highest).then(|| (self.highest + 1, highest));
        before.into_iter().chain(self.gaps.iter().copied()).chain(behind).collect()
    }
}

fn length(&(first, last): &Gap) -> u64 {
    last - first + 1
}

/// What is in both of two ascending lists.
fn in_both(one: &[Gap], other: &[Gap]) -> Vec<Gap> {
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    let mut both = Vec::new();
    while let (Some(&&a), Some(&&b)) = (one.peek(), other.peek()) {
        let (first, last) = (a.0.max(b.0), a.1.min(b.1));
        if first <= last {
            both.push((first, last));
        }
        if a.1 < b.1 {
            one.next()
        } else {
            other.next()
        };
    }
    both
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn of(numbers: &[u64]) -> Sequence {
        let mut sequence = Sequence::new(numbers[0]);
        numbers[1..].iter().for_each(|&number| sequence.observe(number));
        sequence
    }

    fn missing_of(numbers: &BTreeSet<u64>) -> u64 {
        numbers.last().unwrap() - numbers.first().unwrap() + 1 - numbers.len() as u64
    }

    #[test]
    fn what_is_missing_and_what_came_late_is_told_apart() {
        let sequence = of(&[1, 2, 5, 6, 4, 9]);
        assert_eq!((sequence.missing(), sequence.reordered, sequence.reused), (3, 1, 0));
        assert_eq!(sequence.gaps(), [(3, 3), (7, 8)]);
    }

    #[test]
    fn a_source_that_counts_from_its_start_again_has_lost_nothing() {
        let sequence = of(&(1..=100).chain(1..=50).collect::<Vec<_>>());
        assert_eq!((sequence.missing(), sequence.restarts, sequence.reused), (0, 1, 0));
        assert_eq!((sequence.first, sequence.highest), (1, 50));
        let far = of(&[5, 7, 5_000_000_000, 5_000_000_001]);
        assert_eq!((far.missing(), far.restarts, far.first), (1, 1, 5_000_000_000));
    }

    #[test]
    fn a_number_that_two_events_have_hides_no_gap() {
        let sequence = of(&[1, 2, 2, 4, 2]);
        assert_eq!((sequence.missing(), sequence.reused), (1, 2));
    }

    #[test]
    fn an_interruption_of_the_counting_is_no_loss() {
        let mut sequence = of(&[1, 2, 4]);
        sequence.interrupt();
        [9, 11].into_iter().for_each(|number| sequence.observe(number));
        assert_eq!((sequence.missing(), sequence.gaps()), (2, &[(3, 3), (10, 10)][..]));
    }

    #[test]
    fn the_largest_numbers_are_counted_like_others() {
        let top = i64::MAX as u64;
        let sequence = of(&[top - 3, top, top - 1]);
        assert_eq!((sequence.missing(), sequence.gaps()), (1, &[(top - 2, top - 2)][..]));
    }

    proptest! {
        #[test]
        fn the_number_of_those_missing_is_exact_in_whatever_order_they_come(
            numbers in proptest::collection::btree_set(1_u64..400, 1..300),
            seed in any::<u64>(),
        ) {
            let mut shuffled: Vec<_> = numbers.iter().copied().collect();
            shuffled.sort_by_key(|number| number.wrapping_mul(seed | 1));
            let sequence = of(&shuffled);
            prop_assert_eq!(sequence.missing(), missing_of(&numbers));
            prop_assert_eq!(sequence.restarts, 0);
            let behind = |at: usize| shuffled[..at].iter().any(|&before| before > shuffled[at]);
            let late = (0..shuffled.len()).filter(|&at| behind(at)).count() as u64;
            prop_assert_eq!(sequence.reordered, late);
            let gaps: u64 = sequence.gaps().iter().map(length).sum();
            prop_assert_eq!(gaps + sequence.forgotten, sequence.missing());
            prop_assert!(sequence.gaps().iter().all(|&(a, b)| (a..=b).all(|n| !numbers.contains(&n))));
        }

        /// However the events of a source went to the nodes, all of them together have seen the same.
        #[test]
        fn the_nodes_together_miss_what_one_would(
            numbers in proptest::collection::btree_map(1_u64..300, any::<bool>(), 2..250),
        ) {
            let part = |node| numbers.iter().filter(move |(_, at)| **at == node).map(|(n, _)| *n).collect::<Vec<_>>();
            let (one, other) = (part(true), part(false));
            prop_assume!(!one.is_empty() && !other.is_empty());
            let mut both = of(&one);
            both.add(&of(&other));
            prop_assert_eq!(both.missing(), missing_of(&numbers.keys().copied().collect()));
            prop_assert!(both.gaps().iter().all(|&(a, b)| (a..=b).all(|n| !numbers.contains_key(&n))));
            prop_assert!(both.gaps().is_sorted());
        }
    }
}
