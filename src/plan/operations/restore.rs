//! A restore in place that was asked for, the way back from one, and the end of what is kept. What decides is the mark beside
//! the data (`plan/inplace`); this only begins it, and tells how far it is.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use ulid::Ulid;

use super::super::backup::{self, Task};
use super::super::conditions::{complete, members_ready};
use super::super::inplace;
use super::super::members;
use super::super::requests::Step;
use super::super::restore::{ended, way_out};
use super::{Turn, failed, rejected, succeeded, waits};
use crate::api::{
    Catalog, CatalogEntry, Mark, Operation, OperationPhase, Request, RestoreArguments, Stage, discarded,
};
use crate::plan::Kind;

/// How long members may take to remove what they keep.
const LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How long the end waits for all members, once writes are taken again: meanwhile nothing else may be asked for.
const CLONED: SignedDuration = SignedDuration::from_mins(10);

/// Takes it up, or says why not.
pub fn begin(turn: &Turn<'_, '_>, operation: Operation, request: &Request, asked: &RestoreArguments) -> Step {
    let before = turn.cx.view.mark.as_ref();
    match before {
        // A pass that could not write the status has begun it.
        Some(mark) if mark.id == request.id && mark.is_under_way() => {
            return go_on(turn, Operation { phase: OperationPhase::Running, ..operation }, None);
        }
        Some(mark) if mark.id >= request.id => {
            let message = format!(
                "restore {} was taken up later than this was asked for, and no request replaces data twice: ask anew",
                mark.id
            );
            return rejected(turn, operation, message);
        }
        _ => {}
    }
    let refused = if !asked.discard.is_empty() {
        refuse_to_discard(turn, asked)
    } else if asked.undo {
        refuse_to_undo(turn)
    } else {
        refuse(turn, asked)
    };
    if let Some(why) = refused {
        return rejected(turn, operation, why);
    }
    let from = turn.cx.view.lock.holder.clone();
    let operation = Operation { phase: OperationPhase::Running, from, ..operation };
    if asked.discard.is_empty() {
        write(turn, operation, request.id, asked)
    } else {
        discard(turn, operation, asked)
    }
}

/// A restore whose data nobody has ever written to.
fn unfinished<'t>(turn: &'t Turn<'_, '_>) -> Option<&'t Mark> {
    inplace::under_way(turn.cx)
}

fn paused(turn: &Turn<'_, '_>) -> Option<String> {
    turn.assessment.paused.then(|| {
        "Patroni is paused by somebody who works on this database: resume it first (`patronictl resume`)"
            .to_owned()
    })
}

/// One that has not failed comes to its end, or is taken back first: nobody's restore is replaced without a word.
fn going_on(name: &str, mark: &Mark) -> String {
    if mark.undo {
        return format!("the old data is being put back, by request {}: ask again when it is there", mark.id);
    }
    let back = if mark.discard { "wait for its end" } else { "wait for its end, or take it back first with" };
    let undo = if mark.discard { String::new() } else { format!(" `dbctl restore {name} --undo`") };
    format!("restore {} to {} is under way: {back}{undo}", mark.id, mark.target())
}

/// Its data may have been written to, and its WAL archived, though no pass has seen that yet.
fn just_over(turn: &Turn<'_, '_>, mark: &Mark) -> Option<String> {
    let over = mark.stage == Stage::Restoring && turn.cx.view.initialized();
    over.then(|| format!("restore {} is just coming to its end: look again in a few seconds", mark.id))
}

fn refuse_to_undo(turn: &Turn<'_, '_>) -> Option<String> {
    let Some(mark) = unfinished(turn) else {
        return Some(match &turn.cx.view.mark {
            Some(mark) if !mark.undo => format!(
                "restore {} is over, and what it restored has been written to: the data from before it is in pgdata.before-{} on \
                 each member's volume, and all of its WAL in the archive",
                mark.id, mark.old
            ),
            _ => "no restore in place is under way, so there is nothing to undo".to_owned(),
        });
    };
    if let Some(over) = just_over(turn, mark) {
        return Some(over);
    }
    if mark.undo {
        return Some(format!("the old data is being put back already, by request {}", mark.id));
    }
    mark.discard.then(|| {
        format!(
            "restore {} was asked for without keeping the old data, so there is nothing to go back to",
            mark.id
        )
    })
}

