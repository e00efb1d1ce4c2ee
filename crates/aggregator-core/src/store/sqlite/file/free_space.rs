//! Which bytes of the file hold nothing that SQLite will ever read: see
//! <https://sqlite.org/fileformat2.html#b_tree_pages>.
//!
//! SQLite leaves in them what was there before: rows that were deleted or moved.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;

use super::page_set::PageSet;

/// The first byte of an overflow page could be taken for the kind of a B-tree page in a larger file, because it begins with
/// the number of the next page.
const MAX_PAGES: u64 = (1 << 25) - 1;

/// The most pages of one row: SQLite's rows are shorter than 1 GiB.
const MAX_CHAIN: u64 = 1 << 30 >> 9;

/// The file's own header, in front of the first page's.
const FILE_HEADER: usize = 100;

/// The main file of a store, whose log is copied into it.
pub(crate) struct Pages<'f> {
    file: &'f File,
    /// The bytes of a page.
    size: usize,
    /// Those that SQLite uses.
    usable: usize,
    /// How many there are.
    pub(crate) count: u32,
    /// How often one was looked at.
    used: Cell<u64>,
    has_written: Cell<bool>,
}

/// Bytes of one page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FreeRange {
    /// The page's number. The first page is 1.
    pub(crate) page: u32,
    pub(crate) bytes: Range<usize>,
}

/// The list of free pages.
#[derive(Default)]
pub(crate) struct FreeList {
    /// The pages that it names.
    pub(crate) pages: PageSet,
    /// What its own pages hold behind these names.
    pub(crate) rests: Vec<FreeRange>,
}

