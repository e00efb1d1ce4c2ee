//! Sends the deliveries through a rival's clients, with a thread for each connection.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use crate::options::Options;
use crate::workload::{Row, TEMPLATE, Workload};

/// How many points a curve has.
pub(crate) const POINTS: u64 = 10;

/// A connection to a rival.
pub(crate) trait Client: Send {
    /// Delivers the events and returns how many were new. When it returns, they are as durable as the rival makes them,
    /// or will be once [`Self::finish`] has returned.
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64>;

    /// Waits for what is still under way. The clock runs meanwhile.
    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

impl Client for Box<dyn Client> {
    fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
        (**self).deliver(events)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        (**self).finish()
    }
}

/// A batch of rendered events.
pub(crate) struct Events(Vec<u8>);

impl Events {
    fn new(count: usize) -> Self {
        Self(TEMPLATE.repeat(count))
    }

    fn render(&mut self, workload: &Workload, first: u64) {
        for (n, event) in (first..).zip(self.0.chunks_mut(TEMPLATE.len())) {
            workload.render(workload.identity(n), event);
        }
    }

    pub(crate) fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.json().map(Row::of)
    }

    pub(crate) fn json(&self) -> impl Iterator<Item = &[u8]> {
        self.0.chunks(TEMPLATE.len())
    }
}

/// The result of driving a rival.
pub(crate) struct Driven {
    pub(crate) deliveries: u64,
    pub(crate) stored: u64,
    pub(crate) seconds: f64,
    /// Whether the time limit ended it.
    pub(crate) cut_short: bool,
    /// (deliveries made, seconds since the start), ascending.
    pub(crate) points: Vec<(u64, f64)>,
}

/// Delivers as many events as asked for, or as the time limit allows.
pub(crate) fn drive<C: Client>(
    options: &Options,
    workload: &Workload,
    batch: u64,
    clients: &mut [C],
) -> anyhow::Result<Driven> {
    let limit = Duration::from_secs(options.rival_seconds().into());
    let total = options.rivals_events() / batch * batch;
    let (next, stored) = (AtomicU64::new(0), AtomicU64::new(0));
    let points = Mutex::new((0, Vec::new()));
    let started = Instant::now();
    let deliver = |client: &mut C| -> anyhow::Result<()> {
        let mut events = Events::new(usize::try_from(batch)?);
        // A batch that a thread has claimed is always delivered, so the deliveries have no gap.
        while started.elapsed() < limit {
            let first = next.fetch_add(batch, Ordering::Relaxed);
            if first >= total {
                break;
            }
            events.render(workload, first);
            stored.fetch_add(client.deliver(&events)?, Ordering::Relaxed);
            let mut points = points.lock().unwrap_or_else(PoisonError::into_inner);
            points.0 += batch;
            let made = points.0;
            points.1.push((made, started.elapsed().as_secs_f64()));
        }
        client.finish()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = clients.iter_mut().map(|client| scope.spawn(|| deliver(client))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a client panicked"))?)
    })?;
    let seconds = started.elapsed().as_secs_f64();
    let (deliveries, points) = points.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(Driven { deliveries, stored: stored.into_inner(), seconds, cut_short: deliveries < total, points })
}

impl Driven {
    /// Checks that exactly the new events were stored, or all of them where nothing recognizes repeats.
    pub(crate) fn check(&self, workload: &Workload, has_dedup: bool) -> anyhow::Result<()> {
        let expected = if has_dedup { workload.identities(self.deliveries) } else { self.deliveries };
        ensure!(self.stored == expected, "{} events were stored, and not {expected}", self.stored);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub(crate) fn rate(&self) -> f64 {
        self.deliveries as f64 / self.seconds
    }

    /// Deliveries per second between two shares of all deliveries.
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
    pub(crate) fn rate_between(&self, from: f64, to: f64) -> f64 {
        self.deliveries as f64 * (to - from) / (self.seconds_at(to) - self.seconds_at(from))
    }

    /// When this share of all deliveries was made, interpolated linearly between two points.
    #[expect(clippy::cast_precision_loss, reason = "a time needs no 53 bits")]
    fn seconds_at(&self, share: f64) -> f64 {
        let made = self.deliveries as f64 * share;
        let place = self.points.partition_point(|&(deliveries, _)| (deliveries as f64) < made);
        let point = |place: usize| self.points.get(place).copied().unwrap_or((self.deliveries, self.seconds));
        let (after, before) = (point(place), if place == 0 { (0, 0.0) } else { point(place - 1) });
        if after.0 == before.0 {
            return after.1;
        }
        before.1 + (after.1 - before.1) * (made - before.0 as f64) / (after.0 - before.0) as f64
    }

    /// (deliveries, deliveries per second since the point before).
    pub(crate) fn curve(&self) -> Vec<(u64, f64)> {
        #[expect(clippy::cast_precision_loss, reason = "a share needs no 53 bits")]
        let share = |point: u64| point as f64 / POINTS as f64;
        let point = |n: u64| (self.deliveries * (n + 1) / POINTS, self.rate_between(share(n), share(n + 1)));
        (0..POINTS).map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::workload::RECENT;

    #[test]
    fn a_rate_is_that_of_its_section_however_far_apart_the_points_lie() {
        let points = vec![(10, 1.0), (20, 3.0)];
        let driven = Driven { deliveries: 20, stored: 16, seconds: 3.0, cut_short: false, points };
        assert_eq!(driven.rate_between(0.0, 0.1), 10.0);
        assert_eq!(driven.rate_between(0.0, 0.5), 10.0);
        assert_eq!(driven.rate_between(0.9, 1.0), 5.0);
        assert_eq!(driven.curve().len(), 10);
    }

    #[test]
    fn a_line_without_dedup_must_have_stored_every_delivery_and_one_with_it_only_the_new_ones() {
        let workload = Workload::new(1, RECENT, 4_u16);
        let driven =
            |stored| Driven { deliveries: 500, stored, seconds: 1.0, cut_short: false, points: Vec::new() };
        driven(400).check(&workload, true).unwrap();
        driven(500).check(&workload, false).unwrap();
        for (stored, has_dedup) in [(401, true), (500, true), (400, false), (501, false)] {
            assert!(driven(stored).check(&workload, has_dedup).is_err(), "{stored} {has_dedup}");
        }
    }

    #[test]
    fn every_client_is_waited_for_at_the_end() {
        struct Counting<'a>(&'a AtomicU64);
        impl Client for Counting<'_> {
            fn deliver(&mut self, events: &Events) -> anyhow::Result<u64> {
                Ok(events.json().count() as u64)
            }

            fn finish(&mut self) -> anyhow::Result<()> {
                self.0.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
        }
        let options = "aggregator-bench --server s --work w --out o --rivals-events 10000";
        let options = Options::parse_from(options.split(' '));
        let finished = AtomicU64::new(0);
        let mut clients = [Counting(&finished), Counting(&finished)];
        let driven = drive(&options, &Workload::new(1, RECENT, 4_u16), 100, &mut clients).unwrap();
        assert_eq!((driven.deliveries, driven.stored, finished.into_inner()), (10_000, 10_000, 2));
    }
}
