//! What the store is asked to do while the power fails: steps that a seed brings back.

use aggregator_core::event::RawEvent;
use aggregator_core::{
    Batch, BatchBuilder, CheckedRow, Event, Identity, Kept, KeptEvent, StoredRow, Timestamp, Topic,
};
use sqlite_power_loss::Random;

use crate::records::{self, Draft};

pub(crate) const TOPICS: [&str; 3] = ["orders.created", "orders.paid", "stock"];

pub(crate) const IMPORTED: &str = "imported";

/// Few enough that most batches repeat something.
const IDS: u64 = 80;

pub(crate) enum Step {
    Append(Append),
    /// An append that has to fail, since the disk is full, and leaves nothing behind.
    FullDisk(Vec<Event>),
    /// The next rows of a topic that gets no others.
    Import(Vec<Row>),
    /// Of half of what the topic holds by then.
    Purge(Topic),
    /// Of all that the topic has purged by then.
    Forget(Topic),
    Erase(Identity),
    Release(Identity),
    Records(Vec<Draft>),
    /// A clean restart.
    Reopen,
    Backup,
}

pub(crate) struct Append {
    pub(crate) events: Vec<Event>,
    /// How many steps before its turn the store looks at the batch ([`aggregator_core::DedupStore::prepare`]), if it does.
    ahead: Option<usize>,
}

impl Append {
    /// As many events as the store looks at ahead, and more, are looked at some steps ahead or not at all.
    fn new(events: Vec<Event>, random: &mut Random) -> Self {
        let ahead = usize::try_from(random.below(6)).unwrap();
        Self { events, ahead: ahead.checked_sub(1) }
    }
}

/// A row of another store.
pub(crate) struct Row {
    pub(crate) event: Event,
    pub(crate) seq: u64,
    pub(crate) processed_at: Timestamp,
}

impl Row {
    pub(crate) fn new(seq: u64, random: &mut Random) -> Self {
        let filler = "x".repeat(usize::try_from(random.below(300)).unwrap());
        let event = Event::new(IMPORTED, format!("row-{seq}")).unwrap();
        // Later than anything the store's own clock says, and than the row before.
        let processed_at = Timestamp::from_micros(2_000_000_000_000_000 + i64::try_from(seq).unwrap());
        Self { event: event.with_payload(&format!("{filler:?}")).unwrap(), seq, processed_at }
    }

    pub(crate) fn checked(&self) -> CheckedRow {
        let event = self.event.view();
        let kept = KeptEvent {
            seq: self.seq,
            timestamp: event.timestamp().to_owned(),
            payload: event.payload().to_owned(),
            sequence: None,
            content_type: None,
            attributes: None,
        };
        let row = StoredRow {
            topic: event.topic().to_owned(),
            scope: Some(event.scope()),
            event_id: event.event_id().to_owned(),
            source: Some(event.source().to_owned()),
            processed_at: self.processed_at,
            released: false,
            kept: Kept::Event(kept),
        };
        row.check().unwrap()
    }
}

pub(crate) struct Workload {
    pub(crate) seed: u64,
    pub(crate) checkpoint_bytes: u32,
    pub(crate) steps: Vec<Step>,
}

impl Workload {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        // From a checkpoint after every commit to one after a few.
        let checkpoint_bytes = 32 << 10 << random.below(4);
        let mut last_seq = 0;
        let mut steps: Vec<Step> = (0..16)
            .map(|_| match random.below(14) {
                0 => Step::Reopen,
                1 => Step::Purge(Topic::new(*pick(&TOPICS, &mut random)).unwrap()),
                2 => {
                    let first = last_seq + 1;
                    last_seq += 1 + random.below(8);
                    Step::Import((first..=last_seq).map(|seq| Row::new(seq, &mut random)).collect())
                }
                3 => Step::Forget(Topic::new(*pick(&TOPICS, &mut random)).unwrap()),
                11.. => Step::Records(records::drafts(&mut random)),
                _ => {
                    let events = batch(&TOPICS, &mut random);
                    Step::Append(Append::new(events, &mut random))
                }
            })
            .collect();
        let at = usize::try_from(random.below(steps.len() as u64)).unwrap();
        steps.splice(at..at, failed_creation(&mut random));
        for at in [9, 14] {
            let id = named(&steps[..at], &mut random);
            steps.insert(at, Step::Release(id));
        }
        // It looks through all of the file.
        if random.once_in(2) {
            let id = named(&steps[..11], &mut random);
            steps.insert(11, Step::Erase(id));
        }
        // Costs as many writes as all the rest, so one is enough, and not in every workload.
        if random.once_in(3) {
            steps.insert(12, Step::Backup);
        }
        Self { seed, checkpoint_bytes, steps }
    }

    /// Everything that is ever sent.
    pub(crate) fn events(&self) -> Vec<&Event> {
        let batches = self.steps.iter().map(|step| match step {
            Step::Append(append) => append.events.iter().collect(),
            Step::Import(rows) => rows.iter().map(|row| &row.event).collect(),
            _ => Vec::new(),
        });
        batches.flatten().collect()
    }

    /// The batches that the store looks at just before this step, where `first` is the first one of its life, and the
    /// steps that append them.
    pub(crate) fn looked_at(&self, step: usize, first: usize) -> impl Iterator<Item = (usize, Batch)> {
        self.steps.iter().enumerate().skip(step).filter_map(move |(of, append)| {
            let Step::Append(Append { events, ahead: Some(ahead) }) = append else { return None };
            (of.saturating_sub(*ahead).max(first) == step).then(|| (of, in_a_batch(events)))
        })
    }
}

