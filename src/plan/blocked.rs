//! What keeps a plan from making anything at all.

use super::context::Context;
use super::ownership::{Owner, taken, volumes};
use super::{Kind, certificates, inplace, major, release, restore, scale, secrets};
use crate::api::{FINALIZER, Phase, check_spec, reason};

/// Why nothing is made or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Reason of `Ready`.
    pub reason: &'static str,
    /// What is so, and what to do next.
    pub message: String,
    /// The phase.
    pub phase: Phase,
    /// Whether somebody has to act.
    pub warning: bool,
}

impl Blocked {
    pub(super) fn failed(reason: &'static str, message: String) -> Option<Self> {
        Some(Self { reason, message, phase: Phase::Failed, warning: true })
    }
}

/// The first thing that is in the way.
pub fn blocked(cx: &Context<'_>) -> Option<Blocked> {
    invalid(cx)
        .or_else(|| inplace::blocked(cx))
        .or_else(|| major::blocked(cx))
        .or_else(|| restore::blocked(cx))
        .or_else(|| name_taken(cx))
        .or_else(|| other_major(cx))
        .or_else(|| secret_missing(cx))
        .or_else(|| certificates::blocked(cx))
        .or_else(|| history_missing(cx))
}

/// The CRD refuses such specs; one from an older CRD, or written past it, may be there all the same.
fn invalid(cx: &Context<'_>) -> Option<Blocked> {
    let violations = check_spec(cx.names.0, cx.spec());
    let first = violations.first()?;
    Blocked::failed(
        reason::INVALID_SPEC,
        format!("the spec is not valid and nothing is changed until it is: {first}"),
    )
}

fn name_taken(cx: &Context<'_>) -> Option<Blocked> {
    let (owner, kind, name) = taken(cx, scale::members(cx))?;
    match owner {
        Owner::Former => Some(Blocked {
            reason: reason::CREATING,
            message: format!("waiting until {kind} {name:?} of the deleted Database of this name is gone"),
            phase: Phase::Pending,
            warning: false,
        }),
        _ => Blocked::failed(
            reason::NAME_TAKEN,
            format!(
                "{kind} {name:?} exists and does not belong to this Database: it is not touched, and nothing is made \
                 until it is gone; delete or rename it, or give the Database another name"
            ),
        ),
    }
}

/// What an earlier Database of this name left cannot be read by another major version. One that has been made already goes
/// on with the release that its data is of.
fn other_major(cx: &Context<'_>) -> Option<Blocked> {
    let made = cx.database.metadata.finalizers.iter().flatten().any(|name| name == FINALIZER);
    let wanted = cx.spec().version;
    let recorded = release::recorded(cx).filter(|recorded| recorded.major() != wanted.major())?;
    if made || volumes(cx).next().is_none() {
        return None;
    }
    let major = recorded.major();
    Blocked::failed(
        reason::OTHER_MAJOR,
        format!(
            "the volumes that an earlier Database of this name left hold data of PostgreSQL {recorded}, which {wanted} cannot \
             read: set spec.version to a release of {major}, or delete what was left if nothing in it is needed"
        ),
    )
}

fn secret_missing(cx: &Context<'_>) -> Option<Blocked> {
    let name = secrets::missing(cx)?;
    Blocked::failed(
        reason::SECRET_MISSING,
        format!(
            "Secret {name:?} is gone, and with it the passwords that the data knows: restore it from a copy, with its labels"
        ),
    )
}

/// Without it Patroni takes the first member for that of a new database, and where its volume is empty makes one, which
/// those with the data then do not belong to. A primary that runs writes it again by itself.
fn history_missing(cx: &Context<'_>) -> Option<Blocked> {
    let name = cx.names.dynamic_config();
    let lost = cx.observed.get(Kind::ConfigMap, &name).is_none() && cx.view.lock.holder.is_none();
    let claims: Vec<String> = volumes(cx).map(|ordinal| cx.names.claim(ordinal)).collect();
    if !lost || claims.is_empty() {
        return None;
    }
    Blocked::failed(
        reason::HISTORY_MISSING,
        format!(
            "ConfigMap {name:?}, which says what database the volumes are of, is gone: restore it from a copy, with its labels; \
             without one, make it with its labels and no content if every volume holds the data, or delete the volumes \
             ({}) if nothing in them is needed",
            claims.join(", ")
        ),
    )
}
