//! Standard error and standard output. Nobody may be reading there, which is no reason to stop a run or to panic.

use std::io::{self, ErrorKind, Write as _};

/// Says a line on standard error, if it can be said there.
pub fn tell(line: &str) {
    #[expect(clippy::disallowed_methods, reason = "this is the one way to it")]
    let mut stderr = io::stderr();
    let _ = writeln!(stderr, "{line}");
}

/// Writes a result to standard output. It is no error if nobody reads it any more: they have enough.
///
/// # Errors
/// Whatever else keeps it from being written.
pub fn print(text: &str) -> io::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "this is the one way to it")]
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}
