//! The settings of the service: plain data, with every default in [`Config::default`].
//!
//! This module knows neither the command line nor the environment; [`crate::options`] fills a [`Config`] from them.

mod admin_socket;
mod byte_size;
mod client_name;
mod listen;
mod location;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use aggregator_core::store::backend::DEFAULT_MAX_TOPICS;

pub use self::admin_socket::AdminSocket;
pub use self::byte_size::ByteSize;
pub use self::client_name::ClientName;
pub use self::listen::ListenAddress;
pub use self::location::StoreLocation;
pub(crate) use self::location::may_be_repeated;

/// See [`Config::max_json_depth`].
pub(crate) const JSON_DEPTHS: RangeInclusive<u64> = 4..=1024;

/// See [`Config::readers`].
pub(crate) const READERS: RangeInclusive<u64> = 1..=256;

/// The settings of the service.
///
/// [`run`](crate::run) takes the listener and the store from its caller. The settings that describe them (`listen`,
/// `store`, `partitions`, `require_sync_standby`, `admin_socket`), and those of the log, are for the program.
///
/// A new setting gets a field here, its default in [`Config::default`], an option in [`crate::options`], and a row in
/// `docs/reference.md`. The compiler asks for the option, a test for the row. An option that a command uses, too, is
/// `global`. A new kind of value also gets a sample in the test of `options.rs`.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Port 0 picks a free one.
    pub listen: ListenAddress,
    /// Where events are stored.
    pub store: StoreLocation,
    /// How many partitions a new PostgreSQL store gets, 1 to 1,024; `None` leaves it to the store. A store that exists
    /// keeps its own.
    #[cfg(feature = "postgres")]
    pub partitions: Option<u16>,
    /// Whether a commit of a PostgreSQL store has to reach a synchronous standby before it is acknowledged.
    #[cfg(feature = "postgres")]
    pub require_sync_standby: bool,
    /// Whether everybody who reaches the port may publish and read as long as the store has no key. On this machine alone
    /// they may anyway.
    pub allow_anonymous: bool,
    /// Hosts that count as this machine for requests without a key, beside `localhost` and its addresses.
    pub allowed_hosts: Vec<String>,
    /// Where the operator's socket is.
    pub admin_socket: AdminSocket,
    /// A PEM file with the server's chain of certificates: with it, the port speaks TLS. It is read again when it changes,
    /// as the other files of TLS are.
    pub tls_cert: Option<PathBuf>,
    /// A PEM file with the private key of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// A PEM file: clients have to present a certificate that one of these signed.
    pub tls_client_ca: Option<PathBuf>,
    /// A client's certificate has to have one of these names; any will do if there are none.
    pub tls_client_san: Vec<ClientName>,
    /// Opens a store on a network file system, or on an overlay that is mounted `volatile`: what is acknowledged may be lost
    /// there.
    pub allow_unsafe_filesystem: bool,
    /// Worker threads. At most one per partition of the store is started.
    pub workers: NonZeroUsize,
    /// How many events may wait for their commit. Beyond that a request is answered 503.
    pub queue_events: usize,
    /// How many bytes may wait for their commit. Beyond that a request is answered 503.
    pub queue_bytes: ByteSize,
    /// How long a request may wait for room in the queue. After that it is answered 503; zero answers at once.
    pub queue_wait: Duration,
    /// A commit group takes no further request once it has so many events.
    pub group_events: NonZeroUsize,
    /// A commit group takes no further request once it has so many bytes.
    pub group_bytes: ByteSize,
    /// The most events in one request.
    pub max_batch_events: NonZeroUsize,
    /// The most bytes in the body of one request, at most 1 GiB.
    pub max_body_bytes: ByteSize,
    /// The most levels of nesting in JSON, 4 to 1,024, counted in a page of events. A payload has three fewer.
    pub max_json_depth: u16,
    /// What to do with an event whose payload has half a surrogate pair (`"\ud83d"`).
    pub lone_surrogates: LoneSurrogates,
    /// The most topics in the store. An event of a further topic is refused.
    pub max_topics: u64,
    /// The most connections at a time. A further one is answered 503 and closed.
    pub max_connections: NonZeroUsize,
    /// How many bytes of request bodies may be in memory at a time. Beyond that a request is answered 503.
    pub request_bytes: ByteSize,
    /// How many bytes of large responses may be in memory at a time. Beyond that a request is answered 503.
    pub response_bytes: ByteSize,
    /// The most bytes in the head of a request.
    pub max_head_bytes: ByteSize,
    /// How many reads run at a time, 1 to 256.
    pub readers: u32,
    /// How many reads may wait for their turn. Beyond that a request is answered 503.
    pub read_queue: usize,
    /// How many readers may wait at the end of the stream at a time. Beyond that a request is answered 503.
    pub max_tails: NonZeroUsize,
    /// After so long without an event, a stream tells its client how far it has come. Proxies cut silent connections.
    pub heartbeat: Duration,
    /// How long a start waits for a store that another process has open, or that cannot be reached.
    pub lock_wait: Duration,
    /// How long a read may take, including the wait for its turn. After that it is answered 503.
    pub read_timeout: Duration,
    /// How long a connection may take to send the head of a request, including the time it is idle.
    pub header_timeout: Duration,
    /// How long the body of a request may take to arrive.
    pub body_timeout: Duration,
    /// How many bytes of a request's body have to arrive in a second, on average. The first five seconds do not count.
    pub min_body_rate: ByteSize,
    /// How long a response may wait for a client that does not read it.
    pub write_timeout: Duration,
    /// How long a publisher waits for its commit. After that it is answered 503.
    pub commit_timeout: Duration,
    /// How long a shutdown may take to finish requests and to commit the queue.
    pub drain_timeout: Duration,
    /// Whether to end after a failure that stops acknowledgements. Otherwise the service stays for reads, and `/readyz`
    /// reports the failure.
    pub exit_on_failure: bool,
    /// How logs are written to standard error.
    pub log_format: LogFormat,
    /// Which log lines are written: a level, or a filter of `tracing`.
    pub log: String,
    /// How many bytes of log lines may wait to be written. Lines beyond that are dropped and counted.
    pub log_queue_bytes: ByteSize,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// A line of text for people.
    Human,
    /// A JSON object per line.
    Json,
}

