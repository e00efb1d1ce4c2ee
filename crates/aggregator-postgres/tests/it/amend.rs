//! Erasing and releasing beside other nodes, over lost connections and several partitions, and what is left in the
//! files of the table.

mod files;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use aggregator_core::Outcome::{Conflict, Duplicate, Stored};
use aggregator_core::event::ERASED_PAYLOAD;
use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt, Event, EventId, EventRef, Identity, Partition, Partitions, Query,
    StoreError, Topic,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};

use crate::proxy::{Cut, Proxy};
use crate::support::{OtherSession, append, await_that, events, open, options, outcomes, stored};

fn identity(topic: &str, id: impl ToString + Copy) -> Identity {
    let event_id = EventId::new(id.to_string()).unwrap();
    Identity { topic: Topic::new(topic).unwrap(), event_id, source: None }
}

fn event(topic: &str, id: impl ToString + Copy, payload: &str) -> Event {
    Event::new(topic, id.to_string()).unwrap().with_payload(payload).unwrap()
}

fn erase(store: &PostgresStore, ids: &[Identity]) -> Result<Vec<Vec<u64>>, StoreError> {
    Ok(store.erase(ids)?.into_iter().map(|erased| erased.seqs).collect())
}

/// The seqs of what was released.
fn release(store: &PostgresStore, ids: &[Identity]) -> Result<Vec<Option<u64>>, StoreError> {
    Ok(store.release(ids)?.into_iter().map(|seen| seen?.seq).collect())
}

fn payloads(store: &PostgresStore, topic: &str) -> Vec<String> {
    let page = store.read(&Query::topic(Topic::new(topic).unwrap())).unwrap();
    page.events.into_iter().map(|event| event.payload).collect()
}

fn assert_sound(store: &PostgresStore) {
    assert_eq!(store.verify().unwrap().faults, [""; 0]);
}

#[test]
fn appends_of_all_nodes_see_what_one_node_erased_and_released() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    let [one, other] = [open(&server.url(), &options), open(&server.url(), &options)];
    let all: Vec<_> = (0..3).map(|id| event("t", id, "[1]")).collect();
    append(&one, &all);
    // The other node knows the topic from here on.
    assert_eq!(stored(&append(&other, &all)), 0);
    let changed: Vec<_> = (0..3).map(|id| event("t", id, "[2]")).collect();
    assert_eq!(erase(&one, &[identity("t", 1)]).unwrap(), [[2]]);
    assert_eq!(outcomes(&append(&other, &changed)), [Conflict, Duplicate, Conflict]);
    assert_eq!(payloads(&other, "t"), ["[1]", ERASED_PAYLOAD, "[1]"]);
    assert_eq!(release(&one, &[identity("t", 2)]).unwrap(), [Some(3)]);
    assert_eq!(release(&other, &[identity("t", 2)]).unwrap(), [None]);
    assert_eq!(outcomes(&append(&other, &changed)), [Conflict, Duplicate, Stored]);
    assert_eq!(outcomes(&append(&one, &changed)), [Conflict, Duplicate, Duplicate]);
    assert_sound(&other);
}

/// Appends and releases decide under the lock of the partition. So every event is stored once for each time that its
/// identity was released, and once before.
#[test]
fn an_identity_that_is_released_beside_appends_comes_again_once() {
    let Some(server) = TestServer::shared() else { return };
    const RELEASES: u64 = 40;
    let options = options();
    let nodes: [_; 4] = std::array::from_fn(|_| open(&server.url(), &options));
    let batch = events("t", 0..5);
    append(&nodes[0], &batch);
    let (told, released) = (AtomicU64::new(5), AtomicU64::new(0));
    let is_done = &|| released.load(Ordering::SeqCst) >= RELEASES;
    std::thread::scope(|scope| {
        for (appender, amender) in [(&nodes[0], &nodes[1]), (&nodes[2], &nodes[3])] {
            let (batch, told, released) = (&batch, &told, &released);
            scope.spawn(move || {
                while !is_done() {
                    told.fetch_add(stored(&append(appender, batch)) as u64, Ordering::SeqCst);
                }
            });
            scope.spawn(move || {
                let ids: Vec<_> = (1..4).map(|id| identity("t", id)).collect();
                while !is_done() {
                    let seqs = release(amender, &ids).unwrap();
                    released.fetch_add(seqs.into_iter().flatten().count() as u64, Ordering::SeqCst);
                    erase(amender, &[identity("t", 2), identity("t", 4)]).unwrap();
                }
            });
        }
    });
    // What was released last may not have come again yet.
    let told = told.into_inner() + stored(&append(&nodes[0], &batch)) as u64;
    assert_eq!(told, 5 + released.into_inner());
    assert_eq!(nodes[0].stats().unwrap().stored, told);
    assert_eq!(stored(&append(&nodes[1], &batch)), 0);
    assert_sound(&nodes[2]);
}

