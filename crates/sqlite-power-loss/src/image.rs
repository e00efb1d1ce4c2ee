//! One file as the disk has it: what was synced, and what was changed since.

use crate::Random;

/// What a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// One change of a file that no sync has followed yet.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Write { at: usize, bytes: Vec<u8> },
    Truncate { length: usize },
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Self::Write { at, bytes } => put(file, *at, bytes),
            Self::Truncate { length } => file.resize(*length, 0),
        }
    }

    /// Applies some of its sectors; of those that it leaves out, a few come out as neither old nor new.
    fn apply_torn(&self, file: &mut Vec<u8>, random: &mut Random) {
        let Self::Write { at, bytes } = self else {
            if random.once_in(2) {
                self.apply(file);
            }
            return;
        };
        let mut done = 0;
        while done < bytes.len() {
            let start = at + done;
            let sector = (SECTOR_BYTES - start % SECTOR_BYTES).min(bytes.len() - done);
            match random.below(16) {
                0 => put(file, start, &vec![random.next_u64().to_le_bytes()[0]; sector]),
                1..=7 => put(file, start, &bytes[done..done + sector]),
                _ => {}
            }
            done += sector;
        }
    }
}

/// Writes beyond the end fill the gap with zeros, as files do.
fn put(file: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(bytes);
}

/// A file's synced bytes and the changes since, in their order.
#[derive(Debug, Default)]
pub(crate) struct Image {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// How many syncs have failed.
    failures: u64,
}

impl Image {
    /// A file that lay on the disk before anybody looked.
    pub(crate) fn durable(bytes: Vec<u8>) -> Self {
        Self { durable: bytes, ..Self::default() }
    }

    /// These bytes are on the disk now, and nothing else.
    pub(crate) fn replace(&mut self, bytes: Vec<u8>) {
        self.durable = bytes;
        self.unsynced.clear();
    }

    pub(crate) fn change(&mut self, change: Change) {
        self.unsynced.push(change);
    }

    /// A sync that succeeded.
    pub(crate) fn sync(&mut self) {
        for change in self.unsynced.drain(..) {
            change.apply(&mut self.durable);
        }
    }

    /// A sync that failed: some of the changes are on the disk, the others will never be.
    pub(crate) fn fail_sync(&mut self, random: &mut Random) {
        self.durable = self.after_cut(random);
        self.unsynced.clear();
        self.failures += 1;
    }

    /// How many syncs of it have failed so far.
    pub(crate) fn failures(&self) -> u64 {
        self.failures
    }

    /// What is found after a power loss.
    pub(crate) fn after_cut(&self, random: &mut Random) -> Vec<u8> {
        let mut file = self.durable.clone();
        let changes = &self.unsynced;
        // Each way that a disk can go is rare where every write falls by a coin of its own.
        match random.below(5) {
            0 => {}
            1 => changes.iter().for_each(|change| change.apply(&mut file)),
            2 => {
                let kept = random.below(changes.len() as u64 + 1);
                let kept = usize::try_from(kept).expect("it is at most a length");
                changes[..kept].iter().for_each(|change| change.apply(&mut file));
                if let Some(torn) = changes.get(kept) {
                    torn.apply_torn(&mut file, random);
                }
            }
            3 => {
                for change in changes {
                    match random.below(8) {
                        0..=3 => {}
                        4 => change.apply_torn(&mut file, random),
                        _ => change.apply(&mut file),
                    }
                }
            }
            _ => changes.iter().for_each(|change| change.apply_torn(&mut file, random)),
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(at: usize, bytes: &[u8]) -> Change {
        Change::Write { at, bytes: bytes.to_vec() }
    }

    #[test]
    fn what_was_synced_survives_every_cut() {
        let mut image = Image::durable(b"old".to_vec());
        image.change(write(3, &[7; 2_000]));
        image.sync();
        image.change(write(4_000, &[8; 2_000]));
        for seed in 0..500 {
            let found = image.after_cut(&mut Random::new(seed));
            assert_eq!(&found[..3], b"old");
            assert!(found[3..2_003].iter().all(|&byte| byte == 7), "seed {seed}");
        }
    }

    #[test]
    fn unsynced_changes_survive_in_every_combination_and_torn() {
        let mut image = Image::default();
        image.change(write(0, &[1; 512]));
        image.change(write(512, &[2; 1_024]));
        let mut seen = std::collections::HashSet::new();
        for seed in 0..1_000 {
            let mut found = image.after_cut(&mut Random::new(seed));
            found.resize(1_536, 0);
            seen.insert((found[0] == 1, found[512] == 2, found[1_024] == 2));
        }
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn a_failed_sync_loses_for_good_what_it_did_not_write() {
        let lost = (0..100).filter(|&seed| {
            let mut image = Image::default();
            image.change(write(0, b"new"));
            image.fail_sync(&mut Random::new(seed));
            image.sync();
            image.after_cut(&mut Random::new(seed)) != b"new"
        });
        assert!((10..90).contains(&lost.count()));
    }
}
