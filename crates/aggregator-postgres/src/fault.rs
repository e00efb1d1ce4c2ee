//! PostgreSQL's errors, by what has to be done about them.

use aggregator_core::StoreError;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::FromSql;

/// What went wrong on the way to the server and back.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told as it is.
    Store(StoreError),
    /// There was no connection to be had; nothing was sent.
    NoConnection(StoreError),
    /// The server's word, or the connection's end.
    Postgres(tokio_postgres::Error),
    /// The server said it committed, and that something about it is not as it should be.
    Doubtful,
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

    /// Whether the connection is gone, and with it what became of the transaction.
    pub(crate) fn is_lost(&self) -> bool {
        match (self, self.code()) {
            (Self::Doubtful, _) => true,
            // Not said what became of it; ended by an administrator, a crash, or for being idle.
            (_, Some(code)) => {
                code.starts_with("08")
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

    /// Whether the transaction was undone because of another one, and can be tried anew.
    pub(crate) fn is_collision(&self) -> bool {
        matches!(self.code(), Some("40001" | "40P01"))
    }

    /// Whether it says no more than that another statement of the transaction failed before.
    pub(crate) fn is_sequel(&self) -> bool {
        self.code() == Some("25P02")
    }

    /// What the caller is told.
    pub(crate) fn told(self, doing: &str) -> StoreError {
        let error = match self {
            Self::Store(error) | Self::NoConnection(error) => return error,
            Self::Doubtful => {
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
            // Nothing else is for ever: a missing right can be granted, a server started again.
            _ => StoreError::Unavailable { reason, source },
        }
    }
}

/// A column's value.
pub(crate) fn get<'r, T: FromSql<'r>>(row: &'r Row, column: usize) -> Result<T> {
    Ok(row.try_get(column)?)
}

/// A column that counts something.
pub(crate) fn get_u64(row: &Row, column: usize) -> Result<u64> {
    let number: i64 = get(row, column)?;
    u64::try_from(number).map_err(|_| {
        let name = row.columns()[column].name();
        Failure::corrupt(format!("the column {name} holds {number}, which counts nothing"))
    })
}

/// A count as the database has it. Offsets and the like end where its integers do.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A refusal for now.
pub(crate) fn unavailable(reason: impl Into<String>) -> StoreError {
    StoreError::Unavailable { reason: reason.into(), source: None }
}
