//! Requests to the controller: an annotation that asks once, and following what comes of it.

use std::time::Duration;

use clap::Args;
use futures::{Stream, StreamExt, stream};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde::Serialize;
use serde_json::json;
use tokio::time::Instant;
use ulid::Ulid;

use super::ask::{self, Sight};
use super::create::FIELD_MANAGER;
use super::error::{CliError, Result};
use super::progress::{Step, Steps};
use super::session::Session;
use super::{Context, api_error, pause, scale, wait};
use crate::api::{Database, DatabaseStatus, Operation, OperationPhase, Request, Verb, requests};
use crate::plan::{Assessment, assess};

/// How often a request is put again that somebody else's write came before: the controller writes the status of the same
/// object.
const TRIES: usize = 10;
/// How long after an operation's end its record is waited for.
const RECORD: Duration = Duration::from_secs(5);

/// How something is asked for.
#[derive(Clone, Debug, Args)]
pub struct How {
    /// Follow it to its end
    #[arg(long)]
    pub wait: bool,

    /// Only show what would happen
    #[arg(long, conflicts_with_all = ["wait", "yes"])]
    pub dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
}

impl How {
    /// Shows what would happen: as the answer where that is all, else beside it.
    ///
    /// # Errors
    /// Where standard output cannot be written.
    pub fn show(&self, context: &Context, text: &str) -> Result<()> {
        if self.dry_run {
            context.ui.data(text)?;
        } else {
            context.ui.note(text.trim_end());
        }
        Ok(())
    }
}

/// The database, its members' own word, and what both come to.
///
/// # Errors
/// Where it cannot be read, or is being deleted.
pub async fn look(
    context: &Context,
    session: &Session,
    name: &str,
    doing: &str,
) -> Result<(Database, Sight, Assessment)> {
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let database = scale::get(context, session, &api, name, doing).await?;
    if database.metadata.deletion_timestamp.is_some() {
        return Err(CliError::failed(format!("{doing}: it is being deleted")));
    }
    let sight = ask::look(session, name, doing).await?;
    let assessment = assess(name, &sight.observed, jiff::Timestamp::now());
    let assessment = assessment.with_replicas(database.spec.replicas);
    Ok((database, sight, assessment))
}