#[test]
fn an_erasure_whose_answer_is_lost_is_run_again() {
    let Some(server) = TestServer::shared() else { return };
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        append(&store, &[event("t", 1, "[1]"), event("t", 2, "[2]"), event("t", 3, "[3]")]);
        store.purge(&Topic::new("t").unwrap(), 1).unwrap();
        proxy.cut(cut, 2);
        let ids = [identity("t", 1), identity("t", "none"), identity("t", 3)];
        assert_eq!(erase(&store, &ids).unwrap(), [vec![1], vec![], vec![3]], "{cut:?}");
        assert_eq!(proxy.cuts(), 2, "{cut:?}");
        assert_eq!(payloads(&store, "t"), ["[2]", ERASED_PAYLOAD], "{cut:?}");
        let changed = [event("t", 1, "[9]"), event("t", 2, "[9]"), event("t", 3, "[9]")];
        assert_eq!(outcomes(&append(&store, &changed)), [Duplicate, Conflict, Duplicate], "{cut:?}");
        assert_sound(&store);
    }
}

#[test]
fn a_release_whose_answer_is_lost_is_run_again_and_tells_what_it_released() {
    let Some(server) = TestServer::shared() else { return };
    for cut in [Cut::BeforeCommit, Cut::WithCommit, Cut::BeforeAnswer] {
        let proxy = Proxy::new(server);
        let store = open(&proxy.url(), &options());
        append(&store, &events("t", 0..3));
        release(&store, &[identity("t", 0)]).unwrap();
        proxy.cut(cut, 2);
        let ids = [identity("t", 1), identity("t", 0), identity("t", 1), identity("t", 2)];
        assert_eq!(release(&store, &ids).unwrap(), [Some(2), None, None, Some(3)], "{cut:?}");
        assert_eq!(proxy.cuts(), 2, "{cut:?}");
        assert_eq!(stored(&append(&store, &events("t", 0..3))), 3, "{cut:?}");
        assert_sound(&store);
    }
}

#[test]
fn a_release_that_is_run_again_leaves_what_came_again_meanwhile() {
    let Some(server) = TestServer::shared() else { return };
    let proxy = Proxy::new(server);
    let options = options();
    let [store, other] = [open(&proxy.url(), &options), open(&server.url(), &options)];
    append(&store, &events("t", 0..1));
    proxy.hold_after_cut();
    proxy.cut(Cut::BeforeAnswer, 1);
    std::thread::scope(|scope| {
        let released = scope.spawn(|| release(&store, &[identity("t", 0)]));
        await_that("the first try is committed", || {
            proxy.cuts() == 1 && other.lookup(&[identity("t", 0)]).unwrap() == [None]
        });
        assert_eq!(append(&other, &events("t", 0..1))[0].seq, Some(2));
        proxy.release();
        assert_eq!(released.join().unwrap().unwrap(), [Some(1)]);
    });
    let again = append(&other, &events("t", 0..1))[0];
    assert_eq!((again.outcome, again.seq), (Duplicate, Some(2)));
    assert_sound(&other);
}

