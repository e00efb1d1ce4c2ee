//! The settings of the service: plain data, with every default in [`Config::default`].
//!
//! This module knows neither the command line nor the environment; [`crate::options`] fills a [`Config`] from them.

mod admin_socket;
mod byte_size;
mod check;
mod client_name;
mod jwks_location;
mod jwt_algorithm;
mod listen;
mod location;
mod otlp_endpoint;
mod retain;
mod sample_ratio;

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use aggregator_core::store::backend::DEFAULT_MAX_TOPICS;

pub use self::admin_socket::AdminSocket;
pub use self::byte_size::ByteSize;
pub use self::client_name::ClientName;
pub use self::jwks_location::JwksLocation;
pub use self::jwt_algorithm::JwtAlgorithm;
pub use self::listen::ListenAddress;
pub use self::location::StoreLocation;
pub(crate) use self::location::may_be_repeated;
pub use self::otlp_endpoint::OtlpEndpoint;
pub use self::retain::RetentionRule;
pub(crate) use self::retain::by_specificity;
pub use self::sample_ratio::SampleRatio;

/// See [`Config::max_json_depth`].
pub(crate) const JSON_DEPTHS: RangeInclusive<u64> = 4..=1024;

/// See [`Config::readers`].
pub(crate) const READERS: RangeInclusive<u64> = 1..=256;

/// See [`Config::otlp_queue_spans`].
pub(crate) const OTLP_QUEUE_SPANS: RangeInclusive<u64> = 1..=1_000_000;

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
    /// Tokens of this issuer are taken beside keys. Together with `jwt_audience` and `jwt_jwks`, or not at all.
    pub jwt_issuer: Option<String>,
    /// Tokens are for this audience.
    pub jwt_audience: Option<String>,
    /// Where the issuer's public keys are.
    pub jwt_jwks: Option<JwksLocation>,
    /// How tokens may be signed.
    pub jwt_algorithms: Vec<JwtAlgorithm>,
    /// The claim that has a token's scopes.
    pub jwt_scopes_claim: String,
    /// Worker threads. At most one per partition of the store is started, and at least one per shard.
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
    /// The most topics in the store, or in each of its shards. An event of a further topic is refused.
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
    /// How many sources in topics `GET /insight` counts one by one, the busiest, 0 to 1,000. With 0 it counts nothing, and
    /// `GET /duplicates` is empty.
    pub insight_streams: u16,
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
    /// What is kept of the topics that a pattern means; at most 100 rules, and one for a pattern.
    pub retain: Vec<RetentionRule>,
    /// How often the rules are applied, from 10 ms up.
    pub retain_every: Duration,
    /// Whether the rules are only worked out and reported.
    pub retain_dry_run: bool,
    /// How much free space the store's file keeps. What more the rules free goes back to the file system; without this,
    /// all is kept for new events.
    pub retain_free_space: Option<ByteSize>,
    /// Where spans of requests and commits are exported to; needs the feature `otlp`.
    pub otlp_endpoint: Option<OtlpEndpoint>,
    /// Which part of the requests without a `traceparent` is traced.
    pub otlp_sample_ratio: SampleRatio,
    /// How many spans may wait for their export, 1 to 1,000,000. Spans beyond that are dropped.
    pub otlp_queue_spans: NonZeroUsize,
    /// How long an export of spans may take, and all exports together that are left at the end.
    pub otlp_timeout: Duration,
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
            jwt_issuer: None,
            jwt_audience: None,
            jwt_jwks: None,
            jwt_algorithms: vec![JwtAlgorithm::RS256, JwtAlgorithm::ES256, JwtAlgorithm::EDDSA],
            jwt_scopes_claim: "scope".to_owned(),
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
            insight_streams: crate::insight::MAX_STREAMS,
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
            retain: Vec::new(),
            retain_every: Duration::from_secs(60),
            retain_dry_run: false,
            retain_free_space: None,
            otlp_endpoint: None,
            otlp_sample_ratio: SampleRatio::ALL,
            otlp_queue_spans: at_least_one(8_192),
            otlp_timeout: Duration::from_secs(5),
            log_format: LogFormat::Auto,
            log: "info".to_owned(),
            log_queue_bytes: ByteSize(1 << 20),
        }
    }
}

const fn at_least_one(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).expect("a default that cannot be zero is not")
}
