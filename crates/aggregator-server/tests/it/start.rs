//! How the program starts: its options, its environment, where it listens, and what a start that fails leaves behind.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Process, refused};

/// A server on a free port that keeps nothing, with these variables; its log is piped.
fn start_with_variables(variables: &[(&str, &str)]) -> Process {
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:"]);
    command.envs(variables.iter().copied()).stderr(Stdio::piped());
    Process::spawn(command)
}

/// Every variable that `--help` names.
fn variables() -> Vec<String> {
    let help = Process::command(&["--help"]).output().unwrap().stdout;
    let help = String::from_utf8(help).unwrap();
    let names = help.split("[env: ").skip(1).map(|rest| rest.split('=').next().unwrap().to_owned());
    names.collect()
}

#[test]
fn a_variable_that_is_empty_counts_as_unset() {
    let directory = TempDir::new().unwrap();
    let names = variables();
    assert!(names.len() > 20, "{names:?}");
    let mut command = Process::command(&["--listen", "127.0.0.1:0"]);
    command.envs(names.iter().map(|name| (name, ""))).current_dir(directory.path()).stderr(Stdio::piped());
    let server = Process::spawn(command);
    assert!(directory.path().join("data/aggregator.db").exists(), "the default store is used");
    let log = server.stop_and_read_stderr();
    assert!(log.contains("draining"), "the log is on: {log}");
}

#[test]
fn the_help_names_the_variables_that_are_empty_too() {
    let mut command = Process::command(&["--help"]);
    let help = command.env("AGGREGATOR_WORKERS", "").output().unwrap().stdout;
    assert!(String::from_utf8(help).unwrap().contains("[env: AGGREGATOR_WORKERS=]"));
}

#[test]
fn a_misspelt_variable_is_refused_and_the_nearest_one_named() {
    for (misspelt, meant) in [
        ("AGGREGATOR_QUEU_EVENTS", "AGGREGATOR_QUEUE_EVENTS"),
        ("AGGREGATOR_REQUIRE_SYNC_STANBY", "AGGREGATOR_REQUIRE_SYNC_STANDBY"),
        ("AGGREGATOR_LISTNE", "AGGREGATOR_LISTEN"),
    ] {
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:"]);
        command.env(misspelt, "1");
        let (code, message) = Process::run(command);
        assert_eq!(code, 2, "{message}");
        assert!(message.contains(misspelt) && message.contains(&format!("{meant}?")), "{message}");
    }
}

#[test]
fn a_variable_that_is_no_option_is_warned_of_and_no_reason_not_to_start() {
    let log = start_with_variables(&[("AGGREGATOR_FOO", "1"), ("AGGREGATOR_QUEUE_SIZE", "1")])
        .stop_and_read_stderr();
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 2, "{log}");
    assert!(warnings[0].contains("AGGREGATOR_FOO") && !warnings[0].contains("did you mean"), "{log}");
    assert!(warnings[1].contains("AGGREGATOR_QUEUE_SIZE") && warnings[1].contains("did you mean"), "{log}");
}

#[test]
fn the_variables_that_kubernetes_sets_for_a_service_of_our_name_are_not_warned_of() {
    let log = start_with_variables(&[
        ("AGGREGATOR_SERVICE_HOST", "10.0.0.7"),
        ("AGGREGATOR_SERVICE_PORT", "8080"),
        ("AGGREGATOR_SERVICE_PORT_HTTP", "8080"),
        ("AGGREGATOR_PORT", "tcp://10.0.0.7:8080"),
        ("AGGREGATOR_PORT_8080_TCP", "tcp://10.0.0.7:8080"),
        ("AGGREGATOR_PORT_8080_TCP_ADDR", "10.0.0.7"),
        ("AGGREGATOR_SERVER_SERVICE_HOST", "10.0.0.7"),
    ])
    .stop_and_read_stderr();
    assert!(!log.contains("WARN"), "{log}");
    let log = start_with_variables(&[("AGGREGATOR_PORT", "9090")]).stop_and_read_stderr();
    assert!(log.contains("AGGREGATOR_PORT "), "that was somebody's wish: {log}");
}

#[test]
fn a_bad_value_from_the_environment_names_its_variable() {
    for (name, option) in [
        ("AGGREGATOR_WORKERS", "--workers"),
        ("AGGREGATOR_STORE", "--store"),
        ("AGGREGATOR_ALLOW_ANONYMOUS", "--allow-anonymous"),
        ("AGGREGATOR_BODY_TIMEOUT", "--body-timeout"),
    ] {
        let mut command = Process::command(&[]);
        command.env(name, "many");
        let (code, message) = Process::run(command);
        assert!(code == 2 && message.contains(name) && message.contains(option), "{message}");
    }
    let mut command = Process::command(&["--workers", "many"]);
    command.env("AGGREGATOR_WORKERS", "5");
    let (_, message) = Process::run(command);
    assert!(!message.contains("AGGREGATOR_WORKERS"), "it did not come from there: {message}");
}

