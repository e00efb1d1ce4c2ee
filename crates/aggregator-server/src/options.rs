//! The command line and the environment: every option with its help, and the [`Config`] that the options make.
//!
//! Defaults are stated in [`Config::default`], and nowhere else.

mod command;
mod jwt;
mod otlp;
mod retention;
mod timeouts;
mod tls;
mod values;

use std::num::NonZeroUsize;

use clap::Parser;
use humantime::Duration;
use program_support::values::{at_least, flag, time_span, within};

use crate::config::{
    AdminSocket, ByteSize, Config, JSON_DEPTHS, ListenAddress, LogFormat, LoneSurrogates, READERS,
    StoreLocation,
};
use crate::insight::MAX_STREAMS;

pub use self::command::Command;
use self::jwt::JwtOptions;
use self::otlp::OtlpOptions;
use self::retention::RetentionOptions;
use self::timeouts::Timeouts;
use self::tls::TlsOptions;
use self::values::StoreParser;

/// The environment variable of every option begins with this.
pub const VARIABLE_PREFIX: &str = "AGGREGATOR_";

/// Takes events over HTTP, stores each one once, and says what became of every item.
#[derive(Debug, Clone, Parser)]
#[command(version, about, max_term_width = 100)]
pub struct Options {
    /// What to do; to serve if nothing is said
    #[command(subcommand)]
    command: Option<Command>,

