//! `dbctl restart`.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use kube::ResourceExt;

use super::error::{CliError, Result};
use super::request::{self, Asked, How};
use super::session::Session;
use super::{Context, complete, confirm, output};
use crate::api::{Database, RestartArguments, Verb};
use crate::plan::{Assessment, Move, Unfit};

/// Restart PostgreSQL of a database's members, one after the other
///
/// Replicas come first; before the primary's turn its role moves to a replica, so that writes are down for about a second. A
/// database with one member is restarted in place, and nobody can read or write meanwhile. The order is shown first, and is
/// asked for by a confirmation.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  dbctl restart orders-db --dry-run                # the order, and what it means for sessions
  dbctl restart orders-db --wait
  dbctl restart orders-db --member orders-db-2 --yes --wait")]
pub struct RestartArgs {
    /// Name of the database
    #[arg(value_name = "NAME", add = complete::database())]
    name: String,

    /// The one member to restart [default: all]
    #[arg(long, value_name = "MEMBER", add = complete::member())]
    member: Option<String>,

    #[command(flatten)]
    how: How,

    /// How long --wait waits
    #[arg(long, value_name = "DURATION", default_value = "15m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

/// Runs the command.
///
/// # Errors
/// Where it is refused, fails, or does not end in time.
pub async fn run(context: &Context, args: RestartArgs) -> Result<()> {
    let session = Session::open(context).await?;
    let doing = format!("restart database {:?}", args.name);
    let (database, _, assessment) = request::look(context, &session, &args.name, &doing).await?;
    let plan = Order::new(&assessment, args.member.as_deref())
        .map_err(|problem| problem.into_error(context, &args.name, &doing))?;
    args.how.show(context, &plan.render(&database, &session.namespace))?;
    request::check_idle(context, &database, Verb::Restart, &doing)?;
    if args.how.dry_run {
        return Ok(());
    }
    if !args.how.yes {
        let question = format!("Restart {}?", plan.members.join(", "));
        confirm::yes(context, &question, &format!("database {:?} is not restarted", args.name))?;
    }
    let arguments = RestartArguments { member: args.member.clone() };
    let id = request::put(context, &session, &database, Verb::Restart, &arguments, &doing).await?;
    if !args.how.wait {
        request::tell_how_to_follow(context, &args.name, Verb::Restart, &id);
        return Ok(());
    }
    let asked = Asked { database: &database, verb: Verb::Restart, id: &id, timeout: args.timeout };
    let outcome = request::follow(context, &session, &asked, |_| true).await?;
    let done = outcome.operation.message.unwrap_or_else(|| "restarted".to_owned());
    context.ui.note(format_args!("database {:?}: {done}", args.name));
    Ok(())
}

/// Who restarts, in which order, and who is primary meanwhile.
#[derive(Debug, PartialEq)]
struct Order {
    members: Vec<String>,
    /// The primary, where it is among them.
    primary: Option<String>,
    /// The role moves there before the primary's turn; nowhere where nobody can take it.
    next: Option<String>,
    /// It is all there is.
    alone: bool,
}

/// Why there is no order.
#[derive(Debug, PartialEq)]
enum NoOrder {
    Unknown { member: String, known: Vec<String> },
    NoPrimary { problem: Option<String> },
}

impl NoOrder {
    fn into_error(self, context: &Context, name: &str, doing: &str) -> CliError {
        match self {
            Self::Unknown { member, known } => CliError::not_found(format!(
                "failed to {doing}: there is no member {member}; the members are {}",
                known.join(", ")
            )),
            Self::NoPrimary { problem } => {
                let why = problem.map(|problem| format!(" ({problem})")).unwrap_or_default();
                CliError::refused(format!(
                    "failed to {doing}: no primary is running{why}, and to restart members would make that worse"
                ))
                .hint(format!("see how it is: {} status {name}", context.invocation()))
                .hint("to restart one member all the same, name it with --member")
            }
        }
    }
}

impl Order {
    /// As the controller goes about it: the highest first, the primary last.
    fn new(assessment: &Assessment, member: Option<&str>) -> Result<Self, NoOrder> {
        let known = assessment.members();
        if let Some(member) = member.filter(|member| !known.contains(member)) {
            let known = known.into_iter().map(str::to_owned).collect();
            return Err(NoOrder::Unknown { member: member.to_owned(), known });
        }
        let leader = assessment.primary.as_ref();
        if member.is_none() && assessment.healthy_primary().is_none() {
            let problem =
                leader.and_then(|leader| Some(format!("{} {}", leader.name, leader.problem.as_ref()?)));
            return Err(NoOrder::NoPrimary { problem });
        }
        let members: Vec<String> = match member {
            Some(member) => vec![member.to_owned()],
            None => {
                let others = assessment.candidates.iter().rev();
                let stay = others.filter(|other| other.unfit != Some(Unfit::Leaving));
                let names = stay.map(|other| &other.name).chain(leader.map(|leader| &leader.name));
                names.cloned().collect()
            }
        };
        let primary = leader.map(|leader| leader.name.clone()).filter(|leader| members.contains(leader));
        let next = match assessment.choose(None, false) {
            Ok(chosen @ Move::Switchover { .. }) if primary.is_some() => {
                Some(assessment.heirs(&chosen, false))
            }
            _ => None,
        };
        Ok(Self { members, primary, next, alone: known.len() == 1 })
    }

