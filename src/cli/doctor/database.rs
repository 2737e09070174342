//! What may be wrong with a database as a whole: whether it can be written to, what was asked for, and its conditions.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use super::certificates;
use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use crate::api::{
    ConditionType, DatabaseStatus, GROUP, OperationPhase, PAUSED, Phase, Verb, reason, requests,
};
use crate::cli::pause;
use crate::plan::View;

/// What the controller takes up within seconds where it works.
const SOON: i64 = 20;
/// For how long a failed request is worth a word.
const LATELY: i64 = 24 * 3600;
/// What a request may take that does not move data, in seconds.
const LONG: i64 = 15 * 60;
/// What one may take that does.
const VERY_LONG: i64 = 6 * 3600;

/// Why a new database is not made, which time alone does not mend.
const BLOCKED: [&str; 3] = [reason::INVALID_SPEC, reason::NAME_TAKEN, reason::CERTIFICATE_UNUSABLE];

/// What is wrong with it.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let mut all = Vec::new();
    if let Some(going) = going(patient, now) {
        all.push(going);
    }
    all.extend(paused(patient, now));
    all.extend(unanswered(patient, now));
    all.extend(asked(patient, now));
    all.extend(operations(patient, now));
    // Those of a new one are made in a moment.
    all.extend(secrets(patient).into_iter().filter(|_| !is_young(patient)));
    all.extend(conditions(patient));
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
fn unanswered(patient: &Patient, now: Timestamp) -> Option<Finding> {
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
fn asked(patient: &Patient, now: Timestamp) -> Vec<Finding> {
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
fn operations(patient: &Patient, now: Timestamp) -> Vec<Finding> {
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
                let word = if operation.phase == OperationPhase::Failed { "failed" } else { "was refused" };
                // The last word on a matter counts: a second try says whether the first still matters.
                if !later.contains(&kind) && ended.is_none_or(|(_, age)| age < LATELY) {
                    let what = format!("the last {kind} that was asked for {word}");
                    let finding = found(Severity::Warning, "RequestFailed", what);
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

/// Secrets that are not there.
fn secrets(patient: &Patient) -> Vec<Finding> {
    let backups = patient.database.spec.backup.as_ref().and_then(|backup| backup.credentials_secret.clone());
    let missing = patient.secrets.iter().filter(|(_, there)| !**there);
    missing
        .map(|(name, _)| {
            let what = format!("Secret {name} is not there");
            let finding = Finding::new(Severity::Problem, Topic::Secret(name.clone()), "SecretMissing", what);
            let members = (0..patient.database.spec.replicas).map(|ordinal| {
                Topic::Member(crate::api::Names(&patient.database.name_any()).member(ordinal))
            });
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

/// What the conditions say: that of writes, and of commits, as findings of their own, the rest where nothing else told it.
fn conditions(patient: &Patient) -> Vec<Finding> {
    let bad = ConditionType::ALL.into_iter().filter_map(|kind| {
        let condition = condition(patient, kind).filter(|condition| condition.status != "True")?;
        Some(of_condition(patient, kind, condition))
    });
    bad.collect()
}

/// The database is being made for the first time: nothing of it is sick yet.
pub fn is_young(patient: &Patient) -> bool {
    matches!(status(patient).and_then(|status| status.phase), None | Some(Phase::Pending | Phase::Creating))
        && !View::new(&patient.database.name_any(), &patient.observed).initialized()
}

fn of_condition(patient: &Patient, kind: ConditionType, condition: &Condition) -> Finding {
    let name = patient.database.name_any();
    let outage = status(patient).and_then(|status| status.outage.as_ref());
    let began = outage.and_then(|outage| outage.started_at.as_ref()).map(|time| time.0);
    let since = Some(condition.last_transition_time.0);
    let reason = condition.reason.as_str();
    let young = is_young(patient);
    let (severity, topic, code, what) = match (kind, reason) {
        _ if young && !BLOCKED.contains(&reason) => (
            Severity::Note,
            Topic::Condition(kind),
            "BeingMade",
            format!("{name} is being made: {kind} is not true yet"),
        ),
        (ConditionType::Writable, reason::SPLIT_BRAIN) => (
            Severity::Critical,
            Topic::Writes,
            "SplitBrain",
            format!("two members of {name} say that they are the primary"),
        ),
        (ConditionType::Writable, _) => {
            (Severity::Critical, Topic::Writes, "NotWritable", format!("nobody can write to {name}"))
        }
        (ConditionType::Ready, reason::SYNC_DEGRADED) => (
            Severity::Problem,
            Topic::Commits,
            "CommitsUnprotected",
            format!("no replica confirms commits of {name}: they exist on the primary alone"),
        ),
        (ConditionType::UpToDate, reason::ROLLOUT_HALTED) => (
            Severity::Problem,
            Topic::Rollout,
            "RolloutHalted",
            format!("a change of the pods of {name} has halted"),
        ),
        (ConditionType::BackupsHealthy, reason::BACKUPS_DISABLED) => {
            (Severity::Note, Topic::Other, "BackupsOff", format!("{name} has no backups"))
        }
        // Where an agent says why, that is told in its words.
        (ConditionType::BackupsHealthy, reason::ARCHIVING_FAILING) if !super::backups::is_told(patient) => (
            Severity::Problem,
            Topic::Archiving,
            "ArchivingFails",
            format!("WAL of {name} does not reach its backups"),
        ),
        (ConditionType::BackupsHealthy, reason::BACKUP_DAMAGED) => {
            (Severity::Problem, Topic::Backups, "BackupDamaged", format!("a backup of {name} is damaged"))
        }
        (ConditionType::BackupsHealthy, reason::NO_BACKUP) if condition.status == "Unknown" => {
            (Severity::Note, Topic::Backups, "NoBackup", format!("{name} has no backup yet"))
        }
        (ConditionType::BackupsHealthy, _) => (
            Severity::Warning,
            Topic::Condition(kind),
            "BackupsUnhealthy",
            format!("backups of {name} are not as they should be ({reason})"),
        ),
        (ConditionType::UpToDate, reason::CERTIFICATE_UNUSABLE) => (
            Severity::Problem,
            Topic::Condition(kind),
            "CertificateUnusable",
            format!("a certificate of {name} cannot be used"),
        ),
        (ConditionType::UpToDate, reason::CERTIFICATE_EXPIRED) => (
            Severity::Problem,
            Topic::Condition(kind),
            "CertificateExpired",
            format!("the certificate of {name} has expired"),
        ),
        (ConditionType::UpToDate, _) => (
            Severity::Warning,
            Topic::Condition(kind),
            "NotUpToDate",
            format!("pods of {name} do not run the spec yet ({reason})"),
        ),
        (ConditionType::Ready, reason::SCALING | reason::UPGRADING | reason::RESTORING) => (
            Severity::Warning,
            Topic::Condition(kind),
            "Changing",
            format!("{name} is being changed ({reason})"),
        ),
        (ConditionType::StorageHealthy, reason::VOLUME_FILLING) => {
            (Severity::Warning, Topic::Condition(kind), "VolumeFilling", format!("volumes of {name} fill"))
        }
        (ConditionType::Ready | ConditionType::StorageHealthy, _) => (
            Severity::Problem,
            Topic::Condition(kind),
            "ConditionFalse",
            format!("{name} is not well: {kind} is {} ({reason})", condition.status),
        ),
    };
    let since = if topic == Topic::Writes { began.or(since) } else { since };
    let mut finding =
        Finding::new(severity, topic, code, what).because(Some(condition.message.as_str())).since(since);
    for command in remedies(patient, kind, reason) {
        finding = finding.next(command);
    }
    match finding.topic {
        Topic::Writes => {
            finding.explains([Topic::Commits, Topic::Condition(ConditionType::Ready), Topic::Backups])
        }
        Topic::Archiving => finding.explains([Topic::Backups]),
        Topic::Rollout => finding.explains([Topic::Condition(ConditionType::Ready)]),
        _ => finding,
    }
}

/// What helps.
fn remedies(patient: &Patient, kind: ConditionType, reason: &str) -> Vec<String> {
    let one = |text: String| vec![text];
    if is_young(patient) && !BLOCKED.contains(&reason) {
        return one(format!("{} --watch", command(patient, "status")));
    }
    match (kind, reason) {
        (ConditionType::Writable, reason::SPLIT_BRAIN) => one(command(patient, "status")),
        (ConditionType::Writable, _) => one(format!("{} --dry-run", command(patient, "failover"))),
        (_, reason::ROLLOUT_HALTED) => {
            vec![
                format!("{} --resume --wait", command(patient, "upgrade")),
                format!("{} --abort --wait", command(patient, "upgrade")),
            ]
        }
        (ConditionType::BackupsHealthy, reason::ARCHIVING_FAILING) => {
            let backup = patient.database.spec.backup.as_ref();
            match backup.and_then(|backup| backup.destination.as_deref()) {
                Some(destination) => one(format!("{} backups selftest --to {destination}", patient.command)),
                None => one(command(patient, "status")),
            }
        }
        (ConditionType::BackupsHealthy, reason::BACKUPS_DISABLED) => Vec::new(),
        (ConditionType::BackupsHealthy, reason::BACKUP_DAMAGED) => {
            one(format!("{} -o wide", command(patient, "backups")))
        }
        (ConditionType::BackupsHealthy, _) => one(format!("{} --wait", command(patient, "backup-now"))),
        (_, reason::RESTORE_FAILED) => one(format!("{} --undo --wait", command(patient, "restore"))),
        _ => one(format!("{} -o wide", command(patient, "status"))),
    }
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
