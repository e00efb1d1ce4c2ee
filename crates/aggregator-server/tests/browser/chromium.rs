//! Chromium without a window, driven over WebDriver.

use std::path::Path;

use reqwest::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::site::{Running, first_line_with, tied};

pub(crate) struct Browser {
    session: String,
    client: Client,
    _driver: Running,
    _profile: TempDir,
}

impl Browser {
    /// A browser of its own that shows this page.
    pub(crate) async fn open(chromedriver: &Path, url: &str) -> Self {
        let profile = TempDir::new().unwrap();
        let mut command = tied(chromedriver);
        command.arg("--port=0");
        let (driver, line) = first_line_with(command, "successfully on port ");
        let port = line.rsplit("on port ").next().unwrap().trim_end_matches('.').to_owned();
        let client = crate::http_client::builder().build().unwrap();
        let capabilities = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": {"args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            format!("--user-data-dir={}", profile.path().display()),
        ]}, "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"}}}});
        let sessions = format!("http://127.0.0.1:{port}/session");
        let created = post(&client, &sessions, &capabilities).await;
        let session = format!("{sessions}/{}", created["sessionId"].as_str().unwrap());
        post(&client, &format!("{session}/url"), &json!({"url": url})).await;
        Self { session, client, _driver: driver, _profile: profile }
    }

    /// Goes to this page.
    pub(crate) async fn go(&self, url: &str) {
        post(&self.client, &format!("{}/url", self.session), &json!({"url": url})).await;
    }

    /// Presses a key, and lets it go.
    pub(crate) async fn press(&self, key: &str) {
        let strokes = json!([{"type": "keyDown", "value": key}, {"type": "keyUp", "value": key}]);
        let actions = json!({"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]});
        post(&self.client, &format!("{}/actions", self.session), &actions).await;
    }

    /// Sends a command of the DevTools protocol.
    pub(crate) async fn devtools(&self, command: &str, params: Value) {
        let command = json!({"cmd": command, "params": params});
        post(&self.client, &format!("{}/goog/cdp/execute", self.session), &command).await;
    }

    /// Opens a further tab with this page, and goes to it.
    pub(crate) async fn open_tab(&self, url: &str) -> String {
        let tab = post(&self.client, &format!("{}/window/new", self.session), &json!({"type": "tab"})).await;
        let tab = tab["handle"].as_str().unwrap().to_owned();
        self.show_tab(&tab).await;
        self.go(url).await;
        tab
    }

    pub(crate) async fn show_tab(&self, tab: &str) {
        post(&self.client, &format!("{}/window", self.session), &json!({"handle": tab})).await;
    }

    /// What was logged since the last time: `browser` has what the console shows, `performance` every request.
    pub(crate) async fn log(&self, kind: &str) -> Vec<Value> {
        let log = post(&self.client, &format!("{}/se/log", self.session), &json!({"type": kind})).await;
        log.as_array().unwrap().clone()
    }

    /// Runs a script in the page; what it returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        post(&self.client, &format!("{}/execute/sync", self.session), &json!({"script": script, "args": []}))
            .await
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends its browser when it is asked to end, and not when it is killed.
        let session = self.session.clone();
        let ended = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| {
                runtime.block_on(crate::http_client::builder().build().unwrap().delete(session).send())
            })
        });
        let _ = ended.join();
    }
}

async fn post(client: &Client, url: &str, body: &Value) -> Value {
    let answer = client.post(url).json(body).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{url}: {text}");
    serde_json::from_str::<Value>(&text).unwrap()["value"].take()
}
