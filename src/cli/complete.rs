//! Completion of names: what the shell asks for while a command line is typed.

use std::ffi::{OsStr, OsString};
use std::sync::mpsc;
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::config::Kubeconfig;
use kube::core::{NamespaceResourceScope, PartialObjectMeta};
use kube::{Api, Resource, ResourceExt, api::ListParams};

use super::session::Session;
use super::ui::{ColorChoice, Ui};
use super::{Context, Global, output, plugin, single};
use crate::api::{Catalog, Database, LABEL_DATABASE, Names};
use crate::sandbox::daemon::{Daemon, State};
use crate::sandbox::home::Home;

/// A shell does not wait longer than this for names.
const PATIENCE: Duration = Duration::from_millis(800);
/// More names than this help nobody.
const LIMIT: u32 = 200;

/// Completes names of databases.
pub fn database() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, |line| line.names::<Database>("")))
}

/// Completes names of pods; only the sandbox's are meant where that is asked for.
pub fn pod() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        candidates(current, |line| {
            let global = Global { sandbox: true, ..line.global };
            Line { global, ..line }.names::<Pod>("")
        })
    })
}

/// Completes names of members: those of the database that the line names, if it names one already.
pub fn member() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        candidates(current, |line| {
            let named = line.named("name");
            let members = line.names::<Pod>(LABEL_DATABASE)?.into_iter();
            Some(members.filter(|(member, _)| is_member(member, named.as_deref())).collect())
        })
    })
}

/// Completes ids of backups: those of the database that the line names, or that it restores from.
pub fn backup() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, |line| line.backups()))
}

/// Completes names of namespaces.
pub fn namespace() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, |line| line.namespaces()))
}

/// Completes names of the kubeconfig's contexts.
pub fn context() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| candidates(current, |line| line.contexts()))
}

/// Names, and a word about each.
type Found = Vec<(String, Option<String>)>;

/// Only the global options of a command line.
#[derive(Parser)]
#[command(ignore_errors = true, disable_help_flag = true, disable_version_flag = true)]
struct Globals {
    #[command(flatten)]
    global: Global,
    #[arg(trailing_var_arg = true, allow_hyphen_values = false)]
    _rest: Vec<OsString>,
}

/// A command line as typed so far.
struct Line {
    words: Vec<OsString>,
    global: Global,
}

/// The line as typed so far, which the shell passes after `--`, and kubectl as it is.
fn typed() -> Vec<OsString> {
    let mut words = std::env::args_os();
    let program = words.next().unwrap_or_default();
    if plugin::completes(&program) {
        return std::iter::once(program).chain(words).collect();
    }
    words.skip_while(|arg| arg != "--").skip(1).collect()
}

impl Line {
    fn of(words: Vec<OsString>) -> Option<Self> {
        let matches = Globals::command().try_get_matches_from(&words).ok()?;
        let global = Globals::from_arg_matches(&matches).ok()?.global;
        Some(Self { words, global })
    }

    /// What the line says for that argument, wherever it does.
    fn named(&self, id: &str) -> Option<String> {
        let definition = super::command().ignore_errors(true);
        let whole = definition.try_get_matches_from(&self.words).ok()?;
        let mut matches = &whole;
        let mut found = None;
        loop {
            let own = matches.try_get_one::<String>(id).ok().flatten();
            found = own.filter(|name| !name.is_empty()).cloned().or(found);
            match matches.subcommand() {
                Some((_, sub)) => matches = sub,
                None => return found,
            }
        }
    }

    /// A session, but for that it starts nothing.
    async fn session(&self) -> Option<Session> {
        let context = Context { global: self.global.clone(), ui: Ui::new(ColorChoice::Never) };
        // Completing a word must not start a sandbox.
        if self.global.sandbox && !matches!(Daemon::new(Home::locate().ok()?).state(), Ok(State::Ready(_))) {
            return None;
        }
        Session::open(&context).await.ok()
    }

