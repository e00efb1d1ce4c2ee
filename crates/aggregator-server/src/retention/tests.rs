//! The rules against a plain model.

mod forget;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use aggregator_core::store::TopicInfo;
use aggregator_core::{
    DedupStore, DedupStoreExt as _, Event, EventId, Identity, MemoryStore, Partitions, Scope, SqliteOptions,
    SqliteStore, Timestamp, Topic, TopicQuery,
};
use proptest::prelude::*;

use super::Retention;
use super::follow::{Engine, Stop};
use super::sizes::Sizes;
use crate::config::Config;
use crate::health::Health;

const TOPICS: [&str; 5] = ["a", "a.b", "a.b.c", "b", "b.c"];

/// Rules, and for each topic the one that is about it, as its author would say it.
const RULES: [(&[&str], [Option<usize>; 5]); 6] = [
    (&["*=count:3"], [Some(0); 5]),
    (&["a.*=bytes:60", "a.b=age:5us"], [None, Some(1), Some(0), None, None]),
    (
        &["*=age:9us,count:6,bytes:90", "a.*=count:2,age:3us", "b.c=bytes:25"],
        [Some(0), Some(1), Some(1), Some(0), Some(2)],
    ),
    (&["a.b.*=age:4us", "a=bytes:1"], [Some(1), None, Some(0), None, None]),
    (
        &["*=count:2,identities:6us", "a.b=age:3us,identities:3us"],
        [Some(0), Some(1), Some(0), Some(0), Some(0)],
    ),
    (
        &["a.*=bytes:40,identities:1us", "b=age:2us,identities:9us", "*=count:1"],
        [Some(2), Some(0), Some(0), Some(1), Some(2)],
    ),
];

/// So many of them, the first ones, keep identities for ever.
const WITHOUT_IDENTITIES: usize = 4;

/// A limit of the rules above, as a number.
fn limit(rule: &str, name: &str) -> Option<i64> {
    let value = rule.split(['=', ',']).find_map(|limit| limit.strip_prefix(name)?.strip_prefix(':'));
    value.map(|value| value.trim_end_matches("us").parse().unwrap())
}

/// When each event of a topic was stored, how many bytes it has, and its number, which is its id as well.
type Model = Vec<(i64, u64, u64)>;

/// The number of events that a rule takes, by trying one after the other from the newest.
fn expected(model: &Model, rule: &str, now: i64) -> u64 {
    let count = |name| limit(rule, name).map(|value| u64::try_from(value).unwrap());
    let (age, count, bytes) = (limit(rule, "age"), count("count"), count("bytes"));
    let (mut kept, mut kept_bytes) = (0, 0);
    for (stored_at, size, _) in model.iter().rev() {
        kept_bytes += size;
        if age.is_some_and(|age| *stored_at < now - age)
            || count.is_some_and(|count| kept + 1 > count)
            || bytes.is_some_and(|bytes| kept_bytes > bytes)
        {
            break;
        }
        kept += 1;
    }
    model.len() as u64 - kept
}

/// The number of events whose identities a rule has forgotten once so many are purged. The store's `newest` event stays.
fn expected_forgotten(model: &Model, rule: &str, now: i64, purged: u64, newest: u64) -> u64 {
    let Some(identities) = limit(rule, "identities") else { return 0 };
    let purged = model.iter().take(usize::try_from(purged).unwrap());
    purged.take_while(|(stored_at, _, id)| *stored_at < now - identities && *id != newest).count() as u64
}

#[derive(Debug, Clone)]
enum Step {
    Append { topic: usize, payloads: Vec<usize> },
    Wait(i64),
    Run,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (0..TOPICS.len(), prop::collection::vec(0_usize..20, 1..6))
            .prop_map(|(topic, payloads)| Step::Append { topic, payloads }),
        2 => (1_i64..5).prop_map(Step::Wait),
        2 => Just(Step::Run),
    ]
}

fn retention(rules: &[&str], dry_run: bool) -> Retention {
    let retain = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let config =
        Config { retain, retain_dry_run: dry_run, retain_every: Duration::from_secs(1), ..Config::default() };
    config.check().unwrap();
    Retention::new(&config)
}

fn purged(store: &dyn DedupStore) -> Vec<u64> {
    let infos = store.topics(&TopicQuery::default()).unwrap();
    let of = |name: &&str| infos.iter().find(|info| info.topic.as_str() == *name);
    TOPICS.iter().map(|name| of(name).map_or(0, |info| info.purged_seq)).collect()
}

