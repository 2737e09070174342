//! `dbctl agent rehearse`: what the pod of a rehearsal runs, while the database serves. What pg_upgrade would refuse, it
//! refuses here: the running server's schema is made anew in an empty server of its release, and that one is upgraded.
//!
//! pg_upgrade can check a running server, but only from beside its data directory, and the pod there has no programs of the
//! new release. This sees more: a schema that the new release cannot be given fails here, and a check would not find it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::tool::{ToolError, output, program};
use super::upgrade::{Upgrade, UpgradeError, previous, upgrade};
use crate::agent::security::trusted;
use crate::api::PgVersion;
use crate::patroni::SUPERUSER;

/// How much more than the data an upgrade needs: the new system catalogs, WAL, and what is written until all is done.
const MARGIN: u64 = 256 << 20;
/// Of what went wrong, so many lines are told.
const LINES: usize = 3;

/// What is to be rehearsed.
#[derive(Clone, Debug)]
pub struct Rehearsal {
    /// Where the primary is.
    pub host: String,
    /// The release that runs.
    pub from: PgVersion,
    /// The release to go to.
    pub to: PgVersion,
    /// The room on that of the members' volumes that has least, in bytes, where it is known.
    pub free: Option<u64>,
    /// An empty directory.
    pub scratch: PathBuf,
    /// A directory with a short path.
    pub sockets: PathBuf,
}

/// Why the upgrade is not begun.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// A program.
    #[error(transparent)]
    Tool(#[from] ToolError),
    /// A file.
    #[error("write {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What came of it.
        source: io::Error,
    },
    /// Something that pg_upgrade does not carry over.
    #[error("upgrade this database: {0}")]
    Refused(String),
    /// There is not enough room.
    #[error(
        "upgrade this database: the data takes {data} bytes, and beside it each volume must have room for as much and a little \
         more, {needed} bytes, until all is done; the fullest has {free}: grow spec.storage.size first"
    )]
    Room {
        /// What the data takes.
        data: u64,
        /// What is needed.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// The schema cannot be made anew.
    #[error(
        "make the schema anew in an empty server of PostgreSQL {major}, of the image of the new release: {words}"
    )]
    Schema {
        /// The release.
        major: u8,
        /// What the server said.
        words: String,
    },
    /// The empty copy cannot be upgraded.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
}

/// What the running server says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Server {
    prepared: Vec<String>,
    slots: Vec<String>,
    tablespaces: Vec<String>,
    data: u64,
    segment: u64,
    checksums: bool,
    preload: String,
}

/// One line for each, so that a name may hold anything but a line's end.
const QUESTIONS: &str = "SELECT 'prepared ' || gid FROM pg_prepared_xacts UNION ALL \
    SELECT 'slot ' || slot_name FROM pg_replication_slots WHERE slot_type = 'logical' UNION ALL \
    SELECT 'tablespace ' || spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global') UNION ALL \
    SELECT 'data ' || sum(pg_database_size(oid)) FROM pg_database UNION ALL \
    SELECT 'segment ' || setting FROM pg_settings WHERE name = 'wal_segment_size' UNION ALL \
    SELECT 'checksums ' || setting FROM pg_settings WHERE name = 'data_checksums' UNION ALL \
    SELECT 'preload ' || setting FROM pg_settings WHERE name = 'shared_preload_libraries'";

impl Server {
    fn parse(text: &str) -> Self {
        let mut server = Self::default();
        for (what, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            match what {
                "prepared" => server.prepared.push(value.to_owned()),
                "slot" => server.slots.push(value.to_owned()),
                "tablespace" => server.tablespaces.push(value.to_owned()),
                "data" => server.data = value.parse().unwrap_or_default(),
                "segment" => server.segment = value.parse().unwrap_or_default(),
                "checksums" => server.checksums = value == "on",
                "preload" => value.clone_into(&mut server.preload),
                _ => {}
            }
        }
        server
    }

