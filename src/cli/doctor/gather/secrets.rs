//! The Secrets of a database: whether they are there, and what certificates in them say. Nothing else of what is in them is kept.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{Notes, read};
use crate::api::Names;
use crate::certified;
use crate::cli::doctor::evidence::{Certified, Patient, Unread};
use crate::cli::session::Session;
use crate::plan::certificate_secrets;

/// The annotation by which cert-manager says for which Certificate it made a Secret.
const ISSUED_FOR: &str = "cert-manager.io/certificate-name";

/// Which Secrets are looked at.
pub struct Wanted {
    /// Those without which the database cannot run.
    needed: Vec<String>,
    /// Those with certificates.
    certified: Vec<String>,
}

/// What was seen of them.
pub struct Seen {
    needed: Result<BTreeMap<String, bool>, Unread>,
    certified: Result<BTreeMap<String, Option<Certified>>, Unread>,
}

impl Wanted {
    /// Those that a database wants.
    pub fn by(patient: &Patient) -> Self {
        let name = patient.database.name_any();
        let names = Names(&name);
        let backup = patient.database.spec.backup.as_ref().filter(|backup| backup.enabled);
        let mut needed = vec![names.internal_secret(), names.app_secret()];
        needed.extend(backup.and_then(|backup| backup.credentials_secret.clone()));
        Self { needed, certified: certificate_secrets(&patient.database, &patient.observed) }
    }

    /// Looks at them.
    pub async fn look(&self, session: &Session) -> Seen {
        let api: Api<Secret> = Api::namespaced(session.client.clone(), &session.namespace);
        let (needed, certified) = tokio::join!(
            // Of these, what is in them is nobody's business here.
            join_all(self.needed.iter().map(|name| read(api.get_metadata_opt(name)))),
            join_all(self.certified.iter().map(|name| read(api.get_opt(name)))),
        );
        Seen {
            needed: named(&self.needed, needed, |found| found.is_some()),
            certified: named(&self.certified, certified, |found| found.map(certificate)),
        }
    }
}

impl Seen {
    /// Puts it where it belongs. Whoever may read no Secret is told so once.
    pub fn note(self, patient: &mut Patient, notes: &mut Notes) {
        let none = matches!((&self.needed, &self.certified), (Err(one), Err(other)) if one.forbidden && other.forbidden);
        patient.secrets = notes.take("Secrets", self.needed).unwrap_or_default();
        if !none {
            patient.certificates =
                notes.take("Secrets with certificates", self.certified).unwrap_or_default();
        }
    }
}

/// What was found, by name; or why something was not read.
fn named<F, T>(
    names: &[String],
    found: Vec<Result<F, Unread>>,
    of: impl Fn(F) -> T,
) -> Result<BTreeMap<String, T>, Unread> {
    names.iter().zip(found).map(|(name, found)| Ok((name.clone(), of(found?)))).collect()
}

/// What a Secret says of its certificate. Its key goes no further.
fn certificate(mut secret: Secret) -> Certified {
    let held = certified::held(&secret.data.take().unwrap_or_default());
    let written = secret.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time.as_ref());
    let written = written.chain(&secret.metadata.creation_timestamp).map(|time| time.0).max();
    Certified { held, written, issued_for: secret.annotations().get(ISSUED_FOR).cloned() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use rcgen::generate_simple_self_signed;
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_secret_its_certificate_is_kept_and_no_key() {
        let made = generate_simple_self_signed(["db".to_owned()]).unwrap();
        let (certificate_text, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let mut secret: Secret = serde_json::from_value(json!({ "metadata": {
            "annotations": { ISSUED_FOR: "cert" }, "creationTimestamp": "2026-11-22T10:00:00Z",
            "managedFields": [{ "manager": "m", "time": "2026-11-22T10:05:00Z" }] } }))
        .unwrap();
        let data = [("tls.crt", &certificate_text), ("tls.key", &key), ("ca.crt", &certificate_text)];
        secret.data =
            Some(data.map(|(name, text)| (name.to_owned(), ByteString(text.clone().into_bytes()))).into());
        let seen = certificate(secret);
        assert_eq!(seen.held.problem, None);
        assert_eq!(seen.held.certificate.as_ref().unwrap().names, ["db"]);
        assert_eq!(seen.issued_for.as_deref(), Some("cert"));
        assert_eq!(seen.written, "2026-11-22T10:05:00Z".parse().ok());
        // No line of the key, nor of the certificate.
        let kept = format!("{seen:?}");
        assert!(key.lines().chain(certificate_text.lines()).all(|line| !kept.contains(line)), "{kept}");
    }
}
