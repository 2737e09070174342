//! What to do about one Database: a pure function of its object and what was observed.
//!
//! No client, no clock, no randomness. Every pass starts from what is there, so a pass that was cut short anywhere is
//! simply followed by the next one. One file per concern; [`plan`] puts them together.

mod access;
mod action;
mod assess;
mod backup;
mod blocked;
mod certificates;
mod compare;
mod conditions;
mod config;
mod context;
mod cordon;
mod death;
mod delete;
mod disruption;
mod fencing;
mod inplace;
mod major;
mod members;
mod notes;
mod object;
mod operations;
mod outage;
mod ownership;
mod pause;
mod pod;
mod release;
mod requests;
mod restore;
mod rollout;
#[cfg(test)]
mod samples;
mod scale;
mod secrets;
mod services;
mod status;
mod storage;
#[cfg(test)]
mod tests;
mod text;
mod view;
#[cfg(test)]
mod world;

use std::time::Duration;

pub use access::rules;
pub use action::{Action, Apply, Ask, AskOutcome, Asked, Event, Release, Rotate, SecretPlan};
pub use assess::{Assessment, Candidate, Loss, Move, Primary, Refusal, Unfit, assess, size};
pub use backup::{Task, backup_due, failed_jobs};
pub use certificates::{
    CERTIFICATE, CROSS, Certificate, Held, KEY, Securing, TOLD, TRUSTED, authority_due, server_due,
};
pub use compare::{APPLIED, covers};
pub use death::{ended, is_down};
pub use inplace::{Marking, With};
pub use notes::{ARCHIVE, SYSTEM};
pub use object::{
    Kind, LockAge, NodeState, OUT_OF_SERVICE, Observed, Room, SourceDatabase, label, name_of, terminating,
    uid_of,
};
pub use ownership::needed;
pub use pod::container_security;
pub use release::RELEASE;
#[cfg(test)]
pub use samples::sample_pods;
pub use secrets::{APP_PASSWORD, ROTATED, ROTATION, file, internal};
pub use services::POSTGRES_PORT;
pub use storage::classes_to_grow;
pub use text::{at, list, text};
pub use view::{CONTAINER, LABEL_VERSION, Member, TEMPLATE, View};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use serde_json::json;

use crate::api::{Database, DatabaseStatus, DeletionPolicy, FINALIZER, PgVersion};
use context::Context;

/// How the controller is set up, as far as plans depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The image of a member's pod; `{version}` stands for the PostgreSQL release.
    pub image: String,
    /// Name of the Secret, in each Database's namespace, with which that image is pulled.
    pub pull_secret: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { image: "dbctl/postgres:{version}".to_owned(), pull_secret: None }
    }
}

/// What a pass is to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The writes, in order. Empty where nothing has changed.
    pub actions: Vec<Action>,
    /// The status as it should be; among the actions only if it is not so yet.
    pub status: DatabaseStatus,
    /// When to look again, whether or not anything is heard before.
    pub requeue: Duration,
}

/// While things move, watches tell most of it; what only an answer tells is asked for this often.
const SOON: Duration = Duration::from_secs(2);
/// While commits are on the primary alone.
const AT_ONCE: Duration = Duration::from_secs(1);
/// While somebody has to act elsewhere, on objects that are not watched.
const BLOCKED: Duration = Duration::from_secs(10);
/// While all is well: finds what no watch told.
const IDLE: Duration = Duration::from_secs(30);

