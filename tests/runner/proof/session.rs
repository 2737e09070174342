//! A client's session, bounded on the client's own side: a frozen server never answers.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbctl::api::Names;
use dbctl::backup::server::Tls;
use k8s_openapi::api::core::v1::Secret;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Connection, NoTls, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(2500);

/// Whom to be.
#[derive(Clone, Debug)]
pub struct Login {
    pub user: String,
    pub password: String,
    pub database: String,
    /// How the server proves itself; without, nothing is encrypted.
    pub tls: Option<Tls>,
}

/// Whom the users of that database trust, as its Secret says.
pub async fn trusting(client: kube::Client, name: &str) -> Tls {
    let secrets = kube::Api::<Secret>::default_namespaced(client);
    let users = secrets.get(&Names(name).app_secret()).await.unwrap();
    Tls::trusting(&users.data.unwrap()["ca.crt"].0).unwrap()
}

/// What became of a write.
#[derive(Debug)]
pub enum Outcome {
    /// The commit was acknowledged.
    Acked { address: String, timeline: u32 },
    /// It was acknowledged, with a warning that no standby confirmed it.
    Unconfirmed,
    /// The server takes no writes; the session is fine.
    ReadOnly,
    /// Nobody knows. The session is of no use any more.
    Unknown(String),
}

/// A session that ends with this value.
#[derive(Debug)]
pub struct Session {
    client: Client,
    warned: Arc<AtomicBool>,
    _work: AbortOnDropHandle<()>,
}

impl Session {
    pub async fn open(address: SocketAddr, login: &Login) -> Result<Self, String> {
        let deadline = tokio::time::Instant::now() + CONNECT;
        let stream = tokio::time::timeout_at(deadline, TcpStream::connect(address)).await;
        let stream = stream.map_err(|_| "no TCP connection in time".to_owned())?;
        let stream = stream.map_err(|error| error.to_string())?;
        match tokio::time::timeout_at(deadline, Self::log_in(stream, login)).await {
            Ok(result) => result.map_err(|error| describe(&error)),
            Err(_) => Err("no answer to a new connection in time".to_owned()),
        }
    }

    async fn log_in(stream: TcpStream, login: &Login) -> Result<Self, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.user(&login.user).password(&login.password).dbname(&login.database);
        match &login.tls {
            None => {
                let (client, connection) = config.connect_raw(stream, NoTls).await?;
                Ok(Self::over(client, connection))
            }
            Some(tls) => {
                config.ssl_mode(SslMode::Require);
                let mut maker = MakeRustlsConnect::new((*tls.config()).clone());
                let with = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut maker, "localhost").unwrap();
                let (client, connection) = config.connect_raw(stream, with).await?;
                Ok(Self::over(client, connection))
            }
        }
    }

    fn over<S>(client: Client, mut connection: Connection<TcpStream, S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let warned = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&warned);
        let work = tokio::spawn(async move {
            // A notice is passed on before the answer that it belongs to.
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if matches!(&message, AsyncMessage::Notice(notice) if is_unconfirmed(notice)) {
                    flag.store(true, Ordering::SeqCst);
                }
            }
        });
        Self { client, warned, _work: AbortOnDropHandle::new(work) }
    }

    /// A statement's rows as text.
    pub async fn query(&self, sql: &str, within: Duration) -> Result<Vec<Vec<String>>, String> {
        let answer = tokio::time::timeout(within, self.client.simple_query(sql)).await;
        let messages =
            answer.map_err(|_| "no answer in time".to_owned())?.map_err(|error| describe(&error))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows
            .map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
            .collect())
    }

    /// One row, in a transaction of its own.
    pub async fn insert(&self, table: &str, writer: u32, n: u64) -> Outcome {
        // The segment's name begins with the timeline that this server writes.
        let sql = format!(
            "insert into {table} (writer, n) values ({writer}, {n}) \
             returning host(inet_server_addr()), left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)"
        );
        let answer = tokio::time::timeout(ANSWER, self.client.simple_query(&sql)).await;
        let messages = match answer {
            Ok(Ok(messages)) => messages,
            Ok(Err(error)) if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                return Outcome::ReadOnly;
            }
            Ok(Err(error)) => return Outcome::Unknown(describe(&error)),
            Err(_) => return Outcome::Unknown("no answer in time".to_owned()),
        };
        if self.warned.swap(false, Ordering::SeqCst) {
            return Outcome::Unconfirmed;
        }
        let row = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((row.get(0)?.to_owned(), u32::from_str_radix(row.get(1)?, 16).ok()?))
            }
            _ => None,
        });
        match row {
            Some((address, timeline)) => Outcome::Acked { address, timeline },
            None => Outcome::Unknown(format!("{messages:?}")),
        }
    }
}

/// A commit whose wait for a standby was cancelled is acknowledged all the same, with this warning.
fn is_unconfirmed(notice: &DbError) -> bool {
    notice.message().contains("canceling wait for synchronous replication")
}

fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(answer) => format!("{}: {}", answer.code().code(), answer.message()),
        None => match std::error::Error::source(error) {
            Some(source) => source.to_string(),
            None => error.to_string(),
        },
    }
}
