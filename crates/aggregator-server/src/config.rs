//! Every option, with its default, once.

mod byte_size;
pub mod listen;
mod location;

use std::net::SocketAddr;
use std::num::NonZeroUsize;

use aggregator_core::store::backend::DEFAULT_MAX_TOPICS;
use clap::{Parser, ValueEnum};
use humantime::Duration;
use program_support::values::{at_least, flag, time_span, within};

use self::location::StoreParser;
use crate::admin::transfer::{export, import};

pub use self::byte_size::ByteSize;
pub use self::listen::ListenAddress;
pub use self::location::StoreLocation;

/// What the environment variable of every option begins with.
pub const VARIABLE_PREFIX: &str = "AGGREGATOR_";

/// Takes events over HTTP, stores each one once, and says what became of every item.
#[derive(Debug, Clone, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Config {
    /// What to do; to serve if nothing is said
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where to listen: an address or a host name, and a port; port 0 picks a free one
    #[arg(
        long,
        global = true,
        env = "AGGREGATOR_LISTEN",
        default_value_t = Self::default().listen,
        value_name = "HOST:PORT"
    )]
    pub listen: ListenAddress,

    /// Where events are stored: sqlite:PATH, durable; a postgres:// URL, for many nodes; or memory: (memory:4 for
    /// 4 partitions), for trials
    #[arg(
        long,
        global = true,
        env = "AGGREGATOR_STORE",
        hide_env_values = true, // there may be a password in it
        default_value_t = Self::default().store,
        value_name = "STORE",
        value_parser = StoreParser
    )]
    pub store: StoreLocation,

    /// Partitions of a postgres:// store when it is created; one that exists keeps its own [default: 4]
    #[cfg(feature = "postgres")]
    #[arg(long, global = true, env = "AGGREGATOR_PARTITIONS", value_name = "N",
          value_parser = within::<u16>(1..=1024))]
    pub partitions: Option<u16>,

    /// Acknowledge only what a synchronous standby of the postgres:// store has, too
    #[cfg(feature = "postgres")]
    #[arg(long, env = "AGGREGATOR_REQUIRE_SYNC_STANDBY", value_parser = flag)]
    pub require_sync_standby: bool,

    /// Listen beyond this machine although anybody who reaches the port can publish and read
    #[arg(long, env = "AGGREGATOR_ALLOW_ANONYMOUS", value_parser = flag)]
    pub allow_anonymous: bool,

    /// Worker threads; at most one per partition of the store is used
    #[arg(long, env = "AGGREGATOR_WORKERS", default_value_t = Self::default().workers, value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    pub workers: NonZeroUsize,

    /// Events that may wait to be committed; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_QUEUE_EVENTS", default_value_t = Self::default().queue_events,
          value_name = "N",
          value_parser = at_least::<usize>(0))]
    pub queue_events: usize,

    /// Bytes that may wait to be committed; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_QUEUE_BYTES", default_value_t = Self::default().queue_bytes,
          value_name = "BYTES")]
    pub queue_bytes: ByteSize,

    /// A worker commits what has gathered once it holds this many events
    #[arg(long, env = "AGGREGATOR_GROUP_EVENTS", default_value_t = Self::default().group_events,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    pub group_events: NonZeroUsize,

    /// A worker commits what has gathered once it holds this many bytes
    #[arg(long, env = "AGGREGATOR_GROUP_BYTES", default_value_t = Self::default().group_bytes,
          value_name = "BYTES")]
    pub group_bytes: ByteSize,

    /// Events in one request
    #[arg(long, env = "AGGREGATOR_MAX_BATCH_EVENTS", default_value_t = Self::default().max_batch_events,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    pub max_batch_events: NonZeroUsize,

    /// Bytes of one request's body
    #[arg(long, env = "AGGREGATOR_MAX_BODY_BYTES", default_value_t = Self::default().max_body_bytes,
          value_name = "BYTES")]
    pub max_body_bytes: ByteSize,

    /// Levels of nesting in JSON, counted as in a page of events: a payload has three fewer
    #[arg(long, env = "AGGREGATOR_MAX_JSON_DEPTH", default_value_t = Self::default().max_json_depth,
          value_name = "LEVELS",
          value_parser = within::<u16>(4..=1024))]
    pub max_json_depth: u16,

    /// What becomes of an event whose payload has half a surrogate pair, which is no character ("\ud83d"): many
    /// JSON parsers refuse every page it is on
    #[arg(long, env = "AGGREGATOR_LONE_SURROGATES", default_value_t = Self::default().lone_surrogates,
          value_enum, value_name = "RULE")]
    pub lone_surrogates: LoneSurrogates,

    /// Topics in the store; an event of a further one is refused
    #[arg(long, env = "AGGREGATOR_MAX_TOPICS", default_value_t = Self::default().max_topics,
          value_name = "N",
          value_parser = at_least::<u64>(0))]
    pub max_topics: u64,

    /// Connections at a time; further ones are answered 503 and closed
    #[arg(long, env = "AGGREGATOR_MAX_CONNECTIONS", default_value_t = Self::default().max_connections,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    pub max_connections: NonZeroUsize,

    /// Bytes of request bodies in memory at a time; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_REQUEST_BYTES", default_value_t = Self::default().request_bytes,
          value_name = "BYTES")]
    pub request_bytes: ByteSize,

    /// Bytes of large responses in memory at a time; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_RESPONSE_BYTES", default_value_t = Self::default().response_bytes,
          value_name = "BYTES")]
    pub response_bytes: ByteSize,

    /// Bytes of a request's head
    #[arg(long, env = "AGGREGATOR_MAX_HEAD_BYTES", default_value_t = Self::default().max_head_bytes,
          value_name = "BYTES")]
    pub max_head_bytes: ByteSize,

    /// Reads at a time
    #[arg(long, env = "AGGREGATOR_READERS", default_value_t = Self::default().readers, value_name = "N",
          value_parser = within::<u32>(1..=256))]
    pub readers: u32,

    /// Reads that may wait for their turn; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_READ_QUEUE", default_value_t = Self::default().read_queue,
          value_name = "N",
          value_parser = at_least::<usize>(0))]
    pub read_queue: usize,

    /// How long a read may take, the wait for its turn included; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_READ_TIMEOUT", default_value_t = Self::default().read_timeout,
          value_name = "TIME")]
    pub read_timeout: Duration,

    /// How long a connection may take to send a request's head, idle time included
    #[arg(long, env = "AGGREGATOR_HEADER_TIMEOUT", default_value_t = Self::default().header_timeout,
          value_name = "TIME",
          value_parser = time_span)]
    pub header_timeout: Duration,

    /// How long a request's body may take to arrive
    #[arg(long, env = "AGGREGATOR_BODY_TIMEOUT", default_value_t = Self::default().body_timeout,
          value_name = "TIME",
          value_parser = time_span)]
    pub body_timeout: Duration,

    /// How long a response may wait for a client that does not take it
    #[arg(long, env = "AGGREGATOR_WRITE_TIMEOUT", default_value_t = Self::default().write_timeout,
          value_name = "TIME",
          value_parser = time_span)]
    pub write_timeout: Duration,

    /// How long a publisher waits for its commit before it is told to try again
    #[arg(long, env = "AGGREGATOR_COMMIT_TIMEOUT", default_value_t = Self::default().commit_timeout,
          value_name = "TIME",
          value_parser = time_span)]
    pub commit_timeout: Duration,

    /// How long a shutdown may take to finish requests and commit the queue
    #[arg(long, env = "AGGREGATOR_DRAIN_TIMEOUT", default_value_t = Self::default().drain_timeout,
          value_name = "TIME",
          value_parser = time_span)]
    pub drain_timeout: Duration,

    /// End with exit code 3 after a failure that stops acknowledgements; otherwise stay, for reading, with
    /// /readyz red
    #[arg(long, env = "AGGREGATOR_EXIT_ON_FAILURE", value_parser = flag)]
    pub exit_on_failure: bool,

    /// How logs are written to standard error; auto: human on a terminal, else json
    #[arg(long, value_enum, env = "AGGREGATOR_LOG_FORMAT", default_value_t = Self::default().log_format,
          value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug, or a tracing filter
    #[arg(long, env = "AGGREGATOR_LOG", default_value_t = Self::default().log, value_name = "FILTER")]
    pub log: String,

    /// Bytes of log lines that may wait to be written; lines beyond that are dropped and counted
    #[arg(long, env = "AGGREGATOR_LOG_QUEUE_BYTES", default_value_t = Self::default().log_queue_bytes,
          value_name = "BYTES")]
    pub log_queue_bytes: ByteSize,
}

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Read all of the store and check it against itself; exit with 0 if it is sound, 1 if not
    Check {
        /// Make the dedup index anew from the events first, whatever is left of it
        #[arg(long)]
        rebuild_index: bool,
        /// Let a SQLite store that has lost its write-ahead log count as closed, if the file alone is sound; events that
        /// were acknowledged may be missing in it
        #[arg(long)]
        accept_lost_log: bool,
    },
    /// Write everything that the store keeps, which nobody has open, as lines of JSON; exit with 0, or 1
    Export(export::Options),
    /// Read what `export` wrote into the store, which nobody has open; what is there already is skipped;
    /// exit with 0, or 1
    Import(import::Options),
    /// Ask the server at --listen whether it is ready; exit with 0, or 1 and the reason
    Healthcheck,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// A line for people.
    Human,
    /// A JSON object a line.
    Json,
}

