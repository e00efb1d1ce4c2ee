//! Points at which a test can end the process. What a crash there leaves behind has to be right.
//!
//! A production build has none of this: without the feature `fail-points` every function here is
//! empty. With it, two environment variables are read when a point is first reached.
//!
//! * `AGGREGATOR_FAIL_POINT=NAME:N` aborts the process when the point NAME is reached for the N-th time.
//!   `NAME:N:hold=MICROS` keeps the thread there for that long first, so that a reply which was sent too
//!   early arrives. `NAME:N:pass=MICROS` lets the thread go on, and aborts the process after that time.
//! * `AGGREGATOR_MUTATION=ack-before-commit` makes the workers answer before the commit. A proof that
//!   does not notice this proves nothing.

use crate::Receipt;

#[cfg(feature = "fail-points")]
pub use armed::{ACK_BEFORE_COMMIT, MUTATION_VARIABLE, VARIABLE};
pub use imp::{acknowledge_early, decided};

#[cfg(feature = "fail-points")]
use armed as imp;
#[cfg(not(feature = "fail-points"))]
use disarmed as imp;

/// A place where the process can be made to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailPoint {
    /// An append is decided and written into its transaction, which is open.
    BeforeCommit,
    /// The transaction is committed, but no caller has been told.
    AfterCommit,
    /// The log is about to be copied back into the file.
    Checkpoint,
    /// The log has been copied back into the file.
    Checkpointed,
    /// The worker has the receipts, but has answered nobody.
    BeforeReplies,
    /// No more requests are taken; some are under way.
    Draining,
    /// Everything admitted is committed, and the store is still open.
    Drained,
    /// The copy of a store that is upgraded is written, but has no name.
    UpgradeCopying,
    /// The copy of a store that is upgraded is complete, and the store as it was.
    UpgradeCopied,
    /// The new format is committed, and the log still holds it.
    UpgradeCommitted,
    /// A store has its new format, and its index may be empty.
    UpgradeEmptied,
}

impl FailPoint {
    /// Ends the process, if the environment says so.
    #[inline]
    pub fn reach(self) {
        imp::reach(self);
    }
}

/// What an early acknowledgement does with the receipts.
pub type Acknowledge = Box<dyn FnOnce(&[Receipt])>;

#[cfg(not(feature = "fail-points"))]
mod disarmed {
    use super::{Acknowledge, FailPoint, Receipt};

    #[inline]
    pub(super) fn reach(_: FailPoint) {}

    /// Does nothing.
    #[inline]
    pub fn acknowledge_early(_: impl FnOnce() -> Acknowledge) {}

    /// Does nothing.
    #[inline]
    pub fn decided(_: &[Receipt]) {}
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::cell::RefCell;
    use std::str::FromStr;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use super::{Acknowledge, FailPoint, Receipt};

    /// The environment variable that arms a point.
    pub const VARIABLE: &str = "AGGREGATOR_FAIL_POINT";
    /// The environment variable that asks for a mistake.
    pub const MUTATION_VARIABLE: &str = "AGGREGATOR_MUTATION";
    /// The mistake of answering before the commit.
    pub const ACK_BEFORE_COMMIT: &str = "ack-before-commit";

    static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        Some(text.parse().unwrap_or_else(|()| panic!("{VARIABLE}={text} names no fail point and how often")))
    });

    static ACKNOWLEDGES_EARLY: LazyLock<bool> = LazyLock::new(|| {
        std::env::var(MUTATION_VARIABLE).is_ok_and(|mutation| {
            assert_eq!(mutation, ACK_BEFORE_COMMIT, "{MUTATION_VARIABLE} is no mistake that can be made");
            true
        })
    });

    thread_local! {
        /// What this thread's next append does with its receipts before it commits them.
        static EARLY: RefCell<Option<Acknowledge>> = const { RefCell::new(None) };
    }

    struct Armed {
        point: FailPoint,
        /// How many times it is still to be reached.
        left: AtomicU64,
        end: End,
    }

    enum End {
        Now,
        Hold(Duration),
        Pass(Duration),
    }

    impl FromStr for Armed {
        type Err = ();

        fn from_str(text: &str) -> Result<Self, ()> {
            let (name, rest) = text.split_once(':').ok_or(())?;
            let (left, end) = rest.split_once(':').unwrap_or((rest, ""));
            let micros = |text: &str| text.parse().map(Duration::from_micros).map_err(drop);
            let end = match end.split_once('=') {
                None if end.is_empty() => End::Now,
                Some(("hold", time)) => End::Hold(micros(time)?),
                Some(("pass", time)) => End::Pass(micros(time)?),
                _ => return Err(()),
            };
            let point = FailPoint::ALL.into_iter().find(|point| point.name() == name).ok_or(())?;
            Ok(Self { point, left: AtomicU64::new(left.parse().map_err(drop)?), end })
        }
    }

    impl FailPoint {
        /// All of them.
        pub const ALL: [Self; 11] = [
            Self::BeforeCommit,
            Self::AfterCommit,
            Self::Checkpoint,
            Self::Checkpointed,
            Self::BeforeReplies,
            Self::Draining,
            Self::Drained,
            Self::UpgradeCopying,
            Self::UpgradeCopied,
            Self::UpgradeCommitted,
            Self::UpgradeEmptied,
        ];

        /// Its name in the environment.
        #[must_use]
        pub fn name(self) -> &'static str {
            match self {
                Self::BeforeCommit => "before-commit",
                Self::AfterCommit => "after-commit",
                Self::Checkpoint => "checkpoint",
                Self::Checkpointed => "checkpointed",
                Self::BeforeReplies => "before-replies",
                Self::Draining => "draining",
                Self::Drained => "drained",
                Self::UpgradeCopying => "upgrade-copying",
                Self::UpgradeCopied => "upgrade-copied",
                Self::UpgradeCommitted => "upgrade-committed",
                Self::UpgradeEmptied => "upgrade-emptied",
            }
        }
    }

    pub(super) fn reach(point: FailPoint) {
        let Some(armed) = ARMED.as_ref().filter(|armed| armed.point == point) else { return };
        if armed.left.fetch_sub(1, Ordering::Relaxed) != 1 {
            return;
        }
        match armed.end {
            End::Now => std::process::abort(),
            End::Hold(time) => abort_after(time),
            End::Pass(time) => drop(std::thread::spawn(move || abort_after(time))),
        }
    }

    fn abort_after(time: Duration) {
        std::thread::sleep(time);
        std::process::abort();
    }

    /// If the environment asks for that mistake, this thread's next append hands its receipts to what
    /// `prepare` returns before it commits them.
    pub fn acknowledge_early(prepare: impl FnOnce() -> Acknowledge) {
        if *ACKNOWLEDGES_EARLY {
            EARLY.set(Some(prepare()));
        }
    }

    /// A backend calls this between deciding an append and committing it. If the append is to be acknowledged too
    /// early, its receipts are handed out here.
    pub fn decided(receipts: &[Receipt]) {
        if let Some(acknowledge) = EARLY.take() {
            acknowledge(receipts);
        }
    }
}
