//! Every field of an event with every kind of bad value, in every form of a body: each is refused by its field or taken, and
//! never half of it.

use std::collections::BTreeSet;

use crate::support::{Answer, Server};

/// What becomes of a value in a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The event is stored.
    Taken,
    /// 422, and the field is named.
    Refused,
    /// 400: no parser can say where a field ends.
    NoJson,
}
use Fate::{NoJson, Refused, Taken};

/// JSON as it is sent, and its fate in `topic`, `event_id`, `timestamp`, `source`, `sequence` and `payload`.
const VALUES: [(&str, [Fate; 6]); 52] = [
    ("null", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("true", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("0", [Refused, Refused, Refused, Refused, Taken, Taken]),
    ("-0", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("-1", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("1.0", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("1e3", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("1e400", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("9223372036854775807", [Refused, Refused, Refused, Refused, Taken, Taken]),
    ("9223372036854775808", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("18446744073709551616", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("01", [NoJson; 6]),
    ("+1", [NoJson; 6]),
    (".5", [NoJson; 6]),
    ("1.", [NoJson; 6]),
    ("0x1", [NoJson; 6]),
    ("NaN", [NoJson; 6]),
    ("Infinity", [NoJson; 6]),
    ("nul", [NoJson; 6]),
    ("undefined", [NoJson; 6]),
    ("'single'", [NoJson; 6]),
    ("\"open", [NoJson; 6]),
    ("\"a\nb\"", [NoJson; 6]),
    ("\"a\0b\"", [NoJson; 6]),
    ("\"\\x41\"", [NoJson; 6]),
    ("\"\\u12\"", [NoJson; 6]),
    ("[1,]", [NoJson; 6]),
    ("{\"a\":1,}", [NoJson; 6]),
    ("{a:1}", [NoJson; 6]),
    ("/* */ 1", [NoJson; 6]),
    ("", [NoJson; 6]),
    ("[]", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("{}", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("[[[[\"x\"]]]]", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("\"\"", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("\" \"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"x\"", [Taken, Taken, Refused, Taken, Refused, Taken]),
    ("\"\\u0078\"", [Taken, Taken, Refused, Taken, Refused, Taken]),
    ("\"a.b\"", [Taken, Taken, Refused, Taken, Refused, Taken]),
    ("\"a..b\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"a.*\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"*\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"ü\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"\\ud83d\\ude00\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"\\u0000\"", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("\"\\u001b[2J\"", [Refused, Refused, Refused, Refused, Refused, Taken]),
    ("\"\\u202e\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"1\"", [Taken, Taken, Refused, Taken, Refused, Taken]),
    ("\"2026-01-01T00:00:00Z\"", [Taken, Taken, Taken, Taken, Refused, Taken]),
    ("\"2026-13-01T00:00:00Z\"", [Taken, Taken, Refused, Taken, Refused, Taken]),
    ("\"../../etc/passwd\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
    ("\"'; DROP TABLE events; --\"", [Refused, Taken, Refused, Taken, Refused, Taken]),
];

const FIELDS: [&str; 6] = ["topic", "event_id", "timestamp", "source", "sequence", "payload"];

/// An event with this value in this field.
fn event(field: &str, value: &str, id: usize) -> String {
    let mut parts = vec![format!("\"{field}\":{value}")];
    if field != "topic" {
        parts.push("\"topic\":\"nasty\"".into());
    }
    if field != "event_id" {
        parts.push(format!("\"event_id\":\"{id}\""));
    }
    format!("{{{}}}", parts.join(","))
}

async fn stored(server: &Server) -> u64 {
    server.stats().await["unique_processed"].as_u64().unwrap()
}

/// Asserts that the answer is the fate of the item with this index.
fn assert_fate(what: &str, answer: &Answer, fate: Fate, field: &str, index: u64) {
    match fate {
        Taken => assert_eq!(answer.status, 202, "{what}: {}", answer.json),
        Refused => {
            let named: BTreeSet<_> = answer.problem(422, "invalid-events").into_iter().collect();
            assert_eq!(named, BTreeSet::from([(Some(index), field.to_owned())]), "{what}");
        }
        NoJson => drop(answer.problem(400, "malformed-body")),
    }
}

#[tokio::test]
async fn every_bad_value_of_every_field_is_refused_by_name() {
    let server = Server::volatile().await;
    let mut tried = 0;
    for (value, fates) in VALUES {
        for (field, fate) in FIELDS.into_iter().zip(fates) {
            tried += 1;
            let what = format!("{field}: {value:?}");
            let before = stored(&server).await;
            let event = event(field, value, tried);
            let good = format!("{{\"topic\":\"good\",\"event_id\":\"{tried}\"}}");
            let alone = server.post("/publish", event.clone()).await;
            assert_fate(&what, &alone, fate, field, 0);
            let batch = server.post("/publish", format!("{{\"events\":[{good},{event}]}}")).await;
            assert_fate(&what, &batch, fate, field, 1);
            // Whole, or not at all. The event alone was stored before; it may also be one of an earlier round.
            let after = stored(&server).await;
            match fate {
                Taken => assert!(after == before + 2 || after == before + 1, "{what}: {before}, {after}"),
                Refused | NoJson => assert_eq!(after, before, "{what}"),
            }
            let skipped = server.post("/publish?on_invalid=skip", format!("[{event},{good}]")).await;
            assert_eq!(skipped.status, if fate == NoJson { 400 } else { 202 }, "{what}: {}", skipped.json);
            match fate {
                Taken => assert_eq!(skipped.outcomes(), ["duplicate", "duplicate"], "{what}"),
                Refused => assert_eq!(skipped.outcomes(), ["rejected", "stored"], "{what}"),
                NoJson => drop(skipped.problem(400, "malformed-body")),
            }
        }
    }
    assert!(tried * 3 > 900, "{tried}");
    // What was taken is given back as it was sent, also what this test's own parser refuses.
    let url = format!("{}/events?topic=nasty&limit=1000", server.url);
    let page = server.client.get(url).send().await.unwrap().text().await.unwrap();
    for payload in ["1e400", "-0", "1.0", "\"\\u0078\"", "\"'; DROP TABLE events; --\"", "[[[[\"x\"]]]]"] {
        assert!(page.contains(&format!("\"payload\":{payload},")), "{payload}");
    }
    assert!(page.contains("\"event_id\":\"\u{202e}\""));
    server.stop().await.unwrap();
}