#[test]
fn a_value_beyond_its_limit_is_refused_with_the_option_the_limit_and_the_way_out() {
    for (option, value, expected) in [
        ("--workers", "0", "must be a whole number from 1 up"),
        ("--workers", "many", "must be a whole number from 1 up"),
        ("--group-events", "0", "must be a whole number from 1 up"),
        ("--queue-events", "-1", "must be a whole number from 0 up"),
        ("--max-topics", "1.5", "must be a whole number from 0 up"),
        ("--readers", "0", "must be a whole number from 1 to 256"),
        ("--max-json-depth", "3", "must be a whole number from 4 to 1024"),
        ("--max-json-depth", "99999", "must be a whole number from 4 to 1024"),
        ("--queue-bytes", "0", "must be at least 1 byte"),
        ("--queue-bytes", "lots", "must be a whole number of bytes, such as 65536, 64KiB or 16MiB"),
        ("--queue-bytes", "64MB", "write 64MiB (67108864 bytes) or 64000000"),
        ("--queue-bytes", "64mib", "write 64MiB (67108864 bytes)"),
        ("--queue-bytes", "1.5GiB", "must be a whole number"),
        ("--queue-bytes", "99999999999GiB", "is more than this machine can address"),
        ("--body-timeout", "30", "such as 500ms, 30s or 2min"),
        ("--body-timeout", "soon", "such as 500ms, 30s or 2min"),
    ] {
        let (code, message) = refused(&[&format!("{option}={value}"), "--store", "memory:"]);
        assert_eq!(code, 2, "{message}");
        let first = message.lines().next().unwrap();
        assert!(first.contains(&format!("'{value}'")) && first.contains(option), "{message}");
        assert!(first.contains(expected), "{message}");
    }
}

