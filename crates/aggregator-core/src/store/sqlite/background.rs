//! A helper thread that works beside the writer, with a connection of its own.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Tells a test what helper threads do. Without a test it tells nobody.
#[derive(Clone, Default)]
pub(crate) struct HelperObserver {
    #[cfg(feature = "test-util")]
    pub(crate) on_step: Option<super::OnHelper>,
}

impl HelperObserver {
    fn begin(&self, _name: &str) {
        #[cfg(feature = "test-util")]
        if let Some(on_step) = &self.on_step {
            on_step(super::HelperStep::Begin(_name));
        }
    }

    fn wait(&self, _name: &str) {
        #[cfg(feature = "test-util")]
        if let Some(on_step) = &self.on_step {
            on_step(super::HelperStep::Wait(_name));
        }
    }
}

/// A thread that does tasks one after the other. Dropping the helper ends the thread and closes its connection.
pub(crate) struct Helper<T, R> {
    name: &'static str,
    observer: HelperObserver,
    tasks: Option<Sender<T>>,
    results: Receiver<R>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no result.
pub(crate) enum NoResult {
    NotYet,
    /// The thread panicked.
    ThreadPanicked,
}

impl<T: Send + 'static, R: Send + 'static> Helper<T, R> {
    /// Starts a thread of this name, which calls `work` for each task.
    pub(crate) fn start(
        name: &'static str,
        connection: Connection,
        observer: HelperObserver,
        work: impl Fn(&Connection, T) -> R + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = channel();
        let (done, results) = channel();
        let watched = observer.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            for task in queue {
                watched.begin(name);
                if done.send(work(&connection, task)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { name, observer, tasks: Some(tasks), results, thread: Some(thread) })
    }

    /// Hands over a task. If the thread has panicked, [`Self::take`] says so.
    pub(crate) fn send(&self, task: T) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }

    /// The result of the oldest task whose result was not taken yet.
    pub(crate) fn take(&self, wait: bool) -> Result<R, NoResult> {
        if wait {
            self.observer.wait(self.name);
            return self.results.recv().map_err(|_| NoResult::ThreadPanicked);
        }
        self.results.try_recv().map_err(|error| match error {
            TryRecvError::Empty => NoResult::NotYet,
            TryRecvError::Disconnected => NoResult::ThreadPanicked,
        })
    }
}

impl<T, R> Drop for Helper<T, R> {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // If the thread panicked, the writer has learned it, or needs no more results.
            let _ = thread.join();
        }
    }
}