    /// Where to listen: an address or a host name, and a port; port 0 picks a free one
    #[arg(
        long,
        global = true,
        env = "AGGREGATOR_LISTEN",
        default_value_t = Config::default().listen,
        value_name = "HOST:PORT"
    )]
    listen: ListenAddress,

    /// Where events are stored: sqlite:PATH, durable; a postgres:// URL, for many nodes; or memory: (memory:4 for
    /// 4 partitions), for trials. One store of several: sqlite:DIRECTORY?shards=N, or postgres:// URLs with spaces between
    /// them
    #[arg(
        long,
        global = true,
        env = "AGGREGATOR_STORE",
        hide_env_values = true, // there may be a password in it
        default_value_t = Config::default().store,
        value_name = "STORE",
        value_parser = StoreParser
    )]
    store: StoreLocation,

    /// Partitions of a postgres:// store when it is created; one that exists keeps its own [default: 4]
    #[cfg(feature = "postgres")]
    #[arg(long, global = true, env = "AGGREGATOR_PARTITIONS", value_name = "N",
          value_parser = within::<u16>(1..=1024))]
    partitions: Option<u16>,

    /// Acknowledge only what a synchronous standby of the postgres:// store has, too
    #[cfg(feature = "postgres")]
    #[arg(long, env = "AGGREGATOR_REQUIRE_SYNC_STANDBY", value_parser = flag)]
    require_sync_standby: bool,

    /// Open a store on a network file system, or on an overlay mounted volatile: acknowledged events may be lost there
    #[arg(long, env = "AGGREGATOR_ALLOW_UNSAFE_FILESYSTEM", value_parser = flag)]
    allow_unsafe_filesystem: bool,

    /// Let everybody who reaches the port publish and read as long as the store has no key; on this machine alone
    /// they may anyway
    #[arg(long, env = "AGGREGATOR_ALLOW_ANONYMOUS", value_parser = flag)]
    allow_anonymous: bool,

    /// A host by which requests without a key may call this machine, beside localhost and its addresses, because a
    /// proxy passes it on; several with commas between them
    #[arg(long = "allow-host", env = "AGGREGATOR_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    allowed_hosts: Vec<String>,

    /// Where the operator's socket is, over which keys are managed, backups made and events taken back: beside (the file of
    /// the store, with -admin behind its name; shards-admin in a directory of shards), off, or a path
    #[arg(long, global = true, env = "AGGREGATOR_ADMIN_SOCKET", default_value_t = Config::default().admin_socket,
          value_name = "SOCKET")]
    admin_socket: AdminSocket,

    #[command(flatten)]
    tls: TlsOptions,

    #[command(flatten)]
    jwt: JwtOptions,

    /// Worker threads; at most one per partition of the store is used, and at least one per shard
    #[arg(long, env = "AGGREGATOR_WORKERS", default_value_t = Config::default().workers, value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    workers: NonZeroUsize,

    /// Events that may wait to be committed; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_QUEUE_EVENTS", default_value_t = Config::default().queue_events,
          value_name = "N",
          value_parser = at_least::<usize>(0))]
    queue_events: usize,

    /// Bytes that may wait to be committed; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_QUEUE_BYTES", default_value_t = Config::default().queue_bytes,
          value_name = "BYTES")]
    queue_bytes: ByteSize,

    /// How long a request may wait for room among them before it is answered 503; 0s answers at once
    #[arg(long, env = "AGGREGATOR_QUEUE_WAIT", default_value_t = Config::default().queue_wait.into(),
          value_name = "TIME",
          value_parser = time_span)]
    queue_wait: Duration,

    /// A worker commits what has gathered once it holds this many events
    #[arg(long, env = "AGGREGATOR_GROUP_EVENTS", default_value_t = Config::default().group_events,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    group_events: NonZeroUsize,

    /// A worker commits what has gathered once it holds this many bytes
    #[arg(long, env = "AGGREGATOR_GROUP_BYTES", default_value_t = Config::default().group_bytes,
          value_name = "BYTES")]
    group_bytes: ByteSize,

    /// Events in one request
    #[arg(long, env = "AGGREGATOR_MAX_BATCH_EVENTS", default_value_t = Config::default().max_batch_events,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    max_batch_events: NonZeroUsize,

    /// Bytes of one request's body
    #[arg(long, env = "AGGREGATOR_MAX_BODY_BYTES", default_value_t = Config::default().max_body_bytes,
          value_name = "BYTES")]
    max_body_bytes: ByteSize,

    /// Levels of nesting in JSON, counted as in a page of events: a payload has three fewer
    #[arg(long, env = "AGGREGATOR_MAX_JSON_DEPTH", default_value_t = Config::default().max_json_depth,
          value_name = "LEVELS",
          value_parser = within::<u16>(JSON_DEPTHS))]
    max_json_depth: u16,

    /// What becomes of an event whose payload has half a surrogate pair, which is no character ("\ud83d"): many
    /// JSON parsers refuse every page it is on
    #[arg(long, env = "AGGREGATOR_LONE_SURROGATES", default_value_t = Config::default().lone_surrogates,
          value_enum, value_name = "RULE")]
    lone_surrogates: LoneSurrogates,

    /// Topics in the store, or in each of its shards; an event of a further one is refused
    #[arg(long, env = "AGGREGATOR_MAX_TOPICS", default_value_t = Config::default().max_topics,
          value_name = "N",
          value_parser = at_least::<u64>(0))]
    max_topics: u64,

    /// Connections at a time; further ones are answered 503 and closed
    #[arg(long, env = "AGGREGATOR_MAX_CONNECTIONS", default_value_t = Config::default().max_connections,
          value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    max_connections: NonZeroUsize,

    /// Bytes of request bodies in memory at a time; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_REQUEST_BYTES", default_value_t = Config::default().request_bytes,
          value_name = "BYTES")]
    request_bytes: ByteSize,

    /// Bytes of large responses in memory at a time; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_RESPONSE_BYTES", default_value_t = Config::default().response_bytes,
          value_name = "BYTES")]
    response_bytes: ByteSize,

    /// Bytes of a request's head
    #[arg(long, env = "AGGREGATOR_MAX_HEAD_BYTES", default_value_t = Config::default().max_head_bytes,
          value_name = "BYTES")]
    max_head_bytes: ByteSize,

    /// Reads at a time
    #[arg(long, env = "AGGREGATOR_READERS", default_value_t = Config::default().readers, value_name = "N",
          value_parser = within::<u32>(READERS))]
    readers: u32,

    /// Reads that may wait for their turn; beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_READ_QUEUE", default_value_t = Config::default().read_queue,
          value_name = "N",
          value_parser = at_least::<usize>(0))]
    read_queue: usize,

    /// Readers that wait at the end of the stream at a time (streams and long polls); beyond that the answer is 503
    #[arg(long, env = "AGGREGATOR_MAX_TAILS", default_value_t = Config::default().max_tails, value_name = "N",
          value_parser = at_least::<NonZeroUsize>(1))]
    max_tails: NonZeroUsize,

    /// Sources in topics that `GET /insight` counts one by one, the busiest; with 0 it counts nothing
    #[arg(long, env = "AGGREGATOR_INSIGHT_STREAMS", default_value_t = Config::default().insight_streams, value_name = "N",
          value_parser = within::<u16>(0..=MAX_STREAMS.into()))]
    insight_streams: u16,

    /// After so long without an event, a stream tells its client how far it has come; set it below the time after
    /// which proxies cut a silent connection
    #[arg(long, env = "AGGREGATOR_HEARTBEAT", default_value_t = Config::default().heartbeat.into(),
          value_name = "TIME",
          value_parser = time_span)]
    heartbeat: Duration,

    /// How long a start waits for a store that another process still has open, or that cannot be reached
    #[arg(long, env = "AGGREGATOR_LOCK_WAIT", default_value_t = Config::default().lock_wait.into(),
          value_name = "TIME",
          value_parser = time_span)]
    lock_wait: Duration,

    #[command(flatten)]
    timeouts: Timeouts,

    /// End with exit code 3 after a failure that stops acknowledgements; otherwise stay, for reading, with
    /// /readyz red
    #[arg(long, env = "AGGREGATOR_EXIT_ON_FAILURE", value_parser = flag)]
    exit_on_failure: bool,

    #[command(flatten)]
    retention: RetentionOptions,

    #[command(flatten)]
    otlp: OtlpOptions,

    /// How logs are written to standard error; auto: human on a terminal, else json
    #[arg(long, value_enum, env = "AGGREGATOR_LOG_FORMAT", default_value_t = Config::default().log_format,
          value_name = "FORMAT")]
    log_format: LogFormat,

    /// What is logged: error, warn, info, debug, or a tracing filter
    #[arg(long, env = "AGGREGATOR_LOG", default_value_t = Config::default().log, value_name = "FILTER")]
    log: String,

    /// Bytes of log lines that may wait to be written; lines beyond that are dropped and counted
    #[arg(long, env = "AGGREGATOR_LOG_QUEUE_BYTES", default_value_t = Config::default().log_queue_bytes,
          value_name = "BYTES")]
    log_queue_bytes: ByteSize,
}

