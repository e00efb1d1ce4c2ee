//! A batch: the body of one request, and what its receipts must be about.

use std::ops::Range;

use bytes::Bytes;

use crate::plan::Delivery;
use crate::workload::Workload;

/// The body of one publish request. Every retry and every copy sends these same bytes.
#[derive(Debug)]
pub struct Batch {
    /// Number of the batch within the run, from 0.
    pub number: u64,
    body: Bytes,
    items: Vec<Item>,
}

#[derive(Debug)]
struct Item {
    delivery: Delivery,
    event_id: Range<usize>,
}

impl Batch {
    /// Encodes deliveries as a publish request: `{"events":[…]}`, or the bare event if there is one.
    #[must_use]
    pub fn encode(number: u64, deliveries: &[Delivery], workload: &Workload) -> Self {
        let mut body = Vec::with_capacity(deliveries.len() * 256 + 16);
        let single = deliveries.len() == 1;
        if !single {
            body.extend_from_slice(b"{\"events\":[");
        }
        let mut items = Vec::with_capacity(deliveries.len());
        for (position, delivery) in deliveries.iter().enumerate() {
            if position > 0 {
                body.push(b',');
            }
            let event_id = workload.write_event(delivery.index, delivery.altered, &mut body);
            items.push(Item { delivery: *delivery, event_id });
        }
        if !single {
            body.extend_from_slice(b"]}");
        }
        Self { number, body: body.into(), items }
    }

    /// The request body; cloning it copies no bytes.
    #[must_use]
    pub fn body(&self) -> Bytes {
        self.body.clone()
    }

    /// How many events it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether it holds no event; a planned batch always holds one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The deliveries and the bytes of their event ids, in the order of the body.
    pub fn items(&self) -> impl ExactSizeIterator<Item = (Delivery, &[u8])> {
        self.items.iter().map(|item| (item.delivery, &self.body[item.event_id.clone()]))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;
    use crate::ids::IdScheme;
    use crate::plan::Plan;
    use crate::seed::Streams;
    use crate::workload::tests::workload;

    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        events: Vec<&'a RawValue>,
    }

    fn events_of(batch: &Batch) -> Vec<String> {
        let body = batch.body();
        if batch.len() == 1 {
            return vec![String::from_utf8(body.to_vec()).unwrap()];
        }
        let body: Body<'_> = serde_json::from_slice(&body).unwrap();
        body.events.iter().map(|event| event.get().to_owned()).collect()
    }

    #[test]
    fn the_same_seed_sends_the_same_bytes_in_the_same_order_whatever_the_batch_size() {
        proptest!(ProptestConfig::with_cases(32), |(seed: u64, sizes in prop::collection::vec(1_usize..80, 2))| {
            let workload = workload(seed, 3, IdScheme::Uuid7, 100);
            let plan = Plan::new(200, "0.4".parse().unwrap(), "0.2".parse().unwrap()).unwrap();
            let deliveries: Vec<_> = plan.walk(&Streams::new(seed, 100), 0).collect();
            let sent: Vec<Vec<String>> = sizes
                .iter()
                .map(|size| {
                    let batches = deliveries.chunks(*size).zip(0..);
                    batches.flat_map(|(chunk, n)| events_of(&Batch::encode(n, chunk, &workload))).collect()
                })
                .collect();
            prop_assert_eq!(sent[0].len(), 200);
            prop_assert_eq!(&sent[0], &sent[1]);
        });
    }

    #[test]
    fn items_name_the_ids_in_the_body() {
        let workload = workload(5, 2, IdScheme::Composite, 100);
        let deliveries = [Delivery { index: 4, altered: false }, Delivery { index: 2, altered: true }];
        let batch = Batch::encode(0, &deliveries, &workload);
        for ((delivery, id), sent) in batch.items().zip(deliveries) {
            assert_eq!(delivery, sent);
            assert_eq!(id, workload.head(sent.index).event_id.as_bytes());
        }
    }
}
