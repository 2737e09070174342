//! Makes certificates.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::plan::{CERTIFICATE, CROSS, KEY, TRUSTED};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long a server's certificate is valid.
const SERVER_LIFE: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of clients differ a little.
const BEFORE: Duration = Duration::from_secs(3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum MakeError {
    /// It cannot be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// What it is made from cannot be read.
    #[error("read the authority's certificate: {0}")]
    Read(String),
}

/// A certificate and its key, both as PEM.
pub struct Pair<'a> {
    /// The certificate.
    pub certificate: &'a str,
    /// The key.
    pub key: &'a str,
}

impl<'a> Pair<'a> {
    fn issuer(&self) -> Result<Issuer<'a, KeyPair>, MakeError> {
        Ok(Issuer::from_ca_cert_pem(self.certificate, KeyPair::from_pem(self.key)?)?)
    }
}

/// What the Secret of an authority is to hold. With one before it, that signs the new one too, so that who trusts only the
/// former trusts what the new one signs. `trusted`: who stays trusted, as PEM; of those, who has not ended.
///
/// # Errors
/// Where the one before cannot be read.
pub fn authority(
    of: &str,
    now: Timestamp,
    before: Option<&Pair<'_>>,
    trusted: &str,
) -> Result<BTreeMap<String, String>, MakeError> {
    let (start, key) = (SystemTime::from(now), KeyPair::generate()?);
    let params = |end: SystemTime| -> Result<CertificateParams, MakeError> {
        let mut params = CertificateParams::new(Vec::new())?;
        // A new one is never taken for an old one.
        params.distinguished_name = distinguished(&format!("{of} {}", now.as_second()));
        // One below it: the next authority, where this one signs that.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (start - BEFORE).into();
        params.not_after = end.into();
        Ok(params)
    };
    let own = params(start + AUTHORITY_LIFE)?.self_signed(&key)?.pem();
    let cross = match before {
        Some(before) => {
            let end = end_of(before.certificate)?.min(start + AUTHORITY_LIFE);
            params(end)?.signed_by(&key, &before.issuer()?)?.pem()
        }
        None => String::new(),
    };
    let mut all = own.clone();
    for kept in CertificateDer::pem_slice_iter(trusted.as_bytes()).filter_map(Result::ok) {
        if end(&kept).is_some_and(|end| end > start) {
            all.push_str(&pem(&kept));
        }
    }
    let of = [(CERTIFICATE, own), (KEY, key.serialize_pem()), (TRUSTED, all), (CROSS, cross)];
    Ok(of.map(|(key, value)| (key.to_owned(), value)).into())
}

/// The server's certificate and key. `cross`: the authority's own certificate by the one before it, as PEM; empty without.
///
/// # Errors
/// Where the authority cannot be read, or one is no name.
pub fn server(
    of: &str,
    names: &[String],
    now: Timestamp,
    authority: &Pair<'_>,
    cross: &str,
) -> Result<BTreeMap<String, String>, MakeError> {
    let (start, key) = (SystemTime::from(now), KeyPair::generate()?);
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = distinguished(of);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (start - BEFORE).into();
    params.not_after = end_of(authority.certificate)?.min(start + SERVER_LIFE).into();
    let own = params.signed_by(&key, &authority.issuer()?)?.pem();
    // What has ended helps nobody.
    let lives = !cross.is_empty() && end_of(cross).is_ok_and(|end| end > start + DAY);
    let chain = if lives { format!("{own}{cross}") } else { own };
    let of = [(CERTIFICATE, chain), (KEY, key.serialize_pem())];
    Ok(of.map(|(key, value)| (key.to_owned(), value)).into())
}

fn distinguished(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "dbctl");
    name.push(DnType::CommonName, common);
    name
}

fn end(certificate: &CertificateDer<'_>) -> Option<SystemTime> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let end = Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()?;
    Some(end.into())
}

fn end_of(text: &str) -> Result<SystemTime, MakeError> {
    let der = CertificateDer::from_pem_slice(text.as_bytes())
        .map_err(|error| MakeError::Read(error.to_string()))?;
    end(&der).ok_or_else(|| MakeError::Read("it has no end".to_owned()))
}

/// RFC 7468: lines of 64 characters.
fn pem(der: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
}
