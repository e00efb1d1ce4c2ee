//! `GET /insight`: what was delivered by whom, how late repeats came, and what is missing.

use std::cmp::Reverse;
use std::sync::Arc;

use aggregator_core::{Timestamp, TopicSelector, Topics};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use super::lateness::{Bucket, LetThrough};
use super::most_repeated::Repeated;
use super::sequence::Sequence;
use super::snapshot::Snapshot;
use super::streams::{Counts, Stream};
use super::{Observed, follow, lock};
use crate::app::App;
use crate::auth::Principal;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

/// The most identities that are named.
const MAX_REPEATED: usize = 20;

/// What streams are ordered by.
#[derive(Debug, Clone, Copy)]
enum By {
    Events,
    Duplicates,
    Conflicts,
    Missing,
    Newest,
}

#[derive(Serialize)]
struct InsightBody {
    /// When counting began.
    since: String,
    /// How many nodes have counted.
    nodes: usize,
    totals: CountsBody,
    /// Repeats and conflicts by how long after the stored event they came.
    lateness: Vec<Bucket>,
    numbers: NumbersBody,
    /// Left out for a part of the topics, because what is repeated elsewhere decides what is in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    most_repeated: Option<Vec<RepeatedBody>>,
    /// How many streams are counted one by one.
    streams_total: usize,
    /// The sum of all that are not counted one by one. Left out for a part of the topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    others: Option<CountsBody>,
    streams: Vec<StreamBody>,
}

#[derive(Serialize)]
struct CountsBody {
    stored: u64,
    duplicates: u64,
    conflicts: u64,
    /// Duplicates divided by all three: 0 to 1.
    duplicate_rate: f64,
    let_through: Vec<LetThrough>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_at: Option<String>,
}

/// The sum over all streams whose events have numbers.
#[derive(Serialize, Default)]
struct NumbersBody {
    streams: u64,
    missing: u64,
    reordered: u64,
    reused: u64,
    restarts: u64,
}

#[derive(Serialize)]
struct RepeatedBody {
    topic: Box<str>,
    event_id: Box<str>,
    repeats_at_least: u64,
}

#[derive(Serialize)]
struct StreamBody {
    topic: Box<str>,
    source: Box<str>,
    #[serde(flatten)]
    counts: CountsBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<SequenceBody>,
}

#[derive(Serialize)]
struct SequenceBody {
    first: u64,
    highest: u64,
    received: u64,
    missing: u64,
    reordered: u64,
    reused: u64,
    restarts: u64,
    /// The newest gaps, each as its first and last number.
    gaps: Vec<(u64, u64)>,
}

pub(crate) async fn insight(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let topics = asked_topics(&mut params, &reader)?;
    let by = params.choose("order", &ORDERS)?.unwrap_or(By::Events);
    let limit = params.number("limit", 1..=1_000, 20)?;
    params.finish("topic, order, limit")?;
    let shared = Arc::clone(&app);
    let body = app.reads.run(reader.flow(), move |store| {
        follow::sample(&shared);
        let others = follow::others(&shared, store)?;
        Ok(body(&of_all_nodes(&shared, &others), others.len() + 1, &topics, by, limit))
    });
    Ok(json(&body.await?))
}

const ORDERS: [(&str, By); 5] = [
    ("events", By::Events),
    ("duplicates", By::Duplicates),
    ("conflicts", By::Conflicts),
    ("missing", By::Missing),
    ("newest", By::Newest),
];

/// The topics that are asked for; without any, all that the reader may read.
pub(super) fn asked_topics(params: &mut Params, reader: &Principal) -> Result<Topics, Problem> {
    let asked = params.take_all::<TopicSelector>("topic")?;
    if asked.is_empty() {
        return reader.readable().cloned();
    }
    let topics = Topics::new(asked).map_err(|error| Problem::parameter("topic", error.reason))?;
    reader.check_readable(&topics)?;
    Ok(topics)
}

