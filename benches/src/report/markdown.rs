//! The report for people. No figure stands here that was not measured in the run.

use std::fmt::Write as _;

use super::{Report, RivalOutcome};
use crate::measures::Spread;
use crate::measures::growth::Growth;
use crate::measures::ingest::Line;
use crate::plots;

pub(super) fn render(report: &Report) -> String {
    let mut text = String::from("# Benchmark of the event aggregator\n\n");
    let sections = [
        Some(conditions(report)),
        (!report.ingest.is_empty()).then(|| ingest(&report.ingest)),
        report.growth.as_ref().map(growth),
        (!report.read.is_empty()).then(|| read(report)),
        (!report.latency.is_empty()).then(|| latency(report)),
        (!report.rivals.is_empty()).then(|| rivals(report)),
    ];
    text.push_str(&sections.into_iter().flatten().collect::<Vec<_>>().join("\n"));
    text
}

fn conditions(report: &Report) -> String {
    let machine = &report.machine;
    let quick = if report.quick {
        "**A quick run: it shows that everything works, and its figures mean little.**\n\n"
    } else {
        ""
    };
    format!(
        "{quick}{} cores ({}), {} of memory, {}/s of sequential writes, {:.2} ms per fsync, load average {:.1} at \
         the start.\nServer and load generator share the machine; release builds, the server's default options, \
         loopback.\nEvents of {} bytes over {} topics, random UUIDs (version 4) as ids, a fifth of the deliveries \
         repeats; {} connections for\nbatches of 500. Every reply's counts and the server's totals were checked: what is \
         not exact is not reported. Seed {}.\n",
        machine.cores,
        machine.processor,
        bytes(wide(machine.memory_bytes)),
        bytes(machine.write_bytes_per_second),
        machine.fsync_ms,
        machine.load_average,
        report.event_bytes,
        report.topics,
        report.connections,
        report.seed,
    )
}

fn ingest(lines: &[Line]) -> String {
    let mut text = String::from(
        "## Deliveries per second\n\n\
         Durable (fsync before the reply) unless it says memory. Medians, with (lowest–highest); a round makes each\n\
         run once on a fresh store. Ratios are to plain SQLite appending the same deliveries in the same round: same\n\
         columns, pragmas and page size, without HTTP, dedup or second index. Processor time is per delivery.\n\
         Batches ask for counts alone (`?results=none`) unless it says otherwise.\n\n\
         | what | deliveries | deliveries/s | of append by 500 | by 5,000 | p99 of a request | server | generator | peak memory |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for line in lines {
        let ratio = |ratio: Option<f64>| ratio.map_or(String::new(), |ratio| format!("{ratio:.2}"));
        let served = line.served.map_or([const { String::new() }; 4], |served| {
            [
                format!("{:.1} ms", served.p99_ms),
                format!("{:.2} µs", served.server_us),
                format!("{:.2} µs", served.generator_us),
                bytes(served.peak_bytes),
            ]
        });
        row(
            &mut text,
            &[
                line.name.clone(),
                count(wide(line.deliveries)),
                spread(line.rate),
                ratio(line.of_append_500),
                ratio(line.of_append_5000),
            ],
            &served,
        );
    }
    // The last two differ in nothing else.
    if let [.., durable, memory] = lines {
        let ratio = durable.rate.median / memory.rate.median;
        let _ = writeln!(text, "\nSingle events: durable is {ratio:.2} of the memory store.");
    }
    text
}

fn growth(growth: &Growth) -> String {
    let mut text = format!(
        "## Growth\n\n{} deliveries in batches of 500, {} identities, one store.\n\n\
         | after deliveries | deliveries/s in this tenth | resident | peak | on disk |\n|--:|--:|--:|--:|--:|\n",
        count(wide(growth.deliveries)),
        count(wide(growth.identities)),
    );
    for point in &growth.tenths {
        let sizes = [point.resident_bytes, point.peak_bytes, point.disk_bytes].map(|size| bytes(wide(size)));
        row(&mut text, &[count(wide(point.deliveries)), count(point.rate)], &sizes);
    }
    let _ = write!(
        text,
        "\n| | |\n|---|--:|\n\
         | last tenth over first | {:.2} |\n\
         | resident memory per identity, after the first tenth has filled the caches | {:.2} bytes |\n\
         | disk per identity | {:.1} bytes |\n\
         | the same row in a file of rows alone | {:.1} bytes |\n\
         | disk beyond the event itself | {:.1} bytes |\n\
         | requests refused with 503 and sent again | {} |\n\
         | ready after kill -9 with {} identities, median of {} (page cache warm) | {:.3} s ({:.3}–{:.3}) |\n\n\
         ![throughput]({})\n![memory]({})\n![disk]({})\n",
        growth.last_to_first,
        growth.resident_bytes_per_identity,
        growth.disk_bytes_per_identity,
        growth.append_bytes_per_row,
        growth.disk_bytes_per_identity - growth.append_bytes_per_row,
        growth.refused,
        count(wide(growth.restart.identities)),
        growth.restart.times,
        growth.restart.seconds.median,
        growth.restart.seconds.min,
        growth.restart.seconds.max,
        plots::THROUGHPUT,
        plots::MEMORY,
        plots::DISK,
    );
    text
}

