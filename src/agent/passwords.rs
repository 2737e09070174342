//! The passwords of the Secrets, in the data: what a database was left with by an earlier Database of its name, or comes from
//! another's backup, may know others, and they may be changed. A primary sets them over the local socket, where nobody needs
//! one, and only those that differ. Sessions that there are go on.

use std::collections::BTreeMap;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::bootstrap::{identifier, literal};
use super::member::Member;
use super::postmaster::is_primary;
use super::report::Rotations;
use super::security;
use crate::patroni::{APP_NAME, Lock, REPLICATION_USER, REWIND_USER, SUPERUSER};
use crate::plan::{file, internal};

/// How often it is looked whether this member has become the primary.
const PAUSE: Duration = Duration::from_secs(1);
/// A short query.
const PATIENCE: Duration = Duration::from_secs(10);

/// What roles are to have as passwords, and for which request they were last changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Wanted {
    roles: BTreeMap<String, String>,
    rotations: Rotations,
}

/// The roles whose passwords dbctl keeps: each with its file, and its variable in pods of before there were files.
const ROLES: [(&str, &str, &str); 4] = [
    (SUPERUSER, internal::SUPERUSER, "PATRONI_SUPERUSER_PASSWORD"),
    (REPLICATION_USER, internal::REPLICATION, "PATRONI_REPLICATION_PASSWORD"),
    (REWIND_USER, internal::REWIND, "PATRONI_REWIND_PASSWORD"),
    (APP_NAME, file::APP, "PATRONI_APP_PASSWORD"),
];

/// That role's password, as it is now: of the files, else of the environment.
pub(super) fn of(
    role: &str,
    files: Option<&Path>,
    variable: impl Fn(&str) -> Option<String>,
) -> Option<String> {
    let (_, name, fallback) = ROLES.into_iter().find(|(known, ..)| *known == role)?;
    let kept = files.and_then(|files| line(files, name));
    kept.or_else(|| variable(fallback)).filter(|password| !password.is_empty())
}

/// What a file says, without the end of its line: editors add one, and no password of a role can hold it everywhere.
pub(super) fn line(files: &Path, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(files.join(name)).ok()?;
    Some(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// The same for this process, which may be one that PostgreSQL or Patroni has started.
pub(super) fn here(role: &str) -> Option<String> {
    of(role, security::directory().as_deref(), |name| std::env::var(name).ok())
}

/// All of them.
fn wanted(files: Option<&Path>, variable: impl Fn(&str) -> Option<String>) -> Wanted {
    let password = |(role, ..): (&str, &str, &str)| Some((role.to_owned(), of(role, files, &variable)?));
    let rotation = |name: &str| line(files?, name);
    Wanted {
        roles: ROLES.into_iter().filter_map(password).collect(),
        rotations: Rotations {
            app: rotation(file::APP_ROTATION),
            internal: rotation(file::INTERNAL_ROTATION),
        },
    }
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

/// What keeps statements with passwords out of every log and view, whatever the database's settings; and what lets them be
/// carried out. A variable of an extension that is not loaded is no error.
/// <https://www.postgresql.org/docs/current/runtime-config-logging.html>
pub(super) const UNHEARD: &str = "SET log_statement = 'none';\n\
     SET log_min_duration_statement = -1;\n\
     SET log_min_duration_sample = -1;\n\
     SET log_transaction_sample_rate = 0;\n\
     SET log_min_error_statement = 'panic';\n\
     SET pg_stat_statements.track_utility = off;\n\
     SET default_transaction_read_only = off;\n\
     SET statement_timeout = 0;\n";

/// The statements. They wait for no replica, since none may be able to log in before.
fn script(roles: &[(&str, &str)]) -> String {
    let mut text =
        format!("{UNHEARD}SET password_encryption = 'scram-sha-256';\nSET synchronous_commit = 'local';\n");
    for (name, password) in roles {
        text.push_str(&format!("ALTER ROLE {} PASSWORD {};\n", identifier(name), literal(password)));
    }
    text
}

/// Looks for ever; each time that this member becomes the primary, or that passwords change, they are looked at once.
pub(super) async fn watch(member: Arc<Member>) {
    let mut done: Option<Wanted> = None;
    loop {
        tokio::time::sleep(PAUSE).await;
        // All of one moment, whatever changes meanwhile.
        let files = member.environment.security.as_deref().map(security::snapshot);
        let wanted = wanted(files.as_deref(), |name| std::env::var(name).ok());
        if !is_primary(&member.environment.data) {
            done = None;
            // Its Patroni logs in with these by now, and the primary's agent sees to the rest.
            member.rotated(wanted.rotations);
        } else if done.as_ref() != Some(&wanted) {
            // One that has just become the primary may have said so as a replica.
            member.rotated(Rotations::default());
            if settle(&member, &wanted.roles).await {
                member.rotated(wanted.rotations.clone());
                done = Some(wanted);
            }
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
    tracing::info!("the data knows other passwords of {} than the Secrets: they are set", names.join(", "));
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
    fn passwords_come_from_files_and_before_there_were_any_from_the_environment() {
        let of = |name: &str| match name {
            "PATRONI_SUPERUSER_PASSWORD" | "PATRONI_APP_PASSWORD" => Some(name.to_owned()),
            "PATRONI_REWIND_PASSWORD" => Some(String::new()),
            _ => None,
        };
        let names = |wanted: &Wanted| wanted.roles.keys().cloned().collect::<Vec<_>>();
        let before = wanted(None, of);
        assert_eq!(names(&before), ["app", "postgres"]);
        assert_eq!(before.rotations, Rotations::default());

        let files = tempfile::tempdir().unwrap();
        for (name, text) in
            [(internal::REPLICATION, "r"), (file::APP, "a"), (file::INTERNAL_ROTATION, "01ID")]
        {
            // By hand, with the end of a line.
            std::fs::write(files.path().join(name), format!("{text}\n")).unwrap();
        }
        let after = wanted(Some(files.path()), of);
        assert_eq!(names(&after), ["app", REPLICATION_USER, "postgres"]);
        assert_eq!((after.roles["app"].as_str(), after.roles[REPLICATION_USER].as_str()), ("a", "r"));
        assert_eq!(after.rotations, Rotations { app: None, internal: Some("01ID".to_owned()) });
    }
}
