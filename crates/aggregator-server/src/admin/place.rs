//! Where a command does its work: in the server that has the store open, or in the store itself.

use std::path::PathBuf;
use std::sync::Arc;

use aggregator_core::{DedupStore, StoreError};

use super::socket::{Socket, SocketError};
use crate::config::{Config, StoreLocation};

/// As audit entries name this program, where it changes a store itself.
pub(super) const COMMAND: &str = "command";

/// Why there is no place to do it in, or why it fails there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// The server has refused it, or does not answer.
    #[error(transparent)]
    Server(SocketError),
    /// A store in memory is its server's alone.
    #[error(
        "a store in memory is within its server: start that with --admin-socket PATH, and name the same here"
    )]
    InMemory,
    /// The store cannot be opened, or cannot do it.
    #[error(
        "--store {store}: {source}{}",
        socket.as_ref().map(|path| format!(" (no server answers at its admin socket {})", path.display())).unwrap_or_default()
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

pub(super) enum Place {
    /// Behind a server that runs.
    Server(Socket),
    /// In a store that nobody has open, or that many may have.
    Store(Arc<dyn DedupStore>),
}

impl Place {
    /// The server that answers at the admin socket, or what `open` opens where none does.
    pub(super) fn find(
        config: &Config,
        open: impl FnOnce(&Config) -> Result<Arc<dyn DedupStore>, StoreError>,
    ) -> Result<Self, PlaceError> {
        let path = config.admin_socket.path(&config.store);
        if let Some(path) = &path
            && let Some(socket) = Socket::open(path).map_err(PlaceError::Server)?
        {
            return Ok(Self::Server(socket));
        }
        if matches!(config.store, StoreLocation::Memory(_)) {
            return Err(PlaceError::InMemory);
        }
        let failed = |source| PlaceError::Store { store: config.store.clone(), source, socket: path };
        open(config).map(Self::Store).map_err(failed)
    }
}
