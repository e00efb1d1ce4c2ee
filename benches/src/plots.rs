//! The curves of the page.

use report_page::Chart;
use report_page::chart::Axis;

use crate::measures::growth::{Growth, Point};
use crate::measures::latency::Steady;
use crate::report::{RivalLine, RivalOutcome};

/// What a curve of the growth is drawn over.
const DELIVERIES: &str = "deliveries made, in millions";

pub(crate) fn growth(growth: &Growth) -> Vec<Chart> {
    let curve = |points: &[Point], value: &dyn Fn(&Point) -> f64| -> Vec<(f64, f64)> {
        points.iter().map(|point| (float(point.deliveries) / 1e6, value(point))).collect()
    };
    let all = |value: &dyn Fn(&Point) -> f64| curve(&growth.points, value);
    // Four deliveries of five are stored.
    let stored = float(growth.identities) / float(growth.deliveries);
    let chart = |title: &str, caption: &str, y: &str| {
        Chart::new(title, caption, Axis::linear(DELIVERIES), Axis::linear(y))
    };
    vec![
        chart(
            "Throughput as the store grows",
            "Each point has the rate since the one before.",
            "thousand deliveries/s",
        )
        .line("every hundredth", all(&|point| point.rate / 1e3))
        .line("every tenth", curve(&growth.tenths, &|point| point.rate / 1e3)),
        chart(
            "Memory of the server as the store grows",
            "The peak is the most it ever had until then.",
            "MB",
        )
        .line("resident", all(&|point| float(point.resident_bytes) / 1e6))
        .line("peak", all(&|point| float(point.peak_bytes) / 1e6)),
        chart(
            "Disk as the store grows",
            "What lies between the lines is the dedup index, the log, and room that is used again.",
            "GB",
        )
        .line("all files of the store", all(&|point| float(point.disk_bytes) / 1e9))
        .line(
            "the events alone",
            all(&|point| float(point.deliveries) * stored * growth.append_bytes_per_row / 1e9),
        ),
    ]
}

pub(crate) fn latency(measured: &[Steady]) -> Chart {
    let chart = Chart::new(
        "Latency at half of the capacity",
        "Each nine more is as wide as the one before: at 99%, one request of a hundred took longer.",
        Axis::nines("share of the requests that took no longer"),
        Axis::log("milliseconds"),
    );
    measured.iter().fold(chart, |chart, steady| {
        chart.line(format!("{}, {:.0}/s", steady.name, steady.rate), steady.curve.clone())
    })
}

pub(crate) fn rivals(lines: &[RivalLine]) -> Chart {
    let chart = Chart::new(
        "The same deliveries, side by side",
        "Each point has the rate since the one before. A line that ends early was stopped at the time limit.",
        Axis::linear(DELIVERIES),
        Axis::linear("thousand deliveries/s"),
    );
    lines.iter().fold(chart, |chart, line| match &line.outcome {
        RivalOutcome::Measured(figures) => {
            let points = figures.curve.iter().map(|&(made, rate)| (float(made) / 1e6, rate / 1e3));
            chart.line(line.name.clone(), points.collect())
        }
        RivalOutcome::NotInstalled(_) => chart,
    })
}

#[expect(clippy::cast_precision_loss, reason = "a plot needs no 53 bits")]
fn float(number: u64) -> f64 {
    number as f64
}
