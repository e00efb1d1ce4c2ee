//! `erase` and `release`: take events back, through the server that has the store open, or on the store itself where none
//! has.

mod identities;

use std::io;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

use aggregator_core::store::MAX_IDS_PER_AMEND;
use aggregator_core::{DedupStore, StoreError};
use serde_json::json;

use self::identities::{InputError, Named};
use super::backup::mib;
use super::place::{COMMAND, Place, PlaceError};
use super::progress::ProgressLine;

use crate::amend::{Amendment, Line, ReleaseBody, Released, check_reason};
use crate::config::{Config, StoreLocation};
use crate::{open_store, output};

/// What to take back.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct AmendOptions {
    /// The topic of the event
    #[arg(required_unless_present = "file", conflicts_with = "file", requires = "event_id")]
    topic: Option<String>,
    /// Its id
    #[arg(requires = "topic")]
    event_id: Option<String>,
    /// Its source, which counts in topics where each source has ids of its own
    #[arg(long, requires = "topic")]
    source: Option<String>,
    /// Why, for the audit
    #[arg(long, value_parser = reason)]
    reason: Option<String>,
    /// A file that names any number of events, with a line {"topic":…,"event_id":…} for each, and "source" if needed; - is
    /// standard input
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

fn reason(text: &str) -> Result<String, String> {
    check_reason(text).map(|()| text.to_owned())
}

