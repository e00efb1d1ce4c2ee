//! A store whose partitions are on the servers of a Citus cluster. These tests run where `AGGREGATOR_TEST_POSTGRES` is the
//! coordinator of one.

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use aggregator_core::{
    AttemptId, DedupStore, DedupStoreExt, Event, EventId, Identity, Import, Partitions, Query, Timestamp,
    Topic, TopicQuery, TopicSelector,
};
use aggregator_postgres::test_server::TestServer;
use aggregator_postgres::{PostgresOptions, PostgresStore};
use serde_json::Value;
use std::time::Duration;

use crate::support::{alone, append, events, open, options, publish_all, stored};

/// The database, if it is a Citus cluster with servers for shards.
fn cluster() -> Option<&'static TestServer> {
    let server = TestServer::shared()?;
    let workers = "SELECT count(*) FROM pg_extension WHERE extname = 'citus'";
    if server.sql(workers) == "0" {
        test_skip::skip("the database is no Citus cluster", "AGGREGATOR_REQUIRE_CITUS");
        return None;
    }
    Some(server)
}

/// Statements that the coordinator sent to other servers, each with its server.
#[derive(Clone, Default)]
struct RemoteLog(Arc<Mutex<Vec<u8>>>);

impl Write for RemoteLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl RemoteLog {
    /// The one of this process. Sessions have to be told to note them: see [`noting`].
    fn of_process() -> &'static Self {
        static LOG: OnceLock<RemoteLog> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .json()
                .with_env_filter("aggregator_postgres=trace")
                .with_writer(move || writer.clone())
                .init();
            log
        })
    }

    fn take(&self) -> Vec<(String, String)> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let lines = String::from_utf8(bytes).unwrap();
        let notes = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let notes = notes.filter_map(|note| {
            let text = |name: &str| note["fields"][name].as_str().map(str::to_owned);
            let sql = text("note")?.strip_prefix("issuing ")?.to_owned();
            let server = text("detail")?;
            let server = server.strip_prefix("on server ")?.split(' ').next()?.to_owned();
            Some((server, sql))
        });
        // The store looks at all servers now and then, and asks all partitions for their offsets.
        const BESIDE: [&str; 5] = [
            "SELECT concat_ws(",
            "pg_total_relation_size(",
            "SELECT (SELECT 0)",
            "application_name",
            "SELECT last_offset, topics FROM",
        ];
        notes.filter(|(_, sql)| !BESIDE.iter().any(|beside| sql.contains(beside))).collect()
    }

    /// The one server that was asked by a call. If the call writes, it has committed, and not in two phases.
    fn one_server(&self, what: &str, writes: bool) -> String {
        let sent = self.take();
        let servers: BTreeSet<_> = sent.iter().map(|(server, _)| server.clone()).collect();
        assert_eq!(servers.len(), 1, "{what}: {sent:#?}");
        assert!(!sent.iter().any(|(_, sql)| sql.contains("PREPARE")), "{what}: {sent:#?}");
        let commits = sent.iter().filter(|(_, sql)| sql.starts_with("COMMIT")).count();
        assert!(commits == 1 || commits == 0 && !writes, "{what}: {sent:#?}");
        servers.into_iter().next().unwrap()
    }
}

/// The URL for sessions that note what they send to other servers.
fn noting(server: &TestServer) -> String {
    let url = server.url();
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}options=-c%20citus.log_remote_commands%3Don")
}

/// Several partitions on several servers, and no polls that ask all of them.
fn spread() -> PostgresOptions {
    PostgresOptions {
        partitions: Partitions::new(16),
        poll_interval: Duration::from_secs(3_600),
        append_connections: 1,
        read_connections: 1,
        ..options()
    }
}

/// A topic of each partition.
fn topics(store: &PostgresStore) -> Vec<String> {
    let partitions = store.partitions();
    let of = |partition| {
        let named = (0..).map(|n| format!("t{n}"));
        named.into_iter().find(|name| partitions.of(name) == partition).unwrap()
    };
    partitions.iter().map(of).collect()
}

