//! The options: each with its default and its environment variable, each checked while it is parsed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use aggregator_client::{Backoff, BackoffError, ServerUrl};
use clap::{ArgAction, Args, Parser};
use program_support::values::{at_least, flag, within};
use thiserror::Error;

use crate::ids::IdScheme;
use crate::security::SecurityArgs;
use crate::sequences::MAX_DROP;
use crate::verify::VerifyBy;
use crate::workload::MIN_PAYLOAD_BYTES;

/// What the environment variable of every option begins with.
pub const VARIABLE_PREFIX: &str = "PUBLISHER_";

/// Delivers events at least once, as publishers do, and proves what became of every one of them.
///
/// Sends exactly --events deliveries of which exactly round(events × dup) repeat an identity that was
/// delivered before, retries what fails with the same bytes, and reports the fate of every delivery.
/// Events follow from the seed alone: the same --seed (with the same topics, ids and payload size, and with
/// --sequences or without) sends the same events again, whatever the batch size or the number of connections.
#[derive(Debug, Clone, Parser)]
#[command(name = "publisher-sim", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Config {
    /// Where the aggregator listens: http://HOST:PORT or https://HOST:PORT, and a path if it is behind one
    #[arg(long, env = "PUBLISHER_URL", default_value = "http://127.0.0.1:8080")]
    pub url: ServerUrl,

    /// How many deliveries to make, repeats included
    #[arg(long, short = 'n', env = "PUBLISHER_EVENTS", default_value_t = 5000, value_name = "N",
          value_parser = within::<u32>(1..=1_000_000_000))]
    pub events: u32,

    /// Share of the deliveries that repeat an earlier one, 0 to below 1
    #[arg(long, env = "PUBLISHER_DUP", default_value = "0.2", value_name = "SHARE")]
    pub dup: Ratio,

    /// Events per request; 1 sends single events
    #[arg(long, env = "PUBLISHER_BATCH", default_value_t = 50, value_name = "N",
          value_parser = within::<u32>(1..=10_000))]
    pub batch: u32,

    /// Connections that send at the same time
    #[arg(long, env = "PUBLISHER_CONCURRENCY", default_value_t = 8, value_name = "N",
          value_parser = within::<u32>(1..=1024))]
    pub concurrency: u32,

    /// Deliveries per second; 0 is as fast as possible
    #[arg(long, env = "PUBLISHER_RATE", default_value_t = 0, value_name = "N",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub rate: u32,

    /// How many topics to spread the events over
    #[arg(long, env = "PUBLISHER_TOPICS", default_value_t = 4, value_name = "N",
          value_parser = within::<u32>(1..=10_000))]
    pub topics: u32,

    /// Topics are named PREFIX.topic-0, PREFIX.topic-1 and so on
    #[arg(long, env = "PUBLISHER_TOPIC_PREFIX", default_value = "sim", value_name = "PREFIX")]
    pub topic_prefix: TopicPrefix,

    /// How event ids are made
    #[arg(long, env = "PUBLISHER_IDS", value_enum, default_value_t = IdScheme::Ulid)]
    pub ids: IdScheme,

    /// Size of every payload
    #[arg(long, env = "PUBLISHER_PAYLOAD_BYTES", default_value_t = 100, value_name = "BYTES",
          value_parser = within::<u32>(MIN_PAYLOAD_BYTES.into()..=1_048_576))]
    pub payload_bytes: u32,

    /// Decides ids, payloads, order and faults; random and printed unless given
    #[arg(long, env = "PUBLISHER_SEED", value_name = "N", value_parser = at_least::<u64>(0))]
    pub seed: Option<u64>,

    /// Read everything back and prove: nothing lost, doubled, out of order or changed
    #[arg(long, env = "PUBLISHER_VERIFY", action = ArgAction::SetTrue,
          value_parser = flag)]
    pub verify: bool,

    /// How to read back: in pages at the end, or as one stream of all topics while they are published, which
    /// implies --verify
    #[arg(long, env = "PUBLISHER_VERIFY_BY", value_enum, default_value_t = VerifyBy::Pages)]
    pub verify_by: VerifyBy,

    /// Print the report as one JSON object
    #[arg(long, env = "PUBLISHER_JSON", action = ArgAction::SetTrue,
          value_parser = flag)]
    pub json: bool,

    /// Write the report as one HTML page with plots as well; a file that is there is replaced. No key and no name of a file
    /// is in it
    #[arg(long, env = "PUBLISHER_REPORT", value_name = "FILE")]
    pub report: Option<PathBuf>,

    /// Keys and certificates.
    #[command(flatten, next_help_heading = "Keys and certificates")]
    pub security: SecurityArgs,

    /// Timeouts and retries.
    #[command(flatten, next_help_heading = "Timeouts and retries")]
    pub retry: RetryArgs,

    /// Number the events of each topic and source from 1, in the field `sequence`
    #[arg(long, env = "PUBLISHER_SEQUENCES", action = ArgAction::SetTrue,
          value_parser = flag)]
    pub sequences: bool,

    /// Faults to inject.
    #[command(flatten, next_help_heading = "Faults")]
    pub faults: FaultArgs,
}

