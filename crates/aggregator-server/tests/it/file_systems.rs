//! Mounts that would lose what is acknowledged: made for real, each in a name space of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::signal;
use crate::support::{Process, forget_options};

/// What a server wrote that was started behind a mount, and whether it ended in order.
struct Served {
    stdout: String,
    stderr: String,
    code: Option<i32>,
}

/// Runs `mount`, a command of a shell that has `directory` as `$0`, and then the server, until it ends or listens. `None`
/// if nothing can be mounted here.
fn serve_behind(mount: &str, directory: &Path, args: &[&str]) -> Option<Served> {
    let script = format!(r#"{mount} && echo mounted && exec timeout 60 "$@""#);
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &script]).arg(directory);
    unshare.args([env!("CARGO_BIN_EXE_aggregator-server"), "--listen", "127.0.0.1:0"]).args(args);
    forget_options(&mut unshare);
    let mut child = unshare.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let stdout: Vec<_> = lines.by_ref().take(2).collect();
    if stdout.len() == 2 {
        // `timeout` hands it on to the server.
        signal::send("-TERM", &child);
    }
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    if stdout.first().is_none_or(|line| line != "mounted") {
        test_skip::skip(&format!("nothing can be mounted ({})", stderr.trim()), "AGGREGATOR_REQUIRE_MOUNT");
        return None;
    }
    Some(Served { stdout: stdout.join("\n"), stderr, code: output.status.code() })
}

fn store(path: &Path) -> String {
    format!("sqlite:{}", path.display())
}

/// As containers do with a single file. Its log would be in another place, and gone with the container.
#[test]
fn a_store_that_is_mounted_as_a_single_file_is_refused_in_words() {
    let directory = TempDir::new().unwrap();
    let [here, mounted] = ["events.db", "elsewhere/events.db"].map(|name| directory.path().join(name));
    let server = Process::start(&here, &[]);
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
    fs::create_dir(mounted.parent().unwrap()).unwrap();
    fs::write(&mounted, "").unwrap();

    let mount = r#"mount --bind "$0/events.db" "$0/elsewhere/events.db""#;
    let args = ["--store", &store(&mounted)];
    let Some(Served { stderr: message, code, .. }) = serve_behind(mount, directory.path(), &args) else {
        return;
    };
    assert_eq!((code, message.lines().count()), (Some(1), 1), "{message}");
    assert!(message.contains("is mounted as a single file"), "{message}");
    assert_eq!(fs::read_dir(mounted.parent().unwrap()).unwrap().count(), 1, "it leaves nothing there");
}

#[test]
fn a_store_on_an_overlay_that_omits_syncs_is_refused_unless_that_is_allowed() {
    const MOUNT: &str = r#"mkdir "$0/l" "$0/u" "$0/w" "$0/m" && mount -t overlay overlay \
        -o "lowerdir=$0/l,upperdir=$0/u,workdir=$0/w,volatile" "$0/m""#;
    for allow in [false, true] {
        let directory = TempDir::new().unwrap();
        let store = store(&directory.path().join("m/events.db"));
        let mut args = vec!["--store", &store];
        args.extend(allow.then_some("--allow-unsafe-filesystem"));
        let Some(served) = serve_behind(MOUNT, directory.path(), &args) else { return };
        let message = served.stderr;
        assert!(message.contains("is on an overlay that is mounted volatile"), "{message}");
        assert_eq!(served.stdout.contains("listening on"), allow, "{message}");
        if allow {
            assert!(message.contains("WARN"), "{message}");
        } else {
            assert_eq!(served.code, Some(1), "{message}");
            assert!(message.contains("--allow-unsafe-filesystem"), "{message}");
            assert_eq!(
                fs::read_dir(directory.path().join("u")).unwrap().count(),
                0,
                "it leaves nothing there"
            );
        }
    }
}

#[test]
fn a_store_in_memory_is_told_of() {
    let directory = TempDir::new().unwrap();
    let store = store(&directory.path().join("m/events.db"));
    let mount = r#"mkdir "$0/m" && mount -t tmpfs tmpfs "$0/m""#;
    let Some(served) = serve_behind(mount, directory.path(), &["--store", &store]) else { return };
    let message = served.stderr;
    assert!(served.stdout.contains("listening on"), "{message}");
    assert!(message.contains("is on tmpfs, in memory, and is lost when the machine ends"), "{message}");
}
