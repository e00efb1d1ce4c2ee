//! Event ingestion with an exactly-once effect, as a library.
//!
//! Publishers deliver *at least once*: the same event comes again and again. A [`DedupStore`] takes
//! batches of events, recognises every repeat of an [`Identity`] for ever, keeps each event once in
//! dense per-topic order and says in a [`Receipt`] what became of every item.
//!
#![cfg_attr(feature = "sqlite", doc = "```")]
#![cfg_attr(not(feature = "sqlite"), doc = "```ignore")]
//! use aggregator_core::{DedupStore, DedupStoreExt, Event, Outcome, Query, SqliteStore, Topic};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("events.db");
//! let store = SqliteStore::open(path)?;
//! let event = Event::new("orders.created", "order-1")?.with_payload(r#"{"total": 12.5}"#)?;
//!
//! let first = store.append_all(&[event.view()])?;
//! let again = store.append_all(&[event.view()])?;
//! assert_eq!((first[0].outcome, again[0].outcome), (Outcome::Stored, Outcome::Duplicate));
//!
//! let page = store.read(&Query::topic(Topic::new("orders.created")?))?;
//! assert_eq!(page.events[0].payload, r#"{"total":12.5}"#);
//! # Ok(())
//! # }
//! ```
//!
//! * [`event`]: what is published. Its types are checked once, when they are built, and trusted after.
//! * [`store`]: the contract every backend keeps, and the backends: `SqliteStore`, durable, in one file (feature
//!   `sqlite`, on by default), and [`MemoryStore`], volatile, the reference the others are held against.
//! * [`query`] and [`cursor`]: reading the clean stream.
//!
//! The crate knows nothing of HTTP or of async runtimes: every call blocks until it is done.

pub mod cursor;
mod deadline;
mod error;
pub mod event;
pub mod fail_point;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;
pub mod histogram;
pub mod query;
pub mod store;
mod time;
mod varint;

pub use cursor::Cursor;
pub use deadline::Deadline;
pub use error::{Fault, InvalidField, StoreError, WrongCursor};
pub use event::{
    Batch, BatchBuilder, CheckedRow, Event, EventId, EventRef, Identity, Kept, KeptEvent, LoneSurrogates,
    Partition, Partitions, Scope, Source, StoredRow, Topic, TopicSelector, Topics,
};
pub use query::{Cursors, Order, Page, Progress, Query, StoredEvent, TopicQuery};
pub use store::{
    Ancestor, AppendAcross, AttemptId, BackupProgress, CommitCallback, CommitListener, DedupStore,
    DedupStoreExt, Durability, Import, Imported, Maintain, MemoryStore, Outage, Outcome, Pages, Receipt,
    Record, RecordOutcome, RecordWrite, Records, RowLimit, Seen, Sharded, StoreGauges, StoreId, StoreInfo,
    StoreStats, Tail, Times, TopicInfo, Transfer, Upgraded, VerifyReport, Watch,
};
#[cfg(feature = "sqlite")]
pub use store::{SqliteOptions, SqliteStore};
pub use time::{Clock, Timestamp, system_clock};