const EXIT_CODES: &str = "\
Exit codes: 0 done, and verified where asked; 1 a promise was broken, or deliveries were not acknowledged; \
2 wrong usage or no server; 130 interrupted.";

/// When an attempt has failed, and what follows.
#[derive(Debug, Clone, Args)]
pub struct RetryArgs {
    /// Give up a connection attempt after this long
    #[arg(long, env = "PUBLISHER_CONNECT_TIMEOUT_MS", default_value_t = 2_000, value_name = "MS",
          value_parser = within::<u32>(1..=u32::MAX.into()))]
    pub connect_timeout_ms: u32,

    /// Give up a request after this long
    #[arg(long, env = "PUBLISHER_REQUEST_TIMEOUT_MS", default_value_t = 10_000, value_name = "MS",
          value_parser = within::<u32>(1..=u32::MAX.into()))]
    pub request_timeout_ms: u32,

    /// The first wait is random up to this; it doubles with every further attempt
    #[arg(long, env = "PUBLISHER_RETRY_BASE_MS", default_value_t = 50, value_name = "MS",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub retry_base_ms: u32,

    /// No random wait is longer than this
    #[arg(long, env = "PUBLISHER_RETRY_CAP_MS", default_value_t = 5_000, value_name = "MS",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub retry_cap_ms: u32,

    /// Attempts per request, the first one included
    #[arg(long, env = "PUBLISHER_RETRY_ATTEMPTS", default_value_t = 20, value_name = "N",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub retry_attempts: u32,

    /// All attempts of a request together end after this; a longer Retry-After is not waited for
    #[arg(long, env = "PUBLISHER_RETRY_DEADLINE_MS", default_value_t = 60_000, value_name = "MS",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub retry_deadline_ms: u32,
}

impl RetryArgs {
    /// The retry policy.
    ///
    /// # Errors
    /// When the values make no sense together.
    pub fn backoff(&self) -> Result<Backoff, BackoffError> {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Backoff::new(
            ms(self.retry_base_ms),
            ms(self.retry_cap_ms),
            self.retry_attempts,
            ms(self.retry_deadline_ms),
        )
    }
}

/// Faults on the publisher's side. All of them follow from the seed.
///
/// What stays exact: every identity is stored exactly once. What does not: a burst makes more deliveries
/// than planned, and a dropped reply takes its receipts with it, so the resend reports `duplicate` for
/// what the first one stored.
#[derive(Debug, Clone, Args)]
pub struct FaultArgs {
    /// Share of the batches whose reply is thrown away and which are sent again
    #[arg(long, env = "PUBLISHER_DROP_REPLIES", value_name = "SHARE")]
    pub drop_replies: Option<Ratio>,

    /// Wait a random time up to this before each batch
    #[arg(long = "delay", env = "PUBLISHER_DELAY", value_name = "MS",
          value_parser = within::<u32>(0..=u32::MAX.into()))]
    pub delay_ms: Option<u32>,

    /// Shuffle the deliveries within windows of N, so that repeats overtake their originals
    #[arg(long, env = "PUBLISHER_REORDER", value_name = "N",
          value_parser = within::<u32>(0..=10_000_000))]
    pub reorder: Option<u32>,

    /// Share of the batches that are sent three times at once; the copies are extra deliveries
    #[arg(long, env = "PUBLISHER_BURSTS", value_name = "SHARE")]
    pub bursts: Option<Ratio>,

    /// Share of the repeats that carry another payload under the same identity; with one connection, no
    /// --reorder, no --late and no --bursts exactly these are conflicts, else the first to arrive decides
    /// which payload is kept
    #[arg(long, env = "PUBLISHER_CONFLICTS", value_name = "SHARE")]
    pub conflicts: Option<Ratio>,

    /// A mix of all faults above: --drop-replies 0.05 --delay 5 --reorder 200 --bursts 0.03 --conflicts 0.05;
    /// those given by name keep their value
    #[arg(long, env = "PUBLISHER_CHAOS", action = ArgAction::SetTrue,
          value_parser = flag)]
    pub chaos: bool,

    /// Share of the publisher's own numbers that belong to no event: lost before they were sent. Implies
    /// --sequences
    #[arg(long, env = "PUBLISHER_DROP", value_name = "SHARE", value_parser = share_of_numbers)]
    pub drop: Option<Ratio>,

    /// Share of the events that are sent late, behind some of the next ones of their topic and source. Implies
    /// --sequences
    #[arg(long, env = "PUBLISHER_LATE", value_name = "SHARE")]
    pub late: Option<Ratio>,

    /// A late event is sent behind up to this many of the next ones
    #[arg(long, env = "PUBLISHER_LATE_BY", default_value_t = 10, value_name = "N",
          value_parser = within::<u32>(1..=10_000))]
    pub late_by: u32,
}

