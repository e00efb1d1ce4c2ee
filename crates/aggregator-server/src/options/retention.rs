//! The options of retention.

use clap::Args;
use humantime::Duration;
use program_support::values::{flag, time_span};

use crate::config::{ByteSize, Config, RetentionRule};

/// Events are kept for ever where no rule says otherwise.
#[derive(Debug, Clone, Args)]
pub(super) struct RetentionOptions {
    /// Keep at most so much of each topic that the pattern means; beyond that, payloads of the oldest events go and their
    /// identities stay: for ever, or with identities:TIME until they are as old. The most specific pattern is about a topic. May be given again; several in one value have
    /// semicolons between them
    #[arg(long, env = "AGGREGATOR_RETAIN", value_name = "PATTERN=LIMITS", value_delimiter = ';')]
    pub(super) retain: Vec<RetentionRule>,

    /// How often the rules are applied
    #[arg(long, env = "AGGREGATOR_RETAIN_EVERY", default_value_t = Config::default().retain_every.into(),
          value_name = "TIME", value_parser = time_span)]
    pub(super) retain_every: Duration,

    /// Work the rules out and report them in `GET /retention`, and remove nothing
    #[arg(long, env = "AGGREGATOR_RETAIN_DRY_RUN", value_parser = flag)]
    pub(super) retain_dry_run: bool,

    /// Keep at most so much free space in the store's file, and give what more the rules free back to the file system.
    /// Without it all of it is kept for new events
    #[arg(long, env = "AGGREGATOR_RETAIN_FREE_SPACE", value_name = "BYTES")]
    pub(super) retain_free_space: Option<ByteSize>,
}
