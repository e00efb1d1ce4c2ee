//! A browser's own `EventSource`, through HAProxy and nginx: over restarts and crashes of the server, over overload, and
//! over a purge. It has to hand the page every event once, in order, and to tell it what retention took.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod chromium;
mod site;

use std::time::Duration;

use aggregator_core::{DedupStoreExt as _, Event, SqliteStore, Topic};

use self::chromium::Browser;
use self::site::{Proxy, Site};

/// What docs/consuming.md shows, with a list in place of an effect.
const PAGE: &str = r#"
    window.seen = []; window.gaps = 0; window.caughtUp = 0; window.after = "";
    window.follow = () => {
        const stream = new EventSource("/events/stream?topic=t" + (after && `&after=${after}`));
        stream.onmessage = (message) => { after = message.lastEventId; seen.push(JSON.parse(message.data).seq); };
        stream.addEventListener("gap", (message) => { after = message.lastEventId; gaps += 1; });
        stream.addEventListener("caught_up", () => { caughtUp += 1; });
        stream.onerror = () => { if (stream.readyState === EventSource.CLOSED) setTimeout(follow, 1000); };
    };
    follow();
"#;

#[tokio::test]
async fn an_event_source_has_every_event_once_over_whatever_happens() {
    let Some(programs) = site::programs() else { return };
    let mut site = Site::start(&programs).await;
    let mut browsers = Vec::new();
    for proxy in [Proxy::HaProxy, Proxy::Nginx] {
        let browser = Browser::open(&programs.chromedriver, &format!("{}/livez", site.url(proxy))).await;
        browser.run(PAGE).await;
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
        store.append_one(&Event::new("t", id.to_string()).unwrap()).unwrap();
    }
    store.purge(&Topic::new("t").unwrap(), u64::from(last) + 30).unwrap();
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