/// What is to be done about the Database now.
pub fn plan(database: &Database, observed: &Observed, settings: &Settings, now: jiff::Timestamp) -> Plan {
    let cx = Context::new(database, observed, settings);
    let deleting = database.metadata.deletion_timestamp.is_some();
    let blocked = if deleting { Some(delete::blocked(&cx)) } else { blocked::blocked(&cx) };
    let assessment = assess::of(&cx.view, observed, now).with_replicas(database.spec.replicas);
    let scale = scale::plan(&cx, &assessment);
    let moment = rollout::Moment {
        cx: &cx,
        assessment: &assessment,
        scale: &scale,
        busy: inplace::busy(&cx).or_else(|| requests::busy(&cx, now)).or_else(|| operations::asking(&cx)),
        now,
    };
    let paused = pause::is_paused(&cx);
    let rollout = if blocked.is_some() || paused {
        rollout::idle(&cx)
    } else if major::active(&cx).is_some() {
        rollout::aside(&cx)
    } else {
        rollout::plan(&moment)
    };
    let mut actions = if deleting || paused { Vec::new() } else { urgent(&cx) };
    actions.extend(if paused {
        pause::plan(&cx)
    } else if deleting {
        delete::plan(&cx, database.spec.deletion_policy)
    } else if blocked.is_some() {
        Vec::new()
    } else {
        objects(&cx, &scale, &rollout, now)
    });
    // It is gone with the finalizer: there is no status to write any more.
    let gone = actions.contains(&Action::RemoveFinalizer);

    let turn = operations::Turn {
        cx: &cx,
        assessment: &assessment,
        rollout: &rollout,
        blocked: blocked.as_ref(),
        now,
    };
    let answers = requests::plan(&turn);
    let (ask, told) = asks(&turn, &answers, &scale, &moment);
    let busy = answers.busy() || ask.is_some();
    let (mut status, mut events) =
        status::status(&cx, &scale, &rollout, blocked.as_ref(), answers.operations.clone(), now);
    requests::complete(database.status.as_ref(), &mut status);
    events.extend(requests::events(database.status.as_ref(), &status));
    events.extend(status::events(&cx, &status, blocked.as_ref()));
    events.extend(backup::events(&cx, &status, now));
    events.extend(rollout.events.clone());
    let settled = actions.is_empty()
        && !busy
        && rollout.is_settled()
        && inplace::under_way(&cx).is_none()
        && major::active(&cx).is_none()
        && status.conditions.iter().all(settled);
    if !gone && database.status.as_ref() != Some(&status) {
        actions.push(Action::PatchStatus(Box::new(status.clone())));
        actions.extend(events.into_iter().map(Action::PublishEvent));
    }
    // What is asked for stands in the status by then.
    actions.extend(told.map(Action::PublishEvent));
    if !deleting && !paused && blocked.is_none() {
        actions.extend(major::plan(&cx, now));
    }
    actions.extend(ask);
    actions.extend(answers.jobs.into_iter().chain(rollout.job).filter(|_| blocked.is_none()));
    let requeue = match &blocked {
        Some(blocked) if blocked.warning => BLOCKED,
        None if major::active(&cx).is_some() => AT_ONCE,
        None if config::wake(&cx).is_some() => AT_ONCE,
        None if settled => IDLE,
        _ => SOON,
    };
    Plan { actions, status, requeue }
}

/// Every object that the Database needs a name for, given what there is: whoever observes looks up by name those that no
/// label showed.
pub fn needed_by(database: &Database, observed: &Observed) -> Vec<(Kind, String)> {
    let settings = Settings::default();
    let cx = Context::new(database, observed, &settings);
    let mut all = ownership::required(&cx, scale::members(&cx));
    if database.metadata.deletion_timestamp.is_some() {
        // Of before the user gave others, too: they may have to go.
        all.extend(cx.names.secrets().map(|name| (Kind::Secret, name)));
        all.sort();
        all.dedup();
    }
    all.extend(backup::requested_jobs(&cx).into_iter().map(|name| (Kind::Job, name)));
    all
}

/// The Secrets whose certificates a plan must know: not all of them are the Database's own.
pub fn certificate_secrets(database: &Database, observed: &Observed) -> Vec<String> {
    let settings = Settings::default();
    certificates::secrets(&Context::new(database, observed, &settings))
}

/// The names that the server's certificate is for where it is dbctl's own.
pub fn certificate_names(database: &Database) -> Vec<String> {
    let (observed, settings) = (Observed::default(), Settings::default());
    certificates::names(&Context::new(database, &observed, &settings))
}

/// When the certificates end that a Database shows and signs with, by what they are.
pub fn certificate_expiries(
    database: &Database,
    observed: &Observed,
) -> Vec<(&'static str, jiff::Timestamp)> {
    let settings = Settings::default();
    let cx = Context::new(database, observed, &settings);
    let server = certificates::expiry(&cx).map(|at| ("server", at));
    server.into_iter().chain(certificates::authority_expiry(&cx).map(|at| ("authority", at))).collect()
}

