//! The plots of the page.

use hdrhistogram::Histogram;
use report_page::Chart;
use report_page::chart::{Axis, Bar};
use report_page::number::{count, duration, milliseconds};

use super::Report;
use crate::timeline::Moment;

/// Bars in a decade of the distribution of latencies.
const BARS_PER_DECADE: f64 = 10.0;

/// The unit of the axis of time: the largest of which a run has three at least.
struct Clock {
    unit: &'static str,
    seconds: f64,
}

impl Clock {
    fn of(seconds: f64) -> Self {
        match seconds {
            10_800.0.. => Self { unit: "hours", seconds: 3_600.0 },
            180.0.. => Self { unit: "minutes", seconds: 60.0 },
            _ => Self { unit: "seconds", seconds: 1.0 },
        }
    }

    fn axis(&self) -> Axis {
        Axis::linear(format!("{} since the first request", self.unit))
    }
}

/// All plots, in the order of the page.
pub(super) fn charts(report: &Report) -> Vec<Chart> {
    let course = &report.course;
    let moments = course.timeline.moments(course.elapsed);
    let clock = Clock::of(course.elapsed.as_secs_f64());
    vec![
        rate(report, &moments, &clock),
        latency(report, &moments, &clock),
        distribution(report),
        troubles(report, &moments, &clock),
    ]
}

/// A line of a figure per second of each moment.
fn per_second(moments: &[(f64, f64, Moment)], clock: &Clock, of: fn(&Moment) -> u64) -> Vec<(f64, f64)> {
    let points = moments
        .iter()
        .map(|(middle, length, moment)| (middle / clock.seconds, wide(of(moment)) / length.max(1e-6)));
    points.collect()
}

fn rate(report: &Report, moments: &[(f64, f64, Moment)], clock: &Clock) -> Chart {
    let sent = &report.sent;
    let caption = format!(
        "{} deliveries in {}, {} acknowledged per second on the whole: {} stored, {} duplicates, {} conflicts. An event that \
         is sent again counts as sent again.",
        count(sent.deliveries),
        duration(report.elapsed_seconds),
        count(whole(report.events_per_second)),
        count(sent.stored),
        count(sent.duplicates),
        count(sent.conflicts),
    );
    let chart = Chart::new("Events over time", caption, clock.axis(), Axis::linear("events per second"))
        .line("sent", per_second(moments, clock, |moment| moment.sent))
        .line("stored", per_second(moments, clock, |moment| moment.stored))
        .line("duplicates", per_second(moments, clock, |moment| moment.duplicates));
    if sent.conflicts == 0 {
        return chart;
    }
    chart.line("conflicts", per_second(moments, clock, |moment| moment.conflicts))
}

fn latency(report: &Report, moments: &[(f64, f64, Moment)], clock: &Clock) -> Chart {
    let line = |of: fn(&Histogram<u32>) -> u64| -> Vec<(f64, f64)> {
        let points = moments.iter().map(|(middle, _, Moment { latency_us, .. })| {
            let ms = if latency_us.is_empty() { f64::NAN } else { wide(of(latency_us)) / 1e3 };
            (middle / clock.seconds, ms)
        });
        points.collect()
    };
    let slowest = match report.course.latency_us.is_empty() {
        true => "There were none.".to_owned(),
        false => {
            format!("The slowest took {}. The axis is logarithmic.", milliseconds(report.latency_ms.max))
        }
    };
    let caption =
        format!("From sending a request to the end of its reply, for acknowledged requests. {slowest}");
    Chart::new("Latency over time", caption, clock.axis(), Axis::log("milliseconds"))
        .line("slowest", line(Histogram::max))
        .line("p99", line(|latency_us| latency_us.value_at_quantile(0.99)))
        .line("p50", line(|latency_us| latency_us.value_at_quantile(0.5)))
}

fn distribution(report: &Report) -> Chart {
    let latency = &report.latency_ms;
    let latency_us = &report.course.latency_us;
    let chart = |caption: String| {
        Chart::new("Distribution of latencies", caption, Axis::log("milliseconds"), Axis::linear("requests"))
    };
    if latency_us.is_empty() {
        return chart("No request was acknowledged.".to_owned());
    }
    let caption = format!(
        "Of {} acknowledged requests, half took up to {}, 99 of 100 up to {}, and the slowest {}.",
        count(latency_us.len()),
        milliseconds(latency.p50),
        milliseconds(latency.p99),
        milliseconds(latency.max)
    );
    chart(caption)
        .bars("requests", bars(latency_us))
        .mark(latency.p50, format!("p50 {}", milliseconds(latency.p50)))
        .mark(latency.p99, format!("p99 {}", milliseconds(latency.p99)))
        .mark(latency.max, format!("max {}", milliseconds(latency.max)))
}

/// The requests by their latency; each bar is as wide as the others on a logarithmic axis.
fn bars(latency_us: &Histogram<u64>) -> Vec<Bar> {
    let edge = |number: f64| 10_f64.powf(number / BARS_PER_DECADE) / 1e3;
    let mut bars: Vec<(f64, u64)> = Vec::new();
    for value in latency_us.iter_recorded() {
        let number = (wide(value.value_iterated_to().max(1)).log10() * BARS_PER_DECADE).floor();
        match bars.last_mut() {
            Some((last, requests)) if last.total_cmp(&number).is_eq() => *requests += value.count_at_value(),
            _ => bars.push((number, value.count_at_value())),
        }
    }
    let bars = bars.into_iter().map(|(number, requests)| Bar {
        from: edge(number),
        to: edge(number + 1.0),
        height: wide(requests),
    });
    bars.collect()
}

fn troubles(report: &Report, moments: &[(f64, f64, Moment)], clock: &Clock) -> Chart {
    let (retries, failed) = (report.retries.total, report.sent.failed + report.sent.rejected);
    let caption = format!(
        "{} requests were sent again, and {} deliveries were refused or given up.",
        count(retries),
        count(failed)
    );
    Chart::new("Retries and failures over time", caption, clock.axis(), Axis::linear("per second"))
        .line("requests sent again", per_second(moments, clock, |moment| moment.retries))
        .line("deliveries refused or given up", per_second(moments, clock, |moment| moment.failed))
}

#[expect(clippy::cast_precision_loss, reason = "a plot needs no 53 bits")]
fn wide(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast of floats saturates")]
pub(super) fn whole(number: f64) -> u64 {
    number.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_is_in_the_bar_of_its_latency() {
        let mut latency_us = Histogram::new(3).unwrap();
        for (us, times) in [(1, 2), (1_000, 5), (1_200, 1), (1_300, 3), (60_000_000, 1)] {
            latency_us.record_n(us, times).unwrap();
        }
        let bars = bars(&latency_us);
        assert_eq!(bars.iter().map(|bar| bar.height).collect::<Vec<_>>(), [2.0, 6.0, 3.0, 1.0]);
        assert!(bars.iter().all(|bar| bar.from < bar.to));
        assert!((bars[1].from - 1.0).abs() < 1e-9 && bars[1].to < 1.3, "{bars:?}");
    }

    #[test]
    fn a_run_has_three_units_of_its_axis_of_time_at_least() {
        assert_eq!(
            [0.1, 179.0, 180.0, 10_799.0, 10_800.0].map(|seconds| Clock::of(seconds).unit),
            ["seconds", "seconds", "minutes", "minutes", "hours"]
        );
    }
}