fn refuse_to_discard(turn: &Turn<'_, '_>, asked: &RestoreArguments) -> Option<String> {
    if let Some(mark) = unfinished(turn) {
        return Some(format!(
            "restore {} is under way, and may still need the old data: ask again when it is over",
            mark.id
        ));
    }
    let known = |id: &Ulid| turn.cx.observed.kept.values().flatten().any(|kept| kept.id == *id);
    let unknown = asked.discard.iter().find(|id| !known(id))?;
    Some(format!("no member that answers keeps data of before restore {unknown}"))
}

/// Everything that can be said against it before anything is stopped.
fn refuse(turn: &Turn<'_, '_>, asked: &RestoreArguments) -> Option<String> {
    let (cx, name) = (turn.cx, turn.cx.names.0);
    if let Some(paused) = paused(turn) {
        return Some(paused);
    }
    if backup::enabled(cx).is_none() {
        return Some(format!(
            "backups of {name} are off, and it is restored from its own: set spec.backup with enabled, a destination and a schedule"
        ));
    }
    if let Some(over) = unfinished(turn).and_then(|mark| just_over(turn, mark)) {
        return Some(over);
    }
    if let Some(mark) = unfinished(turn).filter(|mark| mark.stage < Stage::Restoring) {
        return Some(format!("restore {} is stopping the members: ask again in a minute", mark.id));
    }
    if let Some(mark) = unfinished(turn).filter(|_| ended(cx).is_none()) {
        return Some(going_on(name, mark));
    }
    if !cx.view.initialized() && unfinished(turn).is_none() {
        return Some("the database has not been made yet".to_owned());
    }
    let Some(catalog) = backup::catalog(cx).filter(|catalog| !catalog.backups.is_empty()) else {
        return Some(format!("no backup of it is known: take one first, with `dbctl backup-now {name}`"));
    };
    let entry = match begins_with(turn, &catalog, asked) {
        Ok(entry) => entry,
        Err(why) => return Some(why),
    };
    unaware(turn).or_else(|| crowded(turn, entry, asked))
}

/// The backup that it would begin with, as far as the catalog tells; the member that restores looks into the archive itself.
fn begins_with<'c>(
    turn: &Turn<'_, '_>,
    catalog: &'c Catalog,
    asked: &RestoreArguments,
) -> Result<&'c CatalogEntry, String> {
    let at: Option<Timestamp> = match asked.target_time.as_deref().map(str::parse) {
        None => None,
        Some(Ok(at)) => Some(at),
        Some(Err(_)) => return Err("targetTime is no instant in RFC 3339 with its zone".to_owned()),
    };
    let window = |end: String| {
        let from = catalog.earliest.map_or_else(|| "the first backup".to_owned(), |at| at.to_string());
        format!("the data can be restored to any time from {from} to {end}")
    };
    if at.is_some_and(|at| at > turn.now) {
        return Err(format!("the target lies in the future: {}", window("now".to_owned())));
    }
    let wanted = asked.backup.as_deref();
    let fits = |entry: &&CatalogEntry| {
        wanted.is_none_or(|id| entry.id == id) && at.is_none_or(|at| entry.stopped_at <= at)
    };
    let Some(entry) = catalog.backups.iter().find(fits) else {
        let listed = |id: &&str| catalog.backups.iter().any(|entry| entry.id == **id);
        return Err(match wanted {
            Some(id) if !listed(&id) => {
                format!("there is no backup {id}: see `dbctl backups {}`", turn.cx.names.0)
            }
            Some(id) => format!("backup {id} was complete only after the target"),
            None => format!("the target lies before the first backup: {}", window("about now".to_owned())),
        });
    };
    let major = members::version(turn.cx).major();
    let own = entry.version.split('.').next().and_then(|own| own.parse().ok());
    if own.is_some_and(|own: u8| own != major) {
        return Err(format!(
            "backup {} is of PostgreSQL {}, and members run {major}",
            entry.id, entry.version
        ));
    }
    Ok(entry)
}

