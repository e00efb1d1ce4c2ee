//! A database that somebody else runs, against which tests can run as well.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

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
}

impl External {
    /// The one that the environment names.
    pub(super) fn named() -> Option<Self> {
        std::env::var(URL).ok().filter(|url| !url.is_empty()).map(|url| Self { url })
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
