//! Who may do what: keys, their scopes, and how they are managed.

mod amend;
mod backup;
mod command;
mod flood;
mod jwt;
mod learning;
#[cfg(feature = "postgres")]
mod postgres;
mod rate;
mod revocation;
mod routes;
mod scraping;
mod secrets;
mod table;

use std::sync::Arc;

use aggregator_core::{DedupStore, MemoryStore, Partitions};
use aggregator_server::{Config, Listeners, admin_socket};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::support::Answer;

/// A server in this process with an admin socket, and with keys that are made over it.
pub(crate) struct Guarded {
    url: String,
    client: Client,
    operator: Client,
    _directory: TempDir,
    shutdown: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), aggregator_server::RunError>>,
    /// Whose tokens take the place of keys.
    issuer: Option<jwt::Issuer>,
}

impl Guarded {
    async fn volatile() -> Self {
        Self::start(Arc::new(MemoryStore::new(Partitions::new(4).unwrap())), Config::default()).await
    }

    pub(crate) async fn start(store: Arc<dyn DedupStore>, config: Config) -> Self {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("admin");
        let admin = admin_socket::bind(&path).await.unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", http.local_addr().unwrap());
        let (shutdown, stopped) = oneshot::channel();
        let listeners = Listeners { http, admin: Some(admin) };
        let task = tokio::spawn(aggregator_server::run(listeners, store, config, async {
            let _ = stopped.await;
        }));
        let operator = crate::http_client::builder().unix_socket(path).build().unwrap();
        Self {
            url,
            client: crate::support::client(),
            operator,
            _directory: directory,
            shutdown,
            task,
            issuer: None,
        }
    }

    /// Over the admin socket.
    async fn operate(&self, method: Method, path: &str, body: Value) -> Answer {
        let request = self.operator.request(method, format!("http://localhost{path}")).json(&body);
        Answer::of(request.send().await.unwrap()).await
    }

    /// Makes a key with these scopes, or a token that does the same.
    pub(crate) async fn key(&self, scopes: &[&str]) -> Key {
        match &self.issuer {
            Some(issuer) => Key { id: String::new(), key: issuer.token(scopes) },
            None => self.key_for(scopes, Value::Null).await,
        }
    }

    async fn key_for(&self, scopes: &[&str], expires_in: Value) -> Key {
        self.make(json!({"name": "test", "scopes": scopes, "expires_in": expires_in})).await
    }

    async fn make(&self, new: Value) -> Key {
        let made = self.operate(Method::POST, "/admin/keys", new).await;
        assert_eq!(made.status, 201, "{:?}", made.json);
        let text = |name: &str| made.json[name].as_str().unwrap().to_owned();
        Key { id: text("id"), key: text("key") }
    }

    /// A token lives on until its time.
    async fn revoke(&self, key: &Key) {
        if key.id.is_empty() {
            return;
        }
        let revoked = self.operate(Method::DELETE, &format!("/admin/keys/{}", key.id), json!({})).await;
        assert_eq!(revoked.status, 200, "{:?}", revoked.json);
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, key: &Key, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).bearer_auth(&key.key).send().await.unwrap()).await
    }

    async fn post(&self, key: &Key, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path).bearer_auth(&key.key).json(body);
        Answer::of(request.send().await.unwrap()).await
    }

    async fn anonymous(&self, path: &str) -> Answer {
        Answer::of(self.request(Method::GET, path).send().await.unwrap()).await
    }

    pub(crate) async fn stop(self) {
        let _ = self.shutdown.send(());
        self.task.await.unwrap().unwrap();
    }
}

/// A key and its id.
pub(crate) struct Key {
    id: String,
    key: String,
}
