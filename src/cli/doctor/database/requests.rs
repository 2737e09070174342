//! What was asked for: a spec or request that nobody has taken up, or what became of it.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{LONG, command, status};
use crate::api::{GROUP, OperationPhase, Verb, requests};
use crate::cli::doctor::evidence::Patient;
use crate::cli::doctor::finding::{Finding, Severity, Topic};

/// What the controller takes up within seconds where it works.
const SOON: i64 = 20;
/// For how long a failed request is worth a word.
const LATELY: i64 = 24 * 3600;
/// What one may take that does.
const VERY_LONG: i64 = 6 * 3600;

/// Requests that nobody has taken up, those older than some seconds where a time is given.
pub fn waiting(patient: &Patient, now: Option<Timestamp>) -> Vec<Topic> {
    let uid = patient.database.metadata.uid.as_deref().unwrap_or_default();
    let known = status(patient).map(|status| status.operations.as_slice()).unwrap_or_default();
    let found = requests(patient.database.annotations()).into_iter().filter_map(|(_, _, parsed)| parsed.ok());
    let mut topics: Vec<Topic> = found
        .filter(|(_, request)| {
            request.uid == uid && known.iter().all(|operation| operation.id != request.id.to_string())
        })
        .filter(|(_, request)| now.is_none_or(|now| age(request.id, now) > SOON))
        .map(|(_, request)| Topic::Request(request.id.to_string()))
        .collect();
    if let Some(now) = now {
        topics.extend(unanswered(patient, now).map(|_| Topic::Spec));
    }
    topics
}

fn made(id: ulid::Ulid) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(id.timestamp_ms()).ok()?).ok()
}

fn age(id: ulid::Ulid, now: Timestamp) -> i64 {
    made(id).map_or(0, |made| now.duration_since(made).as_secs())
}

/// When the spec was last changed, by the API server's own record of who wrote what.
fn edited(patient: &Patient) -> Option<Timestamp> {
    let managers = patient.database.metadata.managed_fields.iter().flatten();
    let of_spec = managers.filter(|entry| {
        entry.subresource.is_none()
            && entry.fields_v1.as_ref().is_some_and(|fields| fields.0.get("f:spec").is_some())
    });
    let newest = of_spec.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).max();
    newest.or(patient.database.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// The newest spec is not answered.
pub fn unanswered(patient: &Patient, now: Timestamp) -> Option<Finding> {
    let seen = status(patient).and_then(|status| status.observed_generation);
    if seen >= patient.database.metadata.generation {
        return None;
    }
    let since = edited(patient);
    if since.is_some_and(|since| now.duration_since(since).as_secs() < SOON) {
        return None;
    }
    let name = patient.database.name_any();
    let what = match seen {
        None => format!("nobody has taken {name} up: no controller has seen it"),
        Some(_) => format!("the newest change of {name} is not answered"),
    };
    let finding = Finding::new(Severity::Problem, Topic::Spec, "Unanswered", what).since(since);
    Some(finding.because(reconcile_problem(patient)).next(command(patient, "events")))
}

/// What the controller said of passes that failed.
pub fn reconcile_problem(patient: &Patient) -> Option<String> {
    patient.warning(&patient.database.name_any(), &["ReconcileFailed"])
}

/// Requests that nobody has taken up, or that nobody can read.
pub fn asked(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let waits = waiting(patient, Some(now));
    let found = requests(patient.database.annotations()).into_iter();
    found
        .filter_map(|(verb, _, parsed)| match parsed {
            Ok((verb, request)) => {
                let topic = Topic::Request(request.id.to_string());
                waits.contains(&topic).then(|| {
                    let what = format!("a {verb} was asked for ({}), and nobody has taken it up", request.id);
                    Finding::new(Severity::Problem, topic, "RequestWaits", what)
                        .since(made(request.id))
                        .because(reconcile_problem(patient))
                        .next(command(patient, "events"))
                })
            }
            Err(error) => {
                let annotation = format!("{GROUP}/{verb}");
                let what =
                    format!("annotation {annotation} of {} cannot be read", patient.database.name_any());
                let finding = Finding::new(Severity::Warning, Topic::Other, "RequestUnreadable", what);
                Some(finding.because(Some(error.to_string())).next(format!(
                    "{} annotate database {} {annotation}-",
                    patient.kubectl.as_deref().unwrap_or("kubectl"),
                    patient.database.name_any()
                )))
            }
        })
        .collect()
}

/// Requests that were refused, failed, or take too long. What was asked for again since, and done, is over.
pub fn operations(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let operations = status(patient).map(|status| status.operations.as_slice()).unwrap_or_default();
    let mut told = Vec::new();
    let mut later: Vec<&str> = Vec::new();
    for operation in operations {
        let kind = operation.kind.as_str();
        let topic = Topic::Request(operation.id.clone());
        let moves =
            kind.parse().is_ok_and(|verb| !matches!(verb, Verb::Failover | Verb::Restart | Verb::Resume));
        let limit = if moves { VERY_LONG } else { LONG };
        let since = |time: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| {
            time.as_ref().map(|time| (time.0, now.duration_since(time.0).as_secs()))
        };
        let found = |severity, code, what: String| {
            Finding::new(severity, topic.clone(), code, what).because(operation.message.as_deref())
        };
        match operation.phase {
            OperationPhase::Rejected | OperationPhase::Failed => {
                let ended = since(&operation.finished_at);
                // What was refused changed nothing, and whoever asked was told: the database is as well as before.
                let (severity, code, word) = match operation.phase {
                    OperationPhase::Failed => (Severity::Warning, "RequestFailed", "failed"),
                    _ => (Severity::Note, "RequestRefused", "was refused"),
                };
                // The last word on a matter counts: a second try says whether the first still matters.
                if !later.contains(&kind) && ended.is_none_or(|(_, age)| age < LATELY) {
                    let what = format!("the last {kind} that was asked for {word}");
                    let finding = found(severity, code, what);
                    told.push(finding.since(ended.map(|(at, _)| at)).next(command(patient, "status")));
                }
            }
            OperationPhase::Accepted | OperationPhase::Running => {
                if let Some((at, _)) = since(&operation.started_at).filter(|(_, age)| *age > limit) {
                    let what = format!("a {kind} does not come to its end");
                    let finding = found(Severity::Warning, "RequestHangs", what).since(Some(at));
                    told.push(finding.next(command(patient, "events")));
                }
            }
            OperationPhase::Succeeded => {}
        }
        later.push(kind);
    }
    told
}