/// How many events of each topic are known no more. They are its oldest ones.
fn forgotten(store: &dyn DedupStore, models: &[Model; 5]) -> Vec<u64> {
    let of = |(topic, model): (&&str, &Model)| {
        let id = |(_, _, id): &(i64, u64, u64)| Identity {
            topic: Topic::new(*topic).unwrap(),
            event_id: EventId::new(format!("id-{id}")).unwrap(),
            source: None,
        };
        let seen = store.lookup(&model.iter().map(id).collect::<Vec<_>>()).unwrap();
        let gone = seen.iter().take_while(|seen| seen.is_none()).count();
        assert!(seen[gone..].iter().all(Option::is_some), "{topic}: one from the middle is gone: {seen:?}");
        gone as u64
    };
    TOPICS.iter().zip(models).map(of).collect()
}

fn check(store: &dyn DedupStore, clock: &AtomicI64, rules: usize, steps: Vec<Step>) {
    let (rules, rule_of) = RULES[rules];
    let (retention, dry, health, stop) =
        (retention(rules, false), retention(rules, true), Health::default(), Stop::default());
    let mut engine = Engine::new(&retention, store, &health);
    let mut dry_engine = Engine::new(&dry, store, &health);
    let mut models: [Model; 5] = Default::default();
    // The id, and by partition the newest one.
    let (mut id, mut newest) = (0, std::collections::HashMap::new());
    for step in steps.into_iter().chain([Step::Run]) {
        match step {
            Step::Wait(micros) => drop(clock.fetch_add(micros, Ordering::Relaxed)),
            Step::Append { topic, payloads } => {
                for length in payloads {
                    id += 1;
                    let (name, payload) = (format!("id-{id}"), format!("\"{}\"", "x".repeat(length)));
                    let event = Event::new(TOPICS[topic], &*name).unwrap().with_source("s").unwrap();
                    store.append_one(&event.with_payload(&payload).unwrap()).unwrap();
                    let now = clock.load(Ordering::Relaxed);
                    models[topic].push((now, (name.len() + 1 + payload.len()) as u64, id));
                    newest.insert(store.partitions().of(TOPICS[topic]), id);
                }
            }
            Step::Run => {
                let now = clock.load(Ordering::Relaxed);
                let before = purged(store);
                let expected: Vec<_> = (0..TOPICS.len())
                    .map(|topic| {
                        let by_rule =
                            rule_of[topic].map_or(0, |rule| expected(&models[topic], rules[rule], now));
                        by_rule.max(before[topic])
                    })
                    .collect();
                let expected_forgotten = |purged: &[u64], before: &[u64]| {
                    let of = |topic: usize| {
                        let newest = newest.get(&store.partitions().of(TOPICS[topic])).copied().unwrap_or(0);
                        let (model, purged) = (&models[topic], purged[topic]);
                        let of_rule =
                            |rule: usize| expected_forgotten(model, rules[rule], now, purged, newest);
                        rule_of[topic].map_or(0, of_rule).max(before[topic])
                    };
                    (0..TOPICS.len()).map(of).collect::<Vec<_>>()
                };
                let forgotten_before = forgotten(store, &models);
                let found =
                    |tally: &super::run::Tally| tally.rules.iter().map(|rule| rule.found).sum::<u64>();
                let would = dry_engine.run_if_it_is_this_nodes_turn(&stop).unwrap().unwrap();
                assert_eq!(purged(store), before, "a dry run");
                assert_eq!(forgotten(store, &models), forgotten_before, "a dry run");
                let due: u64 = expected_forgotten(&before, &forgotten_before).iter().sum();
                let pending_identities = |retention: &Retention| {
                    retention.ledger().rules.iter().map(|rule| rule.pending_identities).sum::<u64>()
                };
                assert_eq!(pending_identities(&dry), due - forgotten_before.iter().sum::<u64>());
                let did = engine.run_if_it_is_this_nodes_turn(&stop).unwrap().unwrap();
                assert_eq!(purged(store), expected);
                let expected = expected_forgotten(&expected, &forgotten_before);
                assert_eq!(forgotten(store, &models), expected);
                let (did_forget, gone) = (
                    did.rules.iter().map(|rule| rule.forgotten).sum::<u64>(),
                    expected.iter().sum::<u64>() - forgotten_before.iter().sum::<u64>(),
                );
                assert_eq!((did_forget, pending_identities(&retention)), (gone, 0));
                assert_eq!(did.rules.iter().map(|rule| rule.purged).sum::<u64>(), found(&did));
                assert_eq!(found(&did), found(&would));
                let pending: Vec<_> =
                    retention.ledger().rules.iter().map(|rule| rule.pending_events).collect();
                assert!(pending.iter().all(|pending| *pending == 0), "{pending:?}");
                assert_eq!(
                    dry.ledger().rules.iter().map(|rule| rule.pending_events).sum::<u64>(),
                    found(&would)
                );
            }
        }
    }
    // What the records say since ever.
    let kept = super::keeper::read(store.records().unwrap()).unwrap();
    let total: u64 = kept.values().map(|(_, kept)| kept.purged_events).sum();
    assert_eq!(total, purged(store).iter().sum::<u64>());
    let total: u64 = kept.values().map(|(_, kept)| kept.forgotten_identities).sum();
    assert_eq!(total, forgotten(store, &models).iter().sum::<u64>());
    assert_eq!(total, retention.counts().forgotten_identities);
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

fn clock() -> (Arc<AtomicI64>, aggregator_core::Clock) {
    let micros = Arc::new(AtomicI64::new(1_000));
    let read = Arc::clone(&micros);
    (micros, Arc::new(move || Timestamp::from_micros(read.load(Ordering::Relaxed))))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn topics_keep_what_their_most_specific_rule_allows_and_no_more_goes(
        rules in 0..RULES.len(), partitions in 1_u16..4, steps in prop::collection::vec(step(), 1..40),
    ) {
        let (micros, clock) = clock();
        let store = MemoryStore::new(Partitions::new(partitions).unwrap()).with_clock(clock);
        check(&store, &micros, rules, steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn in_a_file_as_well(
        rules in 0..WITHOUT_IDENTITIES, steps in prop::collection::vec(step(), 1..40),
    ) {
        check_in_a_file(rules, steps);
    }

    #[test]
    fn identities_go_from_a_file_as_well(
        rules in WITHOUT_IDENTITIES..RULES.len(), steps in prop::collection::vec(step(), 1..40),
    ) {
        check_in_a_file(rules, steps);
    }
}

fn check_in_a_file(rules: usize, steps: Vec<Step>) {
    let (micros, clock) = clock();
    let directory = tempfile::TempDir::new().unwrap();
    let options = SqliteOptions { clock, ..SqliteOptions::default() };
    let store = SqliteStore::open_with(directory.path().join("events.db"), options).unwrap();
    check(&store, &micros, rules, steps);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// With more events than fit into a chunk, and runs between which some are purged and others come.
    #[test]
    fn sums_in_chunks_cut_where_a_plain_sum_does(
        limit in 1_u64..200_000,
        lasts in prop::collection::vec(1_u64..30_000, 1..5),
        dry in any::<bool>(),
    ) {
        let bytes = |seq: u64| 1 + (seq * 7919) % 13;
        let mut info = TopicInfo::new(Topic::new("t").unwrap(), Scope::Topic);
        let mut sizes = Sizes::default();
        for more in lasts {
            info.last_seq += more;
            let mut summed = 0;
            let through = sizes.cut(&info, info.purged_seq, limit, &mut |first, last| {
                assert!(last - first < 10_000 && first > info.purged_seq);
                summed += last - first + 1;
                Ok((first..=last).map(bytes).sum())
            }).unwrap();
            let mut left = limit;
            let kept = (info.purged_seq + 1..=info.last_seq).rev().take_while(|seq| {
                let fits = bytes(*seq) <= left;
                left = left.saturating_sub(bytes(*seq));
                fits
            }).count() as u64;
            prop_assert_eq!(through, info.last_seq - kept);
            // What is new, a chunk that was purged in part, one to look into, and one further back.
            prop_assert!(summed <= more + 50_000, "{} for {}", summed, more);
            if !dry {
                info.purged_seq = through;
            }
        }
    }
}

/// A killed node leaves its lease, which expires; an ended one gives it back. Until then no other node runs.
#[test]
fn one_node_runs_until_it_is_gone() {
    use super::lease::Lease;
    let (micros, clock) = clock();
    let store = MemoryStore::new(Partitions::ONE).with_clock(clock);
    let records = store.records().unwrap();
    let every = Duration::from_secs(10);
    let take = |node: &str| Lease::take(records, node, every).unwrap();
    let pass = |span: Duration| micros.fetch_add(i64::try_from(span.as_micros()).unwrap(), Ordering::Relaxed);
    let first = take("first").unwrap();
    assert!(take("second").is_none());
    first.end();
    assert!(take("second").is_none(), "it ran a moment ago");
    pass(every);
    assert!(take("second").is_none(), "it is the turn of the first one");
    let mut first = take("first").unwrap();
    pass(every * 2 - Duration::from_micros(1));
    assert!(take("second").is_none());
    pass(Duration::from_micros(1));
    let second = take("second").unwrap();
    assert!(first.keep().unwrap(), "it was not time to ask");
    first.expire_now();
    assert!(!first.keep().unwrap(), "another node has it");
    assert!(take("first").is_none());
    second.end();
    pass(every * 2);
    assert!(take("first").is_some());
}
