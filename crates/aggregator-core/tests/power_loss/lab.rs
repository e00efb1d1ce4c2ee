//! One experiment: a store, a workload, outages, and what is found after them.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use aggregator_core::store::{IndexOptions, TestHooks};
use aggregator_core::{
    DedupStore, DedupStoreExt, Event, EventRef, Import, RecordWrite, SqliteOptions, SqliteStore, StoreError,
    Timestamp,
};
use sqlite_power_loss::{PowerLoss, Random};
use tempfile::TempDir;

use crate::append::{Stop, append};
use crate::follower::Follower;
use crate::ledger::{Ledger, Violation};
use crate::shards;
use crate::summary::Summary;
use crate::workload::{Append, IMPORTED, Row, Step, Workload};

/// A disk, and an empty store to begin each experiment with.
pub(crate) struct Lab {
    pub(crate) disk: Arc<PowerLoss>,
    /// Breaks the store on purpose.
    synchronous_normal: bool,
    /// See [`TestHooks::in_step`].
    in_step: bool,
    /// Whether a reader waits at the end of the stream meanwhile.
    has_tail: bool,
    /// How many files the store is in.
    shards: u16,
    empty: TempDir,
}

/// How a life of the store ended.
enum End {
    /// At this step, by the outage.
    Outage(usize),
    Done,
}

impl Lab {
    pub(crate) fn new(name: &str) -> Self {
        let empty = directory();
        drop(SqliteStore::open(empty.path().join("events.db")).unwrap());
        Self {
            disk: PowerLoss::register(name).unwrap(),
            synchronous_normal: false,
            in_step: true,
            has_tail: false,
            shards: 1,
            empty,
        }
    }

    /// With commits that are not synced.
    pub(crate) fn with_synchronous_normal(self) -> Self {
        Self { synchronous_normal: true, ..self }
    }

    /// With everything that a store does beside appends really beside them: a seed does not bring back the same order
    /// of writes, and a cut comes at whichever is on then.
    pub(crate) fn out_of_step(self) -> Self {
        Self { in_step: false, ..self }
    }

    /// With a reader at the end of the stream, which reads while the power fails.
    pub(crate) fn with_tail(self) -> Self {
        Self { has_tail: true, ..self }
    }

    /// With a store of so many files.
    pub(crate) fn of_shards(self, shards: u16) -> Self {
        let lab = Self { shards, ..self };
        let path = lab.empty.path().join("events.db");
        fs::remove_file(&path).unwrap();
        drop(shards::open(&path, shards, |path| SqliteStore::open(path)).unwrap());
        lab
    }

    /// The store in all its files.
    pub(crate) fn open_whole(
        &self,
        path: &Path,
        checkpoint_bytes: u32,
    ) -> Result<Arc<dyn DedupStore>, StoreError> {
        shards::open(path, self.shards, |path| self.open(path, checkpoint_bytes))
    }

    /// A directory with the empty store in it, and the store's path.
    pub(crate) fn empty_store(&self) -> (TempDir, PathBuf) {
        self.disk.settle();
        let directory = directory();
        let path = directory.path().join("events.db");
        for file in shards::files(&path, self.shards) {
            fs::copy(self.empty.path().join(file.file_name().unwrap()), file).unwrap();
        }
        (directory, path)
    }

    pub(crate) fn open(&self, path: &Path, checkpoint_bytes: u32) -> Result<SqliteStore, StoreError> {
        SqliteStore::open_with(path, self.options(checkpoint_bytes))
    }

    /// Of a store on the lab's disk.
    pub(crate) fn options(&self, checkpoint_bytes: u32) -> SqliteOptions {
        let disk = Arc::clone(&self.disk);
        let now = AtomicI64::new(1_767_225_600_000_000);
        SqliteOptions {
            readers: 1,
            checkpoint_bytes,
            // Flushed every few appends, and merged in several slices.
            index: IndexOptions { memtable: 5, section: 4, fan_out: 2 },
            // Folded with nearly every append, and deleted from the journal every few appends.
            max_unfolded: 3,
            clock: Arc::new(move || Timestamp::from_micros(now.fetch_add(1, Ordering::Relaxed))),
            test_hooks: TestHooks {
                vfs: Some(self.disk.name().to_owned()),
                synchronous_normal: self.synchronous_normal,
                in_step: self.in_step,
                dies_when_opening_fails: true,
                on_sync: Some(Arc::new(move |path| disk.synced(path))),
                ..TestHooks::default()
            }
            .into(),
            ..SqliteOptions::default()
        }
    }

    /// Tries `cuts` cuts. Enough of them cover every operation of several workloads; fewer are spread
    /// evenly over four.
    pub(crate) fn run(&self, first_seed: u64, cuts: u64) -> Summary {
        let mut summary = Summary::default();
        for seed in first_seed.. {
            let workload = Workload::new(seed);
            let operations = self.operations(&workload);
            let share = operations.min(cuts - summary.cuts).min(cuts.div_ceil(4));
            for nth in 0..share {
                let at = 1 + (nth * operations + seed % operations) / share % operations;
                if let Err(violation) = self.experiment(&workload, at, &mut summary) {
                    summary.violations.push(format!("seed {seed}, cut at {at}: {violation}"));
                }
                summary.cuts += 1;
            }
            summary.operations += operations;
            summary.workloads += 1;
            if summary.cuts == cuts {
                break;
            }
        }
        summary
    }

