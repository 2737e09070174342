//! Connections to a server, and plain questions.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::error::{ServerError, garbage};
use super::frame::{LARGEST, text, values};
use super::login::{Login, Reply};
use super::tls::Tls;
use super::wire::{Stream, Wire};
use crate::backup::wal::position;

/// A TCP connection that was quiet for so long is probed, so often, and given up after so many probes without an answer.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(10);
const PROBES: u32 = 3;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// Host and port.
    Tcp(SocketAddr),
    /// The socket itself, `DIRECTORY/.s.PGSQL.PORT`.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

impl Address {
    async fn connect(&self, tls: Option<&Tls>) -> Result<Box<dyn Stream>, ServerError> {
        let failed = |source| ServerError::Connect { address: self.to_string(), source };
        let address = match self {
            Self::Tcp(address) => address,
            Self::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        };
        let stream = probed(*address).await.map_err(failed)?;
        Ok(match tls {
            Some(tls) => Box::new(tls.begin(stream, address.ip()).await?),
            None => Box::new(stream),
        })
    }
}

/// A connection that does not stay for ever where the other side is gone.
async fn probed(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    sockopt::set_socket_keepalive(&stream, true)?;
    sockopt::set_tcp_keepidle(&stream, PROBE_AFTER)?;
    sockopt::set_tcp_keepintvl(&stream, PROBE_EVERY)?;
    sockopt::set_tcp_keepcnt(&stream, PROBES)?;
    Ok(stream)
}

/// A server, and who we are to it.
#[derive(Clone)]
pub struct Target {
    /// Where it listens.
    pub address: Address,
    /// The role.
    pub user: String,
    /// Its password, for servers that want one.
    pub password: Option<String>,
    /// How it proves itself, over TCP; without, nothing is encrypted.
    pub tls: Option<Tls>,
    /// What the server shows of us in its views and its log.
    pub application_name: String,
}

/// Without the password: such values end up in logs.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}

/// What a connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Commands of the replication protocol, written in capitals, and no SQL.
    Replication,
    /// SQL.
    Sql {
        /// In this database.
        database: String,
    },
}

/// How long is waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Until the session is open.
    pub open: Duration,
    /// Between two signs of life while an answer is awaited. A base backup begins with a checkpoint, and with adding up the
    /// sizes of all files: the server says nothing meanwhile.
    pub silence: Duration,
}

/// The values of a row.
pub type Row = Vec<Option<String>>;

/// What a server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// What `initdb` gave the cluster.
    pub system_identifier: u64,
    /// The timeline it is on.
    pub timeline: u32,
    /// Up to where its WAL is on disk, in bytes; on a standby, what it received or replayed.
    pub position: u64,
    /// The database of the connection, if it is in one.
    pub database: Option<String>,
}

/// A session. Dropped, it ends, and with it whatever the server was doing for it.
pub struct Connection {
    pub(super) wire: Wire,
    major: u32,
    /// An answer is under way.
    asked: bool,
}

impl Connection {
    /// Opens a session.
    ///
    /// # Errors
    /// Where nobody answers in time, or the server does not let us in.
    pub async fn open(target: &Target, mode: &Mode, limits: Limits) -> Result<Self, ServerError> {
        let address = target.address.to_string();
        let opened = timeout(limits.open, async {
            let stream = target.address.connect(target.tls.as_ref()).await?;
            Self::over(stream, target, mode, limits.silence).await
        });
        match opened.await {
            Ok(opened) => opened,
            Err(_) => Err(ServerError::Late { address, limit: limits.open }),
        }
    }

    /// Opens a session over that.
    pub(super) async fn over(
        stream: Box<dyn Stream>,
        target: &Target,
        mode: &Mode,
        silence: Duration,
    ) -> Result<Self, ServerError> {
        let mut wire = Wire::new(stream, silence);
        let purpose = match mode {
            Mode::Replication => ("replication", "true"),
            Mode::Sql { database } => ("database", database.as_str()),
        };
        let name = ("application_name", target.application_name.as_str());
        let parameters = [("user", target.user.as_str()), purpose, name, ("client_encoding", "UTF8")];
        let mut bytes = BytesMut::new();
        frontend::startup_message(parameters, &mut bytes)
            .map_err(|error| ServerError::Login(error.to_string()))?;
        wire.send(&bytes).await?;
        let mut login = Login::new(target.password.as_deref());
        loop {
            match login.take(&wire.receive().await?)? {
                Reply::Wait => {}
                Reply::Send(bytes) => wire.send(&bytes).await?,
                Reply::Open => break,
            }
        }
        let major = major(wire.version().unwrap_or_default())?;
        Ok(Self { wire, major, asked: false })
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// Asks, and reads the answer: the rows of all statements.
    ///
    /// # Errors
    /// Where the server refuses (the connection stays usable), the answer is larger than 16 MiB or not text, or the
    /// connection fails.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Row>, ServerError> {
        self.ask(sql).await?;
        let answer = self.rows().await;
        if answer.as_ref().is_err_and(|error| error.report().is_some_and(|report| !report.is_fatal())) {
            // Where that fails, the connection is of no more use, and says so when it is asked again.
            let _ = self.settle().await;
        }
        answer
    }

