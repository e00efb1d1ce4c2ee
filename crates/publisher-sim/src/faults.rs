//! Faults on the publisher's own side: what networks and careless publishers do, on purpose and by seed.

use std::fmt;
use std::time::Duration;

use rand::RngExt;

use crate::config::{FaultArgs, Ratio};
use crate::seed::{Stream, Streams};
use crate::sequences::late::Lateness;

/// How many copies of a batch a burst sends at once.
pub const BURST_COPIES: u32 = 3;

/// What can go wrong on the publisher's side.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Share of the batches whose first reply is thrown away.
    pub drop_replies: Ratio,
    /// Longest wait before a batch is sent.
    pub max_delay: Duration,
    /// Deliveries are shuffled within windows of this many.
    pub reorder: u32,
    /// Share of the batches that are sent [`BURST_COPIES`] times at once.
    pub bursts: Ratio,
    /// Share of the repeats that carry another payload.
    pub conflicts: Ratio,
    /// Share of the publisher's own numbers that belong to no event.
    pub drop: Ratio,
    /// Events that are sent behind their successors.
    pub late: Lateness,
}

/// What goes wrong with one batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchFaults {
    /// Wait this long before sending.
    pub delay: Duration,
    /// Throw the first reply away and send the same bytes again.
    pub drop_reply: bool,
    /// Send this many copies at once; 1 is no fault.
    pub copies: u32,
}

impl Faults {
    /// The faults asked for by name, and with `--chaos` a bit of each that was not.
    #[must_use]
    pub fn new(args: &FaultArgs) -> Self {
        let chaos = |mix| if args.chaos { mix } else { Ratio::ZERO };
        let chaos_count = |mix| if args.chaos { mix } else { 0 };
        Self {
            drop_replies: args.drop_replies.unwrap_or(chaos(Ratio::percent(5))),
            max_delay: Duration::from_millis(args.delay_ms.unwrap_or(chaos_count(5)).into()),
            reorder: args.reorder.unwrap_or(chaos_count(200)),
            bursts: args.bursts.unwrap_or(chaos(Ratio::percent(3))),
            conflicts: args.conflicts.unwrap_or(chaos(Ratio::percent(5))),
            drop: args.drop.unwrap_or(Ratio::ZERO),
            late: Lateness { share: args.late.unwrap_or(Ratio::ZERO), by: args.late_by },
        }
    }

    /// Whether events have to be numbered, so that a reader can notice what goes wrong.
    #[must_use]
    pub fn need_sequences(&self) -> bool {
        self.drop != Ratio::ZERO || self.late.share != Ratio::ZERO
    }

    /// What goes wrong with batch `number`: the same in every run of the seed.
    #[must_use]
    pub fn for_batch(&self, streams: &Streams, number: u64) -> BatchFaults {
        let mut rng = streams.rng(Stream::Faults, number);
        let delay = self.max_delay.mul_f64(rng.random());
        let drop_reply = rng.random_bool(self.drop_replies.get());
        let copies = if rng.random_bool(self.bursts.get()) { BURST_COPIES } else { 1 };
        BatchFaults { delay, drop_reply, copies }
    }
}

/// As the options that ask for them; nothing if there are none.
impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let late_by = if self.late.share == Ratio::ZERO { 0 } else { self.late.by };
        let options = [
            ("drop-replies", self.drop_replies.get().to_string()),
            ("delay", self.max_delay.as_millis().to_string()),
            ("reorder", self.reorder.to_string()),
            ("bursts", self.bursts.get().to_string()),
            ("conflicts", self.conflicts.get().to_string()),
            ("drop", self.drop.get().to_string()),
            ("late", self.late.share.get().to_string()),
            ("late-by", late_by.to_string()),
        ];
        let given = options.iter().filter(|(_, value)| value != "0");
        let given: Vec<_> = given.map(|(name, value)| format!("--{name} {value}")).collect();
        f.write_str(&given.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::*;
    use crate::config::Config;

    fn faults(args: &[&str]) -> Faults {
        Faults::new(&Config::try_parse_from([&["publisher-sim"], args].concat()).unwrap().faults)
    }

    #[test]
    fn without_options_nothing_goes_wrong() {
        let streams = Streams::new(1, 100);
        let none = BatchFaults { delay: Duration::ZERO, drop_reply: false, copies: 1 };
        let faults = faults(&[]);
        assert_eq!((faults.reorder, faults.conflicts), (0, Ratio::ZERO));
        assert!((0..1000).all(|number| faults.for_batch(&streams, number) == none));
    }

    #[test]
    fn chaos_fills_in_what_was_not_asked_for() {
        let faults = faults(&["--chaos", "--bursts", "0", "--delay", "70"]);
        assert_eq!((faults.bursts, faults.max_delay), (Ratio::ZERO, Duration::from_millis(70)));
        assert!(faults.drop_replies.get() > 0.0 && faults.conflicts.get() > 0.0 && faults.reorder > 1);
    }

    #[test]
    fn each_fault_can_be_asked_for_alone_and_is_told_as_it_was_asked_for() {
        for option in [
            "--drop-replies 0.25",
            "--delay 7",
            "--reorder 30",
            "--bursts 1",
            "--conflicts 0.5",
            "--drop 0.1",
            "--late 0.2 --late-by 7",
        ] {
            let args: Vec<_> = option.split(' ').collect();
            assert_eq!(faults(&args).to_string(), option);
        }
        assert_eq!(faults(&[]).to_string(), "");
    }

    #[test]
    fn what_loses_or_delays_numbers_needs_them() {
        for (option, needs) in
            [("--drop 0.1", true), ("--late 0.1", true), ("--late-by 9", false), ("--chaos", false)]
        {
            assert_eq!(faults(&option.split(' ').collect::<Vec<_>>()).need_sequences(), needs, "{option}");
        }
    }

    #[test]
    fn the_help_says_what_chaos_is_made_of() {
        let help = Config::command().term_width(1000).render_help().to_string();
        let mix = faults(&["--chaos"]).to_string();
        assert_eq!(mix.matches("--").count(), 5);
        assert!(help.contains(&mix), "{mix} is not in {help}");
    }

    #[test]
    fn faults_hit_their_share_of_the_batches_and_the_same_ones_each_time() {
        let streams = Streams::new(1, 100);
        let faults = faults(&["--drop-replies", "0.1", "--bursts", "0.5", "--delay", "20"]);
        let all: Vec<_> = (0..10_000).map(|number| faults.for_batch(&streams, number)).collect();
        let dropped = all.iter().filter(|batch| batch.drop_reply).count();
        let bursts = all.iter().filter(|batch| batch.copies == BURST_COPIES).count();
        assert!((800..1200).contains(&dropped) && (4500..5500).contains(&bursts), "{dropped} {bursts}");
        assert!(all.iter().all(|batch| batch.delay <= Duration::from_millis(20)));
        assert!((0..).zip(all).all(|(number, batch)| faults.for_batch(&streams, number) == batch));
    }
}
