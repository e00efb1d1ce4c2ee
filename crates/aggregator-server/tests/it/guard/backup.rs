//! Who may have a backup made, and what is said of a path that cannot be used.

use std::sync::Arc;

use aggregator_core::SqliteStore;
use aggregator_server::Config;
use reqwest::Method;
use serde_json::json;
use tempfile::TempDir;

use super::Guarded;

#[tokio::test]
async fn only_the_operator_makes_backups_and_is_told_what_is_wrong_with_the_path() {
    let directory = TempDir::new().unwrap();
    let existing = directory.path().join("existing");
    std::fs::write(&existing, "precious").unwrap();
    let store = SqliteStore::open(directory.path().join("events.db")).unwrap();
    let server = Guarded::start(Arc::new(store), Config::default()).await;
    let admin = server.key(&["admin"]).await;
    let wanted = json!({"path": directory.path().join("copy.db")});
    let answer = server.post(&admin, "/admin/backup", &wanted).await;
    answer.problem(403, "forbidden");
    answer.tells(&["--admin-socket"]);
    for (body, status, kind) in [
        (json!({"path": "copy.db"}), 422, "invalid-events"),
        (json!({"path": existing}), 409, "conflict"),
        (json!({"path": directory.path().join("no/such/directory/copy.db")}), 503, "store-unavailable"),
        (json!({"out": "/x"}), 400, "malformed-body"),
        (json!({"path": "/x", "force": true}), 400, "malformed-body"),
    ] {
        server.operate(Method::POST, "/admin/backup", body).await.problem(status, kind);
    }
    assert_eq!(std::fs::read(&existing).unwrap(), b"precious");
    let names = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(!names.into_iter().any(|name| name.to_string_lossy().contains("copy")));
    server.stop().await;
}