    /// How many operations a cut can come at.
    fn operations(&self, workload: &Workload) -> u64 {
        let before = self.disk.operations().mutating();
        let (_directory, path) = self.empty_store();
        let mut ledger = Ledger::default();
        let end = self.live(&path, workload, 0, &mut ledger);
        assert!(
            matches!(end, Ok(End::Done)),
            "without an outage, seed {} fails: {:?}",
            workload.seed,
            end.err()
        );
        self.disk.operations().mutating() - before
    }

    fn experiment(&self, workload: &Workload, at: u64, summary: &mut Summary) -> Result<(), Violation> {
        let mut random = Random::new(workload.seed << 32 | at);
        let (_directory, path) = self.empty_store();
        let mut ledger = Ledger::default();
        let kill = random.once_in(4);
        if kill {
            summary.kills += 1;
            self.disk.kill_at(at, random.next_u64());
        } else {
            self.disk.cut_at(at, random.next_u64());
        }
        let mut end = self.live(&path, workload, 0, &mut ledger)?;
        summary.acknowledged += ledger.acknowledged();
        summary.handed += ledger.followed.lock().unwrap().handed();
        // What a dead process left unsynced is there to be read, and to be lost.
        for _ in 0..u64::from(kill) + random.below(3) {
            let End::Outage(step) = end else { break };
            self.disk.restore_power();
            self.disk.cut_at(1 + random.below(60), random.next_u64());
            end = self.live(&path, workload, step, &mut ledger)?;
            summary.further_cuts += 1;
        }
        if let End::Done = end {
            // Not even a clean end keeps anything that was not synced.
            self.disk.cut(random.next_u64());
        }
        self.disk.restore_power();
        self.check(&path, workload, &ledger)?;
        if let End::Outage(step) = end {
            self.live(&path, workload, step, &mut ledger)?;
        }
        self.send_all_again(&path, workload, &mut ledger)
    }

    fn check(&self, path: &Path, workload: &Workload, ledger: &Ledger) -> Result<(), Violation> {
        let store = self.open_whole(path, workload.checkpoint_bytes);
        let store = store.map_err(|error| format!("cannot be opened again: {error}"))?;
        self.check_tail(&*store, ledger)?;
        ledger.check(&*store)
    }

    fn check_tail(&self, store: &dyn DedupStore, ledger: &Ledger) -> Result<(), Violation> {
        if self.has_tail { ledger.followed.lock().unwrap().check(store) } else { Ok(()) }
    }

    /// Opens the store and does the workload's steps from `from` on, until it is done or off. Without a tail,
    /// nothing here uses the store's readers: the threads of their pool let go of a connection when they like, and a seed
    /// would not bring back the same operations.
    fn live(
        &self,
        path: &Path,
        workload: &Workload,
        from: usize,
        ledger: &mut Ledger,
    ) -> Result<End, Violation> {
        let mut step = from;
        match self.steps(path, workload, &mut step, ledger) {
            Err(Stop::Broken(violation)) => Err(violation),
            Err(Stop::Failed(error)) if !self.disk.is_off() => {
                Err(format!("step {step} failed with the power on: {error}"))
            }
            Err(Stop::Failed(_)) => Ok(End::Outage(step)),
            Ok(()) if self.disk.is_off() => Ok(End::Outage(step)),
            Ok(()) => Ok(End::Done),
        }
    }

    /// Does the steps as far as they go.
    pub(crate) fn live_until_outage(&self, path: &Path, workload: &Workload, ledger: &mut Ledger) {
        let lived = self.live(path, workload, 0, ledger);
        assert!(lived.is_ok(), "seed {}: {:?}", workload.seed, lived.err());
    }

