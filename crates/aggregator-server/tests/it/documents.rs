//! Every command of the README is run, in its order, and answers as the README says.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::publisher_sim;
use crate::support::Process;

/// A block of code: its language, the heading it stands under, its text.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) heading: String,
    pub(crate) text: String,
}

pub(crate) fn blocks(document: &str) -> VecDeque<Block> {
    let top = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    let text = std::fs::read_to_string(top.join(document)).unwrap();
    let (mut blocks, mut heading, mut lines) = (VecDeque::new(), String::new(), text.lines());
    while let Some(line) = lines.next() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        } else if let Some(language) = line.strip_prefix("```") {
            let text: Vec<_> = lines.by_ref().take_while(|line| !line.starts_with("```")).collect();
            let (language, text) = (language.to_owned(), text.join("\n"));
            blocks.push_back(Block { language, heading: heading.clone(), text });
        }
    }
    blocks
}

/// Where the commands of the README are run: with the programs of this build in place of `cargo run`.
struct Shell {
    directory: TempDir,
    /// What the README names, and what it is here.
    replaced: Vec<(&'static str, String)>,
    variables: Vec<(&'static str, String)>,
}

impl Shell {
    /// `cargo run --release --bin NAME [-- ARGUMENTS]` runs the NAME of this build. What the commands leave in the
    /// background ends with them.
    const BEGIN: &str = r#"set -eu -o pipefail
        cargo() {
            [[ "$1 $2 $3" == "run --release --bin" ]] || { echo "cargo $*: not known to this test" >&2; return 1; }
            local program=$PROGRAMS/$4
            shift 4
            [[ ${1:-} != -- ]] || shift
            # In the background it is the job itself, so that the job's end is its end.
            if ((BASHPID == $$)); then "$program" "$@"; else exec "$program" "$@"; fi
        }
        trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT
        "#;

    fn new() -> Self {
        Self { directory: TempDir::new().unwrap(), replaced: Vec::new(), variables: Vec::new() }
    }

    /// What a block of commands writes to standard output.
    fn run(&self, commands: &str) -> String {
        let output = self.command(commands).output().unwrap();
        let (stdout, stderr) =
            [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).into();
        assert!(output.status.success(), "{commands}\nends with {}:\n{stdout}{stderr}", output.status);
        stdout
    }

    /// What runs a block of commands.
    fn command(&self, commands: &str) -> Command {
        let mut commands = commands.to_owned();
        for (theirs, ours) in &self.replaced {
            commands = commands.replace(theirs, ours);
        }
        let mut bash = Command::new("bash");
        for (name, _) in std::env::vars_os() {
            if ["AGGREGATOR_", "PUBLISHER_"].iter().any(|p| name.as_encoded_bytes().starts_with(p.as_bytes()))
            {
                bash.env_remove(name);
            }
        }
        bash.arg("-c").arg(format!("{}{commands}\n", Self::BEGIN)).current_dir(self.directory.path());
        bash.env("PROGRAMS", publisher_sim::program().parent().unwrap());
        bash.envs(self.variables.iter().map(|(name, value)| (name, value)));
        bash.stdin(Stdio::null());
        bash
    }
}

/// What differs from run to run is left out.
fn without_times_and_cursors(mut answer: Value) -> Value {
    match &mut answer {
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                *value = match name.as_str() {
                    "processed_at" | "received_at" | "timestamp" | "next" => Value::String("…".to_owned()),
                    _ => without_times_and_cursors(value.take()),
                };
            }
        }
        Value::Array(items) => {
            items.iter_mut().for_each(|item| *item = without_times_and_cursors(item.take()));
        }
        _ => {}
    }
    answer
}

#[test]
fn the_commands_of_the_readme_work_and_answer_as_it_says() {
    let mut shell = Shell::new();
    let mut blocks = blocks("README.md");
    let mut next = |language: &str, heading: &str| {
        let block = blocks.pop_front().unwrap();
        assert_eq!((block.language.as_str(), block.heading.as_str()), (language, heading), "{block:?}");
        block.text
    };
    let start = "Run it, test it";
    assert_eq!(next("sh", start), "cargo run --release --bin aggregator-server");
    let mut command = Process::command(&["--listen", "127.0.0.1:0"]);
    command.current_dir(shell.directory.path()).stderr(Stdio::null());
    let server = Process::spawn(command);
    let address = server.url.strip_prefix("http://").unwrap().to_owned();
    shell.replaced.push(("localhost:8080", address));
    shell.variables.push(("PUBLISHER_URL", server.url.clone()));

    // It is what runs this test.
    assert_eq!(next("sh", start), "cargo test --workspace");
    let simulator = next("sh", start);
    let tour = "Two minutes with curl";
    for _ in 0..4 {
        let answer = shell.run(&next("sh", tour));
        let (answer, told) = (serde_json::from_str(&answer).unwrap(), next("json", tour));
        let told = serde_json::from_str(&told).unwrap();
        assert_eq!(without_times_and_cursors(answer), without_times_and_cursors(told));
    }
    let page: Value = serde_json::from_str(&shell.run(&next("sh", tour))).unwrap();
    assert_eq!((&page["events"][0]["event_id"], &page["caught_up"]), (&"o-2".into(), &true.into()), "{page}");
    let waited: Value = serde_json::from_str(&shell.run(&next("sh", tour))).unwrap();
    assert_eq!((&waited["count"], &waited["caught_up"]), (&0.into(), &true.into()), "{waited}");
    let answers = shell.run(&next("sh", tour));
    let answers: Vec<Value> =
        serde_json::Deserializer::from_str(&answers).into_iter().map(Result::unwrap).collect();
    let [seen, topics, stats] = &*answers else { panic!("{answers:?}") };
    assert_eq!(seen["results"].as_array().unwrap().len(), 2, "{seen}");
    assert_eq!((&topics["count"], &stats["unique_processed"]), (&2.into(), &2.into()), "{topics} {stats}");
    let sqlite = next("sh", tour);
    if Path::new("/usr/bin/sqlite3").exists() {
        assert_eq!(shell.run(&sqlite).lines().count(), 2);
    } else {
        test_skip::skip("sqlite3 is not installed", "AGGREGATOR_REQUIRE_SQLITE3");
    }
    let report = shell.run(&simulator);
    assert!(report.contains("lost 0, doubled 0"), "{report}");
    several_nodes(&next("sh", "Several nodes"));
    is_example_of_the_core(&next("rust", "As a library"));
    // They need a container engine: `scripts/containers` runs every block of commands under this heading, and no other.
    let proof = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/proof/common.sh"));
    assert!(proof.unwrap().contains("/^## Containers$/"), "scripts/containers looks elsewhere");
    let run_there = |block: &Block| (&*block.heading, &*block.language) == ("Containers", "sh");
    assert!(blocks.iter().all(run_there), "nobody runs {blocks:?}");
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Whether these programs are there; if one is missing, that is said.
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
        if !found.status.success() {
            test_skip::skip(&format!("{program} is not installed"), "AGGREGATOR_REQUIRE_CONSUMERS");
        }
        found.status.success()
    })
}

