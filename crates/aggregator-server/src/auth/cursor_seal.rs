//! Cursors of readers that may not read everything.
//!
//! A cursor has an offset per partition, so it tells how much is stored in all topics together, and when. A reader of
//! some topics must not learn that. So its cursors are encrypted (AES-256-GCM with a random nonce), and padded, so that
//! not even their length tells much. The secret is a record of the store: every node can read the cursors of the others.

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_core::{Cursor, DedupStore, DedupStoreExt as _, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

const KIND: &str = "secret";
const NAME: &str = "cursor-seal";
const SECRET_BYTES: usize = 32;

/// The first byte of a sealed cursor. No cursor has it as its format.
const FORMAT: u8 = 0xC5;

/// What is sealed has a multiple of this many bytes.
const PADDED_TO: usize = 64;

/// Seals cursors, and opens them again.
pub(crate) struct CursorSeal {
    key: LessSafeKey,
    random: SystemRandom,
}

impl CursorSeal {
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, secret).ok()?;
        Some(Self { key: LessSafeKey::new(key), random: SystemRandom::new() })
    }

    /// The seal of this store, which is made now if there is none.
    pub(super) fn of(store: &dyn DedupStore) -> Result<Self, StoreError> {
        let records = store.records().ok_or_else(|| store.unsupported("keep keys"))?;
        let secret = match records.get(KIND, NAME)? {
            Some(known) => known.value,
            None => {
                let mut secret = vec![0; SECRET_BYTES];
                let random = SystemRandom::new().fill(&mut secret);
                random.map_err(|_| StoreError::unavailable("the system has no random numbers"))?;
                match records.write(&[RecordWrite::create(KIND, NAME, secret.clone())])? {
                    RecordOutcome::Written(_) => secret,
                    // Another node was faster.
                    RecordOutcome::Stale(_) => {
                        records.get(KIND, NAME)?.map(|known| known.value).unwrap_or_default()
                    }
                }
            }
        };
        Self::new(&secret).ok_or_else(|| StoreError::unavailable("the secret of cursors has a wrong length"))
    }

    /// A cursor as its reader sees it. Never the same twice.
    pub(super) fn seal(&self, cursor: &Cursor) -> String {
        let cursor = URL_SAFE_NO_PAD.decode(cursor.to_string()).expect("the text of a cursor is base64");
        let length = u16::try_from(cursor.len()).expect("a cursor of 1,024 partitions has fewer than 32 KiB");
        let mut bytes = [&length.to_be_bytes()[..], &cursor].concat();
        bytes.resize(bytes.len().next_multiple_of(PADDED_TO), 0);
        self.seal_bytes(bytes)
    }

    pub(super) fn seal_bytes(&self, mut bytes: Vec<u8>) -> String {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).expect("the system had random numbers when the seal was made");
        let sealed = self.key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from([FORMAT]),
            &mut bytes,
        );
        sealed.expect("a cursor is shorter than what can be sealed");
        URL_SAFE_NO_PAD.encode([&[FORMAT], &nonce[..], &bytes].concat())
    }

    /// The cursor that was sealed; `None` if this is none.
    pub(super) fn open(&self, text: &str) -> Option<Cursor> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (&[FORMAT], rest) = bytes.split_first_chunk()? else { return None };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from([FORMAT]), &mut sealed).ok()?;
        let (length, rest) = opened.split_first_chunk()?;
        let cursor = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        URL_SAFE_NO_PAD.encode(cursor).parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use aggregator_core::{Event, MemoryStore, Partitions, Query, TopicSelector};

    use super::*;

    fn cursors(partitions: u16, counts: &[usize]) -> Vec<Cursor> {
        let store = MemoryStore::new(Partitions::new(partitions).unwrap());
        let mut cursors = Vec::new();
        for count in counts {
            for n in 0..*count {
                store
                    .append_one(&Event::new(format!("t{}", n % 40), format!("{n}-{count}")).unwrap())
                    .unwrap();
            }
            cursors.push(store.end(&Query::of(TopicSelector::All)).unwrap());
        }
        cursors
    }

    #[test]
    fn a_sealed_cursor_is_opened_by_the_same_store_only() {
        let store = MemoryStore::default();
        let (seal, same, other) = (
            CursorSeal::of(&store).unwrap(),
            CursorSeal::of(&store).unwrap(),
            CursorSeal::of(&MemoryStore::default()).unwrap(),
        );
        for cursor in cursors(16, &[0, 1, 300]) {
            let sealed = seal.seal(&cursor);
            assert_eq!(same.open(&sealed), Some(cursor.clone()));
            assert_eq!(other.open(&sealed), None);
            assert_eq!(seal.open(&cursor.to_string()), None);
            assert!(sealed.parse::<Cursor>().is_err());
            // Nobody can change it.
            for at in 0..sealed.len() {
                let flipped = if sealed.as_bytes()[at] == b'A' { "B" } else { "A" };
                assert_eq!(
                    seal.open(&format!("{}{flipped}{}", &sealed[..at], &sealed[at + 1..])),
                    None,
                    "{at}"
                );
            }
        }
    }

    #[test]
    fn a_sealed_cursor_tells_nothing_of_what_is_stored() {
        let seal = CursorSeal::of(&MemoryStore::default()).unwrap();
        let sealed: Vec<_> = cursors(4, &[0, 1, 400]).iter().map(|cursor| seal.seal(cursor)).collect();
        assert!(sealed.iter().all(|text| text.len() == sealed[0].len()), "{sealed:?}");
        let cursor = &cursors(4, &[3])[0];
        assert_ne!(seal.seal(cursor), seal.seal(cursor));
    }
}
