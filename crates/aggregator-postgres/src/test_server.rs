//! A private PostgreSQL for tests, made with the programs that are installed.
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

/// A server on a Unix socket, of which the superuser is `aggregator`. It goes with the process, however that ends.
pub struct TestServer {
    programs: PathBuf,
    directory: PathBuf,
    settings: Vec<String>,
    running: Option<Child>,
    frozen: bool,
    /// Deletes the directory; that of the shared server, which is never dropped, goes with the supervisor.
    _owned: Option<TempDir>,
}

/// Who runs the server while the tests run as root, which PostgreSQL refuses.
const NOBODY: (&str, &str, u32) = ("nobody", "nogroup", 65_534);

/// Waits for a word on its input: the signal to stop the server with. Without one, the test process is gone, and
/// so is the server then, with its files.
const SUPERVISOR: &str = r#"
"$@" & server=$!
read -r signal
kill -"${signal:-QUIT}" "$server" 2>/dev/null
kill -CONT "$server" 2>/dev/null
wait "$server"
if [ -z "$signal" ]; then rm -rf "$DIRECTORY"; fi
"#;

impl TestServer {
    /// The server that the tests of this process share; `None` where no PostgreSQL is installed, which is said, and
    /// fails if `AGGREGATOR_REQUIRE_POSTGRES` is 1.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<TestServer> = OnceLock::new();
        // Asked by every test, so that each one that is skipped says so.
        let programs = programs_or_skip()?;
        Some(SHARED.get_or_init(|| Self::start_with(programs, &[])))
    }

    /// A server of one's own with these settings besides; `None` as for [`Self::shared`].
    ///
    /// # Panics
    /// If it cannot be started.
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

    /// A standby of `self` with these settings besides.
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

    /// Where to connect to, as the superuser.
    pub fn url(&self) -> String {
        self.url_of("aggregator")
    }

    /// Where to connect to, as this role.
    pub fn url_of(&self, role: &str) -> String {
        let directory = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{directory}/postgres")
    }

    /// Runs SQL, and returns what it says: rows in lines, columns apart by `|`.
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

    /// Stops it as if it had crashed, and starts it again.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restart(&mut self) {
        self.stop("QUIT");
        self.launch();
    }

    /// Has it keep sums of its pages from now on, for which it is stopped and started again.
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

    /// Stops it with a signal: `INT` in order, `QUIT` at once.
    ///
    /// # Panics
    /// If it was stopped already.
    pub fn stop(&mut self, signal: &str) {
        if self.frozen {
            self.thaw();
        }
        let mut supervisor = self.running.take().unwrap();
        writeln!(supervisor.stdin.take().unwrap(), "{signal}").unwrap();
        supervisor.wait().unwrap();
    }

    /// Stops all its processes where they are. The kernel still takes connections, which nobody answers: so
    /// looks a machine that hangs.
    ///
    /// # Panics
    /// If there is none.
    pub fn freeze(&mut self) {
        self.frozen = true;
        // The one that makes the others first.
        let main = self.main_process();
        signal("STOP", &[main]);
        signal("STOP", &children(main));
    }

    /// Lets it go on after [`Self::freeze`].
    ///
    /// # Panics
    /// If there is none.
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

    /// Starts it.
    ///
    /// # Panics
    /// If it does not.
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
        // Its last line is the state: `ready`, or `standby`.
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
        // Should the supervisor itself be killed.
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

/// As small as it goes; durable, since stores refuse one that is not.
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
    // The shell's own: a machine need not have it as a program.
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", "kill \"$@\"", "kill"]);
    kill.arg(format!("-{signal}")).args(processes.iter().map(u32::to_string));
    // One that ended meanwhile is none to be stopped.
    kill.stderr(Stdio::null()).status().unwrap();
}

fn children(parent: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Behind the name, which ends with the last bracket, come the state and the parent.
    let parent_of = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok()
    };
    all.filter(|process| parent_of(process) == Some(parent)).collect()
}

/// Names the directory with a directory per version, where it is not the usual one.
const VERSIONS: &str = "AGGREGATOR_POSTGRES_VERSIONS";

/// Where PostgreSQL's programs are. Where there are none, the test is skipped.
fn programs_or_skip() -> Option<PathBuf> {
    let programs = programs();
    if programs.is_none() {
        test_skip::skip("no PostgreSQL is installed", "AGGREGATOR_REQUIRE_POSTGRES");
    }
    programs
}

/// Where PostgreSQL's programs are: those of the newest version.
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