/// A member whose agent would start on its old data.
fn unaware(turn: &Turn<'_, '_>) -> Option<String> {
    let observed = turn.cx.observed;
    let member = observed.rooms.keys().find(|member| !observed.kept.contains_key(*member))?;
    Some(format!(
        "the dbctl in the pod of {member} knows nothing of restores in place: delete that pod, so that it comes back with the image \
         of now, and ask again"
    ))
}

fn bytes(bytes: u64) -> String {
    crate::plan::size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

/// Too little room for the old data and the new.
fn crowded(turn: &Turn<'_, '_>, entry: &CatalogEntry, asked: &RestoreArguments) -> Option<String> {
    // What was begun holds the room already.
    if asked.without_old || unfinished(turn).is_some() {
        return None;
    }
    let lacking = |(member, room): (&String, &crate::plan::Room)| {
        (room.free < entry.size).then(|| format!("{member} ({} free)", bytes(room.free)))
    };
    let members: Vec<String> = turn.cx.observed.rooms.iter().filter_map(lacking).collect();
    (!members.is_empty()).then(|| {
        format!(
            "backup {} is of {}, and beside the old data there is too little room for it on the volume of {}: remove what is kept \
             of before an earlier restore (--discard-old), have larger volumes, or do without the old data (--without-old), which \
             is gone then whatever comes of the restore",
            entry.id,
            bytes(entry.size),
            members.join(" and ")
        )
    })
}

fn write(turn: &Turn<'_, '_>, operation: Operation, id: Ulid, asked: &RestoreArguments) -> Step {
    let cx = turn.cx;
    let before = unfinished(turn);
    let from = backup::enabled(cx).map(|wanted| wanted.destination.to_owned()).unwrap_or_default();
    let mark = Mark {
        id,
        stage: Stage::Stopping,
        old: before.map_or(id, |before| before.old),
        undo: asked.undo,
        discard: asked.without_old || before.is_some_and(|before| before.discard),
        from,
        backup: asked.backup.clone(),
        target_time: asked.target_time.clone(),
        target_lsn: asked.target_lsn.clone(),
        target_name: asked.target_name.clone(),
    };
    let step = waits(operation, "all members are told to stop");
    Step { ask: Some(inplace::begin(cx, &mark)), ..step }
}

/// Goes on with it. `asked`: what was asked for, if that still stands.
pub fn go_on(turn: &Turn<'_, '_>, operation: Operation, asked: Option<&RestoreArguments>) -> Step {
    let Ok(id) = Ulid::from_string(&operation.id) else {
        return failed(turn, operation, "its id is none".to_owned());
    };
    if operation.remaining.is_empty() {
        return match turn.cx.view.mark.as_ref() {
            Some(mark) if mark.id == id => follow(turn, operation, mark),
            Some(mark) if mark.id > id => {
                let message = format!("request {} took its place", mark.id);
                failed(turn, operation, message)
            }
            _ => match asked {
                Some(asked) if asked.discard.is_empty() => write(turn, operation, id, asked),
                _ => failed(turn, operation, "it was taken back before anything was stopped".to_owned()),
            },
        };
    }
    discarding(turn, operation)
}

fn follow(turn: &Turn<'_, '_>, operation: Operation, mark: &Mark) -> Step {
    let cx = turn.cx;
    let left = cx.view.members.len();
    match mark.stage {
        Stage::Stopping if left > 0 => {
            let noun = if left == 1 { "member stops" } else { "members stop" };
            waits(operation, format!("{left} {noun}"))
        }
        Stage::Stopping | Stage::Stopped => waits(operation, "all members have stopped"),
        Stage::Restoring => match ended(cx) {
            Some((why, true)) => {
                let message = format!("{why}; {}", way_out(cx.names.0, mark));
                failed(turn, operation, message)
            }
            Some((why, false)) => {
                let message = format!("restoring to {}, again after: {why}", mark.target());
                waits(operation, message)
            }
            None => waits(operation, format!("restoring to {}", mark.target())),
        },
        Stage::Done => {
            let step_started_at = operation.step_started_at.clone().or(Some(Time(turn.now)));
            let operation = Operation { step_started_at, ..operation };
            let late = turn.since(operation.step_started_at.as_ref()) >= CLONED;
            let lacks = (!complete(cx))
                .then(|| members_ready(cx).map_or_else(|| turn.standing(), |verdict| verdict.message));
            match lacks {
                Some(lacks) if cx.view.running_primary().is_none() || !late => {
                    let what = if mark.undo { "the old data is back" } else { "restored" };
                    waits(operation, format!("{what}; waiting for all members: {lacks}"))
                }
                lacks => finished(turn, operation, mark, lacks),
            }
        }
    }
}

/// Its last step is a backup: until there is one on the new timeline, a restore goes the long way. `lacks`: what members lack
/// all the same.
fn finished(turn: &Turn<'_, '_>, operation: Operation, mark: &Mark, lacks: Option<String>) -> Step {
    let cx = turn.cx;
    let lacks = lacks.map(|lacks| format!("; not all members are there yet: {lacks}")).unwrap_or_default();
    if mark.undo {
        return succeeded(
            turn,
            operation,
            format!("the data from before restore {} is back{lacks}", mark.old),
        );
    }
    let job = cx.names.backup_job(&operation.id);
    let mut message = format!("restored to {}", mark.target());
    if let Some(how) = cx.view.running_primary().and_then(|primary| cx.observed.recovered.get(primary.name)) {
        message.push_str(&format!(", with backup {}, on timeline {}", how.backup, how.timeline));
        let last = how.last.map(|at| format!("; its last transaction is of {at}"));
        message.push_str(&last.unwrap_or_default());
    }
    if !mark.discard {
        message.push_str(&format!(
            "; the data from before is kept in pgdata.before-{} on each member's volume, until `dbctl restore {} --discard-old`",
            mark.old, cx.names.0
        ));
    }
    message.push_str(&lacks);
    match backup::enabled(cx) {
        Some(wanted) if cx.observed.get(Kind::Job, &job).is_none() => {
            let job = backup::requested(cx, &wanted, Task::Backup, &operation.id, None);
            Step {
                ask: Some(job),
                ..waits(operation, "all members are there; a backup of the new data is begun")
            }
        }
        Some(_) => {
            message.push_str(&format!("; a backup of it is being taken, by Job {job}"));
            succeeded(turn, operation, message)
        }
        None => succeeded(turn, operation, message),
    }
}

fn discard(turn: &Turn<'_, '_>, operation: Operation, asked: &RestoreArguments) -> Step {
    let ids: Vec<String> = asked.discard.iter().map(Ulid::to_string).collect();
    let step = inplace::discard(turn.cx, &ids.join(","));
    let operation = Operation { remaining: ids, ..operation };
    Step { ask: Some(step), ..waits(operation, "members remove what they keep") }
}

fn discarding(turn: &Turn<'_, '_>, operation: Operation) -> Step {
    let cx = turn.cx;
    let noted =
        cx.observed.get(Kind::ConfigMap, &cx.names.dynamic_config()).map(discarded).unwrap_or_default();
    let noted = |id: &String| noted.iter().any(|noted| noted.to_string() == *id);
    if !operation.remaining.iter().all(noted) {
        let step = inplace::discard(cx, &operation.remaining.join(","));
        return Step { ask: Some(step), ..waits(operation, "members remove what they keep") };
    }
    let keeps = |member: &&str| match cx.observed.kept.get(*member) {
        Some(kept) => kept.iter().any(|kept| operation.remaining.contains(&kept.id.to_string())),
        None => true,
    };
    let left: Vec<&str> = cx.view.members.iter().map(|member| member.name).filter(keeps).collect();
    let ids = operation.remaining.join(", ");
    if left.is_empty() {
        return succeeded(turn, operation, format!("the data from before restore {ids} is removed"));
    }
    let message = format!("still to remove it, or not answering: {}", left.join(", "));
    if turn.since(operation.started_at.as_ref()) >= LIMIT {
        return failed(turn, operation, format!("{message}; each does so when it is there again"));
    }
    waits(operation, message)
}
