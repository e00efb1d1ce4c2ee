//! The page at `/`, as it is served. `tests/browser` looks at it in a browser.

use std::collections::BTreeSet;

use reqwest::Response;

use crate::support::Server;

async fn get(server: &Server, path: &str, accept: &str) -> Response {
    server.client.get(format!("{}{path}", server.url)).header("accept", accept).send().await.unwrap()
}

/// As a browser asks for a page.
const BROWSER: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

#[tokio::test]
async fn a_browser_gets_the_page_and_others_the_state() {
    let server = Server::volatile().await;
    let page = get(&server, "/", BROWSER).await;
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    assert_eq!(page.headers()["vary"].to_str().unwrap().to_ascii_lowercase(), "accept");
    assert!(page.text().await.unwrap().starts_with("<!doctype html>"));
    for accept in ["*/*", "application/json"] {
        let state = get(&server, "/", accept).await;
        assert_eq!(state.headers()["content-type"], "application/json", "{accept}");
        assert!(state.text().await.unwrap().contains("aggregator-server"));
    }
    assert_eq!(get(&server, "/?x", BROWSER).await.status(), 400);
    server.stop().await.unwrap();
}

/// All files that are named in a text: `/ui/x`, and `./x` of a module.
fn named(text: &str) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
    let behind = |mark: &'static str| {
        text.split(mark).skip(1).map(move |rest| rest.split(|c| !is_of_name(c)).next().unwrap().to_owned())
    };
    behind("/ui/").chain(behind("from \"./")).collect()
}

#[tokio::test]
async fn every_file_that_the_page_needs_is_there_and_nothing_may_come_from_elsewhere() {
    let server = Server::volatile().await;
    let mut wanted = named(&get(&server, "/", BROWSER).await.text().await.unwrap());
    let mut seen = BTreeSet::new();
    let mut bytes = 0;
    while let Some(name) = wanted.pop_first() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let file = get(&server, &format!("/ui/{name}"), "*/*").await;
        assert_eq!(file.status(), 200, "{name}");
        let headers = file.headers().clone();
        let kind = match name.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            _ => "image/svg+xml",
        };
        assert_eq!(headers["content-type"], kind, "{name}");
        assert_eq!(headers["x-content-type-options"], "nosniff");
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "require-trusted-types-for 'script'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        let text = file.text().await.unwrap();
        bytes += text.len();
        for markup in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "https://", "style="]
        {
            assert!(!text.contains(markup), "{name} has {markup}");
        }
        wanted.extend(named(&text));
    }
    assert!(seen.len() >= 15, "{seen:?}");
    assert!(bytes < 100_000, "the page is small: {bytes}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn what_is_no_file_of_the_page_is_not_found() {
    let server = Server::volatile().await;
    for path in ["/ui/", "/ui/nothing.js", "/ui/..%2Flib.rs", "/ui/index.html"] {
        assert_eq!(get(&server, path, "*/*").await.status(), 404, "{path}");
    }
    assert_eq!(get(&server, "/ui/main.js?x=1", "*/*").await.status(), 400);
    server.stop().await.unwrap();
}
