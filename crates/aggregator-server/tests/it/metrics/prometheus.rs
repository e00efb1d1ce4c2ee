//! The programs that read metrics: Prometheus itself, and promtool, which also checks the rules in docker/prometheus.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tempfile::TempDir;

use super::Scrape;
use crate::support::{Process, Server, client, events, until};

/// Whether the programs are there. If not, the test is skipped.
fn is_installed() -> bool {
    let found =
        Command::new("promtool").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_err() {
        test_skip::skip("no Prometheus is installed", "AGGREGATOR_REQUIRE_PROMETHEUS");
    }
    found.is_ok()
}

/// What promtool says, if it is not content.
fn promtool(arguments: &[&str], input: &str) -> Result<(), String> {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[tokio::test]
async fn promtool_finds_nothing_wrong() {
    if !is_installed() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let server = Server::sqlite(&directory.path().join("events.db")).await;
    server.publish(&events("t", 0..3)).await;
    let text = server.scrape().await.text;
    promtool(&["check", "metrics"], &text).unwrap();
    // It does notice: a help text is missing.
    assert!(promtool(&["check", "metrics"], &text.replacen("# HELP", "# NOTE", 1)).is_err());
    server.stop().await.unwrap();
}

/// A Prometheus that scrapes, and ends when it is dropped.
struct Prometheus {
    child: Child,
    url: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes this address.
    fn start(directory: &Path, target: &str) -> Self {
        let rules = rules_directory();
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: [{rules}/recording.yml, {rules}/alerts.yml]\n\
             scrape_configs: [{{job_name: aggregator, static_configs: [{{targets: ['{target}']}}]}}]\n",
            rules = rules.display()
        );
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.join("data").display()));
        command.arg("--web.listen-address=127.0.0.1:0").stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        // The line that tells the port that was free.
        let address = loop {
            let mut line = String::new();
            assert!(log.read_line(&mut line).unwrap() > 0, "Prometheus ended: {said}");
            if line.contains("\"Listening on\"") {
                break line.split("address=").nth(1).unwrap().trim().to_owned();
            }
            said.push_str(&line);
        };
        // Nobody else reads what it goes on to say.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, url: format!("http://{address}") }
    }

    /// What it answers to a query; `None` if it does not answer.
    async fn ask(&self, query: &str) -> Option<Value> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let request = client().get(format!("{}/api/v1/query?query={query}", self.url));
        request.send().await.ok()?.json().await.ok()
    }

    /// The one value of a query; `None` as long as there is none.
    async fn query(&self, query: &str) -> Option<String> {
        let answer = self.ask(query).await?;
        let [result] = &answer["data"]["result"].as_array()?[..] else { return None };
        Some(result["value"][1].as_str()?.to_owned())
    }
}

#[tokio::test]
async fn a_real_prometheus_scrapes_and_answers() {
    if !is_installed() {
        return;
    }
    let directory = TempDir::new().unwrap();
    let server = Process::start(&directory.path().join("events.db"), &[]);
    server.publish(&events("t", 0..10)).await;
    server.publish(&events("t", 0..4)).await;
    let prometheus = Prometheus::start(directory.path(), server.url.strip_prefix("http://").unwrap());
    let is = async |query: &str, value: &str| prometheus.query(query).await.as_deref() == Some(value);
    until("it is up", async || is("up", "1").await).await;
    for (query, value) in [
        ("aggregator_events_total{outcome=\"stored\"}", "10"),
        ("aggregator_events_total{outcome=\"duplicate\"}", "4"),
        ("aggregator_ready", "1"),
        ("aggregator_commit_events_sum", "14"),
        ("aggregator_duplicate_age_seconds_bucket{le=\"+Inf\"}", "4"),
        ("aggregator_requests_total{route=\"/publish\",status=\"202\"}", "2"),
        ("count(aggregator_store_bytes)", "2"),
        // A rule of ours over it.
        ("aggregator:queue_used:max", "0"),
        ("count(ALERTS) or vector(0)", "0"),
    ] {
        until(query, async || is(query, value).await).await;
    }
    for query in dashboard_queries() {
        let answer = prometheus.ask(&query).await.unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
    }
    // It asks for OpenMetrics: a type is known under the name without `_total`.
    let metadata = client().get(format!("{}/api/v1/metadata?metric=aggregator_events", prometheus.url));
    let metadata: Value = metadata.send().await.unwrap().json().await.unwrap();
    assert_eq!(metadata["data"]["aggregator_events"][0]["type"], "counter", "{metadata}");
    // And it is well-formed: nothing was left out.
    let told = Scrape::of(&client(), &server.url, "application/openmetrics-text").await;
    assert!(told.text.ends_with("# EOF\n"));
}

/// The queries of the panels, as Grafana would send them.
fn dashboard_queries() -> Vec<String> {
    let file = rules_directory().join("../grafana/event-aggregator.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let queries = targets.map(|target| target["expr"].as_str().unwrap());
    queries
        .map(|query| query.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$job", ".*"))
        .collect()
}

fn rules_directory() -> PathBuf {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docker/prometheus"));
    path.canonicalize().unwrap()
}

#[test]
fn the_rules_are_sound_and_alert_when_they_should() {
    if !is_installed() {
        return;
    }
    let directory = rules_directory();
    let file = |name: &str| directory.join(name).to_str().unwrap().to_owned();
    for name in ["recording.yml", "alerts.yml"] {
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", &file(name)], "").unwrap();
    }
    promtool(&["check", "config", &file("prometheus.yml")], "").unwrap();
    promtool(&["test", "rules", &file("tests.yml")], "").unwrap();
}

/// A rule over a metric that does not exist is silent for ever, and a panel is empty.
#[test]
fn rules_and_panels_know_no_metric_that_is_not_documented() {
    let documented = super::documented();
    let rules = ["recording.yml", "alerts.yml"];
    let rules = rules.map(|name| std::fs::read_to_string(rules_directory().join(name)).unwrap());
    let queries = dashboard_queries();
    assert!(queries.len() > 20, "{queries:?}");
    for text in rules.iter().chain(&queries) {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let words = text.split(|c| !is_name(c));
        for word in words.filter(|word| word.starts_with("aggregator_") || word.starts_with("process_")) {
            let known = ["", "_bucket", "_sum", "_count"]
                .iter()
                .any(|ending| word.strip_suffix(ending).is_some_and(|name| documented.contains(name)));
            assert!(known, "{word}");
        }
    }
}
