//! `dbctl failover`.

pub(super) mod preview;

use std::time::Duration;

use clap::Args;
use kube::ResourceExt;

use super::error::{CliError, Result};
use super::request::{self, Asked, How, Outcome};
use super::session::Session;
use super::{Context, complete, confirm, output};
use crate::api::{Database, Failover, FailoverArguments, Verb};
use crate::plan::{Assessment, Loss, Move, Refusal};
use preview::Preview;

/// Make another member the primary
///
/// With a healthy primary this is a switchover: the primary stops in good order, the candidate has everything, and writes are
/// down for about a second. All sessions on the primary end; clients connect again through the same address. Without a healthy
/// primary Patroni elects a fit member by itself; where it may not, since commits are at stake, --force gives them up.
///
/// What would happen is shown first, and is asked for by a confirmation. What is unsafe is refused with exit code 5.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl failover orders-db --dry-run               # who would take over, and what it would cost
  dbctl failover orders-db --wait                  # to the fittest member, and follow it
  dbctl failover orders-db --to orders-db-2 --yes --wait
  dbctl failover orders-db --force                 # the primary is gone for good: says what is lost")]
pub struct FailoverArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// Member that is to be the primary [default: the fittest]
    #[arg(long, value_name = "MEMBER", add = complete::member())]
    to: Option<String>,

    /// Promote a member although nobody leads and commits may be lost; never one that is on another timeline
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    how: How,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, args: FailoverArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("fail over database {:?}", args.name);
    let (database, sight, assessment) = request::look(context, &session, &args.name, &doing).await?;
    let chosen = assessment.choose(args.to.as_deref(), args.force);
    if let Err(refusal) = chosen.as_ref().map_err(|refusal| refusal.clone())
        && refusal.is_not_found()
    {
        return Err(refused(&doing, &refusal));
    }
    let preview = Preview {
        name: &args.name,
        namespace: &session.namespace,
        assessment: &assessment,
        chosen: chosen.as_ref().ok(),
        named: args.to.is_some(),
        silent: &sight.silent,
    };
    args.how.show(context, &preview.render())?;
    let chosen = match chosen {
        Ok(chosen) => Some(chosen),
        // The controller waits until the old primary cannot be alive any more.
        Err(refusal) if args.force && refusal.is_passing() => {
            context.ui.note(format_args!("not yet: {refusal}"));
            None
        }
        Err(refusal) => return Err(refused(&doing, &refusal)),
    };
    request::check_idle(context, &database, Verb::Failover, &doing)?;
    if args.how.dry_run {
        return Ok(());
    }
    confirmed(context, &args, &assessment, chosen.as_ref())?;
    let arguments = arguments(&args, &assessment, chosen.as_ref());
    let id = request::put(context, &session, &database, Verb::Failover, &arguments, &doing).await?;
    if !args.how.wait {
        request::tell_how_to_follow(context, &args.name, Verb::Failover, &id);
        return Ok(());
    }
    let asked = Asked { database: &database, verb: Verb::Failover, id: &id, timeout: args.timeout };
    let outcome = request::follow(context, &session, &asked, |outcome| record(outcome).is_some()).await?;
    context.ui.note(ending(&database, &outcome));
    Ok(())
}

fn refused(doing: &str, refusal: &Refusal) -> CliError {
    let message = format!("failed to {doing}: {refusal}");
    if refusal.is_not_found() { CliError::not_found(message) } else { CliError::refused(message) }
}

/// A yes is enough where nothing is lost; else the name must be typed.
fn confirmed(
    context: &Context,
    args: &FailoverArgs,
    assessment: &Assessment,
    chosen: Option<&Move>,
) -> Result<()> {
    if args.how.yes {
        return Ok(());
    }
    let kept = format!("the primary of database {:?} is not changed", args.name);
    match chosen {
        Some(chosen @ Move::Switchover { from, .. }) => {
            let to = assessment.heirs(chosen, args.to.is_some());
            confirm::yes(context, &format!("Move the primary's role from {from} to {to}?"), &kept)
        }
        Some(Move::Failover { to, loss: Loss::Nothing }) => {
            confirm::yes(context, &format!("Promote {to}?"), &kept)
        }
        Some(Move::Failover { to, .. }) => {
            confirm::name(context, &args.name, &format!("promote {to} and give up what is lost"), &kept)
        }
        None => confirm::name(context, &args.name, "promote a member and give up what is lost", &kept),
    }
}

