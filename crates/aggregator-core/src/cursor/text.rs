//! The text form of a cursor: base64 (URL-safe, without padding) of
//!
//! | bytes | content |
//! |---|---|
//! | 1 | the format: 2 |
//! | 1 | [flags](flag) |
//! | 8 | XXH3-64 of the store's id |
//! | 4 | hash of the filters |
//! | varint | how many positions there are |
//! | varint each | if the partitions are listed: how much each one is beyond the one before, from 0; else they are 0, 1, 2, … |
//! | varint, varint each | the smallest offset, and how much each one is beyond it |
//! | a bit each, varints | if one has a horizon: which ones have, and how much these are beyond their offsets |
//! | a bit each | descending, if one is not at its offset: which anchors are one below it |
//! | 4 | fingerprint of the anchors |
//! | 4 | checksum: XXH3-64 of all before, its lower half |
//!
//! Numbers of fixed length are big-endian; a varint has seven bits a byte, the lower ones first (LEB128).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use xxhash_rust::xxh3::xxh3_64;

use super::{Cursor, Fingerprint, Position, format_1};
use crate::event::SLOTS;
use crate::query::Order;
use crate::{InvalidField, Partition, varint};

const VERSION: u8 = 2;

/// What the second byte says.
mod flag {
    pub(super) const DESCENDING: u8 = 1;
    pub(super) const LISTED: u8 = 1 << 1;
    pub(super) const HORIZONS: u8 = 1 << 2;
    pub(super) const ANCHORS_BELOW: u8 = 1 << 3;
    /// It was of format 1.
    pub(super) const NO_FINGERPRINT: u8 = 1 << 4;
    pub(super) const ALL: u8 = (1 << 5) - 1;
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(96);
        write(self, &mut bytes);
        bytes.extend(checksum(&bytes));
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Cursor {
    type Err = InvalidField;

    fn from_str(text: &str) -> Result<Self, InvalidField> {
        let parsed = URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| match bytes.first()? {
            &format_1::VERSION => format_1::parse(&bytes),
            _ => parse(&bytes),
        });
        parsed.ok_or_else(|| {
            InvalidField::new("after", "is not a cursor: hand back `next` of an earlier page unchanged")
        })
    }
}

fn write(cursor: &Cursor, bytes: &mut Vec<u8>) {
    let positions = &cursor.positions;
    let mut flags = 0;
    let mut set = |flag, condition| flags |= if condition { flag } else { 0 };
    set(flag::DESCENDING, cursor.order == Order::Descending);
    set(flag::LISTED, !positions.iter().zip(0..).all(|(position, n)| position.partition == Partition(n)));
    set(flag::HORIZONS, positions.iter().any(has_horizon));
    set(flag::ANCHORS_BELOW, positions.iter().any(is_anchored_below));
    set(flag::NO_FINGERPRINT, cursor.fingerprint.is_none());

    bytes.extend([VERSION, flags]);
    bytes.extend(cursor.store.to_be_bytes());
    bytes.extend(cursor.filter.to_be_bytes());
    varint::write(bytes, positions.len() as u64);
    if flags & flag::LISTED != 0 {
        let mut before = 0;
        for position in positions {
            varint::write(bytes, u64::from(position.partition.0 - before));
            before = position.partition.0;
        }
    }
    let smallest = positions.iter().map(|position| position.offset).min().unwrap_or(0);
    varint::write(bytes, smallest);
    for position in positions {
        varint::write(bytes, position.offset - smallest);
    }
    if flags & flag::HORIZONS != 0 {
        write_bits(bytes, positions, has_horizon);
        for position in positions.iter().filter(|position| has_horizon(position)) {
            varint::write(bytes, position.horizon - position.offset);
        }
    }
    if flags & flag::ANCHORS_BELOW != 0 {
        write_bits(bytes, positions, is_anchored_below);
    }
    if let Some(fingerprint) = cursor.fingerprint {
        bytes.extend(fingerprint.bits().to_be_bytes());
    }
}

fn parse(bytes: &[u8]) -> Option<Cursor> {
    let (body, found) = bytes.split_last_chunk()?;
    if checksum(body) != *found {
        return None;
    }
    let mut body = Reader(body);
    let [VERSION, flags] = body.take()? else { return None };
    let has = |flag| flags & flag != 0;
    let order = if has(flag::DESCENDING) { Order::Descending } else { Order::Ascending };
    let (store, filter) = (u64::from_be_bytes(body.take()?), u32::from_be_bytes(body.take()?));
    let count = usize::try_from(body.varint()?).ok().filter(|&count| count <= usize::from(SLOTS))?;

    let mut partitions: Vec<u64> = (0..count as u64).collect();
    if has(flag::LISTED) {
        let mut last: u64 = 0;
        for partition in &mut partitions {
            last = last.checked_add(body.varint()?)?;
            *partition = last;
        }
    }
    let smallest = body.varint()?;
    let offsets = body.varints(count)?;
    let mut beyond = vec![0; count];
    if has(flag::HORIZONS) {
        let having = body.bits(count)?;
        for (beyond, _) in beyond.iter_mut().zip(having).filter(|(_, has)| *has) {
            *beyond = body.varint()?;
        }
    }
    let below = if has(flag::ANCHORS_BELOW) { body.bits(count)? } else { vec![false; count] };
    let fingerprint = if has(flag::NO_FINGERPRINT) {
        None
    } else {
        Some(Fingerprint::from_bits(u32::from_be_bytes(body.take()?)))
    };
    if !body.0.is_empty() || flags & !flag::ALL != 0 {
        return None;
    }
    let position = |n: usize| {
        let offset = smallest.checked_add(offsets[n])?;
        let mut position = Position {
            offset,
            horizon: if beyond[n] == 0 { 0 } else { offset.checked_add(beyond[n])? },
            ..Position::start(Partition(u16::try_from(partitions[n]).ok()?), order)
        };
        if !position.is_descending_start() {
            position.anchor.offset = if below[n] { offset.checked_sub(1)? } else { offset };
        }
        Some(position)
    };
    let positions = (0..count).map(position).collect::<Option<_>>()?;
    Some(Cursor { store, order, filter, fingerprint, positions })
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let [.., a, b, c, d] = xxh3_64(body).to_be_bytes();
    [a, b, c, d]
}

fn has_horizon(position: &Position) -> bool {
    position.horizon > 0
}

fn is_anchored_below(position: &Position) -> bool {
    position.anchor.offset != position.offset && !position.is_descending_start()
}

fn write_bits(bytes: &mut Vec<u8>, positions: &[Position], of: impl Fn(&Position) -> bool) {
    let bit = |(n, position)| u8::from(of(position)) << n;
    bytes.extend(positions.chunks(8).map(|eight| (0..).zip(eight).map(bit).sum::<u8>()));
}

/// The rest of what is read.
struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn varint(&mut self) -> Option<u64> {
        varint::read(&mut self.0)
    }

    fn bits(&mut self, count: usize) -> Option<Vec<bool>> {
        let mut bits = vec![false; count];
        for eight in bits.chunks_mut(8) {
            let [byte] = self.take()?;
            (0..).zip(eight).for_each(|(n, bit)| *bit = byte & (1 << n) != 0);
        }
        Some(bits)
    }

    fn varints(&mut self, count: usize) -> Option<Vec<u64>> {
        (0..count).map(|_| self.varint()).collect()
    }
}

#[cfg(test)]
mod tests;
