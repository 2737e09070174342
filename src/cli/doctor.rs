//! `dbctl doctor`.

mod backups;
mod certificates;
mod cluster;
mod database;
mod evidence;
mod finding;
mod gather;
mod log;
mod members;
mod render;
#[cfg(test)]
mod tests;

use clap::Args;
use kube::ResourceExt;
use serde::Serialize;

use super::error::{CliError, Outcome, Result};
use super::output::{self, Document};
use super::{Context, complete};
use evidence::{Evidence, Patient};
use finding::{Finding, Severity, settle};

/// Say what is wrong, why, since when, and what to type next
///
/// It looks at what the controller says, at Kubernetes' objects and events, at certificates, at what Patroni and the agents answer and
/// log, and at dbctl's own installation. What comes of something else is told below its cause. What cannot be read is said, and the rest goes on.
///
/// The exit code is 0 where nothing is wrong (notes may be shown), and 3 where something is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl doctor
  dbctl doctor orders-db
  dbctl doctor -A -o json | jq '.findings[] | {severity, database, code}'")]
pub struct DoctorArgs {
    /// Name of the database; all of the namespace without it
    #[arg(value_name = "NAME", add = complete::database())]
    name: Option<String>,

    /// In all namespaces
    #[arg(short = 'A', long, conflicts_with = "name")]
    all_namespaces: bool,

    /// How to print it, in place of text
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Document>,
}

/// What programs get.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Nothing is wrong.
    pub healthy: bool,
    /// What was looked at, as `NAMESPACE/NAME`.
    pub databases: Vec<String>,
    /// What was found, the worst first.
    pub findings: Vec<Finding>,
}

/// Runs the command.
///
/// # Errors
/// Where there is no such database, or something is wrong with what was looked at.
pub async fn run(context: &Context, args: DoctorArgs) -> Result<()> {
    let wanted = gather::Wanted { name: args.name.as_deref(), everywhere: args.all_namespaces };
    let evidence = Box::pin(gather::gather(context, wanted)).await?;
    let now = jiff::Timestamp::now();
    let diagnosis = diagnose(&evidence, now);
    match args.output {
        Some(format) => context.ui.data(output::document(format, &diagnosis)?)?,
        None => context.ui.data(render::render(&context.ui, &diagnosis, now))?,
    }
    if diagnosis.healthy { Ok(()) } else { Err(CliError::silent(Outcome::Unhealthy)) }
}

/// What is wrong with one database, for whoever collects more than that.
///
/// # Errors
/// Where there is no such database.
pub async fn examine(context: &Context, name: &str) -> Result<(Diagnosis, String)> {
    let wanted = gather::Wanted { name: Some(name), everywhere: false };
    let evidence = Box::pin(gather::gather(context, wanted)).await?;
    let now = jiff::Timestamp::now();
    let diagnosis = diagnose(&evidence, now);
    let text = render::render(&super::ui::Ui::new(super::ui::ColorChoice::Never), &diagnosis, now);
    Ok((diagnosis, text))
}

/// What follows from what was seen.
fn diagnose(evidence: &Evidence, now: jiff::Timestamp) -> Diagnosis {
    let findings = findings(evidence, now);
    let databases = evidence.databases.iter().map(title).collect();
    Diagnosis {
        healthy: findings.iter().all(|finding| finding.severity == Severity::Note),
        databases,
        findings,
    }
}

/// A database as findings name it.
fn title(patient: &Patient) -> String {
    let namespace = patient.database.namespace().unwrap_or_default();
    format!("{namespace}/{}", patient.database.name_any())
}

/// What is wrong, causes before what comes of them, the worst first. Pure.
fn findings(evidence: &Evidence, now: jiff::Timestamp) -> Vec<Finding> {
    let waits = |patient| {
        database::waiting(patient, Some(now)).into_iter().chain(certificates::waiting(patient, now))
    };
    let waiting: Vec<_> = evidence.databases.iter().flat_map(waits).collect();
    let mut all = cluster::findings(&evidence.cluster, &waiting);
    all.extend(cluster::unread(&evidence.unread));
    for patient in &evidence.databases {
        let found = database::findings(patient, now)
            .into_iter()
            .chain(certificates::findings(patient, now))
            .chain(members::findings(patient, now))
            .chain(backups::findings(patient, now))
            .chain(cluster::unread(&patient.unread));
        all.extend(found.map(|finding| Finding { database: Some(title(patient)), ..finding }));
    }
    all.extend(cluster::retained(&evidence.retained, &evidence.cluster.command));
    settle(all)
}
