//! Rules of retention on a server: what they take, what they tell, and who applies them.

mod identities;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::FaultyStore;
use aggregator_core::{MemoryStore, Partitions, SqliteStore};
use aggregator_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::guard::Guarded;
use crate::support::{Process, Server, event, events, until};

const OFTEN: [&str; 2] = ["--retain-every", "50ms"];

fn config(rules: &[&str]) -> Config {
    Config {
        retain: rules.iter().map(|rule| rule.parse().unwrap()).collect(),
        retain_every: Duration::from_millis(50),
        ..Config::default()
    }
}

/// The rule of this pattern, as the server tells of it.
fn rule<'a>(told: &'a Value, pattern: &str) -> &'a Value {
    let rules = told["rules"].as_array().unwrap();
    rules.iter().find(|rule| rule["pattern"] == pattern).unwrap_or_else(|| panic!("{pattern}: {told}"))
}

async fn until_purged(server: &Server, pattern: &str, events: u64) {
    let is_purged = async || rule(&server.get("/retention").await.json, pattern)["purged_events"] == events;
    until(&format!("{events} events of {pattern} are purged"), is_purged).await;
}

#[tokio::test]
async fn a_rule_takes_the_oldest_and_repeats_of_them_are_still_known() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let rules = ["--retain", "logs.*=count:10;logs.b=count:200", "--retain", "z=age:30d"];
    let server = Process::start(&store, &[&rules[..], &OFTEN].concat());
    for topic in ["logs.a", "logs.b", "kept", "z"] {
        server.publish(&events(topic, 0..1_500)).await;
    }
    let purged = async |server: &Process| {
        let told = server.get("/retention").await;
        ["logs.*", "logs.b", "z"].map(|pattern| rule(&told, pattern)["purged_events"].as_u64().unwrap())
    };
    // What a run has purged is told while it is under way, the rest at its end.
    let has_ended = async || rule(&server.get("/retention").await, "logs.*")["topics"] == 1;
    until("they are purged", async || purged(&server).await == [1_490, 1_300, 0] && has_ended().await).await;
    let told = server.get("/retention").await;
    let of_all = rule(&told, "logs.*");
    assert_eq!(
        (&of_all["topics"], &of_all["pending_events"], &of_all["count"]),
        (&json!(1), &json!(0), &json!(10))
    );
    assert_eq!((&of_all["last_run_node"], &of_all["last_run_error"]), (&told["node"], &Value::Null));
    assert!(of_all["last_run_at"].is_string() && of_all["age_seconds"].is_null(), "{told}");
    assert_eq!(rule(&told, "z")["age_seconds"], 30.0 * 86_400.0);

    let page = server.get("/events?topic=logs.*&limit=1000").await;
    let seqs = |topic| {
        let events = page["events"].as_array().unwrap().iter().filter(move |event| event["topic"] == topic);
        events.map(|event| event["seq"].as_u64().unwrap())
    };
    assert!(seqs("logs.a").eq(1_491..=1_500) && seqs("logs.b").eq(1_301..=1_500));
    let repeats = server.publish(&events("logs.a", 0..1_500)).await;
    assert_eq!((&repeats["stored"], &repeats["duplicates"]), (&json!(0), &json!(1_500)));
    let changed = json!({"topic": "logs.a", "event_id": "3", "payload": "another"});
    assert_eq!(server.publish(&changed).await["results"][0]["outcome"], "conflict");
    let metrics = crate::support::client().get(format!("{}/metrics", server.url)).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("aggregator_retention_purged_events_total 2790\n"), "{metrics}");

    // What was taken since ever outlives the process, in order or not.
    server.kill();
    let server = Process::start(&store, &[&rules[..], &OFTEN].concat());
    assert_eq!(purged(&server).await, [1_490, 1_300, 0]);
    server.publish(&events("logs.a", 1_500..1_600)).await;
    until("they go on", async || purged(&server).await == [1_590, 1_300, 0]).await;
    server.signal("-TERM");
    assert!(server.wait().success());
    let check =
        Process::command(&["check", "--store", &format!("sqlite:{}", store.display())]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test]
