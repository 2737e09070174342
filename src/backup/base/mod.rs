//! Base backups in a destination.
//!
//! ```text
//! <epoch>/base/<id>/started.json          who takes it; written again every minute while it is taken
//! <epoch>/base/<id>/base.0000.tar.zst     the data directory; behind 64 GiB goes on in base.0001.tar.zst
//! <epoch>/base/<id>/<oid>.0000.tar.zst    a tablespace
//! <epoch>/base/<id>/backup_manifest       as PostgreSQL sent it
//! <epoch>/base/<id>/backup.json           written last: without it there is no backup
//! <epoch>/base/<id>/restoring-….json      somebody reads it, and it must stay
//! <epoch>/base/<id>/verified.json         when it was restored and checked last, and what came of it
//! <epoch>/base/<id>/deleted.json          it goes: no backup any more, whatever else is still there
//! ```

mod catalog;
mod list;
mod prune;
mod record;
mod take;
mod upload;
mod verified;

pub use catalog::catalog;
pub use list::{Archive, DELETED, Found, RESTORING, archive, backups, epochs};
pub use prune::{PruneError, Pruned, prune};
pub use record::{BackupId, BackupIdError, COMMIT, FORMAT, Part, Record, StoredArchive, TablespaceRecord};
pub use take::{Source, Step, TakeError, take};
pub use verified::{Outcome, VERIFIED, Verified};
