//! `dbctl agent post-bootstrap`: Patroni calls it once the database is made, to give the users their role and database.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use super::passwords::{self, UNHEARD};
use super::restoring::Note;
use crate::patroni::APP_NAME;

/// Why the role and database were not made. Patroni then takes the whole bootstrap for failed, and tries again.
#[derive(Debug, thiserror::Error)]
pub enum PostBootstrapError {
    /// The pod has no password for it.
    #[error("find the password of role {APP_NAME} in the pod")]
    NoPassword,
    /// psql could not be run.
    #[error("run psql: {0}")]
    Run(#[from] io::Error),
    /// The note of a restore, which is over by now.
    #[error("remove the restore's note: {0}")]
    Note(io::Error),
    /// psql said no; its words are in the log.
    #[error("make role and database {APP_NAME}: psql ended with {0}")]
    Failed(std::process::ExitStatus),
}

/// Makes role and database, where they are not there yet.
///
/// # Errors
/// Where psql cannot be run or fails.
pub fn post_bootstrap(connection: &str) -> Result<(), PostBootstrapError> {
    let password = passwords::here(APP_NAME).ok_or(PostBootstrapError::NoPassword)?;
    // On standard input, since arguments can be seen by everybody on the machine.
    let mut psql = Command::new("psql")
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--dbname", connection])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    if let Some(mut stdin) = psql.stdin.take() {
        stdin.write_all(script(APP_NAME, &password).as_bytes())?;
    }
    let status = psql.wait()?;
    if !status.success() {
        return Err(PostBootstrapError::Failed(status));
    }
    // What is there is a database from now on.
    match std::env::var_os("PGDATA") {
        Some(data) => Note::remove(Path::new(&data)).map_err(PostBootstrapError::Note),
        None => Ok(()),
    }
}

/// The statements. The password reaches no log, whatever the settings.
fn script(name: &str, password: &str) -> String {
    let (role, literal, secret) = (identifier(name), literal(name), literal(password));
    format!(
        "{UNHEARD}\
         SELECT 'CREATE ROLE {role}' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal}) \\gexec\n\
         ALTER ROLE {role} LOGIN PASSWORD {secret};\n\
         SELECT 'CREATE DATABASE {role} OWNER {role}' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = {literal}) \\gexec\n"
    )
}

pub(super) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// `E''` so that a backslash means the same whatever `standard_conforming_strings` says.
pub(super) fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_what_it_is_given() {
        assert_eq!(literal(r"a'b\c"), r"E'a''b\\c'");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        let script = script("app", "it's");
        assert!(script.contains(r#"ALTER ROLE "app" LOGIN PASSWORD E'it''s';"#), "{script}");
        assert_eq!(script.matches("WHERE NOT EXISTS").count(), 2);
    }
}