fn read(report: &Report) -> String {
    let mut text = String::from(
        "## Reading\n\nOne reader walks `GET /events` in pages of 1,000 to the end.\n\n\
         | what | events | events/s |\n|---|--:|--:|\n",
    );
    for reading in &report.read {
        row(&mut text, &[reading.name.clone(), count(wide(reading.events)), spread(reading.rate)], &[]);
    }
    text
}

fn latency(report: &Report) -> String {
    let mut text = String::from(
        "## Latency\n\nDurable, at a steady half of what the server took just before, over 64 connections. Requests \
         are due by a\nschedule that does not wait, and latency counts from when they were due.\n\n\
         | what | capacity | deliveries/s | for | requests | p50 | p90 | p99 | p99.9 | max |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for steady in &report.latency {
        let quantiles = [steady.p50_ms, steady.p90_ms, steady.p99_ms, steady.p999_ms, steady.max_ms];
        row(
            &mut text,
            &[
                steady.name.clone(),
                count(steady.capacity),
                count(steady.rate),
                format!("{:.0} s", steady.seconds),
                count(wide(steady.requests)),
            ],
            &quantiles.map(|ms| format!("{ms:.2} ms")),
        );
    }
    let _ = write!(text, "\n![latency]({})\n", plots::LATENCY);
    text
}

fn rivals(report: &Report) -> String {
    let mut text = String::from(
        "## Beside others\n\nThe same deliveries, in the same run. Each was stopped at the time limit if it was not \
         done before.\nMedians, with (lowest–highest); the tenths, memory and disk are those of the run in the \
         middle.\n\n\
         | what | deliveries/s | first tenth | last tenth | ours is | deliveries | memory | on disk | an acknowledgement means |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|---|\n",
    );
    for line in &report.rivals {
        let durability = std::slice::from_ref(&line.durability);
        match &line.outcome {
            RivalOutcome::NotInstalled(missing) => {
                let nothing = [const { String::new() }; 6];
                let name = [line.name.clone(), format!("not installed ({missing})")];
                row(&mut text, &[&name[..], &nothing[..]].concat(), durability);
            }
            RivalOutcome::Measured(figures) => row(
                &mut text,
                &[
                    line.name.clone(),
                    spread(figures.rate),
                    count(figures.first_tenth),
                    count(figures.last_tenth),
                    format!("{:.2} ×", figures.ours_to_this),
                    count(wide(figures.deliveries)) + if figures.cut_short { " (time limit)" } else { "" },
                    bytes(wide(figures.resident_bytes)),
                    bytes(wide(figures.disk_bytes)),
                ],
                durability,
            ),
        }
    }
    text.push('\n');
    for line in &report.rivals {
        let _ = writeln!(text, "* **{}**: {}", line.name, line.how);
    }
    let _ = write!(text, "\n![rivals]({})\n", plots::RIVALS);
    text
}

fn row(text: &mut String, cells: &[String], more: &[String]) {
    let _ = writeln!(text, "| {} |", [cells, more].concat().join(" | "));
}

fn spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min.total_cmp(&max).is_eq() {
        return count(median);
    }
    format!("{} ({}–{})", count(median), count(min), count(max))
}

/// 160000 as 160,000.
pub(crate) fn count(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Decimal units.
pub(crate) fn bytes(number: f64) -> String {
    match number {
        1e9.. => format!("{:.1} GB", number / 1e9),
        1e6.. => format!("{:.0} MB", number / 1e6),
        _ => format!("{:.0} kB", number / 1e3),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is printed with fewer digits")]
fn wide(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        assert_eq!([0.0, 999.4, 1000.0, 1234567.0].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([12e3, 345.6e6, 7.89e9].map(bytes), ["12 kB", "346 MB", "7.9 GB"]);
    }
}
