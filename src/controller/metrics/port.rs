//! The connections of those who ask for metrics, with TLS or without. Whoever reaches the port can open some, so there are not
//! many at a time, and none that says nothing for long.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How many connections there are at a time; others wait.
const MOST: usize = 64;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, from the connection's begin or the request before.
const HEAD: Duration = Duration::from_secs(60);
/// How long to wait where no connection can be taken, for example for want of file descriptors.
const REST: Duration = Duration::from_secs(1);

/// Answers there until `stop`, then brings to an end what is under way.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ServerConfig>,
    router: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let tls = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
    let room = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    while let Some((stream, place)) = next(&listener, &room, &mut connections, &stop).await {
        let (tls, router, stop) = (tls.clone(), router.clone(), stop.clone());
        connections.spawn(async move {
            let _place = place;
            if let Err(error) = converse(stream, tls, router, stop).await {
                tracing::debug!(%error, "a connection for metrics ends");
            }
        });
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// The next connection, once there is room for it; none after `stop`.
async fn next(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    connections: &mut JoinSet<()>,
    stop: &CancellationToken,
) -> Option<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let accept = async {
        let place = Arc::clone(room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((stream, place)),
                Err(error) => {
                    tracing::debug!(%error, "no connection for metrics is taken");
                    sleep(REST).await;
                }
            }
        }
    };
    let mut accept = pin!(accept);
    loop {
        tokio::select! {
            accepted = &mut accept => return accepted,
            // What has ended is not kept.
            Some(_) = connections.join_next() => {}
            () = stop.cancelled() => return None,
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn converse(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Failure> {
    match tls {
        None => answer(stream, router, stop).await,
        Some(tls) => answer(timeout(HANDSHAKE, tls.accept(stream)).await??, router, stop).await,
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    stop: CancellationToken,
) -> Result<(), Failure> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}
