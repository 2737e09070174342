//! A Secret that the user keeps: whoever made it renews it, and dbctl does not.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use super::{Shown, about, kubectl, time, unusable};
use crate::api::Names;
use crate::cli::doctor::database::is_young;
use crate::cli::doctor::evidence::{Certified, Patient};
use crate::cli::doctor::finding::{Finding, Severity, Topic};
use crate::plan::{CERTIFICATE, Certificate, KEY, TRUSTED, certificate_names};

/// How long before its end a certificate is told of that dbctl does not renew: as DatabaseCertificateExpiring does.
pub const AHEAD: SignedDuration = SignedDuration::from_hours(14 * 24);

/// What is wrong with it.
pub fn findings(patient: &Patient, secret: &str, now: Timestamp) -> Vec<Finding> {
    let Some(seen) = patient.certificates.get(secret) else { return Vec::new() };
    let look = Look { patient, secret, now };
    match seen {
        None => vec![look.missing()],
        Some(seen) => match (&seen.held.problem, &seen.held.certificate) {
            (Some(problem), _) => vec![look.unusable(seen, problem)],
            (None, Some(certificate)) => look
                .authority(seen, certificate)
                .or_else(|| look.time(seen, certificate, "certificate"))
                .into_iter()
                .chain(look.names(certificate))
                .collect(),
            (None, None) => Vec::new(),
        },
    }
}

struct Look<'a> {
    patient: &'a Patient,
    secret: &'a str,
    now: Timestamp,
}

impl Look<'_> {
    fn missing(&self) -> Finding {
        let what = format!("Secret {} of spec.tls.certificateSecret is not there", self.secret);
        let finding = about(Severity::Problem, self.secret, "CertificateMissing", what)
            .because(Some(format!(
                "it is not dbctl's: whoever made it has to make it again; {}",
                self.meanwhile()
            )))
            .explains(unusable(self.patient));
        finding.next(self.create())
    }

    fn unusable(&self, seen: &Certified, problem: &str) -> Finding {
        let what = format!("Secret {} of spec.tls.certificateSecret {problem}", self.secret);
        let finding = about(Severity::Problem, self.secret, "CertificateUnusable", what)
            .because(Some(format!("{}; {}", whose(seen), self.meanwhile())))
            .since(seen.written)
            .explains(unusable(self.patient));
        self.mend(finding, seen)
    }

    fn meanwhile(&self) -> &'static str {
        if is_young(self.patient) {
            "until then nothing of the database is made"
        } else {
            "until then, members go on with what they have"
        }
    }

    /// The authority in it that has signed its certificate.
    fn authority(&self, seen: &Certified, certificate: &Certificate) -> Option<Finding> {
        let signer = certificate.signed_by.as_ref()?;
        let authority = seen.held.trusted.iter().find(|trusted| trusted.fingerprint == *signer)?;
        self.time(seen, authority, "authority")
    }

    /// Not valid, or not renewed in time.
    fn time(&self, seen: &Certified, certificate: &Certificate, which: &'static str) -> Option<Finding> {
        let due = certificate.not_after.checked_sub(AHEAD).unwrap_or(Timestamp::MIN);
        let shown = Shown { which, secret: self.secret, certificate, due, patience: SignedDuration::ZERO };
        let finding = time(self.patient, &shown, self.now)?;
        let why = format!(
            "{}; once it has ended, clients that check it and replicas that connect anew are refused",
            whose(seen)
        );
        Some(self.mend(finding.because_default(&why), seen))
    }

    /// It is for no name of a Service of the database. Whoever made it may have meant other names, by which clients come.
    fn names(&self, certificate: &Certificate) -> Option<Finding> {
        let name = self.patient.database.name_any();
        let wanted = certificate_names(&self.patient.database);
        let services = [Names(&name).main(), Names(&name).read_only_service()];
        let lacks = |service: &&String| {
            let mut ways = wanted.iter().filter(|way| way.split('.').next() == Some(service.as_str()));
            !ways.any(|way| certificate.names.iter().any(|name| stands_for(name, way)))
        };
        let lacks: Vec<&str> = services.iter().filter(lacks).map(String::as_str).collect();
        let what = format!(
            "the certificate in Secret {} is for no name of Service {}",
            self.secret,
            lacks.join(" or ")
        );
        (!lacks.is_empty()).then(|| {
            Finding::new(Severity::Note, Topic::Other, "CertificateLacksNames", what).because(Some(
                "clients with sslmode=verify-full that connect by it are refused; members do not mind",
            ))
        })
    }

    /// What whoever renews it types.
    fn mend(&self, finding: Finding, seen: &Certified) -> Finding {
        match &seen.issued_for {
            Some(certificate) => {
                finding.next(format!("{} describe certificate {certificate}", kubectl(self.patient)))
            }
            None => finding.next(format!(
                "{} --dry-run=client -o yaml | {} apply -f -",
                self.create(),
                kubectl(self.patient)
            )),
        }
    }

    fn create(&self) -> String {
        let files = [CERTIFICATE, KEY, TRUSTED].map(|key| format!(" --from-file={key}")).concat();
        format!("{} create secret generic {}{files}", kubectl(self.patient), self.secret)
    }
}

/// Who renews it.
fn whose(seen: &Certified) -> String {
    match &seen.issued_for {
        Some(certificate) => {
            format!("cert-manager made it for Certificate {certificate}, and is to renew it")
        }
        None => "it is not dbctl's: whoever made it renews it".to_owned(),
    }
}

/// Whether a name in a certificate is for that one: a wildcard stands for one label.
fn stands_for(name: &str, wanted: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(rest) => wanted.split_once('.').is_some_and(|(_, other)| other.eq_ignore_ascii_case(rest)),
        None => name.eq_ignore_ascii_case(wanted),
    }
}
