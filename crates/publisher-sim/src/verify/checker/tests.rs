//! The checker against stores that lie, one lie at a time.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::config::Ratio;
use crate::ids::IdScheme;
use crate::receipt::{Outcome, Receipt};
use crate::workload::tests::workload;

const IDENTITIES: u32 = 60;
const TOPICS: u32 = 2;

/// An event of a topic as an honest store would give it back.
#[derive(Debug, Clone)]
struct Row {
    topic: String,
    event_id: String,
    timestamp: String,
    source: String,
    payload: String,
    sequence: Option<u64>,
    seq: u64,
}

impl Row {
    fn event(&self) -> StoredEvent<'_> {
        StoredEvent {
            topic: self.topic.as_str().into(),
            event_id: self.event_id.as_str().into(),
            timestamp: self.timestamp.as_str().into(),
            source: self.source.as_str().into(),
            payload: serde_json::from_str::<&RawValue>(&self.payload).unwrap(),
            sequence: self.sequence,
            seq: self.seq,
        }
    }
}

/// An honest store of the first events of a workload, and the receipts it gave.
fn honest(workload: &Workload) -> (Vec<Vec<Row>>, Ledger) {
    let mut topics = vec![Vec::new(); TOPICS as usize];
    let mut ledger = Ledger::new(IDENTITIES);
    for index in 0..IDENTITIES {
        let mut event = Vec::new();
        workload.write_event(index, false, &mut event);
        let sent: serde_json::Value = serde_json::from_slice(&event).unwrap();
        let text = |field: &str| sent[field].as_str().unwrap().to_owned();
        let mut payload = Vec::new();
        workload.write_payload(index, false, &mut payload);
        let rows: &mut Vec<Row> = &mut topics[workload.head(index).topic];
        let seq = rows.len() as u64 + 1;
        rows.push(Row {
            topic: text("topic"),
            event_id: text("event_id"),
            timestamp: text("timestamp"),
            source: text("source"),
            payload: String::from_utf8(payload).unwrap(),
            sequence: sent["sequence"].as_u64(),
            seq,
        });
        ledger.note(index, false, Receipt { outcome: Outcome::Stored, seq }).unwrap();
    }
    (topics, ledger)
}

/// What the checker finds after `lie` changed the rows of topic 0.
fn found(lie: impl FnOnce(&mut Vec<Row>)) -> [u64; 4] {
    let counts = check(lie);
    let found =
        [&counts.lost, &counts.doubled, &counts.out_of_order, &counts.mismatched].map(Findings::count);
    assert_eq!(counts.faults(), found.iter().sum::<u64>());
    found
}

fn check(lie: impl FnOnce(&mut Vec<Row>)) -> Counts {
    let workload = workload(3, TOPICS, IdScheme::Ulid, 100).numbered(IDENTITIES, Ratio::ZERO);
    let (mut topics, ledger) = honest(&workload);
    lie(&mut topics[0]);
    let mut checker = Checker::new(&workload, IDENTITIES);
    for (number, rows) in topics.iter().enumerate() {
        checker.begin_topic(number);
        for row in rows {
            checker.see(&row.event());
        }
    }
    let counts = checker.finish(&ledger);
    assert_eq!(counts.acknowledged, u64::from(IDENTITIES));
    counts
}

fn renumber(rows: &mut [Row]) {
    for (row, seq) in rows.iter_mut().zip(1..) {
        row.seq = seq;
    }
}

#[test]
fn an_honest_store_is_clean() {
    assert_eq!(found(|_| {}), [0, 0, 0, 0]);
}

#[test]
fn a_lost_event_is_found_wherever_it_was() {
    proptest!(|(place: prop::sample::Index)| {
        let [lost, doubled, ..] = found(|rows| drop(rows.remove(place.index(rows.len()))));
        prop_assert_eq!((lost, doubled), (1, 0));
    });
}

#[test]
fn a_lost_event_is_found_even_if_the_rest_closes_ranks() {
    let [lost, doubled, out_of_order, mismatched] = found(|rows| {
        rows.remove(4);
        renumber(rows);
    });
    assert_eq!((lost, doubled, out_of_order), (1, 0, 0));
    assert!(mismatched > 0, "the others are no longer where their receipts say");
}

