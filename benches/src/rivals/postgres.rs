//! PostgreSQL: a private server on a Unix socket.

use std::fs;
use std::process::Stdio;

use anyhow::Context as _;
use postgres::binary_copy::BinaryCopyInWriter;
use postgres::types::Type;
use postgres::{Client as Connection, Config, NoTls, Statement};

use super::drive::{Client, Events, drive};
use super::programs::{find, hand_over, run, socket_directory, tree_bytes, unprivileged};
use super::{Measured, Tried};
use crate::measures::Scratch;
use crate::options::Options;
use crate::process::{Process, disk_bytes};
use crate::workload::{Row, Workload};

pub(super) const UNNEST: &str = "PostgreSQL, unnest … on conflict do nothing";
pub(super) const UNNEST_HOW: &str = "Unix socket, 4 connections, batches of 1,000 as one prepared statement, each a \
    transaction, ids sorted so that batches cannot deadlock; synchronous_commit and fsync on, shared_buffers 512 MB, \
    max_wal_size 4 GB; a primary key on (topic, event_id)";
pub(super) const COPY: &str = "PostgreSQL, copy, insert … select … on conflict do nothing";
pub(super) const COPY_HOW: &str = "as the line above, but each batch is copied in binary into a temporary table of its \
    connection, which the commit empties, and inserted from there";
pub(super) const DURABILITY: &str = "committed and fsynced";

const BATCH: u64 = 1_000;
const CONNECTIONS: usize = 4;

const CREATE: &str = "
CREATE TABLE events (
    log_offset bigint GENERATED ALWAYS AS IDENTITY,
    topic      text NOT NULL,
    event_id   text NOT NULL,
    timestamp  text NOT NULL,
    source     text NOT NULL,
    payload    text NOT NULL,
    PRIMARY KEY (topic, event_id)
)";

const INSERT: &str = "
INSERT INTO events (topic, event_id, timestamp, source, payload)
SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
ON CONFLICT DO NOTHING";

const CREATE_STAGING: &str = "
CREATE TEMPORARY TABLE staging (
    topic      text NOT NULL,
    event_id   text NOT NULL,
    timestamp  text NOT NULL,
    source     text NOT NULL,
    payload    text NOT NULL
) ON COMMIT DELETE ROWS";

const COPY_TO_STAGING: &str = "COPY staging FROM STDIN BINARY";

const INSERT_STAGED: &str = "
INSERT INTO events (topic, event_id, timestamp, source, payload)
SELECT * FROM staging
ON CONFLICT DO NOTHING";

pub(super) fn unnest(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    measure(options, workload, |mut connection| {
        let insert = connection.prepare(INSERT)?;
        Ok(Box::new(Unnest { connection, insert }))
    })
}

pub(super) fn copy(options: &Options, workload: &Workload) -> anyhow::Result<Tried> {
    measure(options, workload, |mut connection| {
        connection.batch_execute(CREATE_STAGING)?;
        let insert = connection.prepare(INSERT_STAGED)?;
        Ok(Box::new(Copy { connection, insert }))
    })
}

fn measure(
    options: &Options,
    workload: &Workload,
    client: fn(Connection) -> anyhow::Result<Box<dyn Client>>,
) -> anyhow::Result<Tried> {
    let (Some(initdb), Some(postgres)) = (find("initdb"), find("postgres")) else {
        return Ok(Tried::NotInstalled("apt-get install postgresql"));
    };
    let directory = Scratch::new(options, "postgres")?;
    hand_over(directory.path())?;
    let data = directory.path().join("data");
    let socket = socket_directory(options)?;
    run(
        "initdb",
        unprivileged(&initdb)
            .arg("-D")
            .arg(&data)
            .args(["-U", "bench", "-A", "trust", "-E", "UTF8"])
            .args(["--locale", "C"])
            .current_dir(directory.path()),
    )?;
    let log = fs::File::create(options.work.join("postgres.log"))?;
    let mut command = unprivileged(&postgres);
    command.arg("-D").arg(&data).arg("-k").arg(socket.path()).args(["-c", "listen_addresses="]);
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // On SIGINT, the server ends its children. If it were killed, they might stay.
    let mut process = Process::start("postgres", &mut command)?.stopped_by("INT");
    let mut config = Config::new();
    config.host_path(socket.path()).user("bench").dbname("postgres");
    process.await_ready(|| config.connect(NoTls).is_ok())?;

    config.connect(NoTls)?.batch_execute(CREATE)?;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(client(config.connect(NoTls).context("connecting to PostgreSQL")?)?);
    }
    let driven = drive(options, workload, BATCH, &mut clients)?;
    let resident_bytes = tree_bytes(process.id())?;
    Ok(Tried::Done(Measured { driven, resident_bytes, disk_bytes: disk_bytes(directory.path())? }))
}

const SETTINGS: [&str; 5] =
    ["fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=512MB", "max_wal_size=4GB"];

/// Sends each batch as an array for each column.
struct Unnest {
    connection: Connection,
    insert: Statement,
}

impl Client for Unnest {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let rows = sorted(events);
        let topics: Vec<&str> = rows.iter().map(|row| row.topic).collect();
        let ids: Vec<&str> = rows.iter().map(|row| row.event_id).collect();
        let timestamps: Vec<&str> = rows.iter().map(|row| row.timestamp).collect();
        let sources: Vec<&str> = rows.iter().map(|row| row.source).collect();
        let payloads: Vec<&str> = rows.iter().map(|row| row.payload).collect();
        Ok(self.connection.execute(&self.insert, &[&topics, &ids, &timestamps, &sources, &payloads])?)
    }
}

/// Copies each batch into a table of its own connection, and inserts from there.
struct Copy {
    connection: Connection,
    insert: Statement,
}

impl Client for Copy {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        let mut transaction = self.connection.transaction()?;
        let mut writer =
            BinaryCopyInWriter::new(transaction.copy_in(COPY_TO_STAGING)?, &[const { Type::TEXT }; 5]);
        for Row { topic, event_id, timestamp, source, payload } in sorted(events) {
            writer.write(&[&topic, &event_id, &timestamp, &source, &payload])?;
        }
        writer.finish()?;
        let stored = transaction.execute(&self.insert, &[])?;
        transaction.commit()?;
        Ok(stored)
    }
}

/// Two batches that insert the same ids in different orders could deadlock.
fn sorted(events: &Events) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = events.rows().collect();
    rows.sort_unstable_by_key(|row| (row.topic, row.event_id));
    rows
}
