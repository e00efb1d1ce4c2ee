//! The part about many topics.

use super::markdown::{count, ratio, row, spread, wide};
use crate::measures::topics::ManyTopics;

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