#[test]
fn a_store_that_was_written_in_another_form_is_refused_with_the_form_that_was_meant() {
    let directory = TempDir::new().unwrap();
    for (given, meant) in [
        ("data/a.db", "sqlite:data/a.db"),
        ("a.db", "sqlite:a.db"),
        ("/data/a.db", "sqlite:/data/a.db"),
        ("sqlite3:a.db", "sqlite:a.db"),
        ("SQLite:a.db", "sqlite:a.db"),
        ("file:a.db", "sqlite:a.db"),
        ("sqlite://a.db", "sqlite:a.db"),
        ("sqlite:///data/a.db", "sqlite:/data/a.db"),
        ("sqlite:///data/a.db", "sqlite:data/a.db"),
        ("sqlite:////data/a.db", "sqlite:/data/a.db"),
        ("sqlite:a.db?mode=rwc", "sqlite:a.db"),
        ("sqlite:file:a.db?mode=rwc", "sqlite:a.db"),
        ("sqlite::memory:", "memory:"),
        ("sqlite://:memory:", "memory:"),
        ("sqlite:file::memory:?cache=shared", "memory:"),
        (":memory:", "memory:"),
        ("memory", "memory:"),
        ("sqlite:~/a.db", "sqlite:$HOME/a.db"),
        ("~/a.db", "sqlite:$HOME/a.db"),
        ("sqlite:$HOME/a.db", "whole path"),
        ("sqlite:data/", "sqlite:data/aggregator.db"),
        #[cfg(feature = "postgres")]
        ("postgres:events", "postgres://USER@HOST/DATABASE"),
    ] {
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", given]);
        command.current_dir(directory.path()).env("HOME", directory.path());
        let (code, message) = Process::run(command);
        assert_eq!(code, 2, "{given}: {message}");
        assert!(message.contains(meant) && message.contains("--store"), "{given}: {message}");
        assert!(message.lines().next().unwrap().contains(given), "{given}: {message}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no file was made");
}

#[test]
fn what_may_hold_a_password_is_not_repeated() {
    for secret in ["postgre://me:s3cret@db/events", "mysql:me:s3cret@db", "host=db password=s3cret"] {
        let (code, message) = refused(&["--store", secret]);
        assert!(code == 2 && !message.contains("s3cret"), "{message}");
    }
}

#[test]
fn a_host_name_can_be_listened_on_and_asked_for_its_health() {
    let mut command = Process::command(&["--listen", "localhost:0", "--store", "memory:"]);
    command.stderr(Stdio::null());
    let server = Process::spawn(command);
    let address = server.url.strip_prefix("http://").unwrap();
    TcpStream::connect(address).unwrap();
    let (host, port) = address.rsplit_once(':').unwrap();
    assert!(["127.0.0.1", "[::1]"].contains(&host), "{address}");
    assert_eq!(refused(&["healthcheck", "--listen", &format!("localhost:{port}")]), (0, String::new()));
}

#[test]
fn a_name_for_all_interfaces_has_to_be_asked_for_as_well() {
    // The resolver takes this for 0.0.0.0.
    let (code, message) = refused(&["--listen", "0:0", "--store", "memory:"]);
    assert!(code == 2 && message.contains("--allow-anonymous"), "{message}");
}

#[test]
fn an_address_that_is_none_is_refused_with_examples() {
    for address in
        ["nowhere", "8080", "localhost", "::1", "http://localhost:8080", "localhost:99999", ":8080", ""]
    {
        let (code, message) = refused(&[&format!("--listen={address}"), "--store", "memory:"]);
        assert!(code == 2 && message.contains("127.0.0.1:8080"), "{address}: {message}");
    }
    let (code, message) = refused(&["--listen", "name.invalid:8080", "--store", "memory:"]);
    assert!(code == 1 && message.contains("--listen name.invalid:8080"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn a_start_that_finds_its_port_taken_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let store = format!("sqlite:{}/deep/a.db", directory.path().display());
    let (code, message) = refused(&["--listen", &taken, "--store", &store]);
    assert!(code == 1 && message.contains("--listen") && message.contains(&taken), "{message}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn an_import_that_finds_no_input_leaves_nothing_behind() {
    let directory = TempDir::new().unwrap();
    let store = format!("sqlite:{}/deep/a.db", directory.path().display());
    let nowhere = directory.path().join("nowhere").display().to_string();
    let (code, message) = refused(&["import", "--in", &nowhere, "--store", &store]);
    assert!(code == 1 && message.contains(&nowhere), "{message}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn what_reads_a_store_that_is_not_there_says_so_and_makes_none() {
    let directory = TempDir::new().unwrap();
    for args in [&["check"][..], &["check", "--rebuild-index"], &["export", "--out", "-"]] {
        let mut command = Process::command(args);
        command.args(["--store", "sqlite:deep/a.db"]).current_dir(directory.path());
        let (code, message) = Process::run(command);
        let path = fs::canonicalize(directory.path()).unwrap().join("deep/a.db");
        assert!(code == 1 && message.contains(&format!("{} does not exist", path.display())), "{message}");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "{args:?}");
    }
}

#[test]
fn the_first_line_names_the_file_with_its_whole_path() {
    let directory = TempDir::new().unwrap();
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "sqlite:deep/../a.db"]);
    fs::create_dir(directory.path().join("deep")).unwrap();
    command.current_dir(directory.path()).stderr(Stdio::null());
    let server = Process::spawn(command);
    let path = fs::canonicalize(directory.path().join("a.db")).unwrap();
    assert!(
        server.first_line.contains(&format!("store sqlite:{},", path.display())),
        "{}",
        server.first_line
    );
}

/// Ignores SIGHUP for what it runs, or not, whatever the tests were started with.
fn with_hangup(ignored: bool, store: &Path) -> Process {
    let server = Process::command(&["--listen", "127.0.0.1:0", "--store"]);
    let mut command = if ignored {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]);
        shell
    } else {
        let mut env = Command::new("env");
        env.arg("--default-signal=HUP");
        env
    };
    command.arg(server.get_program()).args(server.get_args()).arg(format!("sqlite:{}", store.display()));
    command.stderr(Stdio::null());
    Process::spawn(command)
}

#[tokio::test]
async fn sighup_drains_and_ends_with_0() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("a.db");
    let server = with_hangup(false, &path);
    for batch in 0..20 {
        let events = crate::support::events("t", batch * 100..batch * 100 + 100);
        let request =
            crate::support::client().post(format!("{}/publish?ack=queued", server.url)).json(&events);
        assert_eq!(request.send().await.unwrap().status(), 202);
    }
    server.signal("-HUP");
    assert_eq!(server.wait().code(), Some(0));
    let rows: u64 = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("SELECT count(*) FROM events", [], |row| row.get(0))
        .unwrap();
    assert_eq!(rows, 2_000);
}

#[tokio::test]
async fn a_sighup_that_was_ignored_from_the_start_stays_ignored() {
    let directory = TempDir::new().unwrap();
    let server = with_hangup(true, &directory.path().join("a.db"));
    server.signal("-HUP");
    // It was delivered before `kill` returned; a server that drains takes no further connection.
    for _ in 0..20 {
        let answer = crate::support::client().get(format!("{}/readyz", server.url)).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    server.signal("-TERM");
    assert_eq!(server.wait().code(), Some(0));
}
