//! A pool with a bounded number of sessions of one role.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::connection::session::{Connector, Role, Session};
use crate::fault::{Failure, Result, unavailable};

/// Makes sessions when they are needed, and keeps them for the next call. Pools from libraries hide the server's
/// notices, but a warning decides about a commit (`Session::check_warnings`).
pub(crate) struct Pool {
    connector: Arc<Connector>,
    role: Role,
    size: usize,
    wait: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<Session>>,
}

/// A session in use. If it is dropped, the session is closed and the server rolls back its transaction.
/// [`PooledSession::release`] keeps the session.
pub(crate) struct PooledSession<'p> {
    pool: &'p Pool,
    session: Option<Session>,
    _permit: SemaphorePermit<'p>,
}

impl Pool {
    pub(crate) fn new(connector: Arc<Connector>, role: Role, size: usize, wait: Duration) -> Self {
        let permits = Semaphore::new(size);
        Self { connector, role, size, wait, permits, idle: Mutex::default() }
    }

    /// Returns a session as soon as one is free.
    pub(crate) async fn acquire(&self) -> Result<PooledSession<'_>> {
        let permit = match tokio::time::timeout(self.wait, self.permits.acquire()).await {
            Ok(permit) => permit.expect("nobody closes the semaphore"),
            Err(_) => {
                let (size, wait) = (self.size, self.wait);
                let reason = format!("all {size} connections were busy for {wait:?}");
                return Err(Failure::NoConnection(unavailable(reason)));
            }
        };
        let session = match self.kept() {
            Some(session) => session,
            None => self.connector.connect(self.role, None).await?,
        };
        Ok(PooledSession { pool: self, session: Some(session), _permit: permit })
    }

    /// Returns an unused session if there is one. Does not connect.
    pub(crate) fn idle(&self) -> Option<PooledSession<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        let session = self.kept()?;
        Some(PooledSession { pool: self, session: Some(session), _permit: permit })
    }

    fn kept(&self) -> Option<Session> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        std::iter::from_fn(|| idle.pop()).find(|session| !session.is_closed())
    }
}

impl PooledSession<'_> {
    pub(crate) fn session(&self) -> &Session {
        self.session.as_ref().expect("the session is there until it is released")
    }

    /// Keeps the session for the next call. It must have no open transaction.
    pub(crate) fn release(mut self) {
        if let Some(session) = self.session.take() {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        }
    }
}
