//! Reading all events in pages of a thousand, like a reader that catches up, and looking up unknown ids.

pub(crate) mod unknown;

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use super::{Scratch, Spread};
use crate::load::{Load, as_fast_as_possible};
use crate::options::Options;
use crate::server::{Server, Store, get_on};
use crate::wire::{Reply, Results, find};
use crate::workload::{RECENT, Workload, topic_name};

#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reading {
    pub(crate) name: String,
    pub(crate) events: u64,
    /// Events per second.
    pub(crate) rate: Spread,
}

pub(crate) fn measure(options: &Options, readings: &mut Vec<Reading>) -> anyhow::Result<()> {
    let workload = Workload::new(options.seed, RECENT, options.topics);
    let directory = Scratch::new(options, "read")?;
    let server = Server::start(&options.server, Store::Sqlite, directory.path())?;
    let load = Load {
        address: server.address,
        workload,
        batch: 500,
        connections: options.connections,
        results: Results::Counts,
        key: None,
    };
    let deliveries = fill(options, load)?;
    let all = workload.identities(deliveries);
    let walks = [
        ("all topics", String::new(), all + RARE_EVENTS),
        ("one topic", format!("&topic={}", topic_name(0)), workload.identities_of(0, all)),
        ("ten events of a rare topic", format!("&topic={RARE}"), RARE_EVENTS),
        (
            "the same by a pattern and a topic",
            "&topic=bench.rare.*&topic=bench.nothing".to_owned(),
            RARE_EVENTS,
        ),
    ];
    for (name, filter, events) in walks {
        let rates =
            (0..options.rounds()).map(|_| walk(&server, &filter, events)).collect::<Result<Vec<_>, _>>();
        let rate = Spread::of(rates.with_context(|| format!("reading {name}"))?);
        eprintln!("read: {name}: {:.0} events/s", rate.median);
        readings.push(Reading { name: name.to_owned(), events, rate });
    }
    Ok(())
}

/// A topic with few events that lie far from each other.
const RARE: &str = "bench.rare.topic";
const RARE_EVENTS: u64 = 10;

/// Sends the deliveries, and an event of the rare topic after each tenth of them. Returns the number of deliveries.
fn fill(options: &Options, load: Load) -> anyhow::Result<u64> {
    let part = options.run_events() / RARE_EVENTS;
    let mut stream = TcpStream::connect(load.address)?;
    let mut reply = Reply::default();
    let mut end = 0;
    for rare in 0..RARE_EVENTS {
        let (done, _) = as_fast_as_possible(load, end..end + part, None)?;
        done.check(&load.workload, end)?;
        end += done.deliveries;
        let body = format!(r#"{{"topic":"{RARE}","event_id":"{rare}"}}"#);
        let head = "POST /publish?results=none HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
        stream.write_all(format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())?;
        reply.read_from(&mut stream)?;
        ensure!(reply.counts()?.stored == 1, "an event of {RARE} was not stored: {}", reply.text());
    }
    Ok(end)
}

/// Reads all events with one reader on one connection. Returns the events per second.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
fn walk(server: &Server, filter: &str, expected: u64) -> anyhow::Result<f64> {
    let mut stream = TcpStream::connect(server.address)?;
    stream.set_nodelay(true)?;
    let mut reply = Reply::default();
    let (mut events, mut after) = (0, String::new());
    let started = Instant::now();
    loop {
        get_on(&mut stream, &format!("/events?limit=1000{filter}{after}"), &mut reply)?;
        ensure!(reply.status() == 200, "status {}: {}", reply.status(), reply.text());
        let page = Page::of(reply.body()).with_context(|| format!("a page: {}", reply.text()))?;
        events += page.count;
        if page.caught_up {
            break;
        }
        after = format!("&after={}", page.next);
    }
    let seconds = started.elapsed().as_secs_f64();
    ensure!(events == expected, "{events} events were read, but {expected} are stored");
    Ok(events as f64 / seconds)
}

/// The fields around the events of a page. Parsing the events would measure the reader's parser.
pub(super) struct Page<'a> {
    pub(super) count: u64,
    pub(super) next: &'a str,
    pub(super) caught_up: bool,
}

impl<'a> Page<'a> {
    pub(super) fn of(body: &'a [u8]) -> Option<Self> {
        const ENDS: usize = 512;
        let body = body.trim_ascii_end();
        let head = std::str::from_utf8(&body[..body.len().min(ENDS)]).ok()?;
        let tail = &body[body.len().saturating_sub(ENDS)..];
        let next = &tail[find(tail, b"],\"next\":\"")? + 10..];
        let next = std::str::from_utf8(&next[..find(next, b"\"")?]).ok()?;
        let count = head.split_once("\"count\":")?.1.split(',').next()?.parse().ok()?;
        Some(Self { count, next, caught_up: tail.ends_with(b"\"caught_up\":true}") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_from_its_ends() {
        let body = br#"{"topic":"*","count":2,"events":[{"payload":{"next":["a"]}},{}],"next":"AQ-b","caught_up":true}"#;
        let body = [&body[..], b"\n"].concat();
        let page = Page::of(&body).unwrap();
        assert_eq!((page.count, page.next, page.caught_up), (2, "AQ-b", true));
    }
}
