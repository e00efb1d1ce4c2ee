//! Fingerprints: 48 bits that stand for an identity.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::store::sqlite::row::Key;

/// The bits of a fingerprint. With 10^8 identities, one new identity in 10^6 shares its fingerprint with another one,
/// and one row has to be read for it.
pub(crate) const BITS: u32 = 48;

/// Makes fingerprints. Only the file has the key of the hash, so nobody can publish ids that share a fingerprint on
/// purpose.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fingerprints {
    hasher: SipHasher13,
    /// Which bits of the hash are used: the first 48, or fewer where a test wants fingerprints to collide.
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
            // A separator: UTF-8 has no byte of this value.
            hasher.write_u8(0xff);
            hasher.write(key.source.as_bytes());
        }
        (hasher.finish() & self.mask) >> (64 - BITS)
    }
}