/// What becomes of an event whose payload has half a surrogate pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LoneSurrogates {
    /// It is refused.
    Refuse,
    /// It is stored, its payload as it is spelled.
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

/// Where each default is stated: the command line takes them from here.
impl Default for Config {
    fn default() -> Self {
        Self {
            command: None,
            listen: ListenAddress::Ip(SocketAddr::from(([127, 0, 0, 1], 8080))),
            store: StoreLocation::Sqlite("data/aggregator.db".into()),
            #[cfg(feature = "postgres")]
            partitions: None,
            #[cfg(feature = "postgres")]
            require_sync_standby: false,
            allow_anonymous: false,
            workers: at_least_one(4),
            queue_events: 65_536,
            queue_bytes: ByteSize(64 << 20),
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
            read_timeout: seconds(10),
            header_timeout: seconds(60),
            body_timeout: seconds(30),
            write_timeout: seconds(30),
            commit_timeout: seconds(30),
            drain_timeout: seconds(10),
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

fn seconds(seconds: u64) -> Duration {
    std::time::Duration::from_secs(seconds).into()
}

impl Config {
    /// Refuses to listen where other machines reach it, unless that was asked for. `addresses` are those of
    /// [`Self::listen`].
    ///
    /// # Errors
    /// Names the options, and what would be right.
    pub fn check_reach(&self, addresses: &[SocketAddr]) -> Result<(), String> {
        let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
        let Some(address) = reachable.filter(|_| !self.allow_anonymous) else { return Ok(()) };
        let listen = match &self.listen {
            ListenAddress::Ip(address) => format!("{address} can be reached"),
            ListenAddress::Name { .. } => format!("{} is {address}, which can be reached", self.listen),
        };
        Err(format!(
            "--listen {listen} from other machines, and there are no credentials: add --allow-anonymous if everybody \
             there may publish and read, or listen on 127.0.0.1"
        ))
    }

    /// Refuses options that contradict each other.
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
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_others_reach_has_to_be_asked_for() {
        let loopback =
            ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:1"].map(|address| address.parse().unwrap());
        for reachable in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
            // A name may have addresses of both kinds.
            let addresses = [&loopback[..], &[reachable.parse().unwrap()]].concat();
            let mut config = Config { listen: "name:8080".parse().unwrap(), ..Config::default() };
            let refusal = config.check_reach(&addresses).unwrap_err();
            assert!(refusal.contains("--allow-anonymous") && refusal.contains(reachable), "{refusal}");
            config.allow_anonymous = true;
            config.check_reach(&addresses).unwrap();
        }
        Config::default().check_reach(&loopback).unwrap();
    }

    #[test]
    fn limits_that_exclude_each_other_are_refused() {
        let config = Config { queue_events: 10, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--queue-events"));
        let config = Config { request_bytes: ByteSize(10), ..Config::default() };
        assert!(config.check().unwrap_err().contains("--request-bytes"));
    }
}
