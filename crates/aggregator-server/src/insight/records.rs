//! Keeps what a node has counted in records of the store, so that a restart goes on counting, and all nodes of a store know
//! the sum.
//!
//! A node has a name of its own. The names of its records begin with it. It writes what has changed, about every ten seconds.
//! When a node starts it takes over the records of nodes that have ended, in one write: so what was counted is there once.
//!
//! ```text
//! insight  01J…/head              JSON: Head
//!          01J…/streams/0         lines of JSON: Stream
//!          01J…/most-repeated/0   lines of JSON: Repeated
//!          01J…/latest/0          lines of JSON: Repeat
//!          01J…/minute/493210     lines of JSON: the number of a minute since 1970, and its Sample; 60 minutes
//!          01J…/hour/20550        lines of JSON: the same for 24 hours
//! ```

use std::collections::{BTreeMap, HashMap};

use aggregator_core::store::{MAX_RECORDS_PER_CALL, Record, RecordOutcome, RecordWrite, Records};
use aggregator_core::{StoreError, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;
use ulid::Ulid;

use super::Observed;
use super::series::{Sample, Step};
use super::snapshot::{Head, Snapshot};

/// The kind of these records.
const KIND: &str = "insight";

/// Of the records that this program writes. It does not read others.
const FORMAT: u32 = 1;

/// A record is full when it has so many bytes. With a line more, it is not too large for the store.
const FULL_BYTES: usize = 48 << 10;

/// A line that is longer is left out. None is, with names of usual lengths.
const MAX_LINE_BYTES: usize = 14 << 10;

/// What does not fit into so many records of one part is left out.
const MAX_RECORDS_PER_PART: usize = 100;

/// The newest repeats are large, and their loss hurts nobody.
const MAX_RECORDS_OF_LATEST: usize = 4;

/// Where several nodes use a store, one that has not written for so long has ended.
const DEAD_AFTER_MICROS: i64 = 300 * 1_000_000;

/// The most nodes that are taken over in one write: it may have 1,000 records.
const MAX_TAKEN_OVER: usize = 6;

/// The most nodes that are added up.
const MAX_NODES: usize = 64;

/// Writes the records of this node.
#[derive(Debug)]
pub(super) struct Keeper {
    node: String,
    /// What it has written: the version and the value, by name.
    written: HashMap<String, (u64, Vec<u8>)>,
}

/// What became of a write.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Kept {
    Yes,
    /// Another node has taken over what this one had written.
    TakenOver,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self { node: Ulid::generate().to_string(), written: HashMap::new() }
    }

    /// Takes over the records of ended nodes. Returns what they have counted, if there were any.
    pub(super) fn begin(
        records: &dyn Records,
        shared: bool,
        capacity: usize,
    ) -> Result<(Self, Option<Snapshot>), StoreError> {
        let now = records.now()?.as_micros();
        let is_dead = |head: &Head| !shared || head.ended || head.written_at < now - DEAD_AFTER_MICROS;
        let dead = read_all(records)?.into_iter().filter(|node| is_dead(&node.snapshot.head));
        let mut sum = Observed::new(capacity, Timestamp::now());
        let mut deletions = Vec::new();
        for node in dead.take(MAX_TAKEN_OVER) {
            sum.add(&node.snapshot, !node.snapshot.head.ended);
            deletions.extend(node.records.iter().map(RecordWrite::delete));
        }
        let mut keeper = Self::new();
        if deletions.is_empty() {
            return Ok((keeper, None));
        }
        let mut snapshot = sum.snapshot();
        snapshot.head.written_at = if shared { now } else { 0 };
        match keeper.write(records, &snapshot, deletions)? {
            Kept::Yes => Ok((keeper, Some(snapshot))),
            // Another node that starts was faster.
            Kept::TakenOver => Ok((Self::new(), None)),
        }
    }

    /// Writes what has changed. `ended` says that nothing more comes.
    pub(super) fn keep(
        &mut self,
        records: &dyn Records,
        shared: bool,
        mut snapshot: Snapshot,
        ended: bool,
    ) -> Result<Kept, StoreError> {
        snapshot.head.written_at = if shared { records.now()?.as_micros() } else { 0 };
        snapshot.head.ended = ended;
        self.write(records, &snapshot, Vec::new())
    }

    fn write(
        &mut self,
        records: &dyn Records,
        snapshot: &Snapshot,
        mut writes: Vec<RecordWrite>,
    ) -> Result<Kept, StoreError> {
        let deletions = writes.len();
        let mut values = encode(snapshot);
        let gone: Vec<_> = self.written.extract_if(|name, _| !values.contains_key(name)).collect();
        values.retain(|name, value| self.written.get(name).is_none_or(|(_, known)| known != value));
        for (name, value) in &values {
            let mut write = RecordWrite::create(KIND, self.name(name), value.as_slice());
            write.expected_version = self.written.get(name).map(|(version, _)| *version);
            writes.push(write);
        }
        for (name, (version, _)) in gone {
            writes.push(RecordWrite::delete(&Record::new(KIND, self.name(&name), version, [])));
        }
        if writes.is_empty() {
            return Ok(Kept::Yes);
        }
        match records.write(&writes)? {
            RecordOutcome::Stale(_) => Ok(Kept::TakenOver),
            RecordOutcome::Written(versions) => {
                let versions = versions.into_iter().skip(deletions);
                let written = values.into_iter().zip(versions);
                self.written.extend(written.map(|((name, value), version)| (name, (version, value))));
                Ok(Kept::Yes)
            }
        }
    }

    /// What the other nodes have counted.
    pub(super) fn others(node: &str, records: &dyn Records) -> Result<Vec<Snapshot>, StoreError> {
        let others = read_all(records)?.into_iter().filter(|other| other.name != node);
        Ok(others.map(|other| other.snapshot).collect())
    }

    pub(super) fn node(&self) -> &str {
        &self.node
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.node)
    }
}

