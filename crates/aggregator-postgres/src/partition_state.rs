//! Reads the state of partitions from the statement that locks them.

use aggregator_core::Timestamp;
use tokio_postgres::Row;

use crate::PostgresOptions;
use crate::columns::{get, get_u64};
use crate::fault::{Failure, Result, unavailable};

/// The state of a locked partition, and the time when it was locked.
pub(crate) struct PartitionState {
    pub(crate) last_offset: u64,
    pub(crate) newest: Timestamp,
    pub(crate) topic_count: u64,
    pub(crate) clock: Timestamp,
}

impl PartitionState {
    /// The states of these partitions, which are in ascending order. Fails if the server that
    /// has one can lose acknowledged events, or if a synchronous standby is required but not configured there.
    pub(crate) fn all(partitions: &[i32], rows: &[Row], options: &PostgresOptions) -> Result<Vec<Self>> {
        let mut rows = rows.iter();
        let states = partitions.iter().map(|&partition| {
            let row = rows.next().ok_or_else(|| absent(partition))?;
            if get::<i32>(row, 0)? != partition {
                return Err(absent(partition));
            }
            Self::new(row, options)
        });
        states.collect()
    }

    /// The state of one partition.
    pub(crate) fn one(partition: i32, rows: &[Row], options: &PostgresOptions) -> Result<Self> {
        Self::all(&[partition], rows, options)?.pop().ok_or_else(|| absent(partition))
    }

    fn new(row: &Row, options: &PostgresOptions) -> Result<Self> {
        // Checked at each append: the server or its settings may have changed, and an engine with shards has the partition
        // on a server that no session was made to.
        let off = get::<&str>(row, 6)?;
        if !off.is_empty() {
            let partition: i32 = get(row, 0)?;
            return Err(unavailable(format!(
                "{off} is off on the server that has partition {partition}, so it can lose acknowledged events: turn it on"
            ))
            .into());
        }
        if options.require_sync_standby && get::<&str>(row, 5)?.is_empty() {
            return Err(unavailable("the server has no synchronous standby configured any more").into());
        }
        Ok(Self {
            last_offset: get_u64(row, 1)?,
            newest: Timestamp::from_micros(get(row, 2)?),
            topic_count: get_u64(row, 3)?,
            clock: match &options.clock {
                Some(clock) => clock(),
                None => Timestamp::from_micros(get(row, 4)?),
            },
        })
    }
}

fn absent(partition: i32) -> Failure {
    Failure::corrupt(format!("partition {partition} has no row"))
}