/// Why nothing was taken back, or not everything.
#[derive(Debug, thiserror::Error)]
pub enum AmendError {
    /// What to take back cannot be read.
    #[error(transparent)]
    Input(#[from] InputError),
    /// There is no server and no store to do it in, or it fails there.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The server has not done it.
    #[error("{0}")]
    Failed(String),
    /// None of the events is there.
    #[error("{0}")]
    NothingFound(&'static str),
    /// The results cannot be written. What they tell of is done.
    #[error("standard output")]
    Output(#[source] io::Error),
}

/// Erases the payloads of events.
///
/// # Errors
/// See [`AmendError`].
pub fn erase(config: &Config, options: &AmendOptions) -> Result<(), AmendError> {
    let named = options.named()?;
    let events = Events::find(config)?;
    let (mut line, mut found, mut payloads) = (ProgressLine::new(), 0, 0);
    let batches = named.len().div_ceil(MAX_IDS_PER_AMEND);
    for (number, batch) in (1..).zip(named.chunks(MAX_IDS_PER_AMEND)) {
        let erased = events.erase(batch, options.reason.as_deref(), &mut |progress| {
            if let Line::Overwriting { bytes, total } = *progress {
                line.tell(|_| overwriting(number, batches, bytes, total));
            }
        })?;
        let told = batch.iter().zip(&erased).map(|(named, seqs)| match &seqs[..] {
            [] => format!("{named}: no such event\n"),
            [seq] => format!("{named}: erased, seq {seq}\n"),
            seqs => format!("{named}: erased, seqs {}\n", list(seqs)),
        });
        line.interrupt();
        output::print(&told.collect::<String>()).map_err(AmendError::Output)?;
        found += erased.iter().filter(|seqs| !seqs.is_empty()).count();
        payloads += erased.iter().map(Vec::len).sum::<usize>();
    }
    if found == 0 {
        return Err(AmendError::NothingFound("nothing is erased: there is no such event"));
    }
    let payloads = if payloads == 1 { "1 payload".to_owned() } else { format!("{payloads} payloads") };
    let kept = match config.store {
        StoreLocation::Sqlite(_) | StoreLocation::SqliteShards { .. } | StoreLocation::Memory(_) => "",
        #[cfg(feature = "postgres")]
        StoreLocation::Postgres(_) | StoreLocation::PostgresShards(_) => {
            ". PostgreSQL keeps old versions of rows until VACUUM FULL, and its write-ahead log: see docs/postgres.md"
        }
    };
    line.done(&format!("erase: {found} of {} found, {payloads} erased{kept}", identities_of(named.len())));
    Ok(())
}

/// Lets identities come again.
///
/// # Errors
/// See [`AmendError`].
pub fn release(config: &Config, options: &AmendOptions) -> Result<(), AmendError> {
    let named = options.named()?;
    let events = Events::find(config)?;
    let (line, mut found) = (ProgressLine::new(), 0);
    for batch in named.chunks(MAX_IDS_PER_AMEND) {
        let released = events.release(batch, options.reason.as_deref())?;
        let told = batch.iter().zip(&released).map(|(named, of)| match (of.released, of.seq) {
            (false, _) => format!("{named}: never seen, or released already\n"),
            (true, None) => format!("{named}: released\n"),
            (true, Some(seq)) => {
                format!(
                    "{named}: released, was seq {seq} of {}\n",
                    of.processed_at.as_deref().unwrap_or_default()
                )
            }
        });
        output::print(&told.collect::<String>()).map_err(AmendError::Output)?;
        found += released.iter().filter(|of| of.released).count();
    }
    if found == 0 {
        return Err(AmendError::NothingFound(
            "nothing is released: it was never seen, or is released already",
        ));
    }
    line.done(&format!("release: {found} of {} released", identities_of(named.len())));
    Ok(())
}

impl AmendOptions {
    fn named(&self) -> Result<Vec<Named>, InputError> {
        match (&self.file, &self.topic, &self.event_id) {
            (Some(file), ..) => identities::of_file(file),
            (None, Some(topic), Some(event_id)) => {
                Ok(vec![Named::new(topic, event_id, self.source.as_deref())?])
            }
            _ => Ok(Vec::new()),
        }
    }
}

/// What is not there is not made, and what is read only where others have it open does not do.
fn open(config: &Config) -> Result<Arc<dyn DedupStore>, StoreError> {
    config.store.files().iter().try_for_each(|path| open_store::check_exists(path))?;
    open_store::open(config)
}

/// The events, wherever they are.
struct Events<'c> {
    place: Place,
    config: &'c Config,
}

impl<'c> Events<'c> {
    fn find(config: &'c Config) -> Result<Self, PlaceError> {
        Ok(Self { place: Place::find(config, open)?, config })
    }

    fn failed(&self, source: StoreError) -> PlaceError {
        PlaceError::Store { store: self.config.store.clone(), source, socket: None }
    }

    /// The seqs of each identity.
    fn erase(
        &self,
        batch: &[Named],
        reason: Option<&str>,
        show: &mut dyn FnMut(&Line),
    ) -> Result<Vec<Vec<u64>>, AmendError> {
        let done = match &self.place {
            Place::Server(server) => {
                let done = server.ask_lines("/admin/erase", body(batch, reason), |line: Line| match line {
                    Line::Overwriting { .. } => {
                        show(&line);
                        None
                    }
                    Line::Done { .. } => Some(Ok(line)),
                    Line::Failed { detail } => Some(Err(AmendError::Failed(detail))),
                });
                done.map_err(PlaceError::Server)??
            }
            Place::Store(store) => {
                let erased = amendment(batch, reason).erase(&**store, COMMAND, &mut |progress| {
                    show(&progress.into());
                    ControlFlow::Continue(())
                });
                Line::done(erased.map_err(|source| self.failed(source))?)
            }
        };
        let Line::Done { erased } = done else { return Ok(Vec::new()) };
        Ok(erased.into_iter().map(|of| of.seqs).collect())
    }

    fn release(&self, batch: &[Named], reason: Option<&str>) -> Result<Vec<Released>, AmendError> {
        match &self.place {
            Place::Server(server) => {
                let answer: Result<ReleaseBody, _> =
                    server.ask("POST", "/admin/release", Some(body(batch, reason)));
                Ok(answer.map_err(PlaceError::Server)?.results)
            }
            Place::Store(store) => {
                let released = amendment(batch, reason).release(&**store, COMMAND);
                let released = released.map_err(|source| self.failed(source))?;
                Ok(released.into_iter().map(Released::from).collect())
            }
        }
    }
}

fn amendment(batch: &[Named], reason: Option<&str>) -> Amendment {
    let ids = batch.iter().map(|named| named.identity.clone()).collect();
    Amendment { ids, reason: reason.map(str::to_owned) }
}

fn body(batch: &[Named], reason: Option<&str>) -> String {
    let identities: Vec<_> = batch.iter().map(Named::json).collect();
    json!({ "identities": identities, "reason": reason }).to_string()
}

fn overwriting(batch: usize, batches: usize, bytes: u64, total: u64) -> String {
    let percent = (u128::from(bytes) * 100).checked_div(u128::from(total)).unwrap_or(100);
    let of = if batches > 1 { format!("batch {batch} of {batches}: ") } else { String::new() };
    format!("{of}removing traces: {:.1} MiB of {:.1} MiB, {percent} %", mib(bytes), mib(total))
}

fn list(seqs: &[u64]) -> String {
    seqs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn identities_of(count: usize) -> String {
    if count == 1 { "1 identity".into() } else { format!("{count} identities") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_tells_the_batch_where_there_are_several() {
        assert_eq!(overwriting(1, 1, 1 << 20, 4 << 20), "removing traces: 1.0 MiB of 4.0 MiB, 25 %");
        assert_eq!(overwriting(2, 3, 0, 0), "batch 2 of 3: removing traces: 0.0 MiB of 0.0 MiB, 100 %");
    }
}