/// A disk that is full when two topics are created. Then one of them is created and takes the number that the
/// other one would have had, while batches of both wait that were looked at before and in between.
fn failed_creation(random: &mut Random) -> Vec<Step> {
    let mut of = |topics: &[&str]| {
        // One more than a batch must have to be looked at.
        let mut events = batch(topics, random);
        while events.len() <= 16 {
            events.extend(batch(topics, random));
        }
        events
    };
    let (first, second, both) = (of(&["late.a"]), of(&["late.b"]), of(&["late.a", "late.b"]));
    let append = |events, ahead| Step::Append(Append { events, ahead });
    let ahead = usize::try_from(random.below(3)).unwrap();
    let mut steps = vec![
        Step::FullDisk(both.clone()),
        append(second, None),
        append(first, Some(ahead)),
        append(both, Some(ahead)),
    ];
    if random.once_in(2) {
        steps.swap(1, 2);
    }
    steps
}

/// As the body of a request brings them.
pub(crate) fn in_a_batch(events: &[Event]) -> Batch {
    let mut batch = BatchBuilder::new("".into(), Timestamp::from_micros(0)).unwrap();
    for event in events.iter().map(Event::view) {
        let raw = RawEvent {
            topic: event.topic(),
            event_id: event.event_id(),
            timestamp: Some(event.timestamp()),
            source: Some(event.source()),
            payload: Some(serde_json::from_str(event.payload()).unwrap()),
            sequence: event.sequence(),
            scope: event.scope(),
        };
        batch.push(&raw).unwrap();
    }
    batch.finish()
}

fn batch(topics: &[&str], random: &mut Random) -> Vec<Event> {
    let mut batch: Vec<Event> = Vec::new();
    // One in four is as large as those that the store looks at ahead.
    let most = if random.once_in(4) { 30 } else { 12 };
    for _ in 0..=random.below(most) {
        let event = if !batch.is_empty() && random.once_in(6) {
            pick(&batch, random).clone()
        } else {
            event(topics, random)
        };
        batch.push(event);
    }
    batch
}

/// An identity that these steps publish; one that nobody publishes, if there is none.
fn named(steps: &[Step], random: &mut Random) -> Identity {
    let appended = steps.iter().filter_map(|step| match step {
        Step::Append(append) => Some(&append.events),
        _ => None,
    });
    let events: Vec<_> = appended.flatten().collect();
    if events.is_empty() {
        return identity_of(TOPICS[0], "nobody");
    }
    let event: &&Event = pick(&events, random);
    identity(event)
}

fn event(topics: &[&str], random: &mut Random) -> Event {
    let topic = *pick(topics, random);
    let id = random.below(IDS);
    // One in eight comes with another payload than the others of its identity.
    let version = u64::from(random.once_in(8));
    // A few need pages of their own.
    let length = if id.is_multiple_of(20) { 10_000 } else { 10 + id * 7 };
    let filler = "x".repeat(usize::try_from(length).unwrap());
    Event::new(topic, format!("event-{id}"))
        .and_then(|event| event.with_timestamp("2026-01-01T00:00:00Z"))
        .and_then(|event| event.with_payload(&format!(r#"{{"v":{version},"x":"{filler}"}}"#)))
        .unwrap()
}

fn pick<'a, T>(of: &'a [T], random: &mut Random) -> &'a T {
    &of[usize::try_from(random.below(of.len() as u64)).unwrap()]
}

/// What makes the event the same as another.
pub(crate) fn identity(event: &Event) -> Identity {
    let view = event.view();
    identity_of(view.topic(), view.event_id())
}

pub(crate) fn identity_of(topic: &str, event_id: &str) -> Identity {
    Identity {
        topic: Topic::new(topic).unwrap(),
        event_id: aggregator_core::EventId::new(event_id).unwrap(),
        source: None,
    }
}
