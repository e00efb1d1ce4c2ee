//! What the receipts said about each identity of the run: eight bytes each.
//!
//! Receipts must not contradict each other: an identity is stored once, has one seq, and keeps one
//! payload. The ledger notices contradictions, and in the end the store is compared with it.

use thiserror::Error;

use crate::receipt::{Outcome, Receipt};

const SEQ_BITS: u32 = 58;
const SEQ_MASK: u64 = (1 << SEQ_BITS) - 1;
const STORED: u64 = 1 << SEQ_BITS;
const KEPT_ORIGINAL: u64 = 1 << (SEQ_BITS + 1);
const KEPT_ALTERED: u64 = 1 << (SEQ_BITS + 2);

/// The receipts of a run, per identity.
#[derive(Debug)]
pub struct Ledger {
    entries: Vec<u64>,
}

/// Two receipts that cannot both be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Contradiction {
    /// Two deliveries of one identity were both told to be the first.
    #[error("was reported as stored twice")]
    StoredTwice,
    /// Two receipts of one identity name different places.
    #[error("has seq {0} in one receipt and {1} in another")]
    TwoSeqs(u64, u64),
    /// One receipt says the payload equals the one kept, another says it does not.
    #[error("has receipts that disagree on which payload was kept")]
    TwoPayloads,
}

impl Ledger {
    /// A ledger for this many identities.
    #[must_use]
    pub fn new(identities: u32) -> Self {
        Self { entries: vec![0; identities as usize] }
    }

    /// Notes a receipt for a delivery of identity `index`; a rejected one says nothing about the store.
    ///
    /// # Errors
    /// When it contradicts an earlier receipt; the earlier one stays.
    pub fn note(&mut self, index: u32, altered: bool, receipt: Receipt) -> Result<(), Contradiction> {
        let kept_altered = match receipt.outcome {
            Outcome::Rejected => return Ok(()),
            Outcome::Stored | Outcome::Duplicate => altered,
            Outcome::Conflict => !altered,
        };
        let stored = receipt.outcome == Outcome::Stored;
        let (kept, other) =
            if kept_altered { (KEPT_ALTERED, KEPT_ORIGINAL) } else { (KEPT_ORIGINAL, KEPT_ALTERED) };
        let entry = &mut self.entries[index as usize];
        let known_seq = *entry & SEQ_MASK;
        if known_seq != 0 && known_seq != receipt.seq {
            return Err(Contradiction::TwoSeqs(known_seq, receipt.seq));
        }
        if stored && *entry & STORED != 0 {
            return Err(Contradiction::StoredTwice);
        }
        if *entry & other != 0 {
            return Err(Contradiction::TwoPayloads);
        }
        *entry |= (receipt.seq & SEQ_MASK) | kept | if stored { STORED } else { 0 };
        Ok(())
    }

    /// The seq an identity was acknowledged with, or `None` if it never was.
    #[must_use]
    pub fn acknowledged(&self, index: u32) -> Option<u64> {
        match self.entries[index as usize] & SEQ_MASK {
            0 => None,
            seq => Some(seq),
        }
    }

    /// Whether the altered payload is the one that was kept, as far as receipts tell.
    #[must_use]
    pub fn kept_altered(&self, index: u32) -> Option<bool> {
        match self.entries[index as usize] & (KEPT_ORIGINAL | KEPT_ALTERED) {
            0 => None,
            kept => Some(kept == KEPT_ALTERED),
        }
    }

    /// Every identity that was acknowledged.
    pub fn all_acknowledged(&self) -> impl Iterator<Item = u32> {
        let entries = (0_u32..).zip(&self.entries);
        entries.filter(|(_, entry)| *entry & SEQ_MASK != 0).map(|(index, _)| index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(outcome: Outcome, seq: u64) -> Receipt {
        Receipt { outcome, seq }
    }

    #[test]
    fn honest_receipts_agree_in_any_order() {
        let mut ledger = Ledger::new(2);
        ledger.note(1, false, receipt(Outcome::Duplicate, 9)).unwrap();
        ledger.note(1, true, receipt(Outcome::Conflict, 9)).unwrap();
        ledger.note(1, false, receipt(Outcome::Stored, 9)).unwrap();
        ledger.note(0, false, receipt(Outcome::Rejected, 0)).unwrap();
        assert_eq!((ledger.acknowledged(0), ledger.acknowledged(1)), (None, Some(9)));
        assert_eq!((ledger.kept_altered(0), ledger.kept_altered(1)), (None, Some(false)));
        assert_eq!(ledger.all_acknowledged().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn contradicting_receipts_are_noticed() {
        let noted = |second: Receipt, altered| {
            let mut ledger = Ledger::new(1);
            ledger.note(0, false, receipt(Outcome::Stored, 5)).unwrap();
            ledger.note(0, altered, second)
        };
        assert_eq!(noted(receipt(Outcome::Stored, 5), false), Err(Contradiction::StoredTwice));
        assert_eq!(noted(receipt(Outcome::Stored, 6), false), Err(Contradiction::TwoSeqs(5, 6)));
        assert_eq!(noted(receipt(Outcome::Duplicate, 6), false), Err(Contradiction::TwoSeqs(5, 6)));
        assert_eq!(noted(receipt(Outcome::Conflict, 5), false), Err(Contradiction::TwoPayloads));
        assert_eq!(noted(receipt(Outcome::Duplicate, 5), true), Err(Contradiction::TwoPayloads));
        assert_eq!(noted(receipt(Outcome::Conflict, 5), true), Ok(()));
    }
}