#[test]
fn what_belongs_to_one_partition_is_sent_to_one_server_and_committed_in_one_phase() {
    let Some(server) = cluster() else { return };
    let log = RemoteLog::of_process();
    let store = open(&noting(server), &spread());
    let mut all = BTreeSet::new();
    for topic in topics(&store) {
        let partition = store.partitions().of(&topic);
        log.take();
        let write = |what: &str, attempt, batch: &[Event]| {
            let views: Vec<_> = batch.iter().map(Event::view).collect();
            let receipts = store.append(partition, attempt, &views).unwrap();
            (stored(&receipts), log.one_server(what, true))
        };
        let attempt = AttemptId::new();
        let (new, place) = write("a new topic", attempt, &events(&topic, 0..5));
        assert_eq!(new, 5);
        assert_eq!(write("the same attempt again", attempt, &events(&topic, 0..5)), (5, place.clone()));
        assert_eq!(
            write("repeats and new ones", AttemptId::new(), &events(&topic, 3..9)),
            (4, place.clone())
        );
        let same = |what: &str, writes: bool| assert_eq!(log.one_server(what, writes), place, "{what}");
        let name = Topic::new(topic.clone()).unwrap();
        let id =
            |id: &str| Identity { topic: name.clone(), event_id: EventId::new(id).unwrap(), source: None };

        let query = Query { limit: 4, ..Query::topic(name.clone()) };
        let page = store.read(&query).unwrap();
        assert_eq!(page.events.len(), 4);
        same("a page", false);
        let rest = store.read(&Query { after: Some(page.next), ..query }).unwrap();
        assert_eq!(rest.events.len(), 4);
        same("the next page", false);
        assert!(store.lookup(&[id("1"), id("none")]).unwrap()[0].is_some());
        same("a lookup", false);
        let named = TopicQuery { times: true, ..TopicQuery::of(TopicSelector::Exact(name.clone())) };
        assert_eq!(store.topics(&named).unwrap()[0].last_seq, 9);
        same("a topic", false);

        let maintain = store.maintain().unwrap();
        assert_eq!(maintain.purge(&name, 2).unwrap(), 2);
        // A slice, and one that finds nothing more.
        let sent = log.take();
        assert!(sent.iter().all(|(at, sql)| *at == place && !sql.contains("PREPARE")), "a purge: {sent:#?}");
        assert!(maintain.bytes(&name, 1..=9).unwrap() > 0);
        same("a sum of bytes", false);
        assert_eq!(store.erase(&[id("4")]).unwrap()[0].seqs, [5]);
        same("an erasure", true);
        assert!(store.release(&[id("4")]).unwrap()[0].is_some());
        same("a release", true);
        let forget = store.forget().unwrap();
        assert_eq!(forget.forget_identities(&name, Timestamp::from_micros(i64::MAX), 10).unwrap(), 2);
        let sent = log.take();
        assert!(
            sent.iter().all(|(at, sql)| *at == place && !sql.contains("PREPARE")),
            "forgetting: {sent:#?}"
        );
        let ids = [alone(&topic, "alone")];
        assert_eq!(store.import(partition, Import::rows(&ids)).unwrap().added, 1);
        same("an import", true);
        all.insert(place);
    }
    assert!(all.len() > 1, "the partitions are on several servers: {all:?}");
    assert!(store.outages().is_empty());
    let stats = store.stats().unwrap();
    // Nine events of each topic, and the one that was erased was not sent again.
    assert_eq!((stats.topics, stats.stored, stats.unavailable.len()), (16, 16 * 9, 0));
    assert!(stats.bytes > 16 * 8192, "the bytes are those of all servers: {}", stats.bytes);
    assert_eq!(store.maintain().unwrap().verify().unwrap().faults, [""; 0]);
}

#[test]
fn a_page_of_all_partitions_is_made_of_what_each_has() {
    let Some(server) = cluster() else { return };
    let store = open(&server.url(), &spread());
    for topic in topics(&store) {
        append(&store, &events(&topic, 0..3));
    }
    let mut seen = 0;
    let mut query = Query { limit: 7, ..Query::of(TopicSelector::All) };
    loop {
        let page = store.read(&query).unwrap();
        seen += page.events.len();
        if page.caught_up {
            break;
        }
        query.after = Some(page.next);
    }
    assert_eq!(seen, 16 * 3);
    assert_eq!(store.topics(&TopicQuery::default()).unwrap().len(), 16);
}

/// Moves the shards of the store in this schema from their server to the next one.
fn move_shards(server: &TestServer, schema: &str) {
    let moves = server.sql(&format!(
        "SELECT format('SELECT citus_move_shard_placement(%s, %L, %s, %L, %s, ''block_writes'')',
                       s.shardid, n.nodename, n.nodeport, o.nodename, o.nodeport)
         FROM pg_dist_shard s JOIN pg_dist_placement p USING (shardid) JOIN pg_dist_node n USING (groupid)
         CROSS JOIN LATERAL (SELECT * FROM pg_dist_node o WHERE o.shouldhaveshards AND o.groupid <> n.groupid
                             ORDER BY o.groupid < n.groupid, o.groupid LIMIT 1) AS o
         WHERE s.logicalrelid = '{schema}.partitions'::regclass"
    ));
    moves.lines().for_each(|sql| _ = server.sql(sql));
}

#[test]
fn events_are_stored_and_read_once_while_their_shard_moves_between_servers() {
    const MOVES: u32 = 4;
    let Some(server) = cluster() else { return };
    let options = options();
    let stores = [open(&server.url(), &options), open(&server.url(), &options)];
    let (moved, is_done) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..MOVES {
                move_shards(server, &options.schema);
                moved.fetch_add(1, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            while !is_done.load(Ordering::SeqCst) {
                let page = stores[0].read(&Query::of(TopicSelector::All)).unwrap();
                let seqs = page.events.iter().map(|event| event.seq);
                assert!(seqs.clone().eq(1..=page.events.len() as u64), "{:?}", seqs.collect::<Vec<_>>());
            }
        });
        let _done = OnDrop(|| is_done.store(true, Ordering::SeqCst));
        publish_all(&[&stores[0], &stores[1]], || moved.load(Ordering::SeqCst) == MOVES);
    });
    assert_eq!(stores[1].verify().unwrap().faults, [""; 0]);
}

/// Runs its function when it is dropped, also after a panic.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
