//! `dbctl rotate-credentials`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use kube::ResourceExt;

use super::error::{CliError, Result};
use super::request::{self, Asked, How};
use super::session::Session;
use super::{Context, complete, confirm, output};
use crate::api::{CredentialsOf, Database, Names, RotateArguments, Verb};
use crate::plan::Assessment;

/// Give a database's roles new passwords
///
/// New random passwords are written into Secrets NAME-app and NAME-internal, the primary sets them within seconds, and members
/// log in to each other with them from then on. Nothing restarts, no session ends and no write waits. What opens a session of
/// role app afterwards needs the new password: a program that has read Secret NAME-app only when it started must be restarted.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl rotate-credentials orders-db --dry-run       # which Secrets, and what it means for sessions
  dbctl rotate-credentials orders-db --of app --wait
  dbctl rotate-credentials orders-db --of internal --yes --wait")]
pub struct RotateArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Whose passwords
    #[arg(long, value_enum, value_name = "WHOSE", default_value_t)]
    of: Whose,

    #[command(flatten)]
    how: How,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Whose passwords, as it is typed.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Whose {
    /// Both
    #[default]
    All,
    /// That of role app, for applications: Secret NAME-app
    App,
    /// Those that members use among themselves, and the superuser's: Secret NAME-internal
    Internal,
}

impl Whose {
    fn credentials(self) -> CredentialsOf {
        match self {
            Self::All => CredentialsOf::All,
            Self::App => CredentialsOf::App,
            Self::Internal => CredentialsOf::Internal,
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, args: RotateArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("rotate the credentials of database {:?}", args.name);
    let (database, _, assessment) = request::look(context, &session, &args.name, &doing).await?;
    check_primary(context, &assessment, &args.name, &doing)?;
    args.how.show(context, &render(&database, &session.namespace, args.of))?;
    request::check_idle(context, &database, Verb::RotateCredentials, &doing)?;
    if args.how.dry_run {
        return Ok(());
    }
    if !args.how.yes {
        let no = format!("the passwords of database {:?} stay as they are", args.name);
        confirm::yes(context, "Make new passwords?", &no)?;
    }
    let (verb, arguments) = (Verb::RotateCredentials, RotateArguments { of: args.of.credentials() });
    let id = request::put(context, &session, &database, verb, &arguments, &doing).await?;
    if !args.how.wait {
        request::tell_how_to_follow(context, &args.name, verb, &id);
        return Ok(());
    }
    let asked = Asked { database: &database, verb, id: &id, timeout: args.timeout };
    let outcome = request::follow(context, &session, &asked, |_| true).await?;
    let done = outcome.operation.message.unwrap_or_else(|| "done".to_owned());
    context.ui.note(format_args!("database {:?}: {done}", args.name));
    Ok(())
}

/// Only a primary can set passwords.
fn check_primary(context: &Context, assessment: &Assessment, name: &str, doing: &str) -> Result<()> {
    if assessment.healthy_primary().is_some() {
        return Ok(());
    }
    let problem = assessment.primary.as_ref();
    let problem = problem.and_then(|leader| Some(format!(" ({} {})", leader.name, leader.problem.as_ref()?)));
    Err(CliError::refused(format!(
        "failed to {doing}: no primary is running{}, and it is the primary that sets passwords",
        problem.unwrap_or_default()
    ))
    .hint(format!("see how it is: {} status {name}", context.invocation())))
}

fn render(database: &Database, namespace: &str, of: Whose) -> String {
    let name = database.name_any();
    let names = Names(&name);
    let mut text = format!("New passwords for database {name:?} in namespace {namespace:?}:\n");
    let mut line = |head: String, words: &str| {
        let indent = " ".repeat(4);
        let _ = writeln!(text, "  Secret {head}");
        let _ = writeln!(
            text,
            "{indent}{}",
            output::wrapped(words, 74, "").replace('\n', &format!("\n{indent}"))
        );
    };
    if matches!(of, Whose::All | Whose::App) {
        line(
            names.app_secret(),
            "role app. Sessions go on; who opens one afterwards needs the new password, so a program that read the Secret when \
             it started must be restarted",
        );
    }
    if matches!(of, Whose::All | Whose::Internal) {
        line(
            names.internal_secret(),
            "the superuser, replication and pg_rewind. Members go over by themselves; while a backup is under way it is refused",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::failover::preview::tests::{database, healthy};
    use super::*;

    #[test]
    fn what_changes_is_shown_first() {
        insta::assert_snapshot!(render(&database(), "shop", Whose::All), @r#"
        New passwords for database "db" in namespace "shop":
          Secret db-app
            role app. Sessions go on; who opens one afterwards needs the new password,
            so a program that read the Secret when it started must be restarted
          Secret db-internal
            the superuser, replication and pg_rewind. Members go over by themselves;
            while a backup is under way it is refused
        "#);
        let one = render(&database(), "shop", Whose::App);
        assert!(one.contains("db-app") && !one.contains("db-internal"), "{one}");
    }

    #[test]
    fn without_a_primary_it_is_refused() {
        let (assessment, mut observed) = healthy();
        check_primary(&Context::plain(), &assessment, "db", "x").unwrap();
        observed.answers.get_mut("db-0").unwrap().state = "stopped".into();
        let assessment = crate::plan::assess("db", &observed, "2026-11-22T10:00:07Z".parse().unwrap());
        let error = check_primary(&Context::plain(), &assessment, "db", "x").unwrap_err();
        assert_eq!(
            error.message,
            "failed to x: no primary is running (db-0 is stopped), and it is the primary that sets passwords"
        );
    }
}
