//! Messages with an acknowledgement each.

use std::fmt::Arguments;

use anyhow::bail;

use super::connection::{Answer, Connection, INBOX, Refusal};
use crate::rivals::drive::{Client, Events};
use crate::workload::Row;

/// By what NATS recognizes a repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    MessageId,
    Subject,
}

/// The error code for a last sequence that is not the expected one.
pub(super) const WRONG_LAST_SEQUENCE: u32 = 10_071;

pub(super) struct Single {
    connection: Connection,
    key: Key,
}

impl Single {
    pub(super) fn new(connection: Connection, key: Key) -> Self {
        Self { connection, key }
    }
}

impl Client for Single {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        deliver(&mut self.connection, self.key, events)
    }
}

/// Publishes all events, and then reads their acknowledgements. Returns how many were new.
pub(super) fn deliver(connection: &mut Connection, key: Key, events: &Events) -> anyhow::Result<u64> {
    let own = connection.own;
    for (row, event) in events.rows().zip(events.json()) {
        add(connection, Some(key), &row, format_args!("{INBOX}.{own}"), format_args!(""), event)?;
    }
    connection.flush()?;
    let mut stored = 0;
    for _ in events.json() {
        match connection.answer()? {
            Answer { error: None, duplicate, .. } => stored += u64::from(!duplicate),
            Answer { error: Some(Refusal { err_code: WRONG_LAST_SEQUENCE }), .. } => {}
            answer => bail!("NATS refuses a message: {answer:?}"),
        }
    }
    Ok(stored)
}

/// Adds an event to what is sent next, with a header that makes its repeats known.
pub(super) fn add(
    connection: &mut Connection,
    key: Option<Key>,
    row: &Row<'_>,
    reply: Arguments<'_>,
    headers: Arguments<'_>,
    event: &[u8],
) -> anyhow::Result<()> {
    let (topic, id) = (row.topic, row.event_id);
    let topic_alone = format_args!("{topic}");
    match key {
        None => connection.publish(topic_alone, reply, headers, event),
        Some(Key::MessageId) => {
            let headers = format_args!("{headers}Nats-Msg-Id: {topic}/{id}\r\n");
            connection.publish(topic_alone, reply, headers, event)
        }
        Some(Key::Subject) => {
            let headers = format_args!("{headers}Nats-Expected-Last-Subject-Sequence: 0\r\n");
            connection.publish(format_args!("{topic}.{id}"), reply, headers, event)
        }
    }
}
