//! A private PostgreSQL server for tests. It runs the programs that are installed.
#![expect(clippy::unwrap_used, reason = "this is test code")]

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A server on a Unix socket, with the superuser `aggregator`. It ends with the test process, however that ends.
pub struct TestServer {
    programs: PathBuf,
    directory: PathBuf,
    settings: Vec<String>,
    running: Option<Child>,
    frozen: bool,
    /// Deletes the directory. The shared server is never dropped, and its supervisor deletes the directory.
    _owned: Option<TempDir>,
}

/// The user that runs the server if the tests run as root, because PostgreSQL refuses root.
const NOBODY: (&str, &str, u32) = ("nobody", "nogroup", 65_534);

/// A shell script that runs the server. It reads the name of the signal to stop the server with. If its input ends
/// without one, the test process is gone, and the script also deletes the server's files.
const SUPERVISOR: &str = r#"
"$@" & server=$!
read -r signal
kill -"${signal:-QUIT}" "$server" 2>/dev/null
kill -CONT "$server" 2>/dev/null
wait "$server"
if [ -z "$signal" ]; then rm -rf "$DIRECTORY"; fi
"#;

impl TestServer {
    /// The server that the tests of this process share. If no PostgreSQL is installed, the test is reported as skipped
    /// and gets `None`.
    ///
    /// # Panics
    /// If it cannot be started, or if `AGGREGATOR_REQUIRE_POSTGRES` is 1 and no PostgreSQL is installed.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<TestServer> = OnceLock::new();
        // Every test looks for the programs, so that each skipped test is reported.
        let programs = programs_or_skip()?;
        Some(SHARED.get_or_init(|| Self::start_with(programs, &[])))
    }

    /// A server for the caller alone, with these settings added; `None` as for [`Self::shared`].
    ///
    /// # Panics
    /// As [`Self::shared`].
    pub fn start(settings: &[&str]) -> Option<Self> {
        Some(Self::start_with(programs_or_skip()?, settings))
    }

    fn start_with(programs: PathBuf, settings: &[&str]) -> Self {
        let mut server = Self::prepare(programs, settings);
        let data = server.directory.join("data");
        let mut initdb = server.program("initdb");
        initdb.arg("-D").arg(&data).args(["-U", "aggregator", "-A", "trust", "-E", "UTF8"]);
        run(initdb.args(["--locale", "C", "--no-sync"]));
        server.launch();
        server
    }

    /// A standby of `self`, with these settings added.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn standby(&self, settings: &[&str]) -> Self {
        let mut standby = Self::prepare(self.programs.clone(), settings);
        let mut copy = standby.program("pg_basebackup");
        copy.arg("-D").arg(standby.directory.join("data")).arg("-h").arg(&self.directory);
        run(copy.args(["-U", "aggregator", "-X", "stream", "-c", "fast", "-R", "--no-sync"]));
        standby.launch();
        standby
    }

    fn prepare(programs: PathBuf, settings: &[&str]) -> Self {
        let owned = tempfile::Builder::new().prefix("pg-").tempdir().unwrap();
        let directory = owned.path().to_owned();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        if is_root() {
            chown(&directory, Some(NOBODY.2), Some(NOBODY.2)).unwrap();
        }
        let settings = settings.iter().map(|&setting| setting.to_owned()).collect();
        Self { programs, directory, settings, running: None, frozen: false, _owned: Some(owned) }
    }

    /// The directory of its socket.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The URL to connect to as the superuser.
    pub fn url(&self) -> String {
        self.url_of("aggregator")
    }

    /// The URL to connect to as this role.
    pub fn url_of(&self, role: &str) -> String {
        let directory = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{directory}/postgres")
    }

    /// Runs SQL and returns its rows: one per line, with columns separated by `|`.
    ///
    /// # Panics
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "aggregator", "-d", "postgres", "-c", sql]);
        let port = self.settings.iter().find_map(|setting| setting.strip_prefix("port="));
        let output =
            psql.args(["-p", port.unwrap_or("5432")]).arg("-h").arg(&self.directory).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Stops the server as if it had crashed, and starts it again.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restart(&mut self) {
        self.stop("QUIT");
        self.launch();
    }

    /// Turns the checksums of pages on, for which the server is stopped and started again.
    ///
    /// # Panics
    /// If that fails.
    pub fn enable_checksums(&mut self) {
        self.stop("INT");
        run(self
            .program("pg_checksums")
            .args(["--enable", "--no-sync", "-D"])
            .arg(self.directory.join("data")));
        self.launch();
    }

    /// Stops the server with a signal: `INT` shuts it down in order, `QUIT` ends it at once.
    ///
    /// # Panics
    /// If the server is not running.
    pub fn stop(&mut self, signal: &str) {
        if self.frozen {
            self.thaw();
        }
        let mut supervisor = self.running.take().unwrap();
        writeln!(supervisor.stdin.take().unwrap(), "{signal}").unwrap();
        supervisor.wait().unwrap();
    }

    /// Freezes all processes of the server. The kernel still accepts connections, but nobody answers, as on a machine
    /// that hangs.
    ///
    /// # Panics
    /// If the server is not running.
    pub fn freeze(&mut self) {
        self.frozen = true;
        // First the main process, so that it starts no others.
        let main = self.main_process();
        signal("STOP", &[main]);
        signal("STOP", &children(main));
    }

    /// Continues the processes after [`Self::freeze`].
    ///
    /// # Panics
    /// If the server is not running.
    pub fn thaw(&mut self) {
        self.frozen = false;
        let main = self.main_process();
        signal("CONT", &children(main));
        signal("CONT", &[main]);
    }

    fn main_process(&self) -> u32 {
        let written = fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap();
        written.lines().next().unwrap().parse().unwrap()
    }

    /// Starts the server.
    ///
    /// # Panics
    /// If it does not start.
    pub fn launch(&mut self) {
        let (data, log) = (self.directory.join("data"), self.directory.join("log"));
        let mut postgres = self.program("postgres");
        postgres.arg("-D").arg(&data).arg("-k").arg(&self.directory);
        for setting in DEFAULT_SETTINGS.iter().copied().chain(self.settings.iter().map(String::as_str)) {
            postgres.args(["-c", setting]);
        }
        let mut supervisor = Command::new("/bin/sh");
        supervisor
            .args(["-c", SUPERVISOR, "supervisor"])
            .arg(postgres.get_program())
            .args(postgres.get_args());
        supervisor.env("DIRECTORY", &self.directory).current_dir(&self.directory).process_group(0);
        let log = File::options().create(true).append(true).open(&log).unwrap();
        supervisor.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.running = Some(supervisor.spawn().unwrap());
        self.await_ready();
    }

    fn await_ready(&self) {
        let until = Instant::now() + Duration::from_secs(60);
        // The eighth line of the file is the state: `ready`, or `standby`.
        let state = || fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap_or_default();
        while !state().lines().nth(7).is_some_and(|state| matches!(state.trim(), "ready" | "standby")) {
            let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            assert!(Instant::now() < until, "PostgreSQL does not start: {}", log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = Command::new("setpriv");
        // In case the supervisor itself is killed.
        command.args(["--pdeathsig", "KILL"]);
        if is_root() {
            command.args(["--reuid", NOBODY.0, "--regid", NOBODY.1, "--clear-groups"]);
        }
        command.arg("--").arg(program).current_dir(&self.directory);
        command
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if self.running.is_some() {
            self.stop("QUIT");
        }
    }
}

/// A small server, but a durable one: stores refuse one that is not.
const DEFAULT_SETTINGS: [&str; 6] = [
    "listen_addresses=",
    "shared_buffers=64MB",
    "max_connections=200",
    "wal_level=replica",
    "log_min_messages=warning",
    "autovacuum_naptime=10s",
];

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

fn signal(signal: &str, processes: &[u32]) {
    // The shell has `kill` built in. Not every machine has the program.
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill \"$@\"", "kill"]);
    kill.arg(format!("-{signal}")).args(processes.iter().map(u32::to_string));
    // A process may have ended meanwhile, so failures are ignored.
    kill.stderr(Stdio::null()).status().unwrap();
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // The state and the parent follow the name, which ends with the last bracket.
    let parent_of = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    all.filter(|process| parent_of(process) == Some(parent)).collect()
}

/// The variable that names the directory with one directory per version, if it is not the usual one.
const VERSIONS: &str = "AGGREGATOR_POSTGRES_VERSIONS";

/// The directory of PostgreSQL's programs. If there is none, reports the test as skipped.
fn programs_or_skip() -> Option<PathBuf> {
    let programs = programs();
    if programs.is_none() {
        test_skip::skip("no PostgreSQL is installed", "AGGREGATOR_REQUIRE_POSTGRES");
    }
    programs
}

/// The directory of PostgreSQL's programs, of the newest version.
fn programs() -> Option<PathBuf> {
    let versions = std::env::var_os(VERSIONS).unwrap_or_else(|| "/usr/lib/postgresql".into());
    let installed = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut installed: Vec<_> = installed.map(|version| version.path().join("bin")).collect();
    installed.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path = std::env::split_paths(&path).collect::<Vec<_>>();
    let complete =
        |directory: &PathBuf| ["initdb", "postgres", "psql"].iter().all(|name| directory.join(name).exists());
    installed.into_iter().rev().chain(on_path).find(complete)
}
