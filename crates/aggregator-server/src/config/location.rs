//! Which store is meant, and where it is.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use aggregator_core::Partitions;
#[cfg(feature = "postgres")]
use aggregator_postgres::PostgresUrl;

/// Which store, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreLocation {
    /// `sqlite:PATH`
    Sqlite(PathBuf),
    /// `sqlite:DIRECTORY?shards=N`: N files in this directory, which are one store
    SqliteShards {
        /// Where the files are.
        directory: PathBuf,
        /// How many there are.
        shards: u16,
    },
    /// `postgres://…`, or `postgresql://…`; shown without its password
    #[cfg(feature = "postgres")]
    Postgres(PostgresUrl),
    /// Several such URLs with spaces between them: databases that are one store. A URL has no space in it, but it may have
    /// commas, between its hosts. Unlike a repeated option, one value can be given in the environment as well
    #[cfg(feature = "postgres")]
    PostgresShards(Vec<PostgresUrl>),
    /// `memory:`, or `memory:N` with that many partitions
    Memory(Partitions),
}

/// How many files one store may have.
const SHARDS: RangeInclusive<u16> = 2..=16;
const EXAMPLE: &str = "sqlite:data/aggregator.db";
#[cfg(feature = "postgres")]
const OTHERS: &str = "postgres://USER@HOST/DATABASE or memory:";
#[cfg(not(feature = "postgres"))]
const OTHERS: &str = "or memory: (this program was built without the feature `postgres`)";

impl StoreLocation {
    /// The same location, with the whole path of a file.
    #[must_use]
    pub fn resolved(&self) -> Self {
        match self {
            Self::Sqlite(path) => Self::Sqlite(path.canonicalize().unwrap_or_else(|_| path.clone())),
            Self::SqliteShards { directory, shards } => Self::SqliteShards {
                directory: directory.canonicalize().unwrap_or_else(|_| directory.clone()),
                shards: *shards,
            },
            other => other.clone(),
        }
    }

    /// The files that the store is in; none if it is in no file.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        match self {
            Self::Sqlite(path) => vec![path.clone()],
            Self::SqliteShards { directory, shards } => {
                (0..*shards).map(|index| directory.join(format!("shard-{index}.db"))).collect()
            }
            _ => Vec::new(),
        }
    }
}

impl FromStr for StoreLocation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            if let Some((directory, shards)) = path.rsplit_once("?shards=") {
                return sqlite_shards(directory, shards);
            }
            return mistake(path).map_or_else(|| Ok(Self::Sqlite(path.into())), Err);
        }
        if let Some(partitions) = text.strip_prefix("memory:") {
            if partitions.is_empty() {
                return Ok(Self::Memory(Partitions::ONE));
            }
            let partitions = partitions.parse().ok().and_then(Partitions::new);
            return partitions
                .map(Self::Memory)
                .ok_or_else(|| "must have 1 to 1024 partitions, such as memory:4".into());
        }
        #[cfg(feature = "postgres")]
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return match &text.split_whitespace().collect::<Vec<_>>()[..] {
                [url] => url.parse().map(Self::Postgres),
                urls => postgres_shards(urls),
            };
        }
        Err(no_kind(text))
    }
}

fn sqlite_shards(directory: &str, shards: &str) -> Result<StoreLocation, String> {
    let (least, most) = (SHARDS.start(), SHARDS.end());
    let shards = shards.parse().ok().filter(|shards| SHARDS.contains(shards));
    let shards =
        shards.ok_or_else(|| format!("must have {least} to {most} shards, such as sqlite:data?shards=4"))?;
    // What is a mistake in the name of a file is one here as well. But a directory may end with a slash.
    let name = directory.strip_suffix('/').filter(|name| !name.is_empty()).unwrap_or(directory);
    if let Some(mistake) = mistake(name) {
        return Err(format!("{mistake}, with ?shards={shards} behind a directory"));
    }
    Ok(StoreLocation::SqliteShards { directory: name.into(), shards })
}

