//! Signals for the processes of tests.

use std::process::{Child, Command};

/// Sends `-TERM`, `-INT` or the like. With the shell's own `kill`: a machine need not have it as a program.
pub(crate) fn send(signal: &str, child: &Child) {
    let sent =
        Command::new("sh").args(["-c", "kill \"$0\" \"$1\"", signal, &child.id().to_string()]).status();
    assert!(sent.unwrap().success(), "{signal} was not sent");
}