/// What is asked for is what was shown: if the primary is another one by then, or the switchover would have become a loss,
/// the controller refuses.
fn arguments(args: &FailoverArgs, assessment: &Assessment, chosen: Option<&Move>) -> FailoverArguments {
    let switchover = matches!(chosen, Some(Move::Switchover { .. }));
    FailoverArguments {
        // In a switchover everybody who may follow has every commit; in a failover it is this member's loss that was shown.
        to: match chosen {
            Some(Move::Failover { to, .. }) => Some(to.clone()),
            _ => args.to.clone(),
        },
        from: assessment.primary.as_ref().map(|primary| primary.name.clone()),
        force: args.force && (!switchover || assessment.paused),
    }
}

/// The controller's record of this very change.
fn record(outcome: &Outcome) -> Option<&Failover> {
    let begun = outcome.operation.started_at.as_ref()?;
    let to = outcome.operation.to.as_deref();
    outcome.status.failovers.iter().find(|failover| {
        Some(failover.to.as_str()) == to && failover.writable_at.as_ref().is_some_and(|at| at.0 >= begun.0)
    })
}

fn ending(database: &Database, outcome: &Outcome) -> String {
    let name = database.name_any();
    let primary =
        outcome.operation.to.as_deref().or(outcome.status.primary.as_deref()).unwrap_or("another member");
    let Some(failover) = record(outcome) else {
        return format!("{primary} is the primary of database {name:?}");
    };
    let down = failover
        .duration_seconds
        .map(|seconds| format!("; nobody could write for {}", output::seconds(seconds)));
    let timeline = failover.timeline.map(|timeline| format!(" (timeline {timeline})"));
    format!(
        "{primary} is the primary of database {name:?}{}{}",
        down.unwrap_or_default(),
        timeline.unwrap_or_default()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DatabaseStatus;
    use crate::cli::error::Outcome as Code;
    use clap::Parser as _;
    use serde_json::json;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: FailoverArgs,
    }

    fn args(words: &[&str]) -> FailoverArgs {
        Line::try_parse_from(["failover", "db"].iter().chain(words)).unwrap().args
    }

    #[test]
    fn a_loss_that_was_not_shown_is_not_forced() {
        let (assessment, _) = preview::tests::healthy();
        let switchover = assessment.choose(None, true).unwrap();
        let asked = arguments(&args(&["--force"]), &assessment, Some(&switchover));
        assert_eq!((asked.to.as_deref(), asked.from.as_deref(), asked.force), (None, Some("db-0"), false));
        let lossy = Move::Failover { to: "db-1".into(), loss: Loss::Unknown };
        assert!(arguments(&args(&["--force"]), &assessment, Some(&lossy)).force);
        let waits = arguments(&args(&["--force", "--to", "db-2"]), &assessment, None);
        assert_eq!((waits.to.as_deref(), waits.force), (Some("db-2"), true));
    }

    #[test]
    fn what_is_unknown_is_not_found_and_what_is_unsafe_is_refused() {
        let unknown = Refusal::NoSuchMember { name: "db-9".into(), known: vec!["db-0".into()] };
        assert_eq!(refused("x", &unknown).outcome, Code::NotFound);
        assert_eq!(refused("x", &Refusal::NotMade).outcome, Code::Refused);
    }

    #[test]
    fn it_ends_with_how_long_writes_were_down_in_this_change_and_no_other() {
        let database = crate::cli::failover::preview::tests::database();
        let status = |writable: &str| -> DatabaseStatus {
            serde_json::from_value(json!({
                "operations": [{ "id": "1", "kind": "failover", "phase": "Succeeded", "to": "db-1", "startedAt": "2026-11-22T10:00:00Z" }],
                "failovers": [{ "from": "db-0", "to": "db-1", "reason": "Switchover", "startedAt": "2026-11-22T09:59:59.9Z",
                    "writableAt": writable, "durationSeconds": 0.83, "timeline": 4 }],
            }))
            .unwrap()
        };
        let ends = |writable: &str| {
            let status = status(writable);
            let outcome = Outcome { operation: status.operations[0].clone(), status };
            (record(&outcome).is_some(), ending(&database, &outcome))
        };
        let text = "db-1 is the primary of database \"db\"; nobody could write for 0.8 s (timeline 4)";
        assert_eq!(ends("2026-11-22T10:00:01Z"), (true, text.into()));
        assert_eq!(ends("2026-11-22T09:00:01Z"), (false, "db-1 is the primary of database \"db\"".into()));
    }
}