    /// Names of objects whose labels match.
    fn names<K>(&self, labels: &str) -> Option<Found>
    where
        K: Clone + std::fmt::Debug + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        blocking(async {
            let session = self.session().await?;
            let api: Api<PartialObjectMeta<K>> = Api::namespaced(session.client, &session.namespace);
            let list = api.list(&ListParams::default().labels(labels).limit(LIMIT)).await.ok()?;
            Some(list.into_iter().map(|object| (object.name_any(), None)).collect())
        })
    }

    fn namespaces(&self) -> Option<Found> {
        blocking(async {
            let api: Api<PartialObjectMeta<Namespace>> = Api::all(self.session().await?.client);
            let list = api.list(&ListParams::default().limit(LIMIT)).await.ok()?;
            Some(list.into_iter().map(|object| (object.name_any(), None)).collect())
        })
    }

    fn backups(&self) -> Option<Found> {
        let database = self.named("from").or_else(|| self.named("name"))?;
        blocking(async {
            let session = self.session().await?;
            let maps: Api<ConfigMap> = Api::namespaced(session.client, &session.namespace);
            let map = maps.get_opt(&Names(&database).backups()).await.ok()??;
            Some(catalog(&Catalog::of(&serde_json::to_value(map).ok()?)?))
        })
    }

    fn contexts(&self) -> Option<Found> {
        let read = match &self.global.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let named = |context: kube::config::NamedContext| {
            let cluster = context.context.map(|context| context.cluster);
            (context.name, cluster)
        };
        Some(read.ok()?.contexts.into_iter().map(named).collect())
    }
}

/// Ids, newest first, with when and how large.
fn catalog(catalog: &Catalog) -> Found {
    let about = |entry: &crate::api::CatalogEntry| {
        let size = i64::try_from(entry.bytes).unwrap_or(i64::MAX);
        (entry.id.clone(), Some(format!("{}, {}", output::instant(entry.stopped_at), output::bytes(size))))
    };
    catalog.backups.iter().map(about).collect()
}

/// Whether a pod is a member of that database; of any, where none is named.
fn is_member(pod: &str, named: Option<&str>) -> bool {
    match named {
        Some(name) => Names(name).ordinal(pod).is_some(),
        None => pod.rsplit_once('-').is_some_and(|(_, ordinal)| ordinal.parse::<u32>().is_ok()),
    }
}

fn blocking<T>(work: impl Future<Output = Option<T>>) -> Option<T> {
    single(async { Ok(work.await) }).ok().flatten()
}

/// The names that begin with what was typed; none where they cannot be had at once. What looks for them is left behind:
/// reading a kubeconfig may run a program, which no runtime can cut short.
fn candidates(
    current: &OsStr,
    find: impl FnOnce(Line) -> Option<Found> + Send + 'static,
) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy().into_owned();
    let (sender, receiver) = mpsc::channel();
    let finder = move || drop(sender.send(Line::of(typed()).and_then(find)));
    if std::thread::Builder::new().spawn(finder).is_err() {
        return Vec::new();
    }
    let found = receiver.recv_timeout(PATIENCE).ok().flatten().unwrap_or_default();
    let matching = found.into_iter().filter(|(name, _)| name.starts_with(&current));
    matching.map(|(name, about)| CompletionCandidate::new(name).help(about.map(Into::into))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line::of(text.split(' ').map(Into::into).collect()).unwrap()
    }

    #[test]
    fn the_database_is_found_wherever_the_line_names_it() {
        for (text, id, expected) in [
            ("dbctl failover orders-db --to ", "name", Some("orders-db")),
            ("dbctl -n x failover --timeout 5m --to o orders-db", "name", Some("orders-db")),
            ("dbctl failover --to ", "name", None),
            ("dbctl restart orders --member ", "name", Some("orders")),
            ("dbctl backup verify db --backup ", "name", Some("db")),
            ("dbctl restore new --from old --backup ", "from", Some("old")),
            ("dbctl logs db --member ", "name", Some("db")),
            ("dbctl --sandbox status ", "name", None),
        ] {
            assert_eq!(line(text).named(id).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn members_are_those_of_the_database_that_is_named() {
        for (member, named, expected) in [
            ("orders-db-1", Some("orders-db"), true),
            ("other-1", Some("orders-db"), false),
            ("orders-db-1", Some("orders"), false),
            ("other-1", None, true),
            ("db-backup-x7y", None, false),
        ] {
            assert_eq!(is_member(member, named), expected, "{member} {named:?}");
        }
    }

    #[test]
    fn global_options_are_those_of_the_line() {
        let line = line("dbctl --sandbox -n shop status ");
        assert!(line.global.sandbox);
        assert_eq!(line.global.namespace.as_deref(), Some("shop"));
    }

    #[test]
    fn nothing_is_said_where_nobody_finds_anything_in_time() {
        let slow = |_: Line| {
            std::thread::sleep(Duration::from_secs(600));
            Some(vec![("late".to_owned(), None)])
        };
        assert!(candidates(OsStr::new(""), slow).is_empty());
    }
}
