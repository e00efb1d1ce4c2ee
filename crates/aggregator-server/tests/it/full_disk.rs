//! A disk that is full, with the log on it too: the real program on a real file system of a few megabytes.
//!
//! The file system is in memory, in a mount namespace of its own: it is gone with the last process in it, however the
//! test ends.

mod kept_alive;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Process, event, until};

/// Asks for root's right to mount; without it the tests here are skipped, unless this says 1.
const REQUIRE: &str = "AGGREGATOR_REQUIRE_MOUNT";

/// A file system that is full soon.
struct Disk {
    /// Keeps the namespace, until its standard input ends.
    keeper: Child,
    mounted_at: TempDir,
}

impl Disk {
    fn new(size: &str) -> Option<Self> {
        const MOUNT: &str = r#"mount -t tmpfs -o size="$0" none "$1" && echo mounted && cat"#;
        let mounted_at = TempDir::new().unwrap();
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "sh", "-c", MOUNT, size]).arg(mounted_at.path());
        let keeper = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let why = match keeper {
            Ok(mut keeper) => {
                let mut line = String::new();
                BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
                if line == "mounted\n" {
                    return Some(Self { keeper, mounted_at });
                }
                String::from_utf8(keeper.wait_with_output().unwrap().stderr).unwrap()
            }
            Err(error) => error.to_string(),
        };
        test_skip::skip(&format!("nothing can be mounted ({})", why.trim()), REQUIRE);
        None
    }

    /// A file on it, from outside of the namespace.
    fn path(&self, name: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.keeper.id()));
        root.join(self.mounted_at.path().strip_prefix("/").unwrap()).join(name)
    }

    fn store(&self) -> String {
        format!("sqlite:{}", self.mounted_at.path().join("events.db").display())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.keeper.id()));
        command.arg(env!("CARGO_BIN_EXE_aggregator-server")).args(args);
        // Options of whoever runs the tests.
        for (name, _) in
            std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"AGGREGATOR_"))
        {
            command.env_remove(name);
        }
        command
    }

    /// Starts a server that has its store and its log here.
    fn serve(&self) -> Process {
        self.serve_with(&[])
    }

    fn serve_with(&self, args: &[&str]) -> Process {
        let log = File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = self.command(&["--listen", "127.0.0.1:0", "--store", &self.store()]);
        command.args(["--log", if args.is_empty() { "debug" } else { "warn" }]).args(args).stderr(log);
        Process::spawn(command)
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let mut ballast = File::options().create(true).append(true).open(self.path("ballast")).unwrap();
        for block in [1 << 16, 1 << 12, 1] {
            loop {
                match ballast.write_all(&vec![0; block]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => panic!("the disk cannot be filled: {error}"),
                }
            }
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.path("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        self.keeper.wait().unwrap();
    }
}

/// A publisher that knows what was acknowledged.
struct Publisher {
    client: Client,
    acknowledged: u32,
}

impl Publisher {
    /// Publishes the next event; what the answer calls its problem, or nothing.
    async fn publish(&mut self, server: &Process) -> Option<String> {
        let mut event = event("t", self.acknowledged);
        event["payload"] = json!("x".repeat(5_000));
        let answer = self.client.post(format!("{}/publish", server.url)).json(&event).send().await.unwrap();
        if answer.status() == 202 {
            self.acknowledged += 1;
            return None;
        }
        assert_eq!(answer.status(), 503);
        let problem: Value = answer.json().await.unwrap();
        Some(problem["type"].as_str().unwrap().strip_prefix("urn:aggregator:problem:").unwrap().to_owned())
    }

    async fn get(&self, server: &Process, path: &str) -> (u16, Value) {
        let answer = self.client.get(format!("{}{path}", server.url)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// What is read is what was acknowledged, and perhaps the one event whose fate nobody was told.
    async fn check(&self, server: &Process) {
        let (status, page) = self.get(server, "/events?topic=t&limit=1000").await;
        assert_eq!(status, 200, "{page}");
        let events = page["events"].as_array().unwrap();
        let surplus = events.len() - self.acknowledged as usize;
        assert!(surplus <= 1, "{} of {} events", events.len(), self.acknowledged);
        let ids: Vec<_> = events.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        let expected: Vec<_> = (0..events.len()).map(|id| id.to_string()).collect();
        assert_eq!(ids, expected);
    }

    async fn check_it_is_full(&mut self, server: &Process) {
        for _ in 0..3 {
            assert_eq!(self.publish(server).await.as_deref(), Some("no-space"));
        }
        self.check(server).await;
        self.wait_for(server, "/readyz", 503).await;
        let (_, ready) = self.get(server, "/readyz").await;
        assert_eq!(ready["type"], "urn:aggregator:problem:no-space", "{ready}");
        assert!(ready["detail"].as_str().unwrap().contains("make room"), "{ready}");
        let (status, health) = self.get(server, "/health").await;
        assert_eq!((status, &health["status"]), (503, &json!("no-space")), "{health}");
        assert!(health["reason"].as_str().unwrap().contains("no space left"), "{health}");
    }

    async fn wait_for(&self, server: &Process, path: &str, status: u16) {
        // With a pause between two looks: the server logs every answer, and its log is on the small disk, too.
        until(&format!("{path} is {status}"), async || self.get(server, path).await.0 == status).await;
    }
}

fn publisher() -> Publisher {
    Publisher { client: crate::support::client(), acknowledged: 0 }
}

#[tokio::test]
async fn a_disk_that_fills_up_under_the_server_is_a_503_until_there_is_room() {
    let Some(disk) = Disk::new("4m") else { return };
    let server = disk.serve();
    let mut publisher = publisher();
    for _ in 0..20 {
        assert_eq!(publisher.publish(&server).await, None);
    }
    publisher.wait_for(&server, "/readyz", 200).await;
    for _ in 0..2 {
        disk.fill();
        while publisher.publish(&server).await.is_none() {}
        disk.fill();
        publisher.check_it_is_full(&server).await;
        disk.make_room();
        // Without a publish: who is told that it is not ready sends none.
        publisher.wait_for(&server, "/readyz", 200).await;
        publisher.wait_for(&server, "/health", 200).await;
        assert_eq!(publisher.publish(&server).await, None);
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    let check = disk.command(&["check", "--store", &disk.store()]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

#[tokio::test]
async fn a_start_on_a_full_disk_serves_what_is_there_and_takes_events_once_there_is_room() {
    let Some(disk) = Disk::new("4m") else { return };
    let mut publisher = publisher();
    // After an end in order the log is empty, after a kill it is not.
    for kill in [false, true, false, true] {
        let server = disk.serve();
        for _ in 0..20 {
            assert_eq!(publisher.publish(&server).await, None);
        }
        if kill {
            server.kill();
        } else {
            server.signal("-TERM");
            assert_eq!(server.wait().code(), Some(0));
        }
        // As SQLite leaves it now and then, and as a backup has it. Without it there is no way to the log.
        fs::remove_file(disk.path("events.db-shm")).unwrap();
        disk.fill();
        let server = disk.serve();
        // It is known before anybody publishes.
        assert_eq!(publisher.get(&server, "/readyz").await.0, 503);
        publisher.check(&server).await;
        publisher.check_it_is_full(&server).await;
        server.signal("-TERM");
        assert_eq!(server.wait().code(), Some(0));
        disk.fill();
        let server = disk.serve();
        publisher.check_it_is_full(&server).await;
        disk.make_room();
        publisher.wait_for(&server, "/readyz", 200).await;
        assert_eq!(publisher.publish(&server).await, None);
        publisher.check(&server).await;
        server.signal("-TERM");
        assert_eq!(server.wait().code(), Some(0));
    }
    let check = disk.command(&["check", "--store", &disk.store()]).output().unwrap();
    assert!(check.status.success(), "{check:?}");
}

/// A new store has nothing to be read.
#[test]
fn a_new_store_on_a_full_disk_is_refused_in_words() {
    let Some(disk) = Disk::new("1m") else { return };
    disk.fill();
    let output = disk.command(&["--listen", "127.0.0.1:0", "--store", &disk.store()]).output().unwrap();
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.contains("no space left for the store"), "{message}");
}

/// A limit on the size of a file, or a quota, is not a full disk for SQLite.
#[tokio::test]
async fn a_file_that_may_not_grow_is_no_space_and_no_failure() {
    let directory = TempDir::new().unwrap();
    let store = format!("sqlite:{}", directory.path().join("events.db").display());
    let mut command = Command::new("sh");
    // In blocks of 512 bytes.
    command.args(["-c", "ulimit -S -f 2048 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_aggregator-server")]);
    command.args(["--listen", "127.0.0.1:0", "--store", &store]).stderr(Stdio::null());
    let server = Process::spawn(command);
    let mut publisher = publisher();
    let problem = loop {
        if let Some(problem) = publisher.publish(&server).await {
            break problem;
        }
    };
    assert_eq!(problem, "no-space");
    assert_eq!(publisher.publish(&server).await.as_deref(), Some("no-space"));
    publisher.check(&server).await;
    let raised =
        Command::new("prlimit").args(["--fsize=unlimited:", "--pid", &server.id().to_string()]).status();
    assert!(raised.unwrap().success());
    assert_eq!(publisher.publish(&server).await, None);
    publisher.check(&server).await;
}

#[tokio::test]
async fn a_backup_for_which_there_is_no_room_is_refused_at_once_and_nothing_stays_of_it() {
    let Some(disk) = Disk::new("48m") else { return };
    let server = disk.serve();
    let mut publisher = Publisher { client: crate::support::client(), acknowledged: 0 };
    for _ in 0..100 {
        assert_eq!(publisher.publish(&server).await, None);
    }
    disk.fill();
    let out = disk.mounted_at.path().join("copy.db");
    let args = ["backup", "--store", &disk.store(), "--out", out.to_str().unwrap()];
    let (code, said) = Process::run(disk.command(&args));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("a copy needs ") && said.contains("No space left on device"), "{said}");
    let names = fs::read_dir(disk.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().contains("copy")));
    disk.make_room();
    let (code, said) = Process::run(disk.command(&args));
    assert_eq!(code, 0, "{said}");
}

#[test]
fn an_upgrade_without_room_for_the_copy_is_refused_and_the_store_stays_as_it_is() {
    let Some(disk) = Disk::new("4m") else { return };
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../aggregator-core/tests/golden/format-2.db");
    let (golden, path) = (fs::read(golden).unwrap(), disk.path("events.db"));
    fs::write(&path, &golden).unwrap();
    disk.fill();
    let args = ["upgrade", "--store", &disk.store()];
    let (code, said) = Process::run(disk.command(&args));
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("a copy needs ") && said.contains("No space left on device"), "{said}");
    assert_eq!(fs::read(&path).unwrap(), golden);
    let names = fs::read_dir(disk.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().contains("format-2")));
    disk.make_room();
    let (code, said) = Process::run(disk.command(&args));
    assert_eq!((code, fs::read(disk.path("events.db.format-2")).unwrap()), (0, golden), "{said}");
}
