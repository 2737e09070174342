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
use crate::api::Database;
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

/// Only the global options of a command line.
#[derive(Parser)]
#[command(ignore_errors = true, disable_help_flag = true, disable_version_flag = true)]
struct Line {
    #[command(flatten)]
    global: Global,
    #[arg(trailing_var_arg = true, allow_hyphen_values = false)]
    _rest: Vec<OsString>,
}

/// The global options as typed so far; the shell passes the line after `--`.
fn global() -> Option<Global> {
    let typed = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
    let matches = Line::command().try_get_matches_from(typed).ok()?;
    Line::from_arg_matches(&matches).ok().map(|line| line.global)
}

fn databases(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates::<Database>(current, false)
}

/// Pods are completed where only the sandbox's are meant.
fn pods(current: &OsStr) -> Vec<CompletionCandidate> {
    candidates::<Pod>(current, true)
}

/// The names that begin with what was typed; none where they cannot be had at once.
fn candidates<K>(current: &OsStr, sandbox: bool) -> Vec<CompletionCandidate>
where
    K: Clone + std::fmt::Debug + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let current = current.to_string_lossy();
    let global = global().map(|global| Global { sandbox: global.sandbox || sandbox, ..global });
    let names = global.and_then(|global| single(async move { Ok(names::<K>(global).await) }).ok().flatten());
    let matching = names.into_iter().flatten().filter(|name| name.starts_with(current.as_ref()));
    matching.map(CompletionCandidate::new).collect()
}

async fn names<K>(global: Global) -> Option<Vec<String>>
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
        let list = api.list(&ListParams::default().limit(LIMIT)).await.ok()?;
        Some(list.into_iter().map(|object| object.name_any()).collect())
    };
    tokio::time::timeout(PATIENCE, work).await.ok().flatten()
}
