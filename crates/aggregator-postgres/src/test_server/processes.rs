//! Programs and processes that the tests run.

use std::fs;
use std::process::{Command, Stdio};

pub(super) fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

pub(super) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

pub(super) fn signal(signal: &str, processes: &[u32]) {
    // The shell has `kill` built in. Not every machine has the program.
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill \"$@\"", "kill"]);
    kill.arg(format!("-{signal}")).args(processes.iter().map(u32::to_string));
    // A process may have ended meanwhile, so failures are ignored.
    kill.stderr(Stdio::null()).status().unwrap();
}

pub(super) fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // The state and the parent follow the name, which ends with the last bracket.
    let parent_of = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    all.filter(|process| parent_of(process) == Some(parent)).collect()
}
