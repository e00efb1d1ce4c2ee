//! A mistake that tests make on purpose, to see that they notice it: answering before the commit. It exists only in
//! builds with fail points, see [`aggregator_core::fail_point`].

use aggregator_core::Receipt;
use aggregator_core::fail_point::Acknowledge;

use super::job::{Job, Receipts};

/// Answers the jobs as soon as their receipts are known, whether or not the commit succeeds.
pub(super) fn answer_all(jobs: &mut [Job]) -> Acknowledge {
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
