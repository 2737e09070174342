//! The certificate by which metrics are served: one of the user's own, from files, or one that is made at the start and that nobody
//! but this process has the key of.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::plan::{CERTIFICATE, KEY};

/// How often it is looked whether files have changed. A kubelet brings a change within a minute or so.
const PAUSE: Duration = Duration::from_secs(5);
/// Clocks of clients differ a little.
const BEFORE: Duration = Duration::from_secs(3600);
/// How long one that is made here is valid.
const LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// How old it gets before another is made.
const RENEWAL: Duration = Duration::from_secs(30 * 24 * 3600);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file of it.
    #[error("read {path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the files. The key is not told of.
    #[error("use the certificate in {path}: {why}", path = path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// None can be made.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// TLS cannot be spoken.
    #[error("speak TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Where a certificate is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Made here, for what listens at that address.
    Made(IpAddr),
    /// `tls.crt` and `tls.key` in that directory.
    Directory(PathBuf),
}

struct Current {
    key: Arc<CertifiedKey>,
    /// When it was made or read.
    since: SystemTime,
    /// By what it was read from, to see a change.
    content: Vec<u8>,
}

/// The certificate of the moment.
pub struct Certificate {
    source: Source,
    current: RwLock<Current>,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Certificate").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Certificate {
    /// From that source.
    ///
    /// # Errors
    /// Where there is none.
    pub fn open(source: Source, now: SystemTime) -> Result<Self, CertificateError> {
        let current = match &source {
            Source::Made(address) => Current { key: make(*address, now)?, since: now, content: Vec::new() },
            Source::Directory(path) => {
                let files = Files::read(path)?;
                Current { key: files.parse(path)?, since: now, content: files.content() }
            }
        };
        Ok(Self { source, current: RwLock::new(current) })
    }

    /// Takes another where the files hold another, or the one that was made is old; says whether it did.
    ///
    /// # Errors
    /// Where there is no other; the one before stays.
    pub fn refresh(&self, now: SystemTime) -> Result<bool, CertificateError> {
        let fresh = match &self.source {
            Source::Made(address) => {
                let since = self.current.read().unwrap_or_else(PoisonError::into_inner).since;
                // A clock that was set back counts as old, too.
                if now.duration_since(since).is_ok_and(|age| age < RENEWAL) {
                    return Ok(false);
                }
                Current { key: make(*address, now)?, since: now, content: Vec::new() }
            }
            Source::Directory(path) => {
                let files = Files::read(path)?;
                let content = files.content();
                if self.current.read().unwrap_or_else(PoisonError::into_inner).content == content {
                    return Ok(false);
                }
                Current { key: files.parse(path)?, since: now, content }
            }
        };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(true)
    }

    /// Refreshes for as long as it is polled. A failure is told once, until there is another or none.
    pub async fn keep_fresh(self: Arc<Self>) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(PAUSE).await;
            match self.refresh(SystemTime::now()) {
                Ok(true) => tracing::info!("metrics have another certificate"),
                Ok(false) => {}
                Err(error) => {
                    let text = error.to_string();
                    if told != text {
                        tracing::warn!("the certificate for metrics stays as it was: failed to {text}");
                    }
                    told = text;
                    continue;
                }
            }
            told.clear();
        }
    }

    /// How TLS is spoken: HTTP/1.1, by the certificate of the moment.
    ///
    /// # Errors
    /// Where the protocol versions cannot be had.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, CertificateError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions()?.with_no_client_auth();
        let mut config = builder.with_cert_resolver(Arc::<Self>::clone(self));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner).key))
    }
}

fn make(address: IpAddr, now: SystemTime) -> Result<Arc<CertifiedKey>, CertificateError> {
    let key = KeyPair::generate()?;
    let mut names = vec!["localhost".to_owned()];
    names.extend((!address.is_unspecified()).then(|| address.to_string()));
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "dbctl");
    params.distinguished_name.push(DnType::CommonName, "metrics of dbctl's controller");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.not_before = (now - BEFORE).into();
    params.not_after = (now + LIFE).into();
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Ok(Arc::new(CertifiedKey::from_der(vec![certificate.der().clone()], key, &default_provider())?))
}

/// What is in the directory.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Files {
    fn read(directory: &Path) -> Result<Self, CertificateError> {
        let read = |name: &str| {
            let path = directory.join(name);
            std::fs::read(&path).map_err(|source| CertificateError::File { path, source })
        };
        Ok(Self { certificate: read(CERTIFICATE)?, key: read(KEY)? })
    }

    fn content(&self) -> Vec<u8> {
        [&self.certificate, &self.key].map(|file| digest(&SHA256, file).as_ref().to_vec()).concat()
    }

    fn parse(&self, directory: &Path) -> Result<Arc<CertifiedKey>, CertificateError> {
        let unusable = |why| CertificateError::Unusable { path: directory.to_owned(), why };
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.certificate).collect();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        let chain = chain.ok_or_else(|| unusable("tls.crt is no certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key);
        // The error could tell of the key.
        let key = key.map_err(|_| unusable("tls.key is no private key, or one with a passphrase"))?;
        let pair = CertifiedKey::from_der(chain, key, &default_provider());
        Ok(Arc::new(pair.map_err(|_| unusable("tls.key is not that of tls.crt"))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn leaf(certificate: &Certificate) -> CertificateDer<'static> {
        certificate.current.read().unwrap().key.cert[0].clone()
    }

    fn write(directory: &Path, certificate: &str, key: &str) {
        std::fs::write(directory.join("tls.crt"), certificate).unwrap();
        std::fs::write(directory.join("tls.key"), key).unwrap();
    }

    fn pair() -> (String, String) {
        let made = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn one_that_is_made_is_made_anew_when_it_is_old() {
        let now = SystemTime::now();
        let certificate = Certificate::open(Source::Made(HERE), now).unwrap();
        let first = leaf(&certificate);
        assert!(!certificate.refresh(now + RENEWAL - PAUSE).unwrap());
        assert_eq!(leaf(&certificate), first);
        assert!(certificate.refresh(now + RENEWAL).unwrap());
        assert_ne!(leaf(&certificate), first);
        assert!(!format!("{certificate:?}").contains("key"));
    }

    #[test]
    fn files_are_read_again_when_they_change_and_what_is_unusable_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let (now, path) = (SystemTime::now(), directory.path());
        let source = || Source::Directory(path.to_owned());
        let missing = Certificate::open(source(), now).unwrap_err().to_string();
        assert!(missing.starts_with("read ") && missing.contains("tls.crt"), "{missing}");
        let ((one, one_key), (two, two_key)) = (pair(), pair());
        write(path, &one, &one_key);
        let certificate = Certificate::open(source(), now).unwrap();
        let first = leaf(&certificate);
        assert!(!certificate.refresh(now + 2 * LIFE).unwrap());
        for (text, key, why) in [
            (&two, &one_key, "tls.key is not that of tls.crt"),
            (&String::new(), &two_key, "tls.crt is no certificate"),
            (&two, &two, "tls.key is no private key"),
        ] {
            write(path, text, key);
            let error = certificate.refresh(now).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("BEGIN"), "{error}");
            assert!(Certificate::open(source(), now).is_err());
            assert_eq!(leaf(&certificate), first);
        }
        write(path, &two, &two_key);
        assert!(certificate.refresh(now).unwrap());
        assert_ne!(leaf(&certificate), first);
        assert!(!certificate.refresh(now).unwrap());
    }
}
