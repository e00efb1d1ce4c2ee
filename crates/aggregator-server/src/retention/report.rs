//! `GET /retention`: the rules, and what became of them.

use std::collections::HashMap;
use std::sync::Arc;

use aggregator_core::{DedupStore, Timestamp};
use axum::extract::State;
use axum::response::Response;
use hyper::Uri;
use serde::Serialize;

use super::Retention;
use super::keeper::{self, Kept};
use super::ledger::RuleState;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::config::RetentionRule;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::response::json;

#[derive(Serialize)]
struct RetentionBody {
    /// Nothing is purged or forgotten: `pending_events` and `pending_identities` are what would be.
    dry_run: bool,
    every_seconds: f64,
    /// The node that answers.
    node: String,
    rules: Vec<RuleBody>,
}

#[derive(Serialize)]
struct RuleBody {
    /// `null` to whoever may not read all topics that it means.
    pattern: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identities_seconds: Option<f64>,
    /// Topics that it is about.
    topics: u64,
    /// Events that it has purged since ever, whichever nodes did it.
    purged_events: u64,
    /// Events beyond its limits that are still there, as the last run found them.
    pending_events: u64,
    /// Identities that it has forgotten since ever, whichever nodes did it.
    forgotten_identities: u64,
    /// Identities that are to be forgotten and are still there, as far as the last run counted them.
    pending_identities: u64,
    /// When the last run began, by the store's clock. `null` before the first one.
    last_run_at: Option<String>,
    last_run_node: Option<String>,
    /// Why the last run did not come to its end.
    last_run_error: Option<String>,
}

pub(crate) async fn retention(
    State(app): State<Arc<App>>,
    reader: Principal,
    uri: Uri,
) -> Result<Response, Problem> {
    Params::of(&uri)?.finish("")?;
    let asked = Arc::clone(&app);
    let read = move |store: &dyn DedupStore| {
        store.records().map(|records| keeper::read_all(records, &asked.retention)).transpose()
    };
    // Without a rule there is nothing to ask for.
    let asks = !app.retention.rules.is_empty();
    let known = if asks { app.reads.run(reader.flow(), read).await? } else { None };
    let retention = &app.retention;
    let (kept, states) = known.unwrap_or_else(|| (HashMap::new(), retention.ledger().rules.clone()));
    let may_know_all = reader.check_scope(&Scope::Admin).is_ok();
    let rules = retention.rules.iter().zip(states).map(|(rule, state)| {
        let kept = kept.get(&rule.pattern.to_string()).map(|(_, kept)| kept.clone()).unwrap_or_default();
        let may_know = may_know_all || reader.check_readable(&rule.pattern.clone().into()).is_ok();
        rule_body(retention, rule, state, kept, may_know)
    });
    Ok(json(&RetentionBody {
        dry_run: retention.dry_run,
        every_seconds: retention.every.as_secs_f64(),
        node: retention.node.clone(),
        rules: rules.collect(),
    }))
}

/// What the node that ran last says: this one, or another one by its record.
fn rule_body(
    retention: &Retention,
    rule: &RetentionRule,
    state: RuleState,
    kept: Kept,
    may_know: bool,
) -> RuleBody {
    let purged_events = kept.purged_events + state.unsaved_events;
    let forgotten_identities = kept.forgotten_identities + state.unsaved_identities;
    let of_this_node = Kept {
        purged_events,
        topics: state.topics,
        pending_events: state.pending_events,
        forgotten_identities,
        pending_identities: state.pending_identities,
        ran_at: state.ran_at.map(Timestamp::as_micros),
        node: retention.node.clone(),
        error: state.error,
    };
    let last =
        if of_this_node.ran_at > kept.ran_at || kept.node == of_this_node.node { of_this_node } else { kept };
    RuleBody {
        pattern: may_know.then(|| rule.pattern.to_string()),
        age_seconds: rule.age.map(|age| age.as_secs_f64()),
        count: rule.count.map(std::num::NonZeroU64::get),
        bytes: rule.bytes.map(std::num::NonZeroU64::get),
        identities_seconds: rule.identities.map(|identities| identities.as_secs_f64()),
        topics: last.topics,
        purged_events,
        pending_events: last.pending_events,
        forgotten_identities,
        pending_identities: last.pending_identities,
        last_run_at: last.ran_at.map(|at| Timestamp::from_micros(at).to_string()),
        last_run_node: last.ran_at.map(|_| last.node),
        // It may name a topic.
        last_run_error: last
            .error
            .map(|error| if may_know { error } else { "it failed: the log of its node says why".to_owned() }),
    }
}
