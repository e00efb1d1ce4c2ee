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
    /// An outlet that takes so many bytes, and where they go.
    fn of(limit_bytes: usize) -> (Outlet, Self) {
        let ((tell, writes), (results, take)) = (channel(), channel());
        let outlet = Outlet::new("test", Scripted { writes: tell, results: take });
        outlet.configure(limit_bytes, |lines| format!("lost {lines}"));
        (outlet, Self { writes, results })
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
    let (outlet, stream) = Stream::of(6);
    outlet.line("a");
    assert_eq!(stream.next(), "a\n");
    // What is being written counts, too: there is room for two more.
    for line in ["b", "c", "d", "e", "f"] {
        outlet.line(line);
    }
    stream.results.send(Ok(2)).unwrap();
    stream.take("b\n");
    assert_eq!(stream.next(), "c\n");
    outlet.line("g");
    stream.results.send(Ok(2)).unwrap();
    stream.take("lost 3\n");
    stream.take("g\n");
    outlet.line("longer than the queue");
    stream.take("lost 1\n");
}

#[test]
fn what_cannot_be_written_is_counted_and_told_before_what_can() {
    let (outlet, stream) = Stream::of(100);
    outlet.line("a");
    stream.refuse("a\n");
    outlet.line("b");
    stream.refuse("lost 1\n");
    stream.refuse("b\n");
    outlet.line("c");
    stream.take("lost 2\n");
    stream.take("c\n");
    outlet.line("d");
    stream.take("d\n");
}

#[test]
fn a_line_that_was_cut_off_does_not_run_into_the_next_one() {
    let (outlet, stream) = Stream::of(100);
    outlet.line("long");
    assert_eq!(stream.next(), "long\n");
    stream.results.send(Ok(2)).unwrap();
    stream.refuse("ng\n");
    outlet.line("next");
    stream.refuse("\n");
    stream.take("\n");
    stream.take("next\n");
    outlet.line("more");
    stream.take("lost 1\n");
    stream.take("more\n");
}

#[test]
fn a_stream_that_is_busy_or_interrupted_is_tried_again() {
    let (outlet, stream) = Stream::of(100);
    outlet.line("a");
    for kind in [ErrorKind::WouldBlock, ErrorKind::Interrupted] {
        assert_eq!(stream.next(), "a\n");
        stream.results.send(Err(kind.into())).unwrap();
    }
    stream.take("a\n");
}

#[test]
fn the_end_waits_for_the_last_line_but_not_for_ever() {
    let (outlet, stream) = Stream::of(100);
    outlet.flush(Duration::MAX);
    outlet.line("a");
    outlet.flush(Duration::from_millis(1));
    assert_eq!(stream.next(), "a\n");
    outlet.flush(Duration::from_millis(1));
    stream.results.send(Ok(2)).unwrap();
    outlet.flush(Duration::from_secs(3600));
    assert!(stream.writes.try_recv().is_err(), "there was nothing left to write");
}
