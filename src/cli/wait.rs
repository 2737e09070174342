//! Waiting for a database, with what happens on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use tokio::time::{Instant, MissedTickBehavior};

use super::Context;
use super::error::{CliError, Result};
use super::members::{self, Member};
use super::output;
use super::progress::{Step, Steps};
use super::session::Session;
use crate::api::{Database, DatabaseStatus, Phase, reason};
use crate::sandbox::daemon::{Daemon, State};

/// Reasons that time does not cure.
const STUCK: [&str; 3] = [reason::NAME_TAKEN, reason::INVALID_SPEC, reason::RESTORE_FAILED];
/// How often what no event tells is looked at.
pub const TICK: Duration = Duration::from_secs(1);

/// What has been seen so far.
#[derive(Default)]
struct Seen {
    database: Option<Database>,
    pods: BTreeMap<String, Pod>,
    /// Whether all pods have been listed: before that, one that was not seen may well be there.
    listed: bool,
    gone: bool,
}

enum News {
    Database(Box<watcher::Event<Database>>),
    Pod(Box<watcher::Event<Pod>>),
    Trouble(watcher::Error),
}

impl Seen {
    fn apply(&mut self, uid: Option<&str>, news: News) -> Option<watcher::Error> {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match news {
            News::Database(event) => match *event {
                Apply(database) | InitApply(database) => {
                    // The same name with another uid is another database.
                    self.gone = database.metadata.uid.as_deref() != uid;
                    self.database = Some(database);
                }
                Delete(_) => self.gone = true,
                Init => self.database = None,
                InitDone => self.gone |= self.database.is_none(),
            },
            News::Pod(event) => match *event {
                Apply(pod) | InitApply(pod) => {
                    self.pods.insert(pod.name_any(), pod);
                }
                Delete(pod) => {
                    self.pods.remove(&pod.name_any());
                }
                Init => {
                    self.pods.clear();
                    self.listed = false;
                }
                InitDone => self.listed = true,
            },
            News::Trouble(error) => return Some(error),
        }
        None
    }

    fn members(&self) -> Vec<Member> {
        let pods: Vec<Pod> = self.pods.values().cloned().collect();
        self.database.as_ref().map(|database| members::members(database, &pods)).unwrap_or_default()
    }
}

fn news(session: &Session, name: &str) -> impl Stream<Item = News> + use<> {
    let databases: Api<Database> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let pods: Api<Pod> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let all = watcher::Config::default().labels(&members::selector(name));
    let databases = watcher(databases, one)
        .default_backoff()
        .map(|event| event.map(|event| News::Database(Box::new(event))));
    let pods =
        watcher(pods, all).default_backoff().map(|event| event.map(|event| News::Pod(Box::new(event))));
    futures::stream::select(databases, pods).map(|event| event.unwrap_or_else(News::Trouble))
}

