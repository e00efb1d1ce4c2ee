//! PostgreSQL's errors, sorted by what the caller must do about them.

use aggregator_core::StoreError;
use tokio_postgres::error::SqlState;

/// Why a call to the database failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An error that is returned to the caller as it is.
    Store(StoreError),
    /// No connection could be made, so nothing was sent.
    NoConnection(StoreError),
    /// An error that the server sent, or the end of the connection.
    Postgres(tokio_postgres::Error),
    /// The server committed with a warning, so the commit may not be on a standby.
    UnconfirmedCommit,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Postgres(error)
    }
}

impl Failure {
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Store(StoreError::Corrupt { what: what.into(), source: None })
    }

    /// The server's code, if it sent one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Postgres(error) => error.code().map(SqlState::code),
            _ => None,
        }
    }

    /// Whether the outcome of the transaction is unknown, mostly because the connection was lost.
    pub(crate) fn leaves_outcome_unknown(&self) -> bool {
        match (self, self.code()) {
            (Self::UnconfirmedCommit, _) => true,
            // 40003: the server does not know the outcome. Citus has no code for it. The others: the session was ended or refused, for example by
            // an administrator, a crash or a timeout.
            (_, Some(code)) => {
                code.starts_with("08")
                    || (code == "XX000" && self.is_lost_commit())
                    || matches!(code, "40003" | "57P01" | "57P02" | "57P03" | "57P05" | "25P03")
            }
            (Self::Postgres(error), None) => {
                error.is_closed()
                    || std::error::Error::source(error)
                        .is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
            }
            _ => false,
        }
    }

    /// Whether this is how Citus says that a server did not answer a `COMMIT`.
    fn is_lost_commit(&self) -> bool {
        let Self::Postgres(error) = self else { return false };
        error.as_db_error().is_some_and(|told| {
            let starts = ["could not commit transaction", "failure on connection marked as essential"];
            starts.iter().any(|start| told.message().starts_with(start))
        })
    }

    /// Whether the transaction was rolled back because of another one, and can be tried again.
    pub(crate) fn is_collision(&self) -> bool {
        matches!(self.code(), Some("40001" | "40P01"))
    }

    /// Whether the statement was refused only because one before it had failed in the same transaction (25P02).
    pub(crate) fn is_follow_up(&self) -> bool {
        self.code() == Some("25P02")
    }

    /// The error for the caller. `doing` says which call failed.
    pub(crate) fn into_store_error(self, doing: &str) -> StoreError {
        let error = match self {
            Self::Store(error) | Self::NoConnection(error) => return error,
            Self::UnconfirmedCommit => {
                let reason = format!("{doing}: the server did not wait for its standby");
                return StoreError::Unavailable { reason, source: None };
            }
            Self::Postgres(error) => error,
        };
        let reason = match error.as_db_error() {
            Some(told) => format!("{doing}: {} ({})", told.message(), told.code().code()),
            None => match std::error::Error::source(&error) {
                Some(cause) => format!("{doing}: {error}: {cause}"),
                None => format!("{doing}: {error}"),
            },
        };
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        let source = Some(error.into());
        match code.as_str() {
            "53100" => StoreError::NoSpace { reason, source },
            // Damaged blocks and indexes.
            "XX001" | "XX002" => StoreError::Corrupt { what: reason, source },
            // All other errors can pass: a missing right can be granted, a server started again.
            _ => StoreError::Unavailable { reason, source },
        }
    }
}

/// An error that passes when its cause does.
pub(crate) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { reason: reason.into(), source: None }
}
