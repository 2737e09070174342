//! Whether what was written can be restored: that WAL is archived, and that base backups are taken when they should be.

use std::str::FromStr;

use croner::Cron;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Run, RunState, Task, Wanted, catalog, enabled, runs};
use crate::agent::ArchiveReport;
use crate::api::{Catalog, CatalogEntry, ConditionType, Database, DatabaseStatus, Verdict, reason};
use crate::plan::context::Context;
use crate::plan::pause::is_paused;
use crate::plan::text::{list, text};
use crate::plan::view::Member;
use crate::plan::{Event, Kind, Observed, Settings, backup};

/// WAL that waits for longer than this is not just on its way.
const WAITS: SignedDuration = SignedDuration::from_secs(60);
/// How much later than the schedule says a backup may end before somebody is told: it takes its time.
const SLACK: SignedDuration = SignedDuration::from_hours(1);
/// What ended longer ago than this is no news.
const NEWS: SignedDuration = SignedDuration::from_hours(1);

/// A member whose WAL does not get away.
struct Archiving<'a> {
    member: &'a str,
    /// Since when the oldest file waits, where that is known.
    since: Option<Timestamp>,
    /// What came of the last try.
    error: Option<&'a str>,
}

/// The members whose WAL does not get away, the holder of the lock first.
fn archiving<'a>(cx: &Context<'a>, now: Timestamp) -> Vec<Archiving<'a>> {
    let late = |at: Option<Timestamp>| at.is_some_and(|at| now.duration_since(at) > WAITS);
    let of = |member: &Member<'a>| {
        let ArchiveReport { waiting, oldest_waiting, last_error } = cx.observed.archives.get(member.name)?;
        let failed = last_error.as_ref().map(|error| error.at);
        let stuck = *waiting > 0 && (late(*oldest_waiting) || late(failed));
        let error = last_error.as_ref().map(|error| error.error.as_str());
        stuck.then_some(Archiving { member: member.name, since: *oldest_waiting, error })
    };
    let mut stuck: Vec<_> = cx.view.members.iter().filter_map(of).collect();
    stuck.sort_by_key(|archiving| cx.view.lock.holder.as_deref() != Some(archiving.member));
    stuck
}

/// BackupsHealthy.
pub fn verdict(cx: &Context<'_>, now: Timestamp) -> Verdict {
    let Some(wanted) = enabled(cx) else {
        return Verdict::unknown(reason::BACKUPS_DISABLED, "backups are off: set spec.backup to have them");
    };
    let catalog = catalog(cx).unwrap_or_default();
    let newest = catalog.newest();
    archiving_fails(cx, now)
        .or_else(|| damaged(cx, &catalog))
        .or_else(|| last_failed(cx, newest))
        .or_else(|| newest.is_none().then(|| none_yet(cx, &wanted, now)))
        .or_else(|| overdue(cx, &wanted, newest?, now))
        .unwrap_or_else(|| {
            let ended = newest.map(|entry| time(entry.stopped_at)).unwrap_or_default();
            let unverified = unverified(cx, &catalog).map(|(_, words)| format!("; {words}"));
            let message = format!("the last backup ended at {ended}{}", unverified.unwrap_or_default());
            Verdict::yes(reason::BACKUPS_CURRENT, message)
        })
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

fn before<'c>(cx: &'c Context<'_>) -> Option<&'c Condition> {
    let kind = ConditionType::BackupsHealthy.to_string();
    cx.database.status.as_ref()?.conditions.iter().find(|condition| condition.type_ == kind)
}

fn archiving_fails(cx: &Context<'_>, now: Timestamp) -> Option<Verdict> {
    let stuck = archiving(cx, now);
    let Some(first) = stuck.first() else {
        // What failed and is not heard of fails still.
        let holder = cx.view.lock.holder.as_ref();
        let heard = holder.is_some_and(|holder| cx.observed.archives.contains_key(holder));
        let failed = before(cx).filter(|before| before.reason == reason::ARCHIVING_FAILING && !heard)?;
        return Some(Verdict::no(reason::ARCHIVING_FAILING, failed.message.clone()));
    };
    // Without counts, which would move with each file.
    let names: Vec<&str> = stuck.iter().map(|archiving| archiving.member).collect();
    let since = first.since.map(|since| format!(" since {}", time(since))).unwrap_or_default();
    let error = stuck.iter().find_map(|archiving| archiving.error);
    let quiet = "no failure was noted, so it is slower than what is written, or hangs, or cannot be run";
    let error = error.unwrap_or(quiet);
    let mut message = format!(
        "WAL of {} waits to be archived{since}: {error}; it cannot be restored before it is, and fills the volumes",
        names.join(" and ")
    );
    let bare: Vec<&str> = names.into_iter().filter(|name| lacks_credentials(cx, name)).collect();
    if !bare.is_empty() {
        message.push_str(&format!(
            "; the pod of {} was made before spec.backup.credentialsSecret was set: a deleted pod comes back with it",
            bare.join(" and ")
        ));
    }
    Some(Verdict::no(reason::ARCHIVING_FAILING, message))
}

/// Its pod does not have the Secret that the spec names.
fn lacks_credentials(cx: &Context<'_>, name: &str) -> bool {
    let Some(wanted) = cx.spec().backup.as_ref().and_then(|backup| backup.credentials_secret.as_deref())
    else {
        return false;
    };
    let has = |member: &Member<'_>| {
        let volumes = list(member.pod, "/spec/volumes").iter();
        volumes
            .filter(|volume| volume["name"] == backup::CREDENTIALS)
            .any(|v| text(v, "/secret/secretName") == Some(wanted))
    };
    cx.view.member(name).is_some_and(|member| !has(member))
}

