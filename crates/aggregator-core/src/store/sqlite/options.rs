//! How a store is opened.

use std::sync::Arc;
use std::time::Duration;

use super::index::IndexOptions;
use super::test_hooks::Hooks;
use crate::store::DEFAULT_MAX_TOPICS;
use crate::time::{Clock, system_clock};

/// How to open a [`SqliteStore`](super::SqliteStore). The defaults are good.
#[derive(Clone)]
pub struct SqliteOptions {
    /// The most topics the store takes.
    pub max_topics: u64,
    /// The most reads at a time; each has a connection of its own.
    pub readers: u32,
    /// How long a read waits for its turn.
    pub read_wait: Duration,
    /// Memory for the writer's page cache, in bytes.
    pub cache_bytes: u32,
    /// Memory for the newest events, in bytes: a repeat of one of them is told without a look at the file.
    pub recent_events_bytes: u32,
    /// The write-ahead log is copied back into the file each time it has grown by this many bytes.
    pub checkpoint_bytes: u32,
    /// Opens a store whose log is lost with what its file holds. Events that were acknowledged are missing then; if
    /// publishers send them again they are new.
    pub accept_lost_log: bool,
    /// Opens a store that was not closed and is a copy: of the file and of its log, made by a program that copies one after
    /// the other. If something wrote meanwhile, events that were acknowledged may be missing.
    pub accept_copied_files: bool,
    /// Opens a store on a file system that may lose what is acknowledged: on a network, or an overlay that is mounted
    /// `volatile`. That is one of its warnings then, and otherwise an error.
    pub allow_unsafe_file_system: bool,
    /// Keeps room on the disk for purges, so that a store on a full disk can make room for itself: a file beside it takes four
    /// times [`Self::checkpoint_bytes`], which are at most a 64th of the disk then. While that room is in use, appends are
    /// [`StoreError::NoSpace`](crate::StoreError::NoSpace) unless the file has as many bytes in free pages.
    pub keep_room_for_purges: bool,
    /// How the dedup index is laid out.
    pub index: IndexOptions,
    /// About how many spans of offsets may wait in the journal and in memory until they are written into their topics' order.
    /// Each takes 16 to 64 bytes, and a start reads them. Fewer of them, 32 a topic and 8,192 at least, wait where there
    /// are few topics. With 0, each commit writes them at once, which is slow where it has events of many topics.
    pub max_unfolded: u32,
    /// Where `processed_at` comes from.
    pub clock: Clock,
    /// Is told what an operator should know and no caller is: that the log cannot be copied, for example. It runs on the
    /// thread that appends, and must not wait.
    pub on_warning: OnWarning,
    /// Is told how far opening has come, if events have to be put into the dedup index: before the first one, and then after
    /// as many as its memory takes at a time ([`IndexOptions::memtable`]). It runs on the thread that opens the store.
    pub on_progress: OnProgress,
    /// What a test puts below the store: see `TestHooks`. Nothing without the feature `test-util`.
    pub test_hooks: Hooks,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self {
            max_topics: DEFAULT_MAX_TOPICS,
            readers: 4,
            read_wait: Duration::from_secs(5),
            cache_bytes: 64 << 20,
            recent_events_bytes: 32 << 20,
            checkpoint_bytes: 8 << 20,
            accept_lost_log: false,
            accept_copied_files: false,
            allow_unsafe_file_system: false,
            keep_room_for_purges: false,
            index: IndexOptions::default(),
            max_unfolded: 1 << 21,
            clock: system_clock(),
            on_warning: Arc::new(|_| {}),
            on_progress: Arc::new(|_| {}),
            test_hooks: Hooks::default(),
        }
    }
}

/// See [`SqliteOptions::on_warning`].
pub type OnWarning = Arc<dyn Fn(&str) + Send + Sync>;

/// How far the opening of a store has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenProgress {
    /// Events that are in the dedup index.
    pub indexed: u64,
    /// All events that have to be there.
    pub events: u64,
}

/// See [`SqliteOptions::on_progress`].
pub type OnProgress = Arc<dyn Fn(OpenProgress) + Send + Sync>;
