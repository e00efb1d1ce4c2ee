//! Checks of what is read of a server's answers: each function hands an input, whatever it is, to a parser, and panics if
//! the parser breaks a promise. The fuzz targets in `fuzz/` call them, and so does a test with every stored input.

use std::time::{Duration, SystemTime};

use reqwest::Url;
use reqwest::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

use crate::client::parse;
use crate::error::Error;
use crate::sse::{Block, Parser, TooLong};
use crate::{Event, Outcome, Page, Problem, ServerUrl, StatusCode};

#[cfg(test)]
fuzz_corpus::corpus_tests!(client_receipts, client_reply, client_retry_after, client_sse, client_url);

/// The limit of the parser of streams.
const LIMIT: usize = 64;

/// A stream of Server-Sent Events. The first byte says how large the pieces are in which it comes.
pub fn client_sse(data: &[u8]) {
    let Some((&size, stream)) = data.split_first() else { return };
    let whole = read(&[stream]);
    let pieces: Vec<_> = stream.chunks(usize::from(size).max(1)).collect();
    assert_eq!(read(&pieces), whole, "in pieces of {size} it is another stream");
    let (blocks, _) = whole;
    let mut written = Vec::new();
    for block in &blocks {
        check_block(block);
        write(block, &mut written);
    }
    // A byte that is no UTF-8 became a character of three, which can make a line longer than the limit.
    if written.split(|byte| *byte == b'\n').all(|line| line.len() <= LIMIT) {
        assert_eq!(read(&[&written]), (blocks, Ok(None)), "it is not read as it is written");
    }
}

type End = Result<Option<Duration>, TooLong>;

fn read(pieces: &[&[u8]]) -> (Vec<Block>, End) {
    let (mut parser, mut blocks) = (Parser::new(LIMIT), Vec::new());
    for piece in pieces {
        parser.push(piece);
        loop {
            match parser.next_block() {
                Ok(Some(block)) => blocks.push(block),
                Ok(None) => break,
                Err(TooLong) => return (blocks, Err(TooLong)),
            }
        }
    }
    (blocks, Ok(parser.retry()))
}

fn check_block(block: &Block) {
    assert!(block.id.is_some() || block.data.is_some(), "a block of nothing");
    let ends_line = |text: &[u8]| text.contains(&b'\n') || text.contains(&b'\r');
    assert!(
        !block.id.as_ref().is_some_and(|id| id.is_empty() || id.contains('\0') || ends_line(id.as_bytes()))
    );
    assert!(!ends_line(block.event.as_bytes()));
    assert!(block.data.as_ref().is_none_or(|data| data.len() <= LIMIT), "an event is longer than the limit");
}

fn write(block: &Block, to: &mut Vec<u8>) {
    let mut line = |name: &[u8], value: &[u8]| {
        // A space that belongs to the value stands behind one that does not.
        let space: &[u8] = if value.starts_with(b" ") { b" " } else { b"" };
        to.extend([name, b":", space, value, b"\n"].concat());
    };
    if !block.event.is_empty() {
        line(b"event", block.event.as_bytes());
    }
    if let Some(id) = &block.id {
        line(b"id", id.as_bytes());
    }
    for data in block.data.iter().flat_map(|data| data.split(|byte| *byte == b'\n')) {
        line(b"data", data);
    }
    to.push(b'\n');
}

/// The answer to a batch of two events.
pub fn client_receipts(data: &[u8]) {
    let events = [Event::new("t", "\"a\""), Event::new("t", "b")];
    let published = match crate::publish::receipts(&url(), data, &events) {
        Ok(published) => published,
        Err(error) => return check_error(&error),
    };
    assert_eq!(published.receipts.len(), events.len());
    for (receipt, event) in published.receipts.iter().zip(&events) {
        assert_eq!((receipt.topic.as_str(), receipt.event_id.as_str()), (event.topic(), event.event_id()));
        assert!(receipt.outcome != Outcome::Stored || receipt.seq.is_some(), "stored, and nowhere");
    }
    let outcomes =
        [Outcome::Stored, Outcome::Duplicate, Outcome::Conflict, Outcome::Rejected, Outcome::Queued];
    assert_eq!(outcomes.iter().map(|outcome| published.count(*outcome)).sum::<usize>(), events.len());
}

/// The body of any other answer: a page, or a problem.
pub fn client_reply(data: &[u8]) {
    match parse::<Page>(data, &url()) {
        Ok(page) => assert!(page.events.iter().all(|event| !event.payload.get().is_empty())),
        Err(error) => check_error(&error),
    }
    let error = Error::Refused {
        status: StatusCode::BAD_REQUEST,
        url: url().into(),
        problem: Box::new(Problem::of(data)),
        retry_after: None,
    };
    check_error(&error);
}

/// A header `Retry-After`. Behind a line feed, the header `Date`.
pub fn client_retry_after(data: &[u8]) {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [RETRY_AFTER, DATE] {
        if let Some(Ok(value)) = parts.next().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    let after = crate::retry_after::retry_after(&headers, SystemTime::UNIX_EPOCH);
    assert!(after.is_none() || headers.contains_key(RETRY_AFTER));
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
    assert!(seconds.is_none() || after == seconds.map(Duration::from_secs));
}

/// The address of a server, as a user writes it.
pub fn client_url(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let url: ServerUrl = match text.parse() {
        Ok(url) => url,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let shown = url.to_string();
    assert_eq!(shown.parse::<ServerUrl>().map(|again| again.to_string()).as_ref(), Ok(&shown));
    let endpoint = url.endpoint("/publish");
    assert!(endpoint.path().ends_with("/publish") && endpoint.query().is_none(), "{endpoint}");
    assert!(endpoint.username().is_empty() && endpoint.password().is_none(), "{endpoint}");
    assert_eq!(url.is_https(), endpoint.scheme() == "https");
}

fn url() -> Url {
    Url::parse("http://127.0.0.1:1/publish").expect("it is one")
}

/// Its text is a line, and not as long as a server pleases.
fn check_error(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 2_000, "{text}");
    assert!(!text.contains(char::is_control), "{text:?}");
}
