//! `GET /stats/series`: what happened in each second of five minutes, each minute of a day, or each hour of a month.

use std::sync::Arc;

use aggregator_core::Timestamp;
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use super::lateness::LetThrough;
use super::series::{Sample, Series, Step};
use super::{follow, lock};
use crate::app::App;
use crate::auth::Principal;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

#[derive(Serialize)]
struct SeriesBody {
    step: &'static str,
    step_seconds: i64,
    /// The time now. The last bucket may go on.
    now: String,
    /// From the oldest to the newest. One in which nothing happened is missing.
    buckets: Vec<BucketBody>,
}

#[derive(Serialize)]
struct BucketBody {
    /// When it begins.
    at: String,
    stored: u64,
    duplicates: u64,
    conflicts: u64,
    rejected: u64,
    let_through: Vec<LetThrough>,
    /// Of the requests to publish; `null` if there was none.
    publish_p50_seconds: Option<f64>,
    publish_p99_seconds: Option<f64>,
}

pub(crate) async fn series(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    let mut params = Params::of(&uri)?;
    let steps = Step::ALL.map(|step| (step.name(), step));
    let step = params.choose("step", &steps)?.unwrap_or(Step::Minute);
    let limit = params.number("limit", 1..=1_440, 60)?;
    params.finish("step, limit")?;
    let shared = Arc::clone(&app);
    let body = app.reads.run(reader.flow(), move |store| {
        follow::sample(&shared);
        let others = follow::others(&shared, store)?;
        let now = Timestamp::now();
        // The newest so many steps, whether or not something happened.
        let steps = i64::try_from(limit.min(step.kept())).unwrap_or(i64::MAX);
        let from = now.as_micros().div_euclid(step.seconds() * 1_000_000) - steps + 1;
        let mut sum = Series::default();
        sum.add_newest(&lock(&shared.insight.observed).series, step, from);
        others.iter().for_each(|other| sum.add_newest(&other.series, step, from));
        let buckets = sum.buckets(step).iter();
        Ok(SeriesBody {
            step: step.name(),
            step_seconds: step.seconds(),
            now: now.to_string(),
            buckets: buckets.map(|(bucket, sample)| BucketBody::of(step, *bucket, sample)).collect(),
        })
    });
    Ok(json(&body.await?))
}

impl BucketBody {
    fn of(step: Step, bucket: i64, sample: &Sample) -> Self {
        Self {
            at: Timestamp::from_micros(bucket * step.seconds() * 1_000_000).to_string(),
            stored: sample.stored,
            duplicates: sample.duplicates,
            conflicts: sample.conflicts,
            rejected: sample.rejected,
            let_through: sample.lateness.let_through(),
            publish_p50_seconds: sample.latency.quantile(0.5),
            publish_p99_seconds: sample.latency.quantile(0.99),
        }
    }
}
