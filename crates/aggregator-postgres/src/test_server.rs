//! A private PostgreSQL server for tests. It runs the programs that are installed.
#![expect(clippy::unwrap_used, reason = "this is test code")]

mod external;
mod processes;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use self::external::External;
use self::processes::{children, is_root, run, signal};

/// A server on a Unix socket, with the superuser `aggregator`. It ends with the test process, however that ends.
///
/// If the variable `AGGREGATOR_TEST_POSTGRES` has the URL of a database, [`Self::shared`] is that database. Tests use schemas
/// of their own there, named `test_…`, and drop them in the end.
pub struct TestServer {
    programs: PathBuf,
    directory: PathBuf,
    external: Option<External>,
    settings: Vec<String>,
    running: Option<Child>,
    frozen: bool,
    /// Deletes the directory. The shared server is never dropped, and its supervisor deletes the directory.
    _owned: Option<TempDir>,
}

/// Where a server listens.
#[derive(Debug, Clone)]
pub enum Address {
    /// On a Unix socket with this path.
    Socket(PathBuf),
    /// There, as `host:port`.
    Tcp(String),
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
        Some(SHARED.get_or_init(|| match External::named() {
            Some(external) => Self::external(programs, external),
            None => Self::start_with(programs, &[]),
        }))
    }

    /// [`Self::shared`], for a test that looks into a PostgreSQL server of ours. Where the tests run against another
    /// database, the test is reported as skipped.
    ///
    /// # Panics
    /// As [`Self::shared`].
    pub fn shared_own() -> Option<&'static Self> {
        let server = Self::shared()?;
        if server.external.is_some() {
            // Not required by anybody: the test runs where the variable is not set.
            test_skip::skip("it needs a PostgreSQL server of its own", "AGGREGATOR_REQUIRE_OWN_POSTGRES");
            return None;
        }
        Some(server)
    }

    /// A server for the caller alone, or the database of `AGGREGATOR_TEST_POSTGRES`, for a store in the schema `aggregator`,
    /// which one test has at a time and which is dropped in the end.
    ///
    /// # Panics
    /// As [`Self::shared`], and if that database has such a schema: it may be somebody's store.
    pub fn start_or_external() -> Option<Self> {
        let programs = programs_or_skip()?;
        let Some(mut external) = External::named() else { return Some(Self::start_with(programs, &[])) };
        external.take_schema();
        let server = Self::external(programs, external);
        let found = server.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'aggregator'");
        assert_eq!(
            found, "0",
            "the database has a schema aggregator: DROP SCHEMA aggregator CASCADE if it is not needed"
        );
        server.external.iter().for_each(|it| it.drop_at_the_end(&server.psql(), "aggregator"));
        Some(server)
    }

    fn external(programs: PathBuf, external: External) -> Self {
        let server = Self {
            programs,
            directory: PathBuf::new(),
            external: Some(external),
            settings: Vec::new(),
            running: None,
            frozen: false,
            _owned: None,
        };
        server
            .external
            .iter()
            .for_each(|external| external.drop_at_the_end(&server.psql(), &Self::schemas()));
        server
    }

    /// How the names of schemas of this process begin.
    pub fn schemas() -> String {
        format!("test_{}_", std::process::id())
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
        Self {
            programs,
            directory,
            external: None,
            settings,
            running: None,
            frozen: false,
            _owned: Some(owned),
        }
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
        if let Some(external) = &self.external {
            return if role == "aggregator" { external.url.clone() } else { external.url_of(role) };
        }
        let directory = self.directory.to_str().unwrap().replace('/', "%2F");
        format!("postgres://{role}@{directory}/postgres")
    }

    /// Where it listens.
    pub fn address(&self) -> Address {
        match &self.external {
            Some(external) => external.address(),
            None => Address::Socket(self.directory.join(".s.PGSQL.5432")),
        }
    }

    /// The name of the database.
    pub fn database(&self) -> String {
        self.external.as_ref().map_or_else(|| "postgres".to_owned(), External::database)
    }

    /// Runs SQL and returns its rows: one per line, with columns separated by `|`.
    ///
    /// # Panics
    /// If it fails.
    pub fn sql(&self, sql: &str) -> String {
        let mut psql = self.psql();
        let output = psql.args(["-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A client that is connected to the server.
    pub fn psql(&self) -> Command {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.arg("-XAtq");
        if let Some(external) = &self.external {
            psql.args(["-d", &external.url]);
            return psql;
        }
        let port = self.settings.iter().find_map(|setting| setting.strip_prefix("port="));
        psql.args(["-U", "aggregator", "-d", "postgres", "-p", port.unwrap_or("5432")]);
        psql.arg("-h").arg(&self.directory);
        psql
    }

    /// Stops the server as if it had crashed, and starts it again. A database of somebody else does so if
    /// `AGGREGATOR_TEST_POSTGRES_CRASH` has a command for it, and otherwise stays as it is.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn restart(&mut self) {
        if let Some(external) = &self.external {
            external.crash();
            return;
        }
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
        let psql = self.psql();
        if let Some(external) = &mut self.external {
            external.leave_schema(psql);
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
