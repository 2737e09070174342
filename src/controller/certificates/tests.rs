use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::{Content, Pair, make};
use crate::certified::held;
use crate::plan::{CERTIFICATE, CROSS, KEY, TRUSTED};

fn at(day: i64) -> Timestamp {
    "2026-11-22T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * day)
}

fn pair(content: &Content) -> Pair<'_> {
    Pair { certificate: &content[CERTIFICATE], key: &content[KEY] }
}

fn names() -> Vec<String> {
    ["db", "db.shop.svc", "*.db-headless.shop.svc", "localhost"].map(str::to_owned).to_vec()
}

fn server(authority: &Content, day: i64) -> Content {
    let mut made = make::server("db", &names(), at(day), &pair(authority), &authority[CROSS]).unwrap();
    made.insert(TRUSTED.to_owned(), authority[TRUSTED].clone());
    made
}

fn data(content: &Content) -> BTreeMap<String, ByteString> {
    content.iter().map(|(key, value)| (key.clone(), ByteString(value.clone().into_bytes()))).collect()
}

/// What a client with `verify-full` that trusts `trusted` says of it.
fn verify(server: &Content, trusted: &str, name: &str, day: i64) -> Result<(), String> {
    let all = |text: &str| -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::unwrap).collect()
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(all(trusted));
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(default_provider()));
    let (chain, now) = (all(&server[CERTIFICATE]), at(day).as_second().unsigned_abs());
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let said = verifier.build().unwrap().verify_server_cert(&chain[0], &chain[1..], &name, &[], now);
    said.map(drop).map_err(|error| error.to_string())
}

#[test]
fn what_is_made_is_what_a_client_accepts_and_what_is_read_of_it_is_so() {
    let authority = make::authority("db", at(0), None, "").unwrap();
    let server = server(&authority, 1);
    for name in ["db", "db.shop.svc", "db-2.db-headless.shop.svc", "localhost"] {
        verify(&server, &authority[TRUSTED], name, 2).unwrap();
    }
    assert!(verify(&server, &authority[TRUSTED], "other", 2).is_err());
    assert!(verify(&server, &authority[TRUSTED], "db", 92).is_err());
    let other = make::authority("db", at(0), None, "").unwrap();
    assert!(verify(&server, &other[TRUSTED], "db", 2).is_err());

    let (by, found) = (held(&data(&authority)), held(&data(&server)));
    assert_eq!((&by.problem, &found.problem), (&None, &None));
    let (by, found) = (by.certificate.unwrap(), found.certificate.unwrap());
    assert_eq!(found.names, names());
    assert_eq!(
        (found.signed_by.as_ref(), by.signed_by.as_ref()),
        (Some(&by.fingerprint), Some(&by.fingerprint))
    );
    assert_eq!(found.not_after, at(91));
    assert_eq!(by.not_after, at(3650));
    assert!(!found.serial.is_empty() && found.serial != by.serial);
}

/// The keystone of a renewal: whoever trusts the former alone, the new one alone, or both, accepts what the new one signs.
#[test]
fn who_trusts_the_former_authority_trusts_what_the_next_one_signs() {
    let old = make::authority("db", at(0), None, "").unwrap();
    let new = make::authority("db", at(3300), Some(&pair(&old)), &old[TRUSTED]).unwrap();
    let server = server(&new, 3301);
    for trusted in [&old[TRUSTED], &new[CERTIFICATE], &new[TRUSTED]] {
        verify(&server, trusted, "db", 3302).unwrap();
    }
    let found = held(&data(&server));
    assert_eq!((found.problem, found.trusted.len()), (None, 2));
    // Before its renewal the server's certificate is the former's, and members that trust both accept it.
    let before = super::tests::server(&old, 3290);
    verify(&before, &new[TRUSTED], "db", 3302).unwrap();
    // Who has ended is trusted no more, and its signature is left out.
    let third = make::authority("db", at(6700), Some(&pair(&new)), &new[TRUSTED]).unwrap();
    let found = held(&data(&third));
    assert_eq!((found.problem, found.trusted.len()), (None, 2));
    assert!(!third[TRUSTED].contains(&old[CERTIFICATE]) && third[TRUSTED].contains(&new[CERTIFICATE]));
    let late = make::server("db", &names(), at(6949), &pair(&third), &third[CROSS]).unwrap();
    assert_eq!(late[CERTIFICATE].matches("BEGIN").count(), 1);
}

#[test]
fn a_certificate_never_outlives_its_authority() {
    let authority = make::authority("db", at(0), None, "").unwrap();
    let server = server(&authority, 3600);
    assert_eq!(held(&data(&server)).certificate.unwrap().not_after, at(3650));
}

#[test]
fn what_cannot_be_used_is_said() {
    let authority = make::authority("db", at(0), None, "").unwrap();
    let good = server(&authority, 1);
    let other = server(&make::authority("x", at(0), None, "").unwrap(), 1);
    let with = |key: &str, value: Option<&str>| {
        let mut content = good.clone();
        match value {
            Some(value) => drop(content.insert(key.to_owned(), value.to_owned())),
            None => drop(content.remove(key)),
        }
        let problem = held(&data(&content)).problem.unwrap_or_default();
        assert!(!problem.contains("BEGIN"), "{problem}");
        problem
    };
    for (key, value, says) in [
        (CERTIFICATE, None, "has no tls.crt"),
        (KEY, None, "has no tls.key"),
        (TRUSTED, Some(""), "has no ca.crt"),
        (CERTIFICATE, Some("x"), "has a tls.crt that is no certificate"),
        (TRUSTED, Some(good[KEY].as_str()), "has a ca.crt that is no certificate"),
        (
            KEY,
            Some(good[CERTIFICATE].as_str()),
            "has a tls.key that is no private key, or one with a passphrase",
        ),
        (KEY, Some(other[KEY].as_str()), "has a tls.key that is not that of its tls.crt"),
        (TRUSTED, Some(other[TRUSTED].as_str()), "has a tls.crt that no authority in its ca.crt has signed"),
    ] {
        assert_eq!(with(key, value), says);
    }
    assert_eq!(with("more", Some("x")), "");
}
