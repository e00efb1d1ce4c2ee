//! A mistake that can be made on purpose, to see that the tests notice it: answering before the commit.
//! It is in builds with the fail points only, see [`aggregator_core::fail_point`].

use aggregator_core::Receipt;
use aggregator_core::fail_point::Acknowledge;

use crate::publish::worker::{Job, Receipts};

/// Answers the jobs once their receipts are known, whatever becomes of them.
pub(crate) fn answer_all(jobs: &mut [Job]) -> Acknowledge {
    let waiting: Vec<_> = jobs.iter_mut().map(|job| (job.indices.len(), job.reply.take())).collect();
    Box::new(move |receipts: &[Receipt]| {
        let mut receipts = Receipts::of_group(receipts.to_vec());
        for (events, reply) in waiting {
            let own = receipts.split_to(events);
            if let Some(reply) = reply {
                let _ = reply.send(Ok(own));
            }
        }
    })
}
