//! dbctl's own: an authority in `NAME-ca`, and in `NAME-tls` the server's certificate that it signs. The controller makes and renews
//! both, so what is told here has outlasted that, or cannot be mended by it.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{Shown, about, kubectl, refused, time, told, unusable};
use crate::api::Names;
use crate::cli::doctor::database::reconcile_problem;
use crate::cli::doctor::evidence::{Certified, Patient};
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::plan::{Certificate, authority_due, certificate_names, server_due};

/// What is due is done by then, and the alert waits as long.
const LATE: SignedDuration = SignedDuration::from_mins(15);
/// The one code of what the controller does not mend.
pub const AUTHORITY_UNUSABLE: &str = "AuthorityUnusable";

/// What is wrong with them.
pub fn findings(patient: &Patient, now: Timestamp) -> Vec<Finding> {
    let name = patient.database.name_any();
    let (ca, tls) = (Names(&name).authority_secret(), Names(&name).certificate_secret());
    let look = Look { patient, ca: &ca, tls: &tls, now };
    look.authority().into_iter().chain(look.server()).collect()
}

struct Look<'a> {
    patient: &'a Patient,
    ca: &'a str,
    tls: &'a str,
    now: Timestamp,
}

impl Look<'_> {
    fn seen(&self, secret: &str) -> Option<&Option<Certified>> {
        self.patient.certificates.get(secret)
    }

    /// What the controller would have mended: what it says of itself is why it has not.
    fn unmended(&self, finding: Finding, otherwise: &str) -> Finding {
        let name = self.patient.database.name_any();
        let said = reconcile_problem(self.patient);
        finding
            .because(said)
            .because_default(otherwise)
            .next(format!("{} events {name}", self.patient.command))
    }

    fn authority(&self) -> Option<Finding> {
        let (patient, secret) = (self.patient, self.ca);
        let Some(seen) = self.seen(secret)? else {
            let what = format!("Secret {secret} with the database's authority is not there");
            let finding = about(Severity::Warning, secret, "AuthorityMissing", what).explains(told(patient));
            let why = "dbctl makes another within two minutes; clients that check certificates have to be told of it";
            return Some(self.unmended(finding, why));
        };
        let unusable = |problem: &str| {
            about(Severity::Warning, secret, AUTHORITY_UNUSABLE, format!("Secret {secret} {problem}"))
                .because(Some(
                    "no certificate can be renewed by it, and dbctl replaces no authority that clients trust: restore the \
                     Secret from a copy; only without one, delete it, and clients have to be told of the next",
                ))
                .since(seen.written)
                .explains(told(patient))
                .explains([Topic::Secret(self.tls.to_owned())])
                .next(format!("{} describe secret {secret}", kubectl(patient)))
        };
        if let Some(problem) = &seen.held.problem {
            return Some(unusable(problem));
        }
        let certificate = seen.held.certificate.as_ref()?;
        let finding = self.time("authority", secret, certificate, authority_due(certificate))?;
        Some(finding.explains([Topic::Secret(self.tls.to_owned())]))
    }

    fn server(&self) -> Option<Finding> {
        let (patient, secret) = (self.patient, self.tls);
        let bad = |code, what: String| about(Severity::Problem, secret, code, what);
        let Some(seen) = self.seen(secret)? else {
            let what = format!("Secret {secret} with the server's certificate is not there");
            let finding = bad("CertificateMissing", what).explains(unusable(patient));
            let why = "dbctl makes another within two minutes; until then, members that run go on, and none can start";
            return Some(self.unmended(finding, why));
        };
        if let Some(problem) = &seen.held.problem {
            let finding = bad("CertificateUnusable", format!("Secret {secret} {problem}"));
            let why = "dbctl makes another within two minutes; until then, members go on with what they have";
            return Some(self.unmended(finding.since(seen.written).explains(unusable(patient)), why));
        }
        let certificate = seen.held.certificate.as_ref()?;
        self.time("certificate", secret, certificate, server_due(certificate))
            .or_else(|| self.stranger(certificate, seen))
            .or_else(|| self.names(certificate, seen))
    }

    /// Not valid, or not renewed in time.
    fn time(
        &self,
        which: &'static str,
        secret: &str,
        certificate: &Certificate,
        due: Timestamp,
    ) -> Option<Finding> {
        let shown = Shown { which, secret, certificate, due, patience: LATE };
        Some(self.unmended(time(self.patient, &shown, self.now)?, EXPIRED))
    }

    /// Signed by another authority than the database's own.
    fn stranger(&self, certificate: &Certificate, seen: &Certified) -> Option<Finding> {
        let authority = self.seen(self.ca)?.as_ref().filter(|authority| authority.held.problem.is_none())?;
        let signed = |by: &String| authority.held.trusted.iter().any(|trusted| trusted.fingerprint == *by);
        if certificate.signed_by.as_ref().is_some_and(signed) {
            return None;
        }
        let what =
            format!("no authority in Secret {} has signed the certificate in Secret {}", self.ca, self.tls);
        let finding = about(Severity::Problem, self.tls, "CertificateNotTrusted", what)
            .since(seen.written.max(authority.written))
            .explains(refused(self.patient));
        Some(self.unmended(
            finding,
            "clients that check it refuse to connect; dbctl makes another within two minutes",
        ))
    }

    /// Not for every name that clients may use.
    fn names(&self, certificate: &Certificate, seen: &Certified) -> Option<Finding> {
        let wanted = certificate_names(&self.patient.database);
        let lacks: Vec<String> =
            wanted.into_iter().filter(|name| !certificate.names.contains(name)).collect();
        let first = lacks.first()?;
        let rest =
            if lacks.len() > 1 { format!(" and {} more names", lacks.len() - 1) } else { String::new() };
        let what = format!("the certificate in Secret {} is not for {first}{rest}", self.tls);
        let finding = about(Severity::Problem, self.tls, "CertificateLacksNames", what).since(seen.written);
        Some(self.unmended(
            finding,
            "clients with sslmode=verify-full refuse; dbctl makes another within two minutes",
        ))
    }
}

/// What comes of one that has ended.
const EXPIRED: &str = "dbctl renews its own certificates with a third of their life left, and the authority with a tenth; once one has \
                       ended, clients that check it and replicas that connect anew are refused, and sessions go on";
