//! Fast ingest (version 2.14; ADR-50 of NATS): a batch without end, which is acknowledged now and then.
//!
//! The subject for answers tells the server the batch, its settings and the message's place. The server says after how
//! many messages it will answer next; two such flows may be under way.

use anyhow::{bail, ensure};

use super::connection::{Answer, Connection, INBOX};
use crate::rivals::drive::{Client, Events};

/// The most messages for an answer that a client may ask for, and that the server gives to one alone.
const FLOW: u64 = 500;
/// Flows under way. NATS advises two.
const UNDER_WAY: u64 = 2;

/// What a message is to its batch.
#[derive(Clone, Copy)]
enum Operation {
    Start = 0,
    Append = 1,
    /// The batch ends, and this message is not stored.
    End = 3,
}

pub(super) struct Fast {
    connection: Connection,
    /// Messages sent so far.
    sent: u64,
    /// The last one that was acknowledged.
    acknowledged: u64,
    /// After how many messages the next answer comes.
    flow: u64,
}

impl Fast {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, sent: 0, acknowledged: 0, flow: 0 }
    }

    /// Adds a message to the batch, with the next place in it.
    fn publish(&mut self, operation: Operation, topic: &str, id: &str, event: &[u8]) -> anyhow::Result<()> {
        let (own, place, operation) = (self.connection.own, self.sent + 1, operation as u8);
        self.connection.publish(
            format_args!("{topic}"),
            // Two batches never have the same name: a batch has a connection.
            format_args!("{INBOX}.{own}.{FLOW}.ok.{place}.{operation}.$FI"),
            format_args!("Nats-Msg-Id: {topic}/{id}\r\n"),
            event,
        )
    }

    /// Reads one answer. Returns the end of the batch, if it is that.
    fn hear(&mut self) -> anyhow::Result<Option<Answer>> {
        let answer = self.connection.answer()?;
        match answer.kind.as_deref() {
            Some("ack") => {
                self.acknowledged = answer.seq;
                self.flow = answer.msgs;
                Ok(None)
            }
            None if answer.error.is_none() && answer.count > 0 => Ok(Some(answer)),
            _ => bail!("a message of a batch is answered {answer:?}"),
        }
    }

    fn may_not_send(&self) -> bool {
        self.acknowledged + self.flow * UNDER_WAY <= self.sent
    }
}

impl Client for Fast {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        for (row, event) in events.rows().zip(events.json()) {
            let operation = if self.sent == 0 { Operation::Start } else { Operation::Append };
            self.publish(operation, row.topic, row.event_id, event)?;
            self.sent += 1;
            while self.may_not_send() {
                self.connection.flush()?;
                ensure!(self.hear()?.is_none(), "NATS has ended a batch that goes on");
            }
        }
        self.connection.flush()?;
        Ok(0)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        if self.sent == 0 {
            return Ok(());
        }
        self.publish(Operation::End, "bench.end", "end", b"")?;
        self.connection.flush()?;
        let end = loop {
            if let Some(end) = self.hear()? {
                break end;
            }
        };
        ensure!(end.count == self.sent, "a batch of {} messages is answered {end:?}", self.sent);
        Ok(())
    }
}
