//! Warns if the clock of this machine cannot be right.
//!
//! A store never lets `processed_at` go back. If the clock was ahead for a moment, every new event gets that time until the
//! clock has passed it, which can take decades. Nothing is lost, but without a warning nobody would notice.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aggregator_core::Timestamp;
use tracing::{info, warn};

use crate::fair::Flow;
use crate::read_pool::ReadPool;

/// The clocks of machines with NTP differ by less.
const TOLERATED: Duration = Duration::from_secs(60);

/// How long a jump of the clock stays unnoticed.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How often the warning is repeated.
const WARN_EVERY: Duration = Duration::from_secs(3600);

/// The first second of the year 10000, since 1970.
const END_OF_DATES: Duration = Duration::from_secs(253_402_300_800);

/// Refuses a clock that HTTP has no date for (RFC 9110, section 5.6.7), because every answer carries a date.
///
/// # Errors
/// Says what is wrong with it.
pub fn check(now: SystemTime) -> Result<(), String> {
    let wrong = match now.duration_since(UNIX_EPOCH) {
        Ok(time) if time < END_OF_DATES => return Ok(()),
        Ok(_) => "after the year 9999",
        Err(_) => "before the year 1970",
    };
    Err(format!("the clock of this machine says a time {wrong}: set the clock, and start again"))
}

/// How far the newest `processed_at` of a store is ahead of the clock.
pub(crate) fn ahead(newest: Option<Timestamp>, now: Timestamp) -> Duration {
    let micros = newest.map_or(0, |newest| newest.as_micros() - now.as_micros());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Warns as long as the store is ahead of the clock. Never returns.
pub(crate) async fn watch(reads: &ReadPool) {
    let mut warning = AheadWarning(None);
    loop {
        // If the store cannot be read, that is logged elsewhere.
        if let Ok(stats) = reads.run(Flow::EVERYBODY, |store| store.stats()).await {
            warning.update(stats.newest_processed_at, Timestamp::now(), Instant::now());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// When the last warning was logged; `None` while there is nothing to warn of.
struct AheadWarning(Option<Instant>);

impl AheadWarning {
    fn update(&mut self, newest: Option<Timestamp>, clock: Timestamp, at: Instant) {
        let ahead = ahead(newest, clock);
        if ahead <= TOLERATED {
            if self.0.take().is_some() {
                info!("the clock has passed the newest processed_at of the store");
            }
            return;
        }
        if self.0.is_some_and(|last| at.duration_since(last) < WARN_EVERY) {
            return;
        }
        self.0 = Some(at);
        let newest = newest.map(|newest| newest.to_string());
        warn!(
            newest_processed_at = newest,
            %clock,
            ahead_seconds = ahead.as_secs(),
            "the newest processed_at of the store is ahead of this machine's clock, and new events get it until the \
             clock has passed it: either the clock is wrong now, or it was when that event was stored"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::logged;

    #[test]
    fn a_clock_that_http_has_no_date_for_is_refused() {
        let second = Duration::from_secs(1);
        for good in [UNIX_EPOCH, SystemTime::now(), UNIX_EPOCH + END_OF_DATES - second] {
            check(good).unwrap();
        }
        assert!(check(UNIX_EPOCH - second).unwrap_err().contains("before the year 1970"));
        assert!(check(UNIX_EPOCH + END_OF_DATES).unwrap_err().contains("after the year 9999"));
    }

    #[test]
    fn a_store_that_has_no_event_or_an_older_one_is_not_ahead() {
        let at = Timestamp::from_micros;
        assert_eq!(ahead(None, at(7)), Duration::ZERO);
        assert_eq!(ahead(Some(at(5)), at(7)), Duration::ZERO);
        assert_eq!(ahead(Some(at(7)), at(5)), Duration::from_micros(2));
        assert_eq!(ahead(Some(Timestamp::MIN), at(i64::MAX)), Duration::ZERO);
        assert!(ahead(Some(at(i64::MAX)), Timestamp::MIN) > Duration::from_secs(9_000 * 365 * 86_400));
    }

    #[test]
    fn a_store_that_is_ahead_is_warned_of_once_an_hour_until_the_clock_has_passed_it() {
        let start = Instant::now();
        let newest: Timestamp = "2060-01-01T00:00:00Z".parse().unwrap();
        let clock: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let mut warning = AheadWarning(None);
        let mut at = |clock, minutes: u64| {
            logged(|| warning.update(Some(newest), clock, start + Duration::from_secs(60 * minutes)))
        };
        let first = at(clock, 0);
        assert!(first.len() == 1 && first[0].contains("WARN"), "{first:?}");
        for part in ["2060-01-01T00:00:00.000000Z", "2030-01-01T00:00:00.000000Z", "ahead_seconds=946684800"]
        {
            assert!(first[0].contains(part), "{first:?}");
        }
        assert!(at(clock, 1).is_empty() && at(clock, 59).is_empty());
        assert_eq!(at(clock, 60).len(), 1);
        let last = at(newest, 61);
        assert!(last.len() == 1 && last[0].contains("INFO"), "{last:?}");
        assert!(at(newest, 62).is_empty());
        assert_eq!(at(clock, 63).len(), 1, "it has jumped back");
    }

    #[test]
    fn clocks_of_several_nodes_may_differ_a_little() {
        let tolerated = i64::try_from(TOLERATED.as_micros()).unwrap();
        let (clock, start) = (Timestamp::from_micros(0), Instant::now());
        let tell =
            |micros| logged(|| AheadWarning(None).update(Some(Timestamp::from_micros(micros)), clock, start));
        assert!(tell(tolerated).is_empty());
        assert_eq!(tell(tolerated + 1).len(), 1);
    }
}