    /// What speaks against it.
    fn refusal(&self) -> Option<String> {
        let list = |names: &[String]| names.join(", ");
        if !self.prepared.is_empty() {
            return Some(format!(
                "prepared transactions are open ({}): commit them or roll them back, since no release reads another's",
                list(&self.prepared)
            ));
        }
        if !self.slots.is_empty() {
            return Some(format!(
                "there are logical replication slots ({}), which would be lost, and whoever reads from them would miss what is written \
                 after: drop them, and set their readers up anew afterwards",
                list(&self.slots)
            ));
        }
        (!self.tablespaces.is_empty()).then(|| {
            format!(
                "there are tablespaces ({}), which dbctl does not upgrade: move what is in them to pg_default",
                list(&self.tablespaces)
            )
        })
    }
}

fn room(data: u64, free: Option<u64>) -> Result<(), RehearseError> {
    let needed = data + data / 20 + MARGIN;
    match free {
        Some(free) if free < needed => Err(RehearseError::Room { data, needed, free }),
        _ => Ok(()),
    }
}

/// Rehearses it.
///
/// # Errors
/// Where the upgrade would fail, or that is not known.
pub async fn rehearse(with: &Rehearsal) -> Result<(), RehearseError> {
    let old = previous(with.from)?;
    let mut ask = client(with, None, "psql");
    ask.args(["--no-psqlrc", "--tuples-only", "--no-align", "--dbname", "postgres", "--command", QUESTIONS]);
    let server = Server::parse(&output("ask the primary", &mut ask).await?);
    if let Some(refusal) = server.refusal() {
        return Err(RehearseError::Refused(refusal));
    }
    room(server.data, with.free)?;
    tracing::info!("{} bytes of data; rehearsing from {} to {}", server.data, with.from, with.to);

    let schema = with.scratch.join("schema.sql");
    let mut dump = client(with, Some(&old), "pg_dumpall");
    dump.args(["--schema-only", "--no-role-passwords", "--database", "postgres", "--file"]).arg(&schema);
    output("read the schema with pg_dumpall", &mut dump).await?;
    let data = with.scratch.join("pgdata");
    make(with, &old, &server, &data, &schema).await?;
    let upgrade_ = Upgrade {
        id: "rehearsal".to_owned(),
        data,
        from: with.from,
        to: with.to,
        link: true,
        sockets: with.sockets.clone(),
        settings: preload(&server),
    };
    let made = upgrade(&upgrade_).await?;
    tracing::info!("the schema was upgraded to {} in {} ms", with.to, made.milliseconds);
    Ok(())
}

fn preload(server: &Server) -> Vec<(String, String)> {
    let some = (!server.preload.is_empty()).then(|| server.preload.clone());
    some.map(|libraries| ("shared_preload_libraries".to_owned(), libraries)).into_iter().collect()
}

fn client(with: &Rehearsal, directory: Option<&Path>, name: &str) -> Command {
    let mut command = program(directory, name);
    command.args(["--host", &with.host, "--username", SUPERUSER, "--no-password"]);
    command.env("PGPASSWORD", std::env::var_os("PATRONI_SUPERUSER_PASSWORD").unwrap_or_default());
    if let Some(trusted) = trusted() {
        command.env("PGSSLMODE", "verify-ca").env("PGSSLROOTCERT", trusted);
    }
    command.env("PGCONNECT_TIMEOUT", "10").env("PGAPPNAME", "dbctl rehearsal");
    command.env("PGOPTIONS", "-c statement_timeout=0 -c lock_timeout=10min");
    command
}

