//! What shuttle lacks: time, and channels that drop what nobody will receive.

use std::cell::Cell;
use std::ops::Add;
use std::time::Duration;

std::thread_local! {
    /// Shuttle's threads are tasks of one real one.
    static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// An instant of a clock that goes on when somebody has waited in vain, and at no other time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Instant(Duration);

impl Instant {
    pub(crate) fn now() -> Self {
        Self(NOW.get())
    }

    pub(crate) fn saturating_duration_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0 + duration)
    }
}

pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use shuttle::thread::{Builder, JoinHandle, yield_now};

    use super::NOW;

    pub(crate) fn sleep(duration: Duration) {
        yield_now();
        NOW.set(NOW.get() + duration);
    }
}

pub(crate) mod mpsc {
    use std::time::Duration;

    use shuttle::sync::mpsc;
    pub(crate) use shuttle::sync::mpsc::{RecvError, RecvTimeoutError, Sender, TryRecvError};

    use super::thread;

    pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
        let (sender, receiver) = mpsc::channel();
        (sender, Receiver(receiver))
    }

    pub(crate) struct Receiver<T>(mpsc::Receiver<T>);

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, RecvError> {
            self.0.recv()
        }

        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            self.0.try_recv()
        }

        /// How much the others do before it is over is the schedule's choice.
        pub(crate) fn recv_timeout(&self, timeout: Duration) -> Result<T, RecvTimeoutError> {
            thread::yield_now();
            self.0.try_recv().map_err(|error| match error {
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
                TryRecvError::Empty => {
                    thread::sleep(timeout);
                    RecvTimeoutError::Timeout
                }
            })
        }
    }

    impl<T> Drop for Receiver<T> {
        /// The standard library's receiver drops what was sent to it, shuttle's does not.
        fn drop(&mut self) {
            while !std::thread::panicking() && self.0.try_recv().is_ok() {}
        }
    }
}