/// Refuses where something else is under way: one thing is done at a time, and who asks now may not know of it. A backup
/// is in the way of nothing but another one.
///
/// # Errors
/// Where an operation, or a request that nobody has taken up yet, stands.
pub fn check_idle(context: &Context, database: &Database, verb: Verb, doing: &str) -> Result<()> {
    check(context, database, Asking { verb, back: false }, doing)
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Asking {
    /// Its verb.
    pub verb: Verb,
    /// It takes back what is under way by the same verb.
    pub back: bool,
}

/// [`check_idle`], of what may take something back.
///
/// # Errors
/// The same.
pub fn check(context: &Context, database: &Database, asking: Asking, doing: &str) -> Result<()> {
    if let Some(paused) = pause::refusal(context, database, doing) {
        return Err(paused);
    }
    let Some((id, what)) = under_way(database, asking, jiff::Timestamp::now()) else { return Ok(()) };
    let (name, dbctl) = (database.name_any(), context.invocation());
    let refused =
        CliError::refused(format!("failed to {doing}: {what} ({id}), and one thing is done at a time"))
            .hint(format!("follow it with {dbctl} status {name} --watch"));
    let back = format!("take it back with {dbctl} restore {name} --undo");
    Err(if asking.verb == Verb::Restore { refused.hint(back) } else { refused })
}

/// The id of what is under way and in the way of that verb, and what it is.
fn under_way(database: &Database, asking: Asking, now: jiff::Timestamp) -> Option<(String, String)> {
    let Asking { verb, back } = asking;
    let operations = operations(database);
    // An upgrade that is under way is just what its end is about.
    let ends = verb == Verb::AbortUpgrade;
    let excludes = |kind: &str| kind == verb.to_string() || !ends && !kind.parse().is_ok_and(Verb::is_aside);
    let mut running = operations.iter().filter(|operation| operation.phase.is_under_way());
    let left = |kind: &str| back && kind == verb.to_string();
    if let Some(operation) = running.find(|operation| excludes(&operation.kind) && !left(&operation.kind)) {
        return Some((operation.id.clone(), format!("a {} is under way", operation.kind)));
    }
    let asked = waiting(database, now).find(|(of, _)| excludes(&of.to_string()) && !left(&of.to_string()));
    asked.map(|(verb, id)| (id, format!("a {verb} has been asked for and waits for the controller")))
}

/// The requests that no operation answers yet, with their ids.
fn waiting(database: &Database, now: jiff::Timestamp) -> impl Iterator<Item = (Verb, String)> {
    let uid = database.metadata.uid.as_deref().unwrap_or_default();
    let good = requests(database.annotations()).into_iter().filter_map(|(_, _, parsed)| parsed.ok());
    good.filter_map(move |(verb, request)| {
        let id = request.id.to_string();
        let answered = operations(database).iter().any(|operation| operation.id == id);
        (!answered && request.check(verb, uid, now).is_ok()).then_some((verb, id))
    })
}

/// Whether an operation of that verb is under way, or a request of it waits for the controller.
pub fn stands(database: &Database, verb: Verb) -> bool {
    let runs = |each: &Operation| each.kind == verb.to_string() && each.phase.is_under_way();
    operations(database).iter().any(runs)
        || waiting(database, jiff::Timestamp::now()).any(|(of, _)| of == verb)
}

fn operations(database: &Database) -> &[Operation] {
    database.status.as_ref().map(|status| status.operations.as_slice()).unwrap_or_default()
}

/// Asks for something; returns the request's id.
///
/// # Errors
/// Where something else is under way, the database has gone, or it cannot be written.
pub async fn put(
    context: &Context,
    session: &Session,
    database: &Database,
    verb: Verb,
    arguments: &impl Serialize,
    doing: &str,
) -> Result<String> {
    ask(context, session, database, Asking { verb, back: false }, arguments, doing).await
}

/// [`put`], of what may take something back.
///
/// # Errors
/// The same.
pub async fn ask(
    context: &Context,
    session: &Session,
    database: &Database,
    asking: Asking,
    arguments: &impl Serialize,
    doing: &str,
) -> Result<String> {
    let verb = asking.verb;
    let name = database.name_any();
    let api: Api<Database> = Api::namespaced(session.client.clone(), &session.namespace);
    let request = request(database, arguments, doing)?;
    let mut current = database.clone();
    for _ in 0..TRIES {
        check(context, &current, asking, doing)?;
        // With the version that was looked at, so that two requests never overwrite each other.
        let patch = json!({ "metadata": {
            "resourceVersion": current.metadata.resource_version,
            "annotations": { verb.annotation(): request },
        } });
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..Default::default() };
        match api.patch_metadata(&name, &params, &Patch::Merge(&patch)).await {
            Ok(_) => return Ok(id_of(&request)),
            Err(kube::Error::Api(status)) if status.is_conflict() => {
                current = scale::get(context, session, &api, &name, doing).await?;
                if current.metadata.uid != database.metadata.uid {
                    return Err(CliError::not_found(format!(
                        "failed to {doing}: it was deleted and made anew"
                    )));
                }
            }
            Err(error) => return Err(api_error::explain(session, doing, &error)),
        }
    }
    Err(CliError::failed(format!("{doing}: it is written to without a pause; try again")))
}

fn request(database: &Database, arguments: &impl Serialize, doing: &str) -> Result<String> {
    let json = |error| CliError::failed(format!("{doing}: write JSON: {error}"));
    let arguments = serde_json::to_value(arguments).map_err(json)?;
    let request = Request {
        id: Ulid::new(),
        uid: database.metadata.uid.clone().unwrap_or_default(),
        arguments: arguments.as_object().cloned().unwrap_or_default(),
    };
    serde_json::to_string(&request).map_err(json)
}

fn id_of(request: &str) -> String {
    let request: Option<Request> = serde_json::from_str(request).ok();
    request.map(|request| request.id.to_string()).unwrap_or_default()
}

