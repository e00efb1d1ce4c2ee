//! Somebody who looks at the server while it works: a Prometheus that scrapes it each second, and a browser with its page open.

use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{anyhow, ensure};

use crate::server::get_on;
use crate::wire::Reply;

/// What is asked for, and every how many seconds. The page's part is what its `main.js` says.
const LOOKS: [(u64, &str); 8] = [
    (1, "/metrics"),
    (2, "/readyz"),
    (2, "/stats"),
    (2, "/stats/series?step=second&limit=62"),
    (5, "/insight?limit=20"),
    (5, "/metrics"),
    (5, "/stats/series?step=hour&limit=24"),
    (10, "/health"),
];

pub(crate) struct Watcher {
    stop: Sender<()>,
    thread: JoinHandle<anyhow::Result<u64>>,
}

impl Watcher {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address)?;
            let (mut reply, mut looks) = (Reply::default(), 0);
            for second in 0_u64.. {
                for (_, path) in LOOKS.iter().filter(|(every, _)| second.is_multiple_of(*every)) {
                    get_on(&mut stream, path, &mut reply)?;
                    ensure!(reply.status() == 200, "{path} is answered {}", reply.status());
                    looks += 1;
                }
                if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            Ok(looks)
        });
        Self { stop, thread }
    }

    /// Ends it. Fails if a look failed, and if there was none.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        drop(self.stop);
        let looks = self.thread.join().map_err(|_| anyhow!("the watcher panicked"))??;
        ensure!(looks > 0, "nobody has looked");
        Ok(())
    }
}