    fn steps(
        &self,
        path: &Path,
        workload: &Workload,
        at: &mut usize,
        ledger: &mut Ledger,
    ) -> Result<(), Stop> {
        let mut store = self.open_whole(path, workload.checkpoint_bytes)?;
        let followed = Arc::clone(&ledger.followed);
        let follow = |store: &Arc<_>| self.has_tail.then(|| Follower::start(store, &followed));
        let mut follower = follow(&store);
        let mut looked_at = BTreeMap::new();
        let first = *at;
        for (number, step) in workload.steps.iter().enumerate().skip(first) {
            for (of, mut batch) in workload.looked_at(number, first) {
                store.prepare(&mut batch);
                looked_at.insert(of, batch);
            }
            match step {
                Step::Append(Append { events, .. }) => {
                    let views: Vec<EventRef<'_>> = match looked_at.get(&number) {
                        Some(batch) => batch.iter().collect(),
                        None => events.iter().map(Event::view).collect(),
                    };
                    append(&*store, events, &views, ledger)?;
                }
                // Shards let no call through for a while after it, and that is no experiment of this kind.
                Step::FullDisk(_) if self.shards > 1 => {}
                Step::FullDisk(events) => self.append_to_a_full_disk(&*store, events)?,
                Step::Import(rows) => {
                    let checked: Vec<_> = rows.iter().map(Row::checked).collect();
                    let partition = store.partitions().of(IMPORTED);
                    let imported = store.import(partition, Import::rows(&checked));
                    if let Err(error) = imported {
                        let events: Vec<_> = rows.iter().map(|row| row.event.clone()).collect();
                        ledger.doubt(&events);
                        return Err(error.into());
                    }
                    ledger.note_import(rows);
                }
                Step::Purge(topic) => {
                    let through_seq = ledger.last_seq(topic.as_str()) / 2;
                    ledger.purge(topic, through_seq, false);
                    store.purge(topic, through_seq)?;
                    ledger.purge(topic, through_seq, true);
                }
                Step::Forget(topic) => {
                    ledger.forget(topic, false);
                    store.forget_identities(topic, Timestamp::from_micros(i64::MAX), u64::MAX)?;
                    ledger.forget(topic, true);
                }
                Step::Erase(id) => {
                    let (topic, event_id) = (id.topic.as_str(), id.event_id.as_str());
                    ledger.erase(topic, event_id, false);
                    store.erase(std::slice::from_ref(id))?;
                    ledger.erase(topic, event_id, true);
                }
                Step::Release(id) => {
                    let (topic, event_id) = (id.topic.as_str(), id.event_id.as_str());
                    ledger.release(topic, event_id, false);
                    store.release(std::slice::from_ref(id))?;
                    ledger.release(topic, event_id, true);
                }
                Step::Records(drafts) => ledger.records.write(&*store, drafts)?,
                Step::Reopen => {
                    drop((follower, store));
                    store = self.open_whole(path, workload.checkpoint_bytes)?;
                    follower = follow(&store);
                }
                Step::Backup => self.back_up(&*store, path, ledger)?,
            }
            *at += 1;
        }
        Ok(())
    }

    /// Of which the ledger is told nothing, for there is nothing to tell.
    fn append_to_a_full_disk(&self, store: &dyn DedupStore, events: &[Event]) -> Result<(), Stop> {
        self.disk.set_full(true);
        let result = store.append_all(&events.iter().map(Event::view).collect::<Vec<_>>());
        let record = store.records().unwrap().write(&[RecordWrite::create("full", "disk", "")]);
        self.disk.set_full(false);
        match record {
            Err(StoreError::NoSpace { .. }) => {}
            Err(error) => return Err(error.into()),
            Ok(outcome) => return Err(Stop::Broken(format!("a full disk took a record: {outcome:?}"))),
        }
        match result {
            Err(StoreError::NoSpace { .. }) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(receipts) => Err(Stop::Broken(format!("a full disk took {receipts:?}"))),
        }
    }

    /// A copy is whole or not there, and so is the store that is made of it.
    fn back_up(&self, store: &dyn DedupStore, path: &Path, ledger: &Ledger) -> Result<(), Stop> {
        let directory = path.parent().unwrap();
        let copy = (0..).map(|n| directory.join(format!("copy-{n}.db"))).find(|path| !path.exists()).unwrap();
        let result = store.backup(&copy);
        if !copy.exists() {
            return Ok(result?);
        }
        if self.shards > 1 {
            // A directory with files of the same names. Past the disk, as below.
            let copied = shards::open(&copy.join("events.db"), self.shards, |path| SqliteStore::open(path))?;
            ledger.check(&*copied).map_err(Stop::Broken)?;
            return Ok(result?);
        }
        // Past the disk: that this store has readers is none of the experiment's.
        ledger.check(&SqliteStore::open(&copy)?).map_err(Stop::Broken)?;
        let restored = copy.with_extension("restored");
        SqliteStore::restore(
            &copy,
            &restored,
            &SqliteOptions::default(),
            &mut |_| ControlFlow::Continue(()),
        )?;
        ledger.check(&SqliteStore::open(&restored)?).map_err(Stop::Broken)?;
        Ok(result?)
    }

    /// Every event once more: none of them is new.
    fn send_all_again(&self, path: &Path, workload: &Workload, ledger: &mut Ledger) -> Result<(), Violation> {
        let store = self.open_whole(path, workload.checkpoint_bytes);
        let store = store.map_err(|error| format!("cannot be opened at the end: {error}"))?;
        let stored = ledger.acknowledged() + ledger.open();
        let all: Vec<Event> = workload.events().into_iter().cloned().collect();
        let views: Vec<_> = all.iter().map(Event::view).collect();
        append(&*store, &all, &views, ledger).map_err(|stop| match stop {
            Stop::Broken(violation) => violation,
            Stop::Failed(error) => format!("the events cannot be sent again: {error}"),
        })?;
        if ledger.acknowledged() != stored {
            return Err(format!("{stored} events should be acknowledged, and {} are", ledger.acknowledged()));
        }
        self.check_tail(&*store, ledger)?;
        ledger.check(&*store)
    }
}

/// In memory, if it can be: what is durable is the shim's to say, and a disk would only be slower.
fn directory() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap()
}
