//! `backup`, `restore` and `adopt`: the real program, beside a server that takes events.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::support::{Process, client, events, refused, until};

/// Publishes batches, and counts the events that were acknowledged, from number 0 on.
struct Load {
    acknowledged: Arc<AtomicU32>,
    ended: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Load {
    const BATCH: u32 = 100;

    /// Goes on from event `first` until it is told to end or the server is gone.
    async fn on(server: &Process, first: u32) -> Self {
        let (acknowledged, ended) = (Arc::new(AtomicU32::new(first)), Arc::<AtomicBool>::default());
        let task = tokio::spawn({
            let (url, acknowledged, ended) =
                (server.url.clone(), Arc::clone(&acknowledged), Arc::clone(&ended));
            async move {
                let client = client();
                while !ended.load(Ordering::SeqCst) {
                    let next = acknowledged.load(Ordering::SeqCst);
                    let batch = events("t", next..next + Self::BATCH);
                    let Ok(answer) = client.post(format!("{url}/publish")).json(&batch).send().await else {
                        return;
                    };
                    if answer.status() == 202 {
                        acknowledged.store(next + Self::BATCH, Ordering::SeqCst);
                    }
                }
            }
        });
        let load = Self { acknowledged, ended, task };
        until("events are taken", async || load.acknowledged() >= first + 10 * Self::BATCH).await;
        load
    }

    fn acknowledged(&self) -> u32 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    async fn end(self) -> u32 {
        self.ended.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
        self.acknowledged.load(Ordering::SeqCst)
    }
}

fn store_at(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// Runs a command to its end on a thread that may wait.
async fn command(args: &[&str]) -> (i32, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let run = move || refused(&args.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn start_backup(store: &Path, out: &Path) -> std::process::Child {
    let mut command = Process::command(&["backup", "--store", &store_at(store), "--out"]);
    command.arg(out).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

async fn stop(server: Process) {
    server.signal("-TERM");
    let ended = tokio::task::spawn_blocking(move || server.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Sends the first `count` events to a server over `store` once more: each of them is a repeat.
async fn assert_holds(store: &Path, count: u32) {
    let server = Process::start(store, &[]);
    for first in (0..count).step_by(1_000) {
        let answer = server.publish(&events("t", first..count.min(first + 1_000))).await;
        assert_eq!(answer["stored"], 0, "{answer:.300}");
    }
}

#[tokio::test]
async fn a_server_is_backed_up_while_it_takes_events_and_the_backup_is_restored() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = Process::start(&path("events.db"), &[]);
    let load = Load::on(&server, 0).await;
    let before = load.acknowledged();
    let out = path("copy.db");
    let (code, said) =
        command(&["backup", "--store", &store_at(&path("events.db")), "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("MiB copied to") && said.contains("and found sound"), "{said}");
    let (code, said) =
        command(&["backup", "--store", &store_at(&path("events.db")), "--out", out.to_str().unwrap()]).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("copy.db exists: name a new file"), "{said}");
    let all = load.end().await;
    drop(server);

    let restored = path("restored/events.db");
    let restore = ["restore", out.to_str().unwrap(), "--store", &store_at(&restored)];
    let (code, said) = command(&restore).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("found sound"), "{said}");
    assert_holds(&restored, before).await;
    let (code, said) = command(&restore).await;
    assert!(code == 1 && said.contains("exists: name a new file"), "{said}");
    // The original has lost nothing, and its file is adopted as if it were a copy.
    let (code, said) = command(&["adopt", "--store", &store_at(&path("events.db"))]).await;
    assert!(code == 1 && said.contains("accept-copied-files") || code == 0, "{said}");
    assert_holds(&path("events.db"), all).await;
}

#[tokio::test]
async fn a_store_that_no_server_has_open_is_backed_up_by_the_command_itself() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let server = Process::start(&path("events.db"), &[]);
    server.publish(&events("t", 0..10)).await;
    stop(server).await;
    let (code, said) = command(&[
        "backup",
        "--store",
        &store_at(&path("events.db")),
        "--out",
        path("copy.db").to_str().unwrap(),
    ])
    .await;
    assert_eq!(code, 0, "{said}");
    assert_holds(&path("copy.db"), 10).await;

    let (code, said) = command(&["compact", "--store", &store_at(&path("events.db"))]).await;
    assert!(code == 0 && said.contains("found sound"), "{said}");
    let server = Process::start(&path("events.db"), &["--admin-socket", "off"]);
    let (code, said) = command(&[
        "backup",
        "--store",
        &store_at(&path("events.db")),
        "--out",
        path("other.db").to_str().unwrap(),
    ])
    .await;
    assert!(code == 1 && said.contains("a server that has the store open has to have one"), "{said}");
    drop(server);
    for store in ["memory:", "memory:4"] {
        for args in [vec!["backup", "--out", "x"], vec!["restore", "x"], vec!["adopt"], vec!["compact"]] {
            let (code, said) = command(&[&args[..], &["--store", store]].concat()).await;
            assert!(code == 1 && said.contains("is not a file"), "{said}");
        }
    }
    let missing = store_at(&path("missing.db"));
    let (code, said) = command(&["backup", "--store", &missing, "--out", path("x").to_str().unwrap()]).await;
    assert!(code == 1 && said.contains("missing.db does not exist"), "{said}");
    let copy = store_at(&path("copy.db"));
    let (code, said) = command(&["backup", "--store", &copy, "--out", "/no/such/directory/x"]).await;
    assert!(code == 1 && said.contains("/no/such/directory/x cannot be used: No such file"), "{said}");
    assert!(!said.contains("admin socket"), "{said}");
    assert!(!path("missing.db").exists() && !path("x").exists());
}

/// The command or the server, at many instants: while it copies, while it checks, and after.
#[tokio::test]
async fn a_backup_that_is_killed_at_any_instant_leaves_a_whole_copy_or_none() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let copies = directory.path().join("copies");
    std::fs::create_dir(&copies).unwrap();
    let mut server = Process::start(&store, &[]);
    let mut all = 0;
    let (mut none, mut whole) = (0, 0);
    for round in 0..10_u32 {
        let load = Load::on(&server, all).await;
        let before = load.acknowledged();
        let out = copies.join(format!("{round}.db"));
        let mut backup = start_backup(&store, &out);
        tokio::time::sleep(Duration::from_millis(u64::from(round * round * 6))).await;
        if round % 2 == 0 {
            backup.kill().unwrap();
            backup.wait().unwrap();
            all = load.end().await;
            // The server notices, and takes the next one.
            let next = copies.join("next.db");
            let (code, said) = again(&store, &next).await;
            assert_eq!(code, 0, "{said}");
            std::fs::remove_file(next).unwrap();
        } else {
            server.kill();
            all = load.end().await;
            let ended = tokio::task::spawn_blocking(move || backup.wait().unwrap()).await.unwrap();
            // The server may be killed once the copy has its name, and before it has said so.
            assert!(!ended.success() || out.exists(), "round {round}: {ended}");
            server = Process::start(&store, &[]);
        }
        if !out.exists() {
            none += 1;
            continue;
        }
        whole += 1;
        let (code, said) = command(&["check", "--store", &store_at(&out)]).await;
        assert_eq!(code, 0, "round {round}: {said}");
        assert_holds(&out, before).await;
    }
    assert!(none > 0, "{none} killed in time, {whole} too late");
    stop(server).await;
    assert_holds(&store, all).await;
    // The last one with each name has removed what the killed ones left.
    let leftovers = names(&copies).into_iter().filter(|name| name.ends_with(".copy")).count();
    assert!(leftovers <= 5, "{:?}", names(&copies));
}

/// Until the server has given up the one before.
async fn again(store: &Path, out: &Path) -> (i32, String) {
    let args: [String; 5] =
        ["backup".into(), "--store".into(), store_at(store), "--out".into(), out.display().to_string()];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    for _ in 0..1_000 {
        let (code, said) = command(&args).await;
        if code == 0 || !said.contains("is being made") {
            return (code, said);
        }
    }
    panic!("the server never gives up");
}

/// A store that is closed while a copy of it is being made: the copy is given up, and the store is one file.
#[tokio::test]
async fn a_server_that_is_asked_to_end_gives_its_backup_up() {
    let directory = TempDir::new().unwrap();
    let store = directory.path().join("events.db");
    let server = Process::start(&store, &[]);
    let load = Load::on(&server, 0).await;
    let all = load.end().await;
    let mut backups = Vec::new();
    for n in 0..3 {
        backups.push(start_backup(&store, &directory.path().join(format!("copy-{n}.db"))));
    }
    stop(server).await;
    for mut backup in backups {
        tokio::task::spawn_blocking(move || backup.wait().unwrap()).await.unwrap();
    }
    let log = std::fs::metadata(format!("{}-wal", store.display()));
    assert_eq!(log.map_or(0, |log| log.len()), 0, "the store was closed in order");
    assert!(
        !names(directory.path()).iter().any(|name| name.ends_with(".copy")),
        "{:?}",
        names(directory.path())
    );
    assert_holds(&store, all).await;
}

/// At many instants: the file is the old one or the new one, and a store that was to be made is there or not.
#[tokio::test]
async fn a_restore_or_a_compaction_that_is_killed_leaves_a_whole_store() {
    let directory = TempDir::new().unwrap();
    let path = |name: &str| directory.path().join(name);
    let store = path("events.db");
    let server = Process::start(&store, &[]);
    let load = Load::on(&server, 0).await;
    until("there is something to copy", async || load.acknowledged() >= 20_000).await;
    let all = load.end().await;
    let (code, said) =
        command(&["backup", "--store", &store_at(&store), "--out", path("copy.db").to_str().unwrap()]).await;
    assert_eq!(code, 0, "{said}");
    stop(server).await;
    for round in 0..8_u64 {
        let restored = path(&format!("restored-{round}.db"));
        let commands = [
            Process::command(&["compact", "--store", &store_at(&store)]),
            Process::command(&[
                "restore",
                path("copy.db").to_str().unwrap(),
                "--store",
                &store_at(&restored),
            ]),
        ];
        for mut command in commands {
            let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            tokio::time::sleep(Duration::from_millis(round * round * 8)).await;
            child.kill().unwrap();
            child.wait().unwrap();
        }
        for store in [&store, &restored] {
            if store == &restored && !restored.exists() {
                continue;
            }
            let (code, said) = command(&["check", "--store", &store_at(store)]).await;
            assert_eq!(code, 0, "round {round}: {said}");
        }
    }
    // What the killed ones left does not matter to the next one, and is removed by it.
    let (code, said) = command(&["compact", "--store", &store_at(&store)]).await;
    assert_eq!(code, 0, "{said}");
    assert!(
        !names(directory.path()).iter().any(|name| name.starts_with(".events.db.")),
        "{:?}",
        names(directory.path())
    );
    assert_holds(&store, all).await;
}