async fn a_limit_of_bytes_counts_ids_sources_and_payloads() {
    let server = Server::start(Arc::new(MemoryStore::default()), config(&["*=bytes:1000"])).await;
    let large: Vec<_> = (10..60).map(|id| json!({"topic": "t", "event_id": id.to_string(), "source": "abc", "payload": "x".repeat(93)})).collect();
    // 2 + 3 + 95 bytes each.
    server.publish(&json!(large)).await;
    until_purged(&server, "*", 40).await;
    server.publish(&json!({"topic": "t", "event_id": "9", "source": "s", "payload": 1})).await;
    until_purged(&server, "*", 41).await;
    assert_eq!(server.get("/events").await.json["count"], 10);
    // One that is too large for itself.
    server.publish(&json!({"topic": "t", "event_id": "1", "payload": "x".repeat(1_000)})).await;
    until_purged(&server, "*", 52).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn space_that_a_rule_frees_goes_back_to_the_file_system_where_that_is_asked_for() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("events.db");
    // Without a rule at first, so that the file becomes large.
    let server = Server::start(Arc::new(SqliteStore::open(&path).unwrap()), Config::default()).await;
    for first in (0..2_000).step_by(100) {
        let event = |id: u64| json!({"topic": "t", "event_id": id.to_string(), "payload": "x".repeat(4_000)});
        server.publish(&json!((first..first + 100).map(event).collect::<Vec<_>>())).await;
    }
    server.stop().await.unwrap();
    let small = Config { retain_free_space: Some("64KiB".parse().unwrap()), ..config(&["t=bytes:100KiB"]) };
    let server = Server::start(Arc::new(SqliteStore::open(&path).unwrap()), small).await;
    let takes = || std::fs::metadata(&path).map(|file| (file.len(), file.blocks() * 512)).unwrap();
    let gives =
        async || matches!(takes(), (length, on_the_disk) if on_the_disk * 4 < length && length > 4 << 20);
    until("it is given back", gives).await;
    let next = server.publish(&events("t", 5_000..5_100)).await;
    assert_eq!(next.json["stored"], 100, "{}", next.json);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_dry_run_tells_what_would_go_and_takes_nothing() {
    let dry = Config { retain_dry_run: true, ..config(&["a.*=count:3", "*=bytes:1"]) };
    let server = Server::start(Arc::new(MemoryStore::default()), dry).await;
    for topic in ["a.b", "a.c", "d"] {
        server.publish(&events(topic, 0..10)).await;
    }
    let told = async |pattern: &str| {
        let told = server.get("/retention").await.json;
        assert_eq!(told["dry_run"], true);
        ["topics", "pending_events", "purged_events"].map(|name| rule(&told, pattern)[name].as_u64().unwrap())
    };
    until("it was worked out", async || told("a.*").await == [2, 14, 0] && told("*").await == [1, 10, 0])
        .await;
    assert_eq!(server.get("/events").await.json["count"], 30);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_rule_nothing_is_taken_and_nothing_told() {
    let server = Server::volatile().await;
    let told = server.get("/retention").await.json;
    assert_eq!((&told["rules"], &told["dry_run"]), (&json!([]), &json!(false)));
    server.get("/retention?pattern=a").await.problem(400, "bad-parameter");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_run_that_fails_says_why_and_the_next_one_goes_on() {
    let directory = TempDir::new().unwrap();
    let inner = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let store = Arc::new(FaultyStore::new(Arc::new(inner)));
    store.fail_reads(Some(1));
    let server = Server::start(store.clone(), config(&["t=age:1ms"])).await;
    server.publish(&events("t", 0..10)).await;
    let error = async || rule(&server.get("/retention").await.json, "t")["last_run_error"].clone();
    until("a run fails", async || error().await.is_string()).await;
    assert!(error().await.as_str().unwrap().contains("as planned"), "{}", error().await);
    assert!(server.scrape().await.get("aggregator_retention_failures_total") >= 1.0);
    store.fail_reads(None);
    until_purged(&server, "t", 10).await;
    until("the error is gone", async || error().await.is_null()).await;
    server.stop().await.unwrap();
}

/// Readers follow while events come and go: whoever is not told of a gap has read every event.
#[tokio::test]
async fn a_reader_beside_a_rule_misses_nothing_without_being_told() {
    const EVENTS: u32 = 4_000;
    let directory = TempDir::new().unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let server = Server::start(Arc::new(store), config(&["t=count:50"])).await;
    let (url, client) = (server.url.clone(), server.client.clone());
    let reader = tokio::spawn(async move {
        let (mut next_seq, mut gaps, mut after) = (1, 0, String::new());
        while next_seq <= u64::from(EVENTS) {
            let answer =
                client.get(format!("{url}/events?topic=t&limit=40&wait=1{after}")).send().await.unwrap();
            let (status, page): (u16, Value) = (answer.status().as_u16(), answer.json().await.unwrap());
            if status == 410 {
                gaps += 1;
                after = format!("&after={}", page["oldest"].as_str().unwrap());
                next_seq = 0;
                continue;
            }
            assert_eq!(status, 200, "{page}");
            for event in page["events"].as_array().unwrap() {
                let seq = event["seq"].as_u64().unwrap();
                // Behind a gap, and at the beginning, a reader starts at what is left.
                assert!(seq == next_seq || next_seq == 0 || after.is_empty(), "{seq} instead of {next_seq}");
                next_seq = seq + 1;
            }
            after = format!("&after={}", page["next"].as_str().unwrap());
        }
        gaps
    });
    for begin in (0..EVENTS).step_by(100) {
        server.publish(&events("t", begin..begin + 100)).await;
    }
    let gaps = crate::support::in_time("the reader comes to the end", reader).await.unwrap();
    println!("told of {gaps} gaps");
    until_purged(&server, "t", u64::from(EVENTS) - 50).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_pattern_is_shown_to_whoever_may_read_all_of_it() {
    let store = Arc::new(MemoryStore::new(Partitions::new(4).unwrap()));
    let server =
        Guarded::start(store, config(&["mine.*=count:1", "other.secret=count:1", "*=count:5"])).await;
    for (scopes, shown) in [
        (&["metrics"][..], [None, None, None]),
        (&["metrics", "read:mine.*"], [None, Some("mine.*"), None]),
        (&["metrics", "read:mine.a"], [None, None, None]),
        (&["metrics", "read:*"], [Some("other.secret"), Some("mine.*"), Some("*")]),
        (&["metrics", "admin"], [Some("other.secret"), Some("mine.*"), Some("*")]),
    ] {
        let told = server.get(&server.key(scopes).await, "/retention").await;
        let patterns: Vec<_> =
            told.json["rules"].as_array().unwrap().iter().map(|rule| rule["pattern"].as_str()).collect();
        assert_eq!(patterns, shown, "{scopes:?}");
        assert_eq!(told.json.to_string().contains("secret"), shown[0].is_some());
    }
    let reader = server.key(&["read:*", "publish:*"]).await;
    server.get(&reader, "/retention").await.problem(403, "forbidden");
    server.stop().await;
}

#[test]
fn rules_that_say_nothing_are_refused_in_words() {
    for (args, says) in [
        (&["--retain", "logs.*"][..], "such as logs.*=age:30d,count:1000000,bytes:10GiB"),
        (&["--retain", "logs.*=size:3"], "the limits are age, count, bytes and identities"),
        (&["--retain", "logs.*=count:0"], "would keep nothing"),
        (&["--retain", "a=count:1", "--retain", "a=age:1d"], "two rules for a"),
        (&["--retain-dry-run"], "--retain-dry-run is given without --retain"),
    ] {
        let (code, message) =
            crate::support::refused(&[&["--store", "memory:", "--listen", "127.0.0.1:0"], args].concat());
        assert!(code != 0 && message.contains(says), "{args:?}: {code} {message}");
    }
    let mut command = Process::command(&["--store", "memory:", "--listen", "127.0.0.1:0"]);
    command.env("AGGREGATOR_RETAIN", "a=count:1;b=days:3");
    let (_, message) = Process::run(command);
    assert!(message.contains("b=days:3") && message.contains("AGGREGATOR_RETAIN"), "{message}");
}

#[tokio::test]
async fn rules_come_from_the_environment_as_well() {
    let mut command = Process::command(&["--store", "memory:", "--listen", "127.0.0.1:0"]);
    command.env("AGGREGATOR_RETAIN", "a=count:1;b.*=bytes:1KiB").env("AGGREGATOR_RETAIN_EVERY", "1h");
    let server = Process::spawn(command);
    let told = server.get("/retention").await;
    assert_eq!((&rule(&told, "a")["count"], &rule(&told, "b.*")["bytes"]), (&json!(1), &json!(1024)));
    assert_eq!(told["every_seconds"], 3600.0);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn of_several_nodes_one_applies_the_rules_until_it_is_killed() {
    use aggregator_postgres::test_server::TestServer;
    let Some(postgres) = TestServer::start(&[]) else { return };
    let url = postgres.url();
    let options = ["--retain", "t.*=count:20,age:30d,bytes:1MiB", "--retain-every", "300ms"];
    let mut nodes = vec![Process::start_with(&url, &options), Process::start_with(&url, &options)];
    let (mut published, mut killed) = (0, Value::Null);
    for round in 0..2 {
        let publisher = nodes.last().unwrap();
        publisher.publish(&events("t.a", published..published + 500)).await;
        publisher.publish(&event("other", published)).await;
        published += 500;
        let expected = u64::from(published) - 20;
        for node in &nodes {
            let told = async || rule(&node.get("/retention").await, "t.*").clone();
            until("all nodes tell of it", async || told().await["purged_events"] == expected).await;
            until("the run has ended", async || told().await["last_run_node"] != killed).await;
        }
        // One of them did it all.
        let told = nodes[0].get("/retention").await;
        let runner = rule(&told, "t.*")["last_run_node"].clone();
        assert!(runner.is_string(), "{told}");
        let mut own = Vec::new();
        for node in &nodes {
            let metrics = crate::support::client().get(format!("{}/metrics", node.url)).send().await.unwrap();
            let metrics = metrics.text().await.unwrap();
            let line =
                metrics.lines().find(|line| line.starts_with("aggregator_retention_purged_events_total"));
            own.push(line.unwrap().rsplit_once(' ').unwrap().1.parse::<u64>().unwrap());
            let is_runner = node.get("/retention").await["node"] == runner;
            assert_eq!(*own.last().unwrap() > 0, is_runner, "round {round}: {own:?}");
        }
        if round == 0 {
            let at = usize::from(own[0] == 0);
            nodes.remove(at).kill();
            killed = runner;
        }
    }
    let node = nodes.remove(0);
    let repeats = node.publish(&events("t.a", 0..1_000)).await;
    assert_eq!(repeats["duplicates"], 1_000);
    node.signal("-TERM");
    assert!(node.wait().success());
}
