//! Which stores belong together: a record in each shard says which part of which whole it is.

use serde::{Deserialize, Serialize};

use super::NamedStore;
use crate::store::{DedupStore, Record, RecordOutcome, RecordWrite, Records, StoreId};
use crate::{Partitions, StoreError};

/// The kind of the record.
const KIND: &str = "shard";
/// Its name.
const NAME: &str = "membership";
/// The version of what is in it.
const FORMAT: u32 = 1;
/// How many times the records are read again because another process wrote one of them meanwhile.
const TRIES: usize = 10;

/// What a shard knows of the store that it is a part of.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Membership {
    /// The store that it is a part of.
    pub whole: StoreId,
    /// Its place among the shards, from 0.
    pub index: u16,
    /// How many shards there are.
    pub shards: u16,
    /// How many partitions each of them has.
    pub partitions: Partitions,
    /// Whether all shards have their records. Only shard 0 is told.
    pub is_complete: bool,
}

/// A membership as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    whole: String,
    index: u16,
    shards: u16,
    partitions: u16,
    #[serde(default)]
    complete: bool,
}

impl Membership {
    /// That of a store; `None` if it is no shard.
    ///
    /// # Errors
    /// [`StoreError::Format`] if a newer program wrote it, [`StoreError::Corrupt`] if it makes no sense; otherwise whatever
    /// the store meets.
    pub fn of(store: &dyn DedupStore) -> Result<Option<Self>, StoreError> {
        let Some(records) = store.records() else { return Ok(None) };
        let record = records.get(KIND, NAME)?;
        record.map(|record| Self::parse(&record)).transpose()
    }

    fn parse(record: &Record) -> Result<Self, StoreError> {
        #[derive(Deserialize)]
        struct AnyFormat {
            format: u32,
        }
        let damaged = || StoreError::corrupt("the record that says which shard it is cannot be understood");
        let AnyFormat { format } = serde_json::from_slice(&record.value).map_err(|_| damaged())?;
        if format != FORMAT {
            let store = "its record of the shards".to_owned();
            let way_out = "use the program that made the shards";
            return Err(StoreError::Format { store, found: format, known: FORMAT, way_out });
        }
        let stored: Stored = serde_json::from_slice(&record.value).map_err(|_| damaged())?;
        let whole = stored.whole.parse::<ulid::Ulid>().map_err(|_| damaged())?;
        Ok(Self {
            whole: StoreId::from_u128(whole.0),
            index: stored.index,
            shards: stored.shards,
            partitions: Partitions::new(stored.partitions).ok_or_else(damaged)?,
            is_complete: stored.complete,
        })
    }

    fn value(&self) -> Result<Vec<u8>, StoreError> {
        let stored = Stored {
            format: FORMAT,
            whole: self.whole.to_string(),
            index: self.index,
            shards: self.shards,
            partitions: self.partitions.count(),
            complete: self.is_complete,
        };
        serde_json::to_vec(&stored).map_err(|_| StoreError::corrupt("a membership cannot be written as JSON"))
    }

    fn is_of(&self, whole: &Self) -> bool {
        (self.whole, self.shards, self.partitions) == (whole.whole, whole.shards, whole.partitions)
    }
}

/// Refuses a store that is one shard of several. Whoever opens a store as a whole calls it: events of most topics would go
/// where nobody looks for them, and their repeats would be taken for new.
///
/// # Errors
/// [`StoreError::Invalid`], which says which shard it is; otherwise as [`Membership::of`].
pub fn refuse_lone_shard(store: &dyn DedupStore) -> Result<(), StoreError> {
    let Some(Membership { whole, index, shards, .. }) = Membership::of(store)? else { return Ok(()) };
    let reason = format!(
        "is shard {index} of the {shards} shards of the store {whole}, and no store by itself: name all {shards} of \
         them together, in their order"
    );
    Err(StoreError::invalid("store", reason))
}

