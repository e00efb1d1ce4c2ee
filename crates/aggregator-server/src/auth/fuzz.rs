//! Checks of the parsers of credentials, and of what they allow: see [`crate::fuzz`].

use std::net::IpAddr;
use std::sync::LazyLock;

use aggregator_core::Timestamp;
use hyper::Request;
use hyper::header::{HOST, HeaderValue, ORIGIN};

use super::cursor_seal::CursorSeal;
use super::keyring::Keyring;
use super::registry::{self, KeyError, NewKey};
use super::scope::{Grants, MAX_SCOPES, Scope};
use super::token::{SecretHash, Token, is_id};
use super::{browser, guard};
use crate::fuzz::check_problem;
use crate::http::authority;

/// The header `Authorization`, and a key as its owner holds it.
pub fn credential(data: &[u8]) {
    if let Ok(header) = HeaderValue::from_bytes(data) {
        let token = guard::bearer(&header);
        assert!(token.as_ref().is_ok_and(|token| token.trim() == *token) || token.is_err());
        let refused = match token.map(Token::parse) {
            Ok(Some(token)) => guard::of_key(&Keyring::default(), &token).err(),
            Ok(None) => None,
            Err(problem) => Some(problem),
        };
        refused.iter().for_each(|problem| check_problem(problem, 0));
    }
    let Ok(text) = str::from_utf8(data) else { return };
    if let Some(hash) = SecretHash::parse(text) {
        assert_eq!(hash.to_string(), text.to_ascii_lowercase());
    }
    let Some(token) = Token::parse(text) else { return };
    assert_eq!(token.reveal(), text, "a key has two forms");
    assert!(is_id(token.id()) && text.len() == "agg_".len() + 12 + 1 + 43);
    assert!(SecretHash::parse(&token.hash().to_string()).is_some_and(|hash| hash.is(&token.hash())));
    assert!(!format!("{token:?}").contains(&text[text.len() - 43..]), "the secret is shown");
}

/// Scopes, a line each.
pub fn scopes(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let mut scopes: Vec<Scope> = Vec::new();
    for line in text.lines() {
        match line.parse::<Scope>() {
            Ok(scope) => {
                assert_eq!(scope.to_string().parse(), Ok(scope.clone()), "it is not read as it is written");
                scopes.push(scope);
            }
            Err(reason) => assert!(!reason.is_empty()),
        }
    }
    let Ok(grants) = Grants::of(&scopes) else {
        return assert!(scopes.is_empty() || scopes.len() > MAX_SCOPES);
    };
    let topics = ["a", "a.b", "a.b.c", "orders.eu", "z"];
    for scope in &scopes {
        assert!(grants.allows(scope), "{scope} is not allowed by itself");
    }
    for topic in topics {
        let granted = |of: fn(&Scope) -> Option<&aggregator_core::TopicSelector>| {
            scopes.iter().filter_map(of).any(|selector| selector.matches(topic))
        };
        let publish = granted(|scope| if let Scope::Publish(topics) = scope { Some(topics) } else { None });
        let read = granted(|scope| if let Scope::Read(topics) = scope { Some(topics) } else { None });
        assert_eq!((grants.may_publish(topic), grants.may_read(topic)), (publish, read), "{topic}");
    }
    assert_eq!(grants.allows(&Scope::Admin), scopes.contains(&Scope::Admin));
    assert_eq!(grants.allows(&Scope::Metrics), scopes.contains(&Scope::Metrics));
}

/// A sealed cursor, as a reader hands it back. Then what a seal could hold: the node that sealed it may be of another
/// version.
pub fn sealed_cursor(data: &[u8]) {
    static SEAL: LazyLock<CursorSeal> =
        LazyLock::new(|| CursorSeal::new(&[7; 32]).expect("it has the length of a secret"));
    let opened = str::from_utf8(data).ok().and_then(|text| SEAL.open(text));
    for cursor in opened.into_iter().chain(SEAL.open(&SEAL.seal_bytes(data.to_vec()))) {
        let sealed = SEAL.seal(&cursor);
        assert!(sealed.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
        assert_eq!(SEAL.open(&sealed), Some(cursor), "it is not opened as it was sealed");
    }
}

/// The body of a request for a new key.
pub fn new_key(data: &[u8]) {
    let Ok(new) = serde_json::from_slice::<NewKey>(data) else { return };
    let now = Timestamp::from_micros(1_767_225_600_000_000);
    let key = match registry::checked(&new, now) {
        Ok(key) => key,
        Err(KeyError::Invalid { field, reason }) => {
            return assert!(
                ["name", "scopes", "expires_in", "limits"].contains(&field) && !reason.is_empty()
            );
        }
        Err(error) => panic!("{error}"),
    };
    assert!((1..=100).contains(&key.name.chars().count()) && !key.name.contains(char::is_control));
    assert!((1..=MAX_SCOPES).contains(&key.scopes.len()));
    assert!(key.scopes.iter().all(|scope| scope.parse::<Scope>().is_ok()));
    let end: Option<Timestamp> = key.expires_at.map(|at| at.parse().expect("it was made of one"));
    assert!(end.is_none_or(|end| end >= now), "it has expired: {end:?}");
}

/// The header `Host`; behind a line feed, `Origin`.
pub fn local_host(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut request = Request::new(());
    for name in [HOST, ORIGIN] {
        if let Some(Ok(value)) = parts.next().map(HeaderValue::from_bytes) {
            request.headers_mut().insert(name, value);
        }
    }
    let (parts, ()) = request.into_parts();
    if let Err(problem) = browser::check(&parts, &[]) {
        return check_problem(&problem, 100);
    }
    let host = authority::of(&parts.uri, &parts.headers).unwrap_or("localhost");
    let (name, port) = authority::split(host);
    assert!(port.is_empty() || format!("{name}:{port}") == host);
    let name = name.trim_end_matches('.').trim_matches(['[', ']']);
    let is_loopback = name.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    assert!(is_loopback || name.eq_ignore_ascii_case("localhost"), "{host} is taken for this machine");
    let origin = parts.headers.get(ORIGIN).map(|origin| origin.to_str().expect("it was compared as text"));
    assert!(origin.is_none_or(|origin| origin.len() > host.len() + "://".len() - 1), "{origin:?} of {host}");
}
