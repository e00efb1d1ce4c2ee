//! One server over several stores, which fail each alone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aggregator_core::store::faulty::{Failure, FaultyStore};
use aggregator_core::store::sharded::NamedStore;
use aggregator_core::{DedupStore, MemoryStore, Partitions, Sharded};
use aggregator_server::Config;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Process, Server, event, events, refused, until};

/// A server over shards of two partitions that fail when they are told to, and a topic of each shard.
struct Shards {
    shards: Vec<Arc<FaultyStore>>,
    topics: [String; 2],
    server: Server,
}

impl Shards {
    async fn start(config: Config) -> Self {
        let memory = || MemoryStore::new(Partitions::new(2).unwrap()).with_a_commit_per_partition();
        let shards: Vec<_> = (0..2).map(|_| Arc::new(FaultyStore::new(Arc::new(memory())))).collect();
        let named = shards.iter().map(|store| NamedStore::new("here", Arc::clone(store) as _));
        let store = Sharded::open(named.collect()).unwrap();
        let topics = [0, 1].map(|shard| topic_of(store.partitions(), shard, 2));
        Self { shards, topics, server: Server::start(Arc::new(store), config).await }
    }

    async fn publish(&self, shard: usize, id: u32) -> crate::support::Answer {
        self.server.publish(&event(&self.topics[shard], id)).await
    }
}

fn topic_of(partitions: Partitions, shard: u16, each: u16) -> String {
    (0..).map(|n| format!("t{n}")).find(|topic| partitions.of(topic).0 / each == shard).unwrap()
}

#[tokio::test]
async fn a_shard_that_fails_is_named_and_the_others_are_served() {
    let shards = Shards::start(Config::default()).await;
    let server = &shards.server;
    for shard in 0..2 {
        assert_eq!(shards.publish(shard, 1).await.outcomes(), ["stored"]);
    }
    shards.shards[1].fail_nth(1, Failure::Corrupt);
    let answer = shards.publish(1, 2).await;
    answer.problem(503, "store-unavailable");
    answer.tells(&["shard 1 (here)", "until a restart", "as planned"]);
    assert_eq!(shards.publish(0, 2).await.outcomes(), ["stored"], "it is the other one's failure alone");
    let ready = server.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.json["unavailable"][0]["partitions"]), (200, &json!([2, 3])));

    // What the shard has can be read, unless that fails as well.
    assert_eq!(server.get("/events").await.json["count"], 3);
    shards.shards[1].set_gone(true);
    for path in ["/events", &format!("/events?topic={}", shards.topics[1])] {
        let answer = server.get(path).await;
        answer.problem(503, "store-unavailable");
        answer.tells(&["shard 1 (here)"]);
    }
    let of_well = server.get(&format!("/events?topic={}", shards.topics[0])).await;
    assert_eq!(of_well.json["count"], 2);
    server
        .until("its totals are left out", |stats| {
            stats["store"]["unavailable_partitions"] == json!([2, 3]) && stats["unique_processed"] == 2
        })
        .await;

    shards.shards[0].fail_nth(1, Failure::Corrupt);
    shards.publish(0, 3).await.problem(503, "store-unavailable");
    until("nothing takes events", async || server.get("/readyz").await.status == 503).await;
    let Shards { server, .. } = shards;
    until("it has failed for good", async || server.get("/health").await.json["status"] == "failed").await;
    assert!(server.stop().await.is_err());
}

/// As many workers as there are shards, and the events of one shard wait for its store.
#[tokio::test]
async fn a_shard_that_does_not_answer_does_not_hold_all_workers() {
    let config = Config { workers: 1.try_into().unwrap(), ..Config::default() };
    let shards = Shards::start(config).await;
    let partitions = Partitions::new(4).unwrap();
    shards.shards[1].hold();
    // Both of its partitions have something to append.
    let held: Vec<_> = [2, 3]
        .map(|partition| (0..).map(|n| format!("h{n}")).find(|t| partitions.of(t).0 == partition).unwrap())
        .iter()
        .map(|topic| shards.server.publish_later("/publish", &event(topic, 1)))
        .collect();
    until("one of them is appended", async || shards.shards[1].appends() > 0).await;
    for id in 0..20 {
        assert_eq!(shards.publish(0, id).await.outcomes(), ["stored"]);
    }
    assert_eq!(shards.shards[1].appends(), 1);
    shards.shards[1].go_on();
    for held in held {
        assert_eq!(held.await.unwrap(), 202);
    }
    shards.server.stop().await.unwrap();
}