impl Options {
    /// What to do, `None` for serving, and the settings.
    #[must_use]
    pub fn into_parts(self) -> (Option<Command>, Config) {
        // Without `..`: a setting that has no option does not compile, and an option that sets nothing is dead code.
        let config = Config {
            listen: self.listen,
            store: self.store,
            #[cfg(feature = "postgres")]
            partitions: self.partitions,
            #[cfg(feature = "postgres")]
            require_sync_standby: self.require_sync_standby,
            allow_anonymous: self.allow_anonymous,
            allow_unsafe_filesystem: self.allow_unsafe_filesystem,
            allowed_hosts: self.allowed_hosts,
            admin_socket: self.admin_socket,
            tls_cert: self.tls.tls_cert,
            tls_key: self.tls.tls_key,
            tls_client_ca: self.tls.tls_client_ca,
            tls_client_san: self.tls.tls_client_san,
            jwt_issuer: self.jwt.jwt_issuer,
            jwt_audience: self.jwt.jwt_audience,
            jwt_jwks: self.jwt.jwt_jwks,
            jwt_algorithms: self.jwt.jwt_algorithms,
            jwt_scopes_claim: self.jwt.jwt_scopes_claim,
            workers: self.workers,
            queue_events: self.queue_events,
            queue_bytes: self.queue_bytes,
            queue_wait: self.queue_wait.into(),
            group_events: self.group_events,
            group_bytes: self.group_bytes,
            max_batch_events: self.max_batch_events,
            max_body_bytes: self.max_body_bytes,
            max_json_depth: self.max_json_depth,
            lone_surrogates: self.lone_surrogates,
            max_topics: self.max_topics,
            max_connections: self.max_connections,
            request_bytes: self.request_bytes,
            response_bytes: self.response_bytes,
            max_head_bytes: self.max_head_bytes,
            readers: self.readers,
            read_queue: self.read_queue,
            max_tails: self.max_tails,
            insight_streams: self.insight_streams,
            heartbeat: self.heartbeat.into(),
            lock_wait: self.lock_wait.into(),
            read_timeout: self.timeouts.read_timeout.into(),
            header_timeout: self.timeouts.header_timeout.into(),
            body_timeout: self.timeouts.body_timeout.into(),
            min_body_rate: self.timeouts.min_body_rate,
            write_timeout: self.timeouts.write_timeout.into(),
            commit_timeout: self.timeouts.commit_timeout.into(),
            drain_timeout: self.timeouts.drain_timeout.into(),
            exit_on_failure: self.exit_on_failure,
            retain: self.retention.retain,
            retain_every: self.retention.retain_every.into(),
            retain_dry_run: self.retention.retain_dry_run,
            retain_free_space: self.retention.retain_free_space,
            otlp_endpoint: self.otlp.otlp_endpoint,
            otlp_sample_ratio: self.otlp.otlp_sample_ratio,
            otlp_queue_spans: self.otlp.otlp_queue_spans,
            otlp_timeout: self.otlp.otlp_timeout.into(),
            log_format: self.log_format,
            log: self.log,
            log_queue_bytes: self.log_queue_bytes,
        };
        (self.command, config)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory as _;

    use super::*;

    /// The settings that these arguments make, each as its text.
    fn settings(arguments: &[String]) -> BTreeMap<String, String> {
        let program = ["aggregator-server".to_owned()];
        let options = Options::try_parse_from(program.iter().chain(arguments)).unwrap();
        let shown = format!("{:#?}", options.into_parts().1);
        let mut settings = BTreeMap::new();
        let mut name = String::new();
        for line in shown.lines() {
            // The lines of a field's value are indented further.
            if let Some((field, _)) = line.strip_prefix("    ").and_then(|line| line.split_once(": "))
                && !field.starts_with(' ')
            {
                field.clone_into(&mut name);
            }
            settings.entry(name.clone()).or_insert_with(String::new).push_str(line);
        }
        settings.remove("");
        settings
    }

    #[test]
    fn every_option_sets_the_setting_of_its_name_and_every_setting_has_an_option() {
        let defaults = settings(&[]);
        let mut set = Vec::new();
        for option in Options::command().get_arguments().filter(|option| option.get_env().is_some()) {
            let value =
                option.get_action().takes_values().then(|| match &*option.get_value_names().unwrap()[0] {
                    "BYTES" => "7KiB",
                    "TIME" => "7s",
                    "HOST:PORT" => "localhost:7",
                    "STORE" => "memory:7",
                    "RULE" => "keep",
                    "FORMAT" => "json",
                    "SOCKET" => "off",
                    "FILTER" => "warn",
                    "ALGORITHM" => "PS256",
                    "URL" => "http://localhost:7",
                    "RATIO" => "0.7",
                    "PATTERN=LIMITS" => "logs.*=count:7",
                    _ => "7",
                });
            let name = format!("--{}", option.get_long().unwrap());
            let arguments: Vec<_> = [Some(name), value.map(str::to_owned)].into_iter().flatten().collect();
            let changed: Vec<_> = settings(&arguments)
                .into_iter()
                .filter(|(field, text)| defaults.get(field) != Some(text))
                .map(|(field, _)| field)
                .collect();
            assert_eq!(changed, [option.get_id().as_str()], "{arguments:?}");
            set.extend(changed);
        }
        set.sort();
        assert!(set.iter().eq(defaults.keys()), "{set:?} and not {:?}", defaults.keys());
    }
}
