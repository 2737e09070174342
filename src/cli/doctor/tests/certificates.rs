//! What is told of certificates.

use jiff::SignedDuration;

use super::*;
use crate::cli::doctor::evidence::Certified;
use crate::plan::{Certificate, Held, certificate_names};

/// A certificate that was made so many days ago, and ends in so many.
fn made(id: &str, ago: i64, left: i64, by: &str, names: &[String]) -> Certificate {
    let at = |days: i64| now() + SignedDuration::from_hours(24 * days);
    Certificate {
        fingerprint: id.to_owned(),
        serial: id.to_owned(),
        not_before: at(-ago),
        not_after: at(left),
        names: names.to_vec(),
        signed_by: Some(by.to_owned()),
    }
}

fn certified(certificate: Certificate, trusted: Certificate) -> Option<Certified> {
    let held = Held { certificate: Some(certificate), trusted: vec![trusted], problem: None };
    Some(Certified { held, written: AT.parse().ok(), issued_for: None })
}

fn authority() -> Certificate {
    made("ca", 100, 3550, "ca", &[])
}

/// Those of a database at rest.
pub fn fine(patient: &Patient) -> std::collections::BTreeMap<String, Option<Certified>> {
    let server = made("tls", 40, 50, "ca", &certificate_names(&patient.database));
    let all = [("db-ca", certified(authority(), authority())), ("db-tls", certified(server, authority()))];
    all.map(|(name, held)| (name.to_owned(), held)).into()
}

fn seen<'a>(patient: &'a mut Patient, secret: &str) -> &'a mut Certified {
    patient.certificates.get_mut(secret).unwrap().as_mut().unwrap()
}

fn certificate<'a>(patient: &'a mut Patient, secret: &str) -> &'a mut Certificate {
    seen(patient, secret).held.certificate.as_mut().unwrap()
}

/// With so many days left of a life of so many.
fn left(patient: &mut Patient, secret: &str, left: i64, life: i64) {
    let of = certificate(patient, secret);
    *of = made(&of.fingerprint, life - left, left, "ca", &of.names);
}

fn broken(patient: &mut Patient, secret: &str, problem: &str) {
    seen(patient, secret).held = Held { problem: Some(problem.to_owned()), ..Held::default() };
}

/// The user's own, in place of dbctl's.
fn own(patient: &mut Patient, certificate: Certificate) {
    patient.database.spec.tls = serde_json::from_value(json!({ "certificateSecret": "mine" })).unwrap();
    patient.certificates = [("mine".to_owned(), certified(certificate, authority()))].into();
}

fn names() -> Vec<String> {
    ["*.ns.svc", "db.example.com"].map(str::to_owned).to_vec()
}

