//! `dbctl backups --check` and `dbctl backups selftest`.

use kube::Api;

use crate::api::Database;
use crate::backup::chain::{Chain, newest};
use crate::backup::layout::Epoch;
use crate::backup::store::Store;
use crate::backup::wal::position_text;
use crate::backup::{base, probe};
use crate::cli::error::{CliError, Result, failed};
use crate::cli::session::Session;
use crate::cli::{Context, destination, scale};

/// The destination of a database.
///
/// # Errors
/// Where it has none, or it cannot be opened.
pub(super) async fn store(context: &Context, session: &Session, name: &str) -> Result<Store> {
    let databases: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let doing = format!("check the backups of database {name:?}");
    let database = scale::get(context, session, &databases, name, &doing).await?;
    let backup = database.spec.backup.unwrap_or_default();
    let Some(to) = &backup.destination else {
        return Err(CliError::failed(format!("{doing}: it has no destination for backups")));
    };
    destination::open_with(context, session, &destination::parse(to)?, backup.credentials_secret.as_deref())
        .await
}

/// Follows the WAL of each cluster in the destination.
///
/// # Errors
/// Where a backup cannot be recovered to the end of the archive.
pub(super) async fn run(context: &Context, store: &Store) -> Result<()> {
    let mut problems = Vec::new();
    for epoch in base::epochs(store).await.map_err(failed)? {
        let archive = base::archive(store, epoch).await.map_err(failed)?;
        let found = base::backups(store, epoch).await.map_err(failed)?;
        for backup in &found {
            if let Some(problem) = &backup.problem {
                problems.push(format!("the record of {} cannot be read: {problem}", backup.id));
            }
        }
        problems.extend(conflicts(&archive));
        for record in found.iter().filter_map(base::Found::good) {
            match follow(&archive, record) {
                Ok(said) => context.ui.note(said),
                Err(problem) => problems.push(problem),
            }
        }
        leftovers(context, epoch, &found);
    }
    if problems.is_empty() {
        context.ui.note("the WAL behind each backup has no gap and no conflict");
        return Ok(());
    }
    Err(CliError::unhealthy(format!("{} is not whole", store.destination()))
        .details(problems)
        .hint("take a new backup with `dbctl backup-now`: from there on the archive is whole again"))
}

fn conflicts(archive: &base::Archive) -> Vec<String> {
    let double = archive.segments.iter().filter(|(_, objects)| objects.len() > 1);
    double.map(|(segment, objects)| format!("{segment} has {} contents", objects.len())).collect()
}

/// From a backup to the end of the newest timeline that can be reached.
fn follow(archive: &base::Archive, record: &base::Record) -> Result<String, String> {
    let id = &record.id;
    let size = record.wal_segment_size().ok_or_else(|| format!("the record of {id} makes no sense"))?;
    let known =
        archive.histories.keys().copied().chain(archive.segments.keys().map(|segment| segment.timeline));
    let to = newest(&archive.tree, known, record.timeline, record.stop_lsn);
    let chain = Chain::follow(record.start(), to, &archive.tree, &archive.segments, size);
    if let Some(gap) = chain.gap {
        return Err(format!("from {id} the WAL can be followed to {} only: {gap}", position_text(gap.at)));
    }
    if chain.reach < record.stop_lsn {
        let reach = position_text(chain.reach);
        return Err(format!(
            "{id} is not consistent before {}, and its WAL ends at {reach}",
            position_text(record.stop_lsn)
        ));
    }
    Ok(format!("{id}: {} segments, to {} on timeline {to}", chain.segments.len(), position_text(chain.reach)))
}

fn leftovers(context: &Context, epoch: Epoch, found: &[base::Found]) {
    let unfinished = found.iter().filter(|found| found.good().is_none() && found.problem.is_none());
    for found in unfinished {
        let id = &found.id;
        context.ui.note(format_args!("{epoch}/base/{id} is being taken or removed, or was interrupted"));
    }
}

/// Tries a destination.
///
/// # Errors
/// Where it does not do something that is relied on.
pub(super) async fn selftest(context: &Context, to: &str) -> Result<()> {
    let store = destination::open(&destination::parse(to)?)?;
    let checks = probe::selftest(&store).await;
    for check in &checks {
        let outcome = match (&check.problem, check.optional) {
            (None, _) => "yes".to_owned(),
            (Some(problem), true) => format!("no, and not needed: {problem}"),
            (Some(problem), false) => format!("no: {problem}"),
        };
        context.ui.data(format!("{:<36}{outcome}\n", check.what))?;
    }
    if checks.iter().any(probe::Check::is_fatal) {
        return Err(CliError::unhealthy(format!("{to} does not do what backups rely on")));
    }
    Ok(())
}
