//! `dbctl report`.

mod archive;
mod collect;
mod redact;

use std::path::PathBuf;

use clap::Args;

use super::error::{CliError, Result};
use super::session::Session;
use super::{Context, complete, doctor, output};
use archive::Files;

/// Pack everything that somebody who helps needs to see into one file
///
/// The Database, its objects, events and nodes, its pods' logs (of the container before, too), what Patroni and the agents answer, the
/// controller's log, versions, and what `dbctl doctor` says. No password or key is in it: of Secrets there are names and lengths, and
/// their values are taken out of everything else, as is whatever looks like one. What could not be read is listed in its README.txt.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl report orders-db
  dbctl report orders-db --output /tmp/orders-db.tar.zst
  tar -tzf orders-db-report-20261122T100000Z.tar.gz")]
pub struct ReportArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// The file, packed by zstd where it ends with .zst, by gzip otherwise; there must be none yet
    /// [default: NAME-report-TIME.tar.gz]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// Where there is no such database, or the file is there already or cannot be written.
pub async fn run(context: &Context, args: ReportArgs) -> Result<()> {
    let now = jiff::Timestamp::now();
    let directory = format!("{}-report-{}", args.name, now.strftime("%Y%m%dT%H%M%SZ"));
    let path = args.output.unwrap_or_else(|| PathBuf::from(format!("{directory}.tar.gz")));
    if path.exists() {
        return Err(CliError::usage(format!("{} is there already: nothing was written", path.display()))
            .hint("give another name with --output"));
    }
    let session = Session::open(context).await?;
    let (diagnosis, page) = Box::pin(doctor::examine(context, &args.name)).await?;
    let mut collected = Box::pin(collect::collect(&session, &args.name)).await;
    collected.add("doctor.txt", page);
    collected.add("doctor.json", output::document(output::Document::Json, &diagnosis)?);
    let redactor = redact::Redactor::new(&collected.secrets).map_err(CliError::failed)?;
    let mut files: Files =
        collected.files.iter().map(|(name, text)| (name.clone(), redactor.text(text))).collect();
    files.insert("README.txt".to_owned(), redactor.text(&readme(&args.name, now, &collected)));
    let count = files.len();
    let size = archive::write(&path, &directory, &files, now)
        .map_err(|error| CliError::failed(format!("write {}: {error}", path.display())))?;
    let size = output::bytes(i64::try_from(size).unwrap_or(i64::MAX));
    context.ui.note(format_args!("{count} files, {size}; passwords and keys are taken out"));
    for unread in &collected.unread {
        context.ui.warn(redactor.text(unread));
    }
    context.ui.data(format_args!("{}\n", path.display()))
}

/// What is in it, and what is not.
fn readme(name: &str, now: jiff::Timestamp, collected: &collect::Collected) -> String {
    let mut text = format!(
        "A report about database {name:?}, made by dbctl {} at {now}.\n\n\
         Begin with doctor.txt. Values of Secrets, and what looks like a password or key, are replaced by\n\
         [redacted]; logs may still hold data of users, such as values in failed statements.\n\nFiles:\n",
        crate::api::VERSION
    );
    for file in collected.files.keys() {
        text.push_str(&format!("  {file}\n"));
    }
    if !collected.unread.is_empty() {
        text.push_str("\nNot read:\n");
        for unread in &collected.unread {
            text.push_str(&format!("  {unread}\n"));
        }
    }
    text
}
