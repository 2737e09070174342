//! A new data directory from a destination.
//!
//! - `find` looks at what there is, and `choose` says with which backup and along which timeline to begin;
//! - `unpack` brings the backup's files back, and `verify` has PostgreSQL check them;
//! - `settings` says how PostgreSQL recovers, and `recover` has it do so.

mod choose;
mod find;
mod recover;
mod run;
mod settings;
mod unpack;
mod verify;

pub use choose::{Choice, ChooseError, Target, Wish, choose};
pub use find::{Contents, FindError, Stored, find};
pub use recover::{RecoverError, recover};
pub use run::{RestoreError, Restored, Source, restore};
pub use settings::{Control, Recovery, altered, restore_command};
pub use unpack::{Place, UnpackError, unpack};
pub(super) use verify::program;
pub use verify::{VerifyError, control, verify};
