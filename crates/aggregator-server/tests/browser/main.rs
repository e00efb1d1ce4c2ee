//! The page of the server in a browser (`page.rs`), and a browser's own `EventSource`, through HAProxy and nginx: over restarts and crashes of the server, over overload, and
//! over a purge. It has to hand the page every event once, in order, and to tell it what retention took.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod chromium;
#[path = "../shared/http_client.rs"]
mod http_client;
mod page;
#[path = "../shared/publisher_sim.rs"]
mod publisher_sim;
mod site;

use std::time::Duration;

use aggregator_core::{DedupStoreExt as _, Event, SqliteStore, Topic};

use self::chromium::Browser;
use self::site::{Proxy, Site};

/// What the loop of docs/consuming.md does with an event here, and a count of the gaps that it is told of.
const AROUND_THE_LOOP: &str = r#"
    window.seen = []; window.gaps = 0;
    window.handle = (event) => seen.push(event.seq);
    window.EventSource = class extends EventSource {
        constructor(url) { super(url); this.addEventListener("gap", () => { gaps += 1; }); }
    };
"#;

/// The loop for a page, as docs/consuming.md has it.
fn documented_loop() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/consuming.md");
    let document = std::fs::read_to_string(path).unwrap();
    let (_, rest) = document.split_once("```js\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn an_event_source_has_every_event_once_over_whatever_happens() {
    let Some(programs) = site::programs() else { return };
    let mut site = Site::start(&programs).await;
    let mut browsers = Vec::new();
    for proxy in [Proxy::HaProxy, Proxy::Nginx] {
        let browser = Browser::open(&programs.chromedriver, &format!("{}/livez", site.url(proxy))).await;
        browser.run(&format!("{AROUND_THE_LOOP}{}", documented_loop())).await;
        browsers.push((proxy, browser));
    }
    let mut last = 0;
    let mut more = async |site: &Site, what: &str| {
        site.publish(last..last + 50).await;
        last += 50;
        for (proxy, browser) in &browsers {
            await_seqs(browser, &format!("{what}, through {proxy:?}"), &(1..=last).collect::<Vec<_>>(), 0)
                .await;
        }
    };
    more(&site, "as it comes").await;
    more(&site, "as it comes").await;
    site.restart_in_order().await;
    more(&site, "after a restart in order").await;
    site.kill().await;
    // The proxies answer by themselves now: with an error, which ends an `EventSource`.
    tokio::time::sleep(Duration::from_secs(2)).await;
    site.start_again(&[]).await;
    more(&site, "after a crash").await;

    // Nobody finds a place, and is told so by a stream that ends at once.
    site.stop().await;
    site.start_again(&["--max-tails", "1"]).await;
    let occupied = site.occupy_a_tail().await;
    tokio::time::sleep(Duration::from_secs(7)).await;
    drop(occupied);
    site.stop().await;
    site.start_again(&[]).await;
    more(&site, "after an overload").await;

    // Some events come and go while nobody can read them.
    site.stop().await;
    let store = SqliteStore::open(site.store()).unwrap();
    for id in last..last + 50 {
        store.append_one(&Event::new(site::TOPIC, id.to_string()).unwrap()).unwrap();
    }
    store.purge(&Topic::new(site::TOPIC).unwrap(), u64::from(last) + 30).unwrap();
    drop(store);
    site.start_again(&[]).await;
    let left: Vec<_> = (1..=last).chain(last + 31..=last + 50).collect();
    for (proxy, browser) in &browsers {
        await_seqs(browser, &format!("over a purge, through {proxy:?}"), &left, 1).await;
    }
}

/// Waits until the page has these events, and asserts that it has no other one.
async fn await_seqs(browser: &Browser, what: &str, seqs: &[u32], gaps: u32) {
    let wanted = serde_json::json!([seqs, gaps]);
    let mut found = serde_json::Value::Null;
    for _ in 0..600 {
        found = browser.run("return [seen, gaps]").await;
        if found[0].as_array().unwrap().len() >= seqs.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(found, wanted, "{what}");
}
