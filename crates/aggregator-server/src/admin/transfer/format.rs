//! The lines of an export, and the lines of a list of identities.

mod identity;
mod row;

use aggregator_core::event::{CheckedRow, Kept, StoredRow};
use aggregator_core::{InvalidField, Scope, Timestamp, Topic, TopicInfo};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use self::row::Row;

pub(super) use self::identity::read_identity;
pub(super) use self::row::write_row;

/// The version of the format.
pub(super) const VERSION: u32 = 1;

/// What a line of an export can be.
#[derive(Debug)]
pub(super) enum Line {
    Header(Header),
    Row(Box<CheckedRow>),
    Checkpoint(ResumePoint),
    Totals(TopicInfo),
    End(RowCounts),
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Header {
    pub(super) export: u32,
    pub(super) store: String,
    pub(super) kind: String,
    pub(super) partitions: u16,
}

/// Every line that is neither the first one nor a row.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Control {
    Checkpoint(ResumePoint),
    Totals(TopicTotals),
    End(RowCounts),
}

/// A place from which an export can go on, written as a checkpoint line: everything before that line is written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a checkpoint")]
pub(super) struct ResumePoint {
    pub(super) written: RowCounts,
    /// How many events of the store were purged when the export began.
    pub(super) purged: u64,
    /// The last offset of each partition.
    pub(super) offsets: Vec<u64>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RowCounts {
    pub(super) events: u64,
    pub(super) stubs: u64,
    pub(super) identities: u64,
    /// Events that were forgotten: those for which the marks stand. Left out where there are none, as in every
    /// file that an older program wrote.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(super) forgotten: u64,
    pub(super) topics: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl RowCounts {
    /// All that was gone through, also what was forgotten.
    pub(super) fn rows(&self) -> u64 {
        self.with_seqs().saturating_add(self.identities)
    }

    /// Rows that have a seq, or had one.
    pub(super) fn with_seqs(&self) -> u64 {
        self.events.saturating_add(self.stubs).saturating_add(self.forgotten)
    }

    pub(super) fn count(&mut self, row: &StoredRow) {
        let (count, rows) = match row.kept {
            Kept::Event(_) => (&mut self.events, 1),
            Kept::Stub { .. } => (&mut self.stubs, 1),
            Kept::Identity => (&mut self.identities, 1),
            Kept::Forgotten { seq } => (&mut self.forgotten, seq),
        };
        // A file may say any seq.
        *count = count.saturating_add(rows);
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TopicTotals {
    topic: String,
    scope: String,
    last_seq: u64,
    purged_seq: u64,
    duplicates: u64,
    conflicts: u64,
}

/// What every line of an export ends with: the XXH3-64 of all before it.
const SUM_START: &str = r#","sum":""#;
const SUM_BYTES: usize = SUM_START.len() + 16 + 2;

fn write_line(out: &mut Vec<u8>, line: &impl Serialize) -> Result<(), serde_json::Error> {
    let start = out.len();
    serde_json::to_writer(&mut *out, line)?;
    // The closing brace comes behind the sum.
    out.pop();
    let sum = xxh3_64(&out[start..]);
    out.extend_from_slice(format!("{SUM_START}{sum:016x}\"}}\n").as_bytes());
    Ok(())
}

impl Header {
    pub(super) fn write(&self, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
        write_line(out, self)
    }
}

pub(super) fn write_checkpoint(
    out: &mut Vec<u8>,
    resume_point: ResumePoint,
) -> Result<(), serde_json::Error> {
    write_line(out, &Control::Checkpoint(resume_point))
}

pub(super) fn write_end(out: &mut Vec<u8>, counts: RowCounts) -> Result<(), serde_json::Error> {
    write_line(out, &Control::End(counts))
}

pub(super) fn write_totals(out: &mut Vec<u8>, info: &TopicInfo) -> Result<(), serde_json::Error> {
    let totals = TopicTotals {
        topic: info.topic.to_string(),
        scope: info.scope.as_str().to_owned(),
        last_seq: info.last_seq,
        purged_seq: info.purged_seq,
        duplicates: info.duplicates,
        conflicts: info.conflicts,
    };
    write_line(out, &Control::Totals(totals))
}

/// Reads a line of an export. Takes the sum out of `line`.
pub(super) fn read_line(line: &mut Vec<u8>) -> Result<Line, String> {
    take_sum(line)?;
    let text = std::str::from_utf8(line).map_err(|error| format!("is not UTF-8: {error}"))?;
    let not_read = |error: serde_json::Error| format!("is not a line of an export: {error}");
    if text.starts_with(r#"{"topic""#) {
        let row: Row<'_> = serde_json::from_str(text).map_err(not_read)?;
        return row.into_stored().map(|row| Line::Row(Box::new(row)));
    }
    if text.starts_with(r#"{"export""#) {
        return serde_json::from_str(text).map(Line::Header).map_err(not_read);
    }
    match serde_json::from_str(text).map_err(not_read)? {
        Control::Checkpoint(resume_point) => Ok(Line::Checkpoint(resume_point)),
        Control::Totals(totals) => totals.into_info().map(Line::Totals),
        Control::End(counts) => Ok(Line::End(counts)),
    }
}

/// Checks the sum and removes it.
fn take_sum(line: &mut Vec<u8>) -> Result<(), String> {
    let damaged = || "is damaged or was changed: its sum is missing or another. Export anew".to_owned();
    let end = line.len().checked_sub(SUM_BYTES).ok_or_else(damaged)?;
    let expected = format!("{SUM_START}{:016x}\"}}", xxh3_64(&line[..end]));
    if line[end..] != *expected.as_bytes() {
        return Err(damaged());
    }
    line.truncate(end);
    line.push(b'}');
    Ok(())
}

impl TopicTotals {
    fn into_info(self) -> Result<TopicInfo, String> {
        let topic = Topic::new(self.topic).map_err(|error| error.to_string())?;
        let mut info = TopicInfo::new(topic, parse_scope(&self.scope)?);
        (info.last_seq, info.purged_seq) = (self.last_seq, self.purged_seq);
        (info.duplicates, info.conflicts) = (self.duplicates, self.conflicts);
        Ok(info)
    }
}

fn parse_scope(text: &str) -> Result<Scope, String> {
    let scopes = [Scope::Topic, Scope::Source];
    let scope = scopes.into_iter().find(|scope| scope.as_str() == text);
    scope.ok_or_else(|| format!("scope: {text:?} is none, say topic or source"))
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|error: InvalidField| format!("processed_at: {}", error.reason))
}

fn fault_list(faults: &[InvalidField]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use aggregator_core::event::KeptEvent;

    use super::*;

    fn row(kept: Kept) -> StoredRow {
        StoredRow {
            topic: "a.b".into(),
            scope: Some(Scope::Source),
            event_id: "ä\"\\😀".into(),
            source: Some("s\u{2028}".into()),
            processed_at: Timestamp::from_micros(1_767_225_600_000_001),
            released: false,
            kept,
        }
    }

    fn event(payload: &str) -> StoredRow {
        row(Kept::Event(KeptEvent {
            seq: 7,
            timestamp: "2026-01-01T00:00:00+01:00".into(),
            payload: payload.into(),
            sequence: Some(0),
            content_type: Some("a/b".into()),
            attributes: Some(r#"{"x":null}"#.into()),
        }))
    }

    fn written(row: &StoredRow) -> Vec<u8> {
        let mut out = Vec::new();
        write_row(&mut out, row).unwrap();
        assert_eq!(out.pop(), Some(b'\n'));
        out
    }

    #[test]
    fn rows_come_back_byte_by_byte() {
        let payloads =
            ["{}", "null", "1e400", r#""\ud800 \u00e4 ä""#, "[1.0,-0,123456789012345678901234567890]"];
        let mark = StoredRow { event_id: String::new(), source: None, ..row(Kept::Forgotten { seq: 4 }) };
        let others = [row(Kept::Stub { seq: 1, digest: [0xAB; 16] }), row(Kept::Identity), mark];
        for row in payloads.into_iter().map(event).chain(others) {
            let Ok(Line::Row(read)) = read_line(&mut written(&row)) else { panic!("{row:?}") };
            assert_eq!(read.into_inner(), row);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let line = written(&event(r#"{"n":1}"#));
        for at in 0..line.len() {
            for bit in 0..8 {
                let mut damaged = line.clone();
                damaged[at] ^= 1 << bit;
                assert!(read_line(&mut damaged).is_err(), "bit {bit} of byte {at}");
            }
        }
        for length in 0..line.len() {
            assert!(read_line(&mut line[..length].to_vec()).is_err());
        }
    }
    fn with_sum(text: &str) -> Vec<u8> {
        let open = text.strip_suffix('}').unwrap();
        format!("{open}{SUM_START}{:016x}\"}}", xxh3_64(open.as_bytes())).into_bytes()
    }

    #[test]
    fn a_mark_of_forgotten_events_has_a_seq_and_no_identity() {
        let mark = |more: &str| {
            let line = format!(r#"{{"topic":"t","processed_at":"2026-01-01T00:00:00Z"{more}}}"#);
            read_line(&mut with_sum(&line))
        };
        let Ok(Line::Row(row)) = mark(r#","forgotten_seq":4"#) else { panic!("it is a row") };
        assert_eq!((row.seq(), row.is_forgotten(), row.scope), (Some(4), true, Some(Scope::Topic)));
        let mut counts = RowCounts::default();
        counts.count(&row);
        assert_eq!((counts.forgotten, counts.rows(), counts.with_seqs()), (4, 4, 4));
        for (more, says) in [
            (r#","forgotten_seq":0"#, "forgotten_seq: must be 1 to 8796093022207"),
            (r#","forgotten_seq":8796093022208"#, "forgotten_seq: must be 1 to"),
            (r#","forgotten_seq":-1"#, "invalid value"),
            (r#","forgotten_seq":4,"event_id":"1""#, "forgotten_seq: goes with topic"),
            (r#","forgotten_seq":4,"source":"1""#, "forgotten_seq: goes with topic"),
            (r#","forgotten_seq":4,"seq":4"#, "forgotten_seq: goes with topic"),
            (r#","forgotten_seq":4,"payload":null"#, "forgotten_seq: goes with topic"),
            (r#","forgotten_seq":4,"released":true"#, "forgotten_seq: goes with topic"),
            ("", "event_id: is missing"),
        ] {
            let refused = mark(more).unwrap_err();
            assert!(refused.contains(says), "{more}: {refused}");
        }
    }

    /// The file of a store that has forgotten nothing is what it was before there were marks.
    #[test]
    fn counts_without_forgotten_events_are_written_and_read_as_ever() {
        let counts = RowCounts { events: 3, topics: 1, ..RowCounts::default() };
        let mut line = Vec::new();
        write_end(&mut line, counts).unwrap();
        let text = String::from_utf8(line).unwrap();
        assert!(
            text.starts_with(r#"{"end":{"events":3,"stubs":0,"identities":0,"topics":1},"sum":"#),
            "{text}"
        );
        let Ok(Line::End(read)) = read_line(&mut text.trim_end().as_bytes().to_vec()) else {
            panic!("{text}")
        };
        assert_eq!(read, counts);
    }
}
