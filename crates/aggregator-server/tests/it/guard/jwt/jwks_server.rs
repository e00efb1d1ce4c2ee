//! A server that has a set of keys, or something else in its place.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use aggregator_server::config::JwksLocation;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::support::until;
use crate::tls::pki::Pair;

/// What it answers.
#[derive(Clone)]
pub(super) enum Reply {
    Keys(String),
    /// A status, and further lines of the head.
    Status(&'static str, String),
    /// The begin of a body that is longer than any that is taken.
    Endless,
    /// Nothing, and the connection stays open.
    Nothing,
    /// A byte a second.
    Slowly,
}

/// Counts how often it was asked.
pub(super) struct JwksServer {
    scheme: &'static str,
    reply: Arc<Mutex<Reply>>,
    asked: Arc<AtomicUsize>,
    /// Bytes of endless bodies that somebody has taken.
    taken: Arc<AtomicUsize>,
    address: std::net::SocketAddr,
    task: JoinHandle<()>,
}

impl JwksServer {
    pub(super) async fn start(reply: Reply) -> Self {
        Self::start_for("http", None, reply).await
    }

    /// With this certificate.
    pub(super) async fn secure(pair: &Pair, reply: Reply) -> Self {
        let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        Self::start_for("https", Some(TlsAcceptor::from(Arc::new(config))), reply).await
    }

    async fn start_for(scheme: &'static str, tls: Option<TlsAcceptor>, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let reply = Arc::new(Mutex::new(reply));
        let asked = Arc::new(AtomicUsize::new(0));
        let taken = Arc::new(AtomicUsize::new(0));
        let (replies, count, bytes) = (Arc::clone(&reply), Arc::clone(&asked), Arc::clone(&taken));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let reply = replies.lock().unwrap().clone();
                match tls.clone() {
                    None => drop(tokio::spawn(serve(stream, reply, Arc::clone(&bytes)))),
                    Some(tls) => {
                        let bytes = Arc::clone(&bytes);
                        drop(tokio::spawn(async move {
                            // Whoever does not trust the certificate goes away.
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, reply, bytes).await;
                            }
                        }));
                    }
                }
            }
        });
        Self { scheme, reply, asked, taken, address, task }
    }

    pub(super) fn location(&self) -> JwksLocation {
        self.url().parse().unwrap()
    }

    pub(super) fn url(&self) -> String {
        format!("{}://localhost:{}/jwks.json", self.scheme, self.address.port())
    }

    pub(super) fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap() = reply;
    }

    pub(super) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    /// Waits until it was asked that often.
    pub(super) async fn until_asked(&self, count: usize) {
        until("the keys are fetched", async || self.asked() >= count).await;
    }
}

impl Drop for JwksServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, reply: Reply, taken: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let answer = match &reply {
        Reply::Keys(keys) => {
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{keys}", keys.len())
        }
        Reply::Status(status, more) => {
            format!("HTTP/1.1 {status}\r\n{more}content-length: 0\r\nconnection: close\r\n\r\n")
        }
        Reply::Endless | Reply::Nothing | Reply::Slowly => String::new(),
    };
    // Whoever has heard enough goes away.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    let piece = vec![b' '; 64 << 10];
    let begin = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n";
    match reply {
        Reply::Endless => {
            let _ = stream.write_all(begin).await;
            while stream.write_all(&piece).await.is_ok() {
                taken.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
        Reply::Slowly => {
            let _ = stream.write_all(begin).await;
            while stream.write_all(b" ").await.is_ok() {
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
        }
        Reply::Nothing => {
            let _ = stream.read_u8().await;
        }
        Reply::Keys(_) | Reply::Status(..) => {
            let _ = stream.shutdown().await;
        }
    }
}