/// Makes sure that these are all shards of one store, in their order, and returns the name of the whole. New stores become
/// shards.
///
/// The records are written in the order of the shards, and shard 0 is told at the end that all have one. A start that was
/// cut off between them is completed by the next one. Once all had one, a shard without a record has lost it, and
/// its events with it.
pub(super) fn join(shards: &[NamedStore], partitions: Partitions) -> Result<StoreId, StoreError> {
    for _ in 0..TRIES {
        let found = read(shards)?;
        let whole = match check(shards, &found, partitions) {
            // Another start may have written the records since they were read, and stored events.
            Err(_) if read(shards).is_ok_and(|now| now != found) => continue,
            whole => whole?,
        };
        if complete(shards, &found, &whole)? {
            return Ok(whole.whole);
        }
    }
    Err(StoreError::unavailable("another process changes the records of the shards all the time"))
}

fn read(shards: &[NamedStore]) -> Result<Vec<Option<Membership>>, StoreError> {
    let of = |(index, shard): (usize, &NamedStore)| {
        Membership::of(&*shard.store).map_err(|error| named(error, index, shard))
    };
    shards.iter().enumerate().map(of).collect()
}

/// What all shards have to agree on. Those without a record have to be new.
fn check(
    shards: &[NamedStore],
    found: &[Option<Membership>],
    partitions: Partitions,
) -> Result<Membership, StoreError> {
    let count = u16::try_from(shards.len()).unwrap_or(u16::MAX);
    let known = found.iter().position(Option::is_some);
    let new =
        || Membership { whole: StoreId::new(), index: 0, shards: count, partitions, is_complete: false };
    let whole = known.and_then(|at| found[at].clone()).unwrap_or_else(new);
    for (index, (shard, membership)) in shards.iter().zip(found).enumerate() {
        let refused = |why: String| Err(refuse(index, shard, &why));
        match membership {
            Some(own) if own.shards != count => {
                return refused(format!(
                    "belongs to a store of {} shards, and {count} are named: name all of them, in their order. The number \
                     of shards is fixed when they are made",
                    own.shards
                ));
            }
            Some(own) if own.whole != whole.whole => {
                let first = known.unwrap_or(0);
                return refused(format!(
                    "belongs to another store ({}) than shard {first} ({}), which is one of {}: name the shards of one store",
                    own.whole, shards[first].name, whole.whole
                ));
            }
            Some(own) if usize::from(own.index) != index => {
                return refused(format!(
                    "is shard {} of the store: name the shards in their order, each of them once",
                    own.index
                ));
            }
            Some(own) if !own.is_of(&whole) || own.partitions != partitions => {
                return refused(format!(
                    "was made with {} partitions, and has {}: its record is not its own",
                    own.partitions.count(),
                    partitions.count()
                ));
            }
            Some(_) => {}
            None if has_lost_its_record(index, found) => return Err(lost(index, shard, &whole)),
            None => check_new(index, shard)?,
        }
    }
    Ok(whole)
}

/// Whether this shard, which has no record, had one before. Shard 0 has its record first, and is told last that all have one.
fn has_lost_its_record(index: usize, found: &[Option<Membership>]) -> bool {
    match found {
        [Some(first), ..] => first.is_complete,
        _ => index == 0 && found.iter().any(Option::is_some),
    }
}

fn lost(index: usize, shard: &NamedStore, whole: &Membership) -> StoreError {
    let why = format!(
        "has no record of the store {}, which was complete: it is empty, or another database or file than before. Put \
         the right one there, from a backup if it is lost",
        whole.whole
    );
    refuse(index, shard, &why)
}

