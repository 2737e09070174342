//! A database that begins with another's data: where that comes from, and what becomes of it.

use serde_json::{Map, Value, json};

use super::blocked::Blocked;
use super::context::Context;
use super::text::{at, list, text};
use super::view::CONTAINER;
use super::{SourceDatabase, inplace, notes};
use crate::agent::{FAILED, INTERRUPTED};
use crate::api::{Mark, Phase, RestoreFrom, Stage, Verdict, reason};

/// What a new database is to be restored from, until it is.
fn asked<'a>(cx: &Context<'a>) -> Option<&'a RestoreFrom> {
    let first = !cx.view.initialized() && cx.view.mark.is_none();
    cx.spec().restore_from.as_ref().filter(|_| first)
}

/// What is to be restored in place, until it is. The mark has all of it: the spec may say something else by now.
fn in_place<'c>(cx: &'c Context<'_>) -> Option<&'c Mark> {
    inplace::under_way(cx).filter(|mark| !mark.undo)
}

/// The destination that it comes from.
fn from<'c>(cx: &'c Context<'_>) -> Option<&'c str> {
    if let Some(mark) = in_place(cx) {
        return Some(&mark.from);
    }
    let asked = asked(cx)?;
    match &cx.observed.source {
        _ if asked.destination.is_some() => asked.destination.as_deref(),
        Some(SourceDatabase::At(destination)) => Some(destination),
        _ => None,
    }
}

/// Where this database's own backups go.
fn own<'a>(cx: &Context<'a>) -> Option<&'a str> {
    cx.spec().backup.as_ref().filter(|backup| backup.enabled)?.destination.as_deref()
}

/// Why nothing can be made: an empty database in place of a restored one would be worse than none.
pub fn blocked(cx: &Context<'_>) -> Option<Blocked> {
    let asked = asked(cx)?;
    let name = asked.database.as_deref().unwrap_or_default();
    let failed = |message: String| Blocked::failed(reason::RESTORE_SOURCE, message);
    let Some(from) = from(cx) else {
        return match cx.observed.source {
            Some(SourceDatabase::Missing) => failed(format!(
                "spec.restoreFrom names database {name:?}, which is not in this namespace: nothing is made; delete this Database \
                 and name one that is there, or its destination"
            )),
            Some(_) => failed(format!(
                "spec.restoreFrom names database {name:?}, which has no backup destination: nothing is made until it has one"
            )),
            None => Some(Blocked {
                reason: reason::RESTORING,
                message: format!("the destination of database {name:?} is being looked up"),
                phase: Phase::Pending,
                warning: false,
            }),
        };
    };
    let same = own(cx).is_some_and(|own| own.trim_end_matches('/') == from.trim_end_matches('/'));
    same.then(|| {
        failed(format!(
            "spec.backup.destination is where this database is restored from, {from}: two databases must never write to one; delete \
             this Database and give it a destination of its own"
        ))
    })?
}

/// Completes Patroni's configuration with how the database is first filled, and the agent's with what it must own by then.
pub fn fill(cx: &Context<'_>, file: &mut Value) {
    if let Some(to) = own(cx) {
        file["dbctl"]["archive"] = json!({ "to": to, "id": notes::archive(cx) });
    }
    let Some(from) = from(cx) else { return };
    let [backup, time, lsn, name] = match (in_place(cx), asked(cx)) {
        (Some(mark), _) => [&mark.backup, &mark.target_time, &mark.target_lsn, &mark.target_name],
        (None, Some(asked)) => [&asked.backup, &asked.target_time, &asked.target_lsn, &asked.target_name],
        (None, None) => return,
    };
    // Patroni makes arguments of them, in that form and without a shell.
    let arguments = [
        ("from", Some(from)),
        ("backup", backup.as_deref()),
        ("target-time", time.as_deref()),
        ("target-lsn", lsn.as_deref()),
        ("target-name", name.as_deref()),
    ];
    let mut method: Map<String, Value> =
        arguments.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    method.insert("command".to_owned(), json!("dbctl agent bootstrap"));
    file["bootstrap"]["method"] = json!("dbctl");
    file["bootstrap"]["dbctl"] = Value::Object(method);
}

/// The last line of a member's container that tells of a restore that ended, and whether that was for good.
pub fn ended(cx: &Context<'_>) -> Option<(String, bool)> {
    let said = |pod: &Value| {
        let container =
            list(pod, "/status/containerStatuses").iter().find(|status| status["name"] == CONTAINER)?;
        let end = at(container, "/state/terminated").or_else(|| at(container, "/lastState/terminated"))?;
        let line = |line: &str| {
            let failed = line.strip_prefix(FAILED).map(|words| (words.to_owned(), true));
            failed.or_else(|| line.strip_prefix(INTERRUPTED).map(|words| (words.to_owned(), false)))
        };
        text(end, "/message")?.lines().rev().find_map(line)
    };
    let ends: Vec<(String, bool)> = cx.view.members.iter().filter_map(|member| said(member.pod)).collect();
    ends.iter().find(|(_, last)| *last).or(ends.first()).cloned()
}

/// What `Ready` says until the data is there.
pub fn verdict(cx: &Context<'_>) -> Option<Verdict> {
    if let Some(verdict) = inplace_verdict(cx) {
        return Some(verdict);
    }
    let from = from(cx)?;
    Some(match ended(cx) {
        Some((why, true)) => Verdict::no(
            reason::RESTORE_FAILED,
            format!(
                "the data cannot be restored as it was asked for: {why}; delete this Database, and ask for what can be had"
            ),
        ),
        Some((why, false)) => Verdict::no(
            reason::RESTORING,
            format!("the data is being restored from {from}, again after: {why}"),
        ),
        None => Verdict::no(reason::RESTORING, format!("the data is being restored from {from}")),
    })
}

/// The same of a restore in place.
fn inplace_verdict(cx: &Context<'_>) -> Option<Verdict> {
    let mark = inplace::under_way(cx)?;
    let name = cx.names.0;
    let restoring = |message: String| Some(Verdict::no(reason::RESTORING, message));
    match (mark.stage, ended(cx)) {
        (Stage::Stopping | Stage::Stopped, _) if mark.undo => {
            restoring("all members stop before the old data is put back".to_owned())
        }
        (Stage::Stopping | Stage::Stopped, _) => {
            restoring(format!("all members stop before the data is restored in place, to {}", mark.target()))
        }
        (_, Some((why, true))) => Some(Verdict::no(
            reason::RESTORE_FAILED,
            format!(
                "the data cannot be restored in place as it was asked for: {why}; {}",
                way_out(name, mark)
            ),
        )),
        (_, Some((why, false))) => restoring(format!(
            "the data is being restored in place, to {}, again after: {why}",
            mark.target()
        )),
        (_, None) => restoring(format!("the data is being restored in place, to {}", mark.target())),
    }
}

/// What can be done where a restore in place does not come to its end.
pub fn way_out(name: &str, mark: &Mark) -> String {
    let other = format!("`dbctl restore {name} --in-place` with what can be had restores that instead");
    if mark.discard {
        return format!("the old data was not kept; {other}");
    }
    format!(
        "the old data is whole, in pgdata.before-{} on each member's volume: `dbctl restore {name} --undo` puts it back, and {other}",
        mark.old
    )
}

/// The phase until then.
pub fn phase(cx: &Context<'_>) -> Option<Phase> {
    if inplace::under_way(cx).is_none_or(|mark| !mark.undo) {
        from(cx)?;
    }
    Some(if ended(cx).is_some_and(|(_, last)| last) { Phase::Failed } else { Phase::Restoring })
}
