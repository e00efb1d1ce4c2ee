//! The commands of the program besides serving.

use crate::admin::transfer::{export, import};
use crate::admin::{amend, backup, check, key, restore, upgrade};

/// What to do instead of serving.
#[derive(Debug, Clone, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Copy a store, also while a server has it open, and check the copy; exit with 0, or 1
    Backup(backup::BackupOptions),
    /// Make the store, which must not exist, of a backup, and check it first; exit with 0, or 1
    Restore(restore::RestoreOptions),
    /// Give the store, which was copied by other means, an id of its own, so that cursors from after the copy are
    /// refused; exit with 0, or 1
    Adopt,
    /// Write the file of the store, which nobody has open, anew, and give what purges have freed back to the file
    /// system; exit with 0, or 1
    Compact,
    /// Bring a store of an older format, which nobody has open, up to the format of this program, and copy it first; exit
    /// with 0, also where there is nothing to do, or 1
    Upgrade(upgrade::UpgradeOptions),
    /// Read all of the store and check it against itself; exit with 0 if it is sound, 1 if not
    Check(check::CheckOptions),
    /// Write everything that the store keeps, which nobody has open, as lines of JSON; exit with 0, or 1
    Export(export::ExportOptions),
    /// Read what `export` wrote into the store, which nobody has open; what is there already is skipped;
    /// exit with 0, or 1
    Import(import::ImportOptions),
    /// Remove the payloads of events for good, also while a server has the store open; exit with 0, or 1, also if no such
    /// event was ever stored
    Erase(amend::AmendOptions),
    /// Let the ids of events come again, which then are no repeats, also while a server has the store open; exit with 0, or
    /// 1, also if none of them was seen
    Release(amend::AmendOptions),
    /// Make, list and revoke keys, without which nobody may publish or read from other machines
    Key(key::KeyOptions),
    /// Ask the server at --listen whether it is ready; exit with 0, or 1 and the reason
    Healthcheck,
}