/// Waits until the controller says that the database is as `wanted` asks, and returns it.
///
/// # Errors
/// Where it is not so in time, cannot become so, or is gone.
pub async fn until_ready(
    context: &Context,
    session: &Session,
    wanted: &Database,
    timeout: Duration,
) -> Result<Database> {
    let name = wanted.name_any();
    let mut steps = Steps::new(context.ui);
    let mut seen = Seen::default();
    let mut news = std::pin::pin!(news(session, &name));
    let end = Instant::now() + timeout;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut trouble = None;
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut shown: BTreeSet<String> = BTreeSet::new();
    loop {
        tokio::select! {
            _ = &mut interrupt => {
                steps.finish();
                return Err(interrupted(context, &name));
            }
            event = news.next() => match event {
                Some(event) => trouble = seen.apply(wanted.metadata.uid.as_deref(), event),
                None => return Err(CliError::failed(format!("watch database {name:?}"))),
            },
            _ = tick.tick() => {}
            () = tokio::time::sleep_until(end) => {
                steps.set("ready", Step::Failed, "not ready in time");
                steps.finish();
                return Err(too_late(context, &name, timeout, &seen, trouble.as_ref()));
            }
        }
        check_sandbox(context, session, &name)?;
        if seen.gone {
            steps.finish();
            return Err(CliError::not_found(format!("failed to wait for database {name:?}: it was deleted")));
        }
        let (Some(database), true) = (&seen.database, seen.listed) else { continue };
        let members = seen.members();
        show(&mut steps, database, &members);
        shown.retain(|name| {
            let there = members.iter().any(|member| member.name == *name);
            if !there {
                steps.set(name, Step::Done, format!("{name}: removed"));
            }
            there
        });
        shown.extend(members.into_iter().map(|member| member.name));
        match verdict(database, wanted.metadata.generation) {
            Verdict::Ready => {
                steps.set("ready", Step::Done, summary(database));
                steps.finish();
                return Ok(database.clone());
            }
            Verdict::Stuck(message) => {
                steps.set("ready", Step::Failed, format!("{name} cannot become ready"));
                steps.finish();
                return Err(CliError::failed(format!("bring up database {name:?}: {message}"))
                    .hint(format!("see more with {} status {name}", context.invocation())));
            }
            Verdict::NotYet => {}
        }
    }
}

/// Who waits was told to stop; what is waited for goes on.
pub fn interrupted(context: &Context, name: &str) -> CliError {
    CliError::timed_out(format!("no longer waiting for database {name:?}; it is still being worked on"))
        .hint(format!("follow it with {} status {name} --watch", context.invocation()))
}

/// A sandbox that ended will not finish anything.
///
/// # Errors
/// Where it has stopped.
pub fn check_sandbox(context: &Context, session: &Session, name: &str) -> Result<()> {
    let Some(home) = session.place.sandbox() else { return Ok(()) };
    match Daemon::new(home.clone()).state() {
        Ok(State::Stopped) => {
            Err(CliError::failed(format!("wait for database {name:?}: the sandbox has stopped"))
                .hint(format!(
                    "what was written is kept: {} status {name} starts the sandbox again",
                    context.invocation()
                ))
                .hint("see why it stopped with `dbctl sandbox logs`"))
        }
        _ => Ok(()),
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Ready,
    NotYet,
    Stuck(String),
}

/// What the status says about a generation of the spec.
fn verdict(database: &Database, generation: Option<i64>) -> Verdict {
    let Some(status) = &database.status else { return Verdict::NotYet };
    if status.observed_generation < generation {
        return Verdict::NotYet;
    }
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    match ready {
        Some(ready) if ready.status == "True" && status.replicas == database.spec.replicas => Verdict::Ready,
        Some(ready) if ready.status != "True" && STUCK.contains(&ready.reason.as_str()) => {
            Verdict::Stuck(format!("{}: {}", ready.reason, ready.message))
        }
        ready if status.phase == Some(Phase::Failed) => {
            Verdict::Stuck(ready.map_or_else(|| "it failed".to_owned(), |ready| ready.message.clone()))
        }
        _ => Verdict::NotYet,
    }
}

fn summary(database: &Database) -> String {
    let members = output::count(database.spec.replicas, "member");
    format!("{} is ready: PostgreSQL {}, {members}", database.name_any(), database.spec.version)
}

/// Brings the step list up to date.
fn show(steps: &mut Steps, database: &Database, members: &[Member]) {
    let none = DatabaseStatus::default();
    let status = database.status.as_ref().unwrap_or(&none);
    if status.observed_generation.is_none() {
        steps.set("ready", Step::Working, "waiting for the controller to take it up");
        return;
    }
    for member in members {
        let place = member.node.as_deref().map(|node| format!(" on {node}")).unwrap_or_default();
        let role = member.instance.role.as_deref();
        if member.ready && role.is_some() {
            let role = role.unwrap_or_default();
            steps.set(
                &member.name,
                Step::Done,
                format!("{}: {role}, {}{place}", member.name, member.state()),
            );
        } else {
            steps.set(&member.name, Step::Working, format!("{}: {}", member.name, member.state()));
        }
    }
    let ready =
        status.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status != "True");
    if let Some(ready) = ready {
        steps.set("ready", Step::Working, ready.message.clone());
    }
}

