//! What follows a major upgrade while PostgreSQL runs: extensions and statistics on the new primary, and in the end the
//! removal of what was kept.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use super::disk::Volume;
use super::hold::tell;
use super::report::{MajorReport, MajorState};
use crate::agent::member::Member;
use crate::agent::postmaster::is_primary;
use crate::api::{MajorStage, MajorUpgrade};
use crate::patroni::SUPERUSER;

/// How often the mark is looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Longer than statistics take of anything that fits a volume.
const PATIENCE: Duration = Duration::from_secs(48 * 3600);

/// Brings every extension of a database to what the new release has of it, each by itself.
const EXTENSIONS: &str = "SELECT format('ALTER EXTENSION %I UPDATE', e.extname) FROM pg_extension e \
    JOIN pg_available_extensions a ON a.name = e.extname WHERE a.default_version <> e.extversion \\gexec";
/// Those that stayed behind.
const BEHIND: &str = "SELECT e.extname FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname \
    WHERE a.default_version <> e.extversion";

/// Goes on until the upgrade is over, one way or the other.
pub async fn follow(member: Arc<Member>, mark: MajorUpgrade) {
    let mut finished = false;
    loop {
        let now = match member.store.read("config").await {
            Ok(map) => MajorUpgrade::of(&map).filter(|now| now.id == mark.id),
            Err(_) => None,
        };
        let volume = Volume::new(&member.environment.data, &mark.id);
        match now.map(|now| now.stage) {
            Some(MajorStage::Opened) if !finished && is_primary(&member.environment.data) => {
                finished = finish(&member, &mark).await;
            }
            Some(MajorStage::Finished) => return remove(&volume, Volume::finish).await,
            Some(MajorStage::Undone) => return remove(&volume, Volume::clear).await,
            _ => {}
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn remove(volume: &Volume, how: fn(&Volume) -> std::io::Result<()>) {
    if !volume.keeps() {
        return;
    }
    let own = volume.clone();
    let done = tokio::task::spawn_blocking(move || how(&own)).await;
    match done {
        Ok(Ok(())) => tracing::info!("removed what the upgrade had kept"),
        Ok(Err(error)) => tracing::warn!("failed to remove what the upgrade had kept: {error}"),
        Err(_) => {}
    }
}

/// Extensions, then statistics in stages, so that the first plans are soon sane.
async fn finish(member: &Member, mark: &MajorUpgrade) -> bool {
    let say = |state: MajorState, words: String| {
        tell(&member.major, MajorReport { id: mark.id.clone(), state, words, ..MajorReport::default() });
    };
    say(MajorState::Running, "extensions and statistics".to_owned());
    let databases = match psql(member, "postgres", "SELECT datname FROM pg_database WHERE datallowconn").await
    {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!("failed to list the databases: {error}");
            return false;
        }
    };
    let mut behind = Vec::new();
    for database in databases.lines() {
        // One that fails leaves the others be: pg_upgrade carries all of them over as they were.
        let tried = psql(member, database, EXTENSIONS).await;
        let left = psql(member, database, BEHIND).await;
        match (tried, left) {
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!("failed to update extensions of {database}: {error}");
                return false;
            }
            (_, Ok(names)) => behind.extend(names.lines().map(|name| format!("{name} in {database}"))),
        }
    }
    let mut statistics = command(member, "vacuumdb");
    statistics.args(["--all", "--analyze-in-stages", "--quiet", "--jobs", "2"]);
    // From there on pg_upgrade brings them along, but for those of CREATE STATISTICS.
    if mark.to.major() >= 18 {
        statistics.arg("--missing-stats-only");
    }
    if let Err(error) = member.children.output(&mut statistics, PATIENCE).await {
        tracing::warn!("failed to rebuild statistics: {error}");
        return false;
    }
    let words = match behind.as_slice() {
        [] => String::new(),
        behind => format!("extensions that could not be updated: {}", behind.join(", ")),
    };
    say(MajorState::Finished, words);
    true
}

fn command(member: &Member, program: &str) -> Command {
    let mut command = Command::new(program);
    command.arg("--host").arg(&member.environment.sockets).args(["--username", SUPERUSER, "--no-password"]);
    // Settings of roles and databases must not end it.
    command.env("PGOPTIONS", "-c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off");
    command
}

async fn psql(member: &Member, database: &str, script: &str) -> std::io::Result<String> {
    let mut psql = command(member, "psql");
    psql.args(["--no-psqlrc", "--tuples-only", "--no-align", "--quiet", "--dbname", database]);
    // With --command, \gexec would be part of the statement.
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), script)?;
    psql.arg("--file").arg(file.path());
    member.children.output(&mut psql, PATIENCE).await
}
