//! Settings that are out of bounds, or contradict each other.

use std::net::SocketAddr;
use std::time::Duration;

use aggregator_core::DedupStore;

use super::{Config, JSON_DEPTHS, ListenAddress, OTLP_QUEUE_SPANS, READERS, StoreLocation, retain};

impl Config {
    /// Refuses to listen where other machines reach the port if nobody could ever publish or read there.
    /// `addresses` are those of [`Self::listen`].
    ///
    /// # Errors
    /// Names the settings as options, and says what would be right.
    pub fn check_reach(&self, addresses: &[SocketAddr]) -> Result<(), String> {
        let reachable = addresses.iter().find(|address| !address.ip().is_loopback());
        let can_have_keys =
            !matches!(self.store, StoreLocation::Memory(_)) || self.admin_socket.path(&self.store).is_some();
        let lets_some_in = self.allow_anonymous || can_have_keys || self.jwt_issuer.is_some();
        let Some(address) = reachable.filter(|_| !lets_some_in) else {
            return Ok(());
        };
        let listen = match &self.listen {
            ListenAddress::Ip(address) => format!("{address} can be reached"),
            ListenAddress::Name { .. } => format!("{} is {address}, which can be reached", self.listen),
        };
        Err(format!(
            "--listen {listen} from other machines, and a store in memory begins without keys: add --allow-anonymous if \
             everybody there may publish and read, or --admin-socket PATH to make keys, or --jwt-issuer for tokens, or \
             listen on 127.0.0.1"
        ))
    }

    /// Refuses settings that are out of bounds or contradict each other. [`run`](crate::run) calls it.
    ///
    /// # Errors
    /// Names the options, and what would be right.
    pub fn check(&self) -> Result<(), String> {
        if self.queue_events < self.max_batch_events.get() {
            return Err(format!(
                "--queue-events {} cannot hold one batch of --max-batch-events {1}: raise it to {1} or more",
                self.queue_events, self.max_batch_events
            ));
        }
        if self.request_bytes.0 < self.max_body_bytes.0 {
            return Err(format!(
                "--request-bytes {} cannot hold one body of --max-body-bytes {1}: raise it to {1} or more",
                self.request_bytes, self.max_body_bytes
            ));
        }
        if self.max_body_bytes.0 > aggregator_core::BatchBuilder::MAX_BODY_BYTES {
            return Err(format!("--max-body-bytes {} must be at most 1GiB", self.max_body_bytes));
        }
        if !JSON_DEPTHS.contains(&self.max_json_depth.into()) {
            let (least, most) = (JSON_DEPTHS.start(), JSON_DEPTHS.end());
            return Err(format!("--max-json-depth {} must be {least} to {most}", self.max_json_depth));
        }
        if !READERS.contains(&self.readers.into()) {
            let (least, most) = (READERS.start(), READERS.end());
            return Err(format!("--readers {} must be {least} to {most}", self.readers));
        }
        self.check_tls()?;
        self.check_jwt()?;
        self.check_otlp()?;
        self.check_retention()
    }

    /// Refuses settings that the store cannot follow. [`run`](crate::run) calls it.
    ///
    /// # Errors
    /// Names the option, and the way out.
    pub fn check_store(&self, store: &dyn DedupStore) -> Result<(), String> {
        let rule = self.retain.iter().find(|rule| rule.identities.is_some());
        let Some(rule) = rule.filter(|_| store.forget().is_none()) else { return Ok(()) };
        Err(format!(
            "--retain {rule} says identities, and the store ({}) cannot forget any: leave identities out, or use a store \
             that can",
            store.info().kind
        ))
    }

    fn check_retention(&self) -> Result<(), String> {
        if self.retain_every < Duration::from_millis(10) {
            let every = humantime::format_duration(self.retain_every);
            return Err(format!("--retain-every {every} must be at least 10ms"));
        }
        if self.retain_dry_run && self.retain.is_empty() {
            return Err("--retain-dry-run is given without --retain: there is no rule to work out".to_owned());
        }
        if self.retain_free_space.is_some() && self.retain.is_empty() {
            return Err("--retain-free-space is given without --retain: no rule frees anything".to_owned());
        }
        retain::check(&self.retain)
    }