/// The newest backup of those that were looked at is damaged: it stays so until one that is as new is found to be good.
fn damaged(cx: &Context<'_>, catalog: &Catalog) -> Option<Verdict> {
    let name = cx.names.0;
    let (entry, at) = catalog.backups.iter().find_map(|entry| Some((entry, entry.verified_at?)))?;
    let problem = entry.verify_problem.as_ref()?;
    let good =
        catalog.backups.iter().find(|other| other.verified_at.is_some() && other.verify_problem.is_none());
    let good = good.map_or_else(
        || "none is known to be good".to_owned(),
        |good| format!("the newest that is known to be good is {}", good.id),
    );
    let next = if catalog.newest() == Some(entry) {
        format!(
            "take another with `dbctl backup-now {name}`, and have it looked at with `dbctl backup verify {name}`"
        )
    } else {
        format!("have the newest looked at with `dbctl backup verify {name}`")
    };
    let message = format!(
        "backup {} is damaged, as was found at {}: failed to {problem}; {good}; {next}",
        entry.id,
        time(at)
    );
    Some(Verdict::no(reason::BACKUP_DAMAGED, message))
}

/// The last verification came to no result: its Job, and why.
fn unverified(cx: &Context<'_>, catalog: &Catalog) -> Option<(String, String)> {
    let runs = runs(cx, Task::Verify);
    let (run, at) = runs.iter().filter_map(|run| Some((run, run.failed_at()?))).max_by_key(|(_, at)| *at)?;
    let later = runs.iter().any(|run| matches!(run.state, RunState::Complete(ended) if ended >= at));
    let known = |entry: &CatalogEntry| {
        entry.verified_at.is_some_and(|found| run.made.is_some_and(|made| found >= made))
    };
    if later || catalog.backups.iter().any(known) {
        return None;
    }
    let words = format!("the verification of Job {} failed at {}: {}", run.name, time(at), run.words(cx));
    Some((run.name.to_owned(), words))
}