/// An empty server of the old release with the schema, shut down in order.
async fn make(
    with: &Rehearsal,
    old: &Path,
    server: &Server,
    data: &Path,
    schema: &Path,
) -> Result<(), RehearseError> {
    let mut initdb = program(Some(old), "initdb");
    initdb.arg("-D").arg(data).args(["--username", SUPERUSER, "--auth=trust", "--no-sync"]);
    initdb.args(["--encoding=UTF8", "--locale=C"]);
    if server.checksums {
        initdb.arg("--data-checksums");
    }
    if server.segment > 0 {
        initdb.arg(format!("--wal-segsize={}", server.segment >> 20));
    }
    output("make an empty server with initdb", &mut initdb).await?;
    let config = data.join("postgresql.auto.conf");
    let quoted = |text: &str| text.replace('\'', "''");
    let settings = format!(
        "listen_addresses = ''\nunix_socket_directories = '{}'\nfsync = off\nshared_preload_libraries = '{}'\n",
        quoted(&with.sockets.to_string_lossy()),
        quoted(&server.preload)
    );
    fs::write(&config, settings).map_err(|source| RehearseError::File { path: config.clone(), source })?;
    let control = |words: &[&str]| {
        let mut command = program(Some(old), "pg_ctl");
        command
            .arg("-D")
            .arg(data)
            .arg("-w")
            .args(["-t", "600"])
            .arg("-l")
            .arg(with.scratch.join("server.log"));
        command.args(words).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        command
    };
    let mut start = control(&["start"]);
    let started =
        start.status().await.map_err(|source| ToolError::Run { program: "pg_ctl".to_owned(), source })?;
    if !started.success() {
        let log = fs::read_to_string(with.scratch.join("server.log")).unwrap_or_default();
        return Err(RehearseError::Schema { major: with.from.major(), words: said(&log) });
    }
    let errors = fill(with, old, schema).await;
    let mut stop = control(&["-m", "fast", "stop"]);
    let stopped = stop.status().await;
    let errors = errors?;
    if !errors.is_empty() {
        return Err(RehearseError::Schema { major: with.from.major(), words: errors });
    }
    stopped.map_err(|source| ToolError::Run { program: "pg_ctl".to_owned(), source })?;
    // What pg_upgrade starts has its socket elsewhere.
    fs::write(&config, "").map_err(|source| RehearseError::File { path: config, source })
}

/// Runs the script; returns what went wrong.
async fn fill(with: &Rehearsal, old: &Path, schema: &Path) -> Result<String, RehearseError> {
    let errors = with.scratch.join("schema.log");
    let file = |path: &Path| {
        fs::File::create(path).map_err(|source| RehearseError::File { path: path.to_owned(), source })
    };
    let mut psql = program(Some(old), "psql");
    psql.arg("--host").arg(&with.sockets).args(["--username", SUPERUSER, "--no-psqlrc", "--quiet"]);
    psql.args(["--dbname", "postgres", "--file"]).arg(schema);
    psql.stdout(std::process::Stdio::null()).stderr(file(&errors)?);
    psql.status().await.map_err(|source| ToolError::Run { program: "psql".to_owned(), source })?;
    Ok(said(&fs::read_to_string(&errors).unwrap_or_default()))
}

/// The first errors; the superuser is there before the script makes it.
fn said(log: &str) -> String {
    let known = format!("role \"{SUPERUSER}\" already exists");
    let errors = log.lines().filter_map(|line| {
        let at = ["ERROR:", "FATAL:", "PANIC:"].into_iter().find_map(|level| line.find(level))?;
        line.get(at..)
    });
    let errors: Vec<&str> = errors.filter(|line| !line.contains(&known)).take(LINES).collect();
    errors.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_carried_over_is_refused() {
        let plain = "data 1000\nsegment 16777216\nchecksums on\npreload pg_stat_statements\n";
        let server = Server::parse(plain);
        assert_eq!(server.refusal(), None);
        assert_eq!((server.data, server.segment, server.checksums), (1000, 16 << 20, true));
        assert_eq!(preload(&server).first().map(|(_, value)| value.as_str()), Some("pg_stat_statements"));
        for (line, word) in [
            ("prepared a b\n", "prepared transactions are open (a b)"),
            ("slot s\n", "logical replication slots (s)"),
            ("tablespace fast\n", "tablespaces (fast)"),
        ] {
            let refusal = Server::parse(&format!("{plain}{line}")).refusal().unwrap();
            assert!(refusal.contains(word), "{refusal}");
        }
    }

    #[test]
    fn every_volume_must_have_room_for_both() {
        assert!(room(1 << 30, None).is_ok());
        assert!(room(1 << 30, Some(2 << 30)).is_ok());
        let error = room(1 << 30, Some(1 << 30)).unwrap_err().to_string();
        assert!(error.contains("grow spec.storage.size"), "{error}");
    }

    #[test]
    fn the_first_errors_are_told() {
        let log = "psql:schema.sql:14: ERROR:  role \"postgres\" already exists\n\
                   psql:schema.sql:90: ERROR:  extension \"foo\" is not available\nDETAIL:  no\n";
        assert_eq!(said(log), "ERROR:  extension \"foo\" is not available");
        assert_eq!(said("NOTICE:  x\n"), "");
    }
}
