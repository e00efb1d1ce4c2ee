//! Fast ingest (version 2.14; ADR-50 of NATS): a batch without end, which is acknowledged now and then.
//!
//! The subject for answers tells the server the batch, its settings and the message's place. The server says after how
//! many messages it will answer next; two such flows may be under way.

use anyhow::{bail, ensure};

use super::connection::{Answer, Connection, INBOX};
use crate::rivals::drive::{Client, Events};

/// After how many messages an answer shall come, at most. The server gives this much to a batch that is alone.
const MOST: u64 = 500;
/// Answers that may be due. NATS advises two.
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
    flow: Flow,
}

/// How far a batch is.
#[derive(Default)]
struct Flow {
    /// Messages sent so far.
    sent: u64,
    /// The last one that was acknowledged.
    acknowledged: u64,
    /// After how many messages the next answer comes.
    every: u64,
}

impl Flow {
    /// Takes an answer. Returns whether it ends the batch.
    fn take(&mut self, answer: &Answer) -> anyhow::Result<bool> {
        match answer.kind.as_deref() {
            Some("ack") => {
                self.acknowledged = answer.seq;
                self.every = answer.msgs;
                Ok(false)
            }
            None if answer.error.is_none() && answer.count > 0 => {
                ensure!(
                    answer.count == self.sent,
                    "a batch of {} messages is answered {answer:?}",
                    self.sent
                );
                Ok(true)
            }
            _ => bail!("a message of a batch is answered {answer:?}"),
        }
    }

    /// Whether the next message has to wait for an answer.
    fn must_wait(&self) -> bool {
        self.acknowledged + self.every * UNDER_WAY <= self.sent
    }
}

impl Fast {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, flow: Flow::default() }
    }

    /// Adds a message to the batch, with the next place in it.
    fn publish(&mut self, operation: Operation, topic: &str, id: &str, event: &[u8]) -> anyhow::Result<()> {
        let (own, place, operation) = (self.connection.own, self.flow.sent + 1, operation as u8);
        self.connection.publish(
            format_args!("{topic}"),
            // Two batches never have the same name: a batch has a connection.
            format_args!("{INBOX}.{own}.{MOST}.ok.{place}.{operation}.$FI"),
            format_args!("Nats-Msg-Id: {topic}/{id}\r\n"),
            event,
        )
    }

    /// Sends what was added, and reads one answer. Returns whether it ends the batch.
    fn hear(&mut self) -> anyhow::Result<bool> {
        self.connection.flush()?;
        let answer = self.connection.answer()?;
        self.flow.take(&answer)
    }
}

impl Client for Fast {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        for (row, event) in events.rows().zip(events.json()) {
            let operation = if self.flow.sent == 0 { Operation::Start } else { Operation::Append };
            self.publish(operation, row.topic, row.event_id, event)?;
            self.flow.sent += 1;
            while self.flow.must_wait() {
                ensure!(!self.hear()?, "NATS has ended a batch that goes on");
            }
        }
        self.connection.flush()?;
        Ok(0)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        if self.flow.sent > 0 {
            self.publish(Operation::End, "bench.end", "end", b"")?;
            while !self.hear()? {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn no_more_than_two_answers_are_due() {
        let mut flow = Flow { sent: 1, ..Flow::default() };
        assert!(flow.must_wait(), "the first answer says how fast to go");
        assert!(!flow.take(&answer(r#"{"type":"ack","seq":0,"msgs":10}"#)).unwrap());
        flow.sent = 19;
        assert!(!flow.must_wait());
        flow.sent = 20;
        assert!(flow.must_wait());
        assert!(!flow.take(&answer(r#"{"type":"ack","seq":10,"msgs":5}"#)).unwrap());
        assert!(flow.must_wait(), "the server has slowed it down");
        assert!(!flow.take(&answer(r#"{"type":"ack","seq":20,"msgs":5}"#)).unwrap());
        assert!(!flow.must_wait());
    }

    #[test]
    fn a_batch_ends_with_the_number_of_its_messages_and_a_gap_is_an_error() {
        let mut flow = Flow { sent: 20, ..Flow::default() };
        assert!(flow.take(&answer(r#"{"stream":"bench","seq":16,"batch":"b","count":20}"#)).unwrap());
        for wrong in [
            r#"{"stream":"bench","seq":16,"batch":"b","count":19}"#,
            r#"{"type":"gap","last_seq":3,"seq":5}"#,
            r#"{"type":"err","seq":5,"error":{"err_code":10071}}"#,
            r#"{"stream":"bench","seq":0,"error":{"err_code":10208}}"#,
        ] {
            assert!(flow.take(&answer(wrong)).is_err(), "{wrong}");
        }
    }
}
