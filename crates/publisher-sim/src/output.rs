//! Standard error and standard output. If nobody reads them, a run neither stops nor panics.

use std::io::{self, ErrorKind, Write as _};

/// Writes a line to standard error, if that is possible.
pub fn tell(line: &str) {
    #[expect(clippy::disallowed_methods, reason = "this is the one way to it")]
    let mut stderr = io::stderr();
    let _ = writeln!(stderr, "{line}");
}

/// Writes a result to standard output. It is no error if the reader has closed it: then the reader has enough.
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
