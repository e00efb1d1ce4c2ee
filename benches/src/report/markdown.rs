//! The report for people. Every figure in it was measured in the run.

use std::fmt::Write as _;

use super::sections::{TITLE, sections};
use super::{Report, RivalOutcome};
use crate::append;
use crate::measures::Spread;
use crate::measures::growth::Growth;
use crate::measures::ingest::Ingest;
use crate::measures::read::unknown::{Asked, CLIENTS, IDS, TOPICS};

/// The whole report.
pub(super) fn render(report: &Report) -> String {
    let mut text = format!("# {TITLE}\n\nThe plots are in report.html.\n");
    for section in sections(report) {
        let _ = write!(text, "\n## {}\n\n{}", section.title, section.text.trim_start());
    }
    text
}

pub(super) fn conditions(report: &Report) -> String {
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
         repeats; {} connections for\nbatches of 500. The counts of every reply and the server's totals were checked: a \
         run with a wrong count is not\nreported. Seed {}.\n",
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

pub(super) fn failures(failures: &[String]) -> String {
    let mut text = String::new();
    for failure in failures {
        // A list item is one line.
        let _ = writeln!(text, "* {}", failure.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    text
}

/// The largest ratio between two runs of a baseline. Beyond it, ratios to the baseline mean little.
const STEADY: f64 = 1.3;

pub(super) fn ingest(report: &Report, ingest: &Ingest) -> String {
    let mut text = format!(
        "Durable (fsync before the reply), except with the memory store. Medians, with (lowest–highest). A round makes\n\
         each run once on a fresh store, after a sync of the file systems, and every other round goes backwards.\n\
         Processor time is per delivery. Batches ask only for counts (`?results=none`) unless a line says otherwise.\n\
         The p99 is closed-loop: a connection sends its next request once the last one is answered. So it grows with\n\
         the number of connections, and does not count the time that a request would have waited to be sent. Latency\n\
         at a given load has its own section.\n\n\
         The ceiling is plain SQLite: it appends the same deliveries with the same columns, pragmas and page size,\n\
         without HTTP, dedup or second index. One row a statement is the common way. {many} rows a statement, with\n\
         offsets that SQLite counts, is the server's way. A transaction, and so an fsync, has 500 rows, like a request,\n\
         or 5,000: with {connections} connections that each have a batch of 500 under way, the server groups up to\n\
         {connections} × 500 events per fsync. **Judge by the ratio to {many} rows a statement by 5,000**: it is the\n\
         hardest ceiling, with statements like the server's and the fewest commits. The ratio to a row a statement by\n\
         500 compares the server with a simple writer that commits every batch. Ratios compare two runs of the same\n\
         round.\n\n",
        many = append::MANY,
        connections = report.connections,
    );
    for line in ingest.lines.iter().filter(|line| line.served.is_none()) {
        let apart = line.rate.max / line.rate.min;
        if apart > STEADY {
            let _ = writeln!(
                text,
                "**Not steady: the fastest run of \"{}\" was {apart:.2} times as fast as the slowest.\n\
                 Something else used the machine or its disk, so the ratios mean little.**\n",
                line.name
            );
        }
    }
    text.push_str(
        "| what | deliveries | deliveries/s | of a row a statement by 500 | of 20 rows a statement by 5,000 \
         | p99 (closed loop) | server | generator | peak memory |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for line in &ingest.lines {
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
                line.of_row_append_500.map_or_else(String::new, ratio),
                line.of_many_append_5000.map_or_else(String::new, ratio),
            ],
            &served,
        );
    }
    if let Some(durable_of_memory) = ingest.durable_of_memory {
        let _ =
            writeln!(text, "\nSingle events: durable is {} of the memory store.", ratio(durable_of_memory));
    }
    if let Some(with_key) = ingest.with_key_of_without {
        let _ = writeln!(text, "\nSingle events: with a key is {} of without one.", ratio(with_key));
    }
    if let Some(watched) = ingest.watched_of_not {
        let sentence = "scraped each second, with the page open, they come to";
        let _ = writeln!(text, "\nBatches of 500: {sentence} {} of what they do unwatched.", ratio(watched));
    }
    if let Some(insight) = ingest.with_insight_of_without {
        let _ = writeln!(text, "\nBatches of 500: with insight they come to {} of without.", ratio(insight));
    }
    text
}

pub(super) fn growth(growth: &Growth) -> String {
    let mut text = format!(
        "{} deliveries in batches of 500, {} identities, one store.\n\n",
        count(wide(growth.deliveries)),
        count(wide(growth.identities)),
    );
    if let Some(filled) = growth.full_cache {
        let _ = write!(
            text,
            "The page cache was full from the start, with another file of {}. Writing a GiB of it took {:.1} to {:.1} s of \
             processor time.\n\n",
            bytes(wide(filled.bytes)),
            filled.cheapest,
            filled.dearest,
        );
    }
    text.push_str(
        "| after deliveries | deliveries/s in this tenth | server | resident | peak | on disk |\n|--:|--:|--:|--:|--:|--:|\n",
    );
    for point in &growth.tenths {
        let sizes = [point.resident_bytes, point.peak_bytes, point.disk_bytes].map(|size| bytes(wide(size)));
        let server = format!("{:.2} µs", point.cpu_seconds * 1e6);
        row(&mut text, &[count(wide(point.deliveries)), count(point.rate), server], &sizes);
    }
    let in_turn = growth.in_turn.as_ref().map_or_else(String::new, |turns| {
        format!(
            "| then in turn, {} rounds of {} deliveries each: this store over an empty one | {:.2} ({:.2}–{:.2}) |\n",
            turns.rounds,
            count(wide(turns.deliveries)),
            turns.grown_to_empty.median,
            turns.grown_to_empty.min,
            turns.grown_to_empty.max,
        )
    });
    let restart = growth.restart.as_ref().map_or_else(String::new, |restart| {
        format!(
            "| ready after kill -9 with {} identities, median of {} (page cache warm) | {:.3} s ({:.3}–{:.3}) |\n",
            count(wide(restart.identities)),
            restart.times,
            restart.seconds.median,
            restart.seconds.min,
            restart.seconds.max,
        )
    });
    let _ = write!(
        text,
        "\n| | |\n|---|--:|\n\
         | last tenth over first | {:.2} |\n\
         | the same by the server's processor time per delivery | {:.2} |\n\
         | last five tenths over the first five, by medians | {:.2} |\n\
         {}\
         | resident memory per identity, after the first tenth has filled the caches | {:.2} bytes |\n\
         | disk per identity | {:.1} bytes |\n\
         | the same row in a file of rows alone | {:.1} bytes |\n\
         | disk beyond the event itself | {:.1} bytes |\n\
         | requests refused with 503 and sent again | {} |\n\
         {}",
        growth.last_to_first,
        growth.cpu_first_to_last,
        growth.later_to_earlier_half,
        in_turn,
        growth.resident_bytes_per_identity,
        growth.disk_bytes_per_identity,
        growth.append_bytes_per_row,
        growth.disk_bytes_per_identity - growth.append_bytes_per_row,
        growth.refused,
        restart,
    );
    text
}

pub(super) fn read(report: &Report) -> String {
    let mut text = String::from(
        "One reader walks `GET /events` in pages of 1,000 to the end.\n\n\
         | what | events | events/s |\n|---|--:|--:|\n",
    );
    for reading in &report.read {
        row(&mut text, &[reading.name.clone(), count(wide(reading.events)), spread(reading.rate)], &[]);
    }
    text
}

pub(super) fn lookups(report: &Report) -> String {
    let mut text = format!(
        "`POST /lookup` of {ids} ids, each in another topic that does not exist, in a store \
         of {topics} topics.\n{CLIENTS} clients each send one lookup after the other. Goals: 100 ms for a lookup, and a \
         p99 of 50 ms for\nthe other requests.\n\n| what | requests | p50 | p99 | longest |\n|---|--:|--:|--:|--:|\n",
        ids = count(IDS.into()),
        topics = count(TOPICS.into()),
    );
    for asked in &report.lookups {
        let ms = |ms: f64| format!("{ms:.1} ms");
        let Asked { name, requests, p50_ms, p99_ms, max_ms } = asked;
        let cells = [name.clone(), count(wide(*requests)), ms(*p50_ms), ms(*p99_ms), ms(*max_ms)];
        row(&mut text, &cells, &[]);
    }
    text
}

pub(super) fn latency(report: &Report) -> String {
    let mut text = String::from(
        "Durable, at a steady half of the capacity that was measured just before, over 64 connections. Requests \
         are due by\na schedule that does not wait, and latency counts from when they were due. A thread on each processor \
         only sleeps,\na millisecond at a time: *late* is the most by which one of them was woken too late. *Stolen* is the \
         share of the\nprocessors' time that the host gave to others. A latency of about that size may come from the \
         machine. The last\nline has no server: a program writes 64 KB and syncs them, a thousand times a second, into one \
         file of 64 MB,\nover and over.\n\n\
         | what | capacity | deliveries/s | for | requests | p50 | p90 | p99 | p99.9 | max | late | stolen |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    for steady in &report.latency {
        let times = [
            steady.p50_ms,
            steady.p90_ms,
            steady.p99_ms,
            steady.p999_ms,
            steady.max_ms,
            steady.machine.latest_ms,
        ];
        let stolen = format!("{:.1} %", steady.machine.stolen * 100.0);
        row(
            &mut text,
            &[
                steady.name.clone(),
                count(steady.capacity),
                count(steady.rate),
                format!("{:.0} s", steady.seconds),
                count(wide(steady.requests)),
            ],
            &[&times.map(|ms| format!("{ms:.2} ms"))[..], &[stolen]].concat(),
        );
    }
    text
}

pub(super) fn rivals(report: &Report) -> String {
    let mut text = String::from(
        "The same deliveries, in the same run. A system that was not done at the time limit was \
         stopped.\nMedians, with (lowest–highest). \"Ours is\" compares two runs of the same round. The tenths, memory and \
         disk are\nthose of the median run. A round tries each system once, after a sync of the file systems, and every \
         other round\ngoes backwards.\n\n\
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
                    figures.ours_to_this.map_or_else(String::new, |ours| format!("{} ×", ratio(ours))),
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
    text
}

pub(super) fn row(text: &mut String, cells: &[String], more: &[String]) {
    let _ = writeln!(text, "| {} |", [cells, more].concat().join(" | "));
}

pub(super) fn spread(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    if min.total_cmp(&max).is_eq() {
        return count(median);
    }
    format!("{} ({}–{})", count(median), count(min), count(max))
}

pub(super) fn ratio(Spread { median, min, max }: Spread) -> String {
    if min.total_cmp(&max).is_eq() {
        return format!("{median:.2}");
    }
    format!("{median:.2} ({min:.2}–{max:.2})")
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

/// A size in decimal units.
pub(crate) fn bytes(number: f64) -> String {
    match number {
        1e9.. => format!("{:.1} GB", number / 1e9),
        1e6.. => format!("{:.0} MB", number / 1e6),
        _ => format!("{:.0} kB", number / 1e3),
    }
}

#[expect(clippy::cast_precision_loss, reason = "it is printed with fewer digits")]
pub(super) fn wide(number: u64) -> f64 {
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
