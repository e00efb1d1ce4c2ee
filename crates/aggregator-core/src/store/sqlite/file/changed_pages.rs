//! Which pages of the file change while it is copied, and where the newest version of a page is.
//!
//! Only checkpoints change the main file, and a checkpoint writes nothing but pages of the log. So whoever knows all
//! pages that came into the log since a copy began, and those that were in it before, knows what a plain copy of the main
//! file may have missed or read half-written. The headers of the log's frames name them
//! (<https://sqlite.org/fileformat2.html#the_write_ahead_log>).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::page_set::PageSet;
use crate::store::sqlite::schema::PAGE_BYTES;

const PAGE: usize = PAGE_BYTES as usize;
const LOG_HEADER: usize = 32;
const FRAME_HEADER: usize = 24;

/// To be used under the lock of the writer, between its commits: then nothing in the log changes.
pub(crate) struct ChangedPages {
    log: File,
    /// The two random numbers in the log's header. SQLite changes them when it starts the log again.
    salts: [u8; 8],
    /// How many frames of the log were looked at since it was started.
    seen: u64,
    /// The frame, counted from 1, that has the newest version of a page. Any other page is in the main file.
    newest: HashMap<u32, u64>,
    /// The pages that are to be copied again.
    changed: PageSet,
    /// How many pages the file has as of the last commit.
    pages: u32,
}

/// Pages as they are taken out of the file.
#[derive(Default)]
pub(crate) struct TakenPages {
    pub(crate) numbers: Vec<u32>,
    /// The content of the pages, one after the other.
    pub(crate) bytes: Vec<u8>,
    /// How many pages are changed and not taken yet. If it is 0, what was taken is as of one commit.
    pub(crate) left: u64,
    /// How many pages the file has.
    pub(crate) total: u32,
}

impl ChangedPages {
    /// Begins with everything in the log, which has `frames` frames.
    pub(crate) fn begin(log: &Path, frames: u64, main: &File) -> io::Result<Self> {
        let pages = main.metadata()?.len() / u64::from(PAGE_BYTES);
        let mut changed = Self {
            log: File::open(log)?,
            salts: [0; 8],
            seen: 0,
            newest: HashMap::new(),
            changed: PageSet::default(),
            pages: u32::try_from(pages)
                .map_err(|_| unlikely("the file is longer than SQLite's files are"))?,
        };
        changed.note(frames)?;
        Ok(changed)
    }

    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    /// Learns of all frames up to the last commit; the log has `frames` frames.
    pub(crate) fn note(&mut self, frames: u64) -> io::Result<()> {
        self.note_restart()?;
        for frame in self.seen + 1..=frames {
            let mut header = [0; FRAME_HEADER];
            self.log.read_exact_at(&mut header, frame_at(frame))?;
            if header[8..16] != self.salts {
                return Err(unlikely("a frame of the log is not of this log"));
            }
            let number = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("4 bytes"));
            self.newest.insert(number(0), frame);
            self.changed.insert(number(0));
            // The last frame of a commit says how many pages the file has.
            if number(4) > 0 {
                self.pages = number(4);
            }
        }
        self.seen = self.seen.max(frames);
        Ok(())
    }

    /// SQLite starts the log again only once all of it is in the main file, so there the newest versions are now.
    fn note_restart(&mut self) -> io::Result<()> {
        let mut header = [0; LOG_HEADER];
        self.log.read_exact_at(&mut header, 0)?;
        if header[16..24] != self.salts {
            self.salts.copy_from_slice(&header[16..24]);
            self.newest.clear();
            self.seen = 0;
        }
        Ok(())
    }

    /// Takes up to `limit` changed pages, with their content as of the last commit.
    pub(crate) fn take(&mut self, limit: usize, main: &File, taken: &mut TakenPages) -> io::Result<()> {
        self.note_restart()?;
        taken.numbers.clear();
        taken.bytes.clear();
        while taken.numbers.len() < limit
            && let Some(page) = self.changed.take()
        {
            // The file has become shorter since.
            if page > self.pages {
                continue;
            }
            let at = taken.bytes.len();
            taken.bytes.resize(at + PAGE, 0);
            let content = &mut taken.bytes[at..];
            match self.newest.get(&page) {
                Some(&frame) => self.log.read_exact_at(content, frame_at(frame) + FRAME_HEADER as u64)?,
                None => main.read_exact_at(content, u64::from(page - 1) * u64::from(PAGE_BYTES))?,
            }
            taken.numbers.push(page);
        }
        taken.left = self.changed.count();
        taken.total = self.pages;
        Ok(())
    }

    /// How many pages are changed and not taken yet.
    pub(crate) fn left(&self) -> u64 {
        self.changed.count()
    }

    /// Takes the number of a changed page.
    pub(crate) fn take_number(&mut self) -> Option<u32> {
        self.changed.take()
    }
}

fn frame_at(frame: u64) -> u64 {
    LOG_HEADER as u64 + (frame - 1) * (FRAME_HEADER + PAGE) as u64
}

fn unlikely(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