fn last_failed(cx: &Context<'_>, newest: Option<&CatalogEntry>) -> Option<Verdict> {
    let runs = runs(cx, Task::Backup);
    let (run, at) = runs.iter().filter_map(|run| Some((run, run.failed_at()?))).max_by_key(|(_, at)| *at)?;
    let later = |run: &super::Run<'_>| matches!(run.state, RunState::Complete(ended) if ended >= at);
    if newest.is_some_and(|entry| entry.stopped_at >= at) || runs.iter().any(later) {
        return None;
    }
    let good = newest.map_or_else(
        || "there is no good one yet".to_owned(),
        |entry| format!("the last good one ended at {}", time(entry.stopped_at)),
    );
    let message = format!("the backup of Job {} failed at {}: {}; {good}", run.name, time(at), run.words(cx));
    Some(Verdict::no(reason::BACKUP_FAILED, message))
}

/// When a backup is due next after that instant.
fn due(wanted: &Wanted<'_>, after: Timestamp) -> Option<Timestamp> {
    let zone = TimeZone::get(wanted.zone).ok()?;
    let schedule = Cron::from_str(wanted.schedule).ok()?;
    Some(schedule.find_next_occurrence(&after.to_zoned(zone), false).ok()?.timestamp())
}

fn none_yet(cx: &Context<'_>, wanted: &Wanted<'_>, now: Timestamp) -> Verdict {
    let next = match due(wanted, now) {
        _ if is_paused(cx) => "the schedule rests".to_owned(),
        Some(due) => format!("the schedule's next is due at {}", time(due)),
        None => "the schedule names no time".to_owned(),
    };
    let message =
        format!("no backup has been taken yet: {next}; `dbctl backup-now {}` takes one now", cx.names.0);
    Verdict::no(reason::NO_BACKUP, message)
}

/// Until when the next backup must have ended: one period after the last one was begun, and a little. One that is being taken
/// has as long again, and no longer: it may hang.
fn deadline(wanted: &Wanted<'_>, runs: &[Run<'_>], begun: Option<Timestamp>) -> Option<Timestamp> {
    let running = runs.iter().filter(|run| run.state == RunState::Active);
    due(wanted, running.filter_map(|run| run.made).max().max(begun)?)?.checked_add(SLACK).ok()
}

/// The same of a Database; before there is any backup, by when the schedule was made. None where backups are off.
pub fn backup_due(database: &Database, observed: &Observed) -> Option<Timestamp> {
    let settings = Settings::default();
    let cx = Context::new(database, observed, &settings);
    let newest = catalog(&cx).and_then(|catalog| Some(catalog.newest()?.started_at));
    let made = || {
        let schedule = observed.get(Kind::CronJob, &cx.names.backup_schedule())?;
        text(schedule, "/metadata/creationTimestamp")?.parse().ok()
    };
    deadline(&enabled(&cx)?, &runs(&cx, Task::Backup), newest.or_else(made))
}

fn overdue(cx: &Context<'_>, wanted: &Wanted<'_>, newest: &CatalogEntry, now: Timestamp) -> Option<Verdict> {
    let runs = runs(cx, Task::Backup);
    if now <= deadline(wanted, &runs, Some(newest.started_at))? {
        return None;
    }
    let mut running = runs.iter().filter(|run| run.state == RunState::Active);
    let why = if let Some(run) = running.next() {
        format!("Job {} is not done yet: {}", run.name, run.story(cx))
    } else if is_paused(cx) {
        "the schedule rests, by annotation db.example.com/paused".to_owned()
    } else {
        format!("`kubectl describe cronjob {}` may say why", cx.names.backup_schedule())
    };
    let message = format!(
        "the last backup ended at {}, and none has been taken since, though one was due at {}; {why}",
        time(newest.stopped_at),
        time(due(wanted, newest.started_at)?)
    );
    Some(Verdict::no(reason::BACKUP_OVERDUE, message))
}