    fn render(&self, database: &Database, namespace: &str) -> String {
        let name = database.name_any();
        let mut text = format!("Restart of database {name:?} in namespace {namespace:?}:\n");
        for (index, member) in self.members.iter().enumerate() {
            let number = index + 1;
            let what = if self.primary.as_deref() == Some(member) {
                match &self.next {
                    Some(next) => format!("the primary, after its role has moved, to {next} as it stands"),
                    None if self.alone => "the only member".to_owned(),
                    None => "the primary, in place: nobody can take its role over".to_owned(),
                }
            } else {
                "a replica".to_owned()
            };
            let _ = writeln!(text, "  {number}. {member}: {what}");
        }
        let sessions = match (&self.primary, &self.next) {
            _ if self.alone => "all end, and nobody can read or write until it runs again",
            (Some(_), None) => {
                "those on a member end when it is its turn; nobody can write until the primary runs again"
            }
            (Some(_), Some(_)) => {
                "those on a member end when it is its turn; writes are down for about a second when the role moves"
            }
            (None, _) => "those on that member end; those on others, and writes, go on",
        };
        let _ = writeln!(
            text,
            "  sessions: {}",
            output::wrapped(sessions, 68, "").replace('\n', "\n            ")
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::failover::preview::tests::{database, healthy};
    use super::*;
    use crate::plan::assess;
    use crate::plan::{Kind, Observed};

    fn render(assessment: &Assessment, member: Option<&str>) -> String {
        match Order::new(assessment, member) {
            Ok(order) => order.render(&database(), "shop"),
            Err(problem) => {
                let error = problem.into_error(&Context::plain(), "db", "restart database \"db\"");
                format!("{:?}: {}", error.outcome, error.message)
            }
        }
    }

    #[test]
    fn replicas_restart_first_and_the_role_moves_before_the_primary() {
        let (assessment, _) = healthy();
        insta::assert_snapshot!(render(&assessment, None), @r#"
        Restart of database "db" in namespace "shop":
          1. db-2: a replica
          2. db-1: a replica
          3. db-0: the primary, after its role has moved, to db-1 as it stands
          sessions: those on a member end when it is its turn; writes are down for about
                    a second when the role moves
        "#);
        insta::assert_snapshot!(render(&assessment, Some("db-2")), @r#"
        Restart of database "db" in namespace "shop":
          1. db-2: a replica
          sessions: those on that member end; those on others, and writes, go on
        "#);
        insta::assert_snapshot!(render(&assessment, Some("db-0")), @r#"
        Restart of database "db" in namespace "shop":
          1. db-0: the primary, after its role has moved, to db-1 as it stands
          sessions: those on a member end when it is its turn; writes are down for about
                    a second when the role moves
        "#);
    }

    #[test]
    fn the_only_member_restarts_in_place_with_a_warning() {
        let (_, mut observed) = healthy();
        for gone in ["db-1", "db-2"] {
            observed.remove(Kind::Pod, gone);
        }
        insta::assert_snapshot!(render(&of(&observed), None), @r#"
        Restart of database "db" in namespace "shop":
          1. db-0: the only member
          sessions: all end, and nobody can read or write until it runs again
        "#);
    }

    #[test]
    fn unknown_members_and_databases_without_a_primary_are_refused() {
        let (assessment, mut observed) = healthy();
        insta::assert_snapshot!(render(&assessment, Some("db-9")), @r#"NotFound: failed to restart database "db": there is no member db-9; the members are db-0, db-1, db-2"#);
        observed.answers.get_mut("db-0").unwrap().state = "stopped".into();
        insta::assert_snapshot!(render(&of(&observed), None), @r#"Refused: failed to restart database "db": no primary is running (db-0 is stopped), and to restart members would make that worse"#);
        assert!(Order::new(&of(&observed), Some("db-0")).is_ok(), "a single one may be what mends it");
    }

    fn of(observed: &Observed) -> Assessment {
        assess("db", observed, "2026-11-22T10:00:07Z".parse().unwrap())
    }
}
