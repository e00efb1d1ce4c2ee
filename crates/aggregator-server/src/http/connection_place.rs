//! A connection's place among those that `--max-connections` allows.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OwnedSemaphorePermit;

/// Held for as long as a connection lives, and handed to its requests as an extension.
#[derive(Clone)]
pub(crate) struct ConnectionPlace {
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    is_shared: bool,
}

impl ConnectionPlace {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self { permit: Arc::new(Mutex::new(Some(permit))), is_shared: false }
    }

    /// The place of a connection with several requests at a time (HTTP/2). None of them can give it up.
    pub(crate) fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }

    /// Gives the place to others. For a connection that ends after this answer and is counted elsewhere until then. Does
    /// nothing where other requests share the connection: it does not end then.
    pub(crate) fn give_up(&self) {
        if !self.is_shared {
            self.permit.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}
