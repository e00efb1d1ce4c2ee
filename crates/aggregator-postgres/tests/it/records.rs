//! Records while connections, servers and nodes fail, and while several nodes write.

mod killed;
mod lost_answers;
mod migration;
mod races;

use aggregator_core::DedupStore;
use aggregator_core::store::{Record, RecordOutcome, RecordWrite, Records};
use aggregator_postgres::PostgresStore;

const KIND: &str = "lease";

fn records(store: &PostgresStore) -> &dyn Records {
    store.records().expect("the tables of records are there")
}

fn create(name: &str, value: &str) -> RecordWrite {
    RecordWrite::create(KIND, name, value)
}

fn written(store: &PostgresStore, writes: &[RecordWrite]) -> Vec<u64> {
    match records(store).write(writes).unwrap() {
        RecordOutcome::Written(versions) => versions,
        stale @ RecordOutcome::Stale(_) => panic!("{stale:?}"),
    }
}

fn get(store: &PostgresStore, name: &str) -> Option<Record> {
    records(store).get(KIND, name).unwrap()
}

fn number(record: &Record) -> u32 {
    std::str::from_utf8(&record.value).unwrap().parse().unwrap()
}

fn raise(record: &Record) -> RecordWrite {
    RecordWrite::update(record, (number(record) + 1).to_string())
}