impl<'f> Pages<'f> {
    pub(crate) fn of(file: &'f File, size: u32) -> io::Result<Self> {
        let size = size as usize;
        let mut header = [0; FILE_HEADER];
        file.read_exact_at(&mut header, 0)?;
        if u32_at(&header, 52)? != 0 {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the file has auto_vacuum: end the server and run compact, which leaves no traces",
            ));
        }
        let count = file.metadata()?.len() / size as u64;
        if count > MAX_PAGES {
            let limit = MAX_PAGES * size as u64;
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!(
                    "the file has more than {limit} bytes: end the server and run compact, which leaves no traces"
                ),
            ));
        }
        let count = u32::try_from(count).expect("it is at most MAX_PAGES");
        Ok(Self {
            file,
            size,
            usable: size - usize::from(header[20]),
            count,
            used: Cell::new(0),
            has_written: Cell::new(false),
        })
    }

    pub(crate) fn free_list(&self) -> io::Result<FreeList> {
        let (mut list, mut own) = (FreeList::default(), PageSet::default());
        let mut first = [0; 4];
        self.file.read_exact_at(&mut first, 32)?;
        let mut number = u32::from_be_bytes(first);
        while number != 0 {
            if !own.insert(number) {
                return Err(malformed(number));
            }
            let page = self.read(number)?;
            let count = u32_at(&page, 4)? as usize;
            // SQLite leaves the last six entries empty, but others may not.
            if count > self.usable / 4 - 2 {
                return Err(malformed(number));
            }
            for at in 0..count {
                list.pages.insert(u32_at(&page, 8 + 4 * at)?);
            }
            list.rests.push(FreeRange { page: number, bytes: 8 + 4 * count..self.size });
            number = u32_at(&page, 0)?;
        }
        Ok(list)
    }

    pub(crate) fn whole(&self, number: u32) -> FreeRange {
        FreeRange { page: number, bytes: 0..self.size }
    }

    /// The free bytes of a page of a B-tree, and those behind the ends of its rows that go on in other pages. Nothing for
    /// pages of other kinds.
    pub(crate) fn free_ranges(&self, number: u32) -> io::Result<Vec<FreeRange>> {
        let page = self.read(number)?;
        let header = if number == 1 { FILE_HEADER } else { 0 };
        let kind = Kind::of(page[header]);
        let Some(kind) = kind else { return Ok(Vec::new()) };
        let cells = usize::from(u16_at(&page, header + 3)?);
        let pointers = header + kind.header();
        let content = usize::from(u16_at(&page, header + 5)?);
        let gap = pointers + 2 * cells..content;
        if gap.start > gap.end || gap.end > self.usable {
            return Err(malformed(number));
        }
        let mut free = vec![FreeRange { page: number, bytes: gap }];
        let mut block = usize::from(u16_at(&page, header + 1)?);
        while block != 0 {
            let (next, size) = (u16_at(&page, block)?, usize::from(u16_at(&page, block + 2)?));
            let after = usize::from(next);
            if block < content
                || size < 4
                || block + size > self.usable
                || (after != 0 && after < block + size)
            {
                return Err(malformed(number));
            }
            free.push(FreeRange { page: number, bytes: block + 4..block + size });
            block = after;
        }
        for cell in 0..cells {
            let at = usize::from(u16_at(&page, pointers + 2 * cell)?);
            if let Some((first, bytes)) = self.overflow(&page, kind, at)? {
                free.push(self.end_of_chain(first, bytes)?);
            }
        }
        Ok(free)
    }

    /// The first page that a cell goes on in, and how many bytes are there.
    fn overflow(&self, page: &[u8], kind: Kind, at: usize) -> io::Result<Option<(u32, u64)>> {
        let (payload, local_max, at) = match kind {
            Kind::TableInterior => return Ok(None),
            Kind::TableLeaf => {
                let (payload, at) = varint(page, at)?;
                let (_, at) = varint(page, at)?;
                (payload, self.usable - 35, at)
            }
            Kind::IndexInterior | Kind::IndexLeaf => {
                let at = if kind == Kind::IndexInterior { at + 4 } else { at };
                let (payload, at) = varint(page, at)?;
                (payload, (self.usable - 12) * 64 / 255 - 23, at)
            }
        };
        if payload <= local_max as u64 {
            return Ok(None);
        }
        let least = ((self.usable - 12) * 32 / 255 - 23) as u64;
        let most = least + (payload - least) % (self.usable as u64 - 4);
        let local = if most <= local_max as u64 { most } else { least };
        let first = u32_at(page, at + usize::try_from(local).map_err(io::Error::other)?)?;
        Ok(Some((first, payload - local)))
    }

    /// The bytes behind the last of `bytes` in a chain of overflow pages.
    fn end_of_chain(&self, first: u32, bytes: u64) -> io::Result<FreeRange> {
        let of_page = self.usable as u64 - 4;
        let pages = bytes.div_ceil(of_page);
        if pages > u64::from(self.count).min(MAX_CHAIN) {
            return Err(malformed(first));
        }
        let mut number = first;
        for _ in 1..pages {
            self.used.set(self.used.get() + 1);
            let mut next = [0; 4];
            self.file.read_exact_at(&mut next, self.offset(number)?)?;
            number = u32::from_be_bytes(next);
        }
        self.offset(number)?;
        let last = usize::try_from((bytes - 1) % of_page + 1).map_err(io::Error::other)?;
        Ok(FreeRange { page: number, bytes: 4 + last..self.size })
    }

    /// How often a page was looked at so far.
    pub(crate) fn used(&self) -> u64 {
        self.used.get()
    }

    pub(crate) fn has_written(&self) -> bool {
        self.has_written.get()
    }

    /// Fills the bytes with zeros. Returns whether they were something else.
    pub(crate) fn clear(&self, free: &FreeRange) -> io::Result<bool> {
        if self.is_clear(free)? {
            return Ok(false);
        }
        let at = self.offset(free.page)? + free.bytes.start as u64;
        self.has_written.set(true);
        self.file.write_all_at(&vec![0; free.bytes.len()], at).map(|()| true)
    }

    /// Whether the page has room on the disk of its own. Where the file system does not tell, it has.
    pub(crate) fn takes_room(&self, number: u32) -> io::Result<bool> {
        let at = self.offset(number)?;
        match seek(self.file, SeekFrom::Data(at)) {
            Ok(data) => Ok(data < at + self.size as u64),
            // Nothing but a hole follows.
            Err(Errno::NXIO) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the room of these pages back to the file system. They read as zeros then.
    pub(crate) fn punch(&self, mut numbers: Vec<u32>) -> io::Result<()> {
        numbers.sort_unstable();
        for run in numbers.chunk_by(|a, b| a + 1 == *b) {
            let (at, length) = (self.offset(run[0])?, run.len() * self.size);
            self.offset(run[run.len() - 1])?;
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(self.file, hole, at, length as u64)?;
        }
        Ok(())
    }

    pub(crate) fn is_clear(&self, free: &FreeRange) -> io::Result<bool> {
        self.used.set(self.used.get() + 1);
        let mut bytes = vec![0; free.bytes.len()];
        self.file.read_exact_at(&mut bytes, self.offset(free.page)? + free.bytes.start as u64)?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    }

    fn read(&self, number: u32) -> io::Result<Vec<u8>> {
        self.used.set(self.used.get() + 1);
        let mut page = vec![0; self.size];
        self.file.read_exact_at(&mut page, self.offset(number)?)?;
        Ok(page)
    }

    fn offset(&self, number: u32) -> io::Result<u64> {
        if number == 0 || number > self.count {
            return Err(malformed(number));
        }
        Ok((u64::from(number) - 1) * self.size as u64)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    IndexInterior,
    TableInterior,
    IndexLeaf,
    TableLeaf,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        match byte {
            2 => Some(Self::IndexInterior),
            5 => Some(Self::TableInterior),
            10 => Some(Self::IndexLeaf),
            13 => Some(Self::TableLeaf),
            _ => None,
        }
    }

    /// The bytes of the page's header.
    fn header(self) -> usize {
        match self {
            Self::IndexInterior | Self::TableInterior => 12,
            Self::IndexLeaf | Self::TableLeaf => 8,
        }
    }
}

/// A number of SQLite's own format, of one to nine bytes, and where it ends.
fn varint(page: &[u8], at: usize) -> io::Result<(u64, usize)> {
    let mut number = 0;
    for n in 0..9 {
        let byte = *page.get(at + n).ok_or_else(short)?;
        if n == 8 {
            return Ok((number << 8 | u64::from(byte), at + 9));
        }
        number = number << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Ok((number, at + n + 1));
        }
    }
    Err(short())
}

fn u16_at(page: &[u8], at: usize) -> io::Result<u16> {
    page.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_be_bytes).ok_or_else(short)
}

fn u32_at(page: &[u8], at: usize) -> io::Result<u32> {
    page.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes).ok_or_else(short)
}

fn malformed(number: u32) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("page {number} is not as SQLite writes it"))
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a page ends too early")
}

#[cfg(test)]
mod tests;
