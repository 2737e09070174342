//! The passwords of the Secrets, in the data: what a database was left with by an earlier Database of its name, or comes from
//! another's backup, may know others. A primary sets them over the local socket, where nobody needs one, and only those that
//! differ.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::bootstrap::{identifier, literal};
use super::member::Member;
use super::postmaster::is_primary;
use crate::patroni::{APP_NAME, Lock, SUPERUSER};

/// How often it is looked whether this member has become the primary.
const PAUSE: Duration = Duration::from_secs(1);
/// A short query.
const PATIENCE: Duration = Duration::from_secs(10);

/// The roles whose passwords dbctl keeps, by the pod's environment.
fn wanted(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
    let users = ["SUPERUSER", "REPLICATION", "REWIND"].into_iter().filter_map(|of| {
        let name = variable(&format!("PATRONI_{of}_USERNAME"))?;
        Some((name, variable(&format!("PATRONI_{of}_PASSWORD"))?))
    });
    let app = variable("PATRONI_APP_PASSWORD").map(|password| (APP_NAME.to_owned(), password));
    users.chain(app).filter(|(_, password)| !password.is_empty()).collect()
}

/// Whether what PostgreSQL keeps of a password is that password's.
/// <https://www.postgresql.org/docs/current/catalog-pg-authid.html>
fn fits(kept: &str, password: &str) -> bool {
    let parse = || {
        let (parameters, keys) = kept.strip_prefix("SCRAM-SHA-256$")?.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored, _) = keys.split_once(':')?;
        let iterations: NonZeroU32 = iterations.parse().ok()?;
        Some((iterations, STANDARD.decode(salt).ok()?, STANDARD.decode(stored).ok()?))
    };
    let Some((iterations, salt, stored)) = parse() else { return false };
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let client = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &salted), b"Client Key");
    digest::digest(&digest::SHA256, client.as_ref()).as_ref() == stored
}

/// The roles among `kept` (lines of name, tab, what is kept) whose password is another.
fn differing<'w>(kept: &str, wanted: &'w BTreeMap<String, String>) -> Vec<(&'w str, &'w str)> {
    let lines = kept.lines().filter_map(|line| line.split_once('\t'));
    let other = lines.filter_map(|(name, kept)| {
        let (name, password) = wanted.get_key_value(name)?;
        (!fits(kept, password)).then_some((name.as_str(), password.as_str()))
    });
    other.collect()
}

/// The statements. They wait for no replica, since none may be able to log in before; and the passwords reach no log.
fn script(roles: &[(&str, &str)]) -> String {
    let mut text = "SET log_statement = 'none';\nSET log_min_duration_statement = -1;\nSET log_min_error_statement = 'panic';\n\
                    SET password_encryption = 'scram-sha-256';\nSET synchronous_commit = 'local';\n"
        .to_owned();
    for (name, password) in roles {
        text.push_str(&format!("ALTER ROLE {} PASSWORD {};\n", identifier(name), literal(password)));
    }
    text
}

/// Looks for ever; each time that this member becomes the primary, its passwords are looked at once.
pub(super) async fn watch(member: Arc<Member>) {
    let wanted = wanted(|name| std::env::var(name).ok());
    let mut done = false;
    loop {
        tokio::time::sleep(PAUSE).await;
        if !is_primary(&member.environment.data) {
            done = false;
        } else if !done {
            done = settle(&member, &wanted).await;
        }
    }
}

/// Sets what differs; whether nothing does any more.
async fn settle(member: &Member, wanted: &BTreeMap<String, String>) -> bool {
    // Patroni takes the lock of a new database once it has made the roles: two at them at once would fail.
    let lock = member.store.read("leader").await.map(|lock| Lock::of(&lock).holder);
    if !lock.is_ok_and(|holder| holder.as_ref() == Some(&member.environment.name)) {
        return false;
    }
    let names: Vec<String> = wanted.keys().map(|name| literal(name)).collect();
    let query = format!(
        "select rolname, coalesce(rolpassword, '') from pg_authid where rolname in ({}) and not pg_is_in_recovery()",
        names.join(", ")
    );
    let kept = psql(member, &["--field-separator", "\t", "--command", &query]).await;
    let Ok(kept) = kept else { return false };
    // In recovery, nothing is there to be looked at yet.
    if kept.trim().is_empty() {
        return false;
    }
    let roles = differing(&kept, wanted);
    if roles.is_empty() {
        return true;
    }
    let names: Vec<&str> = roles.iter().map(|(name, _)| *name).collect();
    tracing::info!(
        "the data knows other passwords of {} than the Secrets: they are set anew",
        names.join(", ")
    );
    let file = member.environment.sockets.join("passwords.sql");
    let _ = std::fs::remove_file(&file);
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)
        .and_then(|mut open| open.write_all(script(&roles).as_bytes()));
    let path = file.to_string_lossy();
    let set = match written {
        Ok(()) => psql(member, &["--set", "ON_ERROR_STOP=1", "--file", &path]).await,
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(&file);
    if let Err(error) = &set {
        tracing::warn!("failed to set passwords: {error}");
    }
    set.is_ok()
}

async fn psql(member: &Member, arguments: &[&str]) -> std::io::Result<String> {
    let sockets = member.environment.sockets.to_string_lossy();
    let mut command = Command::new("psql");
    command
        .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--host", &sockets])
        .args(["--username", SUPERUSER, "--dbname", "postgres"])
        .args(arguments)
        .env("PGCONNECT_TIMEOUT", "2");
    member.children.output(&mut command, PATIENCE).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PostgreSQL 16 made of `pencil` (the example of RFC 7677 has the same salt and count, and so the same keys).
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn a_password_is_told_from_another_by_what_is_kept_of_it() {
        assert!(fits(PENCIL, "pencil"));
        for (kept, password) in [
            (PENCIL, "pencils"),
            (PENCIL, ""),
            ("", "pencil"),
            ("md5d41d8cd98f00b204e9800998ecf8427e", "pencil"),
            ("SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$AA==:AA==", "pencil"),
            ("SCRAM-SHA-256$x", "pencil"),
        ] {
            assert!(!fits(kept, password), "{kept} {password}");
        }
    }

    #[test]
    fn only_what_differs_is_set_and_roles_that_are_not_there_are_not_made() {
        let wanted: BTreeMap<String, String> = [("app", "pencil"), ("postgres", "it's"), ("gone", "x")]
            .map(|(a, b)| (a.into(), b.into()))
            .into();
        let kept = format!("app\t{PENCIL}\npostgres\t{PENCIL}\nsomebody\t\n");
        let roles = differing(&kept, &wanted);
        assert_eq!(roles, [("postgres", "it's")]);
        let script = script(&roles);
        assert!(script.ends_with("ALTER ROLE \"postgres\" PASSWORD E'it''s';\n"), "{script}");
    }

    #[test]
    fn passwords_come_from_the_environment() {
        let of = |name: &str| match name {
            "PATRONI_SUPERUSER_USERNAME" => Some("postgres".to_owned()),
            "PATRONI_SUPERUSER_PASSWORD" | "PATRONI_APP_PASSWORD" => Some(name.to_owned()),
            "PATRONI_REWIND_USERNAME" => Some("dbctl_rewind".to_owned()),
            "PATRONI_REWIND_PASSWORD" => Some(String::new()),
            _ => None,
        };
        let names: Vec<String> = wanted(of).into_keys().collect();
        assert_eq!(names, ["app", "postgres"]);
    }
}