#[test]
fn the_loops_for_consumers_read_everything_and_what_comes() {
    if !are_installed(&["curl", "jq", "python3"]) {
        return;
    }
    let blocks = blocks("docs/consuming.md");
    let block = |heading: &str, text: &str| {
        let found = blocks.iter().find(|block| block.heading == heading && block.text.contains(text));
        found.unwrap_or_else(|| panic!("{heading}: {text}")).text.clone()
    };
    let mut shell = Shell::new();
    let mut command = Process::command(&["--listen", "127.0.0.1:0"]);
    command.current_dir(shell.directory.path()).stderr(Stdio::null());
    let server = Process::spawn(command);
    shell.replaced.push(("127.0.0.1:8080", server.url.strip_prefix("http://").unwrap().to_owned()));
    let publish = |shell: &Shell, ids: &str| {
        let one = "{\"topic\":\"orders.eu\",\"event_id\":\"'$id'\"}";
        shell.run(&format!(
            "for id in {ids}; do curl -sf 127.0.0.1:8080/publish -H 'content-type: application/json' -d '{one}'; done"
        ));
    };
    publish(&shell, "1 2 3");
    let lines = shell.run(&block("The loop, in a shell", "x-ndjson"));
    assert!(
        lines.lines().count() == 4 && lines.lines().last().unwrap().contains("\"caught_up\":true"),
        "{lines}"
    );

    // What the loops leave to their reader: where they begin, and what they do.
    let python = format!(
        "seen = []\ndef load_cursor(): return None\ndef handle(events, after):\n    \
         seen.extend(event['event_id'] for event in events)\n    print(seen, flush=True)\n    \
         if len(seen) >= 6: raise SystemExit\n{}",
        block("The loop, in Python", "while True")
    );
    let looped = block("The loop, in a shell", "while page");
    let follow = block("Server-Sent Events", "curl -sN");
    std::thread::scope(|scope| {
        let python = scope.spawn(|| shell.run(&format!("python3 - <<'END'\n{python}\nEND")));
        let mut follow = shell.command(&format!("exec {follow}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut followed = BufReader::new(follow.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(followed.any(|line| line == "event: caught_up"));
        // It goes on until the server ends.
        let looped = scope.spawn(|| shell.run(&format!("{looped}\ncat orders.jsonl")));
        publish(&shell, "4 5 6");
        assert!(python.join().unwrap().ends_with("['1', '2', '3', '4', '5', '6']\n"));
        let events: Vec<_> =
            followed.by_ref().filter(|line| line.starts_with("data: {\"topic\"")).take(3).collect();
        assert!(events[0].contains("\"4\"") && events[2].contains("\"6\""), "{events:?}");
        server.signal("-TERM");
        followed.for_each(drop);
        assert!(follow.wait().unwrap().success(), "the server ends a stream in order");
        let looped = looped.join().unwrap();
        let ids: Vec<_> = looped.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        let ids: Vec<_> = ids.iter().map(|event| event["event_id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["1", "2", "3", "4", "5", "6"]);
    });
}

/// The core's documentation has the same lines, and its tests run them.
fn is_example_of_the_core(example: &str) {
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../aggregator-core/src/lib.rs"));
    let documented = documented.unwrap();
    for line in example.lines().filter(|line| !line.is_empty()) {
        let line = line.replace(r#"open("events.db")"#, "open(path)");
        assert!(documented.contains(&format!("//! {line}\n")), "{line}");
    }
}

#[cfg(not(feature = "postgres"))]
fn several_nodes(_: &str) {}

#[cfg(feature = "postgres")]
fn several_nodes(commands: &str) {
    let Some(postgres) = aggregator_postgres::test_server::TestServer::start(&[]) else { return };
    let directory = postgres.directory().to_str().unwrap();
    let mut shell = Shell::new();
    shell.replaced.push(("%2Frun%2Fpostgresql", directory.replace('/', "%2F")));
    for port in [":8081", ":8082"] {
        shell.replaced.push((port, format!(":{}", free_port())));
    }
    shell.variables.push(("PGHOST", directory.to_owned()));
    shell.variables.push(("PGUSER", "aggregator".to_owned()));
    shell.variables.push(("USER", "aggregator".to_owned()));
    let reports = shell.run(commands);
    assert_eq!(reports.matches("lost 0, doubled 0").count(), 2, "{reports}");
}
