//! Counts requests by route and status, and those that are shed by reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use aggregator_core::histogram::{Histogram, HistogramCounts, LATENCY};
use hyper::StatusCode;

use super::names::{ROUTES, SHED_REASONS, STATUSES};

/// A row of the table of routes; the default stands for none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Route(usize);

impl Route {
    /// The row with this path, once the table of names has it.
    pub(crate) fn of(path: &str) -> Self {
        Self(ROUTES.iter().position(|known| *known == path).unwrap_or_default())
    }

    /// Its path in the table; `None` if it stands for no row.
    pub(crate) fn path(self) -> Option<&'static str> {
        (self != Self::default()).then(|| ROUTES[self.0])
    }
}

/// Carries the row that was found for a request back to who counts it. It is an extension of the request.
#[derive(Debug, Clone, Default)]
pub(crate) struct FoundRoute(Arc<AtomicUsize>);

impl FoundRoute {
    pub(crate) fn set(&self, route: Route) {
        self.0.store(route.0, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Route {
        Route(self.0.load(Ordering::Relaxed))
    }
}

/// Why a request was shed that was answered with something else than a problem. It is an extension of the answer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shed(pub(crate) &'static str);

/// Counters of all requests since the start.
#[derive(Debug)]
pub(crate) struct RequestCounters {
    /// By route.
    durations: Vec<Histogram>,
    /// By route and, within it, by status.
    answers: Vec<AtomicU64>,
    /// By reason.
    shed: Vec<AtomicU64>,
}

impl Default for RequestCounters {
    fn default() -> Self {
        let zeros = |count| (0..count).map(|_| AtomicU64::default()).collect();
        Self {
            durations: ROUTES.iter().map(|_| Histogram::new(&LATENCY)).collect(),
            answers: zeros(ROUTES.len() * STATUSES.len()),
            shed: zeros(SHED_REASONS.len()),
        }
    }
}

impl RequestCounters {
    /// Counts an answer.
    pub(crate) fn answered(&self, Route(route): Route, status: StatusCode, took: Duration) {
        let status = position(STATUSES, status.as_str());
        self.answers[route * STATUSES.len() + status].fetch_add(1, Ordering::Relaxed);
        self.durations[route].observe_duration(took);
    }

    /// Counts a request that was shed.
    pub(crate) fn shed(&self, reason: &str) {
        self.shed[position(SHED_REASONS, reason)].fetch_add(1, Ordering::Relaxed);
    }

    /// Route, status and number of answers; without those that there were none of.
    pub(super) fn answers(&self) -> impl Iterator<Item = ([&'static str; 2], u64)> {
        let labels = ROUTES.iter().flat_map(|route| STATUSES.iter().map(|status| [*route, *status]));
        let counts = self.answers.iter().map(|count| count.load(Ordering::Relaxed));
        labels.zip(counts).filter(|(_, count)| *count > 0)
    }

    /// Without the routes that nobody has asked for.
    pub(super) fn durations(&self) -> impl Iterator<Item = (&'static str, HistogramCounts)> {
        let counts = self.durations.iter().map(Histogram::counts);
        ROUTES.iter().copied().zip(counts).filter(|(_, counts)| counts.count() > 0)
    }

    /// How long requests to publish took.
    pub(crate) fn publish_durations(&self) -> HistogramCounts {
        self.durations[Route::of("/publish").0].counts()
    }

    pub(super) fn reasons(&self) -> impl Iterator<Item = (&'static str, u64)> {
        SHED_REASONS.iter().copied().zip(self.shed.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

/// Where the value stands; the last place, if it is none of them.
fn position(values: &[&str], value: &str) -> usize {
    values.iter().position(|known| *known == value).unwrap_or(values.len() - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_tables_do_not_know_is_counted_as_the_rest() {
        let counters = RequestCounters::default();
        counters.answered(Route::of("/made/up"), StatusCode::IM_A_TEAPOT, Duration::ZERO);
        counters.answered(Route::of("/publish"), StatusCode::ACCEPTED, Duration::ZERO);
        counters.shed("made-up");
        let answers: Vec<_> = counters.answers().collect();
        assert_eq!(answers, [(["unknown", "other"], 1), (["/publish", "202"], 1)]);
        let routes: Vec<_> = counters.durations().map(|(route, counts)| (route, counts.count())).collect();
        assert_eq!(routes, [("unknown", 1), ("/publish", 1)]);
        assert_eq!(counters.reasons().filter(|(_, count)| *count > 0).collect::<Vec<_>>(), [("other", 1)]);
    }
}