/// The attempt's answer may be lost, and somebody may release its events before it is tried again.
#[test]
fn an_attempt_is_answered_the_same_after_its_identities_were_released() {
    let Some(server) = TestServer::shared_own() else { return };
    let options = PostgresOptions { partitions: Partitions::new(2), ..options() };
    let store = open(&server.url(), &options);
    let [a, b] = [Partition(0), Partition(1)].map(|partition| {
        let mut names = (0..).map(|n| format!("t{n}"));
        names.find(|name| store.partitions().of(name) == partition).unwrap()
    });
    append(&store, &[event(&a, 1, "[1]"), event(&a, 2, "[2]")]);
    let batch = [
        event(&a, 1, "[1]"),
        event(&a, 2, "[9]"),
        event(&a, 3, "[3]"),
        event(&a, 3, "[9]"),
        event(&a, 4, "[4]"),
        event(&b, 1, "[1]"),
    ];
    let views: Vec<EventRef<'_>> = batch.iter().map(Event::view).collect();
    let id = AttemptId::new();
    let run = || store.across().unwrap().append_across(id, &views).unwrap();
    let first = run();
    assert_eq!(outcomes(&first), [Duplicate, Conflict, Stored, Conflict, Stored, Stored]);
    let all = [identity(&a, 1), identity(&a, 2), identity(&a, 3), identity(&b, 1)];
    assert_eq!(release(&store, &all).unwrap(), [Some(1), Some(2), Some(3), Some(1)]);
    assert_eq!(run(), first);
    // Others store them anew, and these are released, too.
    assert_eq!(stored(&append(&store, &batch)), 4);
    assert_eq!(run(), first);
    release(&store, &all).unwrap();
    assert_eq!(run(), first);
    assert_sound(&store);
}

#[test]
fn identities_of_all_partitions_are_answered_where_they_were_asked() {
    let Some(server) = TestServer::shared() else { return };
    let options = PostgresOptions {
        partitions: Partitions::new(5),
        lock_timeout: Duration::from_millis(300),
        ..options()
    };
    let store = open(&server.url(), &options);
    let topics: Vec<_> = (0..20).map(|n| format!("t{n}")).collect();
    for (n, topic) in topics.iter().enumerate() {
        append(&store, &events(topic, 0..u32::try_from(n).unwrap() + 1));
    }
    // The newest event of each topic has another seq.
    let ids: Vec<_> = topics.iter().enumerate().map(|(n, topic)| identity(topic, n)).collect();
    let expected: Vec<_> = (1..=20).map(|seq| vec![seq]).collect();
    assert_eq!(erase(&store, &ids).unwrap(), expected);
    for topic in &topics {
        let payloads = payloads(&store, topic);
        let (last, others) = payloads.split_last().unwrap();
        assert_eq!(last, ERASED_PAYLOAD);
        assert!(others.iter().all(|payload| payload != ERASED_PAYLOAD), "{others:?}");
    }
    // While somebody holds a partition, the others may be done already.
    let mut session = OtherSession::new(server);
    session.sql(&format!("BEGIN; SELECT FROM {}.partitions WHERE partition = 3 FOR UPDATE;", options.schema));
    assert!(erase(&store, &ids).unwrap_err().is_retryable());
    assert!(release(&store, &ids).unwrap_err().is_retryable());
    drop(session);
    let held = |topic: &String| store.partitions().of(topic) >= Partition(3);
    let expected: Vec<_> = (1..).zip(&topics).map(|(seq, topic)| held(topic).then_some(seq)).collect();
    assert_eq!(release(&store, &ids).unwrap(), expected);
    assert!(store.lookup(&ids).unwrap().iter().all(Option::is_none));
    assert_eq!(release(&store, &ids).unwrap(), [None; 20]);
    assert_sound(&store);
}

#[test]
fn a_store_that_only_reads_neither_erases_nor_releases() {
    let Some(server) = TestServer::shared() else { return };
    let options = options();
    append(&open(&server.url(), &options), &events("t", 0..1));
    let reader = open(&server.url(), &PostgresOptions { read_only: true, ..options });
    let is_refused = |error| matches!(error, StoreError::Unsupported { .. });
    assert!(is_refused(erase(&reader, &[identity("t", 0)]).unwrap_err()));
    assert!(is_refused(release(&reader, &[identity("t", 0)]).unwrap_err()));
}
