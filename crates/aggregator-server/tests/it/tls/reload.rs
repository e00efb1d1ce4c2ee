//! Files that change while the server runs.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::client_config;
use super::pki::{Authority, Pair};
use crate::support::{Process, until};
use crate::tails::event_source::EventSource;

/// A server whose log is in a file.
struct Site {
    authority: Authority,
    server: Process,
    log: PathBuf,
}

impl Site {
    fn start(authority: Authority, directory: &Path, cert: &Path, key: &Path) -> Self {
        let log = directory.join("log");
        let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:", "--tls-cert"]);
        command.arg(cert).arg("--tls-key").arg(key).stderr(File::create(&log).unwrap());
        Self { authority, server: Process::spawn(command), log }
    }

    /// The certificate that a new connection is shown.
    async fn shown(&self) -> CertificateDer<'static> {
        let stream = TcpStream::connect(self.server.url.strip_prefix("https://").unwrap()).await.unwrap();
        let config = client_config(&self.authority, None, &[]);
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned()
    }

    async fn shows(&self, pair: &Pair) -> bool {
        self.shown().await == CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()
    }

    fn warnings(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).unwrap();
        log.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
    }

    /// Waits for the next warning, and then for as long as the files are looked at several times: there is no other one,
    /// and the certificate is the one of before.
    async fn refuses(&self, reason: &str, still: &Pair) {
        let before = self.warnings().len();
        until("the change is told", async || self.warnings().len() > before).await;
        tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
        let warnings = self.warnings();
        assert_eq!(warnings.len(), before + 1, "{warnings:?}");
        assert!(warnings[before].contains(reason), "{reason}: {warnings:?}");
        assert!(self.shows(still).await, "{reason}");
    }
}

#[tokio::test]
async fn only_a_pair_that_is_whole_and_good_is_taken_and_connections_live_on() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let (first, second) = (authority.server(), authority.server());
    let expired = authority.expired();
    let files = first.write(directory.path());
    let site = Site::start(authority, directory.path(), &files.cert, &files.key);
    assert!(site.shows(&first).await);
    let client = super::client(&site.authority, &["h2"]);
    let mut stream = EventSource::open_with(&client, &format!("{}/events/stream", site.server.url)).await;
    stream.caught_up().await;

    fs::write(&files.cert, &second.cert[..second.cert.len() / 2]).unwrap();
    site.refuses("it is cut off", &first).await;
    fs::write(&files.cert, &second.cert).unwrap();
    site.refuses("is not the key of", &first).await;
    expired.write(directory.path());
    site.refuses("has expired at 2020-01-01", &first).await;
    fs::remove_file(&files.key).unwrap();
    site.refuses("No such file", &first).await;

    second.write(directory.path());
    until("the good pair is shown", async || site.shows(&second).await).await;
    assert_eq!(site.warnings().len(), 4, "{:?}", site.warnings());
    // The connection of before, which is the only one of this client.
    let publish = client.post(format!("{}/publish", site.server.url)).json(&crate::support::event("t", 1));
    assert_eq!(publish.send().await.unwrap().status(), 202);
    assert_eq!(stream.event_ids(1).await, ["1"]);
}

/// As Kubernetes changes a secret: the files are links into `..data`, which is a link to a directory, and a new link takes
/// its place.
#[tokio::test]
async fn a_link_to_another_directory_is_a_change() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let at = |name: &str| directory.path().join(name);
    let (first, second) = (authority.server(), authority.server());
    for (name, pair) in [("..1", &first), ("..2", &second)] {
        fs::create_dir(at(name)).unwrap();
        pair.write(&at(name));
    }
    symlink("..1", at("..data")).unwrap();
    symlink("..data/cert.pem", at("cert.pem")).unwrap();
    symlink("..data/key.pem", at("key.pem")).unwrap();
    let site = Site::start(authority, directory.path(), &at("cert.pem"), &at("key.pem"));
    assert!(site.shows(&first).await);
    symlink("..2", at("..new")).unwrap();
    fs::rename(at("..new"), at("..data")).unwrap();
    until("the other pair is shown", async || site.shows(&second).await).await;
    assert_eq!(site.warnings(), Vec::<String>::new());
}

#[tokio::test]
async fn another_authority_for_clients_is_taken_for_new_connections() {
    let (authority, directory) = (Authority::new("a"), TempDir::new().unwrap());
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let files = authority.server().write(directory.path());
    let ca = old.write(directory.path(), "clients.pem");
    let mut command = Process::command(&["--listen", "127.0.0.1:0", "--store", "memory:", "--tls-cert"]);
    command.arg(&files.cert).arg("--tls-key").arg(&files.key).arg("--tls-client-ca").arg(&ca);
    command.stderr(std::process::Stdio::null());
    let server = Process::spawn(command);
    let gets_in = async |pair: &Pair| {
        let tls = client_config(&authority, Some(pair), &[]);
        let client = reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap();
        client.get(format!("{}/readyz", server.url)).send().await.is_ok()
    };
    let (of_old, of_new) = (old.client(vec![]), new.client(vec![]));
    assert!(gets_in(&of_old).await && !gets_in(&of_new).await);
    new.write(directory.path(), "clients.pem");
    until("clients of the new one get in", async || gets_in(&of_new).await).await;
    assert!(!gets_in(&of_old).await);
}
