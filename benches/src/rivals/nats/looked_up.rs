//! A lookup, and then an atomic batch of what is new.
//!
//! Each id has a subject of its own. The server is asked which of the subjects have a message, and gets the others in a
//! batch that it refuses if one of them has a message by then.

use std::collections::HashSet;
use std::fmt::Write as _;

use anyhow::{Context as _, bail};

use super::atomic::publish;
use super::connection::{Connection, Refusal};
use super::single::{Key, WRONG_LAST_SEQUENCE};
use crate::rivals::drive::{Client, Events};
use crate::wire::find;
use crate::workload::Row;

pub(super) struct LookedUp {
    connection: Connection,
    /// How many batches there were.
    number: u64,
}

impl LookedUp {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, number: 0 }
    }

    /// The ids that are stored already.
    fn look_up(&mut self, messages: &[(Row<'_>, &[u8])]) -> anyhow::Result<HashSet<String>> {
        let mut body = String::from(r#"{"multi_last":["#);
        for (place, (Row { topic, event_id, .. }, _)) in messages.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            let _ = write!(body, r#"{comma}"{topic}.{event_id}""#);
        }
        let _ = write!(body, r#"],"batch":{}}}"#, messages.len());
        let mut answer = self.connection.request("$JS.API.DIRECT.GET.bench", &body)?;
        let mut stored = HashSet::new();
        loop {
            match found(answer)? {
                None => return Ok(stored),
                Some(id) => stored.insert(id.to_owned()),
            };
            answer = self.connection.message()?;
        }
    }
}

/// The id of a message that was found, or `None` at the end of them.
fn found(answer: &[u8]) -> anyhow::Result<Option<&str>> {
    const SUBJECT: &[u8] = b"\r\nNats-Subject: ";
    let status = answer.get(..12).unwrap_or_default();
    if let b"NATS/1.0 204" | b"NATS/1.0 404" = status {
        return Ok(None);
    }
    let Some(at) = find(answer, SUBJECT) else {
        bail!("a lookup is answered {}", String::from_utf8_lossy(answer));
    };
    let subject = &answer[at + SUBJECT.len()..];
    let end = find(subject, b"\r\n").context("the end of a subject")?;
    let subject = std::str::from_utf8(&subject[..end])?;
    Ok(Some(subject.rsplit_once('.').map_or(subject, |(_, id)| id)))
}

impl Client for LookedUp {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let mut ids = HashSet::new();
        let mut messages: Vec<_> = events.rows().zip(events.json()).collect();
        messages.retain(|(row, _)| ids.insert(row.event_id));
        loop {
            let stored = self.look_up(&messages)?;
            messages.retain(|(row, _)| !stored.contains(row.event_id));
            if messages.is_empty() {
                return Ok(0);
            }
            self.number += 1;
            match publish(&mut self.connection, self.number, Some(Key::Subject), &messages)? {
                None => return Ok(messages.len() as u64),
                // Somebody else has stored one of them meanwhile.
                Some(Refusal { err_code: WRONG_LAST_SEQUENCE }) => {}
                Some(refusal) => bail!("NATS refuses a batch: {refusal:?}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_a_lookup_is_an_id_or_the_end() {
        let message = b"NATS/1.0\r\nNats-Stream: bench\r\nNats-Subject: bench.top-000001.some-id\r\nNats-Sequence: 7\r\n\r\n{}";
        assert_eq!(found(message).unwrap(), Some("some-id"));
        assert_eq!(found(b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 0\r\n\r\n").unwrap(), None);
        assert_eq!(found(b"NATS/1.0 404 No Results\r\n\r\n").unwrap(), None);
        assert!(found(b"NATS/1.0 413 Too Many Results\r\n\r\n").is_err());
    }
}
