//! What Secrets with certificates hold.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use ring::digest;
use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::{KeyProblem, certificates, check_key};
use crate::plan::{CERTIFICATE, Certificate, Held, KEY, TRUSTED};

/// What the content of a Secret is worth: that there is a certificate, that the key is its own, and that one of the trusted
/// authorities has signed it. When it ends is not judged here.
pub fn held(data: &BTreeMap<String, ByteString>) -> Held {
    read(data).unwrap_or_else(|problem| Held { problem: Some(problem), ..Held::default() })
}

fn read(data: &BTreeMap<String, ByteString>) -> Result<Held, String> {
    let bytes = |key: &str| {
        let found = data.get(key).map(|value| value.0.as_slice()).filter(|value| !value.is_empty());
        found.ok_or_else(|| format!("has no {key}"))
    };
    let (chain, trusted, key) = (bytes(CERTIFICATE)?, bytes(TRUSTED)?, bytes(KEY)?);
    let chain = certificates(chain).ok_or_else(|| format!("has a {CERTIFICATE} that is no certificate"))?;
    let trusted = certificates(trusted).ok_or_else(|| format!("has a {TRUSTED} that is no certificate"))?;
    check_key(chain.clone(), key).map_err(|problem| match problem {
        KeyProblem::Unreadable => format!("has a {KEY} that is no private key, or one with a passphrase"),
        KeyProblem::Another => format!("has a {KEY} that is not that of its {CERTIFICATE}"),
    })?;
    let (links, authorities) = (parsed(&chain)?, parsed(&trusted)?);
    let signed_by = signer(&links, &authorities)
        .ok_or_else(|| format!("has a {CERTIFICATE} that no authority in its {TRUSTED} has signed"))?;
    let first = links.first().ok_or_else(|| format!("has no {CERTIFICATE}"))?;
    let of = |link: &Link<'_>| described(link, None);
    Ok(Held {
        certificate: Some(described(first, Some(signed_by))),
        trusted: authorities.iter().map(of).collect(),
        problem: None,
    })
}

/// A certificate, and all of its bytes.
struct Link<'a> {
    bytes: &'a [u8],
    parsed: X509Certificate<'a>,
}

fn parsed<'a>(all: &'a [CertificateDer<'static>]) -> Result<Vec<Link<'a>>, String> {
    let parse = |der: &'a CertificateDer<'static>| {
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|_| "has a certificate that cannot be read".to_owned())?;
        Ok(Link { bytes: der, parsed })
    };
    all.iter().map(parse).collect()
}

fn has_signed(by: &Link<'_>, of: &Link<'_>) -> bool {
    of.parsed.issuer() == by.parsed.subject()
        && of.parsed.verify_signature(Some(by.parsed.public_key())).is_ok()
}

/// The trusted authority that the chain leads to from its first certificate.
fn signer(chain: &[Link<'_>], trusted: &[Link<'_>]) -> Option<String> {
    let mut at = chain.first()?;
    for _ in chain {
        if let Some(by) = trusted.iter().find(|by| has_signed(by, at)) {
            return Some(fingerprint(by));
        }
        at = chain.iter().find(|by| has_signed(by, at))?;
    }
    None
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fingerprint(link: &Link<'_>) -> String {
    hexadecimal(digest::digest(&digest::SHA256, link.bytes).as_ref())
}

fn instant(time: ASN1Time) -> Timestamp {
    Timestamp::from_second(time.timestamp()).unwrap_or(Timestamp::MAX)
}

fn described(link: &Link<'_>, signed_by: Option<String>) -> Certificate {
    let validity = link.parsed.validity();
    let names = link.parsed.subject_alternative_name().ok().flatten();
    let names = names.into_iter().flat_map(|names| names.value.general_names.iter());
    Certificate {
        fingerprint: fingerprint(link),
        serial: hexadecimal(link.parsed.raw_serial()),
        not_before: instant(validity.not_before),
        not_after: instant(validity.not_after),
        names: names
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some((*name).to_owned()),
                _ => None,
            })
            .collect(),
        signed_by,
    }
}