#[test]
fn a_doubled_event_is_found_wherever_it_is() {
    proptest!(|(from: prop::sample::Index, to: prop::sample::Index)| {
        let [lost, doubled, ..] = found(|rows| {
            let copy = rows[from.index(rows.len())].clone();
            rows.insert(to.index(rows.len()), copy);
            renumber(rows);
        });
        prop_assert_eq!((lost, doubled), (0, 1));
    });
}

#[test]
fn swapped_events_are_out_of_order() {
    let [lost, doubled, out_of_order, mismatched] = found(|rows| rows.swap(3, 9));
    assert_eq!((lost, doubled, mismatched), (0, 0, 0));
    assert!(out_of_order > 0);
}

#[test]
fn a_gap_is_out_of_order() {
    let [lost, _, out_of_order, _] = found(|rows| rows.iter_mut().skip(5).for_each(|row| row.seq += 1));
    assert_eq!((lost, out_of_order), (0, 1));
}

#[test]
fn a_topic_that_does_not_begin_at_1_is_out_of_order() {
    let [_, _, out_of_order, _] = found(|rows| rows.iter_mut().for_each(|row| row.seq -= 1));
    assert_eq!(out_of_order, 1);
}

#[test]
fn any_change_to_an_event_is_a_mismatch() {
    type Change = fn(&mut Row);
    let changes: [Change; 7] = [
        |row| row.payload = row.payload.replace("0,\"name\"", ",\"name\""),
        |row| row.payload = row.payload.replace('ë', "e"),
        |row| row.source = "unknown".to_owned(),
        |row| row.timestamp = "2030-01-01T00:00:00Z".to_owned(),
        |row| row.topic = "sim.topic-1".to_owned(),
        |row| row.sequence = row.sequence.map(|number| number + 1),
        |row| row.sequence = None,
    ];
    for change in changes {
        let [.., mismatched] = found(|rows| change(&mut rows[7]));
        assert_eq!(mismatched, 1);
    }
}

#[test]
fn white_space_and_the_spelling_of_an_instant_are_no_mismatch() {
    let spaced = found(|rows| {
        rows[2].payload = rows[2].payload.replace("\",\"", "\" , \n\"").replace("\":", "\" : ");
        let at = OffsetDateTime::parse(&rows[3].timestamp, &Rfc3339).unwrap();
        rows[3].timestamp =
            at.to_offset(time::UtcOffset::from_hms(2, 0, 0).unwrap()).format(&Rfc3339).unwrap();
    });
    assert_eq!(spaced, [0, 0, 0, 0]);
}

#[test]
fn events_of_other_runs_do_not_matter_unless_they_are_doubled() {
    let foreign = |rows: &mut Vec<Row>, ids: [&str; 2]| {
        for id in ids {
            let seq = rows.len() as u64 + 1;
            let payload = "{}".to_owned();
            rows.push(Row { event_id: id.to_owned(), seq, payload, ..rows[0].clone() });
        }
    };
    assert_eq!(found(|rows| foreign(rows, ["a", "b"])), [0, 0, 0, 0]);
    assert_eq!(found(|rows| foreign(rows, ["a", "a"])), [0, 1, 0, 0]);
}

#[test]
fn the_kept_payload_is_the_one_that_receipts_speak_of() {
    let workload = workload(3, 1, IdScheme::Ulid, 100);
    for (kept_altered, outcome, clean) in [
        (true, Outcome::Conflict, true),
        (false, Outcome::Conflict, false),
        (true, Outcome::Duplicate, false),
        (false, Outcome::Duplicate, true),
    ] {
        let mut ledger = Ledger::new(1);
        ledger.note(0, false, Receipt { outcome, seq: 1 }).unwrap();
        let mut event = Vec::new();
        workload.write_event(0, kept_altered, &mut event);
        let event = String::from_utf8(event).unwrap();
        let event = format!("{},\"seq\":1}}", event.strip_suffix('}').unwrap());
        let mut checker = Checker::new(&workload, 1);
        checker.see(&serde_json::from_str(&event).unwrap());
        assert_eq!(checker.finish(&ledger).mismatched.count() == 0, clean, "{kept_altered} {outcome:?}");
    }
}

#[test]
fn compacting_leaves_strings_alone() {
    assert_eq!(compact("{ \"a b\" : [ 1 , \"\\\" \\\\\" ] }\n"), "{\"a b\":[1,\"\\\" \\\\\"]}");
}

