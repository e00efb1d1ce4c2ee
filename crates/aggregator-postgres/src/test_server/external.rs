//! A database that somebody else runs, against which tests can run as well.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};

use super::Address;

/// The variable that has its URL.
const URL: &str = "AGGREGATOR_TEST_POSTGRES";
/// The variable that has a shell command which ends a server of it as if it had crashed, and starts it again.
const CRASH: &str = "AGGREGATOR_TEST_POSTGRES_CRASH";

/// Waits until the process of the tests has ended, however it does. Then drops the schemas that begin with `$1`.
const CLEANER: &str = r#"
prefix=$1; shift
read -r _
"$@" -c "SELECT format('DROP SCHEMA IF EXISTS %I CASCADE;', nspname) FROM pg_namespace WHERE starts_with(nspname, '$prefix')" |
    "$@" -f - >/dev/null 2>&1
"#;

pub(super) struct External {
    pub(super) url: String,
    turn: Option<Turn>,
}

/// The schema `aggregator`, which one test of this process has at a time.
struct Turn;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static IS_FREE: Condvar = Condvar::new();

impl Turn {
    /// Waits until no other test has it.
    fn take() -> Self {
        let mut taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        while *taken {
            taken = IS_FREE.wait(taken).unwrap_or_else(PoisonError::into_inner);
        }
        *taken = true;
        Self
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        IS_FREE.notify_one();
    }
}

impl External {
    /// The one that the environment names.
    pub(super) fn named() -> Option<Self> {
        std::env::var(URL).ok().filter(|url| !url.is_empty()).map(|url| Self { url, turn: None })
    }

    /// Waits until no other test of this process has the schema `aggregator`, and makes it this one's.
    pub(super) fn take_schema(&mut self) {
        self.turn = Some(Turn::take());
    }

    /// Drops the schema `aggregator`, if it was this one's.
    pub(super) fn leave_schema(&mut self, mut psql: Command) {
        if self.turn.is_some() {
            psql.args(["-c", "DROP SCHEMA IF EXISTS aggregator CASCADE"]).stderr(Stdio::null());
            // If that fails, the next test says so.
            let _ = psql.status();
            self.turn = None;
        }
    }

    /// The URL for another role, which needs no password.
    pub(super) fn url_of(&self, role: &str) -> String {
        format!("postgres://{role}@{}", self.behind_role())
    }

    /// The host, the port if there is one, the database and options.
    fn behind_role(&self) -> &str {
        let (_, rest) = self.url.split_once("://").unwrap();
        rest.split_once('@').map_or(rest, |(_, rest)| rest)
    }

    pub(super) fn address(&self) -> Address {
        let host = self.behind_role().split(['/', '?']).next().unwrap();
        match host.strip_prefix("%2F") {
            Some(directory) => {
                Address::Socket(format!("/{}/.s.PGSQL.5432", directory.replace("%2F", "/")).into())
            }
            None if host.contains(':') => Address::Tcp(host.to_owned()),
            None => Address::Tcp(format!("{host}:5432")),
        }
    }

    pub(super) fn database(&self) -> String {
        let (_, database) = self.behind_role().split_once('/').unwrap();
        database.split('?').next().unwrap().to_owned()
    }

    /// Has the schemas that begin like this dropped when this process has ended.
    pub(super) fn drop_at_the_end(&self, psql: &Command, schemas: &str) {
        let mut cleaner = Command::new("/bin/sh");
        cleaner.args(["-c", CLEANER, "cleaner", schemas]);
        cleaner.arg(psql.get_program()).args(psql.get_args());
        cleaner.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        // Its input ends with the process.
        std::mem::forget(cleaner.spawn().unwrap());
    }

    pub(super) fn crash(&self) {
        let Ok(command) = std::env::var(CRASH) else { return };
        let status = Command::new("/bin/sh").args(["-c", &command]).stdin(Stdio::null()).status().unwrap();
        assert!(status.success(), "{CRASH}: {status}");
    }
}
