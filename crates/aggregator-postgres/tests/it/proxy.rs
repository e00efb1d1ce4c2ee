//! A proxy to the server that cuts connections at a chosen moment.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use aggregator_postgres::test_server::{Address, TestServer};
use tempfile::TempDir;

/// What happens to a connection whose client commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The server never gets the commit.
    BeforeCommit,
    /// The server gets it, and the connection ends at once.
    WithCommit,
    /// The server commits, and its answer is lost.
    BeforeAnswer,
    /// The server never gets the commit, and neither side learns of it.
    Silence,
}

pub(crate) struct Proxy {
    directory: TempDir,
    port: u16,
    database: String,
    state: Arc<State>,
}

struct State {
    server: Address,
    cut: Mutex<Option<Cut>>,
    /// How many commits are still to be cut.
    left: AtomicU32,
    cuts: AtomicU32,
    /// How many times somebody has connected, whether or not the server was there.
    connections: AtomicU32,
    commits: AtomicU32,
    /// Whether nobody gets a connection after the next cut.
    holds_after_cut: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

/// The message of a simple query with the text `COMMIT`.
const COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";
const SOCKET: &str = ".s.PGSQL.5432";

impl Proxy {
    pub(crate) fn new(server: &TestServer) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join(SOCKET)).unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let state = Arc::new(State {
            server: server.address(),
            cut: Mutex::new(None),
            left: AtomicU32::new(0),
            cuts: AtomicU32::new(0),
            connections: AtomicU32::new(0),
            commits: AtomicU32::new(0),
            holds_after_cut: AtomicBool::new(false),
            held: Mutex::new(false),
            released: Condvar::new(),
        });
        // The threads end with the process.
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || listener.incoming().for_each(|client| carry(&of_thread, client.unwrap())));
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || tcp.incoming().for_each(|client| carry(&of_thread, client.unwrap())));
        Self { directory, port, database: server.database(), state }
    }

    /// The URL over a Unix socket.
    pub(crate) fn url(&self) -> String {
        self.url_of("aggregator")
    }

    /// The URL over a Unix socket, for this role.
    pub(crate) fn url_of(&self, role: &str) -> String {
        let directory = self.directory.path().to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{directory}/{}?sslmode=disable", self.database)
    }

    /// The URL over TCP.
    pub(crate) fn tcp_url(&self) -> String {
        format!("postgres://aggregator@127.0.0.1:{}/{}?sslmode=disable", self.port, self.database)
    }

    /// Cuts the next `count` commits like this.
    pub(crate) fn cut(&self, cut: Cut, count: u32) {
        *self.state.cut.lock().unwrap() = Some(cut);
        self.state.left.store(count, Ordering::SeqCst);
    }

    /// After the next cut, nobody gets a connection until [`Self::release`].
    pub(crate) fn hold_after_cut(&self) {
        self.state.holds_after_cut.store(true, Ordering::SeqCst);
    }

    /// Lets the waiting connections in.
    pub(crate) fn release(&self) {
        self.state.holds_after_cut.store(false, Ordering::SeqCst);
        *self.state.held.lock().unwrap() = false;
        self.state.released.notify_all();
    }

    /// How many commits were cut.
    pub(crate) fn cuts(&self) -> u32 {
        self.state.cuts.load(Ordering::SeqCst)
    }

    /// How many connections were opened to the proxy, including those while the server was away.
    pub(crate) fn connections(&self) -> u32 {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many commits were sent.
    pub(crate) fn commits(&self) -> u32 {
        self.state.commits.load(Ordering::SeqCst)
    }
}

impl State {
    /// What to do with the next commit.
    fn next(&self) -> Option<Cut> {
        let took = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        took.ok()?;
        if self.holds_after_cut.load(Ordering::SeqCst) {
            *self.held.lock().unwrap() = true;
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
        *self.cut.lock().unwrap()
    }
}

/// A connection of a client to the proxy, or of the proxy to the server.
trait Client: Read + Write + Send + Sized + 'static {
    fn another(&self) -> Self;
    fn end(&self);
}

impl Client for UnixStream {
    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

impl Client for TcpStream {
    fn another(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }
}

fn carry(state: &Arc<State>, client: impl Client) {
    state.connections.fetch_add(1, Ordering::SeqCst);
    match &state.server {
        Address::Socket(path) => {
            if let Ok(server) = UnixStream::connect(path) {
                carry_to(state, client, server);
            }
        }
        Address::Tcp(address) => {
            if let Ok(server) = TcpStream::connect(address) {
                carry_to(state, client, server);
            }
        }
    }
}

fn carry_to(state: &Arc<State>, client: impl Client, server: impl Client) {
    let swallow = Arc::new(AtomicBool::new(false));
    let (state, swallow_here) = (Arc::clone(state), Arc::clone(&swallow));
    let (from, to) = (client.another(), server.another());
    std::thread::spawn(move || {
        let held = state.held.lock().unwrap();
        drop(state.released.wait_while(held, |held| *held).unwrap());
        requests(&state, &swallow_here, from, to);
    });
    std::thread::spawn(move || answers(&swallow, server, client));
}

fn close(one: &impl Client, other: &impl Client) {
    one.end();
    other.end();
}

fn requests(state: &State, swallow: &AtomicBool, mut client: impl Client, mut server: impl Client) {
    let mut buffer = vec![0; 1 << 20];
    let mut pending = Vec::new();
    while let Ok(length @ 1..) = client.read(&mut buffer) {
        pending.extend_from_slice(&buffer[..length]);
        let commit = pending.windows(COMMIT.len()).position(|window| window == COMMIT);
        if commit.is_some() {
            state.commits.fetch_add(1, Ordering::SeqCst);
        }
        let cut = commit.and_then(|at| state.next().map(|cut| (at, cut)));
        if let Some((at, cut)) = cut {
            let end = if matches!(cut, Cut::BeforeCommit | Cut::Silence) { at } else { at + COMMIT.len() };
            // A fast server may answer before the connection has ended.
            let answer_is_lost = matches!(cut, Cut::WithCommit | Cut::BeforeAnswer);
            swallow.store(answer_is_lost, Ordering::SeqCst);
            let _ = server.write_all(&pending[..end]);
            match cut {
                Cut::BeforeCommit | Cut::WithCommit => close(&client, &server),
                // Everything that comes from now on is lost.
                Cut::Silence => while let Ok(1..) = client.read(&mut buffer) {},
                Cut::BeforeAnswer => {}
            }
            return;
        }
        // A commit may come in two reads, so its beginning is kept until the rest has come.
        let tail = if pending.ends_with(b"\0") { 0 } else { pending.len().min(COMMIT.len()) };
        let forward = pending.len() - tail;
        if server.write_all(&pending[..forward]).is_err() {
            break;
        }
        pending.drain(..forward);
        if tail > 0 && !is_beginning(&pending) {
            if server.write_all(&pending).is_err() {
                break;
            }
            pending.clear();
        }
    }
    close(&client, &server);
}

/// Whether these bytes end with the beginning of a commit.
fn is_beginning(bytes: &[u8]) -> bool {
    (1..COMMIT.len()).any(|length| bytes.ends_with(&COMMIT[..length]))
}

fn answers(swallow: &AtomicBool, mut server: impl Client, mut client: impl Client) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = server.read(&mut buffer) {
        if swallow.load(Ordering::SeqCst) {
            if buffer[..length].windows(7).any(|window| window == b"COMMIT\0") {
                break;
            }
        } else if client.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    close(&client, &server);
}
