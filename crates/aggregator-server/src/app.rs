//! What all request handlers share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use aggregator_core::{DedupStore, Identity, Outage};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::{Anonymity, Guard, Jwt};
use crate::config::Config;
use crate::fair::places::Places;
use crate::health::{self, Health};
use crate::http::body::BodyReader;
use crate::http::problem::Problem;
use crate::insight::Insight;
use crate::metrics::requests::RequestCounters;
use crate::publish::admission::Admission;
use crate::publish::worker::Workers;
use crate::read::tail::Tails;
use crate::read_pool::ReadPool;
use crate::retention::Retention;
use crate::tls::Tls;
use crate::trace::Tracer;

/// How many releases may wait.
const MAX_WAITING_RELEASES: usize = 100;

/// The parts of the service, as its request handlers use them.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) store: Arc<dyn DedupStore>,
    pub(crate) health: Arc<Health>,
    pub(crate) guard: Arc<Guard>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) workers: Workers,
    pub(crate) insight: Arc<Insight>,
    pub(crate) retention: Retention,
    pub(crate) reads: ReadPool,
    pub(crate) bodies: BodyReader,
    /// How many large bodies may be decoded at a time: as many as there are processors.
    pub(crate) decoders: Places,
    /// One backup at a time.
    pub(crate) backups: Places,
    /// One erasure at a time.
    pub(crate) erasures: Places,
    /// One release at a time. The next ones wait: none takes long.
    pub(crate) releases: Places,
    /// How much of large responses may be in memory at a time, in KiB.
    pub(crate) responses: Arc<Semaphore>,
    /// See [`App::rejected`].
    rejected: AtomicU64,
    /// Readers that wait at the end of the stream.
    pub(crate) tails: Tails,
    /// A permit for each connection: see [`Config::max_connections`].
    pub(crate) connection_places: Arc<Semaphore>,
    pub(crate) requests: RequestCounters,
    pub(crate) tls: Option<Arc<Tls>>,
    /// Where a collector is named.
    pub(crate) tracer: Option<Arc<Tracer>>,
    pub(crate) started: Instant,
}

impl App {
    /// Starts the workers over `store`.
    pub(crate) fn start(
        store: Arc<dyn DedupStore>,
        config: Config,
        anonymity: Anonymity,
        jwt: Option<Jwt>,
        tls: Option<Arc<Tls>>,
        tracer: Option<Arc<Tracer>>,
    ) -> std::io::Result<Self> {
        let health = Arc::new(Health::default());
        let insight = Arc::new(Insight::new(config.insight_streams));
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Self {
            guard: Arc::new(Guard::new(Arc::clone(&store), anonymity, jwt)),
            admission: Arc::new(Admission::new(config.queue_events, config.queue_bytes.0)),
            workers: Workers::start(&store, &config, &health, &insight)?,
            reads: ReadPool::start(Arc::clone(&store), Arc::clone(&health), &config)?,
            bodies: BodyReader::new(&config),
            decoders: Places::new(u32::try_from(processors).unwrap_or(u32::MAX), usize::MAX),
            backups: Places::new(1, 0),
            erasures: Places::new(1, 0),
            releases: Places::new(1, MAX_WAITING_RELEASES),
            responses: Arc::new(Semaphore::new(config.response_bytes.kib())),
            rejected: AtomicU64::new(0),
            tails: Tails::new(config.max_tails.get()),
            connection_places: Arc::new(Semaphore::new(max_connections(&config))),
            requests: RequestCounters::default(),
            retention: Retention::new(&config),
            insight,
            tls,
            tracer,
            started: Instant::now(),
            store,
            health,
            config,
        })
    }

    /// Lets go of what is in memory of the payloads of events with these identities, which were erased.
    pub(crate) fn forget_erased(&self, ids: &[Identity]) {
        self.tails.forget_events();
        self.insight.forget_values(ids);
    }

    /// The same for all events.
    pub(crate) fn forget_all_payloads(&self) {
        self.tails.forget_events();
        self.insight.forget_all_values();
    }

    /// Refuses a request while nothing may be acknowledged.
    pub(crate) fn check_ready(&self) -> Result<(), Problem> {
        match self.health.state() {
            health::State::Ready => Ok(()),
            health::State::Draining => Err(Problem::draining()),
            health::State::Failed(reason) => Err(Problem::failed(reason)),
        }
    }

    /// Whether events are taken, of some partitions at least.
    pub(crate) fn is_ready(&self) -> bool {
        self.check_ready().is_ok() && self.health.no_space().is_none() && !self.is_out(&self.store.outages())
    }

    /// Whether the store has parts that fail alone, and one of them at least is well. Keys are in one of them, and the others
    /// are read while that one is out.
    pub(crate) fn is_read_in_part(&self) -> bool {
        self.store.info().shards > 1 && !self.is_out(&self.store.outages())
    }

    /// Whether no partition is left beside these.
    pub(crate) fn is_out(&self, outages: &[Outage]) -> bool {
        let has = |partition| outages.iter().any(|outage| outage.partitions.contains(&partition));
        self.store.partitions().iter().all(has)
    }

    /// How many connections there are, and how many there may be.
    pub(crate) fn connections(&self) -> (usize, usize) {
        let capacity = max_connections(&self.config);
        (capacity.saturating_sub(self.connection_places.available_permits()), capacity)
    }

    /// Reserves room for these bytes of a response until the connection has written them; `None` if there is none.
    pub(crate) fn hold(&self, bytes: Bytes) -> Option<Bytes> {
        let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX);
        let room = Semaphore::try_acquire_many_owned(Arc::clone(&self.responses), kib).ok()?;
        // The connection drops the bytes once they are written, and with them their room.
        Some(Bytes::from_owner(HeldBytes { bytes, _room: room }))
    }

    /// Counts items that were refused before they reached the store.
    pub(crate) fn count_rejected(&self, items: usize) {
        self.rejected.fetch_add(items as u64, Ordering::Relaxed);
    }

    /// Items that were refused before they reached the store, since the start of the process.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Ordering::Relaxed)
    }
}

fn max_connections(config: &Config) -> usize {
    config.max_connections.get().min(Semaphore::MAX_PERMITS)
}

/// Bytes, and the room that is reserved for them.
struct HeldBytes {
    bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
