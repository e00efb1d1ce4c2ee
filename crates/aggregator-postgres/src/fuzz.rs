//! Checks of the parser of connection URLs: it is handed an input, whatever it is, and a broken promise is a panic. The
//! fuzz target in `fuzz/` calls this, and so does a test with every stored input.

use crate::{PostgresOptions, PostgresUrl};

#[cfg(test)]
fuzz_corpus::corpus_tests!(postgres_url);

/// A URL as a user writes it. Then one whose password is known, in each place where a URL can have it.
pub fn postgres_url(data: &[u8]) {
    const SECRET: &str = "kept-secret";
    let Ok(text) = str::from_utf8(data) else { return };
    check_url(text);
    if text.contains(SECRET) {
        return;
    }
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let separator = if rest.contains('?') { '&' } else { '?' };
    for url in [
        format!("postgres://me:{SECRET}@{rest}"),
        format!("postgres://me:{SECRET}%zz@{rest}"),
        format!("postgres://{rest}{separator}password={SECRET}"),
    ] {
        let shown = check_url(&url);
        assert!(!shown.contains(SECRET), "the password of {url} is shown: {shown}");
    }
}

/// How the URL is shown, or what is said to be wrong with it.
fn check_url(text: &str) -> String {
    let url: PostgresUrl = match text.parse() {
        Ok(url) => url,
        Err(reason) => {
            assert!(!reason.is_empty());
            return reason;
        }
    };
    let hosts = url.hosts(&PostgresOptions::default());
    assert!(!hosts.is_empty(), "it has no host");
    assert!(hosts.iter().all(|host| host.get_hosts().len() == 1 && host.get_ports().len() <= 1));
    let shown = url.to_string();
    assert!(shown.starts_with("postgres://"), "{shown}");
    assert_eq!(format!("{url:?}"), shown);
    shown
}
