//! Refuses a store where its file system would lose what is acknowledged:
//!
//! * The main file alone is mounted, as containers do with a single file. Its log would be beside the mount, in another
//!   place: gone with the container, and the acknowledged events in it too.
//! * A network file system: its locks and its shared memory are not those that SQLite needs.
//! * An overlay that is mounted `volatile`: it omits every sync.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::StoreError;

/// The mount points of this process (`proc_pid_mountinfo(5)`).
const MOUNTS: &str = "/proc/self/mountinfo";

/// File systems whose files are on another machine, as the kernel names them. Behind `fuse.` are the names of programs.
const NETWORK: [&str; 23] = [
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "pvfs2",
    "smb3",
    "smbfs",
    "fuse.ceph",
    "fuse.glusterfs",
    "fuse.juicefs",
    "fuse.rclone",
    "fuse.s3fs",
    "fuse.sshfs",
];

/// Fails if `path`, which is absolute and without links, is a mount point. Where the kernel does not tell, it is none.
pub(super) fn refuse_mounted_file(path: &Path) -> Result<(), StoreError> {
    let Ok(mounts) = fs::read(MOUNTS) else { return Ok(()) };
    if !mounts_of(&mounts).any(|mount| mount.point == path.as_os_str().as_bytes()) {
        return Ok(());
    }
    let reason = format!(
        "{} is mounted as a single file, and its write-ahead log, which holds acknowledged events, would stay outside of \
         the mount: mount the directory that holds the file instead",
        path.display()
    );
    Err(StoreError::invalid("store", reason))
}

/// What is known of the file system of a store.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileSystem {
    /// Nothing against it.
    Sound,
    /// It can hold a store, but an operator should know this.
    Doubtful(String),
    /// It would lose what is acknowledged, for this reason.
    Unsafe(String),
}

impl FileSystem {
    /// Of `path`, which is absolute and without links, and need not exist.
    pub(super) fn of(path: &Path) -> Self {
        fs::read(MOUNTS).map_or(Self::Sound, |mounts| Self::among(&mounts, path))
    }

    fn among(mounts: &[u8], path: &Path) -> Self {
        let Some(mount) = mount_holding(mounts, path) else { return Self::Sound };
        let kind = String::from_utf8_lossy(mount.kind);
        let of = |what: &str| format!("{} is on {what}", path.display());
        if NETWORK.contains(&&*kind) {
            let network = of(&format!("a network file system ({kind})"));
            return Self::Unsafe(format!("{network}, whose locks and syncs SQLite cannot rely on"));
        }
        // Newer kernels say it in the second way.
        if kind == "overlay" && (mount.has_option("volatile") || mount.has_option("fsync=volatile")) {
            return Self::Unsafe(of("an overlay that is mounted volatile, and so omits every sync"));
        }
        if matches!(&*kind, "tmpfs" | "ramfs") {
            return Self::Doubtful(format!(
                "{}, and is lost when the machine ends",
                of(&format!("{kind}, in memory"))
            ));
        }
        if kind.starts_with("fuse") {
            let fuse = of(&format!("{kind}, a file system of a program"));
            return Self::Doubtful(format!("{fuse}: an event is as safe as that program syncs"));
        }
        Self::Sound
    }
}

/// File systems on which a file keeps its inode for as long as it lives, however often they are mounted.
const WITH_LASTING_INODES: [&str; 9] =
    ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "tmpfs", "xfs", "zfs"];

/// Whether the inodes of files beside `path`, which is absolute and without links, identify them for ever.
pub(super) fn has_lasting_inodes(path: &Path) -> bool {
    fs::read(MOUNTS).is_ok_and(|mounts| {
        let kind = mount_holding(&mounts, path).map(|mount| mount.kind.to_owned());
        kind.is_some_and(|kind| WITH_LASTING_INODES.iter().any(|known| known.as_bytes() == kind))
    })
}

