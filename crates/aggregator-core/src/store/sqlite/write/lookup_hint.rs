//! What can be done of an append before its turn comes: on the threads of the requests, and not on the one
//! that all appends wait for.

use crate::Batch;
use crate::event::Ahead;
use crate::store::sqlite::catalog::TopicNames;
use crate::store::sqlite::index::{Index, Key};

/// From how many events on it is worth its while: a few are looked for as quickly by the writer.
pub(crate) const FROM: usize = 16;

/// What can be said of each event.
pub(crate) fn look(index: &Index, names: &TopicNames, batch: &Batch) -> Vec<Option<Ahead>> {
    let names = names.read();
    let mut found = Vec::with_capacity(batch.len());
    for event in batch.iter() {
        // A topic that is not there yet is created by an append, which then knows all of it.
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
        Ahead { by: index.number(), topic_id, fingerprint, absent_through }
    };
    found.into_iter().map(|found| found.map(&mut note)).collect()
}