/// Says how what was asked for is followed.
pub fn tell_how_to_follow(context: &Context, name: &str, verb: Verb, id: &str) {
    context.ui.note(format_args!("{} of database {name:?} is asked for (request {id})", noun(verb)));
    context.ui.note(format_args!("follow it with {} status {name} --watch", context.invocation()));
}

/// What is followed.
pub struct Asked<'a> {
    /// The database as it was when it was asked for.
    pub database: &'a Database,
    /// What was asked for.
    pub verb: Verb,
    /// The request.
    pub id: &'a str,
    /// How long to follow it.
    pub timeout: Duration,
}

/// What came of a request, and the status that says so.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What came of it.
    pub operation: Operation,
    /// The whole status.
    pub status: DatabaseStatus,
}

/// Shows what happens until the operation has ended and `recorded` finds what it left in the status.
///
/// # Errors
/// Where it fails, is rejected, or does not end in time.
pub async fn follow(
    context: &Context,
    session: &Session,
    asked: &Asked<'_>,
    recorded: impl Fn(&Outcome) -> bool,
) -> Result<Outcome> {
    follow_beside(context, session, asked, recorded, stream::pending()).await
}

/// [`follow`], with what is told `beside` it in a line of its own: how far it is, for as long as it goes on.
///
/// # Errors
/// As [`follow`].
pub async fn follow_beside(
    context: &Context,
    session: &Session,
    asked: &Asked<'_>,
    recorded: impl Fn(&Outcome) -> bool,
    beside: impl Stream<Item = String>,
) -> Result<Outcome> {
    let mut beside = std::pin::pin!(beside);
    let name = asked.database.name_any();
    let databases: Api<Database> = Api::namespaced(session.streaming.clone(), &session.namespace);
    let one = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut news = std::pin::pin!(watcher(databases, one).default_backoff());
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    let mut tick = tokio::time::interval(wait::TICK);
    let mut end = Instant::now() + asked.timeout;
    let mut lines = Lines::new(context);
    let mut last: Option<Outcome> = None;
    loop {
        tokio::select! {
            _ = &mut interrupt => return Err(wait::interrupted(context, &name)),
            event = news.next() => match event {
                Some(Ok(watcher::Event::Apply(database) | watcher::Event::InitApply(database)))
                    if database.metadata.uid == asked.database.metadata.uid =>
                {
                    last = outcome(&database, asked.id);
                    lines.show(last.as_ref());
                }
                Some(Ok(watcher::Event::Apply(_) | watcher::Event::InitApply(_) | watcher::Event::Delete(_))) => {
                    return Err(CliError::not_found(format!("failed to follow the {} of database {name:?}: it was deleted", noun(asked.verb))));
                }
                Some(Ok(watcher::Event::Init | watcher::Event::InitDone)) => {}
                Some(Err(error)) => tracing::warn!("watching database {name:?}: {error}"),
                None => return Err(CliError::failed(format!("watch database {name:?}"))),
            },
            Some(line) = beside.next() => lines.beside(line),
            _ = tick.tick() => wait::check_sandbox(context, session, &name)?,
            () = tokio::time::sleep_until(end) => {
                return match last {
                    Some(outcome) if !outcome.operation.phase.is_under_way() => verdict(context, asked, outcome),
                    last => Err(too_late(context, asked, last.as_ref())),
                };
            }
        }
        if let Some(outcome) = last.as_ref().filter(|outcome| !outcome.operation.phase.is_under_way()) {
            if outcome.operation.phase != OperationPhase::Succeeded || recorded(outcome) {
                return verdict(context, asked, outcome.clone());
            }
            end = end.min(Instant::now() + RECORD);
        }
    }
}

fn outcome(database: &Database, id: &str) -> Option<Outcome> {
    let status = database.status.clone()?;
    let operation = status.operations.iter().find(|operation| operation.id == id)?.clone();
    Some(Outcome { operation, status })
}

fn verdict(context: &Context, asked: &Asked<'_>, outcome: Outcome) -> Result<Outcome> {
    let name = asked.database.name_any();
    let message = outcome.operation.message.clone().unwrap_or_default();
    let hint = format!("see how it is: {} status {name}", context.invocation());
    match outcome.operation.phase {
        OperationPhase::Rejected => Err(CliError::refused(format!(
            "the {} of database {name:?} is refused: {message}",
            noun(asked.verb)
        ))
        .hint(hint)),
        OperationPhase::Failed => {
            Err(CliError::failed(format!("{} database {name:?}: {message}", phrase(asked.verb))).hint(hint))
        }
        _ => Ok(outcome),
    }
}