#[tokio::test]
async fn queued_events_of_a_shard_wait_until_it_is_back() {
    let shards = Shards::start(Config::default()).await;
    shards.shards[1].fail_nth(1, Failure::Unavailable);
    let queued = event(&shards.topics[1], 1).to_string();
    assert_eq!(shards.server.post("/publish?ack=queued", queued).await.status, 202);
    assert_eq!(shards.publish(0, 1).await.outcomes(), ["stored"]);
    shards.server.until("it is stored", |stats| stats["unique_processed"] == 2).await;
    assert_eq!(shards.server.stats().await["queue"]["lost"], 0);
    shards.server.stop().await.unwrap();
}

fn location(directory: &Path, shards: u16) -> String {
    format!("sqlite:{}?shards={shards}", directory.join("store").display())
}

/// The JSON that a request for all events gets.
async fn all(server: &Process) -> Value {
    server.get("/events?limit=1000").await
}

#[tokio::test]
async fn files_of_one_store_are_served_checked_copied_and_found_again() {
    let directory = TempDir::new().unwrap();
    let store = location(directory.path(), 2);
    let server = Process::start_with(&store, &[]);
    for topic in 0..8 {
        assert_eq!(server.publish(&events(&format!("t{topic}"), 0..10)).await["stored"], 10);
    }
    let stats = server.get("/stats").await;
    assert_eq!((&stats["store"]["kind"], &stats["store"]["partitions"]), (&json!("sqlite"), &json!(2)));
    let id = stats["store"]["id"].clone();
    // The operator's socket is in the directory: a command finds the server that has the store open.
    let key = Process::command(&["key", "list", "--store", &store]).output().unwrap();
    assert!(key.status.success(), "{}", String::from_utf8_lossy(&key.stderr));
    let copy = directory.path().join("copy");
    let out = copy.display().to_string();
    let backup = Process::command(&["backup", "--store", &store, "--out", &out]).output().unwrap();
    assert!(backup.status.success(), "{}", String::from_utf8_lossy(&backup.stderr));
    server.signal("-TERM");
    assert!(server.wait().success());

    for directory in [directory.path().join("store"), copy] {
        let store = format!("sqlite:{}?shards=2", directory.display());
        let check = Process::command(&["check", "--store", &store]).output().unwrap();
        let told = String::from_utf8(check.stdout).unwrap();
        assert!(check.status.success() && told.contains("is sound: 80 events"), "{told}");
        let server = Process::start_with(&store, &[]);
        assert_eq!(server.get("/stats").await["store"]["id"], id);
        assert_eq!(all(&server).await["count"], 80);
        assert_eq!(server.publish(&events("t3", 0..10)).await["duplicates"], 10);
    }
}

