//! What senders share, they share fairly: a flood of one does not keep the others waiting.
//!
//! Every request belongs to a [`Flow`]: that of the credential it came with. Where requests wait, flows take turns ([`queue`]):
//! of two flows each gets every second turn, however many requests one of them has waiting. Where requests take room without
//! waiting, a flow never takes more than it leaves ([`Flow::may_take`]).

pub(crate) mod places;
pub(crate) mod queue;

use std::hash::{DefaultHasher, Hash, Hasher as _};

/// To whom a request belongs. Two senders may have the same flow by chance, once in 2^64 times: they share it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Flow(u64);

impl Flow {
    /// The flow of requests without a credential, which cannot be told apart, and of the server's own work.
    pub(crate) const EVERYBODY: Self = Self(0);

    pub(crate) fn of(identity: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        identity.hash(&mut hasher);
        Self(hasher.finish().max(1))
    }

    /// Whether a flow that has `own` of something may take `more`, if `free` of it are left.
    ///
    /// One flow alone gets a half, and the next one a half of the rest. It may always take its first piece, or it would get
    /// nothing where there is little.
    pub(crate) fn may_take(self, own: usize, more: usize, free: usize) -> bool {
        more <= free && (own == 0 || self == Self::EVERYBODY || own + more <= free - more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How much a flow can take in single pieces.
    fn takes(flow: Flow, mut free: usize) -> usize {
        let mut own = 0;
        while flow.may_take(own, 1, free) {
            own += 1;
            free -= 1;
        }
        own
    }

    #[test]
    fn a_flow_leaves_as_much_as_it_takes() {
        let flow = Flow::of("a");
        assert_eq!([0, 1, 2, 3, 100].map(|free| takes(flow, free)), [0, 1, 1, 1, 50]);
        assert_eq!(takes(Flow::EVERYBODY, 100), 100, "nobody else is there");
    }
}
