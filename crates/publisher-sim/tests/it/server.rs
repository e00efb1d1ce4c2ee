//! The aggregator itself, in this process and on a real socket.

use std::net::SocketAddr;
use std::sync::Arc;

use aggregator_core::DedupStore;
use aggregator_server::Config;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) struct Aggregator {
    pub(crate) address: SocketAddr,
    shutdown: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Aggregator {
    pub(crate) async fn start(store: Arc<dyn DedupStore>, config: Config) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let shutdown = async {
                let _ = stopped.await;
            };
            aggregator_server::run(listener, store, config, shutdown).await.unwrap();
        });
        Self { address, shutdown, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) async fn stop(self) {
        let _ = self.shutdown.send(());
        self.task.await.unwrap();
    }
}
