//! What the system says about this process, from `/proc` (proc(5)). What cannot be read is left out.

use std::fs;

/// Ticks a second in the times of `/proc`. The kernel gives every program this number on all processors that the server is
/// built for, whatever it uses itself.
const TICKS_PER_SECOND: u64 = 100;

#[derive(Debug, Default, PartialEq)]
pub(super) struct Process {
    pub(super) resident_bytes: Option<u64>,
    pub(super) cpu_seconds: Option<f64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    /// Since 1970.
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let stat = text("/proc/self/stat");
        let started = field(&stat, 22).zip(boot_seconds(&text("/proc/stat")));
        Self {
            resident_bytes: resident_bytes(&text("/proc/self/status")),
            cpu_seconds: field(&stat, 14).zip(field(&stat, 15)).map(|(user, system)| seconds(user + system)),
            // One of them is open for this look.
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1)),
            max_fds: max_fds(&text("/proc/self/limits")),
            start_seconds: started.map(|(after, boot)| seconds(after + boot * TICKS_PER_SECOND)),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "ticks since 1970 have 38 bits")]
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND as f64
}

/// A field of `/proc/self/stat` by the number that proc(5) gives it. The name of the program, which is the second one, may
/// have anything in it but ends with the last parenthesis.
fn field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn boot_seconds(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn resident_bytes(status: &str) -> Option<u64> {
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(resident.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    limit.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn this_process_is_described() {
        let process = Process::read();
        assert!(process.resident_bytes.unwrap() > 1 << 20, "{process:?}");
        assert!(process.cpu_seconds.unwrap() >= 0.0, "{process:?}");
        assert!((3..process.max_fds.unwrap()).contains(&process.open_fds.unwrap()), "{process:?}");
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs_f64(process.start_seconds.unwrap());
        let age = SystemTime::now().duration_since(started).unwrap_or_default();
        assert!(age < Duration::from_secs(24 * 3600), "{process:?}");
    }

    #[test]
    fn a_name_with_anything_in_it_moves_no_field() {
        let stat = "7 (a) 1 b)) S 1 7 7 0 -1 4194560 1 2 3 4 150 250 0 0 20 0 1 0 4321 9 9";
        assert_eq!([14, 15, 22].map(|number| field(stat, number)), [Some(150), Some(250), Some(4321)]);
        assert_eq!(field("", 14), None);
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files"),
            None
        );
    }
}
