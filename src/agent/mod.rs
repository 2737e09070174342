//! `dbctl agent`: what runs inside a database pod.
//!
//! `run` is the container's main process. It prepares the directories, starts Patroni, and stays as its parent:
//! - `children` reaps whatever ends, and `run` passes signals on and ends with Patroni's code;
//! - `postmaster` sees PostgreSQL end at that moment, and has Patroni look at once;
//! - `handover` says when a primary that was shut down in order may give up the leader lock, and `release` does it;
//! - `watchdog` says when a primary must end because its Patroni no longer lives, and `guard` sees to that;
//! - `report` is what it tells the controller about itself, and `metrics` what it tells Prometheus of PostgreSQL;
//! - `security` has PostgreSQL and Patroni take other certificates and passwords while they run;
//! - `stale` has a replica that can never stream again copy the primary anew, and `passwords` sets those of the Secrets;
//! - `major` keeps a member from starting in a major upgrade, and does its part of it;
//! - `admit` is what stands before Patroni, `restore` makes the data of a restored database, and `restoring` is its note;
//! - `aside` moves data aside that a restore in place replaces, and `attic` removes it once it is told to.
//!
//! PostgreSQL itself runs `wal` for each file of WAL that goes to the archive or comes from there.
//!
//! Decisions are pure functions with tables of tests; what surrounds them is thin.

mod admit;
mod archive;
mod aside;
mod attic;
mod backup;
mod bootstrap;
mod children;
mod control;
mod gone;
mod guard;
mod handover;
mod identity;
mod major;
mod member;
mod metrics;
mod passwords;
mod postmaster;
mod release;
mod render;
mod report;
mod restore;
mod restoring;
mod run;
mod security;
mod serve;
mod source;
mod stale;
mod start;
mod store;
mod told;
mod verify;
mod wal;
mod watchdog;

pub use admit::AdmitError;
pub use backup::{BackupError, Job, backup};
pub use bootstrap::{PostBootstrapError, post_bootstrap};
#[cfg(test)]
pub use major::previous_programs;
pub use major::{
    Facts, Made, MajorReport, MajorState, Rehearsal, RehearseError, Upgrade, UpgradeError, rehearse, upgrade,
};
pub use metrics::metrics;
pub use render::{Environment, RenderError, render};
pub use report::{
    AGENT_PORT, AgentReport, ArchiveError, ArchiveReport, Disk, Fenced, PostmasterState, Rotations,
};
pub use restore::{Bootstrap, BootstrapError, bootstrap};
pub use restoring::{FAILED, INTERRUPTED};
pub use run::run;
pub use security::{Copies, SecurityError};
pub use start::AgentError;
pub use told::ToldError;
pub use verify::{Verification, VerifyError, verify};
pub use wal::{Source, WalError, fetch_error_code, wal_fetch, wal_prefetch, wal_push};