#[test]
fn one_that_is_due_is_told_when_the_controller_had_its_time() {
    for (days, told) in [(31, false), (30, false), (29, true), (1, true)] {
        assert_eq!(!after_to(|patient| left(patient, "db-tls", days, 90)).is_empty(), told, "{days} days");
    }
    for (days, told) in [(366, false), (365, false), (364, true)] {
        assert_eq!(!after_to(|patient| left(patient, "db-ca", days, 3650)).is_empty(), told, "{days} days");
    }
    insta::assert_snapshot!(after_to(|patient| left(patient, "db-tls", 20, 90)), @"
    Warning CertificateNotRenewed: the certificate in Secret db-tls ends in 20d and is not renewed | dbctl renews its own certificates with a third of their life left, and the authority with a tenth; once one has ended, clients that check it and replicas that connect anew are refused, and sessions go on | 2026-11-12T10:10:00Z
      $ dbctl events db
    ");
    insta::assert_snapshot!(after_to(|patient| {
        left(patient, "db-tls", -1, 90);
        told(patient, "UpToDate", "False", "CertificateExpired", "m");
        change(patient, Kind::Pod, "db-1", json!({ "metadata": { "annotations": { "status": json!({ "role": "replica", "state": "running" }).to_string() } } }));
    }), @"
    Problem CertificateExpired: the certificate in Secret db-tls has expired | dbctl renews its own certificates with a third of their life left, and the authority with a tenth; once one has ended, clients that check it and replicas that connect anew are refused, and sessions go on | 2026-11-21T10:10:00Z
      so db-1 does not stream from db-0
      $ dbctl events db
    ");
}

#[test]
fn what_does_not_renew_them_is_the_cause() {
    insta::assert_snapshot!(after(|evidence| {
        left(&mut evidence.databases[0], "db-tls", 10, 90);
        evidence.cluster.controllers = Some(Controllers::default());
    }), @"
    Problem ControllerMissing: no controller is seen in dbctl-system: no Lease, no Deployment | Patroni goes on electing primaries; changes, upgrades, restores and deletions wait
      so the certificate in Secret db-tls ends in 10d and is not renewed
      $ dbctl install --wait
    ");
    insta::assert_snapshot!(after_to(|patient| {
        left(patient, "db-tls", 10, 90);
        patient.database.metadata.annotations.get_or_insert_default().insert("db.example.com/paused".into(), "true".into());
    }), @"
    Warning Paused: dbctl is paused for db (db.example.com/paused=true): it changes nothing | Patroni goes on electing primaries; schedules of backups rest | 2026-11-22T10:08:00Z
      so the certificate in Secret db-tls ends in 10d and is not renewed
      $ dbctl resume db
    ");
    insta::assert_snapshot!(after_to(|patient| {
        broken(patient, "db-ca", "has no tls.key");
        left(patient, "db-tls", -1, 90);
        told(patient, "UpToDate", "False", "CertificateUnusable", "m");
    }), @"
    Problem AuthorityUnusable: Secret db-ca has no tls.key | no certificate can be renewed by it, and dbctl replaces no authority that clients trust: restore the Secret from a copy; only without one, delete it, and clients have to be told of the next | 2026-11-22T10:08:00Z
      so the certificate in Secret db-tls has expired
      $ kubectl describe secret db-ca
    ");
}

#[test]
fn one_that_is_missing_or_cannot_be_used_is_told() {
    insta::assert_snapshot!(after_to(|patient| {
        patient.certificates.insert("db-ca".into(), None);
        patient.certificates.insert("db-tls".into(), None);
        waits(patient, "db-2", json!({ "waiting": { "reason": "ContainerCreating" } }), json!({}));
    }), @"
    Problem CertificateMissing: Secret db-tls with the server's certificate is not there | dbctl makes another within two minutes; until then, members that run go on, and none can start
      so db-2 is being started
      $ dbctl events db
    Warning AuthorityMissing: Secret db-ca with the database's authority is not there | dbctl makes another within two minutes; clients that check certificates have to be told of it
      $ dbctl events db
    ");
    insta::assert_snapshot!(after_to(|patient| {
        broken(patient, "db-tls", "has a tls.crt that is no certificate");
        patient.events.push(serde_json::from_value(json!({ "metadata": {}, "involvedObject": { "name": "db" }, "type": "Warning",
            "reason": "ReconcileFailed", "message": "failed to renew Secret db-tls: forbidden" })).unwrap());
    }), @"
    Problem CertificateUnusable: Secret db-tls has a tls.crt that is no certificate | failed to renew Secret db-tls: forbidden | 2026-11-22T10:08:00Z
      $ dbctl events db
    ");
    insta::assert_snapshot!(after_to(|patient| certificate(patient, "db-tls").signed_by = Some("other".into())), @"
    Problem CertificateNotTrusted: no authority in Secret db-ca has signed the certificate in Secret db-tls | clients that check it refuse to connect; dbctl makes another within two minutes | 2026-11-22T10:08:00Z
      $ dbctl events db
    ");
    insta::assert_snapshot!(after_to(|patient| certificate(patient, "db-tls").names.truncate(2)), @"
    Problem CertificateLacksNames: the certificate in Secret db-tls is not for db.ns.svc and 13 more names | clients with sslmode=verify-full refuse; dbctl makes another within two minutes | 2026-11-22T10:08:00Z
      $ dbctl events db
    ");
    insta::assert_snapshot!(after_to(|patient| certificate(patient, "db-tls").not_before = "2026-11-22T12:00:00Z".parse().unwrap()), @"
    Problem CertificateNotYetValid: the certificate in Secret db-tls is not valid before 2026-11-22T12:00:00Z | clocks differ, or it was made for later; until then, clients refuse it
      $ dbctl events db
    ");
}

#[test]
fn the_users_own_is_for_whoever_made_it() {
    let of = |days| made("mine", 90 - days, days, "ca", &names());
    for (days, told) in [(60, false), (15, false), (13, true)] {
        assert_eq!(after_to(|patient| own(patient, of(days))).contains("CertificateNotRenewed"), told);
    }
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, of(10));
    }), @"
    Warning CertificateNotRenewed: the certificate in Secret mine ends in 10d and is not renewed | it is not dbctl's: whoever made it renews it; once it has ended, clients that check it and replicas that connect anew are refused | 2026-11-18T10:10:00Z
      $ kubectl create secret generic mine --from-file=tls.crt --from-file=tls.key --from-file=ca.crt --dry-run=client -o yaml | kubectl apply -f -
    ");
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, of(-2));
        seen(patient, "mine").issued_for = Some("db-cert".into());
    }), @"
    Problem CertificateExpired: the certificate in Secret mine has expired | cert-manager made it for Certificate db-cert, and is to renew it; once it has ended, clients that check it and replicas that connect anew are refused | 2026-11-20T10:10:00Z
      $ kubectl describe certificate db-cert
    ");
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, of(60));
        seen(patient, "mine").held.trusted = vec![made("ca", 100, -3, "ca", &[])];
    }), @"
    Problem AuthorityExpired: the authority in Secret mine has expired | it is not dbctl's: whoever made it renews it; once it has ended, clients that check it and replicas that connect anew are refused | 2026-11-19T10:10:00Z
      $ kubectl create secret generic mine --from-file=tls.crt --from-file=tls.key --from-file=ca.crt --dry-run=client -o yaml | kubectl apply -f -
    ");
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, made("mine", 1, 89, "ca", &["db.example.com".to_owned()]));
    }), @"
    Note CertificateLacksNames: the certificate in Secret mine is for no name of Service db or db-ro | clients with sslmode=verify-full that connect by it are refused; members do not mind
    ");
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, of(60));
        broken(patient, "mine", "has no ca.crt");
        told(patient, "UpToDate", "False", "CertificateUnusable", "m");
    }), @"
    Problem CertificateUnusable: Secret mine of spec.tls.certificateSecret has no ca.crt | it is not dbctl's: whoever made it renews it; until then, members go on with what they have | 2026-11-22T10:08:00Z
      $ kubectl create secret generic mine --from-file=tls.crt --from-file=tls.key --from-file=ca.crt --dry-run=client -o yaml | kubectl apply -f -
    ");
}