/// Errors show no part of the text: what follows a space may belong to a password.
#[cfg(feature = "postgres")]
fn postgres_shards(urls: &[&str]) -> Result<StoreLocation, String> {
    let is_url = |url: &&str| url.starts_with("postgres://") || url.starts_with("postgresql://");
    if !urls.iter().all(is_url) {
        return Err("has a space with no postgres:// URL behind it: several databases have a space between their URLs, and \
                    a space within a name or a password is written as %20"
            .to_owned());
    }
    let parse = |(index, url): (usize, &&str)| {
        url.parse().map_err(|reason: String| format!("has several URLs, and that of shard {index} {reason}"))
    };
    urls.iter().enumerate().map(parse).collect::<Result<_, _>>().map(StoreLocation::PostgresShards)
}

/// What is wrong with a path that looks like something else, and what to write. Most such paths are legal names of files,
/// but nobody means them.
fn mistake(path: &str) -> Option<String> {
    // The URIs of SQLite.
    let file = path.strip_prefix("file:").unwrap_or(path);
    let file = file.split_once('?').filter(|(_, rest)| rest.contains('=')).map_or(file, |(file, _)| file);
    let relative = file.trim_start_matches('/');
    let slashes = file.len() - relative.len();
    let first = file.split('/').next().unwrap_or_default();
    if relative.is_empty() {
        return Some(format!("names no file: write sqlite:PATH, such as {EXAMPLE}"));
    }
    if relative == ":memory:" {
        return Some("asks SQLite for a store in memory: write memory:".into());
    }
    if slashes == 2 {
        return Some(format!("has the form of a URL, and a file has no host: write sqlite:{relative}"));
    }
    if slashes == 3 {
        return Some(format!(
            "has three slashes, which mean an absolute path to some programs and a relative one to others: \
             write sqlite:/{relative} or sqlite:{relative}"
        ));
    }
    if slashes > 3 {
        return Some(format!("has the form of a URL: write sqlite:/{relative}"));
    }
    if path.starts_with("file:") {
        return Some(format!("has the form of a URI, and only a path is taken: write sqlite:{file}"));
    }
    if file != path {
        return Some(format!(
            "has an option that is not known: write sqlite:{file}, or sqlite:{file}?shards=4 for several files in a directory"
        ));
    }
    if first.starts_with('~') && first != file {
        let rest = file.strip_prefix("~/").map(|rest| format!("sqlite:$HOME/{rest} in a shell, or "));
        return Some(format!(
            "begins with a ~ that no shell has replaced: write {}the whole path",
            rest.unwrap_or_default()
        ));
    }
    if first.starts_with('$') {
        return Some("begins with a variable that no shell has replaced: write the whole path".into());
    }
    if file.ends_with('/') {
        return Some(format!("names a directory: name a file in it, such as sqlite:{file}aggregator.db"));
    }
    None
}

/// Suggests what was meant by a text that begins like no store.
fn no_kind(text: &str) -> String {
    let after = |kind: &str| {
        text.get(..kind.len()).filter(|start| start.eq_ignore_ascii_case(kind)).map(|_| &text[kind.len()..])
    };
    let sqlite = |path: &str| {
        mistake(path)
            .unwrap_or_else(|| format!("does not say what kind of store it is: did you mean sqlite:{path}?"))
    };
    if [":memory:", "memory"].contains(&text.to_ascii_lowercase().as_str()) {
        return "does not say what kind of store it is: did you mean memory:?".into();
    }
    #[cfg(feature = "postgres")]
    if after("postgres:").or_else(|| after("postgresql:")).is_some() {
        return "is not the URL of a PostgreSQL database: write postgres://USER@HOST/DATABASE".into();
    }
    if let Some(path) = after("sqlite:").or_else(|| after("sqlite3:")).or_else(|| after("file:")) {
        return sqlite(path);
    }
    if !text.is_empty() && may_be_repeated(text) && !text.contains(':') {
        return sqlite(text);
    }
    format!("is no kind of store that there is: write sqlite:PATH, such as {EXAMPLE}, {OTHERS}")
}