/// Refuses shards that differ in their partitions. A new database in the place of one of them has as many as a new one has
/// by default, and is told what is wrong with it all the same.
pub(super) fn check_partitions(shards: &[NamedStore]) -> Result<(), StoreError> {
    let [first, ..] = shards else { return Ok(()) };
    let count = |shard: &NamedStore| shard.store.partitions().count();
    let unlike = shards.iter().enumerate().find(|(_, shard)| count(shard) != count(first));
    let Some((index, shard)) = unlike else { return Ok(()) };
    let found = read(shards)?;
    if let Some(whole) = found.iter().flatten().next() {
        for (index, shard) in shards.iter().enumerate() {
            if found[index].is_none() && has_lost_its_record(index, &found) {
                return Err(lost(index, shard, whole));
            }
        }
    }
    let (own, of_first) = (count(shard), count(first));
    let why = format!("has {own} partitions, and shard 0 has {of_first}: all need as many");
    Err(refuse(index, shard, &why))
}

/// A store that took events before did not take them as a shard: most of their topics belong elsewhere.
fn check_new(index: usize, shard: &NamedStore) -> Result<(), StoreError> {
    let stats = shard.store.stats().map_err(|error| named(error, index, shard))?;
    if stats.topics == 0 {
        return Ok(());
    }
    let why = "has events, and was not made as a shard: export it, and import that into new shards";
    Err(refuse(index, shard, why))
}

/// Writes the records that are missing. Returns false if somebody else did so meanwhile, and all has to be read again.
fn complete(
    shards: &[NamedStore],
    found: &[Option<Membership>],
    whole: &Membership,
) -> Result<bool, StoreError> {
    for (index, (shard, found)) in (0..).zip(shards.iter().zip(found)) {
        if found.is_none() {
            let own = Membership { index, is_complete: false, ..whole.clone() };
            let write = RecordWrite::create(KIND, NAME, own.value()?);
            if !written(usize::from(index), shard, write)? {
                return Ok(false);
            }
        }
    }
    let [first, ..] = shards else { return Ok(true) };
    let record = records_of(0, first)?.get(KIND, NAME).map_err(|error| named(error, 0, first))?;
    let Some(record) = record else { return Ok(false) };
    let told = Membership::parse(&record).map_err(|error| named(error, 0, first))?;
    if told.is_complete || !told.is_of(whole) {
        return Ok(told.is_of(whole));
    }
    let told = Membership { is_complete: true, ..told };
    written(0, first, RecordWrite::update(&record, told.value()?))
}

fn written(index: usize, shard: &NamedStore, write: RecordWrite) -> Result<bool, StoreError> {
    let outcome = records_of(index, shard)?.write(&[write]).map_err(|error| named(error, index, shard))?;
    Ok(matches!(outcome, RecordOutcome::Written(_)))
}

fn records_of(index: usize, shard: &NamedStore) -> Result<&dyn Records, StoreError> {
    shard
        .store
        .records()
        .ok_or_else(|| refuse(index, shard, "cannot keep the record that says which shard it is"))
}

pub(super) fn refuse(index: usize, shard: &NamedStore, why: &str) -> StoreError {
    StoreError::invalid("store", format!("shard {index} ({}) {why}", shard.name))
}

fn named(error: StoreError, index: usize, shard: &NamedStore) -> StoreError {
    name_shard(error, index, &shard.name)
}

/// The error of a store that is to be a shard, with its number and its [name](NamedStore::name).
pub fn name_shard(error: StoreError, index: usize, name: &str) -> StoreError {
    let name = format!("shard {index} ({name})");
    match error {
        StoreError::Unavailable { reason, source } => {
            StoreError::Unavailable { reason: format!("{name}: {reason}"), source }
        }
        StoreError::NoSpace { reason, source } => {
            StoreError::NoSpace { reason: format!("{name}: {reason}"), source }
        }
        StoreError::Corrupt { what, source } => {
            StoreError::Corrupt { what: format!("{name}: {what}"), source }
        }
        StoreError::Format { store, found, known, way_out } => {
            StoreError::Format { store: format!("{name}, {store}"), found, known, way_out }
        }
        other => other,
    }
}
