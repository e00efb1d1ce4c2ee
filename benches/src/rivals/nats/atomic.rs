//! Batches that are stored whole or not at all (version 2.12; ADR-50 of NATS).
//!
//! Each message names its batch and its place. The first one is answered by an empty message, and the last one, which
//! commits the batch, by an acknowledgement of all.

use anyhow::ensure;

use super::connection::{Answer, Connection, INBOX, Refusal};
use super::single::{self, Key};
use crate::rivals::drive::{Client, Events};
use crate::workload::Row;

/// The error code for a batch with a message id that was seen before, in the stream or in the batch.
pub(super) const DUPLICATE_IN_BATCH: u32 = 10_201;

pub(super) struct Atomic {
    connection: Connection,
    key: Option<Key>,
    /// How many batches there were.
    number: u64,
}

impl Atomic {
    /// Messages have ids, or nothing that shows a repeat.
    pub(super) fn new(connection: Connection, ids: bool) -> Self {
        Self { connection, key: ids.then_some(Key::MessageId), number: 0 }
    }
}

impl Client for Atomic {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        self.number += 1;
        let messages: Vec<_> = events.rows().zip(events.json()).collect();
        match publish(&mut self.connection, self.number, self.key, &messages)? {
            None => Ok(messages.len() as u64),
            Some(Refusal { err_code: DUPLICATE_IN_BATCH }) => {
                single::deliver(&mut self.connection, Key::MessageId, events)
            }
            Some(refusal) => anyhow::bail!("NATS refuses a batch: {refusal:?}"),
        }
    }
}

/// Publishes the messages as a batch with this number, which no other batch of the connection may have. Returns why it
/// was refused, if it was.
pub(super) fn publish(
    connection: &mut Connection,
    number: u64,
    key: Option<Key>,
    messages: &[(Row<'_>, &[u8])],
) -> anyhow::Result<Option<Refusal>> {
    let (own, count) = (connection.own, messages.len());
    for (place, (row, event)) in (1..).zip(messages) {
        let commit = if place == count { "Nats-Batch-Commit: 1\r\n" } else { "" };
        let batch = format_args!("Nats-Batch-Id: {own}-{number}\r\nNats-Batch-Sequence: {place}\r\n{commit}");
        if place == 1 || place == count {
            single::add(connection, key, row, format_args!("{INBOX}.{own}"), batch, event)?;
        } else {
            // Without a reply subject there is no answer.
            single::add(connection, key, row, format_args!(""), batch, event)?;
        }
    }
    connection.flush()?;
    if count > 1 {
        let began = connection.message()?;
        ensure!(began.is_empty(), "NATS refuses to begin a batch: {}", String::from_utf8_lossy(began));
    }
    match connection.answer()? {
        Answer { error: Some(refusal), .. } => Ok(Some(refusal)),
        answer => {
            let stored = if count > 1 { answer.count } else { 1 };
            ensure!(stored == count as u64, "a batch of {count} messages is answered {answer:?}");
            Ok(None)
        }
    }
}
