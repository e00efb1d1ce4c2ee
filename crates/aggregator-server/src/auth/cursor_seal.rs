//! Cursors of readers that may not read everything.
//!
//! A cursor has an offset per partition, so it tells how much is stored in all topics together, and when. A reader of
//! some topics must not learn that. So its cursors are encrypted (AES-256-GCM with a random nonce), and padded, so that
//! not even their length tells much. The secret is a record of the store: every node can read the cursors of the others.
//!
//! All keys share one seal. Whoever comes with a token has a seal of its own, made from the secret, the issuer and the subject:
//!
//! * not from the token, so that a subject goes on with its cursor after its token was renewed;
//! * from the subject, because an issuer has many subjects who do not know each other: what one of them leaves in a log is
//!   of no use to another one, and an answer to a stolen cursor does not tell whether it was a real one;
//! * not from the topics that may be read. A cursor names its query, and another query refuses it; what is read with it has to
//!   be allowed anew each time. So nothing would be gained, and a reader would lose its place whenever its scopes grow.

use aggregator_core::store::{RecordOutcome, RecordWrite};
use aggregator_core::{Cursor, DedupStore, DedupStoreExt as _, StoreError};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Salt};
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
    /// What other seals are made from.
    secret: Vec<u8>,
    random: SystemRandom,
}

impl CursorSeal {
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        let key = UnboundKey::new(&AES_256_GCM, secret).ok()?;
        Some(Self { key: LessSafeKey::new(key), secret: secret.to_vec(), random: SystemRandom::new() })
    }

    /// The seal of a subject of an issuer.
    pub(super) fn of_subject(&self, issuer: &str, subject: &str) -> Self {
        let length = u64::try_from(issuer.len()).unwrap_or(u64::MAX).to_be_bytes();
        // With its length before it, no issuer and subject are the same bytes as two others.
        let info = [&length, issuer.as_bytes(), subject.as_bytes()];
        let material = Salt::new(HKDF_SHA256, b"aggregator: cursors of subjects").extract(&self.secret);
        let mut secret = vec![0; SECRET_BYTES];
        let derived = material.expand(&info, SecretBytes).and_then(|derived| derived.fill(&mut secret));
        derived.expect("32 bytes are fewer than HKDF has");
        Self::new(&secret).expect("a secret of 32 bytes is one of AES-256")
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

/// How much HKDF (RFC 5869) is asked for.
struct SecretBytes;

impl KeyType for SecretBytes {
    fn len(&self) -> usize {
        SECRET_BYTES
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
    fn a_cursor_of_a_subject_is_opened_for_that_subject_only() {
        let store = MemoryStore::default();
        let seal = CursorSeal::of(&store).unwrap();
        let cursor = &cursors(4, &[3])[0];
        let sealed = seal.of_subject("issuer", "me").seal(cursor);
        let again = CursorSeal::of(&store).unwrap().of_subject("issuer", "me");
        assert_eq!(again.open(&sealed).as_ref(), Some(cursor));
        for (issuer, subject) in
            [("issuer", "you"), ("other", "me"), ("issuerm", "e"), ("issue", "rme"), ("", "issuerme")]
        {
            assert_eq!(seal.of_subject(issuer, subject).open(&sealed), None, "{issuer} {subject}");
        }
        assert_eq!(seal.open(&sealed), None);
        assert_eq!(again.open(&seal.seal(cursor)), None);
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
