//! PostgreSQL with the extension Citus: the server of the URL is a coordinator, and each partition is on one of several
//! servers.
//!
//! Statements that name one partition go to the server that has it, and a transaction of one partition commits there alone
//! and in one phase. So a server that is down takes only its own partitions with it. [`cluster`] knows which these are.

pub(crate) mod cluster;
pub(crate) mod distribute;
mod watch;

pub(crate) use self::cluster::Cluster;
pub(crate) use self::watch::{Watch, look};

/// The settings of a session that its transactions take along to the other servers.
pub(crate) const IN_TRANSACTIONS: [&str; 6] = [
    "synchronous_commit",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    // The planner counts a sort that it was to avoid as very expensive, and would compile the query for it.
    "jit",
    "enable_seqscan",
    "enable_sort",
];
