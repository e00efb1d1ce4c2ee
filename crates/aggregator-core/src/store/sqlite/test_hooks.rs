//! What a test can put below a store.
//!
//! The options always have the field for it, so that the feature `test-util` adds to them and changes nothing. Without
//! the feature the field holds nothing, and nothing can be put into it.

#[cfg(feature = "test-util")]
use std::path::Path;
#[cfg(feature = "test-util")]
use std::sync::Arc;

/// Hooks for tests. The default has none; with the feature `test-util`, `TestHooks` become some.
#[derive(Clone, Default)]
pub struct Hooks(#[cfg(feature = "test-util")] pub(crate) TestHooks);

#[cfg(feature = "test-util")]
impl From<TestHooks> for Hooks {
    fn from(hooks: TestHooks) -> Self {
        Self(hooks)
    }
}

/// What a test can put below a store. Write it with `..TestHooks::default()`, and put it into
/// [`SqliteOptions::test_hooks`](super::SqliteOptions::test_hooks) with `into()`.
#[cfg(feature = "test-util")]
#[derive(Clone, Default)]
pub struct TestHooks {
    /// The registered VFS that all connections use instead of the system's. There is another one of this name with
    /// `-excl` behind it, as `unix` has `unix-excl`.
    pub vfs: Option<String>,
    /// Breaks durability: commits are not synced. For the proof that a test of durability notices.
    pub synchronous_normal: bool,
    /// Appends wait for what is done beside them (the dedup index, checkpoints), so that a seed brings back the same writes.
    pub in_step: bool,
    /// How many bits the fingerprints of the dedup index have; 48 if it is 0. With a few, they collide.
    pub fingerprint_bits: u32,
    /// A failed opening leaves behind what it made, as one does whose process died.
    pub dies_when_opening_fails: bool,
    /// Told of each file that was synced past SQLite, and so past its VFS.
    pub on_sync: Option<OnSync>,
    /// Called by every reader each time that SQLite has done some 200 further steps for it: to count the work of a
    /// read, or to make it slow. Finding one row takes some ten steps.
    pub on_read_steps: Option<OnReadSteps>,
    /// Told what the threads beside the writer are about to do, on the thread that does it: whoever does not return
    /// holds it there.
    pub on_helper: Option<OnHelper>,
}

/// See [`TestHooks::on_sync`].
#[cfg(feature = "test-util")]
pub type OnSync = Arc<dyn Fn(&Path) + Send + Sync>;

/// See [`TestHooks::on_read_steps`].
#[cfg(feature = "test-util")]
pub type OnReadSteps = Arc<dyn Fn() + Send + Sync>;

/// See [`TestHooks::on_helper`].
#[cfg(feature = "test-util")]
pub type OnHelper = Arc<dyn Fn(HelperStep<'_>) + Send + Sync>;

/// What is about to be done by a thread beside the writer, or for want of it. They are called `dedup-index` and
/// `checkpoint`.
#[cfg(feature = "test-util")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HelperStep<'a> {
    /// The thread of this name begins a task.
    Begin(&'a str),
    /// The writer waits for the thread of this name, and nothing is appended meanwhile.
    Wait(&'a str),
}
