//! A database that begins with another's data: where that comes from, and what becomes of it.

use serde_json::{Map, Value, json};

use super::blocked::Blocked;
use super::context::Context;
use super::text::{at, list, text};
use super::view::CONTAINER;
use super::{SourceDatabase, notes};
use crate::agent::{FAILED, INTERRUPTED};
use crate::api::{Phase, RestoreFrom, Verdict, reason};

/// What is to be restored, until it is.
fn asked<'a>(cx: &Context<'a>) -> Option<&'a RestoreFrom> {
    cx.spec().restore_from.as_ref().filter(|_| !cx.view.initialized())
}

/// The destination that it comes from.
fn from<'a>(cx: &Context<'a>) -> Option<&'a str> {
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
        file["dbctl"] = json!({ "archive": { "to": to, "id": notes::archive(cx) } });
    }
    let (Some(asked), Some(from)) = (asked(cx), from(cx)) else { return };
    // Patroni makes arguments of them, in that form and without a shell.
    let arguments = [
        ("from", Some(from)),
        ("backup", asked.backup.as_deref()),
        ("target-time", asked.target_time.as_deref()),
        ("target-lsn", asked.target_lsn.as_deref()),
        ("target-name", asked.target_name.as_deref()),
    ];
    let mut method: Map<String, Value> =
        arguments.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
    method.insert("command".to_owned(), json!("dbctl agent bootstrap"));
    file["bootstrap"]["method"] = json!("dbctl");
    file["bootstrap"]["dbctl"] = Value::Object(method);
}

/// The last line of a member's container that tells of a restore that ended, and whether that was for good.
fn ended(cx: &Context<'_>) -> Option<(String, bool)> {
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

/// The phase until then.
pub fn phase(cx: &Context<'_>) -> Option<Phase> {
    from(cx)?;
    Some(if ended(cx).is_some_and(|(_, last)| last) { Phase::Failed } else { Phase::Restoring })
}
