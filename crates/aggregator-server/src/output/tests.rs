//! With streams that fail, wait and end where a test wants it.

use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// Gives each write to the test, which says what becomes of it.
struct Scripted {
    writes: Sender<Vec<u8>>,
    results: Receiver<io::Result<usize>>,
}

impl Write for Scripted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.send(bytes.to_vec()).unwrap();
        self.results.recv().unwrap()
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The other side of it.
struct Stream {
    writes: Receiver<Vec<u8>>,
    results: Sender<io::Result<usize>>,
}

impl Stream {
    /// A queue that takes so many bytes, and where they go.
    fn of(limit_bytes: usize) -> (LineQueue, Self) {
        let ((tell, writes), (results, take)) = (channel(), channel());
        let queue = LineQueue::new("test", Scripted { writes: tell, results: take });
        queue.configure(limit_bytes, |lines| format!("lost {lines}"));
        (queue, Self { writes, results })
    }

    /// What is written now.
    fn next(&self) -> String {
        String::from_utf8(self.writes.recv_timeout(Duration::from_secs(60)).unwrap()).unwrap()
    }

    fn take(&self, expected: &str) {
        assert_eq!(self.next(), expected);
        self.results.send(Ok(expected.len())).unwrap();
    }

    fn refuse(&self, expected: &str) {
        assert_eq!(self.next(), expected);
        self.results.send(Err(ErrorKind::StorageFull.into())).unwrap();
    }
}

#[test]
fn what_finds_the_queue_full_is_counted_and_told_in_its_place() {
    let (queue, stream) = Stream::of(6);
    queue.line("a");
    assert_eq!(stream.next(), "a\n");
    // What is being written counts, too: there is room for two more.
    for line in ["b", "c", "d", "e", "f"] {
        queue.line(line);
    }
    stream.results.send(Ok(2)).unwrap();
    stream.take("b\n");
    assert_eq!(stream.next(), "c\n");
    queue.line("g");
    stream.results.send(Ok(2)).unwrap();
    stream.take("lost 3\n");
    stream.take("g\n");
    queue.line("longer than the queue");
    stream.take("lost 1\n");
}

#[test]
fn what_cannot_be_written_is_counted_and_told_before_what_can() {
    let (queue, stream) = Stream::of(100);
    queue.line("a");
    stream.refuse("a\n");
    queue.line("b");
    stream.refuse("lost 1\n");
    stream.refuse("b\n");
    queue.line("c");
    stream.take("lost 2\n");
    stream.take("c\n");
    queue.line("d");
    stream.take("d\n");
}

#[test]
fn a_line_that_was_cut_off_does_not_run_into_the_next_one() {
    let (queue, stream) = Stream::of(100);
    queue.line("long");
    assert_eq!(stream.next(), "long\n");
    stream.results.send(Ok(2)).unwrap();
    stream.refuse("ng\n");
    queue.line("next");
    stream.refuse("\n");
    stream.take("\n");
    stream.take("next\n");
    queue.line("more");
    stream.take("lost 1\n");
    stream.take("more\n");
}

#[test]
fn a_stream_that_is_busy_or_interrupted_is_tried_again() {
    let (queue, stream) = Stream::of(100);
    queue.line("a");
    for kind in [ErrorKind::WouldBlock, ErrorKind::Interrupted] {
        assert_eq!(stream.next(), "a\n");
        stream.results.send(Err(kind.into())).unwrap();
    }
    stream.take("a\n");
}

#[test]
fn the_end_waits_for_the_last_line_but_not_for_ever() {
    let (queue, stream) = Stream::of(100);
    queue.flush(Duration::MAX);
    queue.line("a");
    queue.flush(Duration::from_millis(1));
    assert_eq!(stream.next(), "a\n");
    queue.flush(Duration::from_millis(1));
    stream.results.send(Ok(2)).unwrap();
    queue.flush(Duration::from_secs(3600));
    assert!(stream.writes.try_recv().is_err(), "there was nothing left to write");
}
