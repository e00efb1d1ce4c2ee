//! The part about many topics.

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::topics::ManyTopics;
use crate::measures::topics::cost::TopicCost;

pub(super) fn many_topics(lines: &[ManyTopics]) -> String {
    let mut text = "Each run has a store of its own and makes its topics first, unmeasured. *Of few* is the rate over that with the\n\
                    fewest topics, in the same round. *Written* is what the server had written to the disk, log and file.\n\n\
                    | events of a request | topics | deliveries/s | of few | written per delivery | p99 of a request |\n\
                    |--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for line in lines {
        let figures = [
            line.batch.to_string(),
            count(wide(line.topics.into())),
            spread(line.rate),
            ratio(line.of_few),
            format!("{} bytes", count(line.bytes.median)),
            format!("{:.1} ms", line.p99_ms.median),
        ];
        row(&mut text, &figures, &[]);
    }
    text
}

pub(super) fn cost(cost: &TopicCost) -> String {
    let mut text = format!(
        "{} deliveries to a new store. Each topic takes {:.0} bytes of memory more than its events take in few topics.\n\n\
         | topics | resident | ready after `kill -9` |\n|--:|--:|--:|\n",
        count(wide(cost.deliveries)),
        cost.bytes_a_topic()
    );
    for costs in [&cost.few, &cost.many] {
        let resident = format!("{} MB", count(wide(costs.resident_bytes / 1_000_000)));
        let ready = format!("{:.2} s", costs.start_seconds.median);
        row(&mut text, &[count(wide(costs.topics)), resident, ready], &[]);
    }
    text
}
