//! Purging, checking and copying.

use std::fs;
use std::ops::{ControlFlow, RangeInclusive};
use std::path::{Path, PathBuf};

use super::Sharded;
use crate::store::maintain::check_seqs;
use crate::store::{BackupProgress, DedupStoreExt as _, Maintain, VerifyReport};
use crate::{StoreError, Topic};

impl Maintain for Sharded {
    fn purge(&self, topic: &Topic, through_seq: u64) -> Result<u64, StoreError> {
        self.shard_of(topic.as_str()).maintain(|store| store.purge(topic, through_seq))
    }

    fn bytes(&self, topic: &Topic, seqs: RangeInclusive<u64>) -> Result<u64, StoreError> {
        check_seqs(&seqs)?;
        self.shard_of(topic.as_str()).maintain(|store| store.bytes(topic, seqs))
    }

    /// Each shard keeps its share. One that fails does not keep the others from giving back theirs.
    fn give_back(
        &self,
        keep_bytes: u64,
        on_turn: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<u64, StoreError> {
        let share = keep_bytes / u64::from(self.routing.shards());
        let (mut given, mut failed, mut is_broken) = (0, None, false);
        for shard in &self.shards {
            let mut turn = || {
                let goes_on = on_turn();
                is_broken |= goes_on.is_break();
                goes_on
            };
            let answer = shard.maintain(|store| match store.maintain() {
                Some(maintain) => maintain.give_back(share, &mut turn),
                None => Ok(0),
            });
            match answer {
                Ok(bytes) => given += bytes,
                Err(error) => failed = failed.or(Some(error)),
            }
            if is_broken {
                break;
            }
        }
        failed.map_or(Ok(given), Err)
    }

    /// A shard that cannot be read is a fault of the report, so that the others are checked all the same.
    fn verify(&self) -> Result<VerifyReport, StoreError> {
        let mut total = VerifyReport::default();
        for shard in &self.shards {
            match shard.maintain(|store| store.verify()) {
                Ok(report) => {
                    total.events += report.events;
                    total.stubs += report.stubs;
                    let name = |fault| format!("{}: {fault}", shard.name());
                    total.faults.extend(report.faults.into_iter().map(name));
                }
                Err(error) => total.faults.push(format!("not checked: {error}")),
            }
        }
        Ok(total)
    }

    /// Makes a directory at `path`, with a copy of each shard in a file of its own. Each of them is as of another instant.
    fn backup(
        &self,
        path: &Path,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        if path.exists() {
            return Err(StoreError::invalid("path", format!("{} exists already", path.display())));
        }
        let draft = draft_of(path);
        fs::create_dir(&draft).map_err(|error| failed("made", &draft, error))?;
        let copied = self.copy_shards(&draft, on_progress).and_then(|()| {
            fs::rename(&draft, path).map_err(|error| failed("named", path, error))?;
            sync_parent(path)
        });
        if copied.is_err() {
            // Whatever is left of it has another name than the copy.
            let _ = fs::remove_dir_all(&draft);
        }
        copied
    }
}

impl Sharded {
    fn copy_shards(
        &self,
        draft: &Path,
        on_progress: &mut dyn FnMut(BackupProgress) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let mut before = 0;
        for (index, shard) in self.shards.iter().enumerate() {
            let file = draft.join(format!("shard-{index}.db"));
            let mut own = 0;
            let mut tell = |progress| {
                on_progress(match progress {
                    BackupProgress::Copying { bytes, total } => {
                        own = total;
                        BackupProgress::Copying { bytes: before + bytes, total: before + total }
                    }
                    BackupProgress::Checking => BackupProgress::Checking,
                })
            };
            shard.maintain(|store| store.backup_with_progress(&file, &mut tell))?;
            before += own;
        }
        Ok(())
    }
}

fn draft_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn failed(what: &str, path: &Path, error: std::io::Error) -> StoreError {
    StoreError::Unavailable {
        reason: format!("the directory {} cannot be {what}", path.display()),
        source: Some(Box::new(error)),
    }
}

/// A new name is safe once its directory is synced.
fn sync_parent(path: &Path) -> Result<(), StoreError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(parent).and_then(|directory| directory.sync_all());
    synced.map_err(|error| failed("synced", parent, error))
}
