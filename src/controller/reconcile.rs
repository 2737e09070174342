//! One pass over one Database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::channel::mpsc::UnboundedSender;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::core::DeserializeGuard;
use kube::core::error_boundary::InvalidObject;
use kube::runtime::controller;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Resource, ResourceExt};

use super::act::{ActError, Actor, publish};
use super::asks::{Asking, Asks};
use super::backoff::Backoff;
use super::cache::{Cache, Key};
use super::known::Known;
use super::lease::Claim;
use super::metrics::{Metrics, Outcome, Sighting};
use super::nodes::Nodes;
use super::observe::observe;
use super::random::jittered;
use super::silence::Silence;
use crate::api::{Database, FINALIZER};
use crate::patroni;
use crate::plan::{Action, Ask, AskOutcome, Event, Kind, Plan, Settings, plan, plan_unreadable, stand_in};

/// What is watched and reconciled: a Database, or one that cannot be read.
pub type Guarded = DeserializeGuard<Database>;

/// Why a pass ended early. The next one starts from what is there.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// Something could not be read.
    #[error("look at what there is: {0}")]
    Observe(#[source] Box<kube::Error>),
    /// Something could not be done.
    #[error(transparent)]
    Act(#[from] ActError),
}

/// What all passes share.
pub struct Shared {
    /// The API server.
    pub client: Client,
    /// The watched objects.
    pub cache: Arc<Cache>,
    /// What is looked up by name instead.
    pub known: Known,
    /// Patroni.
    pub patroni: patroni::Client,
    /// Events that may repeat.
    pub recorder: Recorder,
    /// Who tells of events.
    pub reporter: Reporter,
    /// Plans' settings.
    pub settings: Settings,
    /// Errors in a row.
    pub backoff: Backoff,
    /// What Patroni is asked for.
    pub asks: Asks,
    /// Members that do not answer.
    pub silence: Silence,
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// Asks for passes.
    pub passes: UnboundedSender<Key>,
    /// What Prometheus is told.
    pub metrics: Arc<Metrics>,
    /// Until when this controller may act.
    pub claim: Claim,
}

/// Looks at one Database and does what is to be done.
///
/// # Errors
/// Where something could not be read or done.
pub async fn reconcile(guarded: Arc<Guarded>, shared: Arc<Shared>) -> Result<controller::Action, PassError> {
    let key = (guarded.namespace().unwrap_or_default(), guarded.name_any());
    shared.metrics.work.taken(&key);
    let begun = Instant::now();
    let result = match &guarded.0 {
        Ok(database) => pass(database, &key, &shared).await,
        Err(invalid) => unreadable(invalid, &key, &shared).await,
    };
    shared.metrics.process.pass(outcome(&result), begun.elapsed());
    let requeue = result?;
    shared.backoff.reset(&key);
    Ok(requeue
        .map_or_else(controller::Action::await_change, |after| controller::Action::requeue(jittered(after))))
}

fn outcome<T>(result: &Result<T, PassError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(PassError::Act(error)) if error.is_conflict() => Outcome::Conflict,
        Err(_) => Outcome::Failed,
    }
}

async fn pass(database: &Database, key: &Key, shared: &Arc<Shared>) -> Result<Option<Duration>, PassError> {
    let observed =
        observe(shared, key, database).await.map_err(|error| PassError::Observe(Box::new(error)))?;
    let Plan { actions, status, requeue } =
        plan(database, &observed, &shared.settings, jiff::Timestamp::now());
    let mut actor = Actor::new(&shared.client, &shared.patroni, &shared.reporter, database, &observed);
    let gone = actions.contains(&Action::RemoveFinalizer);
    let done = carry_out(&mut actor, &actions, key, shared).await;
    // What was seen is told whatever became of the writes, but for those of whoever may not act any more.
    if !matches!(done, Err(ActError::NotLeader)) {
        let sighting = Sighting::of(database, &observed, jiff::Timestamp::now());
        shared.metrics.databases.observe(key, database.status.as_ref(), &status, &sighting);
    }
    if actions.iter().any(|action| matches!(action, Action::Rotate(_))) {
        // What was known of the Secrets is of before.
        shared.known.forget(key);
    }
    done?;
    if gone {
        shared.asks.forget(key);
        // Whoever creates it again may have removed its Secrets meanwhile.
        shared.known.forget(key);
        shared.metrics.databases.forget(key);
    } else {
        shared.metrics.databases.passed(key, jiff::Timestamp::now());
    }
    Ok((!gone).then_some(requeue))
}

