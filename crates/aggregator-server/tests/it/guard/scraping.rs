//! Who may scrape: see [`crate::metrics`].

use reqwest::Method;

use super::Guarded;

#[tokio::test]
async fn metrics_are_for_keys_with_that_scope_and_for_the_operator() {
    let server = Guarded::volatile().await;
    let scrape = server.request(Method::GET, "/metrics").send().await.unwrap();
    assert_eq!(scrape.status(), 200, "there is no key yet");
    let scraper = server.key(&["metrics"]).await;
    let other = server.key(&["publish:*", "read:*"]).await;
    server.anonymous("/metrics").await.problem(401, "no-credential");
    let refused = server.get(&other, "/metrics").await;
    refused.problem(403, "forbidden");
    refused.tells(&["metrics"]);
    let by_key = server.request(Method::GET, "/metrics").bearer_auth(&scraper.key).send().await.unwrap();
    assert_eq!(by_key.status(), 200);
    let text = by_key.text().await.unwrap();
    assert!(text.contains("aggregator_requests_total{route=\"/metrics\",status=\"403\"} 1\n"), "{text}");
    for secret in [&scraper.id, &other.id] {
        assert!(!text.contains(secret), "a key is in a label");
    }
    let by_operator = server.operator.get("http://localhost/metrics").send().await.unwrap();
    assert_eq!(by_operator.status(), 200);
    server.stop().await;
}
