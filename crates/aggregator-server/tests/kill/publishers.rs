//! The load: the simulator's own workload, plan, client and retries, without end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aggregator_client::Backoff;
use bytes::Bytes;
use clap::Parser as _;
use publisher_sim::batch::Batch;
use publisher_sim::client::{Client, Failure, Stats, builder};
use publisher_sim::config::Config;
use publisher_sim::plan::{Delivery, Plan};
use publisher_sim::retry::{GaveUp, with_retries};
use publisher_sim::seed::{SimRng, Stream, Streams};
use publisher_sim::stop::{Stop, StopSwitch, stop_switch};
use publisher_sim::workload::Workload;
use rand::{RngExt as _, SeedableRng as _};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::PATIENCE;
use crate::journal::{Counts, Journal};

/// Ids in no order, so that commits touch many pages and checkpoints come soon; more deliveries than there
/// is time for; retries that do not give up and do not wait long, since the server comes back soon.
const OPTIONS: &str = "--events 1000000000 --dup 0.2 --conflicts 0.1 --ids uuid4 --topics 3 --concurrency 4 \
     --payload-bytes 150 --retry-base-ms 2 --retry-cap-ms 20 --retry-attempts 1000000 \
     --retry-deadline-ms 120000";

const MAX_BATCH_EVENTS: usize = 60;

/// Publishes until told to finish.
pub(crate) struct Publishers {
    runtime: Runtime,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    shared: Arc<Shared>,
    _switch: StopSwitch,
}

struct Shared {
    client: Client,
    workload: Workload,
    streams: Streams,
    backoff: Backoff,
    next: Mutex<Next>,
    journal: Journal,
    stop: Stop,
    finishing: AtomicBool,
}

/// What is sent next.
struct Next {
    deliveries: Box<dyn Iterator<Item = Delivery> + Send>,
    sizes: SimRng,
    number: u64,
}

impl Publishers {
    pub(crate) fn start(url: &str, seed: u64) -> Self {
        let options = ["publisher-sim", "--url", url].into_iter().chain(OPTIONS.split_whitespace());
        let config = Config::try_parse_from(options).unwrap();
        let streams = Streams::new(seed, config.payload_bytes);
        let plan = Plan::new(config.events, config.dup, config.faults.conflicts.unwrap()).unwrap();
        let Config { topic_prefix, topics, ids, payload_bytes, concurrency, .. } = &config;
        let workload = Workload::new(streams.clone(), topic_prefix, *topics, *ids, *payload_bytes);
        let client = Client::new(config.url.clone(), builder(&config).unwrap()).unwrap();
        let (switch, stop) = stop_switch();
        let next = Next {
            deliveries: Box::new(plan.walk(&streams, 0)),
            sizes: SimRng::seed_from_u64(seed),
            number: 0,
        };
        let backoff = config.retry.backoff().unwrap();
        let (next, journal, finishing) = (Mutex::new(next), Journal::default(), AtomicBool::new(false));
        let shared = Arc::new(Shared { client, workload, streams, backoff, next, journal, stop, finishing });
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let tasks = (0..*concurrency).map(|_| runtime.spawn(Arc::clone(&shared).publish())).collect();
        Self { runtime, tasks: Mutex::new(tasks), shared, _switch: switch }
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    pub(crate) fn workload(&self) -> &Workload {
        &self.shared.workload
    }

    /// Waits until everything that was begun is acknowledged.
    pub(crate) fn finish(&self) -> Counts {
        self.shared.finishing.store(true, Ordering::Relaxed);
        for task in self.tasks.lock().unwrap().drain(..) {
            let finished = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, task).await });
            finished.expect("a publisher does not finish").unwrap();
        }
        self.journal().counts()
    }

    /// Sends these deliveries once more.
    pub(crate) fn resend(&self, deliveries: &[Delivery]) {
        self.runtime.block_on(self.shared.deliver(&Batch::encode(0, deliveries, &self.shared.workload)));
    }

    pub(crate) fn page(&self, topic: &str, after: Option<&str>) -> Option<Bytes> {
        const PAGE_EVENTS: u32 = 1000;
        let page = self.shared.client.page(topic, PAGE_EVENTS, after, PATIENCE);
        self.runtime.block_on(page).expect("the server gives a page")
    }

    pub(crate) fn stats(&self) -> Stats {
        self.runtime.block_on(self.shared.client.stats()).expect("the server gives its statistics")
    }
}

impl Shared {
    async fn publish(self: Arc<Self>) {
        while !self.finishing.load(Ordering::Relaxed) {
            let batch = self.next_batch();
            self.deliver(&batch).await;
        }
    }

    fn next_batch(&self) -> Batch {
        let mut next = self.next.lock().unwrap();
        next.number += 1;
        let (number, size) = (next.number, next.sizes.random_range(1..=MAX_BATCH_EVENTS));
        let deliveries: Vec<_> = next.deliveries.by_ref().take(size).collect();
        drop(next);
        Batch::encode(number, &deliveries, &self.workload)
    }

    /// Sends the same bytes until they are acknowledged.
    async fn deliver(&self, batch: &Batch) {
        let retries = self.backoff.start(self.streams.rng(Stream::Backoff, batch.number));
        let retried = |_| self.journal.retried();
        match with_retries(retries, &self.stop, retried, |limit| self.attempt(batch, limit)).await {
            Ok(reply) => self.journal.note(batch, &self.workload, &reply),
            Err(GaveUp::Refused(reason)) => self.journal.refused(&reason),
            Err(reason) => panic!("a publisher gives up: {reason}"),
        }
    }

    async fn attempt(&self, batch: &Batch, limit: Duration) -> Result<Bytes, Failure> {
        self.client.publish(batch.body(), limit).await.map_err(|failure| match failure {
            // Ruder than the real one: it knows that the server is back much sooner than it says.
            Failure::Retryable { cause, .. } => Failure::Retryable { cause, retry_after: None },
            refused @ Failure::Final(_) => refused,
        })
    }
}
