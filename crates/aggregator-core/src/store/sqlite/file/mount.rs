//! Refuses a store whose main file alone is mounted, as containers do with a single file. Its log would be beside the
//! mount, in another place: gone with the container, and the acknowledged events in it too.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::StoreError;

/// The mount points of this process (`proc_pid_mountinfo(5)`).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Fails if `path`, which is absolute and without links, is a mount point. Where the kernel does not tell, it is none.
pub(super) fn refuse_mounted_file(path: &Path) -> Result<(), StoreError> {
    let Ok(mounts) = fs::read(MOUNTS) else { return Ok(()) };
    if !is_mount_point(&mounts, path) {
        return Ok(());
    }
    let reason = format!(
        "{} is mounted as a single file, and its write-ahead log, which holds acknowledged events, would stay outside of \
         the mount: mount the directory that holds the file instead",
        path.display()
    );
    Err(StoreError::invalid("store", reason))
}

fn is_mount_point(mounts: &[u8], path: &Path) -> bool {
    let path = path.as_os_str().as_bytes();
    mounts.split(|&byte| byte == b'\n').any(|line| {
        line.split(|&byte| byte == b' ').nth(4).is_some_and(|mount_point| unescape(mount_point) == path)
    })
}

/// The kernel writes a space, a tab, a line feed and a backslash as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = match after {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'))
            }
            _ => None,
        };
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_path_that_is_itself_mounted_is_a_mount_point() {
        let mounts = b"23 28 0:21 / /proc rw,relatime shared:5 - proc proc rw\n\
            31 28 8:1 /srv/a.db /data/an\\040aggregator\\134.db rw - ext4 /dev/sda1 rw\n";
        assert!(is_mount_point(mounts, Path::new("/data/an aggregator\\.db")));
        assert!(is_mount_point(mounts, Path::new("/proc")));
        for other in ["/data", "/data/an", "/proc/1", "/srv/a.db", ""] {
            assert!(!is_mount_point(mounts, Path::new(other)), "{other}");
        }
    }
}