/// A Database with the metadata of one that cannot be read. Nothing may be decided by its spec.
pub fn stand_in(metadata: &ObjectMeta) -> Option<Database> {
    let spec = json!({ "version": PgVersion::DEFAULT, "storage": { "size": "1Gi" } });
    let spec = serde_json::from_value(spec).ok()?;
    Some(Database { metadata: metadata.clone(), spec, status: None })
}

/// What to do about a Database that cannot be read but is being deleted: its policy is unknown, so its data stays.
pub fn plan_unreadable(metadata: &Database, observed: &Observed, settings: &Settings) -> Vec<Action> {
    let cx = Context::new(metadata, observed, settings);
    delete::plan(&cx, DeletionPolicy::Retain)
}

/// What cannot wait, and is done whatever else keeps a plan from acting: nobody but the lock's holder is taken for the
/// primary, and a dead holder does not keep the lock.
fn urgent(cx: &Context<'_>) -> Vec<Action> {
    let mut actions = fencing::plan(cx);
    if let Some(release) = death::plan(cx) {
        let told = match &release {
            Action::ReleaseLock(release) => Some(Event::warning(
                "LockReleased",
                format!("{}: its lock was released, so that a replica can take over at once", release.proof),
            )),
            _ => None,
        };
        actions.push(release);
        actions.extend(told.map(Action::PublishEvent));
    }
    actions
}

/// What Patroni is asked for now, one thing at a time: what somebody asked for, then what the spec needs, then what saves
/// from a drain, then what settings wait for.
fn asks(
    turn: &operations::Turn<'_, '_>,
    answers: &requests::Answers,
    scale: &scale::Scale,
    moment: &rollout::Moment<'_, '_>,
) -> (Option<Action>, Option<Event>) {
    let deleting = turn.cx.database.metadata.deletion_timestamp.is_some();
    if deleting || turn.blocked.is_some() || pause::is_paused(turn.cx) {
        return (None, None);
    }
    if answers.busy() || inplace::under_way(turn.cx).is_some() || major::active(turn.cx).is_some() {
        return (answers.ask.clone(), None);
    }
    match &scale.switchover {
        Some(Action::Ask { ask, .. }) if cordon::repeats(turn.cx, ask) => return (None, None),
        Some(switchover) => return (Some(switchover.clone()), None),
        None => {}
    }
    // A pod that goes now is nobody to move the role to.
    if turn.rollout.replace.is_some() || turn.rollout.ask.is_some() {
        return (turn.rollout.ask.clone(), None);
    }
    let (ask, told) = cordon::plan(turn.cx, turn.assessment);
    if ask.is_some() || told.is_some() || turn.rollout.is_moving() {
        return (ask, told);
    }
    match rollout::restart(moment) {
        Some((ask, message)) => (Some(ask), Some(Event::normal("MemberRestarts", message))),
        None => (None, None),
    }
}

/// Every object that there should be. The finalizer comes first, so that nothing is made that it does not guard.
fn objects(
    cx: &Context<'_>,
    scale: &scale::Scale,
    rollout: &rollout::Rollout,
    now: jiff::Timestamp,
) -> Vec<Action> {
    let guarded = cx.database.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    let mut actions = Vec::new();
    actions.extend((!guarded).then_some(Action::AddFinalizer));
    actions.extend(secrets::plan(cx));
    actions.extend(certificates::plan(cx, now));
    actions.extend(config::plan(cx));
    actions.extend(notes::plan(cx, rollout.note.as_ref()));
    actions.extend(access::plan(cx));
    actions.extend(services::plan(cx));
    actions.extend(disruption::plan(cx));
    actions.extend(members::plan(cx, scale, &rollout.template));
    actions.extend(inplace::advance(cx));
    actions.extend(rollout.replace.clone());
    actions.extend(config::change(cx, now).or_else(|| config::wake(cx)));
    // Last: an API server may refuse a schedule that dbctl takes, and nothing else should wait for that.
    actions.extend(backup::plan(cx));
    actions.extend(notes::claims(cx));
    actions.extend(storage::plan(cx, scale, now));
    actions
}

/// A condition that needs no closer look: true, or unknown or false for as long as the spec stays as it is.
fn settled(condition: &Condition) -> bool {
    condition.status == "True" || !matches!(condition.type_.as_str(), "Ready" | "Writable")
}
