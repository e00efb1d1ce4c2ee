//! `backup`: copies a store to a file, through the server that has it open, or by itself where none has.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use aggregator_core::{DedupStoreExt as _, StoreError};
use serde_json::json;

use super::progress::ProgressLine;
use super::socket::{Socket, SocketError};
use crate::backup::Line;
use crate::config::{Config, StoreLocation};
use crate::open_store;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct BackupOptions {
    /// The file to write, which must not exist; it has its name only once the copy is complete and sound. Of a store of
    /// several files, a directory with as many
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
}

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The server has refused it, or does not answer.
    #[error(transparent)]
    Server(SocketError),
    /// The server has not made it.
    #[error("{0}")]
    Failed(String),
    /// There is no current directory for a relative name.
    #[error("--out {out}")]
    Out {
        /// What was given.
        out: PathBuf,
        /// What happened.
        source: std::io::Error,
    },
    /// Only a file is copied.
    #[error(
        "--store {0} is not a file: copy a database of PostgreSQL with its own programs (pg_dump, pg_basebackup), and \
         keep what is in memory with export"
    )]
    NoFile(StoreLocation),
    /// The store cannot be copied.
    #[error(
        "--store {store}: {source}{}",
        socket.as_ref().map(|path| format!(
            " (no server answers at its admin socket {}: a server that has the store open has to have one)",
            path.display()
        )).unwrap_or_default()
    )]
    Store {
        /// Which one.
        store: StoreLocation,
        /// Its error.
        source: StoreError,
        /// Where a server was looked for.
        socket: Option<PathBuf>,
    },
}

/// Copies the store, and tells how far it is.
///
/// # Errors
/// See [`BackupError`].
pub fn run(config: &Config, options: &BackupOptions) -> Result<(), BackupError> {
    if config.store.files().is_empty() {
        return Err(BackupError::NoFile(config.store.clone()));
    }
    let path = std::path::absolute(&options.out)
        .map_err(|source| BackupError::Out { out: options.out.clone(), source })?;
    let mut progress = Shown { line: ProgressLine::new(), bytes: 0 };
    let socket = config.admin_socket.path(&config.store);
    let server = socket.as_deref().map(Socket::open).transpose().map_err(BackupError::Server)?;
    match server.flatten() {
        Some(server) => through(&server, &path, &mut progress)?,
        None => {
            let failed = |source, socket| BackupError::Store { store: config.store.clone(), source, socket };
            let store = open_store::open_existing(config).map_err(|source| failed(source, socket))?;
            let copied = store.backup_with_progress(&path, &mut |told| {
                progress.show(&told.into());
                ControlFlow::Continue(())
            });
            copied.map_err(|source| failed(source, None))?;
        }
    }
    let Shown { line, bytes } = progress;
    line.done(&format!("backup: {:.1} MiB copied to {} and found sound", mib(bytes), path.display()));
    Ok(())
}

fn through(server: &Socket, path: &Path, progress: &mut Shown) -> Result<(), BackupError> {
    let Some(path) = path.to_str() else {
        return Err(BackupError::Failed(format!("--out {} is not UTF-8", path.display())));
    };
    let done = server.ask_lines("/admin/backup", json!({ "path": path }).to_string(), |line: Line| {
        progress.show(&line);
        match line {
            Line::Copying { .. } | Line::Checking => None,
            Line::Done { .. } => Some(Ok(())),
            Line::Failed { detail } => Some(Err(BackupError::Failed(detail))),
        }
    });
    done.map_err(BackupError::Server)?
}

/// What the user sees.
pub(super) struct Shown {
    pub(super) line: ProgressLine,
    /// How many bytes the copy has.
    pub(super) bytes: u64,
}

impl Shown {
    pub(super) fn show(&mut self, line: &Line) {
        match *line {
            Line::Copying { bytes, total } => {
                self.bytes = total;
                self.line.tell(|_| copying(bytes, total));
            }
            Line::Checking => {
                let bytes = self.bytes;
                self.line.tell(|_| format!("checking the copy: {:.1} MiB", mib(bytes)));
            }
            Line::Done { .. } | Line::Failed { .. } => {}
        }
    }
}

fn copying(bytes: u64, total: u64) -> String {
    let percent = (u128::from(bytes) * 100).checked_div(u128::from(total)).unwrap_or(100);
    format!("copying: {:.1} MiB of {:.1} MiB, {percent} %", mib(bytes), mib(total))
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_copied_is_told_with_its_share() {
        assert_eq!(copying(1 << 20, 4 << 20), "copying: 1.0 MiB of 4.0 MiB, 25 %");
        assert_eq!(copying(0, 0), "copying: 0.0 MiB of 0.0 MiB, 100 %");
    }
}
