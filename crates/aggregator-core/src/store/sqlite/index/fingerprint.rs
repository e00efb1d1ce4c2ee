//! Short stand-ins of identities.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::Key;

/// The bits of a fingerprint. With 10^8 identities, one in 10^6 new ones meets one of the same
/// fingerprint, which costs it a look at a row.
pub(crate) const BITS: u32 = 48;

/// Makes fingerprints. The hash is keyed with what only the file knows, so that nobody can publish ids
/// that all have the same one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprints {
    hasher: SipHasher13,
    /// Which bits of the hash are used: the first 48, unless a test wants them to collide.
    mask: u64,
}

impl Fingerprints {
    pub(crate) fn new(key: (u64, u64), bits: u32) -> Self {
        Self { hasher: SipHasher13::new_with_keys(key.0, key.1), mask: !0 << (64 - bits) }
    }

    pub(crate) fn of(&self, key: Key<'_>) -> u64 {
        let mut hasher = self.hasher;
        hasher.write_u64(key.topic_id.cast_unsigned());
        hasher.write(key.event_id.as_bytes());
        if !key.source.is_empty() {
            // No identity has a byte of this value.
            hasher.write_u8(0xff);
            hasher.write(key.source.as_bytes());
        }
        (hasher.finish() & self.mask) >> (64 - BITS)
    }
}
