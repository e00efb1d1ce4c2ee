//! The ceiling: `INSERT … SELECT FROM unnest … ON CONFLICT DO NOTHING` of the same rows into the same table.
//!
//! Offsets and seqs are chosen by the client. Nothing is looked up, locked, counted or announced.

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio_postgres::{Client, NoTls, Statement};

use super::groups::{Group, Lanes, run};

const INSERT: &str = "
INSERT INTO aggregator.events (partition, \"offset\", topic_id, seq, event_id, source, source_key, timestamp,
    payload, processed_at)
SELECT $1, n.at, n.topic_id, n.at, n.event_id, n.source, '', n.timestamp, n.payload, 0
FROM unnest($2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[])
    AS n(at, topic_id, event_id, source, timestamp, payload)
ON CONFLICT DO NOTHING";

pub(super) struct Connection {
    runtime: Runtime,
    client: Client,
    insert: Statement,
    /// The last offset of each partition.
    offsets: Vec<i64>,
}

/// Inserts the groups. Returns the seconds it took.
pub(super) fn insert(connections: &mut [Connection], lanes: &Lanes) -> anyhow::Result<f64> {
    run(lanes, connections, Connection::insert)
}

impl Connection {
    pub(super) fn open(url: &str, partitions: u16) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, insert) = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            client.batch_execute("SET synchronous_commit = 'on'").await?;
            let insert = client.prepare(INSERT).await?;
            anyhow::Ok((client, insert))
        })?;
        Ok(Self { runtime, client, insert, offsets: vec![0; partitions.into()] })
    }

    fn insert(&mut self, group: &Group) -> anyhow::Result<()> {
        let events = || group.events.iter().map(aggregator_core::Event::view);
        let offset = &mut self.offsets[usize::from(group.partition.0)];
        let first = *offset + 1;
        *offset += i64::try_from(group.events.len())?;
        let offsets: Vec<i64> = (first..=*offset).collect();
        let topics: Vec<i64> =
            events().map(|event| topic_id(event.topic())).collect::<anyhow::Result<_>>()?;
        let ids: Vec<_> = events().map(|event| event.event_id()).collect();
        let sources: Vec<_> = events().map(|event| event.source()).collect();
        let timestamps: Vec<_> = events().map(|event| event.timestamp()).collect();
        let payloads: Vec<_> = events().map(|event| event.payload()).collect();
        let partition = i32::from(group.partition.0);
        self.runtime.block_on(self.client.execute(
            &self.insert,
            &[&partition, &offsets, &topics, &ids, &sources, &timestamps, &payloads],
        ))?;
        Ok(())
    }
}

/// The number at the end of the topic's name.
fn topic_id(name: &str) -> anyhow::Result<i64> {
    let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
    number.with_context(|| format!("the topic {name} has no number"))
}