/// A node as its records say it.
struct Node {
    name: String,
    records: Vec<Record>,
    snapshot: Snapshot,
}

fn read_all(records: &dyn Records) -> Result<Vec<Node>, StoreError> {
    let mut nodes: Vec<Node> = Vec::new();
    let mut after: Option<String> = None;
    'pages: loop {
        let found = records.list(KIND, "", after.as_deref(), MAX_RECORDS_PER_CALL)?;
        let Some(last) = found.last() else { break };
        after = Some(last.name.clone());
        for record in found {
            let Some((node, _)) = record.name.split_once('/') else { continue };
            if nodes.last().is_none_or(|last| last.name != node) {
                if nodes.len() == MAX_NODES {
                    warn!(nodes = MAX_NODES, "there are more nodes than insight adds up");
                    break 'pages;
                }
                nodes.push(Node {
                    name: node.to_owned(),
                    records: Vec::new(),
                    snapshot: Snapshot::default(),
                });
            }
            nodes.last_mut().expect("there is one").records.push(record);
        }
    }
    for node in &mut nodes {
        node.snapshot = decode(&node.records);
    }
    // Those of another version of this program stay as they are.
    nodes.retain(|node| node.snapshot.head.format == FORMAT);
    Ok(nodes)
}

fn encode(snapshot: &Snapshot) -> BTreeMap<String, Vec<u8>> {
    let mut values = BTreeMap::new();
    let head = Head { format: FORMAT, ..snapshot.head.clone() };
    values.insert("head".to_owned(), serde_json::to_vec(&head).unwrap_or_default());
    let mut part = |name: &str, lines: Vec<Vec<u8>>, most: usize| {
        for (n, value) in lines.into_iter().take(most).enumerate() {
            values.insert(format!("{name}/{n}"), value);
        }
    };
    part("streams", full_records(&snapshot.streams), MAX_RECORDS_PER_PART);
    part("most-repeated", full_records(&snapshot.most_repeated), MAX_RECORDS_PER_PART);
    // Once there are too many, the newest stay.
    let mut latest = full_records(snapshot.latest.iter().rev());
    latest.truncate(MAX_RECORDS_OF_LATEST);
    part("latest", latest, MAX_RECORDS_OF_LATEST);
    for (step, in_record) in [(Step::Minute, 60), (Step::Hour, 24)] {
        let mut records: BTreeMap<i64, Vec<(i64, &Sample)>> = BTreeMap::new();
        for (bucket, sample) in snapshot.series.buckets(step) {
            records.entry(bucket.div_euclid(in_record)).or_default().push((*bucket, sample));
        }
        for (n, buckets) in records {
            let value = full_records(&buckets).into_iter().next().unwrap_or_default();
            values.insert(format!("{}/{n}", step.name()), value);
        }
    }
    values
}

fn decode(records: &[Record]) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for record in records {
        let (_, name) = record.name.split_once('/').unwrap_or_default();
        let value = &record.value;
        match name.split('/').next().unwrap_or_default() {
            "head" => snapshot.head = serde_json::from_slice(value).unwrap_or_default(),
            "streams" => snapshot.streams.extend(lines(value)),
            "most-repeated" => snapshot.most_repeated.extend(lines(value)),
            "latest" => snapshot.latest.extend(lines(value)),
            step => {
                let Some(step) = Step::ALL.into_iter().find(|known| known.name() == step) else { continue };
                for (bucket, sample) in lines::<(i64, Sample)>(value) {
                    snapshot.series.add(step, bucket, &sample);
                }
            }
        }
    }
    snapshot.latest.sort_by_key(|repeat| repeat.at);
    snapshot
}

/// Lines of JSON, in as many records as they need.
fn full_records<T: Serialize>(items: impl IntoIterator<Item = T>) -> Vec<Vec<u8>> {
    let mut records: Vec<Vec<u8>> = Vec::new();
    for item in items {
        let Ok(mut line) = serde_json::to_vec(&item) else { continue };
        line.push(b'\n');
        match records.last_mut() {
            _ if line.len() > MAX_LINE_BYTES => {}
            Some(record) if record.len() < FULL_BYTES => record.append(&mut line),
            _ => records.push(line),
        }
    }
    records
}

/// The lines of a record. One that cannot be read costs itself.
fn lines<T: DeserializeOwned>(value: &[u8]) -> impl Iterator<Item = T> {
    value.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok())
}
