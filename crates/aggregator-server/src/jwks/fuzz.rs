//! Checks of the parser of the issuer's keys: see [`crate::fuzz`].

use jsonwebtoken::Algorithm;

use super::MAX_KID_BYTES;
use super::key_set::KeySet;

/// A JSON Web Key Set.
pub fn key_set(data: &[u8]) {
    let set = match KeySet::parse(data) {
        Ok(set) => set,
        Err(reason) => return assert!(!reason.is_empty() && reason.len() < 200, "{reason}"),
    };
    assert!(set.len() + set.unusable.len() <= 100);
    assert!(set.unusable.iter().all(|reason| !reason.is_empty()));
    let algorithms =
        [Algorithm::RS256, Algorithm::PS512, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA];
    for algorithm in algorithms {
        let Ok(key) = set.find(None, algorithm) else { continue };
        assert!(key.fits(algorithm) && !key.fits(Algorithm::HS256));
        if let Some(kid) = key.kid() {
            assert!(kid.len() <= MAX_KID_BYTES && set.find(Some(kid), algorithm).is_ok());
        }
    }
}
