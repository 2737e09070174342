//! What may be wrong with certificates: that of the server, and that of the authority that signed it. dbctl renews its own (`own`);
//! those in a Secret of the user's (`given`) are renewed by whoever made it.

mod given;
mod own;

#[cfg(test)]
pub use given::AHEAD as ALERTED;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::database::{condition, is_young};
use super::evidence::Patient;
use super::finding::{Finding, Severity, Topic};
use crate::api::{ConditionType, Names, reason};
use crate::cli::output;
use crate::plan::Certificate;

/// Clocks differ a little.
const CLOCKS: SignedDuration = SignedDuration::from_mins(5);

/// What is wrong with them. Those of a database that goes are nobody's concern.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    if patient.database.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    match given(patient) {
        Some(secret) => given::findings(patient, secret, now),
        // Those of a new one are made in a moment.
        None if is_young(patient) => Vec::new(),
        None => own::findings(patient, now),
    }
}

/// What is the controller's to mend.
pub fn waiting(patient: &Patient, now: Timestamp) -> Vec<Topic> {
    let found = findings(patient, now).into_iter().filter(|_| given(patient).is_none());
    found.filter(|finding| finding.code != own::AUTHORITY_UNUSABLE).map(|finding| finding.topic).collect()
}

/// The Secret that the user keeps.
fn given(patient: &Patient) -> Option<&str> {
    patient.database.spec.tls.as_ref()?.certificate_secret.as_deref()
}

fn kubectl(patient: &Patient) -> &str {
    patient.kubectl.as_deref().unwrap_or("kubectl")
}

/// A finding about a Secret.
fn about(severity: Severity, secret: &str, code: &'static str, what: String) -> Finding {
    Finding::new(severity, Topic::Secret(secret.to_owned()), code, what)
}

/// A certificate, as it is told of.
struct Shown<'a> {
    /// `certificate` or `authority`.
    which: &'static str,
    /// Where it is.
    secret: &'a str,
    certificate: &'a Certificate,
    /// From when it is to be renewed.
    due: Timestamp,
    /// How long that may take.
    patience: SignedDuration,
}

/// Codes of what is not valid yet, has expired, or is not renewed.
const CERTIFICATE: [&str; 3] = ["CertificateNotYetValid", "CertificateExpired", "CertificateNotRenewed"];
const AUTHORITY: [&str; 3] = ["AuthorityNotYetValid", "AuthorityExpired", "AuthorityNotRenewed"];

/// What is wrong with a certificate by what it says of its time.
fn time(patient: &Patient, shown: &Shown<'_>, now: Timestamp) -> Option<Finding> {
    let Shown { which, secret, certificate, due, patience } = shown;
    let [not_yet, expired, not_renewed] = if *which == "authority" { AUTHORITY } else { CERTIFICATE };
    let of = |severity, code, rest: String| {
        about(severity, secret, code, format!("the {which} in Secret {secret} {rest}"))
    };
    if certificate.not_after <= now {
        let finding = of(Severity::Problem, expired, "has expired".to_owned()).explains(refused(patient));
        return Some(finding.since(Some(certificate.not_after)));
    }
    if certificate.not_before.duration_since(now) > CLOCKS {
        let rest = format!("is not valid before {}", certificate.not_before);
        let finding = of(Severity::Problem, not_yet, rest).explains(refused(patient));
        return Some(
            finding.because(Some("clocks differ, or it was made for later; until then, clients refuse it")),
        );
    }
    (now.duration_since(*due) > *patience).then(|| {
        let left = output::age(now, certificate.not_after);
        let rest = format!("ends in {left} and is not renewed");
        of(Severity::Warning, not_renewed, rest).since(Some(*due))
    })
}

/// What follows where clients and replicas refuse the certificate that is shown.
fn refused(patient: &Patient) -> Vec<Topic> {
    let name = patient.database.name_any();
    let members = (0..patient.database.spec.replicas).map(|ordinal| Names(&name).member(ordinal));
    let mut topics: Vec<Topic> = members.map(Topic::Replication).collect();
    topics.extend([Topic::Commits, Topic::Backups]);
    topics.extend(told(patient));
    topics
}

/// What follows where there is none that can be used: whoever starts has none.
fn unusable(patient: &Patient) -> Vec<Topic> {
    let name = patient.database.name_any();
    let members = (0..patient.database.spec.replicas).map(|ordinal| Names(&name).member(ordinal));
    let mut topics: Vec<Topic> = members.map(Topic::Member).collect();
    topics.extend(refused(patient));
    // Nothing is begun with one that cannot be used.
    if is_young(patient) {
        topics.push(Topic::Writes);
        topics.extend(ConditionType::ALL.map(Topic::Condition));
    }
    topics
}

/// The condition that says the same, if it does.
fn told(patient: &Patient) -> Option<Topic> {
    let kind = ConditionType::UpToDate;
    let said = condition(patient, kind)?.reason.as_str();
    [reason::CERTIFICATE_UNUSABLE, reason::CERTIFICATE_EXPIRED]
        .contains(&said)
        .then_some(Topic::Condition(kind))
}
