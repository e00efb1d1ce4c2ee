//! Other programs: where they are, and how they are run.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use tempfile::TempDir;

use crate::options::Options;
use crate::process::Memory;

/// The user id of `nobody`, for programs that refuse to run as root.
const NOBODY: u32 = 65_534;

/// Finds a program on the path, or where Debian keeps the programs of PostgreSQL.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    versions.sort();
    std::env::split_paths(&path)
        .chain(versions.into_iter().rev())
        .map(|directory| directory.join(program))
        .find(|program| program.is_file())
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// A command that runs as `nobody` if we are root. Its process id is that of the program.
pub(crate) fn unprivileged(program: &Path) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    let id = NOBODY.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).arg(program);
    command
}

/// Gives a directory to the user of [`unprivileged`].
pub(crate) fn hand_over(directory: &Path) -> anyhow::Result<()> {
    if is_root() {
        chown(directory, Some(NOBODY), Some(NOBODY)).with_context(|| format!("{}", directory.display()))?;
    }
    Ok(())
}

/// Runs a command to its end. If it fails, the error has its output.
pub(crate) fn run(name: &str, command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{name} cannot be started"))?;
    let told = [output.stdout, output.stderr].concat();
    ensure!(output.status.success(), "{name}: {}: {}", output.status, String::from_utf8_lossy(&told));
    Ok(())
}

/// Memory of a process and its children. Shared pages count once, unlike in the sum of the resident sizes.
pub(crate) fn tree_bytes(pid: u32) -> anyhow::Result<u64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut bytes =
        proportional_bytes(pid).map_or_else(|| Memory::of(pid).map(|memory| memory.resident), Ok)?;
    for child in children.split_whitespace() {
        bytes += tree_bytes(child.parse()?).unwrap_or(0);
    }
    Ok(bytes)
}

fn proportional_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// A directory for a Unix socket. The path of a socket may have no more than about a hundred bytes.
pub(crate) fn socket_directory(options: &Options) -> anyhow::Result<TempDir> {
    const LONGEST: usize = 70;
    // The work directory is always cleared in the end.
    let directory = match options.work.as_os_str().len() {
        0..=LONGEST => tempfile::tempdir_in(&options.work)?,
        _ => tempfile::tempdir()?,
    };
    hand_over(directory.path())?;
    Ok(directory)
}

/// A port that was free a moment ago, for programs that cannot choose one and report it.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