/// What to do with an event whose payload has half a surrogate pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoneSurrogates {
    /// The event is refused.
    Refuse,
    /// The event is stored, with its payload as it was sent.
    Keep,
}

impl From<LoneSurrogates> for aggregator_core::LoneSurrogates {
    fn from(rule: LoneSurrogates) -> Self {
        match rule {
            LoneSurrogates::Refuse => Self::Refuse,
            LoneSurrogates::Keep => Self::Keep,
        }
    }
}

/// The one place of every default. The command line and the environment take theirs from here.
impl Default for Config {
    fn default() -> Self {
        Self {
            listen: ListenAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 8080))),
            store: StoreLocation::Sqlite("data/aggregator.db".into()),
            #[cfg(feature = "postgres")]
            partitions: None,
            #[cfg(feature = "postgres")]
            require_sync_standby: false,
            allow_anonymous: false,
            allowed_hosts: Vec::new(),
            admin_socket: AdminSocket::Beside,
            tls_cert: None,
            tls_key: None,
            tls_client_ca: None,
            tls_client_san: Vec::new(),
            allow_unsafe_filesystem: false,
            workers: at_least_one(4),
            queue_events: 65_536,
            queue_bytes: ByteSize(64 << 20),
            queue_wait: Duration::from_secs(1),
            group_events: at_least_one(10_000),
            group_bytes: ByteSize(8 << 20),
            max_batch_events: at_least_one(10_000),
            max_body_bytes: ByteSize(16 << 20),
            max_json_depth: 127,
            lone_surrogates: LoneSurrogates::Refuse,
            max_topics: DEFAULT_MAX_TOPICS,
            max_connections: at_least_one(1_000),
            request_bytes: ByteSize(256 << 20),
            response_bytes: ByteSize(256 << 20),
            max_head_bytes: ByteSize(64 << 10),
            readers: 4,
            read_queue: 256,
            max_tails: at_least_one(10_000),
            heartbeat: Duration::from_secs(15),
            lock_wait: Duration::ZERO,
            read_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            min_body_rate: ByteSize(1 << 10),
            write_timeout: Duration::from_secs(30),
            commit_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
            exit_on_failure: false,
            log_format: LogFormat::Auto,
            log: "info".to_owned(),
            log_queue_bytes: ByteSize(1 << 20),
        }
    }
}

const fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a default that cannot be zero is not")
}

impl Config {
    /// Refuses to listen where other machines reach the port if nobody could ever publish or read there.
    /// `addresses` are those of [`Self::listen`].
    ///
    /// # Errors
    /// Names the settings as options, and says what would be right.
    pub fn check_reach(&self, addresses: &[SocketAddr]) -> Result<(), String> {
        let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
        let can_have_keys =
            !matches!(self.store, StoreLocation::Memory(_)) || self.admin_socket.path(&self.store).is_some();
        let Some(address) = reachable.filter(|_| !self.allow_anonymous && !can_have_keys) else {
            return Ok(());
        };
        let listen = match &self.listen {
            ListenAddress::Ip(address) => format!("{address} can be reached"),
            ListenAddress::Name { .. } => format!("{} is {address}, which can be reached", self.listen),
        };
        Err(format!(
            "--listen {listen} from other machines, and a store in memory begins without keys: add --allow-anonymous if \
             everybody there may publish and read, or --admin-socket PATH to make keys, or listen on 127.0.0.1"
        ))
    }

