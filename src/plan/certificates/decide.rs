//! When certificates are made, and when anew. Pure.

use jiff::{SignedDuration, Timestamp};

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of all of it, in hexadecimal digits.
    pub fingerprint: String,
    /// Its serial number, in hexadecimal digits.
    pub serial: String,
    /// From when it is valid.
    pub not_before: Timestamp,
    /// Until when it is valid.
    pub not_after: Timestamp,
    /// The DNS names that it is for.
    pub names: Vec<String>,
    /// The fingerprint of the authority, of those in the same Secret, that has signed it, if any has.
    pub signed_by: Option<String>,
}

/// What a Secret holds, as far as a plan may know it: no key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The certificate.
    pub certificate: Option<Certificate>,
    /// The authorities that are trusted.
    pub trusted: Vec<Certificate>,
    /// Why it cannot be used, after its name.
    pub problem: Option<String>,
}

/// What to do about the authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// Nothing.
    Keep,
    /// There is none.
    Make,
    /// It comes to its end: another one, signed by it, and both are trusted.
    Renew,
}

/// What to do about the server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Nothing.
    Keep,
    /// Make one, the first or the next.
    Make,
    /// Take over who is trusted.
    Trust,
}

/// A server's certificate is made anew with a third of its life left.
const SERVER_SHARE: i32 = 3;
/// An authority with a tenth: more than the life of what it signs, and long enough for clients to hear of the next.
const AUTHORITY_SHARE: i32 = 10;

/// From when no more than that share of its life is left. What does not end after it begins is due at its end.
fn due(certificate: &Certificate, share: i32) -> Timestamp {
    let life = certificate.not_after.duration_since(certificate.not_before).max(SignedDuration::ZERO);
    certificate.not_after.checked_sub(life / share).unwrap_or(Timestamp::MIN)
}

/// From when a server's certificate of dbctl's own is made anew.
pub fn server_due(certificate: &Certificate) -> Timestamp {
    due(certificate, SERVER_SHARE)
}

/// From when another authority is made in the place of that one.
pub fn authority_due(certificate: &Certificate) -> Timestamp {
    due(certificate, AUTHORITY_SHARE)
}

/// What is due. An authority that is there and cannot be read is nobody's to replace, since clients trust it.
pub fn decide(
    authority: Option<&Held>,
    server: Option<&Held>,
    names: &[String],
    now: Timestamp,
) -> (Authority, Server) {
    let first = match authority.map(|held| (&held.problem, &held.certificate)) {
        None => Authority::Make,
        Some((None, Some(certificate))) if authority_due(certificate) <= now => Authority::Renew,
        Some((None, Some(_))) => Authority::Keep,
        Some(_) => return (Authority::Keep, Server::Keep),
    };
    let trusted = authority.map(|held| held.trusted.as_slice()).unwrap_or_default();
    let second = match server.map(|held| (held, &held.problem, &held.certificate)) {
        Some((held, None, Some(certificate))) => {
            let same = |one: &[Certificate], other: &[Certificate]| {
                one.iter().all(|a| other.iter().any(|b| a.fingerprint == b.fingerprint))
            };
            let signed = |by: &String| trusted.iter().any(|trusted| trusted.fingerprint == *by);
            if server_due(certificate) <= now
                || !covers(&certificate.names, names)
                || first != Authority::Make && !certificate.signed_by.as_ref().is_some_and(signed)
            {
                Server::Make
            } else if first == Authority::Keep
                && !(same(&held.trusted, trusted) && same(trusted, &held.trusted))
            {
                Server::Trust
            } else {
                Server::Keep
            }
        }
        _ => Server::Make,
    };
    (first, second)
}

fn covers(has: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|name| has.contains(name))
}
