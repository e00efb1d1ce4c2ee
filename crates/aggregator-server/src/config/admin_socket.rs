//! Where the operator's socket is.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::StoreLocation;

/// Where the admin socket is: HTTP for the operator, who may do everything there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminSocket {
    /// `beside`: beside the file of the store, with `-admin` behind its name; `shards-admin` in the directory of a store of
    /// several files. A store that is no file has none.
    Beside,
    /// `off`: there is none.
    Off,
    /// At this path.
    At(PathBuf),
}

impl AdminSocket {
    /// The path of the socket of a server with this store, if it has one.
    #[must_use]
    pub fn path(&self, store: &StoreLocation) -> Option<PathBuf> {
        match (self, store) {
            (Self::At(path), _) => Some(path.clone()),
            (Self::Beside, StoreLocation::Sqlite(file)) => Some(beside(file)),
            (Self::Beside, StoreLocation::SqliteShards { directory, .. }) => {
                Some(directory.join("shards-admin"))
            }
            (Self::Beside | Self::Off, _) => None,
        }
    }
}

fn beside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push("-admin");
    file.with_file_name(name)
}

impl FromStr for AdminSocket {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "beside" => Self::Beside,
            "off" => Self::Off,
            path => Self::At(path.into()),
        })
    }
}

impl fmt::Display for AdminSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beside => f.write_str("beside"),
            Self::Off => f.write_str("off"),
            Self::At(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_beside_the_file_unless_it_is_elsewhere() {
        let path = |socket: &str, store: &str| {
            let socket: AdminSocket = socket.parse().unwrap();
            assert_eq!(socket.to_string().parse::<AdminSocket>().unwrap(), socket);
            socket.path(&store.parse().unwrap())
        };
        assert_eq!(path("beside", "sqlite:data/a.db"), Some("data/a.db-admin".into()));
        assert_eq!(path("beside", "sqlite:data?shards=2"), Some("data/shards-admin".into()));
        assert_eq!(path("beside", "memory:"), None);
        assert_eq!(path("off", "sqlite:data/a.db"), None);
        assert_eq!(path("/run/admin", "memory:"), Some("/run/admin".into()));
    }
}