    /// Refuses settings that are out of bounds or contradict each other. [`run`](crate::run) calls it.
    ///
    /// # Errors
    /// Names the options, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.queue_events < self.max_batch_events.get() {
            return Err(format!(
                "--queue-events {} cannot hold one batch of --max-batch-events {1}: raise it to {1} or more",
                self.queue_events, self.max_batch_events
            ));
        }
        if self.request_bytes.0 < self.max_body_bytes.0 {
            return Err(format!(
                "--request-bytes {} cannot hold one body of --max-body-bytes {1}: raise it to {1} or more",
                self.request_bytes, self.max_body_bytes
            ));
        }
        if self.max_body_bytes.0 > aggregator_core::BatchBuilder::MAX_BODY_BYTES {
            return Err(format!("--max-body-bytes {} must be at most 1GiB", self.max_body_bytes));
        }
        if !JSON_DEPTHS.contains(&self.max_json_depth.into()) {
            let (least, most) = (JSON_DEPTHS.start(), JSON_DEPTHS.end());
            return Err(format!("--max-json-depth {} must be {least} to {most}", self.max_json_depth));
        }
        if !READERS.contains(&self.readers.into()) {
            let (least, most) = (READERS.start(), READERS.end());
            return Err(format!("--readers {} must be {least} to {most}", self.readers));
        }
        self.check_tls()
    }

    fn check_tls(&self) -> Result<(), String> {
        let refused = match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => "--tls-cert is given without --tls-key: give both",
            (None, Some(_)) => "--tls-key is given without --tls-cert: give both",
            (None, None) if self.tls_client_ca.is_some() => {
                "--tls-client-ca is given without --tls-cert and --tls-key: only TLS has certificates of clients"
            }
            _ if self.tls_client_ca.is_none() && !self.tls_client_san.is_empty() => {
                "--tls-client-san is given without --tls-client-ca: nobody would vouch for the name"
            }
            _ => return Ok(()),
        };
        Err(refused.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_has_to_be_asked_for_where_there_are_no_keys() {
        let loopback =
            ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:1"].map(|address| address.parse().unwrap());
        let memory =
            || Config { store: StoreLocation::Memory(aggregator_core::Partitions::ONE), ..Config::default() };
        for reachable in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
            // A name may have addresses of both kinds.
            let addresses = [&loopback[..], &[reachable.parse().unwrap()]].concat();
            let mut config = Config { listen: "name:8080".parse().unwrap(), ..memory() };
            let refusal = config.check_reach(&addresses).unwrap_err();
            assert!(refusal.contains("--allow-anonymous") && refusal.contains(reachable), "{refusal}");
            config.allow_anonymous = true;
            config.check_reach(&addresses).unwrap();
            Config { admin_socket: AdminSocket::At("s".into()), ..memory() }.check_reach(&addresses).unwrap();
            Config::default().check_reach(&addresses).unwrap();
        }
        memory().check_reach(&loopback).unwrap();
    }

    #[test]
    fn limits_that_exclude_each_other_are_refused() {
        let config = Config { queue_events: 10, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--queue-events"));
        let config = Config { request_bytes: ByteSize(10), ..Config::default() };
        assert!(config.check().unwrap_err().contains("--request-bytes"));
        let config = Config { max_json_depth: 3, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--max-json-depth 3 must be 4 to 1024"));
        let config = Config { readers: 0, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--readers 0 must be 1 to 256"));
    }

    #[test]
    fn options_of_tls_that_lack_another_one_name_both() {
        let path = || Some(PathBuf::from("a.pem"));
        let cert = Config { tls_cert: path(), ..Config::default() };
        let key = Config { tls_key: path(), ..Config::default() };
        let whole = Config { tls_key: path(), ..cert.clone() };
        whole.check().unwrap();
        Config { tls_client_ca: path(), ..whole.clone() }.check().unwrap();
        let ca = Config { tls_client_ca: path(), ..Config::default() };
        let san = Config { tls_client_san: vec!["a.example.org".parse().unwrap()], ..whole };
        for (config, named) in [
            (cert, ["--tls-cert", "--tls-key"]),
            (key, ["--tls-key", "--tls-cert"]),
            (ca, ["--tls-client-ca", "--tls-cert"]),
            (san, ["--tls-client-san", "--tls-client-ca"]),
        ] {
            let refusal = config.check().unwrap_err();
            assert!(named.iter().all(|name| refusal.contains(name)), "{refusal}");
        }
    }
}
