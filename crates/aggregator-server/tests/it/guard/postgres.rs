//! Keys of several nodes over one PostgreSQL, managed without any of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use aggregator_postgres::test_server::TestServer;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{Process, event, in_time, until};

const PASSWORD: &str = "s3cretCanary";

fn key(store: &str, arguments: &[&str]) -> String {
    let mut command = Process::command(&["key"]);
    let output = command.args(arguments).args(["--store", store]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !said.contains(PASSWORD), "{said}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

async fn status(node: &Process, key: &str) -> u16 {
    let request = crate::support::client().post(format!("{}/publish", node.url)).json(&event("a.b", "1"));
    request.bearer_auth(key).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_key_is_made_and_revoked_in_the_database_and_every_node_follows() {
    // One of its own: other tests need no key.
    let Some(postgres) = TestServer::start(&[]) else { return };
    let store = postgres.url_of(&format!("aggregator:{PASSWORD}"));
    let directory = TempDir::new().unwrap();
    let node = |name: &str| {
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", &store, "--log", "debug"]);
        command.stderr(Stdio::from(std::fs::File::create(directory.path().join(name)).unwrap()));
        Process::spawn(command)
    };
    let nodes = [node("one"), node("other")];
    let made = key(&store, &["new", "--name", "test", "--scope", "publish:a.*", "--scope", "read:a.*"]);
    for node in &nodes {
        until("the node knows the key", async || status(node, &made).await == 202).await;
        assert_eq!(
            crate::support::client().get(format!("{}/events", node.url)).send().await.unwrap().status(),
            401
        );
    }
    let mut streams = Vec::new();
    for node in &nodes {
        let request =
            crate::support::client().get(format!("{}/events/stream?topic=a.b", node.url)).bearer_auth(&made);
        streams.push(request.send().await.unwrap());
    }
    let began = Instant::now();
    key(&store, &["revoke", &made[4..16]]);
    for mut stream in streams {
        in_time("the stream ends", async { while let Ok(Some(_)) = stream.chunk().await {} }).await;
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    for node in nodes {
        assert_eq!(status(&node, &made).await, 401);
        node.signal("-TERM");
        node.wait();
    }
    for name in ["one", "other"] {
        let log = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(!log.contains(PASSWORD) && !log.contains(&made[17..]), "{log}");
    }
}

/// The command runs beside the nodes, none of which it knows of.
#[tokio::test]
async fn what_is_erased_and_released_in_the_database_is_so_on_every_node() {
    let Some(postgres) = TestServer::start(&[]) else { return };
    let store = postgres.url_of("aggregator");
    let node = || Process::spawn(Process::command(&["--listen", "127.0.0.1:0", "--store", &store]));
    let [one, other] = [node(), node()];
    let published = one.publish(&json!({"topic": "t", "event_id": "1", "payload": "pg-canary"})).await;
    assert_eq!(published["stored"], 1, "{published}");
    // The other node has the values of a conflict in memory, too.
    let conflicts = async || other.get("/duplicates").await.to_string();
    until("a conflict is compared", async || {
        // A node that has just begun forgets values once, because it does not know what was erased before.
        other.publish(&json!({"topic": "t", "event_id": "1", "payload": "pg-canary-again"})).await;
        conflicts().await.contains("pg-canary-again")
    })
    .await;
    let streamed = async |node: &Process| {
        let url = format!("{}/events/stream?topic=t", node.url);
        let mut stream = crate::support::client().get(url).send().await.unwrap();
        in_time("an event comes", async {
            let mut text = String::new();
            while !text.contains("\"event_id\":\"1\"") || !text.contains("\"payload\"") {
                text.push_str(std::str::from_utf8(&stream.chunk().await.unwrap().unwrap()).unwrap());
            }
            text
        })
        .await
    };
    // From now on both have it in memory.
    for node in [&one, &other] {
        assert!(streamed(node).await.contains("pg-canary"));
    }
    let amend = |what: &str| {
        let output = Process::command(&[what, "--store", &store, "t", "1"]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{what}: {said}");
        said
    };
    let said = amend("erase");
    assert!(said.contains("VACUUM"), "what is left in the database is not said: {said}");
    for node in [&one, &other] {
        until("the node has forgotten it", async || {
            let told = streamed(node).await;
            !told.contains("pg-canary") && told.contains(r#"{"erased":true}"#)
        })
        .await;
    }
    until("the values are forgotten", async || !conflicts().await.contains("pg-canary")).await;
    let again = other.publish(&json!({"topic": "t", "event_id": "1", "payload": "another"})).await;
    assert_eq!((&again["duplicates"], &again["conflicts"]), (&json!(1), &json!(0)), "{again}");
    amend("release");
    let anew = other.publish(&json!({"topic": "t", "event_id": "1", "payload": "another"})).await;
    assert_eq!(anew["results"][0]["seq"], 2, "{anew}");
    for node in [one, other] {
        node.signal("-TERM");
        node.wait();
    }
}