/// The one that `path` lies in. What is mounted later on the same point hides what was there.
fn mount_holding<'m>(mounts: &'m [u8], path: &Path) -> Option<Mount<'m>> {
    mounts_of(mounts).filter(|mount| path.starts_with(mount.path())).max_by_key(|mount| mount.point.len())
}

/// A line of the mount points.
struct Mount<'m> {
    point: Vec<u8>,
    kind: &'m [u8],
    /// Those of the file system, separated by commas.
    options: &'m [u8],
}

impl Mount<'_> {
    fn path(&self) -> &Path {
        Path::new(std::ffi::OsStr::from_bytes(&self.point))
    }

    fn has_option(&self, name: &str) -> bool {
        self.options.split(|&byte| byte == b',').any(|option| option == name.as_bytes())
    }
}

fn mounts_of(mounts: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    mounts.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        let point = unescape(fields.nth(4)?);
        // A list of any length ends with a hyphen.
        let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, _source) = (behind.next()?, behind.next());
        Some(Mount { point, kind, options: behind.next().unwrap_or_default() })
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

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        23 22 0:21 / /proc rw,relatime shared:5 master:1 - proc proc rw\n\
        31 22 8:1 /srv/a.db /data/an\\040aggregator\\134.db rw - ext4 /dev/sda1 rw\n\
        40 22 0:40 / /nfs rw - nfs4 server:/export rw,vers=4.2\n\
        41 22 0:41 / /nfs/disk rw - xfs /dev/sdb rw\n\
        42 22 0:42 / /fast rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,volatile\n\
        49 22 0:49 / /faster rw - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w,uuid=on,fsync=volatile\n\
        43 22 0:43 / /layers rw - overlay overlay rw,lowerdir=/l,upperdir=/volatile,workdir=/w\n\
        44 22 0:44 / /memory rw - tmpfs tmpfs rw,size=1k\n\
        45 22 0:45 / /fuse rw - fuse.ntfs-3g /dev/sdc rw\n\
        46 22 0:46 / /ssh rw - fuse.sshfs host: rw\n\
        47 22 0:47 / /hidden rw - nfs server:/ rw\n\
        48 47 0:48 / /hidden rw - ext4 /dev/sdd rw\n";

    #[test]
    fn only_a_path_that_is_itself_mounted_is_a_mount_point() {
        let is_mounted = |path: &str| mounts_of(TABLE).any(|mount| mount.point == path.as_bytes());
        assert!(is_mounted("/data/an aggregator\\.db") && is_mounted("/proc"));
        for other in ["/data", "/data/an", "/proc/1", "/srv/a.db", ""] {
            assert!(!is_mounted(other), "{other}");
        }
    }

    #[test]
    fn a_file_system_that_loses_what_is_acknowledged_is_known() {
        let of = |path: &str| FileSystem::among(TABLE, Path::new(path));
        for sound in ["/a.db", "/nfs/disk/a.db", "/nfs-not/a.db", "/layers/a.db", "/hidden/a.db"] {
            assert_eq!(of(sound), FileSystem::Sound, "{sound}");
        }
        for (path, reason) in [
            ("/nfs/b/a.db", "/nfs/b/a.db is on a network file system (nfs4), "),
            ("/ssh/a.db", "/ssh/a.db is on a network file system (fuse.sshfs), "),
            ("/fast/a.db", "/fast/a.db is on an overlay that is mounted volatile, "),
            ("/faster/a.db", "/faster/a.db is on an overlay that is mounted volatile, "),
        ] {
            assert!(
                matches!(of(path), FileSystem::Unsafe(told) if told.starts_with(reason)),
                "{:?}",
                of(path)
            );
        }
        for path in ["/memory/a.db", "/fuse/a.db"] {
            assert!(matches!(of(path), FileSystem::Doubtful(_)), "{path}");
        }
        assert_eq!(FileSystem::among(b"", Path::new("/a.db")), FileSystem::Sound);
    }
}
