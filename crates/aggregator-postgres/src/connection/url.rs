//! The connection URL.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

use crate::PostgresOptions;
use crate::connection::tls::{Tls, Trust};

/// A connection URL in libpq's format: `postgres://user:password@host:port,host2:port2/database?sslmode=verify-full`.
///
/// Several hosts are tried in turn, and the first one that takes writes is used. A Unix socket is a host whose
/// slashes are encoded: `%2Frun%2Fpostgresql`. `sslmode` is `disable`, `prefer` (the default: encrypted if the
/// server can), `require` (encrypted, whoever the server is), `verify-ca` or `verify-full`; `sslrootcert` names a PEM
/// file of trusted certificates, in place of the system's. The password is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl {
    config: Box<Config>,
    tls: Tls,
}

impl PostgresUrl {
    /// One configuration for each host, so that a host that does not answer cannot use up the time of the next one.
    pub(crate) fn hosts(&self, options: &PostgresOptions) -> Vec<Config> {
        let from = &self.config;
        let count = from.get_hosts().len();
        (0..count)
            .map(|at| {
                let mut config = Config::new();
                match &from.get_hosts()[at] {
                    Host::Tcp(host) => config.host(host),
                    #[cfg(unix)]
                    Host::Unix(path) => config.host_path(path),
                };
                let ports = from.get_ports();
                if let Some(&port) = ports.get(at).or(ports.first()) {
                    config.port(port);
                }
                from.get_hostaddrs().get(at).map(|&address| config.hostaddr(address));
                from.get_user().map(|user| config.user(user));
                from.get_password().map(|password| config.password(password));
                from.get_dbname().map(|name| config.dbname(name));
                from.get_options().map(|options| config.options(options));
                config
                    .ssl_mode(from.get_ssl_mode())
                    .ssl_negotiation(from.get_ssl_negotiation())
                    .channel_binding(from.get_channel_binding())
                    .application_name(&options.application_name)
                    .connect_timeout(options.connect_timeout)
                    .tcp_user_timeout(options.dead_peer_timeout)
                    .keepalives(true)
                    .keepalives_idle((options.dead_peer_timeout / 2).max(Duration::from_secs(1)))
                    .keepalives_interval((options.dead_peer_timeout / 6).max(Duration::from_secs(1)))
                    .keepalives_retries(3);
                config
            })
            .collect()
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }
}

impl FromStr for PostgresUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if !(text.starts_with("postgres://") || text.starts_with("postgresql://")) {
            return Err("is not a postgres://… URL".into());
        }
        let (address, query) = text.split_once('?').unwrap_or((text, ""));
        let (mut mode, mut roots, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decoded = || percent_decode_str(value).decode_utf8_lossy().into_owned();
            match key {
                "sslmode" => mode = Some(decoded()),
                "sslrootcert" => roots = Some(decoded()),
                _ => rest.push(pair),
            }
        }
        let mut url = address.to_owned();
        if !rest.is_empty() {
            url = format!("{url}?{}", rest.join("&"));
        }
        // The parser takes what stands before the first @ of all for the user and the password. If that is another one than
        // its writer meant, the rest of the password would be shown with the host or the database.
        if rest.iter().any(|pair| pair.contains('@')) || address.matches('@').count() > 1 {
            return Err(
                "has an @ in a name, a password or an option: write it as %40 (and a ? as %3F)".into()
            );
        }
        // The parser's errors name options and characters, but no values, so they cannot show a password.
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("is not a PostgreSQL URL: {}", cause.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_hosts().is_empty() {
            return Err("names no host: write postgres://user@host/database".into());
        }
        let trust = match mode.as_deref() {
            Some("disable" | "prefer") | None => Trust::Anybody,
            // As in libpq: if roots are named, they are checked.
            Some("require") if roots.is_some() => Trust::Roots,
            Some("require") => Trust::Anybody,
            Some("verify-ca") => Trust::Roots,
            Some("verify-full") => Trust::RootsAndName,
            Some(_) => {
                return Err(
                    "has an sslmode other than disable, prefer, require, verify-ca and verify-full".into()
                );
            }
        };
        config.ssl_mode(match mode.as_deref() {
            Some("disable") => SslMode::Disable,
            Some("prefer") | None => SslMode::Prefer,
            Some(_) => SslMode::Require,
        });
        let roots = roots.filter(|roots| roots != "system");
        Ok(Self { config: Box::new(config), tls: Tls { trust, roots: roots.map(Into::into) } })
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = self.config.get_user() {
            write!(f, "{user}@")?;
        }
        let ports = self.config.get_ports();
        for (at, host) in self.config.get_hosts().iter().enumerate() {
            let separator = if at == 0 { "" } else { "," };
            match host {
                Host::Tcp(host) => write!(f, "{separator}{host}")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(f, "{separator}{}", path.display())?,
            }
            if let Some(port) = ports.get(at).or(ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        match self.config.get_dbname() {
            Some(name) => write!(f, "/{name}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        for text in [
            "postgres://me:s3cret@a:1,b:2/db?sslmode=require&target_session_attrs=read-write",
            "postgresql://me@a:1,b:2/db?password=s3cret",
        ] {
            let url: PostgresUrl = text.parse().unwrap();
            assert_eq!(url.to_string(), "postgres://me@a:1,b:2/db");
            assert_eq!(format!("{url:?}"), "postgres://me@a:1,b:2/db");
            assert_eq!(url.hosts(&PostgresOptions::default()).len(), 2);
        }
    }

    /// The parser takes what stands before the first @ for the user and the password, wherever that is, and the rest for
    /// the host and the database, which are shown.
    #[test]
    fn an_at_sign_that_is_not_encoded_is_refused_so_that_it_shows_no_password() {
        for text in [
            "postgres://me:s3@cret@host/db",
            "postgres://me:s3?cret@host/db",
            "postgres://host/db?user=me@corp&password=s3cret",
            "postgres://host?user=me@corp&password=s3cret",
        ] {
            let error = text.parse::<PostgresUrl>().unwrap_err();
            assert!(error.contains("%40") && !error.contains("cret"), "{text}: {error}");
        }
        let url: PostgresUrl = "postgres://a%40b:s3%40cret@host/db?sslrootcert=/a@b".parse().unwrap();
        assert_eq!(url.to_string(), "postgres://a@b@host:5432/db");
    }

    #[test]
    fn the_error_for_a_wrong_url_does_not_show_its_password() {
        for text in [
            "sqlite:x",
            "postgres://",
            "postgres:///db",
            "postgres://me:s3cret@host/db?sslmode=maybe",
            "postgres://me:s3cret@host/db?nonsense=s3cret",
            "postgres://me:s3cret@host:s3cret/db",
            "postgres://me:s3cret@host/db?target_session_attrs=s3cret",
            "postgres://me:s3cret%ff@host:99999/db",
        ] {
            let error = text.parse::<PostgresUrl>().unwrap_err();
            assert!(!error.contains("s3cret"), "{text}: {error}");
        }
    }
}
