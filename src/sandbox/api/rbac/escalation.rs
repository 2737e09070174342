//! Nobody grants what they do not hold: checks on writes of roles and bindings.

use serde_json::Value;

use super::rule::{compact, quoted, uncovered};
use super::{Attributes, Rule};
use crate::sandbox::api::body::meta;
use crate::sandbox::api::call::Call;
use crate::sandbox::api::failure::Failure;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Checks a role or binding that is about to be stored; other kinds pass.
///
/// # Errors
/// 403 where the caller would grant more than they hold, 404 where the role that is bound is not there.
pub fn check(call: &Call, old: Option<&Value>, new: &Value) -> Result<(), Failure> {
    if &*call.resource.group != GROUP || call.user.is_master() || old.is_some_and(|old| same(old, new)) {
        return Ok(());
    }
    match &*call.resource.plural {
        "roles" | "clusterroles" => check_role(call, old, new),
        _ => check_binding(call, new),
    }
}

/// Whether at most what the garbage collector touches differs.
fn same(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in ["ownerReferences", "finalizers", "managedFields", "generation", "resourceVersion"] {
                metadata.remove(field);
            }
        }
        object
    };
    bare(old) == bare(new)
}

fn may(call: &Call, asked: &Attributes) -> bool {
    call.app.authorizer.decide(&call.app.store, &call.user, asked).allowed
}

fn check_role(call: &Call, old: Option<&Value>, new: &Value) -> Result<(), Failure> {
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let name = call.name.as_deref().unwrap_or_default();
    if may(call, &Attributes::resource("escalate", GROUP, &call.resource.plural, namespace, name)) {
        return Ok(());
    }
    confirm(call, new, &rules(new))?;
    let aggregates = |object: &Value| object.get("aggregationRule").is_some_and(|rule| !rule.is_null());
    if aggregates(new) || old.is_some_and(aggregates) {
        let why = "must have cluster-admin privileges to use an aggregationRule";
        confirm(call, new, &super::policy::everything())
            .map_err(|_| Failure::forbidden(&call.resource, meta(new, "name"), why, None))?;
    }
    Ok(())
}

fn check_binding(call: &Call, new: &Value) -> Result<(), Failure> {
    let text = |pointer| new.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let (kind, name) = (text("/roleRef/kind"), text("/roleRef/name"));
    let plural = if kind == "Role" { "roles" } else { "clusterroles" };
    let namespace = call.namespace.as_deref().unwrap_or_default();
    if may(call, &Attributes::resource("bind", GROUP, plural, namespace, name)) {
        return Ok(());
    }
    let place = if kind == "Role" { namespace } else { "" };
    let rules = call.app.authorizer.role(&call.app.store, place, name);
    let rules = match rules {
        Some(rules) => rules,
        None => return Err(Failure::not_found(&*call.app.builtin(GROUP, plural)?, name)),
    };
    confirm(call, new, &rules)
}

/// The rules of a role as it is written.
fn rules(role: &Value) -> Vec<Rule> {
    let rules = role.get("rules").and_then(Value::as_array);
    rules.into_iter().flatten().filter_map(|rule| Rule::deserialize(rule).ok()).collect()
}

/// Refuses rules that the caller does not hold.
fn confirm(call: &Call, object: &Value, wanted: &[Rule]) -> Result<(), Failure> {
    let namespace = call.namespace.as_deref().unwrap_or_default();
    let (held, errors) = call.app.authorizer.rules_for(&call.app.store, &call.user, namespace);
    let missing = compact(uncovered(&held, wanted));
    if missing.is_empty() {
        return Ok(());
    }
    let mut told: Vec<String> = missing.iter().map(Rule::describe).collect();
    told.sort();
    told.dedup();
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        call.user.username,
        quoted(&call.user.groups),
        told.join("\n")
    );
    if !errors.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", errors.join(" ")));
    }
    Err(Failure::forbidden(&call.resource, meta(object, "name"), &why, None))
}

use serde::Deserialize;