    fn check_tls(&self) -> Result<(), String> {
        let refused = match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => "--tls-cert is given without --tls-key: give both",
            (None, Some(_)) => "--tls-key is given without --tls-cert: give both",
            (None, None) if self.tls_client_ca.is_some() => {
                "--tls-client-ca is given without --tls-cert and --tls-key: only TLS has certificates of clients"
            }
            _ if self.tls_client_ca.is_none() && !self.tls_client_san.is_empty() => {
                "--tls-client-san is given without --tls-client-ca: nobody would vouch for the name"
            }
            _ => return Ok(()),
        };
        Err(refused.to_owned())
    }

    fn check_jwt(&self) -> Result<(), String> {
        let parts = [
            ("--jwt-issuer", self.jwt_issuer.is_some()),
            ("--jwt-audience", self.jwt_audience.is_some()),
            ("--jwt-jwks", self.jwt_jwks.is_some()),
        ];
        let names = |wanted: bool| {
            let some = parts.iter().filter(|(_, is_given)| *is_given == wanted).map(|(name, _)| *name);
            some.collect::<Vec<_>>().join(" and ")
        };
        let (given, missing) = (names(true), names(false));
        if given.is_empty() {
            return Ok(());
        }
        if !missing.is_empty() {
            return Err(format!("{given} without {missing}: tokens need all three"));
        }
        for (name, value) in [
            ("--jwt-issuer", self.jwt_issuer.as_deref()),
            ("--jwt-audience", self.jwt_audience.as_deref()),
            ("--jwt-scopes-claim", Some(&*self.jwt_scopes_claim)),
        ] {
            if value.is_some_and(|value| value.trim().is_empty()) {
                return Err(format!("{name} must not be empty"));
            }
        }
        if self.jwt_algorithms.is_empty() {
            return Err("--jwt-algorithms must name at least one".to_owned());
        }
        if self.allow_anonymous {
            return Err(
                "--allow-anonymous contradicts --jwt-issuer, with which nobody is anonymous: leave one out"
                    .to_owned(),
            );
        }
        Ok(())
    }

    fn check_otlp(&self) -> Result<(), String> {
        if cfg!(not(feature = "otlp")) && self.otlp_endpoint.is_some() {
            return Err(
                "--otlp-endpoint needs the feature otlp, without which this program was built: build it with \
                 --features otlp, or leave the option out"
                    .to_owned(),
            );
        }
        if !OTLP_QUEUE_SPANS.contains(&(self.otlp_queue_spans.get() as u64)) {
            let (least, most) = (OTLP_QUEUE_SPANS.start(), OTLP_QUEUE_SPANS.end());
            return Err(format!("--otlp-queue-spans {} must be {least} to {most}", self.otlp_queue_spans));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use crate::config::{AdminSocket, ByteSize, JwksLocation};

    use super::*;

    #[test]
    fn an_address_that_others_reach_has_to_be_asked_for_where_there_are_no_keys() {
        let loopback =
            ["127.0.0.1:8080", "[::1]:8080", "127.9.9.9:1"].map(|address| address.parse().unwrap());
        let memory =
            || Config { store: StoreLocation::Memory(aggregator_core::Partitions::ONE), ..Config::default() };
        for reachable in ["0.0.0.0:8080", "[::]:8080", "192.0.2.1:8080"] {
            // A name may have addresses of both kinds.
            let addresses = [&loopback[..], &[reachable.parse().unwrap()]].concat();
            let mut config = Config { listen: "name:8080".parse().unwrap(), ..memory() };
            let refusal = config.check_reach(&addresses).unwrap_err();
            assert!(refusal.contains("--allow-anonymous") && refusal.contains(reachable), "{refusal}");
            config.allow_anonymous = true;
            config.check_reach(&addresses).unwrap();
            Config { admin_socket: AdminSocket::At("s".into()), ..memory() }.check_reach(&addresses).unwrap();
            Config::default().check_reach(&addresses).unwrap();
        }
        memory().check_reach(&loopback).unwrap();
    }

    #[test]
    fn limits_that_exclude_each_other_are_refused() {
        let config = Config { queue_events: 10, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--queue-events"));
        let config = Config { request_bytes: ByteSize(10), ..Config::default() };
        assert!(config.check().unwrap_err().contains("--request-bytes"));
        let config = Config { max_json_depth: 3, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--max-json-depth 3 must be 4 to 1024"));
        let config = Config { readers: 0, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--readers 0 must be 1 to 256"));
        let config = Config { otlp_queue_spans: 1_000_001.try_into().unwrap(), ..Config::default() };
        assert!(config.check().unwrap_err().contains("--otlp-queue-spans 1000001 must be 1 to 1000000"));
    }

    #[test]
    fn rules_of_retention_go_together() {
        let rules = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Config { retain: rules(&["a=count:1", "*=age:1d"]), retain_dry_run: true, ..Config::default() }
            .check()
            .unwrap();
        let config = Config { retain: rules(&["a=count:1", "a=age:1d"]), ..Config::default() };
        assert!(config.check().unwrap_err().contains("two rules for a"));
        let config = Config { retain_every: Duration::ZERO, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--retain-every 0s must be at least 10ms"));
        let config = Config { retain_dry_run: true, ..Config::default() };
        assert!(config.check().unwrap_err().contains("--retain-dry-run is given without --retain"));
        let config = Config { retain_free_space: Some("1MiB".parse().unwrap()), ..Config::default() };
        assert!(config.check().unwrap_err().contains("--retain-free-space is given without --retain"));
    }

    #[test]
    fn spans_are_exported_only_by_a_program_that_can() {
        let config =
            Config { otlp_endpoint: Some("http://localhost:4318".parse().unwrap()), ..Config::default() };
        let refused = config.check().err();
        assert_eq!(refused.is_some(), cfg!(not(feature = "otlp")), "it would export nothing, in silence");
        assert!(refused.is_none_or(|refused| refused.contains("--features otlp")));
    }

    #[test]
    fn options_of_tokens_belong_together() {
        let text = || Some("a".to_owned());
        let whole = Config {
            jwt_issuer: text(),
            jwt_audience: text(),
            jwt_jwks: Some(JwksLocation::file("a")),
            ..Config::default()
        };
        whole.check().unwrap();
        let reachable = ["0.0.0.0:1".parse().unwrap()];
        let memory = StoreLocation::Memory(aggregator_core::Partitions::ONE);
        Config { store: memory, ..whole.clone() }.check_reach(&reachable).unwrap();
        for (config, says) in [
            (
                Config { jwt_issuer: None, ..whole.clone() },
                "--jwt-audience and --jwt-jwks without --jwt-issuer",
            ),
            (Config { jwt_audience: None, ..whole.clone() }, "without --jwt-audience"),
            (Config { jwt_jwks: None, ..whole.clone() }, "without --jwt-jwks"),
            (
                Config { jwt_issuer: text(), ..Config::default() },
                "--jwt-issuer without --jwt-audience and --jwt-jwks",
            ),
            (Config { jwt_issuer: Some(" ".into()), ..whole.clone() }, "--jwt-issuer must not be empty"),
            (
                Config { jwt_scopes_claim: String::new(), ..whole.clone() },
                "--jwt-scopes-claim must not be empty",
            ),
            (Config { jwt_algorithms: Vec::new(), ..whole.clone() }, "--jwt-algorithms"),
            (Config { allow_anonymous: true, ..whole.clone() }, "--allow-anonymous contradicts"),
        ] {
            let refusal = config.check().unwrap_err();
            assert!(refusal.contains(says), "{refusal}");
        }
    }

    #[test]
    fn options_of_tls_that_lack_another_one_name_both() {
        let path = || Some(PathBuf::from("a.pem"));
        let cert = Config { tls_cert: path(), ..Config::default() };
        let key = Config { tls_key: path(), ..Config::default() };
        let whole = Config { tls_key: path(), ..cert.clone() };
        whole.check().unwrap();
        Config { tls_client_ca: path(), ..whole.clone() }.check().unwrap();
        let ca = Config { tls_client_ca: path(), ..Config::default() };
        let san = Config { tls_client_san: vec!["a.example.org".parse().unwrap()], ..whole };
        for (config, named) in [
            (cert, ["--tls-cert", "--tls-key"]),
            (key, ["--tls-key", "--tls-cert"]),
            (ca, ["--tls-client-ca", "--tls-cert"]),
            (san, ["--tls-client-san", "--tls-client-ca"]),
        ] {
            let refusal = config.check().unwrap_err();
            assert!(named.iter().all(|name| refusal.contains(name)), "{refusal}");
        }
    }
}
