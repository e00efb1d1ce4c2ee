//! Every route has a decision, and managing keys works over HTTP.

use reqwest::Method;
use serde_json::json;

use super::Guarded;
use crate::support::{Answer, event};

/// The paths that a 404 names, which are all but `/`.
async fn paths(server: &Guarded) -> Vec<String> {
    let answer = server.anonymous("/nothing/like/it").await;
    let (_, paths) = answer.json["detail"].as_str().unwrap().split_once("the paths are ").unwrap();
    paths.split(", ").map(str::to_owned).collect()
}

/// The methods of a path, as a 405 names them.
async fn methods(server: &Guarded, path: &str) -> Vec<Method> {
    let answer = server.request(Method::PATCH, path).send().await.unwrap();
    assert_eq!(answer.status(), 405, "{path}");
    answer.headers()["allow"].to_str().unwrap().split(',').map(|name| name.parse().unwrap()).collect()
}

#[tokio::test]
async fn no_route_but_the_probes_answers_without_a_credential_or_with_one_that_allows_nothing_of_it() {
    const OPEN: [&str; 4] = ["/", "/health", "/livez", "/readyz"];
    let server = Guarded::volatile().await;
    // Each route needs another scope than this one, and one route has a test of its own.
    let metrics = server.key(&["metrics"]).await;
    let publisher = server.key(&["publish:*"]).await;
    let mut tried = 0;
    for path in paths(&server).await.iter().map(String::as_str).chain(["/"]) {
        for method in methods(&server, path).await {
            let request = || server.request(method.clone(), path);
            let anonymous = request().send().await.unwrap().status();
            if path == "/ui/{file}" {
                // The files are there for everybody, and there is none of that name.
                assert_eq!(anonymous, 404, "{method} {path}");
                continue;
            }
            if OPEN.contains(&path) {
                assert_eq!(anonymous, 200, "{method} {path}");
                continue;
            }
            tried += 1;
            assert_eq!(anonymous, 401, "{method} {path}");
            let key = if ["/stats", "/stats/series", "/retention", "/metrics"].contains(&path) {
                &publisher
            } else {
                &metrics
            };
            let status = request().bearer_auth(&key.key).send().await.unwrap().status();
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    // GET has HEAD beside it.
    assert_eq!(tried, 1 + 2 * 2 + 1 + 2 * 7 + 2 + 1 + 1 + 1 + 1 + 1 + 2);
    server.stop().await;
}

#[tokio::test]
async fn a_credential_that_is_not_good_makes_nobody_anonymous() {
    let server = Guarded::volatile().await;
    assert_eq!(server.anonymous("/events").await.status, 200, "there is no key yet");
    let key = server.key(&["read:*"]).await;
    let wrong_secret = format!("{}x", &key.key[..key.key.len() - 1]);
    let tries = |server: &Guarded| {
        [
            server.request(Method::GET, "/events"),
            server.request(Method::GET, "/events").header("authorization", ""),
            server.request(Method::GET, "/events").header("authorization", "Basic YTpi"),
            server.request(Method::GET, "/events").bearer_auth("x"),
            server.request(Method::GET, "/events").bearer_auth(&wrong_secret),
            server.request(Method::GET, "/events").header("authorization", &key.key),
            server.request(Method::GET, "/events").bearer_auth(&key.key).bearer_auth(&key.key),
            server.request(Method::GET, &format!("/events?key={}", key.key)).bearer_auth("agg_"),
        ]
    };
    for (index, request) in tries(&server).into_iter().enumerate() {
        let answer = Answer::of(request.send().await.unwrap()).await;
        answer.problem(401, if index == 0 { "no-credential" } else { "bad-credential" });
        assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"aggregator\"");
        assert!(!answer.json.to_string().contains(&key.key[17..]), "{:?}", answer.json);
    }
    assert_eq!(server.get(&key, "/events").await.status, 200);
    // Also without any key left, and with the header in other letters.
    let request =
        server.request(Method::GET, "/events").header("Authorization", format!("bearer  {}", key.key));
    assert_eq!(request.send().await.unwrap().status(), 200);
    server.revoke(&key).await;
    for (index, request) in tries(&server).into_iter().enumerate() {
        assert_eq!(request.send().await.unwrap().status(), 401, "{index}");
    }
    server.stop().await;
    let server = Guarded::volatile().await;
    for (index, request) in tries(&server).into_iter().enumerate().skip(1) {
        assert_eq!(request.send().await.unwrap().status(), 401, "{index}: no key was ever made");
    }
    server.stop().await;
}

#[tokio::test]
async fn keys_are_managed_by_whoever_may() {
    let server = Guarded::volatile().await;
    let admin = server.key(&["admin"]).await;
    let new = json!({"name": "a", "scopes": ["read:a.*"], "expires_in": "1h"});
    let made = server.post(&admin, "/admin/keys", &new).await;
    assert_eq!((made.status.as_u16(), &made.headers["cache-control"]), (201, &"no-store".parse().unwrap()));
    let (id, key) = (made.json["id"].as_str().unwrap(), made.json["key"].as_str().unwrap());
    let listed = server.get(&admin, "/admin/keys").await;
    assert_eq!(listed.json["count"], 2);
    let shown = listed.json["keys"].as_array().unwrap().iter().find(|shown| shown["id"] == id).unwrap();
    assert_eq!(shown["scopes"], json!(["read:a.*"]));
    assert!(!listed.json.to_string().contains(&key[17..]) && !listed.json.to_string().contains("sha256"));

    let by_key =
        Answer::of(server.request(Method::GET, "/admin/keys").bearer_auth(key).send().await.unwrap()).await;
    by_key.problem(403, "forbidden");
    by_key.tells(&["admin"]);

    for (body, field) in [
        (json!({"name": "", "scopes": ["metrics"]}), "name"),
        (json!({"name": "x", "scopes": []}), "scopes"),
        (json!({"name": "x", "scopes": ["read:orders*"]}), "scopes"),
        (json!({"name": "x", "scopes": ["metrics"], "expires_in": "soon"}), "expires_in"),
    ] {
        let answer = server.post(&admin, "/admin/keys", &body).await;
        assert_eq!(answer.problem(422, "invalid-events"), [(None, field.to_owned())], "{body}");
    }
    for body in [json!({}), json!({"name": "x", "scopes": ["metrics"], "admin": true}), json!([])] {
        server.post(&admin, "/admin/keys", &body).await.problem(400, "malformed-body");
    }
    let delete =
        |id: &str| server.request(Method::DELETE, &format!("/admin/keys/{id}")).bearer_auth(&admin.key);
    let revoked = Answer::of(delete(id).send().await.unwrap()).await;
    assert_eq!((revoked.status.as_u16(), &revoked.json["name"]), (200, &json!("a")));
    Answer::of(delete(id).send().await.unwrap()).await.problem(404, "not-found");
    Answer::of(delete("%2e%2e").send().await.unwrap()).await.problem(404, "not-found");
    let audit = server.get(&admin, "/admin/audit").await;
    let told: Vec<_> = audit.json["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["by"].as_str().unwrap())
        .collect();
    let by_admin = format!("key:{}", admin.id);
    assert_eq!(told, [&by_admin, &by_admin, "admin-socket"]);
    server.stop().await;
}

/// Such a page gets in where nobody needs a key, and has none itself.
#[tokio::test]
async fn a_page_of_others_in_a_browser_is_kept_out() {
    let config =
        aggregator_server::Config { allowed_hosts: vec!["events.example".into()], ..Default::default() };
    let server = Guarded::start(std::sync::Arc::new(aggregator_core::MemoryStore::default()), config).await;
    let publish = |host: &str, origin: Option<&str>| {
        let request = server.request(Method::POST, "/publish").header("host", host).json(&event("t", "1"));
        if let Some(origin) = origin { request.header("origin", origin) } else { request }
    };
    let ask = async |request: reqwest::RequestBuilder| Answer::of(request.send().await.unwrap()).await;
    for host in ["evil.example", "evil.example:8080"] {
        ask(publish(host, None)).await.problem(421, "unexpected-host");
        ask(server.request(Method::GET, "/events").header("host", host))
            .await
            .problem(421, "unexpected-host");
        assert_eq!(
            server.request(Method::GET, "/livez").header("host", host).send().await.unwrap().status(),
            200
        );
    }
    ask(publish("localhost", Some("http://evil.example"))).await.problem(403, "foreign-origin");
    ask(publish("localhost", Some("null"))).await.problem(403, "foreign-origin");
    // A form of a page, which no browser asks about first.
    let form = publish("localhost", None).header("content-type", "text/plain");
    ask(form).await.problem(415, "unsupported-media-type");
    assert_eq!(ask(publish("localhost", Some("http://localhost"))).await.status, 202);
    assert_eq!(ask(publish("events.example", None)).await.status, 202);
    // With a key nobody asks by which name.
    let key = server.key(&["publish:*"]).await;
    let request = publish("evil.example", Some("http://evil.example")).bearer_auth(&key.key);
    assert_eq!(ask(request).await.status, 202);
    assert_eq!(ask(publish("localhost", None)).await.status, 401);
    server.stop().await;
}