    /// `IDENTIFY_SYSTEM`, for connections in the mode of replication.
    ///
    /// # Errors
    /// As [`Connection::query`].
    pub async fn identify(&mut self) -> Result<System, ServerError> {
        system(&self.query("IDENTIFY_SYSTEM").await?)
    }

    /// Sends a question.
    pub(super) async fn ask(&mut self, sql: &str) -> Result<(), ServerError> {
        if self.asked {
            return Err(ServerError::Unfinished);
        }
        let mut bytes = BytesMut::new();
        frontend::query(sql, &mut bytes).map_err(|error| ServerError::Options(error.to_string()))?;
        self.asked = true;
        self.wire.send(&bytes).await
    }

    /// Reads until the server is ready for the next question, after it refused one.
    pub(super) async fn settle(&mut self) -> Result<(), ServerError> {
        while !matches!(self.wire.receive().await?, Message::ReadyForQuery(_)) {}
        self.asked = false;
        Ok(())
    }

    async fn rows(&mut self) -> Result<Vec<Row>, ServerError> {
        let (mut rows, mut size) = (Vec::new(), 0);
        loop {
            match self.wire.receive().await? {
                Message::DataRow(body) => {
                    size += body.buffer().len();
                    if size > LARGEST {
                        return Err(garbage(format!("its answer has more than {LARGEST} bytes")));
                    }
                    let row = values(&body)?;
                    let row = row.iter().map(|value| value.as_deref().map(text).transpose());
                    let row: Result<Vec<_>, _> = row.collect();
                    rows.push(row?.into_iter().map(|value| value.map(str::to_owned)).collect());
                }
                Message::ReadyForQuery(_) => {
                    self.asked = false;
                    return Ok(rows);
                }
                Message::RowDescription(_) | Message::CommandComplete(_) | Message::EmptyQueryResponse => {}
                _ => return Err(garbage("its answer is not made of rows")),
            }
        }
    }
}

/// The first number of `18.6 (Debian 18.6-1)`, `19beta1`.
fn major(version: &str) -> Result<u32, ServerError> {
    let digits = version.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().map_err(|_| garbage(format!("its version is {version:?}")))
}

/// The answer to `IDENTIFY_SYSTEM`.
fn system(rows: &[Row]) -> Result<System, ServerError> {
    let read = || {
        let [row] = rows else { return None };
        let [Some(identifier), Some(timeline), Some(at), database] = row.as_slice() else { return None };
        Some(System {
            system_identifier: identifier.parse().ok()?,
            timeline: timeline.parse().ok()?,
            position: position(at)?,
            database: database.clone(),
        })
    };
    read().ok_or_else(|| garbage(format!("it calls itself {rows:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let cases = [("16.15", 16), ("18.6 (Debian 18.6-1.pgdg12+1)", 18), ("19beta1", 19), ("9.6.24", 9)];
        for (text, expected) in cases {
            assert_eq!(major(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "x", "-1", "99999999999.1"] {
            assert!(major(bad).is_err(), "{bad}");
        }
    }

    fn row(values: &[&str]) -> Row {
        values.iter().map(|value| (!value.is_empty()).then(|| (*value).to_owned())).collect()
    }

    #[test]
    fn a_server_says_who_it_is() {
        let found = system(&[row(&["7412345678901234567", "2", "0/3000148", ""])]).unwrap();
        let expected = System {
            system_identifier: 7_412_345_678_901_234_567,
            timeline: 2,
            position: 0x300_0148,
            database: None,
        };
        assert_eq!(found, expected);
        let bad: [&[Row]; 6] = [
            &[],
            &[row(&["1", "2", "0/3", ""]), row(&["1", "2", "0/3", ""])],
            &[row(&["1", "2", "0/3"])],
            &[row(&["", "2", "0/3", ""])],
            &[row(&["1", "x", "0/3", ""])],
            &[row(&["1", "2", "3", ""])],
        ];
        for rows in bad {
            assert!(matches!(system(rows), Err(ServerError::Garbage(_))), "{rows:?}");
        }
    }
}
