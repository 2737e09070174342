//! Completion of names: what the shell asks for while a command line is typed.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use k8s_openapi::api::core::v1::Pod;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt, api::ListParams};

use super::session::Session;
use super::ui::{ColorChoice, Ui};
use super::{Context, Global, single};
use crate::api::{Database, LABEL_DATABASE};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// A shell does not wait longer than this for names.
const PATIENCE: Duration = Duration::from_millis(800);
/// More names than this help nobody.
const LIMIT: u32 = 200;

/// Completes names of databases.
pub fn database() -> ArgValueCompleter {
    ArgValueCompleter::new(databases)
}

/// Completes names of pods.
pub fn pod() -> ArgValueCompleter {
    ArgValueCompleter::new(pods)
}

/// Completes names of members: those of the database that the line names, if it names one already.
pub fn member() -> ArgValueCompleter {
    ArgValueCompleter::new(members)
}

/// Only the global options of a command line.
#[derive(Parser)]
#[command(ignore_errors = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[arg(trailing_var_arg = true, allow_hyphen_values = false)]
    _rest: Vec<OsString>,
}

/// The line as typed so far, which the shell passes after `--`.
fn typed() -> impl Iterator<Item = OsString> {
    std::env::args_os().skip_while(|arg| arg != "--").skip(1)
}

/// The global options as typed so far.
fn global() -> Option<Global> {
    let matches = Line::command().try_get_matches_from(typed()).ok()?;
    Line::from_arg_matches(&matches).ok().map(|line| line.global)
}

fn databases(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates::<Database>(current, false)
}

/// Pods are completed where only the sandbox's are meant.
fn pods(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates::<Pod>(current, true)
}

fn members(current: &OsStr) -> Vec<CompletionCandidate> {
    let typed: Vec<String> = typed().map(|word| word.to_string_lossy().into_owned()).collect();
    candidates_of::<Pod>(current, false, LABEL_DATABASE)
        .into_iter()
        .filter(|candidate| of_named(&typed, &candidate.get_value().to_string_lossy()))
        .collect()
}

/// Whether a member belongs to a database that the line names; to any, where it names none.
fn of_named(typed: &[String], member: &str) -> bool {
    let Some((database, _)) = member.rsplit_once('-') else { return false };
    let verb = typed.iter().position(|word| word == "failover" || word == "restart");
    let mut rest = typed.iter().skip(verb.map_or(usize::MAX, |verb| verb.saturating_add(1)));
    let mut named = None;
    while let Some(word) = rest.next() {
        if matches!(word.as_str(), "--to" | "--member" | "--timeout" | "-n" | "--namespace") {
            rest.next();
        } else if !word.is_empty() && !word.starts_with('-') {
            named = Some(word);
            break;
        }
    }
    named.is_none_or(|name| name == database)
}

/// The names that begin with what was typed; none where they cannot be had at once.
fn candidates<K>(current: &OsStr, sandbox: bool) -> Vec<CompletionCandidate>
where
    K: Clone + std::fmt::Debug + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    candidates_of::<K>(current, sandbox, "")
}

/// The same, of those whose labels match.
fn candidates_of<K>(current: &OsStr, sandbox: bool, labels: &str) -> Vec<CompletionCandidate>
where
    K: Clone + std::fmt::Debug + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let current = current.to_string_lossy();
    let global = global().map(|global| Global { sandbox: global.sandbox || sandbox, ..global });
    let names =
        global.and_then(|global| single(async { Ok(names::<K>(global, labels).await) }).ok().flatten());
    let matching = names.into_iter().flatten().filter(|name| name.starts_with(current.as_ref()));
    matching.map(CompletionCandidate::new).collect()
}

async fn names<K>(global: Global, labels: &str) -> Option<Vec<String>>
where
    K: Clone + std::fmt::Debug + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let context = Context { global, ui: Ui::new(ColorChoice::Never) };
    // Completing a word must not start a sandbox.
    if context.global.sandbox && !matches!(Daemon::new(Home::locate().ok()?).state(), Ok(State::Ready(_))) {
        return None;
    }
    let work = async {
        let session = Session::open(&context).await.ok()?;
        let api: Api<PartialObjectMeta<K>> = Api::namespaced(session.client, &session.namespace);
        let list = api.list(&ListParams::default().labels(labels).limit(LIMIT)).await.ok()?;
        Some(list.into_iter().map(|object| object.name_any()).collect())
    };
    tokio::time::timeout(PATIENCE, work).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_those_of_the_database_that_is_named() {
        let of = |line: &str, member: &str| {
            of_named(&line.split(' ').map(str::to_owned).collect::<Vec<_>>(), member)
        };
        for (line, member, expected) in [
            ("dbctl failover orders-db --to ", "orders-db-1", true),
            ("dbctl failover orders-db --to ", "other-1", false),
            ("dbctl -n x failover --timeout 5m --to o orders-db", "orders-db-0", true),
            ("dbctl failover --to ", "other-1", true),
            ("dbctl restart orders --member ", "orders-db-1", false),
        ] {
            assert_eq!(of(line, member), expected, "{line} {member}");
        }
    }
}
