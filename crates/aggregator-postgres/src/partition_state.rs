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
    /// The states of these partitions, which rise. Fails if the server may not be written to now.
    pub(crate) fn all(partitions: &[i32], rows: &[Row], options: &PostgresOptions) -> Result<Vec<Self>> {
        let mut rows = rows.iter();
        let tails = partitions.iter().map(|&partition| {
            let row = rows.next().ok_or_else(|| absent(partition))?;
            if get::<i32>(row, 0)? != partition {
                return Err(absent(partition));
            }
            Self::new(row, options)
        });
        tails.collect()
    }

    /// The state of one partition.
    pub(crate) fn one(partition: i32, rows: &[Row], options: &PostgresOptions) -> Result<Self> {
        Self::all(&[partition], rows, options)?.pop().ok_or_else(|| absent(partition))
    }

    fn new(row: &Row, options: &PostgresOptions) -> Result<Self> {
        // Asked for each append: it may be another server by now, or other settings.
        if options.require_sync_standby && get::<&str>(row, 5)?.is_empty() {
            return Err(unavailable("the server asks for no synchronous standby any more").into());
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
