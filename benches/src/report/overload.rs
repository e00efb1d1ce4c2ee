//! The part about too much load.

use std::fmt::Write as _;

use super::markdown::{count, ratio, spread, wide};
use crate::measures::Spread;
use crate::measures::overload::{FEW, MANY, Overload};

pub(super) fn overload(overload: &Overload) -> String {
    let mut text = String::new();
    if let Some(line) = &overload.connections {
        let _ = writeln!(
            text,
            "\nBatches of 500 as fast as the server takes them: {}/s over {FEW} connections, {}/s over {MANY}, {} of it. Of the\n\
             requests over {MANY} connections {:.1} % were answered 503 and sent again.",
            spread(line.few),
            spread(line.many),
            ratio(line.ratio),
            line.refused_share * 100.0,
        );
    }
    if let Some(line) = &overload.tenfold {
        let mib = |bytes: u64| wide(bytes) / f64::from(1 << 20);
        let _ = writeln!(
            text,
            "\nTen times the peak for {:.0} s: {}/s were due over {MANY} connections, by a schedule that does not wait, where\n\
             the server had taken {}/s before. {}/s were stored, **{:.2} of the peak**: {} requests were accepted (p99 {:.0} ms,\n\
             the slowest {:.0} ms), {}, and {} connections broke off. Memory after the first tenth: {:.0} MiB; the most until the\n\
             end: {:.0} MiB.",
            line.seconds,
            count(line.due),
            count(line.peak),
            count(line.goodput),
            line.goodput / line.peak,
            count(wide(line.accepted)),
            line.accepted_p99_ms,
            line.accepted_max_ms,
            refused(line.refused, line.refusal_p50_ms),
            line.broken,
            mib(line.memory_bytes),
            mib(line.memory_peak_bytes),
        );
    }
    if let Some(line) = &overload.slow {
        let _ = writeln!(
            text,
            "\nBeside {} slow clients (a third sends heads byte by byte, a third bodies, a third reads no answer; one that is sent\n\
             away comes back), the p99 of a publish request at half of the capacity is {} ms, and {} ms without them: {} of it.\n\
             The server ended {} of their connections in a round.",
            line.slow,
            milliseconds(line.beside_p99_ms),
            milliseconds(line.alone_p99_ms),
            ratio(line.ratio),
            line.ended,
        );
    }
    text
}

fn refused(count: u64, p50_ms: f64) -> String {
    match count {
        0 => "none refused".to_owned(),
        _ => format!("{} refused (half of them within {p50_ms:.0} ms)", super::markdown::count(wide(count))),
    }
}

fn milliseconds(Spread { median, min, max }: Spread) -> String {
    format!("{median:.1} ({min:.1}–{max:.1})")
}