/// Parses a share that leaves some numbers.
fn share_of_numbers(text: &str) -> Result<Ratio, String> {
    let share = text.parse().ok().filter(|share: &Ratio| share.get() <= MAX_DROP);
    share.ok_or_else(|| format!("must be a share between 0 and {MAX_DROP}, such as 0.01"))
}

/// A share between 0 and 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ratio(f64);

/// Not a share.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("must be a share between 0 and 1, such as 0.2")]
pub struct NotARatio;

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0.0);

    /// This many hundredths; more than 100 is 100.
    #[must_use]
    pub fn percent(hundredths: u8) -> Self {
        Self(f64::from(hundredths.min(100)) / 100.0)
    }

    /// The share as a number from 0 to 1.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    /// This share of `whole`, rounded half away from zero.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the product lies between 0 and `whole`"
    )]
    pub fn of(self, whole: u32) -> u32 {
        (f64::from(whole) * self.0).round() as u32
    }
}

impl FromStr for Ratio {
    type Err = NotARatio;

    fn from_str(s: &str) -> Result<Self, NotARatio> {
        match s.parse() {
            Ok(value) if (0.0..=1.0).contains(&value) => Ok(Self(value)),
            _ => Err(NotARatio),
        }
    }
}

/// The start of every topic name: dot-separated segments of `[A-Za-z0-9_:/-]`, short enough that the
/// names made from it stay under 255 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPrefix(String);

/// Not the start of a topic name.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "must be segments of letters, digits and _ : / -, separated by dots, of at most {MAX_PREFIX_BYTES} bytes"
)]
pub struct NotATopicPrefix;

const MAX_PREFIX_BYTES: usize = 200;

impl FromStr for TopicPrefix {
    type Err = NotATopicPrefix;

    fn from_str(s: &str) -> Result<Self, NotATopicPrefix> {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"_:/-".contains(&b);
        let valid = s.len() <= MAX_PREFIX_BYTES
            && s.split('.').all(|segment| !segment.is_empty() && segment.bytes().all(legal));
        if valid { Ok(Self(s.to_owned())) } else { Err(NotATopicPrefix) }
    }
}

impl fmt::Display for TopicPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed_and_its_defaults_are_valid() {
        Config::command().debug_assert();
        let config = Config::try_parse_from(["publisher-sim"]).unwrap();
        config.retry.backoff().unwrap();
        assert_eq!((config.events, config.dup.get(), config.batch), (5000, 0.2, 50));
    }

    #[test]
    fn values_that_make_no_sense_are_refused_while_parsing() {
        for args in [
            ["--events", "0"],
            ["--dup", "1.5"],
            ["--dup", "-0.1"],
            ["--dup", "NaN"],
            ["--dup", "many"],
            ["--drop", "0.91"],
            ["--late", "2"],
            ["--late-by", "0"],
            ["--batch", "0"],
            ["--concurrency", "0"],
            ["--topics", "0"],
            ["--topic-prefix", "a..b"],
            ["--topic-prefix", "a b"],
            ["--payload-bytes", "3"],
            ["--tls-cert", "only-the-certificate.pem"],
            ["--url", "ftp://example.org"],
            ["--url", "http://user:secret@example.org"],
            ["--url", "127.0.0.1:8080"],
            ["--url", "localhost:8080"],
            ["--url", ""],
        ] {
            let refused = Config::try_parse_from([&["publisher-sim"][..], &args].concat());
            assert_eq!(refused.unwrap_err().exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn a_share_is_rounded_to_whole_deliveries() {
        let third: Ratio = "0.3333".parse().unwrap();
        assert_eq!((third.of(0), third.of(2), third.of(3), third.of(100)), (0, 1, 1, 33));
        assert_eq!(Ratio(1.0).of(u32::MAX), u32::MAX);
    }
}
