//! The page: what it shows is what the server says, payloads stay as they were sent, and nothing comes from elsewhere.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::chromium::Browser;
use crate::publisher_sim;
use crate::site::{self, Running, first_line_with, free_address, signal, tied};

/// A server, and a browser that shows its page.
struct Shown {
    directory: TempDir,
    url: String,
    server: Option<Running>,
    browser: Browser,
    client: Client,
}

impl Shown {
    async fn start(view: &str) -> Option<Self> {
        let programs = site::programs()?;
        let directory = TempDir::new().unwrap();
        let url = format!("http://{}", free_address(7));
        let server = Some(serve(directory.path(), &url));
        let browser = Browser::open(&programs.chromedriver, &format!("{url}/{view}")).await;
        let client = crate::http_client::builder().build().unwrap();
        Some(Self { directory, url, server, browser, client })
    }

    async fn publish(&self, body: &str) {
        let publish = self.client.post(format!("{}/publish", self.url)).body(body.to_owned());
        assert_eq!(publish.header("content-type", "application/json").send().await.unwrap().status(), 202);
    }

    async fn stats(&self) -> Value {
        let text = self.client.get(format!("{}/stats", self.url)).send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The text of what a selector of CSS finds; `null` if it finds nothing.
    async fn text(&self, selector: &str) -> Value {
        let selector = json!(selector);
        self.browser.run(&format!("return document.querySelector({selector})?.textContent ?? null")).await
    }

    /// Waits until a script returns true.
    async fn until(&self, what: &str, script: &str) {
        for _ in 0..600 {
            if self.browser.run(script).await == true {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let shown = self.browser.run("return document.body.innerText").await;
        panic!("{what}: {shown} {:#?}", self.browser.log("browser").await);
    }

    /// Nothing was wrong, and everything came from this server.
    async fn assert_clean(&self) {
        let console = self.browser.log("browser").await;
        assert!(console.is_empty(), "{console:#?}");
        let mut asked = 0;
        for entry in self.browser.log("performance").await {
            let message: Value = serde_json::from_str(entry["message"].as_str().unwrap()).unwrap();
            let params = &message["message"]["params"];
            // The tab that the browser opens by itself asks for files of its own.
            let is_of_page = params["documentURL"].as_str().is_some_and(|of| of.starts_with(&self.url));
            if message["message"]["method"] == "Network.requestWillBeSent" && is_of_page {
                let url = params["request"]["url"].as_str().unwrap();
                asked += 1;
                assert!(url.starts_with(&format!("{}/", self.url)) && !url.contains("agg_"), "{url}");
            }
        }
        assert!(asked > 10, "the log has requests: {asked}");
    }
}

fn serve(directory: &Path, url: &str) -> Running {
    let mut command = tied(Path::new(env!("CARGO_BIN_EXE_aggregator-server")));
    command.args(["--listen", url.strip_prefix("http://").unwrap()]);
    command.args(["--store", &format!("sqlite:{}", directory.join("events.db").display())]);
    first_line_with(command, "listening on").0
}

/// What an item of the first line says, as a number.
const STORED: &str = r#"
    const item = [...document.querySelectorAll(".strip .item")].find((item) => item.firstChild.textContent === "Stored");
    return item ? Number(item.lastChild.textContent.replaceAll(",", "")) : -1;"#;

/// Whether the first line says that so many events are stored. It may not be there yet.
fn has_stored(events: i64) -> String {
    STORED.replace("return item ?", &format!("return item && {events} ===")).replace(" : -1", "")
}

#[tokio::test]
async fn the_figures_are_those_of_the_server_while_events_come() {
    let Some(shown) = Shown::start("").await else { return };
    shown
        .until(
            "an empty store has the command that fills it",
            "return !!document.querySelector('.empty:not([hidden]) pre')",
        )
        .await;
    let mut simulator = Command::new(publisher_sim::program());
    simulator.args(["--url", &shown.url, "--events", "10000", "--dup", "0.2", "--rate", "1000"]);
    let simulator = simulator.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn();
    let mut simulator = Running(simulator.unwrap());
    let mut looks = 0;
    while simulator.0.try_wait().unwrap().is_none() {
        let before = shown.browser.run(STORED).await.as_i64().unwrap();
        let now = shown.stats().await["unique_processed"].as_i64().unwrap();
        assert!(before <= now, "the page has {before}, the server {now}");
        // It asks every two seconds.
        looks += i64::from(before > 0 && before < now);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(looks > 5, "it was looked at while events came: {looks}");
    let stats = shown.stats().await;
    let stored = stats["unique_processed"].as_i64().unwrap();
    assert_eq!((stored, &stats["duplicate_dropped"]), (8_000, &json!(2_000)));
    shown.until("the page has all of them", &has_stored(stored)).await;
    shown
        .until(
            "the share of repeats",
            "return document.querySelector('#card-duplicates .value').textContent === '20.0 %'",
        )
        .await;
    shown.until("the busiest sources", "return document.querySelectorAll('.grid tbody tr').length > 5").await;
    assert_eq!(shown.text("#let-through").await, "0");
    shown.until("the title", "return document.title.startsWith('8,000 stored')").await;
    shown.assert_clean().await;
}

const ODD: &str = r#"{"n":9007199254740993,"m":1e400,"t":"<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>","\u0061":-0.0}"#;

#[tokio::test]
async fn payloads_are_shown_as_they_were_sent() {
    let Some(shown) = Shown::start("").await else { return };
    let odd = "<b>odd</b>&amp;";
    let body = format!(
        r#"{{"topic":"odd","event_id":{},"timestamp":"2026-01-01T00:00:00Z","payload":{ODD}}}"#,
        json!(odd)
    );
    shown.publish(&body).await;
    shown.publish(&body.replace("9007199254740993", "9007199254740992")).await;
    shown.browser.go(&format!("{}/#events?topic=odd", shown.url)).await;
    shown.until("the event is listed", "return document.querySelectorAll('#events tr').length === 1").await;
    shown.browser.run("document.querySelector('#events tr').click()").await;
    let text = shown.text("#payload").await;
    let wanted = ["9007199254740993", "1e400", "-0.0", "<script>window.hacked=1</script>", "\\u0061"];
    assert!(wanted.iter().all(|part| text.as_str().unwrap().contains(part)), "{text}");
    assert_eq!(shown.text("#events td:last-child").await, json!(ODD));
    assert_eq!(shown.text("#details h2").await, json!(odd));

    shown.browser.go(&format!("{}/#duplicates", shown.url)).await;
    shown
        .until("the conflict is shown field by field", "return !!document.querySelector('.differences code')")
        .await;
    let fields = shown
        .browser
        .run("return [...document.querySelectorAll('.differences tbody td')].map((of) => of.textContent)")
        .await;
    assert_eq!(fields, json!(["9007199254740993", "9007199254740992"]));
    assert_eq!(shown.browser.run("return window.hacked ?? null").await, Value::Null);
    // Even a defect of the page could not make markup or code of a text.
    let tried =
        "try { document.body.innerHTML = '<p>x</p>'; return 'done'; } catch (error) { return error.name; }";
    shown.assert_clean().await;
    assert_eq!(shown.browser.run(tried).await, "TypeError");
}

#[tokio::test]
async fn the_page_is_used_by_keyboard() {
    let Some(shown) = Shown::start("").await else { return };
    let events: Vec<_> = (0..5).map(|n| json!({"topic": "t", "event_id": n.to_string()})).collect();
    shown.publish(&json!(events).to_string()).await;
    let current = "return document.querySelector('#tabs [aria-current]')?.dataset.view === ";
    shown.until("the first view", &format!("{current}'overview'")).await;
    shown.browser.press("3").await;
    shown.until("the third view", &format!("{current}'events'")).await;
    shown.until("the events", "return document.querySelectorAll('#events tr').length === 5").await;
    shown.browser.press("j").await;
    shown.browser.press("j").await;
    shown.browser.press("k").await;
    shown.browser.press("j").await;
    shown
        .until(
            "a row is selected",
            "return document.activeElement === document.querySelectorAll('#events tr')[1]",
        )
        .await;
    shown.browser.press("\u{E007}").await;
    shown
        .until(
            "the row is open",
            "return document.querySelector('#details:not([hidden]) h2')?.textContent === '3'",
        )
        .await;
    shown.browser.press("\u{E00C}").await;
    shown.until("it is closed", "return document.querySelector('#details').hidden").await;
    shown.browser.press(" ").await;
    shown
        .until(
            "the tail runs",
            "return document.querySelector('#tail').getAttribute('aria-pressed') === 'true'",
        )
        .await;
    shown.until("it waits", "return document.body.innerText.includes('Live. Every event')").await;
    shown.publish(&json!({"topic": "t", "event_id": "new"}).to_string()).await;
    shown
        .until(
            "the event comes",
            "return document.querySelector('#events tr td:nth-child(4)').textContent === 'new'",
        )
        .await;
    shown.browser.press("/").await;
    shown.until("the search has the keys", "return document.activeElement.id === 'events-topic'").await;
    shown.browser.press("2").await;
    shown.until("a key in a field is text", "return document.activeElement.value === '2' && !!document.querySelector('#tabs [data-view=events][aria-current]')").await;
    shown.browser.press("\u{E00C}").await;
    shown.browser.press("?").await;
    shown.until("the help", "return document.querySelector('#help').open").await;
    shown.assert_clean().await;
}

#[tokio::test]
async fn seven_tabs_follow_and_outlive_a_restart() {
    let Some(mut shown) = Shown::start("").await else { return };
    let mut tabs = Vec::new();
    for _ in 0..7 {
        tabs.push(shown.browser.open_tab(&format!("{}/#events", shown.url)).await);
        shown.until("the page is there", "return !!document.querySelector('#tail')").await;
        shown.browser.run("document.querySelector('#tail').click()").await;
        shown.until("it follows", "return document.body.innerText.includes('Live. Every event')").await;
    }
    let has = |id: &str| {
        format!(
            "return [...document.querySelectorAll('#events td:nth-child(4)')].some((of) => of.textContent === '{id}')"
        )
    };
    shown.publish(&json!({"topic": "t", "event_id": "first"}).to_string()).await;
    for tab in &tabs {
        shown.browser.show_tab(tab).await;
        shown.until("every tab has the event", &has("first")).await;
    }
    shown.assert_clean().await;

    let mut server = shown.server.take().unwrap();
    signal::send("-TERM", &server.0);
    let status = tokio::task::spawn_blocking(move || server.0.wait().unwrap()).await.unwrap();
    assert!(status.success());
    shown.until("it says so", "return document.querySelector('#status').dataset.state === 'unknown'").await;
    shown.server = Some(serve(shown.directory.path(), &shown.url));
    shown
        .until("it is well again", "return document.querySelector('#status').dataset.state === 'good'")
        .await;
    shown.publish(&json!({"topic": "t", "event_id": "second"}).to_string()).await;
    for tab in &tabs {
        shown.browser.show_tab(tab).await;
        shown.until("every tab goes on", &has("second")).await;
    }
}

/// A browser breaks off what it loads when a network of the machine comes or goes.
#[tokio::test]
async fn a_page_of_which_a_file_did_not_arrive_is_loaded_again() {
    let Some(shown) = Shown::start("livez").await else { return };
    shown.browser.devtools("Network.enable", json!({})).await;
    shown.browser.devtools("Network.setBlockedURLs", json!({"urls": ["*/ui/topics.js"]})).await;
    shown.browser.go(&shown.url).await;
    shown.until("it is not whole", "return !!document.querySelector('#tabs:empty')").await;
    shown.browser.devtools("Network.setBlockedURLs", json!({"urls": []})).await;
    shown.until("it is whole", "return document.querySelector('#status')?.dataset.state === 'good'").await;
}

/// However often a view is drawn, it asks now and then.
#[tokio::test]
async fn a_view_asks_at_its_own_pace() {
    let Some(shown) = Shown::start("#sources").await else { return };
    let asked = |path: &str| {
        format!("performance.getEntriesByType('resource').filter((of) => of.name.includes('{path}')).length")
    };
    shown.until("some time has passed", &format!("return {} >= 5", asked("/readyz"))).await;
    let insight = shown.browser.run(&format!("return {}", asked("/insight"))).await;
    // Two ask each five seconds, in some ten seconds, and the view asks once when it is shown.
    assert!((2..=8).contains(&insight.as_i64().unwrap()), "{insight}");
}

#[tokio::test]
async fn why_no_events_are_taken_is_told_in_the_words_of_readyz() {
    let Some(shown) = Shown::start("").await else { return };
    shown.until("it is well", "return document.querySelector('#status').dataset.state === 'good'").await;
    // The server notices that its file is gone, and takes nothing any more.
    std::fs::remove_file(shown.directory.path().join("events.db")).unwrap();
    shown.until("it is not well", "return document.querySelector('#status').dataset.state === 'bad'").await;
    let readyz = shown.client.get(format!("{}/readyz", shown.url)).send().await.unwrap();
    assert_eq!(readyz.status(), 503);
    let problem: Value = serde_json::from_str(&readyz.text().await.unwrap()).unwrap();
    let told = shown.text(".changes").await;
    let (title, detail) = (problem["title"].as_str().unwrap(), problem["detail"].as_str().unwrap());
    assert!(
        told.as_str().unwrap().contains(&format!("Not taking events: {title}: {detail}")),
        "{told} {problem}"
    );
    assert_eq!(
        shown.browser.run("return document.querySelector('#icon').href.endsWith('/ui/unwell.svg')").await,
        true
    );
}

#[tokio::test]
async fn a_server_that_has_a_key_is_shown_to_whoever_gives_one() {
    let Some(shown) = Shown::start("").await else { return };
    shown.publish(&json!({"topic": "t", "event_id": "1"}).to_string()).await;
    let store = format!("sqlite:{}", shown.directory.path().join("events.db").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator-server"));
    command
        .args(["key", "new", "--name", "page", "--scope", "metrics", "--scope", "read:*", "--store", &store]);
    // A server that runs has its store to itself.
    let Shown { directory, url, server, browser, client } = shown;
    drop(server);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = String::from_utf8(made.stdout)
        .unwrap()
        .split_whitespace()
        .find(|word| word.starts_with("agg_"))
        .unwrap()
        .to_owned();
    let server = Some(serve(directory.path(), &url));
    let shown = Shown { directory, url, server, browser, client };
    shown.browser.go(&format!("{}/?", shown.url)).await;
    shown.until("a key is asked for", "return document.querySelector('#key-dialog').open").await;
    shown.browser.run(&format!("document.querySelector('#key-input').value = {}; document.querySelector('#key-form').requestSubmit()", json!(key))).await;
    shown.until("the figures are there", &has_stored(1)).await;
    assert_eq!(
        shown
            .browser
            .run("return location.href.includes('agg_') || document.body.innerText.includes('agg_')")
            .await,
        false
    );
}
