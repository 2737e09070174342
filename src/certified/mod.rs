//! A certificate and its key as PEM, checked by those who are about to use them and those who say whether they could. `read` says what
//! a Secret with them is worth, without the key.

mod read;

pub use read::held;

use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

/// All certificates that there are, and at least one.
pub fn certificates(pem: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty())
}

/// What is wrong with a key. The parsers' own words could tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyProblem {
    /// It is none, or nobody can read it.
    Unreadable,
    /// It is another certificate's.
    Another,
}

/// Whether that is the key of the first of those certificates.
///
/// # Errors
/// Where it is not.
pub fn check_key(chain: Vec<CertificateDer<'static>>, key: &[u8]) -> Result<(), KeyProblem> {
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| KeyProblem::Unreadable)?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|_| KeyProblem::Another).map(drop)
}
