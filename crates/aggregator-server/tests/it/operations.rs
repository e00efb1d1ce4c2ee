//! The commands of docs/operations.md are run, in their order, from an empty directory.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use aggregator_postgres::test_server::TestServer;
use tempfile::TempDir;

use crate::documents::{Block, are_installed, blocks, free_port};

/// What takes longer is stuck: the page promises two minutes.
const PATIENCE_SECONDS: &str = "120";

/// Puts together what a person would type, and says which heading is reached.
fn script(blocks: &[Block]) -> String {
    let steps = blocks.iter().map(|block| format!("echo '## {}' >&2\n{}\n", block.heading, block.text));
    format!(
        "set -eu -o pipefail\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n{}",
        steps.collect::<String>()
    )
}

fn run(script: &str, directory: &Path, programs: &str) -> String {
    let program = Path::new(env!("CARGO_BIN_EXE_aggregator-server")).parent().unwrap();
    let mut bash = Command::new("timeout");
    bash.args([PATIENCE_SECONDS, "bash", "-c", script]).current_dir(directory);
    let path = std::env::var("PATH").unwrap();
    bash.env("PATH", format!("{}:{path}:/usr/sbin{programs}", program.display()));
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"AGGREGATOR_") {
            bash.env_remove(name);
        }
    }
    let Output { status, stdout, stderr } = bash.output().unwrap();
    let [stdout, stderr] = [stdout, stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(status.success(), "{status}:\n{stdout}\n{stderr}");
    format!("{stdout}{stderr}")
}

#[test]
fn every_command_for_operators_works_in_the_order_of_its_page() {
    if !are_installed(&["curl", "/usr/sbin/nginx"]) {
        return;
    }
    let mut blocks: Vec<_> = blocks("docs/operations.md").into();
    assert!(blocks.iter().all(|block| block.language == "sh"), "{blocks:?}");
    // It would build the program once more. What it builds is what runs here.
    let install = blocks.remove(0).text;
    let package = install.strip_prefix("cargo install --locked --path ").unwrap();
    assert!(env!("CARGO_MANIFEST_DIR").ends_with(package), "{install}");
    let database = blocks.pop().unwrap();
    assert_eq!(database.heading, "PostgreSQL");

    let directory = TempDir::new().unwrap();
    let ports = [("127.0.0.1:8080", free_port()), ("127.0.0.1:8081", free_port())];
    let here = |text: &str| {
        ports
            .iter()
            .fold(text.to_owned(), |text, (theirs, ours)| text.replace(theirs, &format!("127.0.0.1:{ours}")))
    };
    let site = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docker/nginx.conf");
    fs::write(directory.path().join("site.conf"), here(&fs::read_to_string(site).unwrap())).unwrap();
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {name};"))
        .join("\n");
    let whole = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log nginx.log;\nevents {{}}\n\
         http {{\naccess_log off;\n{places}\ninclude site.conf;\n}}\n"
    );
    fs::write(directory.path().join("nginx.conf"), whole).unwrap();

    let told = run(&here(&script(&blocks)), directory.path(), "");
    for expected in [
        "\"stored\":2",
        "aggregator_ready 1",
        "monday.db and found sound",
        "restored: ",
        "sqlite:drill/events.db is sound: 2 events",
        "adopted: copy.db",
        "sqlite:copy.db is sound: 2 events",
        "nothing to do: sqlite:data/events.db",
        "drill 1: erased, seq 1",
        "drill 2: released, was seq 2",
        "customer 4711 asked for it",
        "\"event_id\":\"3\"",
    ] {
        assert!(told.contains(expected), "{expected}:\n{told}");
    }
    dump_and_restore(database, directory.path());
}

fn dump_and_restore(block: Block, directory: &Path) {
    let Some(server) = TestServer::start(&[]) else { return };
    let url = server.url();
    drop(aggregator_postgres::PostgresStore::open(&url).unwrap());
    let programs = fs::read_dir("/usr/lib/postgresql").into_iter().flatten();
    let programs = programs.map(|version| format!(":{}", version.unwrap().path().join("bin").display()));
    let drill = url.replace("/postgres", "/drill");
    let text = block.text.replace("postgres://aggregator@db.example/events", &format!("'{url}'"));
    let text = text.replace("postgres://aggregator@db.example/drill", &format!("'{drill}'"));
    let told = run(&script(&[Block { text, ..block }]), directory, &programs.collect::<String>());
    assert!(told.contains("is sound: 0 events"), "{told}");
}
