//! What is done to pods beside changing them: binding to a node, and polite deletion.

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::value_response;
use super::body::meta;
use super::call::{Call, Refused};
use super::create::seconds;
use super::delete::{DeleteOptions, remove};
use super::failure::Failure;
use super::registry::Subresource;
use super::store::WriteError;
use super::update::{Edit, change_object, success};
use crate::sandbox::object::selector::LabelSelector;

/// Answers POST of `pods/NAME/binding`: the scheduler's decision.
///
/// # Errors
/// 409 where the pod has a node already or is being deleted.
pub async fn bind(call: &Call, binding: &Value) -> Result<Response, Failure> {
    let node = binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(Failure::unknown("target.name: Required value"));
    }
    loop {
        let (record, mut pod) = call.live()?;
        let assigned = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        if !assigned.is_empty() {
            let why = format!("pod {} is already assigned to node {assigned:?}", call.name()?);
            return Err(Failure::binding_conflict(call.name()?, &why));
        }
        if !meta(&pod, "deletionTimestamp").is_empty() {
            let why = format!("pod {} is being deleted, cannot be assigned to a host", call.name()?);
            return Err(Failure::binding_conflict(call.name()?, &why));
        }
        pod["spec"]["nodeName"] = json!(node);
        if let Some(annotations) = binding.pointer("/metadata/annotations").and_then(Value::as_object) {
            for (key, value) in annotations {
                pod["metadata"]["annotations"][key] = value.clone();
            }
        }
        mark_scheduled(&mut pod);
        let draft = call.resource.draft(&pod)?;
        match call.commit(&call.key()?, Some(record.version()), Some(&draft)).await {
            Err(Refused::Write(WriteError::Stale)) => {}
            Err(Refused::Write(error)) => return Err(error.into()),
            Err(Refused::Failure(failure)) => return Err(failure),
            Ok(_) => return Ok(created()),
        }
    }
}

/// That something was done which made no object.
fn created() -> Response {
    let mut status = success(Value::Null);
    status["code"] = json!(201);
    value_response(StatusCode::CREATED, &status)
}

fn mark_scheduled(pod: &mut Value) {
    let since = seconds(Timestamp::now());
    let condition =
        json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": since});
    set_condition(pod, condition);
}

fn set_condition(pod: &mut Value, condition: Value) {
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|old| old["type"] != condition["type"]);
        list.push(condition);
    }
}

/// Answers POST of `pods/NAME/eviction`: a deletion that asks the disruption budgets first.
///
/// # Errors
/// 429 where a budget does not allow it.
pub async fn evict(call: &Call, eviction: &Value, mut deletion: Call) -> Result<Response, Failure> {
    let options = DeleteOptions::read(&mut deletion, eviction.get("deleteOptions"))?;
    deletion.subresource = None;
    let (_, pod) = call.live()?;
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    let undisturbing =
        matches!(phase, "Pending" | "Succeeded" | "Failed") || !meta(&pod, "deletionTimestamp").is_empty();
    if !undisturbing {
        // Others may be evicting too, and the budget's controller writes at any time.
        while let Spent::Overtaken = spend(call, &deletion, &pod).await? {}
    }
    if !call.query.dry_run()? && !deletion.query.dry_run()? {
        mark_disrupted(call).await?;
    }
    remove(&deletion, &options).await?;
    Ok(created())
}

/// Says in the pod's status why it goes.
async fn mark_disrupted(call: &Call) -> Result<(), Failure> {
    loop {
        let (record, mut pod) = call.live()?;
        if !meta(&pod, "deletionTimestamp").is_empty() {
            return Ok(());
        }
        let condition = json!({"type": "DisruptionTarget", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": seconds(Timestamp::now()), "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting"});
        set_condition(&mut pod, condition);
        let draft = call.resource.draft(&pod)?;
        match call.commit(&call.key()?, Some(record.version()), Some(&draft)).await {
            Err(Refused::Write(WriteError::Stale)) => {}
            Err(Refused::Write(error)) => return Err(error.into()),
            Err(Refused::Failure(failure)) => return Err(failure),
            Ok(_) => return Ok(()),
        }
    }
}

/// Whether a disruption was taken from a budget.
enum Spent {
    /// It was, or none is needed.
    Done,
    /// The budget has changed meanwhile, and must be looked at again.
    Overtaken,
}

/// Takes one disruption from the budget that covers the pod.
async fn spend(call: &Call, deletion: &Call, pod: &Value) -> Result<Spent, Failure> {
    let budgets = call.app.builtin("policy", "poddisruptionbudgets")?;
    let namespace = call.namespace.clone().unwrap_or_default();
    let mut covering = Vec::new();
    for (_, record) in call.app.store.list(&budgets.storage, &format!("{namespace}/"), None).items {
        let budget = budgets.load(&record)?;
        let selector = LabelSelector::from_object(budget.pointer("/spec/selector").unwrap_or(&Value::Null));
        if selector.is_ok_and(|selector| selector.matches_object(pod)) {
            covering.push(budget);
        }
    }
    let budget = match covering.as_slice() {
        [] => return Ok(Spent::Done),
        [budget] => budget,
        _ => {
            let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not \
                           support.";
            return Err(Failure::internal(message));
        }
    };
    check_budget(budget)?;
    let left = budget.pointer("/status/disruptionsAllowed").and_then(Value::as_i64).unwrap_or(0);
    let mut write = Call { resource: budgets, ..deletion.clone() };
    write.name = Some(meta(budget, "name").to_owned());
    write.subresource = Some(Subresource::Status);
    let disrupted = json!({call.name()?: seconds(Timestamp::now())});
    let change = json!({"metadata": {"resourceVersion": meta(budget, "resourceVersion")},
        "status": {"disruptionsAllowed": left - 1, "disruptedPods": disrupted}});
    match change_object(&write, &Edit::Merge(change)).await {
        Ok(_) => Ok(Spent::Done),
        Err(failure) if failure.is_conflict() => Ok(Spent::Overtaken),
        Err(failure) => Err(failure),
    }
}

fn check_budget(budget: &Value) -> Result<(), Failure> {
    let name = meta(budget, "name");
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let refuse = |message: String| {
        let text = "Cannot evict pod as it would violate the pod's disruption budget.";
        Err(Failure::too_many_requests(text, json!([{"reason": "DisruptionBudget", "message": message}])))
    };
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return refuse(format!("The disruption budget {name} is still being processed by the server."));
    }
    if number("/status/disruptionsAllowed") <= 0 {
        return refuse(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number("/status/desiredHealthy"),
            number("/status/currentHealthy")
        ));
    }
    Ok(())
}
