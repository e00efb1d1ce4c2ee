//! A key as its owner holds it: `agg_ID_SECRET`.
//!
//! The secret has 256 random bits, so a plain SHA-256 of it is as good as a slow hash: there is nothing to guess. Only
//! that hash is stored. The key is shown once, when it is made.

use std::fmt;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ring::rand::{SecureRandom, SystemRandom};
use subtle::ConstantTimeEq as _;

/// So that people, and programs that look for secrets in public places, know what it is.
pub(super) const PREFIX: &str = "agg_";

/// About 62 random bits, so that no two keys of a store have the same id.
const ID_CHARS: usize = 12;

/// 43 characters of 62 have 256 bits.
const SECRET_CHARS: usize = 43;

const ID_ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const SECRET_ALPHABET: &[u8] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key with its secret.
pub(crate) struct Token {
    id: String,
    secret: String,
}

/// What is kept of a secret.
#[derive(Clone, Copy)]
pub(crate) struct SecretHash([u8; SHA256_OUTPUT_LEN]);

impl Token {
    /// A new one; `None` if the system has no random numbers.
    pub(crate) fn generate() -> Option<Self> {
        let random = SystemRandom::new();
        let id = characters(&random, ID_ALPHABET, ID_CHARS)?;
        let secret = characters(&random, SECRET_ALPHABET, SECRET_CHARS)?;
        Some(Self { id, secret })
    }

    /// The key that this text is, if it has the form of one.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_well_formed =
            is_id(id) && secret.len() == SECRET_CHARS && consists_of(secret, SECRET_ALPHABET);
        is_well_formed.then(|| Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// Names the key. It is no secret.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn hash(&self) -> SecretHash {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, self.secret.as_bytes()).as_ref());
        SecretHash(hash)
    }

    /// The whole key, for its owner.
    pub(crate) fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret)
    }
}

/// Whether this text has the form of a key's id.
pub(crate) fn is_id(text: &str) -> bool {
    text.len() == ID_CHARS && consists_of(text, ID_ALPHABET)
}

fn consists_of(text: &str, alphabet: &[u8]) -> bool {
    text.bytes().all(|byte| alphabet.contains(&byte))
}

/// Random characters of an alphabet, each as likely as another.
fn characters(random: &SystemRandom, alphabet: &[u8], count: usize) -> Option<String> {
    // The largest multiple of the alphabet that a byte reaches: a byte beyond it would prefer the first characters.
    let fair = 256 - 256 % alphabet.len();
    let mut text = String::with_capacity(count);
    while text.len() < count {
        let mut bytes = [0; 64];
        random.fill(&mut bytes).ok()?;
        let chosen = bytes.into_iter().map(usize::from).filter(|&byte| byte < fair);
        text.extend(chosen.map(|byte| char::from(alphabet[byte % alphabet.len()])).take(count - text.len()));
    }
    Some(text)
}

impl SecretHash {
    /// In hexadecimal digits.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits = text.as_bytes();
        let mut hash = [0; SHA256_OUTPUT_LEN];
        if digits.len() != hash.len() * 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, at) in hash.iter_mut().zip((0..).step_by(2)) {
            *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
        }
        Some(Self(hash))
    }

    /// Takes as long for a hash that is nearly the same as for another one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Display for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Never shows the secret.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.id)
    }
}

/// Nor what is kept of it.
impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_shown_and_nothing_else_is_one() {
        let token = Token::generate().unwrap();
        let shown = token.reveal();
        let read = Token::parse(&shown).unwrap();
        assert_eq!((read.id(), &read.secret), (token.id(), &token.secret));
        assert!(read.hash().is(&token.hash()));
        assert!(SecretHash::parse(&token.hash().to_string()).unwrap().is(&token.hash()));
        for wrong in [
            String::new(),
            shown[1..].to_owned(),
            shown[..shown.len() - 1].to_owned(),
            format!("{shown}x"),
            shown.replacen('_', "-", 2),
            shown.replacen("agg_", "agg_A", 1),
            format!("agg_{}_{}", token.id(), "é".repeat(43)),
            format!("agg_{}_{}", token.id(), "-".repeat(43)),
        ] {
            assert!(Token::parse(&wrong).is_none(), "{wrong}");
        }
        for wrong in ["", "0", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(SecretHash::parse(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_key_that_differs_anywhere_has_another_hash() {
        let token = Token::generate().unwrap();
        let shown = token.reveal();
        for at in PREFIX.len() + ID_CHARS + 1..shown.len() {
            let other = if shown.as_bytes()[at] == b'x' { "y" } else { "x" };
            let changed = format!("{}{other}{}", &shown[..at], &shown[at + 1..]);
            assert!(!Token::parse(&changed).unwrap().hash().is(&token.hash()), "{at}");
        }
    }

    #[test]
    fn keys_are_random_in_every_character() {
        let tokens: Vec<_> = (0..400).map(|_| Token::generate().unwrap()).collect();
        assert_eq!(tokens.iter().map(Token::id).collect::<BTreeSet<_>>().len(), 400);
        let mut counts = BTreeMap::new();
        for character in tokens.iter().flat_map(|token| token.secret.chars()) {
            *counts.entry(character).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), SECRET_ALPHABET.len());
        // About 277 of each. A byte modulo 62, without care, would give the first eight a quarter more.
        let first: u32 = SECRET_ALPHABET[..8].iter().map(|&byte| counts[&char::from(byte)]).sum();
        assert!((2_000..2_450).contains(&first), "{first}");
    }

    #[test]
    fn what_is_shown_of_a_key_for_debugging_has_no_secret() {
        let token = Token::generate().unwrap();
        let shown = format!("{token:?} {:?}", token.hash());
        assert!(!shown.contains(&token.secret) && !shown.contains(&token.hash().to_string()), "{shown}");
    }
}
