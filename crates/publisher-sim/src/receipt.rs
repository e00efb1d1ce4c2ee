//! What the server says became of each event of a batch.

use std::borrow::Cow;

use serde::Deserialize;

use crate::batch::Batch;
use crate::workload::Workload;

/// The fate of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// New, and stored.
    Stored,
    /// Seen before.
    Duplicate,
    /// Seen before with another payload.
    Conflict,
    /// Not taken.
    Rejected,
}

/// The fate of one event, and its place in its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// What became of it.
    pub outcome: Outcome,
    /// The sequence number of the stored event; 0 if it was rejected.
    pub seq: u64,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    results: Vec<Item<'a>>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow)]
    topic: Cow<'a, str>,
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    outcome: Cow<'a, str>,
    seq: Option<u64>,
}

/// Reads the receipts of a batch.
///
/// # Errors
/// When the reply is not one receipt per event, in order, each about its event.
pub fn receipts(reply: &[u8], batch: &Batch, workload: &Workload) -> Result<Vec<Receipt>, String> {
    let reply: Reply<'_> =
        serde_json::from_slice(reply).map_err(|error| format!("a reply cannot be read: {error}"))?;
    if reply.results.len() != batch.len() {
        return Err("a reply does not hold one receipt per event".to_owned());
    }
    let pairs = reply.results.iter().zip(batch.items());
    pairs
        .map(|(item, (delivery, event_id))| {
            let topic = workload.head(delivery.index).topic;
            if item.event_id.as_bytes() != event_id || item.topic != workload.topics()[topic] {
                return Err("a receipt is about another event than the one sent".to_owned());
            }
            let outcome = match &*item.outcome {
                "stored" => Outcome::Stored,
                "duplicate" => Outcome::Duplicate,
                "conflict" => Outcome::Conflict,
                "rejected" => return Ok(Receipt { outcome: Outcome::Rejected, seq: 0 }),
                _ => return Err("a receipt has an outcome that is none".to_owned()),
            };
            match item.seq {
                Some(seq) if seq > 0 => Ok(Receipt { outcome, seq }),
                _ => Err("a receipt has no seq".to_owned()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::IdScheme;
    use crate::plan::Delivery;
    use crate::workload::tests::workload;

    #[test]
    fn receipts_must_be_about_the_events_that_were_sent() {
        let workload = workload(1, 1, IdScheme::Ulid, 100);
        let deliveries = [0, 1].map(|index| Delivery { index, altered: false });
        let batch = Batch::encode(0, &deliveries, &workload);
        let item = |index: u32, outcome: &str, seq: &str| {
            let id = workload.head(index).event_id;
            format!(r#"{{"topic":"sim.topic-0","event_id":"{id}","outcome":"{outcome}","seq":{seq}}}"#)
        };
        let read = |items: &[String]| {
            let reply = format!(r#"{{"status":"accepted","results":[{}]}}"#, items.join(","));
            receipts(reply.as_bytes(), &batch, &workload)
        };
        let good = [item(0, "stored", "1"), item(1, "duplicate", "7")];
        assert_eq!(
            read(&good).unwrap(),
            [Receipt { outcome: Outcome::Stored, seq: 1 }, Receipt { outcome: Outcome::Duplicate, seq: 7 }]
        );
        assert!(read(&good[..1]).is_err(), "one is missing");
        assert!(read(&[good[1].clone(), good[0].clone()]).is_err(), "in another order");
        assert!(read(&[item(0, "stored", "null"), item(1, "stored", "2")]).is_err(), "no seq");
        assert!(read(&[item(0, "queued", "1"), item(1, "stored", "2")]).is_err(), "no fate");
    }
}
