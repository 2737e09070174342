//! The certificate authority, which is kept, and the server's certificate, which is made anew at each start.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

use crate::sandbox::process::write_atomically;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long an authority is valid.
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// An authority with less than this left is replaced at a start, so that a server's certificate never outlives it.
const AUTHORITY_REST: Duration = Duration::from_secs(2 * 365 * 24 * 3600);
/// How long a server's certificate is valid.
const SERVER_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How old a server's certificate gets before it is replaced.
const SERVER_RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Their file.
    #[error("use {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// They cannot be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// They cannot be used.
    #[error("use a certificate: {0}")]
    Use(#[from] rustls::Error),
}

/// The authority that clients of this server trust. One file, written at once: key and certificate never differ.
#[derive(Clone, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// Its certificate, as PEM.
    pub certificate: String,
    key: String,
    /// Its distinguished name has a number, so that a new one is never taken for the old one.
    name: String,
    not_after: Timestamp,
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Authority").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Authority {
    /// The one kept in that file; a new one where there is none, or where it ends soon.
    ///
    /// # Errors
    /// Where the file cannot be read or written.
    pub fn open(path: &Path, now: SystemTime) -> Result<Self, TlsError> {
        let failed = |source| TlsError::File { path: path.to_owned(), source };
        match std::fs::read(path) {
            Ok(text) => {
                let kept: Self = serde_json::from_slice(&text).map_err(|error| failed(error.into()))?;
                if SystemTime::from(kept.not_after) > now + AUTHORITY_REST {
                    return Ok(kept);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let made = Self::make(now)?;
        let text = serde_json::to_vec(&made).map_err(|error| failed(error.into()))?;
        write_atomically(path, &text, 0o600).map_err(failed)?;
        Ok(made)
    }

    fn make(now: SystemTime) -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let end = now + AUTHORITY_LIFE;
        let not_after = Timestamp::try_from(end).unwrap_or(Timestamp::MAX);
        let name = format!("sandbox-ca@{}", Timestamp::try_from(now).unwrap_or_default().as_second());
        let params = authority_params(&name, now, end)?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, key: key.serialize_pem(), name, not_after })
    }

    fn sign(&self, names: Vec<String>, now: SystemTime) -> Result<(Certificate, KeyPair), TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = distinguished("kube-apiserver");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        // Clocks of clients differ a little.
        params.not_before = (now - DAY).into();
        params.not_after = (now + SERVER_LIFE).into();
        // What a signature takes of its issuer is the name and the key alone.
        let issuer = Issuer::new(authority_params(&self.name, now, now)?, KeyPair::from_pem(&self.key)?);
        Ok((params.signed_by(&key, &issuer)?, key))
    }
}

fn authority_params(name: &str, now: SystemTime, end: SystemTime) -> Result<CertificateParams, TlsError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = distinguished(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - DAY).into();
    params.not_after = end.into();
    Ok(params)
}

fn distinguished(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common);
    name
}

/// The server's certificate, replaced while it serves.
pub struct Certificates {
    authority: Authority,
    names: Vec<String>,
    current: RwLock<(Arc<CertifiedKey>, SystemTime)>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificates").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Certificates {
    /// A certificate for these names and addresses.
    ///
    /// # Errors
    /// Where one is no name, or no certificate can be made.
    pub fn new(authority: Authority, names: Vec<String>, now: SystemTime) -> Result<Self, TlsError> {
        let current = certified(&authority, &names, now)?;
        Ok(Self { authority, names, current: RwLock::new((current, now)) })
    }

    /// Replaces the certificate where it is old.
    ///
    /// # Errors
    /// Where no other one can be made; the old one stays.
    pub fn renew(&self, now: SystemTime) -> Result<bool, TlsError> {
        let made = self.current.read().unwrap_or_else(PoisonError::into_inner).1;
        // A clock that was set back counts as old, too.
        if now.duration_since(made).is_ok_and(|age| age < SERVER_RENEWAL) {
            return Ok(false);
        }
        let fresh = certified(&self.authority, &self.names, now)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (fresh, now);
        Ok(true)
    }

    /// Renews for as long as it is polled.
    pub async fn keep_fresh(self: Arc<Self>) {
        loop {
            tokio::time::sleep(DAY).await;
            if let Err(error) = self.renew(SystemTime::now()) {
                tracing::warn!("failed to {error}");
            }
        }
    }

    /// How TLS is spoken: HTTP/1.1, by the certificate of the moment.
    ///
    /// # Errors
    /// Where the protocol versions cannot be had.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).0))
    }
}

fn certified(
    authority: &Authority,
    names: &[String],
    now: SystemTime,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let (certificate, key) = authority.sign(names.to_vec(), now)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let chain = vec![certificate.der().clone()];
    Ok(Arc::new(CertifiedKey::from_der(chain, key, &ring::default_provider())?))
}

/// The names by which clients in a cluster know the API server, with the addresses at which it is.
pub fn names(addresses: impl IntoIterator<Item = IpAddr>, extra: &[String]) -> Vec<String> {
    let cluster = ["", ".default", ".default.svc", ".default.svc.cluster.local"];
    let mut names: Vec<String> = cluster.iter().map(|rest| format!("kubernetes{rest}")).collect();
    names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
    names.extend(addresses.into_iter().filter(|address| !address.is_unspecified()).map(|a| a.to_string()));
    names.extend_from_slice(extra);
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn an_authority_is_kept_private_until_it_ends_soon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.json");
        let now = SystemTime::now();
        let first = Authority::open(&path, now).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let same = Authority::open(&path, now + 7 * SERVER_LIFE).unwrap();
        assert_eq!(same.certificate, first.certificate);
        let next = Authority::open(&path, now + AUTHORITY_LIFE - AUTHORITY_REST + DAY).unwrap();
        assert_ne!(next.certificate, first.certificate);
        assert_ne!(next.name, first.name);
        assert!(!format!("{next:?}").contains("PRIVATE"));
    }

    #[test]
    fn a_damaged_file_is_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.json");
        std::fs::write(&path, "{").unwrap();
        let error = Authority::open(&path, SystemTime::now()).unwrap_err().to_string();
        assert!(error.starts_with("use ") && error.contains("ca.json"), "{error}");
    }

    #[test]
    fn a_certificate_is_replaced_when_it_is_old() {
        let now = SystemTime::now();
        let authority = Authority::make(now).unwrap();
        let certificates = Certificates::new(authority, vec!["localhost".to_owned()], now).unwrap();
        let current = || certificates.current.read().unwrap().0.cert[0].clone();
        let first = current();
        assert!(!certificates.renew(now + SERVER_RENEWAL - DAY).unwrap());
        assert_eq!(current(), first);
        assert!(certificates.renew(now + SERVER_RENEWAL).unwrap());
        assert_ne!(current(), first);
    }

    #[test]
    fn names_are_told_once() {
        let found = names(["127.5.0.1".parse().unwrap(), "0.0.0.0".parse().unwrap()], &["localhost".into()]);
        assert_eq!(found.iter().filter(|name| *name == "localhost").count(), 1);
        assert!(found.contains(&"127.5.0.1".to_owned()) && !found.contains(&"0.0.0.0".to_owned()));
        assert!(found.contains(&"kubernetes.default.svc".to_owned()));
    }
}