/// Whether an error may repeat this text: there is certainly no password in it.
pub(crate) fn may_be_repeated(text: &str) -> bool {
    ["sqlite:", "sqlite3:", "file:"].iter().any(|kind| text.to_ascii_lowercase().starts_with(kind))
        || !text.contains(['@', '=']) && !text.contains("://")
}

impl fmt::Display for StoreLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::SqliteShards { directory, shards } => {
                write!(f, "sqlite:{}?shards={shards}", directory.display())
            }
            #[cfg(feature = "postgres")]
            Self::Postgres(url) => url.fmt(f),
            #[cfg(feature = "postgres")]
            Self::PostgresShards(urls) => {
                for (index, url) in urls.iter().enumerate() {
                    write!(f, "{}{url}", if index > 0 { " " } else { "" })?;
                }
                Ok(())
            }
            Self::Memory(Partitions::ONE) => f.write_str("memory:"),
            Self::Memory(partitions) => write!(f, "memory:{}", partitions.count()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stores_are_read_and_shown() {
        for text in ["sqlite:data/aggregator.db", "sqlite:/x:y.db", "sqlite:a?b~.db", "memory:", "memory:4"] {
            assert_eq!(text.parse::<StoreLocation>().unwrap().to_string(), text);
        }
        for text in ["sqlite:data?shards=2", "sqlite:/a/b?shards=16"] {
            let store: StoreLocation = text.parse().unwrap();
            assert!(matches!(store, StoreLocation::SqliteShards { .. }), "{store:?}");
            assert_eq!(store.to_string(), text);
        }
        let store: StoreLocation = "sqlite:data/?shards=2".parse().unwrap();
        assert_eq!(store.files(), ["data/shard-0.db", "data/shard-1.db"].map(PathBuf::from));
        for text in
            ["sqlite:data?shards=1", "sqlite:data?shards=17", "sqlite:data?shards=", "sqlite:?shards=2"]
        {
            assert!(text.parse::<StoreLocation>().is_err(), "{text:?}");
        }
        for text in
            ["", "data.db", "sqlite:", "sqlite://", "memory:0", "memory:1025", "memory:x", "postgres://"]
        {
            assert!(text.parse::<StoreLocation>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_path_that_nobody_means_is_answered_with_one_to_write() {
        for (wrong, says) in [
            ("sqlite:file:a.db", "a URI, and only a path is taken: write sqlite:a.db"),
            (
                "sqlite:a.db?mode=ro",
                "an option that is not known: write sqlite:a.db, or sqlite:a.db?shards=4",
            ),
            ("sqlite:data?shard=2", "write sqlite:data, or sqlite:data?shards=4"),
        ] {
            let error = wrong.parse::<StoreLocation>().unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn several_databases_have_spaces_between_their_urls_and_show_no_password() {
        let text = "postgres://me:s3cret@a,b:2/db  postgresql://me:s3cret@c/db2\tpostgres://d/db";
        let store: StoreLocation = text.parse().unwrap();
        assert_eq!(
            store.to_string(),
            "postgres://me@a:5432,b:2/db postgres://me@c:5432/db2 postgres://d:5432/db"
        );
        assert_eq!(store.to_string().parse::<StoreLocation>().unwrap().to_string(), store.to_string());
        assert!(!format!("{store:?}").contains("s3cret"));
        let one: StoreLocation = "postgres://me@a/db ".parse().unwrap();
        assert!(matches!(one, StoreLocation::Postgres(_)));
        for (wrong, says) in [
            ("postgres://me:s3 cret@a/db", "%20"),
            ("postgres://me@a/db postgres://me:s3cret@b/db?sslmode=maybe", "shard 1 has an sslmode"),
            ("postgres://me@a/db sqlite:cret.db", "%20"),
        ] {
            let error = wrong.parse::<StoreLocation>().unwrap_err();
            assert!(error.contains(says) && !error.contains("cret"), "{error}");
        }
    }
}