#[test]
fn it_counts_what_it_read() {
    let counts = check(|rows| {
        for id in ["a", "b"] {
            rows.push(Row { event_id: id.to_owned(), seq: rows.len() as u64 + 1, ..rows[0].clone() });
        }
        rows.remove(3);
    });
    let identities = u64::from(IDENTITIES);
    assert_eq!((counts.events_read, counts.found, counts.foreign), (identities + 1, identities - 1, 2));
}

#[test]
fn a_finding_names_the_event() {
    let counts = check(|rows| rows[7].source = "unknown".to_owned());
    let example = &counts.mismatched.examples()[0];
    assert!(example.contains("sim.topic-0 ") && example.contains(" seq 8: "), "{example}");
    let mut lost = String::new();
    let counts = check(|rows| lost = rows.remove(7).event_id);
    assert_eq!(counts.lost.examples(), [format!("sim.topic-0 {lost}")]);
}

/// Each takes memory.
#[test]
fn of_other_runs_no_more_events_are_remembered_than_there_is_room_for() {
    let workload = workload(3, TOPICS, IdScheme::Ulid, 100);
    let (topics, ledger) = honest(&workload);
    let mut checker = Checker::new(&workload, 0);
    checker.foreign_kept = MAX_FOREIGN_IDS - 1;
    for (id, seq) in ["a", "a", "b", "b"].into_iter().zip(1..) {
        checker.see(&Row { event_id: id.to_owned(), seq, ..topics[0][0].clone() }.event());
    }
    assert_eq!(checker.give_up(&ledger).doubled.count(), 1, "the second one is not remembered");
}

#[test]
fn a_seq_for_which_the_checker_has_no_bits_is_a_mismatch() {
    let workload = workload(3, 1, IdScheme::Ulid, 100);
    let row = honest(&workload).0[0][0].clone();
    for (seq, clean) in [(SEQ, true), (SEQ + 1, false), (u64::MAX, false)] {
        let mut checker = Checker::new(&workload, IDENTITIES);
        checker.see(&Row { seq, ..row.clone() }.event());
        let counts = checker.finish(&Ledger::new(IDENTITIES));
        assert_eq!(counts.mismatched.count() == 0, clean, "{seq}");
    }
}

#[test]
fn a_check_that_is_given_up_calls_nothing_lost() {
    let workload = workload(3, TOPICS, IdScheme::Ulid, 100);
    let (_, ledger) = honest(&workload);
    let counts = Checker::new(&workload, IDENTITIES).give_up(&ledger);
    assert_eq!((counts.acknowledged, counts.faults()), (u64::from(IDENTITIES), 0));
}

/// Whichever of its deliveries came through first was kept.
#[test]
fn without_a_receipt_either_payload_may_have_been_kept_and_no_other() {
    let workload = workload(3, 1, IdScheme::Ulid, 100);
    for (altered, other, clean) in [(false, false, true), (true, false, true), (false, true, false)] {
        let mut event = Vec::new();
        workload.write_event(0, altered, &mut event);
        let mut event =
            format!("{},\"seq\":1}}", String::from_utf8(event).unwrap().strip_suffix('}').unwrap());
        if other {
            event = event.replace("\"name\"", "\"other\"");
        }
        let ledger = Ledger::new(1);
        let mut checker = Checker::new(&workload, 1);
        checker.see(&serde_json::from_str(&event).unwrap());
        assert_eq!(checker.finish(&ledger).mismatched.count() == 0, clean, "{event}");
    }
}

/// As a stream of all topics has them.
#[test]
fn topics_that_come_mixed_are_each_judged_by_their_own_order() {
    let workload = workload(3, TOPICS, IdScheme::Ulid, 100);
    proptest!(|(picks in prop::collection::vec(0..TOPICS as usize, 200), swap: bool)| {
        let (mut topics, ledger) = honest(&workload);
        if swap {
            topics[1].swap(2, 3);
        }
        let mut checker = Checker::new(&workload, IDENTITIES);
        let mut rest: Vec<_> = topics.iter().map(|rows| rows.iter()).collect();
        // At the end, whatever is left.
        let rounds = (0..IDENTITIES).flat_map(|_| 0..TOPICS as usize);
        for pick in picks.into_iter().chain(rounds) {
            if let Some(row) = rest[pick].next() {
                checker.turn_to(pick);
                checker.see(&row.event());
            }
        }
        let counts = checker.finish(&ledger);
        prop_assert_eq!(counts.faults() > 0, swap);
        prop_assert_eq!((counts.lost.count(), counts.doubled.count()), (0, 0));
    });
}