fn too_late(
    context: &Context,
    name: &str,
    timeout: Duration,
    seen: &Seen,
    trouble: Option<&watcher::Error>,
) -> CliError {
    let waited = humantime::format_duration(timeout);
    let mut details = Vec::new();
    if let Some(error) = trouble {
        details.push(format!("the API server was not heard of at last: {error}"));
    }
    match seen.database.as_ref().and_then(|database| database.status.as_ref()) {
        None if context.global.sandbox => {
            details.push(
                "the sandbox's controller has not answered; `dbctl sandbox logs` may say why".to_owned(),
            );
        }
        None => details.push(
            "no controller has answered: `dbctl version` tells whether one works, `dbctl install` makes one"
                .to_owned(),
        ),
        Some(status) => details.extend(
            status
                .conditions
                .iter()
                .filter(|condition| condition.type_ == "Ready" && condition.status != "True")
                .map(|condition| format!("{}: {}", condition.reason, condition.message)),
        ),
    }
    let waiting = seen.members().into_iter().filter(|member| !member.ready);
    details.extend(waiting.map(|member| format!("{}: {}", member.name, member.state())));
    let command = context.invocation();
    CliError::timed_out(format!("database {name:?} is not ready after {waited}; it is still being worked on"))
        .details(details)
        .hint(format!("see what is wrong with {command} doctor {name}, and follow it with {command} status {name} --watch"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn database(status: Value) -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db", "generation": 2, "uid": "u" },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" } },
            "status": status,
        }))
        .unwrap()
    }

    fn ready(status: &str, reason: &str) -> Value {
        json!([{ "type": "Ready", "status": status, "reason": reason, "message": "m", "lastTransitionTime": "2026-11-22T10:00:00Z" }])
    }

    #[test]
    fn only_an_answer_to_this_generation_counts() {
        let is = |status: Value| verdict(&database(status), Some(2));
        let yes = ready("True", "AllMembersReady");
        assert_eq!(is(json!({ "observedGeneration": 2, "replicas": 3, "conditions": yes })), Verdict::Ready);
        assert_eq!(is(json!({ "observedGeneration": 1, "replicas": 3, "conditions": yes })), Verdict::NotYet);
        assert_eq!(is(json!({ "observedGeneration": 2, "replicas": 5, "conditions": yes })), Verdict::NotYet);
        assert_eq!(is(json!({})), Verdict::NotYet);
        let taken = ready("False", "NameTaken");
        assert_eq!(
            is(json!({ "observedGeneration": 2, "conditions": taken })),
            Verdict::Stuck("NameTaken: m".into())
        );
        assert_eq!(is(json!({ "observedGeneration": 1, "conditions": taken })), Verdict::NotYet);
    }

    #[test]
    fn members_count_only_when_all_pods_are_listed() {
        let mut seen = Seen::default();
        let pod = |event| News::Pod(Box::new(event));
        for (event, listed) in [
            (watcher::Event::Init, false),
            (watcher::Event::InitApply(Pod::default()), false),
            (watcher::Event::InitDone, true),
            (watcher::Event::Apply(Pod::default()), true),
            (watcher::Event::Init, false),
        ] {
            seen.apply(Some("u"), pod(event));
            assert_eq!(seen.listed, listed);
        }
    }

    #[test]
    fn another_database_of_the_name_is_not_the_one_waited_for() {
        let mut seen = Seen::default();
        seen.apply(Some("u"), News::Database(Box::new(watcher::Event::Apply(database(json!({}))))));
        assert!(!seen.gone);
        seen.apply(Some("other"), News::Database(Box::new(watcher::Event::Apply(database(json!({}))))));
        assert!(seen.gone);
    }
}