/// The verb as it fits after "failed to".
pub fn phrase(verb: Verb) -> &'static str {
    match verb {
        Verb::Backup => "back up",
        Verb::Failover => "fail over",
        Verb::Restart => "restart",
        Verb::Restore => "restore",
        Verb::Resume => "resume the rollout of",
        Verb::Upgrade => "upgrade",
        Verb::AbortUpgrade => "take back the upgrade of",
        Verb::RotateCredentials => "rotate the credentials of",
        Verb::Verify => "verify a backup of",
    }
}

/// What was asked for, as a noun.
fn noun(verb: Verb) -> String {
    match verb {
        Verb::Verify => "verification".to_owned(),
        Verb::AbortUpgrade => "end of the upgrade".to_owned(),
        Verb::RotateCredentials => "rotation of credentials".to_owned(),
        other => other.to_string(),
    }
}

fn too_late(context: &Context, asked: &Asked<'_>, last: Option<&Outcome>) -> CliError {
    let (name, waited) = (asked.database.name_any(), humantime::format_duration(asked.timeout));
    let details = match last {
        Some(outcome) => outcome.operation.message.clone(),
        None if context.global.sandbox => {
            Some("the sandbox's controller has not taken it up; `dbctl sandbox logs` may say why".to_owned())
        }
        None => Some("no controller has taken it up: is one running (dbctl controller)?".to_owned()),
    };
    CliError::timed_out(format!(
        "the {} of database {name:?} has not ended after {waited}; it goes on",
        noun(asked.verb)
    ))
    .details(details)
    .hint(format!("follow it with {} status {name} --watch", context.invocation()))
}

/// The steps of an operation as lines: what it was at before is done when it is at something else.
struct Lines {
    steps: Steps,
    told: Vec<String>,
    down: bool,
    beside: Option<String>,
}

impl Lines {
    fn new(context: &Context) -> Self {
        let mut steps = Steps::new(context.ui);
        steps.set("0", Step::Working, WAITING);
        Self { steps, told: vec![WAITING.to_owned()], down: false, beside: None }
    }

    fn show(&mut self, outcome: Option<&Outcome>) {
        let Some(Outcome { operation, status }) = outcome else { return };
        let said = operation.message.clone().unwrap_or_else(|| format!("the {} is taken up", operation.kind));
        if self.told.last() != Some(&said) {
            self.settle(Step::Done);
            self.told.push(said.clone());
        }
        let step = match operation.phase {
            OperationPhase::Accepted | OperationPhase::Running => Step::Working,
            OperationPhase::Succeeded => Step::Done,
            OperationPhase::Rejected | OperationPhase::Failed => Step::Failed,
        };
        self.steps.set(&(self.told.len() - 1).to_string(), step, said);
        if let Some(beside) = self.beside.take_if(|_| step != Step::Working) {
            self.steps.set(BESIDE, step, beside);
        }
        match &status.outage {
            Some(outage) => {
                self.down = true;
                self.steps.set("writes", Step::Working, format!("nobody can write ({})", outage.reason));
            }
            None if self.down => self.steps.set("writes", Step::Done, "writes are accepted again"),
            None => {}
        }
    }

    fn beside(&mut self, line: String) {
        self.steps.set(BESIDE, Step::Working, line.clone());
        self.beside = Some(line);
    }

    fn settle(&mut self, step: Step) {
        if let Some(last) = self.told.last() {
            self.steps.set(&(self.told.len() - 1).to_string(), step, last.clone());
        }
    }
}