/// Events for what the status says for the first time.
pub fn events(cx: &Context<'_>, new: &DatabaseStatus, now: Timestamp) -> Vec<Event> {
    let kind = ConditionType::BackupsHealthy.to_string();
    let after = new.conditions.iter().find(|condition| condition.type_ == kind);
    let (before, mut events) = (before(cx), Vec::new());
    let was = |reason: &str| before.is_some_and(|before| before.reason == reason);
    if let Some(after) = after {
        let is = |reason: &str| after.reason == reason;
        if is(reason::ARCHIVING_FAILING) && !was(reason::ARCHIVING_FAILING) {
            events.push(Event::warning(reason::ARCHIVING_FAILING, after.message.clone()));
        } else if was(reason::ARCHIVING_FAILING) && !is(reason::ARCHIVING_FAILING) && enabled(cx).is_some() {
            events.push(Event::normal("ArchivingRecovered", "WAL is archived again"));
        }
        let retold =
            before.is_none_or(|before| before.reason != after.reason || before.message != after.message);
        // Whoever asked for it was told already.
        let told = new
            .operations
            .iter()
            .any(|operation| after.message.contains(&cx.names.backup_job(&operation.id)));
        if is(reason::BACKUP_FAILED) && retold && !told {
            events.push(Event::warning(reason::BACKUP_FAILED, after.message.clone()));
        }
        if is(reason::BACKUP_DAMAGED) && retold {
            events.push(Event::warning(reason::BACKUP_DAMAGED, after.message.clone()));
        }
        events.extend(verification_failed(cx, before, after));
    }
    events.extend(completed(cx, now));
    events.extend(verified(cx, now));
    events
}

/// One of the schedule that came to no result, said for the first time. Whoever asked for one was told already.
fn verification_failed(cx: &Context<'_>, before: Option<&Condition>, after: &Condition) -> Option<Event> {
    let (job, words) = unverified(cx, &catalog(cx)?)?;
    let name = format!("Job {job} ");
    let fresh = after.message.contains(&name) && before.is_none_or(|before| !before.message.contains(&name));
    let operations = cx.database.status.as_ref().map(|old| old.operations.as_slice()).unwrap_or_default();
    let asked = operations.iter().any(|operation| cx.names.verify_job(&operation.id) == job);
    (fresh && !asked).then(|| Event::warning("VerificationFailed", words))
}

/// A backup that is found to be good for the first time, or again.
fn verified(cx: &Context<'_>, now: Timestamp) -> Option<Event> {
    let catalog = catalog(cx)?;
    let good = catalog.backups.iter().filter(|entry| entry.verify_problem.is_none());
    let (at, entry) = good.filter_map(|entry| Some((entry.verified_at?, entry))).max_by_key(|(at, _)| *at)?;
    let known = |old: &crate::api::StoredBackup| {
        old.id == entry.id
            && old.verify_problem.is_none()
            && old.verified_at.as_ref().is_some_and(|known| known.0.as_second() == at.as_second())
    };
    let old = cx.database.status.as_ref().is_some_and(|old| old.backups.iter().any(known));
    let news = !old && now.duration_since(at) < NEWS;
    news.then(|| Event::normal("BackupVerified", verified_summary(entry)))
}

/// What was found of a good one, in one line.
pub fn verified_summary(entry: &CatalogEntry) -> String {
    format!("backup {} is good: it was restored, and nothing is wrong with its tables and indexes", entry.id)
}

/// A backup that is listed for the first time.
fn completed(cx: &Context<'_>, now: Timestamp) -> Option<Event> {
    let catalog = catalog(cx)?;
    let newest = catalog.newest()?;
    let known =
        cx.database.status.as_ref().is_some_and(|old| old.backups.iter().any(|old| old.id == newest.id));
    let news = !known && now.duration_since(newest.stopped_at) < NEWS;
    news.then(|| Event::normal("BackupCompleted", summary(newest)))
}

/// A backup in one line.
pub fn summary(entry: &CatalogEntry) -> String {
    let took = entry.stopped_at.duration_since(entry.started_at).as_secs_f64().max(0.0);
    let size = bytesize::ByteSize::b(entry.bytes).display().iec();
    format!("backup {}, {size} in {took:.0} s", entry.id)
}
