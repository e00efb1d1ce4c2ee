//! Lookups in the dedup index before an append has its turn: on the threads of the requests, not on the writer's thread,
//! for which all appends wait.

use crate::event::{Hint, HintOwner};
use crate::store::sqlite::catalog::TopicNames;
use crate::store::sqlite::index::{Index, Probe};
use crate::store::sqlite::row::Key;
use crate::{Batch, EventRef};

/// Batches with fewer events get no hints: the writer looks a few events up just as quickly.
pub(crate) const FROM: usize = 16;

/// What the dedup index says of an event before the writer looks.
#[derive(Clone, Copy)]
pub(crate) struct LookupHint {
    pub(crate) topic_id: i64,
    /// The fingerprint of its identity.
    fingerprint: u64,
    /// No row up to this offset has the fingerprint; 0 if some row may have it.
    absent_through: u64,
}

impl LookupHint {
    /// What `owner` noted about the event.
    pub(crate) fn of(event: &EventRef<'_>, owner: HintOwner) -> Option<Self> {
        let [topic_id, fingerprint, absent_through] = event.hint()?.words(owner)?;
        Some(Self { topic_id: topic_id.cast_signed(), fingerprint, absent_through })
    }

    fn opaque(self, owner: HintOwner) -> Hint {
        Hint::new(owner, [self.topic_id.cast_unsigned(), self.fingerprint, self.absent_through])
    }
}

impl From<LookupHint> for Probe {
    fn from(hint: LookupHint) -> Self {
        Self { fingerprint: hint.fingerprint, absent_through: hint.absent_through }
    }
}

/// The hints for the events of a batch.
pub(crate) fn hints(index: &Index, names: &TopicNames, batch: &Batch) -> Vec<Option<Hint>> {
    let names = names.read();
    let mut found = Vec::with_capacity(batch.len());
    for event in batch.iter() {
        // An append creates a topic that does not exist yet, and then knows all of its events.
        found.push(names.get(event.topic()).map(|topic| {
            let source = topic.scope.key(event.source());
            let key = Key { topic_id: topic.id, event_id: event.event_id(), source };
            (topic.id, index.fingerprint(key))
        }));
    }
    drop(names);
    let fingerprints: Vec<u64> = found.iter().flatten().map(|&(_, fingerprint)| fingerprint).collect();
    let mut absent = index.absent(&fingerprints).into_iter();
    let mut note = |(topic_id, fingerprint)| {
        let absent_through = absent.next().expect("there is one for each fingerprint");
        LookupHint { topic_id, fingerprint, absent_through }.opaque(index.owner())
    };
    found.into_iter().map(|found| found.map(&mut note)).collect()
}