#[test]
fn a_new_one_waits_for_the_users_own_and_not_for_dbctls() {
    let new = |patient: &mut Patient| {
        patient.database.status.as_mut().unwrap().phase = Some(crate::api::Phase::Pending);
        for name in ["db-leader", "db-sync", "db-config"] {
            patient.observed.remove(Kind::ConfigMap, name);
        }
        for name in ["db-0", "db-1", "db-2"] {
            patient.observed.remove(Kind::Pod, name);
        }
        told(patient, "Ready", "False", "CertificateUnusable", "m");
        told(patient, "Writable", "False", "NoLeader", "m");
    };
    insta::assert_snapshot!(after_to(|patient| {
        own(patient, authority());
        patient.certificates.insert("mine".into(), None);
        new(patient);
    }), @"
    Problem CertificateMissing: Secret mine of spec.tls.certificateSecret is not there | it is not dbctl's: whoever made it has to make it again; until then nothing of the database is made
      so db-0 has no pod
      so db-1 has no pod
      so db-2 has no pod
      $ kubectl create secret generic mine --from-file=tls.crt --from-file=tls.key --from-file=ca.crt
    ");
    let text = after_to(|patient| {
        patient.certificates = ["db-ca", "db-tls"].map(|name| (name.to_owned(), None)).into();
        new(patient);
        told(patient, "Ready", "False", "Creating", "m");
    });
    assert!(!text.contains("Certificate") && !text.contains("Authority"), "{text}");
}

#[test]
fn where_secrets_may_not_be_read_the_condition_tells() {
    insta::assert_snapshot!(after_to(|patient| {
        patient.certificates.clear();
        patient.unread.push(Unread { what: "Secrets".into(), why: "no".into(), forbidden: true });
        told(patient, "UpToDate", "False", "CertificateUnusable", "Secret \"db-ca\" has no tls.key");
    }), @r#"
    Problem CertificateUnusable: a certificate of db cannot be used | Secret "db-ca" has no tls.key | 2026-11-22T10:08:00Z
      $ dbctl status db -o wide
    Note MayNotRead: Secrets could not be read: what is wrong there is not told | no
    "#);
}

#[test]
fn of_one_that_goes_nothing_is_told() {
    let text = after_to(|patient| {
        patient.certificates.insert("db-tls".into(), None);
        patient.database.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    });
    assert!(!text.contains("Certificate"), "{text}");
}

/// Who is alerted finds the same here.
#[test]
fn the_alert_comes_when_this_does() {
    let rules = include_str!("../../../../manifests/monitoring/prometheusrule.yaml");
    let alert =
        rules.split("- alert: ").find(|alert| alert.starts_with("DatabaseCertificateExpiring")).unwrap();
    let days = crate::cli::doctor::certificates::ALERTED.as_secs() / 86_400;
    assert!(alert.contains(&format!("- time() < {days} * 86400")), "{alert}");
}