/// The key of the line with how far it is.
const BESIDE: &str = "beside";
/// What is shown until the controller has answered.
const WAITING: &str = "waiting for the controller to take it up";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::FailoverArguments;
    use serde_json::Value;

    fn database(annotations: Value, operations: Value) -> Database {
        serde_json::from_value(json!({
            "apiVersion": "db.example.com/v1alpha1", "kind": "Database",
            "metadata": { "name": "db", "uid": "u", "annotations": annotations },
            "spec": { "replicas": 3, "version": "18.6", "storage": { "size": "1Gi" } },
            "status": { "operations": operations },
        }))
        .unwrap()
    }

    #[test]
    fn one_thing_is_done_at_a_time() {
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        let id = Ulid::from_parts(1_000_000_000, 7).to_string();
        let asked =
            |uid: &str| json!({ "db.example.com/restart": json!({ "id": id, "uid": uid }).to_string() });
        let operation = |phase: &str| json!([{ "id": id, "kind": "restart", "phase": phase }]);
        let busy = |annotations, operations| {
            let failover = Asking { verb: Verb::Failover, back: false };
            under_way(&database(annotations, operations), failover, now).map(|(_, what)| what)
        };
        let waits = Some("a restart has been asked for and waits for the controller".to_owned());
        assert_eq!(busy(json!({}), json!([])), None);
        assert_eq!(busy(asked("u"), json!([])), waits);
        assert_eq!(busy(asked("another"), json!([])), None, "it is about an object that is gone");
        assert_eq!(busy(asked("u"), operation("Succeeded")), None, "it is answered");
        for phase in ["Accepted", "Running"] {
            assert_eq!(busy(asked("u"), operation(phase)), Some("a restart is under way".into()), "{phase}");
        }
        assert_eq!(busy(json!({ "db.example.com/restart": "{" }), json!([])), None, "nobody will run it");
        // A restore is taken back while it runs, and not replaced by another one.
        let stuck = database(json!({}), json!([{ "id": id, "kind": "restore", "phase": "Running" }]));
        let free = |verb, back| under_way(&stuck, Asking { verb, back }, now).is_none();
        assert!(free(Verb::Restore, true) && !free(Verb::Restore, false) && !free(Verb::Failover, false));
        let failed = database(json!({}), json!([{ "id": id, "kind": "restore", "phase": "Failed" }]));
        assert!(under_way(&failed, Asking { verb: Verb::Restore, back: false }, now).is_none());
    }

    #[test]
    fn a_backup_is_in_the_way_of_another_one_alone() {
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        let id = Ulid::from_parts(1_000_000_000, 7).to_string();
        let asked = json!({ "db.example.com/backup": json!({ "id": id, "uid": "u" }).to_string() });
        let runs = json!([{ "id": id, "kind": "backup", "phase": "Running" }]);
        for database in [database(asked, json!([])), database(json!({}), runs)] {
            for (verb, free) in [(Verb::Failover, true), (Verb::Restart, true), (Verb::Backup, false)] {
                let asking = Asking { verb, back: false };
                assert_eq!(under_way(&database, asking, now).is_none(), free, "{verb}");
            }
        }
    }

    #[test]
    fn a_request_names_the_object_and_itself() {
        let arguments =
            FailoverArguments { to: Some("db-1".into()), from: Some("db-0".into()), force: false };
        let text = request(&database(json!({}), json!([])), &arguments, "x").unwrap();
        let read = Request::parse(Verb::Failover, &text).unwrap();
        assert_eq!((read.uid.as_str(), read.id.to_string()), ("u", id_of(&text)));
        assert_eq!(read.arguments::<FailoverArguments>(Verb::Failover).unwrap(), arguments);
    }

    #[test]
    fn only_success_is_no_error() {
        let of = |phase: &str| {
            let database = database(
                json!({}),
                json!([{ "id": "1", "kind": "failover", "phase": phase, "message": "m" }]),
            );
            let context = Context::plain();
            let asked = Asked { database: &database, verb: Verb::Failover, id: "1", timeout: Duration::ZERO };
            let outcome = outcome(&database, "1").unwrap();
            verdict(&context, &asked, outcome)
                .map_err(|error| (error.outcome.code(), error.message))
                .map(drop)
        };
        assert_eq!(of("Succeeded"), Ok(()));
        assert_eq!(of("Rejected"), Err((5, "the failover of database \"db\" is refused: m".into())));
        assert_eq!(of("Failed"), Err((1, "failed to fail over database \"db\": m".into())));
        assert!(outcome(&database(json!({}), json!([])), "1").is_none());
    }
}
