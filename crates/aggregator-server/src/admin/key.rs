//! `key`: makes, lists and revokes keys, over the admin socket of a running server or on the store itself.

mod table;

use std::io;
use std::num::NonZeroU32;

use crate::auth::RateLimits;
use crate::auth::audit::{self, AuditEntry};
use crate::auth::registry::{self, KeyError, KeyInfo, NewKey};
use crate::auth::routes::{AuditList, CreatedKey, KeyList};
use crate::config::{ByteSize, Config};
use crate::{open_store, output};

use super::place::{COMMAND, Place, PlaceError};
use super::socket::Socket;

/// What to do with keys.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct KeyOptions {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
enum KeyCommand {
    /// Make a key and print it; it is never shown again
    New {
        /// What the key is for, for people
        #[arg(long)]
        name: String,
        /// What it allows: publish:TOPICS, read:TOPICS, metrics or admin, where TOPICS is a topic, a pattern like
        /// orders.*, or *; may be given several times
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
        /// How long it is good, like 12h or 90d [default: for ever]
        #[arg(long, value_name = "TIME")]
        expires_in: Option<String>,
        /// Events that it may publish a second, on each node; ten seconds' worth at once [default: any number]
        #[arg(long, value_name = "N")]
        events_per_second: Option<NonZeroU32>,
        /// Bytes of bodies that it may publish a second, on each node; ten seconds' worth at once [default: any
        /// number]
        #[arg(long, value_name = "BYTES", value_parser = bytes_per_second)]
        bytes_per_second: Option<NonZeroU32>,
    },
    /// Show all keys, without their secrets
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a key useless, within a second, also for streams that it has opened
    Revoke {
        /// The key's id, as `key list` shows it
        id: String,
    },
    /// Show who made and revoked keys, erased events and released identities, the newest change first
    Audit {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

/// Why keys cannot be managed.
#[derive(Debug, thiserror::Error)]
pub enum KeyCommandError {
    /// There is no server and no store to do it in.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The keys of the store cannot be changed.
    #[error("{0}")]
    Keys(String),
    /// What was asked for cannot be written.
    #[error("standard output")]
    Output(#[source] io::Error),
}

/// Does what the options ask for, and prints what comes of it.
///
/// # Errors
/// See [`KeyCommandError`].
pub fn run(config: &Config, options: &KeyOptions) -> Result<(), KeyCommandError> {
    let keys = Keys(Place::find(config, open_store::open)?);
    let text = match &options.command {
        KeyCommand::New { name, scopes, expires_in, events_per_second, bytes_per_second } => {
            let new = NewKey {
                name: name.clone(),
                scopes: scopes.clone(),
                expires_in: expires_in.clone(),
                limits: RateLimits {
                    events_per_second: *events_per_second,
                    bytes_per_second: *bytes_per_second,
                },
            };
            let (info, key) = keys.create(&new)?;
            // Beside the output: a script that takes the key from there gets nothing else.
            output::stderr().line(&format!(
                "key {} for {}: {}; good {}. Keep it now, it is not shown again.",
                info.id,
                info.name,
                info.scopes.join(" "),
                info.expires_at
                    .map_or_else(|| "until it is revoked".to_owned(), |end| format!("until {end}"))
            ));
            format!("{key}\n")
        }
        KeyCommand::List { json } => {
            let keys = keys.list()?;
            if *json { as_json(&KeyList { count: keys.len(), keys }) } else { table::keys(&keys) }
        }
        KeyCommand::Revoke { id } => {
            let revoked = keys.revoke(id)?;
            format!("key {} for {} is revoked\n", revoked.id, revoked.name)
        }
        KeyCommand::Audit { json } => {
            let changes = keys.audit()?;
            if *json {
                as_json(&AuditList { count: changes.len(), changes })
            } else {
                table::changes(&changes)
            }
        }
    };
    output::print(&text).map_err(KeyCommandError::Output)
}

/// Like 64KiB.
fn bytes_per_second(text: &str) -> Result<NonZeroU32, String> {
    let bytes: ByteSize = text.parse()?;
    let bytes = u32::try_from(bytes.0).ok().and_then(NonZeroU32::new);
    bytes.ok_or_else(|| "must be 1 byte to 4GiB less one".to_owned())
}

fn as_json(value: &impl serde::Serialize) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("strings and numbers are JSON");
    text.push('\n');
    text
}

/// The keys, wherever they are.
struct Keys(Place);

impl Keys {
    fn create(&self, new: &NewKey) -> Result<(KeyInfo, String), KeyCommandError> {
        match &self.0 {
            Place::Server(socket) => {
                let made: CreatedKey = ask(socket, "POST", "/admin/keys", Some(as_json(new)))?;
                Ok((made.info, made.key))
            }
            Place::Store(store) => {
                let (info, token) = registry::create(&**store, new, COMMAND).map_err(told)?;
                Ok((info, token.reveal()))
            }
        }
    }

    fn list(&self) -> Result<Vec<KeyInfo>, KeyCommandError> {
        match &self.0 {
            Place::Server(socket) => Ok(ask::<KeyList>(socket, "GET", "/admin/keys", None)?.keys),
            Place::Store(store) => registry::list(&**store).map_err(|error| told(error.into())),
        }
    }

    fn revoke(&self, id: &str) -> Result<KeyInfo, KeyCommandError> {
        match &self.0 {
            // What is no id must not become another path.
            Place::Server(socket) if id.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
                ask(socket, "DELETE", &format!("/admin/keys/{id}"), None)
            }
            Place::Server(_) => Err(told(KeyError::NoId)),
            Place::Store(store) => registry::revoke(&**store, id, COMMAND).map_err(told),
        }
    }

    fn audit(&self) -> Result<Vec<AuditEntry>, KeyCommandError> {
        match &self.0 {
            Place::Server(socket) => Ok(ask::<AuditList>(socket, "GET", "/admin/audit", None)?.changes),
            Place::Store(store) => audit::list(&**store).map_err(|error| told(error.into())),
        }
    }
}

fn ask<T: serde::de::DeserializeOwned>(
    socket: &Socket,
    method: &'static str,
    path: &str,
    body: Option<String>,
) -> Result<T, KeyCommandError> {
    socket.ask(method, path, body).map_err(|error| PlaceError::Server(error).into())
}

fn told(error: KeyError) -> KeyCommandError {
    KeyCommandError::Keys(match error {
        KeyError::Invalid { field, reason } => format!("{} {reason}", option_of(field)),
        other => other.to_string(),
    })
}

/// The option of a field.
fn option_of(field: &str) -> &str {
    match field {
        "name" => "--name",
        "scopes" => "--scope",
        "expires_in" => "--expires-in",
        other => other,
    }
}
