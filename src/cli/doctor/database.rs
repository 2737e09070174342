//! What may be wrong with a database as a whole: whether it can be written to, what was asked for, and its conditions.

mod conditions;
mod requests;
mod work;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::certificates;
use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use crate::api::{ConditionType, DatabaseStatus, Names, PAUSED, Phase};
use crate::cli::pause;
use crate::plan::View;
pub use requests::{reconcile_problem, waiting};
pub use work::under_way;

/// What a request may take that does not move data, in seconds.
const LONG: i64 = 15 * 60;

/// What is wrong with it.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(going) = going(patient, now) {
        all.push(going);
    }
    all.extend(paused(patient, now));
    all.extend(work::finding(patient));
    all.extend(requests::unanswered(patient, now));
    all.extend(requests::asked(patient, now));
    all.extend(requests::operations(patient, now));
    // Those of a new one are made in a moment.
    all.extend(secrets(patient).into_iter().filter(|_| !is_young(patient)));
    all.extend(conditions::findings(patient));
    all.extend(kept(patient));
    all
}

fn status(patient: &Patient) -> Option<&DatabaseStatus> {
    patient.database.status.as_ref()
}

fn command(patient: &Patient, verb: &str) -> String {
    format!("{} {verb} {}", patient.command, patient.database.name_any())
}

/// It is being deleted: what is missing then is missed by nobody.
fn going(patient: &Patient, now: Timestamp) -> Option<Finding> {
    let asked = patient.database.metadata.deletion_timestamp.as_ref()?.0;
    let long = now.duration_since(asked).as_secs() > LONG;
    let severity = if long { Severity::Warning } else { Severity::Note };
    let what = format!("{} is being deleted", patient.database.name_any());
    let all = ConditionType::ALL.map(Topic::Condition);
    Some(
        Finding::new(severity, Topic::Pause, "Deleting", what)
            .since(Some(asked))
            .explains(all)
            .next(command(patient, "events")),
    )
}

fn paused(patient: &Patient, now: Timestamp) -> Option<Finding> {
    pause::is_paused(&patient.database).then(|| {
        let what = format!(
            "dbctl is paused for {} ({PAUSED}=true): it changes nothing",
            patient.database.name_any()
        );
        Finding::new(Severity::Warning, Topic::Pause, "Paused", what)
            .because(Some("Patroni goes on electing primaries; schedules of backups rest"))
            .since(
                condition(patient, ConditionType::UpToDate).map(|condition| condition.last_transition_time.0),
            )
            .explains([Topic::Rollout, Topic::Spec, Topic::Condition(ConditionType::UpToDate)])
            .explains(waiting(patient, None))
            .explains(certificates::waiting(patient, now))
            .next(command(patient, "resume"))
    })
}

/// Secrets without which pods cannot start, and that are not there.
fn secrets(patient: &Patient) -> Vec<Finding> {
    let backups = patient.database.spec.backup.as_ref().and_then(|backup| backup.credentials_secret.clone());
    let missing = patient.secrets.iter().filter(|(_, there)| !**there);
    missing
        .map(|(name, _)| {
            let what = format!("Secret {name} is not there");
            let finding = Finding::new(Severity::Problem, Topic::Secret(name.clone()), "SecretMissing", what);
            let members = (0..patient.database.spec.replicas)
                .map(|ordinal| Topic::Member(Names(&patient.database.name_any()).member(ordinal)));
            let finding = finding.explains(members).explains([Topic::Archiving, Topic::Backups]);
            let kubectl = patient.kubectl.as_deref().unwrap_or("kubectl");
            if backups.as_deref() == Some(name) {
                finding
                    .because(Some("spec.backup.credentialsSecret names it; pods cannot start without"))
                    .next(format!("{kubectl} create secret generic {name} --from-literal=KEY=VALUE"))
            } else {
                finding
                    .because(Some(
                        "the passwords in it are those of the data; dbctl makes new ones only with new data",
                    ))
                    .next(command(patient, "status"))
            }
        })
        .collect()
}

pub fn condition(patient: &Patient, kind: ConditionType) -> Option<&Condition> {
    let kind = kind.to_string();
    status(patient)?.conditions.iter().find(|condition| condition.type_ == kind)
}

/// The database is being made for the first time: nothing of it is sick yet.
pub fn is_young(patient: &Patient) -> bool {
    matches!(status(patient).and_then(|status| status.phase), None | Some(Phase::Pending | Phase::Creating))
        && !View::new(&patient.database.name_any(), &patient.observed).initialized()
}

/// Data from before restores in place.
fn kept(patient: &Patient) -> Option<Finding> {
    let on = status(patient)?.instances.iter().filter(|instance| !instance.kept.is_empty());
    let names: Vec<&str> = on.map(|instance| instance.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        let what = format!("data of before a restore takes room on {}", names.join(", "));
        Finding::new(Severity::Note, Topic::Other, "DataKept", what)
            .next(format!("{} --discard-old", command(patient, "restore")))
    })
}