/// In order; after a failure only the status is still written, since it says what was seen, whatever became of the writes,
/// and Patroni is asked for what stands in it, and the Jobs of it are made: a change of primary does not wait until an object can be written.
async fn carry_out(
    actor: &mut Actor<'_>,
    actions: &[Action],
    key: &Key,
    shared: &Arc<Shared>,
) -> Result<(), ActError> {
    let mut failed: Option<ActError> = None;
    for action in actions {
        let tells = match action {
            Action::PatchStatus(_) | Action::PublishEvent(_) | Action::Ask { .. } => true,
            // Like what Patroni is asked for, it stands in the status.
            Action::Create(kind, _) => *kind == Kind::Job,
            _ => false,
        };
        if failed.as_ref().is_some_and(|error| !tells || error.is_conflict()) {
            continue;
        }
        if !shared.claim.holds() {
            return Err(ActError::NotLeader);
        }
        tracing::debug!(namespace = %key.0, database = %key.1, ?action, "acting");
        match actor.act(action).await {
            Ok(Some(asking)) => start(asking, key.clone(), shared.clone(), actor.reference()),
            // What was read before is another by now.
            Ok(None) if matches!(action, Action::Secure(_)) => shared.known.forget(key),
            Ok(None) => {}
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Asks Patroni for something, unless something else is under way. The pass does not wait for the answer; with it comes
/// the next one.
fn start(asking: Asking, key: Key, shared: Arc<Shared>, about: ObjectReference) {
    if !shared.asks.begin(&key, &asking) {
        return;
    }
    tokio::spawn(async move {
        let outcome = match asking.put(&shared.patroni).await {
            Ok(answer) => AskOutcome::Done(answer),
            Err(error) => {
                let message = format!("failed to {}: {error}", tried(&asking.ask));
                publish(&shared.recorder, &about, &Event::warning("PatroniRefused", message.clone())).await;
                AskOutcome::Failed(message)
            }
        };
        shared.asks.end(&key, outcome, Instant::now());
        // Nobody listens any more only while the controller stops.
        let _ = shared.passes.unbounded_send(key);
    });
}

fn tried(ask: &Ask) -> String {
    match ask {
        Ask::Switchover { leader, candidate, .. } => {
            format!("move the primary's role from {leader} to {candidate}")
        }
        Ask::Failover { candidate } => format!("promote {candidate}"),
        Ask::Restart { member } => format!("restart {member}"),
    }
}

/// A Database that cannot be read is left as it is, and said so. If it is being deleted, it goes; its data stays.
async fn unreadable(
    invalid: &InvalidObject,
    key: &Key,
    shared: &Arc<Shared>,
) -> Result<Option<Duration>, PassError> {
    let about = ObjectReference {
        api_version: Some(Database::api_version(&()).into_owned()),
        kind: Some(Database::kind(&()).into_owned()),
        namespace: Some(key.0.clone()),
        name: Some(key.1.clone()),
        uid: invalid.metadata.uid.clone(),
        ..ObjectReference::default()
    };
    tracing::warn!(namespace = %key.0, database = %key.1, error = %invalid.error, "a Database cannot be read");
    let message = format!("this object cannot be read and is left as it is: {}", invalid.error);
    publish(&shared.recorder, &about, &Event::warning("Malformed", message)).await;
    let held = invalid.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    if invalid.metadata.deletion_timestamp.is_none() || !held {
        return Ok(None);
    }
    let Some(stand_in) = stand_in(&invalid.metadata) else { return Ok(None) };
    let observed =
        observe(shared, key, &stand_in).await.map_err(|error| PassError::Observe(Box::new(error)))?;
    let actions = plan_unreadable(&stand_in, &observed, &shared.settings);
    let mut actor = Actor::new(&shared.client, &shared.patroni, &shared.reporter, &stand_in, &observed);
    carry_out(&mut actor, &actions, key, shared).await?;
    Ok(Some(Duration::from_secs(2)))
}

/// When to look again after a pass that ended early, and who is told why.
pub fn after_error(guarded: &Arc<Guarded>, error: &PassError, shared: &Arc<Shared>) -> controller::Action {
    let key = (guarded.namespace().unwrap_or_default(), guarded.name_any());
    if matches!(error, PassError::Act(error) if error.is_conflict()) {
        tracing::debug!(namespace = %key.0, database = %key.1, %error, "a pass was based on something older");
        return controller::Action::requeue(jittered(shared.backoff.after_conflict(&key)));
    }
    let delay = shared.backoff.after_error(&key);
    tracing::warn!(namespace = %key.0, database = %key.1, %error, ?delay, "a pass failed");
    if let Ok(database) = &guarded.0 {
        let (shared, about) = (shared.clone(), database.object_ref(&()));
        let event = Event::warning("ReconcileFailed", format!("failed to {error}"));
        tokio::spawn(async move { publish(&shared.recorder, &about, &event).await });
    }
    controller::Action::requeue(jittered(delay))
}
