//! A thread that works beside the writer, over a connection of its own.

use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

/// Tells a test what helpers do; nobody else is told anything.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    #[cfg(feature = "test-util")]
    pub(crate) on_step: Option<super::OnHelper>,
}

impl Watch {
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

/// Does tasks one after the other. Its connection is closed when it is dropped.
pub(crate) struct Helper<T, R> {
    name: &'static str,
    watch: Watch,
    tasks: Option<Sender<T>>,
    results: Receiver<R>,
    thread: Option<JoinHandle<()>>,
}

/// Why there is no result.
pub(crate) enum NoResult {
    NotYet,
    /// The thread panicked.
    Gone,
}

impl<T: Send + 'static, R: Send + 'static> Helper<T, R> {
    /// A thread of this name that makes results of tasks with `work`.
    pub(crate) fn start(
        name: &'static str,
        connection: Connection,
        watch: Watch,
        work: impl Fn(&Connection, T) -> R + Send + 'static,
    ) -> std::io::Result<Self> {
        let (tasks, queue) = channel();
        let (done, results) = channel();
        let watched = watch.clone();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
            for task in queue {
                watched.begin(name);
                if done.send(work(&connection, task)).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { name, watch, tasks: Some(tasks), results, thread: Some(thread) })
    }

    /// Hands a task over; if the thread is gone, [`Self::take`] says so.
    pub(crate) fn send(&self, task: T) {
        if let Some(tasks) = &self.tasks {
            let _ = tasks.send(task);
        }
    }

    /// What the task handed over first of those not yet taken came to.
    pub(crate) fn take(&self, wait: bool) -> Result<R, NoResult> {
        if wait {
            self.watch.wait(self.name);
            return self.results.recv().map_err(|_| NoResult::Gone);
        }
        self.results.try_recv().map_err(|error| match error {
            TryRecvError::Empty => NoResult::NotYet,
            TryRecvError::Disconnected => NoResult::Gone,
        })
    }
}

impl<T, R> Drop for Helper<T, R> {
    fn drop(&mut self) {
        self.tasks = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked, the writer was told, or has nothing left to tell.
            let _ = thread.join();
        }
    }
}
