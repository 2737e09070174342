//! The `db.example.com/v1alpha1` API: plain data, parsed and checked, with no client in it.

mod backup;
mod check;
mod conditions;
mod crd;
mod database;
mod hba;
mod major;
mod names;
mod parameters;
mod quantity;
mod request;
mod restored;
mod status;
mod values;
mod version;

pub use backup::{CATALOG_KEY, Catalog, CatalogEntry, PROGRESS_KEY, Progress, VERIFYING_KEY};
pub use check::{Violation, check_change, check_spec};
pub use conditions::{ConditionType, Verdict, merge_conditions, reason};
pub use crd::{crd, crd_yaml};
pub use database::{
    Backup, Database, DatabaseSpec, DeletionPolicy, OWNED_PARAMETERS, Placement, REPLICAS_MAX, Resources,
    RestoreFrom, Storage, Tls,
};
pub use major::{MAJOR_UPGRADE, MajorStage, MajorUpgrade};
pub use names::{
    BACKUP_NAME, DBCTL_VERSION, DatabaseName, FIELD_MANAGER, FINALIZER, GROUP, LABEL_DATABASE, LABEL_ROLE,
    Names, PAUSED, ROLE_PRIMARY, ROLE_REPLICA, VERIFY_NAME, VERSION, name_problem,
};
pub use parameters::{known as known_parameters, parameter_problem, value_problem};
pub use quantity::{Quantity, QuantityError};
pub use request::{
    AbortUpgradeArguments, BackupArguments, CredentialsOf, FailoverArguments, Found, Request, RequestError,
    RestartArguments, RestoreArguments, ResumeArguments, RotateArguments, UpgradeArguments, Verb,
    VerifyArguments, requests,
};
pub use restored::{DISCARD, Kept, Mark, REPLACED, RESTORED, Recovered, Stage, discarded};
pub use status::{
    DatabaseStatus, Failover, Instance, KeptData, Operation, OperationPhase, Outage, Phase, StoredBackup,
    UpgradeProgress,
};
pub use version::{PgVersion, VersionError};