/// What this node and the others have counted together.
fn of_all_nodes(app: &App, others: &[Snapshot]) -> Snapshot {
    let own = lock(&app.insight.observed).counts();
    if others.is_empty() {
        return own;
    }
    // Room for all of them: nothing more is counted here that could push one out.
    let streams = own.streams.len() + others.iter().map(|other| other.streams.len()).sum::<usize>();
    let mut sum = Observed::new(streams, Timestamp::from_micros(own.head.since));
    sum.add(&own, false);
    others.iter().for_each(|other| sum.add(other, false));
    sum.counts()
}

fn body(snapshot: &Snapshot, nodes: usize, topics: &Topics, by: By, limit: usize) -> InsightBody {
    let is_all = topics.selectors() == [TopicSelector::All];
    let mut streams: Vec<&Stream> =
        snapshot.streams.iter().filter(|stream| topics.matches(&stream.topic)).collect();
    let mut totals = Counts::default();
    let mut numbers = NumbersBody::default();
    for stream in &streams {
        totals.add(&stream.counts);
        stream.sequence.iter().for_each(|sequence| numbers.add(sequence));
    }
    let others = is_all.then(|| {
        totals.add(&snapshot.head.others);
        CountsBody::of(&snapshot.head.others)
    });
    streams.sort_by_key(|stream| (Reverse(by.rank(stream)), &stream.topic, &stream.source));
    let often = || snapshot.most_repeated.iter().take(MAX_REPEATED).map(RepeatedBody::of).collect();
    InsightBody {
        since: Timestamp::from_micros(snapshot.head.since).to_string(),
        nodes,
        lateness: totals.lateness.buckets(),
        totals: CountsBody::of(&totals),
        numbers,
        most_repeated: is_all.then(often),
        streams_total: streams.len(),
        others,
        streams: streams.into_iter().take(limit).map(StreamBody::of).collect(),
    }
}

impl By {
    fn rank(self, Stream { counts, sequence, .. }: &Stream) -> u64 {
        match self {
            Self::Events => counts.deliveries(),
            Self::Duplicates => counts.duplicates,
            Self::Conflicts => counts.conflicts,
            Self::Missing => sequence.as_ref().map_or(0, |sequence| sequence.missing()),
            Self::Newest => u64::try_from(counts.last_at).unwrap_or(0),
        }
    }
}

impl NumbersBody {
    fn add(&mut self, sequence: &Sequence) {
        self.streams += 1;
        self.missing += sequence.missing();
        self.reordered += sequence.reordered;
        self.reused += sequence.reused;
        self.restarts += sequence.restarts;
    }
}

impl CountsBody {
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    fn of(counts: &Counts) -> Self {
        let Counts { stored, duplicates, conflicts, lateness, last_at } = counts;
        let deliveries = counts.deliveries().max(1);
        Self {
            stored: *stored,
            duplicates: *duplicates,
            conflicts: *conflicts,
            duplicate_rate: *duplicates as f64 / deliveries as f64,
            let_through: lateness.let_through(),
            last_at: (*last_at > 0).then(|| Timestamp::from_micros(*last_at).to_string()),
        }
    }
}

impl RepeatedBody {
    fn of(repeated: &Repeated) -> Self {
        let Repeated { topic, event_id, at_least } = repeated.clone();
        Self { topic, event_id, repeats_at_least: at_least }
    }
}

impl StreamBody {
    fn of(stream: &Stream) -> Self {
        Self {
            topic: stream.topic.clone(),
            source: stream.source.clone(),
            counts: CountsBody::of(&stream.counts),
            sequence: stream.sequence.as_deref().map(SequenceBody::of),
        }
    }
}

impl SequenceBody {
    fn of(sequence: &Sequence) -> Self {
        Self {
            first: sequence.first,
            highest: sequence.highest,
            received: sequence.received(),
            missing: sequence.missing(),
            reordered: sequence.reordered,
            reused: sequence.reused,
            restarts: sequence.restarts,
            gaps: sequence.gaps().to_vec(),
        }
    }
}