#[tokio::test]
async fn an_export_of_shards_is_imported_into_one_file_and_back() {
    let directory = TempDir::new().unwrap();
    let (store, file) =
        (location(directory.path(), 3), directory.path().join("export").display().to_string());
    let server = Process::start_with(&store, &[]);
    for topic in 0..6 {
        server.publish(&events(&format!("t{topic}"), 0..5)).await;
    }
    server.signal("-TERM");
    assert!(server.wait().success());
    let run = |arguments: &[&str]| {
        let output = Process::command(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let one = format!("sqlite:{}", directory.path().join("one.db").display());
    let back = format!("sqlite:{}?shards=2", directory.path().join("back").display());
    for (from, to) in [(&store, &one), (&one, &back)] {
        run(&["export", "--store", from, "--out", &file]);
        run(&["import", "--store", to, "--in", &file]);
        std::fs::remove_file(&file).unwrap();
        let server = Process::start_with(to, &[]);
        assert_eq!(all(&server).await["count"], 30);
        assert_eq!(server.publish(&events("t5", 0..5)).await["duplicates"], 5);
        server.signal("-TERM");
        assert!(server.wait().success());
    }
}

#[tokio::test]
async fn a_start_with_other_files_than_those_of_the_store_is_refused_and_makes_none() {
    let directory = TempDir::new().unwrap();
    let server = Process::start_with(&location(directory.path(), 2), &[]);
    server.publish(&events("t", 0..1)).await;
    server.signal("-TERM");
    assert!(server.wait().success());
    let store = directory.path().join("store");
    let refusal = |store: &str, says: &[&str]| {
        let (code, message) = refused(&["--listen", "127.0.0.1:0", "--store", store]);
        assert!(code != 0 && says.iter().all(|says| message.contains(says)), "{code}: {message}");
    };
    for index in 0..2 {
        let alone = format!("sqlite:{}", store.join(format!("shard-{index}.db")).display());
        refusal(&alone, &[&format!("shard {index} of the 2 shards"), "in their order"]);
    }
    refusal(&location(directory.path(), 3), &["was made with 2 shards", "?shards=2"]);
    assert!(!store.join("shard-2.db").exists(), "it was not made");

    // In the other order.
    let rename = |from: &str, to: &str| std::fs::rename(store.join(from), store.join(to)).unwrap();
    rename("shard-0.db", "a");
    rename("shard-1.db", "shard-0.db");
    rename("a", "shard-1.db");
    refusal(&location(directory.path(), 2), &["shard 0", "is shard 1 of the store"]);
    rename("shard-0.db", "a");
    rename("shard-1.db", "shard-0.db");
    // And without one of them.
    refusal(&location(directory.path(), 2), &["lost its shard 1", "shard-1.db does not exist"]);
    assert!(!store.join("shard-1.db").exists(), "a new one would take repeats for new");
    rename("a", "shard-1.db");
    let server = Process::start_with(&location(directory.path(), 2), &[]);
    assert_eq!(server.publish(&events("t", 0..1)).await["duplicates"], 1);
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn databases_of_two_servers_are_one_store_and_one_that_is_gone_is_named() {
    use aggregator_postgres::test_server::TestServer;

    let (Some(one), Some(mut other)) = (TestServer::start(&[]), TestServer::start(&[])) else { return };
    let store = format!("{} {}", one.url_of("aggregator:s3cret"), other.url_of("aggregator:s3cret"));
    let partitions = Partitions::new(4).unwrap();
    let [well, gone] = [0, 1].map(|shard| topic_of(partitions, shard, 2));
    let directory = TempDir::new().unwrap();
    let log = directory.path().join("log");
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store]);
    command.args(["--partitions", "2", "--commit-timeout", "3s"]);
    command.stderr(std::fs::File::create(&log).unwrap());
    let node = Process::spawn(command);
    let logged = |text: &str| std::fs::read_to_string(&log).unwrap().matches(text).count();
    let (goes, returns) = ("a part of the store does not answer", "a part of the store is back");
    assert!(!node.first_line.contains("s3cret"), "{}", node.first_line);
    // A node that names them in another order is refused, and tells no password.
    let swapped = format!("{} {}", other.url_of("aggregator:s3cret"), one.url_of("aggregator:s3cret"));
    let (code, message) = refused(&["--listen", "127.0.0.1:0", "--store", &swapped, "--lock-wait", "1s"]);
    assert!(code != 0 && message.contains("is shard 1 of the store"), "{message}");
    assert!(!message.contains("s3cret"), "{message}");

    for topic in [&well, &gone] {
        assert_eq!(node.publish(&events(topic, 0..10)).await["stored"], 10);
    }
    other.stop("QUIT");
    let problem = node.publish(&events(&gone, 10..20)).await;
    assert_eq!((&problem["status"], &problem["retryable"]), (&json!(503), &json!(true)), "{problem}");
    let told = problem.to_string();
    assert!(told.contains("shard 1") && !told.contains("s3cret"), "{told}");
    assert_eq!(node.publish(&events(&well, 10..20)).await["stored"], 10);
    let unavailable = async || node.get("/readyz").await["unavailable"][0]["partitions"].clone();
    until("all of it is out", async || unavailable().await == json!([2, 3])).await;
    let page = node.get("/events").await;
    assert!(page["status"] == 503 && page["detail"].as_str().unwrap().contains("shard 1"), "{page}");

    until("its end is told", async || logged(goes) > 0).await;
    let group = "a group was not stored";
    let before = logged(group);
    for _ in 0..20 {
        assert_eq!(node.publish(&events(&gone, 10..20)).await["status"], 503);
    }
    assert_eq!(logged(group), before, "what was told of is not told for each request");
    other.launch();
    until("it is back", async || unavailable().await.is_null()).await;
    until("its return is told", async || logged(returns) > 0).await;
    let retry = async || node.publish(&events(&gone, 0..20)).await;
    let answer = crate::support::in_time("it takes events", async {
        loop {
            let answer = retry().await;
            if answer["stored"].is_u64() {
                break answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(answer.await["stored"], 10);
    assert_eq!(all(&node).await["count"], 40);
    assert_eq!((logged(goes), logged(returns)), (1, 1), "once each");
    assert_eq!(logged("s3cret"), 0);
}
